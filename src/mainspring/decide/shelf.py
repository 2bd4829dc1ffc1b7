"""What one GPU can hold together: whole models, MIG slices, or models that share it in time.

What this is: states of a GPU as small numbers, so that a search can compare and remember them; pure apart from its own
tables. Who calls it: `decide/pack.py`, `decide/bound.py`, `decide/place.py`. What it must never do: choose.

A need is what one small model asks of one type of GPU: `WHOLE`, a profile's place in `mig.profiles(key)`, or memory and
compute of a shared GPU. Memory counts in MiB, rounded up; compute in millionths of a GPU, rounded to the nearest.
"""

from __future__ import annotations

import math

from mainspring.facts import mig
from mainspring.facts.gpus import Gpu
from mainspring.facts.visible import MIB, visible

Need = tuple[int, ...]
"""(): all of a GPU; (kind,): a slice; (MiB, millionths): a part of a shared GPU."""

WHOLE: Need = ()
FREE, FULL = 0, 1
MILLION = 1_000_000
TOLERANCE = 10  # millionths: thirds and sevenths that were rounded up still make a whole


class Shelf:
    """The states of one type of GPU. 0 is free, 1 is taken whole, others are what was put in, by `step`."""

    def __init__(self, gpu: Gpu, *, split: bool, share: bool) -> None:
        self.gpu = gpu
        self.key = gpu.mig if split else ""
        self.shared = share and not self.key
        self.room = int(visible(gpu) / MIB)
        self.contents: list[tuple[Need, ...]] = [(), (WHOLE,)]
        self._number: dict[tuple[Need, ...], int] = {(): FREE, (WHOLE,): FULL}
        self._steps: dict[tuple[int, Need], int] = {}

    def need(self, memory: float, compute: float) -> Need | None:
        """The least that holds `memory` bytes and a share `compute` of a GPU; None when this type is too small.

        A slice that leaves more room on its GPU than another is never the bigger one, so the least is always best.
        """
        mebi, part = math.ceil(memory / MIB), round(compute * MILLION)
        if mebi > self.room or part > MILLION + TOLERANCE:
            return None
        if self.shared:
            return (mebi, part)
        if self.key:
            for kind, one in enumerate(mig.profiles(self.key)[:-1]):  # the last is the whole GPU: unsplit is better
                if memory <= one.memory and compute <= one.share + TOLERANCE / MILLION:
                    return (kind,)
        return WHOLE

    def step(self, state: int, need: Need) -> int:
        """The state after `need` is put into a GPU in `state`; -1 when it doesn't go in."""
        at = (state, need)
        found = self._steps.get(at)
        if found is None:
            found = self._steps[at] = self._step(state, need)
        return found

    def _step(self, state: int, need: Need) -> int:
        if state == FULL or (need == WHOLE and state != FREE):
            return -1
        if need == WHOLE:
            return FULL
        after = tuple(sorted((*self.contents[state], need), reverse=True))
        if not self._holds(after):
            return -1
        if after not in self._number:
            self._number[after] = len(self.contents)
            self.contents.append(after)
        return self._number[after]

    def _holds(self, needs: tuple[Need, ...]) -> bool:
        if self.shared:
            memory = sum(need[0] for need in needs)
            return memory <= self.room and sum(need[1] for need in needs) <= MILLION + TOLERANCE
        return mig.fits(self.key, tuple(need[0] for need in needs))
