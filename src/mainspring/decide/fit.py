"""Does a model fit: on a group of GPUs, or on a slice of one; if not, why, in numbers, and what is nearest that does.

What this is: a pure decision over `forecast/memory.py`. Who calls it: `sizing/`, `plan`, `doctor`.
What it must never do: reckon memory by itself.

A group of `tp` GPUs must divide the query heads (vLLM: "number of attention heads must be divisible by tensor parallel
size") and the key heads must divide it or be divided by it. Sizes: powers of two up to `LARGEST`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mainspring.facts.gpus import Gpu
from mainspring.facts.mig import Profile, profiles
from mainspring.facts.shapes import GraphShape, ModelShape
from mainspring.facts.support import supports, supports_cache
from mainspring.facts.visible import visible
from mainspring.forecast.memory import USED, Room, graph_bytes, graph_weights, room
from mainspring.forecast.setup import Setup

LARGEST = 16
"""GPUs of the largest group that is looked at: two nodes of eight."""

SMALLER = ("fp8", "int8", "fp4", "int4")
"""Precisions that are looked at when a model doesn't fit, the one nearest to 16 bits first."""


@dataclass(frozen=True, slots=True)
class Fits:
    """It fits."""

    room: Room
    sequences: int  # of the length asked for, at once


@dataclass(frozen=True, slots=True)
class FitsGraph:
    """Another model fits: bytes needed and there."""

    needed: float
    there: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """It doesn't: one sentence with the numbers, and the setups nearest to it that do, the least change first."""

    code: str  # "precision", "group", "weights", "cache", "context", "slice"
    why: str
    nearest: tuple[Setup, ...] = ()
    room: Room | None = None
    on: str = ""  # name of the slice that the nearest setups are on; "" for whole GPUs
    larger: str = ""  # name of the smallest slice of the GPU on which it fits as it is

    @property
    def sentence(self) -> str:
        """Why, and the nearest that fits."""
        ways = [f"a slice of {self.larger}"] if self.larger else []
        ways += [_layout(one, self.on) for one in self.nearest]
        return f"{self.why}; nearest that fits: {' or '.join(ways)}" if ways else self.why


def fit(setup: Setup, length: float, sequences: float = 1.0, slice_: Profile | None = None) -> Fits | Refusal:
    """Decide whether `sequences` sequences of `length` tokens (prompt and output) are held at once.

    `slice_`: the MIG slice that the replica runs on, instead of whole GPUs.
    """
    refused = _refused(setup, length, slice_)
    if refused is not None:
        return _remedied(refused, setup, length, sequences, slice_)
    there = room(setup, slice_.memory if slice_ else None)
    count = _whole(there.sequences(length))
    if there.cache > 0 and count >= sequences:
        return Fits(there, count)
    code = "cache" if there.cache > 0 else "weights"
    refusal = Refusal(code, _numbers(there, length, sequences, count, slice_), room=there)
    return _remedied(refusal, setup, length, sequences, slice_)


def fit_graph(
    shape: GraphShape, gpu: Gpu, batch: float = 1.0, slice_: Profile | None = None, precision: str = "fp16"
) -> FitsGraph | Refusal:
    """Decide whether a model of another kind fits on one GPU or on one slice of it, with rows in batches of `batch`."""
    needed = graph_bytes(shape, gpu, precision, batch)
    there = graph_there(gpu, slice_)
    if needed <= there:
        return FitsGraph(needed, there)
    weights = graph_weights(shape, gpu, precision)
    held = f"{_size(weights)} of weights and {_size(needed - weights)} for rows and runtime"
    return Refusal("weights", f"{held} don't fit in the {_size(there)} that {_where(gpu, 1, slice_)} gives")


def graph_there(gpu: Gpu, slice_: Profile | None = None) -> float:
    """Bytes of one GPU, or of one slice of it, that a model of another kind may take."""
    return (slice_.memory if slice_ else visible(gpu)) * USED


def groups(shape: ModelShape, largest: int = LARGEST) -> tuple[int, ...]:
    """Sizes of tensor-parallel groups that the model's heads allow: powers of two."""
    sizes = (2**power for power in range(int(math.log2(largest)) + 1))
    return tuple(size for size in sizes if group_refusal(shape, size) is None)


def group_refusal(shape: ModelShape, tp: int) -> str | None:
    """Say why `tp` GPUs can't share the model's layers; None when they can."""
    for part in shape.attention:
        if part.heads % tp:
            return f"{part.heads} heads of {shape.name} don't divide over {tp} GPUs"
        if part.kv_heads and part.kv_heads % tp and tp % part.kv_heads:
            return f"{part.kv_heads} key heads of {shape.name} don't divide over {tp} GPUs"
    return None


def _refused(setup: Setup, length: float, slice_: Profile | None) -> Refusal | None:
    """What no amount of memory would cure."""
    why = supports(setup.gpu, setup.precision, setup.engine)
    if why:
        return Refusal("precision", why)
    why = supports_cache(setup.gpu, setup.kv)
    if why:
        return Refusal("precision", why)
    if slice_ is not None and setup.gpus > 1:
        return Refusal("slice", f"a slice has no link to other GPUs: {setup.gpus} slices can't share a model")
    why = group_refusal(setup.shape, setup.tp)
    if why:
        sizes = ", ".join(str(size) for size in groups(setup.shape))
        return Refusal("group", f"{why}: {sizes} do")
    if setup.shape.context and length > setup.shape.context:
        return Refusal(
            "context", f"{length:,.0f} tokens are more than the {setup.shape.context:,} that {setup.shape.name} takes"
        )
    return None


def _remedied(refusal: Refusal, setup: Setup, length: float, sequences: float, slice_: Profile | None) -> Refusal:
    """The refusal with what is nearest to the setup and fits."""
    nearest = tuple(_nearest(setup, length, sequences, slice_))
    larger = ""
    if slice_ is not None and setup.gpu.mig:
        able = (one for one in profiles(setup.gpu.mig)[:-1] if _holds(setup, length, sequences, one))
        larger = next((one.name for one in able), "")
    return replace(refusal, nearest=nearest, on=slice_.name if slice_ else "", larger=larger)


def _nearest(setup: Setup, length: float, sequences: float, slice_: Profile | None) -> Iterator[Setup]:
    """The least change of each kind that fits: more GPUs, smaller weights, a smaller cache; else two at once."""
    alone = [list(_alone(setup, kind, slice_)) for kind in ("gpus", "precision", "kv")]
    found = False
    for ways in alone:
        for other in ways:
            if _holds(other, length, sequences, slice_):
                found = True
                yield other
                break
    if found:
        return
    for smaller in [setup, *alone[1]]:
        for cache in [smaller, *_alone(smaller, "kv", slice_)]:
            for other in _alone(cache, "gpus", slice_):
                if _holds(other, length, sequences, slice_):
                    yield other
                    return


def _alone(setup: Setup, kind: str, slice_: Profile | None) -> Iterator[Setup]:
    """Setups that change one thing, the least first."""
    if kind == "gpus" and slice_ is None:
        yield from (replace(setup, tp=size) for size in groups(setup.shape) if size > setup.tp)
    if kind == "precision":
        now = setup.shape.weight_bytes(setup.precision)
        others = ("fp16", *SMALLER) if supports(setup.gpu, setup.precision, setup.engine) else SMALLER
        for precision in others:
            if precision != setup.precision and setup.shape.weight_bytes(precision) <= now * 1.0001:
                yield replace(setup, precision=precision)
    if kind == "kv" and setup.kv in ("fp16", "bf16"):
        yield replace(setup, kv="fp8")


def _holds(setup: Setup, length: float, sequences: float, slice_: Profile | None) -> bool:
    if _refused(setup, length, slice_) is not None:
        return False
    there = room(setup, slice_.memory if slice_ else None)
    return there.cache > 0 and _whole(there.sequences(length)) >= sequences


def _whole(count: float) -> int:
    """Whole sequences; a model that keeps nothing is bound by other things long before a million."""
    return int(min(count + 1e-9, 1e6))


def _numbers(there: Room, length: float, sequences: float, count: int, slice_: Profile | None) -> str:
    """The sentence of a refusal for memory."""
    setup = there.setup
    where = _where(setup.gpu, setup.gpus, slice_)
    weights = f"{_size(there.weights)} of weights on {where}"
    if there.cache <= 0:
        other = _size(there.reserve + there.activations)
        return (
            f"{weights} leaves nothing for the KV cache: the engine has {_size(there.usable)} and needs {other} beside"
        )
    held = f"{count:,} sequence{'' if count == 1 else 's'} of {length:,.0f} tokens"
    asked = "" if sequences <= 1 else f", and {sequences:,.0f} were asked for"
    return f"{weights} leaves {_size(there.cache)} for the KV cache: {held}{asked}"


def _where(gpu: Gpu, count: int, slice_: Profile | None) -> str:
    if slice_ is not None:
        return f"one {slice_.name} of {gpu.name}"
    return f"{count} x {gpu.memory / 1e9:.0f} GB"


def _layout(setup: Setup, on: str) -> str:
    """A setup in a few words: "4 x H100-SXM at FP16"."""
    cache = "" if setup.kv in ("fp16", "bf16") else f" with a KV cache in {setup.kv.upper()}"
    what = f"one {on} of {setup.gpu.name}" if on else f"{setup.gpus} x {setup.gpu.name}"
    return f"{what} at {setup.precision.upper()}{cache}"


def _size(amount: float) -> str:
    """Bytes for people: three digits."""
    if amount >= 1e9:
        return (
            f"{amount / 1e9:.0f} GB" if amount >= 9.95e9 or round(amount / 1e8) % 10 == 0 else f"{amount / 1e9:.1f} GB"
        )
    return f"{amount / 1e6:.0f} MB"
