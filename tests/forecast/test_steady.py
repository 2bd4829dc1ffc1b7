"""A replica under constant load: the knee of memory, the floor of bandwidth, monotone times, and what they rest on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.facts import gpus, models
from mainspring.forecast.coefficients import Coefficients, builtin, nothing
from mainspring.forecast.setup import Setup
from mainspring.forecast.steady import steady
from mainspring.forecast.steps import decode_step, prefill


def setup(model: str, gpu: str, tp: int = 1, precision: str = "fp8", kv: str = "fp16", engine: str = "vllm") -> Setup:
    return Setup(models.find(model), gpus.find(gpu), tp, precision, kv, engine)


NIM = setup("llama-3.3-70b", "h100", 2, kv="fp8", engine="nim")
"""NVIDIA NIM 1.8, Llama-3.3-70B FP8 on 2 H100, measured at 5,000 tokens in and 500 out; nothing was fitted to it."""

CASE = setup("llama-3-70b", "h100", 4, "fp16")

CASES = [
    NIM,
    CASE,
    setup("llama-3.1-70b", "h100", 4),
    setup("llama-3.1-70b", "h200", 1, kv="fp8", engine="trtllm"),
    setup("qwen3-32b", "h100", 1, "bf16", engine="sglang"),
    setup("gpt-oss-120b", "b200", 2, "mxfp4", "fp8"),
    setup("deepseek-r1", "h200", 8, engine="sglang"),
    replace(setup("minimax-m2.5", "b200", 1, kv="fp8"), attention_dp=4, expert_parallel=4),
    setup("llama-3.1-8b", "l4", 1, "fp8"),
]


@pytest.mark.parametrize(
    ("concurrency", "ttft", "itl"), [(1, 0.407, 0.0186), (50, 0.835, 0.0597), (100, 8.0, 0.0929), (250, 88.6, 0.0932)]
)
def test_the_knee_of_memory(concurrency: int, ttft: float, itl: float) -> None:
    """Memory for some 90 sequences makes the time to the first token jump between 50 and 100 in flight, as measured."""
    told = steady(NIM, 5000, 500, concurrency, builtin())
    assert told.tpot == pytest.approx(itl, rel=0.25)
    if concurrency > 90:  # the knee is arithmetic of memory
        assert told.ttft == pytest.approx(ttft, rel=0.35)
    else:  # how long prompts queue is TensorRT-LLM's elsewhere: within twice the spread that is told
        assert told.ttft < 3.2 * ttft
    assert told.basis == "extrapolated"


def test_beyond_the_knee_only_the_wait_grows() -> None:
    """Once memory is full, more in flight neither runs nor answers more: it waits."""
    full, more = (steady(NIM, 5000, 500, count, builtin()) for count in (400, 800))
    assert full.binds == more.binds == "memory"
    assert more.running == pytest.approx(full.running, rel=0.01)
    assert more.requests == pytest.approx(full.requests, rel=0.02)
    assert more.ttft > 1.9 * full.ttft


def test_sixteen_bits_on_four_h100() -> None:
    """The case study's layout: 14.9 ms a token alone and 18.8 at 16 (aiconfigurator), never under bandwidth's 10.5."""
    one, sixteen = (steady(CASE, 500, 150, count, builtin()) for count in (1, 16))
    assert one.tpot > 0.0105
    assert one.tpot == pytest.approx(0.0149, rel=0.25)
    assert sixteen.tpot == pytest.approx(0.0188, rel=0.25)
    assert one.binds == "bandwidth"


@given(case=st.sampled_from(CASES), prompt=st.floats(16, 60_000), output=st.floats(1, 8_000))
@settings(max_examples=60)
def test_more_in_flight_is_never_faster_and_never_less(case: Setup, prompt: float, output: float) -> None:
    """Times and the rate never fall as requests in flight rise, at steps between the curve's nodes too."""
    told = [steady(case, prompt, output, 1.13**k, builtin()) for k in range(90)]
    for less, more in itertools.pairwise(told):
        assert more.tpot >= less.tpot * (1 - 1e-12)
        assert more.ttft >= less.ttft * (1 - 1e-12)
        assert more.requests >= less.requests * (1 - 1e-9)
        assert more.running >= less.running * (1 - 1e-12)


@given(
    case=st.sampled_from(CASES),
    prompt=st.floats(16, 60_000),
    more=st.floats(1.0, 4.0),
    output=st.sampled_from((1.0, 128.0, 1024.0)),
    concurrency=st.floats(1, 500),
)
@settings(max_examples=150)
def test_a_longer_prompt_never_answers_sooner(
    case: Setup, prompt: float, more: float, output: float, concurrency: float
) -> None:
    """The time to the first token never falls as the prompt grows."""
    short, long = (steady(case, size, output, concurrency, builtin()).ttft for size in (prompt, prompt * more))
    assert long >= short * (1 - 1e-9)


@given(case=st.sampled_from(CASES), faster=st.floats(1.0, 4.0), concurrency=st.floats(1, 300))
@settings(max_examples=60)
def test_more_bandwidth_is_never_slower(case: Setup, faster: float, concurrency: float) -> None:
    """The same GPU with more bandwidth makes tokens at least as fast."""
    better = replace(case, gpu=replace(case.gpu, bandwidth=case.gpu.bandwidth * faster))
    was, now = (steady(one, 1024, 256, concurrency, builtin()) for one in (case, better))
    assert now.tpot <= was.tpot * (1 + 1e-9)


@given(case=st.sampled_from(CASES), concurrency=st.floats(1, 5_000), output=st.floats(1, 4_000))
@settings(max_examples=60)
def test_littles_law(case: Setup, concurrency: float, output: float) -> None:
    """Requests in flight are the rate times the time of a request; what runs is at most what is in flight."""
    told = steady(case, 1024, output, concurrency, builtin())
    assert told.requests * told.end_to_end(output) == pytest.approx(concurrency)
    assert 0 < told.running <= concurrency


def test_an_unmeasured_group_is_never_faster_than_its_bandwidth() -> None:
    """A GPU that nobody measured makes no more tokens than its bandwidth can read weights for."""
    for name in ("T4", "L4", "A10G", "L40S", "A100", "RTX-4090", "MI300X"):
        case = setup("llama-3.1-8b", name, 1, "int4" if name == "T4" else "fp16")
        told = steady(case, 512, 128, 1, builtin())
        read = case.shape.weight_bytes(case.precision) - 2 * case.shape.lookup
        assert told.tpot >= read / case.gpu.bandwidth * (1 - 1e-9)
        assert told.basis == "assumed"


def test_bases() -> None:
    """A point that was measured says so; its neighbour is fitted, another engine extrapolated, another GPU assumed."""
    known = setup("llama-3.1-70b", "h100", 4)
    told = {
        "measured": steady(known, 921.6, 921.6, 16, builtin()),
        "fitted": steady(known, 1024, 1024, 20, builtin()),
        "extrapolated": steady(replace(known, engine="sglang"), 1024, 1024, 16, builtin()),
        "assumed": steady(replace(known, gpu=gpus.find("MI300X")), 1024, 1024, 16, builtin()),
    }
    assert {name: one.basis for name, one in told.items()} == {name: name for name in told}
    assert told["fitted"].spread < told["extrapolated"].spread < told["assumed"].spread
    assert "41 points of llama-3.1-70b on H100-SXM, vllm, fp8" in told["fitted"].rests[0].source
    assert "its gpu never measured" in told["assumed"].rests[0].source


def test_a_fine_tuned_model_is_its_shape() -> None:
    """A model of one's own with a measured shape is as well known as the measured one."""
    known = setup("llama-3.1-70b", "h100", 4)
    mine = replace(known, shape=replace(known.shape, name="assistant-2", source="mine"))
    assert steady(mine, 1000, 300, 16, builtin()).tpot == steady(known, 1000, 300, 16, builtin()).tpot


def test_a_prefix_cache_and_drafts_are_assumed() -> None:
    """Prompts found in the cache answer sooner, drafts make tokens faster; neither is measured, and both say so."""
    known = setup("llama-3.1-70b", "h100", 4)
    plain = steady(known, 4000, 500, 16, builtin())
    found = steady(known, 4000, 500, 16, builtin(), cached=0.5)
    guessed = steady(replace(known, draft=(4, 0.7, 0.02)), 4000, 500, 16, builtin())
    assert found.ttft < plain.ttft
    assert found.tpot < plain.tpot
    assert guessed.tpot < plain.tpot
    assert found.basis == guessed.basis == "assumed"


def test_a_burst_at_the_start_waits_longer() -> None:
    """Requests that come at once wait for half of the others: a tenth of them moves the mean by a twentieth."""
    known = setup("llama-3-70b", "h100", 4, "fp16")
    calm, ramp = (steady(known, 2000, 500, 32, nothing(), burst=share) for share in (0.0, 0.1))
    assert ramp.tpot == calm.tpot
    assert ramp.ttft - calm.ttft == pytest.approx(0.05 * 31 * prefill(known, 2000, nothing()), rel=0.15)


def test_drafts_by_the_formula() -> None:
    """With guesses for nothing and a step that bandwidth binds, time goes down by the tokens that a step keeps."""
    known = setup("llama-3-70b", "h100", 4, "fp16")
    guesses, accepted = 3, 0.8
    kept = (1 - accepted ** (guesses + 1)) / (1 - accepted)
    was, now = (steady(one, 128, 2000, 1, nothing()) for one in (known, replace(known, draft=(guesses, accepted, 0.0))))
    assert was.tpot / now.tpot == pytest.approx(kept, rel=0.1)


def test_a_slice_is_slower() -> None:
    """A MIG slice has its share of the bandwidth."""
    whole = setup("llama-3.1-8b", "h100", 1)
    assert steady(replace(whole, share=3 / 7), 512, 128, 4, builtin()).tpot > steady(whole, 512, 128, 4, builtin()).tpot


def test_far_outside_the_data_is_sane() -> None:
    """At a load that nothing like was measured at, times are positive, finite and of a sane size."""
    for case in CASES:
        for prompt, output, concurrency in ((1, 1, 1), (1, 1, 1e9), (1e6, 1e5, 1), (1e6, 1e5, 1e4), (16, 1e5, 500)):
            told = steady(case, prompt, output, concurrency, builtin())
            assert 0 < told.tpot < 60
            assert 0 < told.ttft < 1e13
            assert told.requests > 0


def test_steps_grow() -> None:
    """A step grows with its batch and its context, a prompt with its tokens, and less of it is read when cached."""
    known = builtin()
    assert decode_step(CASE, 1, 500, known) < decode_step(CASE, 64, 500, known) < decode_step(CASE, 64, 5000, known)
    assert prefill(CASE, 500, known) < prefill(CASE, 5000, known)
    assert prefill(CASE, 5000, known, cached=0.8) < prefill(CASE, 5000, known)


def test_reading_and_writing_coefficients() -> None:
    """The document of coefficients, read back, forecasts the same."""
    again = Coefficients.read(builtin().text())
    for case in CASES:
        assert steady(case, 1000, 300, 24, again).tpot == steady(case, 1000, 300, 24, builtin()).tpot
    assert again.text() == builtin().text()
