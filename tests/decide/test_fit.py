"""Fit: the numbers of the case study, refusals that carry them, and promises of the arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.fit import Fits, FitsGraph, Refusal, fit, fit_graph, groups
from mainspring.facts import gpus, mig
from mainspring.facts.gpus import Gpu
from mainspring.facts.shapes import Attention, Experts, GraphShape, ModelShape
from mainspring.facts.support import computes, supports, supports_cache
from mainspring.facts.visible import GIB, SHOWN, visible
from mainspring.forecast.memory import cache_tokens, room, sequence_bytes, weight_bytes
from mainspring.forecast.setup import Setup

LLAMA70 = ModelShape(
    "llama-3.3-70b",
    "llama",
    70_553_706_496,
    70_553_706_496,
    80,
    8192,
    128256,
    (Attention("full", 80, 64, 8, 128),),
    context=131072,
    high=2 * 128256 * 8192,
)
LLAMA8 = ModelShape(
    "llama-3.1-8b", "llama", 8_030_261_248, 8_030_261_248, 32, 4096, 128256, (Attention("full", 32, 32, 8, 128),)
)
FLOPS = {"fp16": 989e12, "fp8": 1979e12}
H100 = Gpu("H100-SXM", "Hopper", 80e9, 3.35e12, FLOPS, 450e9, "nvlink", 700, mig="H100-SXM")
A100 = Gpu("A100-80GB-SXM", "Ampere", 80e9, 2e12, {"fp16": 312e12}, 300e9, "nvlink", 400, mig="A100-80GB-SXM")
T4 = Gpu("T4", "Turing", 16e9, 3.2e11, {"fp16": 65e12}, 16e9, "pcie", 70)
RTX = Gpu("RTX-4090", "Ada", 24e9, 1e12, {"fp16": 165e12}, 32e9, "pcie", 450)


@pytest.mark.parametrize(
    ("tp", "gigabytes", "tokens", "sequences"), [(4, 153, 467e3, 373), (2, 6, 18e3, 14), (8, 447, 1.37e6, 1092)]
)
def test_the_case_study_on_paper(tp, gigabytes, tokens, sequences):
    """A 70B model at FP16 leaves what was worked out by hand: 153 GB and 373 sequences of 1,250 tokens on 4 H100."""
    there = room(Setup(LLAMA70, H100, tp))
    assert there.cache / 1e9 == pytest.approx(gigabytes, abs=0.5)
    assert there.cache_tokens == pytest.approx(tokens, rel=0.02)
    assert int(there.sequences(1250)) == sequences


def test_a_recorded_run_had_room_for_as_many_tokens():
    """A run of vLLM 0.19 gave Llama-3.1-8B 41,408 tokens on one RTX 4090, with chunks of 2,048 tokens."""
    assert cache_tokens(Setup(LLAMA8, RTX, chunk=2048)) == pytest.approx(41408, rel=0.01)


def test_the_refusal_says_the_numbers_and_what_is_nearest():
    """Two H100 leave 6 GB, which is 14 sequences; four, or FP8 weights, are nearest."""
    answer = fit(Setup(LLAMA70, H100, 2), 1250, 50)
    assert isinstance(answer, Refusal)
    assert answer.why.startswith(
        "141 GB of weights on 2 x 80 GB leaves 6 GB for the KV cache: 14 sequences of 1,250 tokens"
    )
    assert answer.sentence.endswith("nearest that fits: 4 x H100-SXM at FP16 or 2 x H100-SXM at FP8")
    fourteen = fit(Setup(LLAMA70, H100, 2), 1250, 14)
    assert isinstance(fourteen, Fits)
    assert fourteen.sequences == 14
    one = fit(Setup(LLAMA70, H100, 1), 1250)
    assert isinstance(one, Refusal)
    assert one.code == "weights"
    assert one.why.startswith("141 GB of weights on 1 x 80 GB leaves nothing for the KV cache")


def test_the_knee_of_two_h100_at_fp8_is_between_50_and_100():
    """Llama-3.3-70B in FP8 with an FP8 cache holds 50 requests of 5,000/500 tokens on two H100, not 100."""
    setup = Setup(LLAMA70, H100, 2, "fp8", "fp8")
    assert isinstance(fit(setup, 5500, 50), Fits)
    answer = fit(setup, 5500, 100)
    assert isinstance(answer, Refusal)
    assert answer.code == "cache"


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["fp16", "fp8", "int8", "int4"]),
    st.sampled_from(["fp16", "fp8"]),
    st.integers(100, 20000),
    st.integers(1, 400),
)
def test_what_fits_fits_and_what_is_nearest_fits(tp, precision, kv, length, sequences):
    """Fits means that weights, reserve, activations and the sequences stay below nine tenths; the nearest do fit."""
    setup = Setup(LLAMA70, H100, tp, precision, kv)
    answer = fit(setup, length, sequences)
    if isinstance(answer, Fits):
        one = answer.room
        held = one.weights + one.reserve + one.activations + answer.sequences * sequence_bytes(setup, length)
        assert held <= 0.9 * tp * visible(H100) * (1 + 1e-9)
        assert answer.sequences >= sequences
    else:
        assert all(isinstance(fit(other, length, sequences), Fits) for other in answer.nearest)
        most = Setup(LLAMA70, H100, 16, "int4", "fp8")
        assert bool(answer.nearest) == isinstance(fit(most, length, sequences), Fits)
        more = [other for other in answer.nearest if other.tp > tp]
        fewer = [replace(other, tp=other.tp // 2) for other in more]
        assert all(isinstance(fit(other, length, sequences), Refusal) for other in fewer)


@given(st.sampled_from([1, 2, 4, 8]), st.floats(1, 1e5), st.floats(1, 1e5))
def test_more_gpus_less_precision_and_shorter_sequences_never_hold_less(tp, one, other):
    """The cache grows with GPUs and shrinks with bytes, and longer sequences are never more."""
    small, large = sorted((one, other))
    setup = Setup(LLAMA70, H100, tp)
    assert room(setup).sequences(large) <= room(setup).sequences(small)
    assert room(replace(setup, tp=2 * tp)).cache > room(setup).cache
    assert room(replace(setup, precision="fp8")).cache > room(setup).cache
    assert room(replace(setup, kv="fp8")).sequences(one) >= room(setup).sequences(one)


def test_caches_that_are_kept_more_than_once():
    """Key heads repeat when there are more GPUs than heads; a latent is whole on each; a window stops growing."""
    setup = Setup(LLAMA70, H100, 8)
    assert sequence_bytes(replace(setup, tp=16), 1000) == pytest.approx(2 * sequence_bytes(setup, 1000))
    latent = replace(LLAMA70, attention=(Attention("latent", 61, 128, 0, 576, latent=576),))
    assert sequence_bytes(replace(setup, shape=latent), 1000) == pytest.approx(8 * 61 * 576 * 2 * 1000)
    window = replace(LLAMA70, attention=(Attention("window", 80, 64, 8, 128, window=128),))
    assert sequence_bytes(replace(setup, shape=window), 128) == sequence_bytes(replace(setup, shape=window), 9000)


def test_copies_of_attention_keep_experts_once():
    """With data-parallel attention all GPUs keep the rest of the weights, and the experts are spread."""
    moe = replace(LLAMA8, parameters=100_000_000_000, experts=Experts(32, 64, 4, 3800))
    setup = Setup(moe, H100, 1)
    experts = moe.routed * 2
    assert weight_bytes(replace(setup, attention_dp=8)) == pytest.approx(
        experts + 8 * (moe.weight_bytes("fp16") - experts)
    )


@pytest.mark.parametrize(("tp", "code"), [(3, "group"), (5, "group"), (64, None)])
def test_groups_divide_the_heads(tp, code):
    """Three GPUs can't share 64 heads, which is no matter of memory."""
    answer = fit(Setup(LLAMA70, H100, tp), 1250)
    assert (answer.code if isinstance(answer, Refusal) else None) == code
    assert groups(LLAMA70) == (1, 2, 4, 8, 16)


def test_slices():
    """An 8B model needs a slice of 3g at FP16, or INT4 on the smallest; slices never share a model."""
    small, middle = mig.profile("H100-SXM", "1g.10gb"), mig.profile("H100-SXM", "3g.40gb")
    refused = fit(Setup(LLAMA8, H100, chunk=2048), 1250, 8, small)
    assert isinstance(refused, Refusal)
    assert refused.sentence.endswith("nearest that fits: a slice of 3g.40gb or one 1g.10gb of H100-SXM at INT4")
    assert isinstance(fit(Setup(LLAMA8, H100, chunk=2048), 1250, 8, middle), Fits)
    two = fit(Setup(LLAMA8, H100, 2), 1250, 1, middle)
    assert isinstance(two, Refusal)
    assert two.code == "slice"


def test_context_is_the_models_own():
    """More tokens than the model takes is refused whatever the memory."""
    answer = fit(Setup(LLAMA70, H100, 8), 200_000)
    assert isinstance(answer, Refusal)
    assert (answer.code, answer.nearest) == ("context", ())


def test_other_models_on_slices_and_small_gpus():
    """A ranker of 400 MB fits the smallest slice; 12 GB of a vision model don't, and it says so; at INT8 they do."""
    small = mig.profile("H100-SXM", "1g.10gb")
    assert isinstance(fit_graph(GraphShape("ranker", 10**8, 4e8, 2e8, 1e7), H100, 32, small), FitsGraph)
    refused = fit_graph(GraphShape("vision", 6 * 10**9, 12e9, 2e12, 1e8), H100, 8, small)
    assert isinstance(refused, Refusal)
    assert (
        refused.why
        == "12 GB of weights and 905 MB for rows and runtime don't fit in the 9.4 GB that one 1g.10gb of H100-SXM gives"
    )
    half = fit_graph(GraphShape("vision", 6 * 10**9, 12e9, 2e12, 1e8), H100, 8, small, precision="int8")
    assert isinstance(half, FitsGraph)
    assert half.needed == pytest.approx(6e9 + 0.25 * 8 * 1e8 / 4 + 0.75 * GIB)
    assert isinstance(fit_graph(GraphShape("vision", 6 * 10**9, 12e9, 2e12, 1e8), T4, 8), FitsGraph)


@pytest.mark.parametrize(
    ("gpu", "precision", "engine", "runs"),
    [
        (H100, "fp8", "vllm", True),
        (A100, "fp8", "vllm", True),  # weights only, by Marlin
        (A100, "fp8", "sglang", False),
        (T4, "fp8", "vllm", False),
        (T4, "bf16", "vllm", False),
        (T4, "fp16", "vllm", True),
        (T4, "int4", "vllm", True),
        (H100, "fp4", "vllm", False),
        (H100, "mxfp4", "vllm", True),
        (A100, "mxfp4", "vllm", True),
        (T4, "mxfp4", "vllm", False),
    ],
)
def test_precisions_by_gpu(gpu, precision, engine, runs):
    """FP8 computes on Ada and later, NVFP4 on Blackwell, four bits of weights nearly anywhere."""
    why = supports(gpu, precision, engine)
    assert (why is None) is runs
    if why:
        assert gpu.name in why


def test_a_refused_precision_names_another_that_fits():
    """FP4 on Hopper is refused, with the nearest precision that runs and fits."""
    answer = fit(Setup(LLAMA70, H100, 2, "fp4"), 1250, 14)
    assert isinstance(answer, Refusal)
    assert answer.code == "precision"
    assert answer.nearest[0].precision == "int4"


def test_caches_and_units():
    """An FP8 cache needs FP8 units; weights below a GPU's units are multiplied in 16 bits."""
    assert supports_cache(H100, "fp8") is None
    assert supports_cache(A100, "fp8") is not None
    assert supports_cache(H100, "int4") is not None
    assert [computes(H100, one) for one in ("fp8", "mxfp4", "int4", "fp16")] == ["fp8", "fp16", "fp16", "fp16"]
    assert computes(A100, "fp8") == "fp16"


def test_the_catalogue_agrees():
    """Every GPU of the catalogue that can be split has profiles, and shows about the memory that it is sold with."""
    for gpu in gpus.catalogue().values():
        if gpu.mig:
            whole = mig.profiles(gpu.mig)[-1].memory
            assert 0.95 * visible(gpu) < whole < visible(gpu)
        assert 0.9 < visible(gpu) / gpu.memory < 1.08
    assert SHOWN["H100-SXM"] * 2**20 / GIB == pytest.approx(79.65, abs=0.01)
