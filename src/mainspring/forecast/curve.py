"""What one replica does with each number of requests in its batch, for one mix of lengths.

What this is: the closed loops of a performance model as arrays, so that queueing need not know the model; pure. Who
calls it: `forecast/queue.py`, once for many rates. What it must never do: know how requests arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mainspring.forecast.setup import Lengths, Rests, Steady

Floats = NDArray[np.float64]

SLOTS = 256
"""Requests in the batch at most: vLLM's `max_num_seqs` where nothing else is said."""

FULL = 0.97
"""Share of what is in flight that runs, below which memory binds: the rest of it may be between two steps."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one replica does with 1, 2, ... `slots` requests in its batch, for one mix of lengths. Seconds."""

    lengths: Lengths
    alone: Floats  # time to first token of each case when nobody else is there
    prompt: float  # s that a mean prompt keeps the replica busy
    extra: Floats  # more time to first token, by number in the batch
    tpot: Floats  # s per token after the first, by number in the batch
    spread: float
    spread_ttft: float
    binds: str  # of `Steady`, at the largest batch
    rests: tuple[tuple[float, tuple[Rests, ...]], ...] = field(default=())  # by number in the batch

    @property
    def slots(self) -> int:
        """The largest batch."""
        return len(self.tpot)

    @property
    def rates(self) -> Floats:
        """Requests/s by number in the batch; more in the batch never finishes fewer."""
        weight, output = np.array(self.lengths.weight), np.array(self.lengths.output)
        mean = float(self.alone @ weight) + self.extra + float((output - 1.0) @ weight) * self.tpot
        rates: Floats = np.maximum.accumulate(np.arange(1, self.slots + 1) / mean)
        return rates

    def at(self, number: float) -> tuple[Rests, ...]:
        """What the forecast at about so many in the batch rests on."""
        number = min(max(number, 1.0), float(self.slots))
        return min(self.rests, key=lambda one: abs(math.log(one[0] / number)), default=(1.0, ()))[1]

    def slower(self, ttft: float, tpot: float) -> Curve:
        """The same with all times to first token and all times per token longer by a factor."""
        return Curve(
            self.lengths,
            self.alone * ttft,
            self.prompt * ttft,
            self.extra * ttft,
            self.tpot * tpot,
            self.spread,
            self.spread_ttft,
            self.binds,
            self.rests,
        )


Service = Callable[[float, float, float], Steady]
"""Prompt tokens, output tokens, number of requests in flight -> what a closed loop of these gives."""


def curve(service: Service, lengths: Lengths, slots: int = SLOTS) -> Curve:
    """Ask `service` at some twenty numbers in flight, and once for each of a few prompts.

    The batch holds more of long outputs than of short ones, so its contexts are longer than those of a mean request;
    the mean prompt and output are stretched until their context is right.
    """
    weight = np.array(lengths.weight) / math.fsum(lengths.weight)
    prompt, output = np.array(lengths.prompt), np.array(lengths.output)
    p, o = float(prompt @ weight), float(output @ weight)
    stretch = float((output * (prompt + output / 2)) @ weight) / (o * (p + o / 2))
    full = service(p * stretch, o * stretch, float(slots))
    room = slots if full.running >= FULL * slots else max(1, math.floor(full.running))
    grid = _grid(room)
    found = [service(p * stretch, o * stretch, float(n)) for n in grid]
    numbers = np.arange(1, room + 1, dtype=np.float64)
    extra = np.maximum.accumulate([max(0.0, one.ttft - found[0].ttft) for one in found])
    tpot = np.maximum.accumulate([one.tpot for one in found])
    alone = _alone(service, prompt, o)
    busy = max(0.0, service(p, o, 1.0).ttft - service(1.0, o, 1.0).ttft)
    normal = Lengths(lengths.prompt, lengths.output, tuple(weight.tolist()), lengths.cached)
    return Curve(
        normal,
        alone,
        busy,
        np.interp(numbers, grid, extra),
        np.interp(numbers, grid, tpot),
        full.spread,
        full.spread_ttft,
        full.binds if room >= slots else "memory",
        tuple((float(n), one.rests) for n, one in zip(grid, found, strict=True)),
    )


def _grid(room: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to `room`."""
    grid = [n for power in range(12) for n in (2**power, 3 * 2**power // 2) if n < room]
    return sorted({1, *grid, room})


def _alone(service: Service, prompt: Floats, output: float) -> Floats:
    """Time to first token of each prompt when nobody else is there; many prompts are interpolated from eight."""
    known = np.unique(prompt)
    if len(known) > 8:
        known = np.unique(np.quantile(prompt, (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1.0)))
    times = [service(float(p), output, 1.0).ttft for p in known]
    alone: Floats = np.interp(prompt, known, times)
    return alone
