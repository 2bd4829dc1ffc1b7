"""What a replica has to read, reckon and send, against sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mainspring.facts import gpus, models
from mainspring.forecast import communication, equations
from mainspring.forecast.setup import Setup
from mainspring.forecast.terms import read_bytes, terms

LLAMA = Setup(models.find("llama-3-70b"), gpus.find("h100"), tp=4, precision="fp16")
GPT = Setup(models.find("gpt-oss-120b"), gpus.find("h100"), tp=2, precision="mxfp4")


def test_weights_of_a_dense_model() -> None:
    """Every weight but the input table is read once a step: 139 GB over 4 x 3.35 TB/s is 10.4 ms."""
    t = terms(LLAMA, 500, 150)
    assert float(t.weights) == pytest.approx((141.1e9 - 2 * 128256 * 8192) / (4 * 3.35e12), rel=0.01)
    assert float(t.experts) == 0


def test_cache_of_a_dense_model() -> None:
    """A token keeps 2 x 80 x 8 x 128 elements, cut four ways."""
    t = terms(LLAMA, 500, 150)
    assert float(t.cache) == pytest.approx(575 * 2 * 80 * 8 * 128 * 2 / 4 / 3.35e12)


def test_a_window_and_a_latent_cache() -> None:
    """A window is read no further than it reaches; a latent cache is not cut by tensor parallelism."""
    short, long = (float(read_bytes(GPT, np.asarray(size))) for size in (100.0, 10_000.0))
    assert long / short == pytest.approx((10_000 + 128) / 200)
    deep = Setup(models.find("deepseek-v3"), gpus.find("h200"), tp=8, precision="fp8")
    assert float(terms(deep, 1000, 0).cache) == pytest.approx(61 * 576 * 2 * 1000 / 4.8e12)


def test_a_larger_batch_meets_more_experts() -> None:
    """A step of one token reads 4 of 128 experts; one of very many reads all, and no more."""
    t = terms(GPT, 100, 100)
    free = {name: np.asarray(0.0) for name in equations.NAMES} | {"weights": np.asarray(1.0)}
    few, all_, more = (float(equations.step(t, np.asarray(size), free)[0]) for size in (1.0, 1e4, 2e4))
    assert few == pytest.approx(float(t.weights + t.experts * 4 / 128))
    assert all_ == more == pytest.approx(float(t.weights + t.experts))


def test_one_gpu_says_nothing() -> None:
    """Without other GPUs there is no communication; with them it grows with their number."""
    assert communication.hops(replace(LLAMA, tp=1)) == 0
    assert communication.reduce_seconds(replace(LLAMA, tp=1)) == 0
    two, eight = (communication.reduce_seconds(replace(LLAMA, tp=count)) for count in (2, 8))
    assert two == pytest.approx(2 * 80 * 8192 * 2.0 / 450e9)
    assert eight == pytest.approx(two * 1.75)


def test_attention_of_a_prompt_is_quadratic() -> None:
    """Twice the prompt is four times the attention and twice the products; what is cached is not reckoned again."""
    one, two = terms(LLAMA, 1000, 1), terms(LLAMA, 2000, 1)
    assert float(two.attention / one.attention) == pytest.approx(4)
    assert float(two.prefill / one.prefill) == pytest.approx(2)
    half = terms(LLAMA, 2000, 1, cached=0.5)
    assert float(half.prefill) == pytest.approx(float(one.prefill))
    assert float(half.attention) == pytest.approx(float(two.attention - one.attention))


def test_a_prompt_longer_than_a_chunk_takes_steps() -> None:
    """A prompt of 20,000 tokens takes three steps of 8,192."""
    assert float(terms(LLAMA, 20_000, 1).chunks) == 3
    assert float(terms(replace(LLAMA, chunk=2048), 20_000, 1).chunks) == 10


def test_tensorrt_keeps_room_for_whole_outputs() -> None:
    """Sequences of vLLM take half of their output on average, those of TensorRT-LLM all of it."""
    vllm, trt = (terms(replace(LLAMA, engine=name), 1000, 400).sequence for name in ("vllm", "tensorrt-llm"))
    assert float(trt / vllm) == pytest.approx(1400 / 1200)
