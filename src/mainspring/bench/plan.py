"""What is sent and when: arrivals, prompts, lengths of answers, how long, and what is good enough.

What this is: `Plan`, a value, with the ways to make one. Who calls it: `mainspring bench`, the latency gate.
What it must never do: depend on anything that happens in the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mainspring.bench import arrivals as drawn
from mainspring.bench.arrivals import MOST, Floats
from mainspring.bench.objective import Objective
from mainspring.bench.prompts import Prompts, Words
from mainspring.errors import InputError
from mainspring.facts.traces import Trace

MOST_SECONDS = 86_400.0
NOTHING: Floats = np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A load. Times are seconds; `arrivals` ascend from the start of the run, warm-up included."""

    arrivals: Floats
    seconds: float  # of the run, warm-up included, without the time that the last answers take
    prompts: Prompts = Words()  # noqa: RUF009 - frozen
    output: int | Sequence[int] = 64  # `max_tokens`, of all or of each in turn; 0: not said
    warmup: float = 0.0  # requests due before are sent, not counted
    timeout: float = 60.0  # of one request, from when it is taken up
    objective: Objective | None = None
    most: int = MOST  # requests, at most
    says: str = ""  # what the arrivals are, for people

    def __post_init__(self) -> None:
        """Raise `InputError` for what can't be carried out."""
        if not 0 < self.seconds <= MOST_SECONDS:
            raise InputError("bad-length", f"`{self.seconds:g}s` is no length of a run", "at most 1d: --for 30s")
        if not 0 <= self.warmup < self.seconds:
            message = f"a warm-up of `{self.warmup:g}s` leaves nothing of `{self.seconds:g}s`"
            raise InputError("bad-warmup", message, "a shorter `--warmup`")
        if not 0 < self.timeout <= MOST_SECONDS:
            raise InputError("bad-timeout", f"`{self.timeout:g}s` is no timeout", "--timeout 60s")
        if len(self.arrivals) > MOST:
            message = f"`{len(self.arrivals):,}` requests are more than {MOST:,}"
            raise InputError("too-many-requests", message, "a shorter `--for`")

    @classmethod
    def poisson(cls, rate: float, seconds: float, *, seed: int = 1, warmup: float = 0.0, **more: Any) -> Self:
        """Poisson arrivals at `rate` a second, for `warmup` and then `seconds`."""
        times = drawn.poisson(rate, seconds + warmup, seed)
        return cls(times, seconds + warmup, warmup=warmup, **{"says": f"Poisson arrivals at {rate:g}/s"} | more)

    @classmethod
    def constant(cls, rate: float, seconds: float, *, warmup: float = 0.0, **more: Any) -> Self:
        """Evenly spaced arrivals at `rate` a second, for `warmup` and then `seconds`."""
        times = drawn.constant(rate, seconds + warmup)
        return cls(times, seconds + warmup, warmup=warmup, **{"says": f"even arrivals at {rate:g}/s"} | more)

    @classmethod
    def trace(cls, trace: Trace, *, seconds: float = 0.0, speed: float = 1.0, seed: int = 1, **more: Any) -> Self:
        """A trace's arrivals (`speed` times as fast, cut off after `seconds`), with its lengths of prompts and answers.

        Where the trace has prefix blocks, prompts share what its prompts shared.
        """
        if not (math.isfinite(speed) and speed > 0):
            raise InputError("bad-speed", f"`{speed:g}` times as fast is no speed", "--speed 2")
        times = trace.arrival / speed
        count = int(np.searchsorted(times, seconds)) if seconds else len(times)
        words = Words(np.ceil(trace.prompt[:count]).astype(np.int64).tolist(), seed=seed, blocks=trace.blocks[:count])
        output = np.ceil(trace.output[:count]).astype(np.int64).tolist()
        said = f"arrivals of {trace.name}" + (f", {speed:g} times as fast" if speed != 1 else "")
        long = seconds or float(times[-1]) + 0.001
        return cls(times[:count], long, **{"prompts": words, "output": output, "says": said} | more)

    @classmethod
    def lasting(cls, seconds: float, *, warmup: float = 0.0, **more: Any) -> Self:
        """No arrivals: for `closed`, which sends when an answer has come."""
        return cls(NOTHING, seconds + warmup, warmup=warmup, **more)
