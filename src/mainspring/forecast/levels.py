"""Who shares a coefficient with whom.

What this is: the levels that a setup belongs to, from everything down to its own group and version; a coefficient is
the sum of what is known at each. So a group without measurements has what its engine, its GPU and its precision have.
Who calls it: `coefficients.py`, `calibrate.py`, `terms.py`. What it must never do: hold a coefficient.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mainspring.facts.shapes import ModelShape
from mainspring.forecast.setup import Setup

ALIASES = {"tensorrt-llm": "trtllm", "tensorrtllm": "trtllm", "trt-llm": "trtllm", "trt": "trtllm", "nim": "trtllm"}
"""Other names of engines; NIM serves large models with TensorRT-LLM."""

UNSTATED = "unstated"
"""The version of measurements that don't say theirs."""

PRIOR: dict[str, float] = {
    "all": 1.0, "engine": 0.2, "gpu": 0.15, "arch": 0.2, "precision": 0.2, "model": 0.3, "kind": 0.4,
    "attention": 0.25, "engine+gpu": 0.1, "engine+precision": 0.15, "engine+model": 0.1, "engine+kind": 0.15,
    "gpu+kind": 0.12, "mode": 0.2, "release": 0.3, "group": 0.8, "version": 0.5,
}  # fmt: skip
"""How far a coefficient may lie from its parents', as the standard deviation of its logarithm, before data speaks.

Wide where few share a coefficient: groups differ by harness and recipe more than engines or GPUs do. Chosen by the
error at groups left out of the public measurements.
"""

OWN = ("group", "version")
"""Levels that measurements of one's own endpoint may move, on top of what is built in."""


def engine(name: str) -> str:
    """The one name of an engine."""
    lower = name.strip().lower()
    return ALIASES.get(lower, lower)


def precision(name: str) -> str:
    """Precisions that go through the same kernels count as one."""
    return {"bf16": "16", "fp16": "16", "mxfp4": "fp4"}.get(name, name)


@lru_cache(maxsize=1024)
def architecture(shape: ModelShape) -> str:
    """Names of the same shape (a fine-tuned model, R1 and V3) are one."""
    return f"{shape.family}-{shape.layers}x{shape.hidden}-{shape.parameters / 1e9:.0f}b"


@lru_cache(maxsize=1024)
def _attention(shape: ModelShape) -> str:
    return "+".join(sorted({part.kind for part in shape.attention}))


def group(setup: Setup) -> str:
    """Model, GPU, engine and precision: what is measured together."""
    return "|".join((architecture(setup.shape), setup.gpu.name, engine(setup.engine), precision(setup.precision)))


@lru_cache(maxsize=4096)
def levels(setup: Setup, version: str) -> tuple[str, ...]:
    """The levels of a setup, each `kind:name`; `version` as it is resolved."""
    shape, gpu = setup.shape, setup.gpu.name
    run, model, bits = engine(setup.engine), architecture(setup.shape), precision(setup.precision)
    kind = "dense" if shape.dense else "experts"
    mode = f"{run}|dp{int(setup.attention_dp > 1)}ep{int(setup.expert_parallel > 1)}"
    own = group(setup)
    return (
        "all:", f"engine:{run}", f"gpu:{gpu}", f"arch:{setup.gpu.arch.split(' ')[0]}", f"precision:{bits}",
        f"model:{model}", f"kind:{kind}", f"attention:{_attention(shape)}", f"engine+gpu:{run}|{gpu}",
        f"engine+precision:{run}|{bits}", f"engine+model:{run}|{model}", f"engine+kind:{run}|{kind}",
        f"gpu+kind:{gpu}|{kind}", f"group:{own}", f"version:{own}|{version}", f"mode:{mode}",
        f"release:{run}|{version}",
    )  # fmt: skip


def newest(versions: list[str]) -> str:
    """The newest of some versions, by the numbers in them; one that isn't stated is the oldest."""
    return max(versions, key=lambda one: (one != UNSTATED, [int(n) for n in re.findall(r"\d{1,9}", one)], one))
