"""What the autoscalers are compared on, and, apart from it, what ours was set up on.

What this is: arrivals and fleets, all from seeds. Who calls it: `benchmarks/scaling.py`. What it must never do: let a
shape or a seed of `TUNING` into what is reported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mainspring.worlds.twin.arrivals import SHAPES, Arrivals, Floats, Lengths, drawn
from mainspring.worlds.twin.queueing import Fleet
from mainspring.worlds.twin.service import Service

LOADS = (5.0, 60.0, 300.0)
"""Seconds that a replica takes to load: a small model from disk, a large one from a cache, a large one from afar."""
SLOTS = 8
MOST = 40
WAIT = 1.0
"""Seconds that a request may wait for a slot."""
SERVICE = Service()
LENGTHS = Lengths()
START = 1_767_571_200.0  # a Monday, 00:00 UTC


@dataclass(frozen=True, slots=True)
class Scenario:
    """Requests, and replicas that take so long to load."""

    name: str
    arrivals: Arrivals
    fleet: Fleet
    service: Service = SERVICE
    wait: float = WAIT


def fleet(arrivals: Arrivals, load: float, slots: int = SLOTS, service: Service = SERVICE) -> Fleet:
    """Begins with what the first five minutes need at 70 % of the slots: nobody is judged by how it starts cold."""
    first = int(np.searchsorted(arrivals.at, 300.0))
    work = service.fixed + arrivals.prompt[:first] * service.prefill
    work = work + arrivals.output[:first] * (service.decode + service.crowd * slots * 0.7)
    begin = max(1, math.ceil(float(work.sum()) / 300.0 / slots / 0.7))
    return Fleet(slots=slots, load=load, queue=2000, hold=600.0, begin=begin, wall=START)


def shaped(name: str, seed: int, hours: float, rate: float) -> Arrivals:
    """One of the twin's shapes."""
    return drawn(SHAPES[name](rate, hours * 3600.0, seed), LENGTHS, seed, f"{name}, seed {seed}")


# -- what ours was set up on: other shapes, other seeds, other replicas ---------------------------------------------


def _walk(rate: float, seconds: float, seed: int) -> Floats:
    """A rate that wanders: a geometric random walk that is drawn back to its mean."""
    random, level, found = np.random.default_rng([seed, 11]), 0.0, []
    for _ in range(math.ceil(seconds / 30)):
        level = 0.97 * level + random.normal(0.0, 0.13)
        found.append(rate * math.exp(level))
    return np.repeat(np.array(found), 30)[: math.ceil(seconds)]


def _crowds(rate: float, seconds: float, seed: int) -> Floats:
    """Flash crowds: up within a minute, and away exponentially within some ten."""
    random, at = np.random.default_rng([seed, 12]), 900.0
    time, found = np.arange(math.ceil(seconds)), np.full(math.ceil(seconds), 0.5 * rate)
    while at < seconds:
        since = np.maximum(time - at, 0.0)
        found += rate * random.uniform(1, 3) * np.minimum(since / 60.0, 1.0) * np.exp(-since / random.uniform(300, 900))
        at += random.exponential(2700.0)
    return found


def _saw(rate: float, seconds: float, seed: int) -> Floats:
    """Slow waves of an hour or so, skewed."""
    random = np.random.default_rng([seed, 13])
    period, phase = random.uniform(2400, 5400), random.uniform(0, 1)
    time = (np.arange(math.ceil(seconds)) / period + phase) % 1.0
    found: Floats = rate * (0.4 + 1.2 * np.where(time < 0.7, time / 0.7, (1 - time) / 0.3))
    return found


TUNING = {"walk": _walk, "crowds": _crowds, "saw": _saw}
TUNING_SEEDS = (9001, 9002)
TUNING_SLOTS = 4
TUNING_SERVICE = Service(0.05, 0.000_2, 0.02, 0.001, "for setting up")


def tuning(load: float, hours: float = 3.0) -> list[Scenario]:
    """Scenarios on which the constants of `decide/scale.py` were chosen."""
    found = []
    for name, shape in TUNING.items():
        for seed in TUNING_SEEDS:
            arrivals = drawn(shape(4.0, hours * 3600.0, seed), LENGTHS, seed, name)
            there = fleet(arrivals, load, TUNING_SLOTS, TUNING_SERVICE)
            found.append(Scenario(f"{name} {seed}", arrivals, there, TUNING_SERVICE, 1.5))
    return found
