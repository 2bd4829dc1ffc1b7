"""How fast two versions of a language model answer, side by side: what decides whether a conversion is worth it.

What this is: two replicas that both run, asked by turns (ABBA, so that a drift of the machine hits both alike), as
many requests at once as they have slots. Each answer has the same length: the engine goes on past the end of its
text, because a version that stops early would look fast. Prompts are read anew each time. Who calls it: the built-in
step `evaluate`, in its own process. What it must never do: judge (that is `decide/worth.py`), or tell a percentile of
answers whose lengths differ.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mainspring.bench.load import closed
from mainspring.bench.plan import Plan
from mainspring.bench.prompts import Bodies
from mainspring.bench.samples import DONE
from mainspring.pipelines.candidate import Served
from mainspring.pipelines.load import TIMEOUT, target
from mainspring.pipelines.spread import spread

ROUNDS = 12
FEWEST, BUDGET = 4, 30.0  # rounds that there are at least; seconds after which no other one begins
LONGEST = 600.0  # seconds in which a turn's requests must all have been begun
TOKENS = 32  # of each answer
TURNS = 2  # requests of each client in a turn: many short turns tell more than few long ones
PLAIN = ("Tell me about rivers.", "How is bread made?", "Write about a house by the sea.", "Why is the sky blue?")
"""What is asked when the evaluations ask nothing."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What one version gave. Times are seconds."""

    p95: float  # of whole answers, all of the same length; nan when they were not
    rate: float  # output tokens a second
    p95_spread: float  # of the ratio to the other's, by rounds; 0 for the other itself
    rate_spread: float


UNKNOWN = Speed(math.nan, math.nan, math.nan, math.nan)


@dataclass(slots=True)
class _Rounds:
    """What one version gave in each round."""

    p95: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    lengths: set[int] = field(default_factory=set)
    failed: str = ""


def weigh(own: Served, other: Served, asked: Sequence[dict[str, Any]], slots: int) -> tuple[Speed, Speed]:
    """The speeds of two replicas that run, on what the evaluations asked; unknown when one of them fails."""
    both = (own, other)
    bodies = [_bodies(served.model, asked) for served in both]
    found = (_Rounds(), _Rounds())
    began = time.monotonic()
    for number in range(-1, ROUNDS):  # the first one warms up
        if number >= FEWEST and time.monotonic() - began > BUDGET:
            break
        for which in (0, 1) if number % 2 else (1, 0):
            _round(
                both[which],
                _from(bodies[which], max(number, 0) * slots * TURNS),
                slots,
                found[which] if number >= 0 else _Rounds(),
            )
    for served, rounds in zip(both, found, strict=True):
        _tell(served, rounds, slots)
    if any(rounds.failed for rounds in found):  # what failed under the same load has no speed
        first, second = (UNKNOWN if rounds.failed else _speed(rounds, rounds) for rounds in found)
        return first, second
    return _speed(*found), replace(_speed(found[1], found[0]), p95_spread=0.0, rate_spread=0.0)


def _speed(own: _Rounds, other: _Rounds) -> Speed:
    """Medians of the rounds, and how far the rounds' ratios to the other's lie apart: a busy moment hits both."""
    p95 = float(np.median(own.p95)) if len(own.lengths | other.lengths) == 1 else math.nan
    spreads = [spread(np.divide(a, b)) for a, b in ((own.p95, other.p95), (own.rate, other.rate))]
    return Speed(p95, float(np.median(own.rate)), *spreads)


def _bodies(model: str, asked: Sequence[dict[str, Any]]) -> tuple[bytes, ...]:
    """The evaluations' messages, each once; the length and form of the answer are fixed here."""
    messages = [body["messages"] for body in asked] or [[{"role": "user", "content": text}] for text in PLAIN]
    fixed = {"max_tokens": TOKENS, "temperature": 0.0, "seed": 1, "stream": False}
    fixed |= {"ignore_eos": True, "cache_prompt": False}  # llama.cpp's own words
    return tuple(dict.fromkeys(json.dumps({"model": model, "messages": one, **fixed}).encode() for one in messages))


def _from(bodies: tuple[bytes, ...], place: int) -> Bodies:
    """The bodies in turn, from a place on: each round asks the next ones."""
    at = place % len(bodies)
    return Bodies(bodies[at:] + bodies[:at])


def _round(served: Served, bodies: Bodies, slots: int, into: _Rounds) -> None:
    """One version's turn: a fixed number of requests."""
    plan = Plan.lasting(LONGEST, prompts=bodies, timeout=TIMEOUT, most=slots * TURNS)
    result = closed(target(served), plan, slots)
    samples = result.samples
    done = samples.kind == DONE
    if not done.all():
        into.failed = next(iter(result.said.values()), "a request failed")
    if not done.any():
        return
    took = samples.end[done] - samples.begun[done]
    into.p95.append(float(np.quantile(took, 0.95)))
    into.rate.append(float(samples.output[done].sum() / (samples.end[done].max() - samples.begun.min())))
    into.lengths.update(int(one) for one in samples.output[done])


def _tell(served: Served, rounds: _Rounds, slots: int) -> None:
    if rounds.failed:
        print(f"{served.name}: its speed is not known: {rounds.failed}", flush=True)
        return
    lengths = sorted(rounds.lengths)
    shown = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    rates = " ".join(f"{rate:.0f}" for rate in rounds.rate)
    print(f"{served.name}: {slots} at once, answers of {shown} tokens: tokens/s of {len(rounds.rate)} rounds: {rates}")
