"""What one replica has to read, reckon and send, in seconds at the speeds of the data sheet.

What this is: the arithmetic of a roofline, before any coefficient; pure. Who calls it: `forecast/equations.py` through
`steps.py`, `steady.py`, `calibrate.py`. What it must never do: hold a coefficient that is fitted.

Formulas: a weight is read once a step and costs two operations a token; a step of mixture-of-experts layers reads the
experts that its batch meets; causal attention over `n` tokens costs `2 n^2 / 2` products of a head's key and value
widths. A latent cache (multi-head latent attention) is on every GPU of a tensor-parallel group; key heads are cut
`min(tp, kv_heads)` ways.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mainspring.facts.shapes import BYTES, Attention, ModelShape
from mainspring.forecast import communication
from mainspring.forecast.levels import engine
from mainspring.forecast.memory import USED, Room, copies, room
from mainspring.forecast.setup import Setup

Floats = npt.NDArray[np.float64]

LATENT = 192 + 128
"""Key and value widths of a head with latent attention while a prompt is read (DeepSeek-V3: 128 + 64, and 128)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Numbers of one case each; all arrays that broadcast together. Seconds are of one GPU, at the sheet's speeds."""

    weights: Floats  # s to read the weights that every step reads
    experts: Floats  # s to read all routed experts
    chosen: Floats  # share of the routed experts that one token meets; 0 for a dense model
    compute: Floats  # s of matrix products for one token
    cache: Floats  # s to read the cache of one sequence, half of its output written
    hops: Floats  # exchanges of one step
    reduce: Floats  # s on a link for one token of a copy
    dispatch: Floats  # s on a link for one token to its experts
    layers: Floats
    copies: Floats  # of the attention part
    prefill: Floats  # s of matrix products for one prompt
    attention: Floats  # s of attention for one prompt, at FP16's speed
    prefill_link: Floats  # s on a link for one prompt
    chunks: Floats  # steps that one prompt takes
    output: Floats  # tokens
    room: Floats  # bytes for the cache
    memory: Floats  # bytes of all GPUs together
    sequence: Floats  # bytes that one sequence takes of the room
    tried: Floats  # tokens that one step puts through the model for each sequence
    gained: Floats  # of them that are kept, expected
    guess: Floats  # cost of guessing them, in steps
    burst: Floats  # share of the requests that came all at once, at the start


@dataclass(frozen=True, slots=True)
class _Fixed:
    """The part that no length changes."""

    weights: float
    experts: float
    chosen: float
    token: float
    speed: float  # bytes/s
    cut: float  # ways that a sequence's cache is cut
    half: float  # FP16 operations/s of all GPUs
    hops: float
    reduce: float
    dispatch: float
    room: Room
    pool: float
    whole: bool  # whether the engine keeps room for the whole output at once
    draft: tuple[float, float, float]


@lru_cache(maxsize=4096)
def _fixed(setup: Setup) -> _Fixed:
    shape, gpu, share = setup.shape, setup.gpu, setup.share
    routed = min(shape.routed * BYTES[setup.precision], shape.weight_bytes(setup.precision))
    always = shape.weight_bytes(setup.precision) - routed - shape.lookup * (2.0 if BYTES[setup.precision] <= 2 else 4.0)
    heads = max((part.kv_heads for part in shape.attention if part.kind in ("full", "window")), default=0)
    latent = any(part.kind == "latent" for part in shape.attention)
    has = room(setup)
    # vLLM and SGLang take a share of the whole; TensorRT-LLM a share of what is free once the model is loaded, and
    # keeps room for a request's whole output (its default scheduler never evicts).
    whole = engine(setup.engine) == "trtllm"
    free = has.total - has.weights - has.reserve - has.activations
    experts = shape.experts
    return _Fixed(
        weights=max(always, 0.0) / setup.tp / (gpu.bandwidth * share),
        experts=routed / setup.gpus / (gpu.bandwidth * share),
        chosen=experts.active / experts.count if experts else 0.0,
        token=2.0 * (shape.active - shape.lookup) / (setup.gpus * gpu.peak(setup.precision) * share),
        speed=gpu.bandwidth * share,
        cut=1.0 if latent else float(min(setup.tp, heads) if heads else setup.tp),
        half=setup.gpus * gpu.peak("fp16") * share,
        hops=communication.hops(setup),
        reduce=communication.reduce_seconds(setup),
        dispatch=communication.dispatch_seconds(setup),
        room=has,
        pool=USED * free if whole else has.cache,
        whole=whole,
        draft=_draft(setup.draft),
    )


def _draft(draft: tuple[int, float, float] | None) -> tuple[float, float, float]:
    """Tokens tried in a step, tokens kept, and the cost of guessing (Leviathan et al. 2023, equation 1)."""
    if draft is None or draft[0] < 1:
        return 1.0, 1.0, 0.0
    guesses, accepted, cost = draft
    kept = (1.0 - accepted ** (guesses + 1)) / (1.0 - accepted) if accepted < 1 else guesses + 1.0
    return guesses + 1.0, kept, guesses * cost


def terms(
    setup: Setup, prompt: float | Floats, output: float | Floats, cached: float = 0.0, burst: float = 0.0
) -> Terms:
    """The terms of requests of `prompt` and `output` tokens.

    `cached`: share of the prompt that needs no prefill; `burst`: share of the requests that came at once at the start.
    """
    f = _fixed(setup)
    long, out = np.asarray(prompt, float), np.asarray(output, float)
    new = np.maximum(long * (1.0 - cached), 1.0)
    held = long + (out if f.whole else out / 2.0)
    arr = np.asarray
    return Terms(
        weights=arr(f.weights), experts=arr(f.experts), chosen=arr(f.chosen), compute=arr(f.token),
        cache=read_bytes(setup, long + out / 2.0) / f.cut / f.speed,
        hops=arr(f.hops), reduce=arr(f.reduce), dispatch=arr(f.dispatch),
        layers=arr(float(setup.shape.layers)), copies=arr(float(setup.attention_dp)),
        prefill=f.token * new, attention=_attention(setup.shape, long, new) / f.half,
        prefill_link=new * (f.reduce / setup.attention_dp + f.dispatch),
        chunks=np.ceil(new / setup.chunk), output=out,
        room=arr(f.pool), memory=arr(f.room.total), sequence=np.maximum(_held_bytes(setup, held), 1.0),
        tried=arr(f.draft[0]), gained=arr(f.draft[1]), guess=arr(f.draft[2]),
        burst=arr(burst),
    )  # fmt: skip


def stack(cases: list[Terms]) -> Terms:
    """Many cases as one, each an element of the arrays."""
    return Terms(**{one.name: np.array([float(getattr(case, one.name)) for case in cases]) for one in fields(Terms)})


def _elements(part: Attention, tokens: Floats) -> Floats:
    """As `Attention.kept`, over arrays."""
    if part.kind == "linear":
        return np.full_like(tokens, part.layers * part.state)
    if part.kind == "latent":
        return part.layers * part.latent * tokens
    seen = np.minimum(tokens, part.window) if part.kind == "window" else tokens
    return part.layers * part.kv_heads * (part.head_dim + (part.value_dim or part.head_dim)) * seen


def _width(part: Attention, kv: str) -> float:
    return 2.0 if part.kind == "linear" else BYTES[kv]


def read_bytes(setup: Setup, context: Floats) -> Floats:
    """Bytes of cache that a step reads for one sequence of `context` tokens."""
    total = np.zeros_like(context)
    for part in setup.shape.attention:
        seen = np.minimum(context, part.reach) if part.reach else context
        total = total + _width(part, setup.kv) * _elements(part, seen)
    return total


def _held_bytes(setup: Setup, tokens: Floats) -> Floats:
    """Bytes of room that one sequence takes, over all GPUs of its copy."""
    total = np.zeros_like(tokens)
    for part in setup.shape.attention:
        total = total + _width(part, setup.kv) * _elements(part, tokens) * copies(part, setup.tp)
    return total


def _attention(shape: ModelShape, prompt: Floats, new: Floats) -> Floats:
    """Operations of attention for the `new` last tokens of a prompt."""
    before = prompt - new / 2.0  # tokens that a new one sees, on average
    total = np.zeros_like(prompt)
    for part in shape.attention:
        value = part.value_dim or part.head_dim
        wide = LATENT if part.kind == "latent" else part.head_dim + value
        if part.kind == "linear":
            total = total + 4.0 * part.layers * part.heads * part.head_dim * value * new
            continue
        limit = part.window or part.reach
        seen = np.minimum(before, limit) if limit else before
        total = total + 2.0 * part.layers * part.heads * wide * new * seen
    return total
