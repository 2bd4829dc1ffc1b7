"""Small questions from a seed, and the stand-ins that tests of sizing share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mainspring.facts.shapes import Attention, ModelShape
from mainspring.forecast.promise import Promise
from mainspring.sizing.question import Capacity, Demand, Limits, Mix, Pool, Question, Survive, Tariff, Way

MODEL = ModelShape("toy", "llama", 7_000_000_000, 7_000_000_000, 32, 4096, 32000, (Attention("full", 32, 32, 8, 128),))


@dataclass(frozen=True)
class Card:
    """A device with a name and nothing else."""

    name: str


def question(pools, regions=("a", "b", "c"), *, rate=6.0, peak=3.0, promise=None, survive=None, limits=None, **rest):
    """A question with the plain parts filled in."""
    demand = {key: rest.pop(key) for key in ("shares", "spread", "lengths", "curve") if key in rest}
    return Question(
        Demand("chat", rate, peak, **demand), promise or Promise(p95=3.0), MODEL, tuple(pools), tuple(regions),
        survive or Survive(), limits or Limits(), **rest,
    )  # fmt: skip


def pool(name="h100", price=4.0, *, per_node=8, nodes=8, regions=("a", "b", "c"), **rest):
    """A pool with the same price and nodes everywhere, or as given by region."""
    prices = price if isinstance(price, dict) else dict.fromkeys(regions, price)
    tariffs = {region: Tariff(each, each * 0.65, each * 0.3) for region, each in prices.items()}
    counts = nodes if isinstance(nodes, dict) else dict.fromkeys(regions, nodes)
    return Pool(name, Card(name.upper()), per_node, counts, tariffs, **rest)


def small(random):
    """A random question that brute force can answer, with its way and the rate of a replica."""
    names = ["a", "b", "c"][: random.randint(1, 3)]
    prices = {name: random.choice([1.0, 2.0, 2.0, 3.5, 4.0]) for name in names}
    per_node = random.choice([1, 2, 4, 8])
    nodes = {
        name: random.choice([None, None, 2, 3, 5, 8]) if random.random() < 0.93 else random.randint(0, 1)
        for name in names
    }
    billed = random.choice(["device", "device", "node"])
    sliced = random.random() < 0.3
    way = Way("h100", "H100", 1 if sliced else random.choice([1, 1, 2, 4]), slice="1g" if sliced else "",
              slots=random.choice([2, 3]) if sliced else 1, mix=Mix("od", (("on_demand", 1.0),)))  # fmt: skip
    shares = {name: random.choice([0.0, 1.0, 1.0, 2.0, 3.0]) for name in names} if random.random() < 0.5 else {}
    survive = Survive(
        random.choice([0, 1, 1, 2]) % len(names), random.choice([0, 0, 1, 1, 2]), together=random.random() < 0.5
    )
    limits = Limits(random.choice([0, 0, 1, 2]), random.choice([None, None, 2, 4, 6]))
    limits = limits if not sliced else Limits(limits.least, None)
    here = [pool("h100", prices, per_node=per_node, nodes=nodes, billed=billed)]
    traffic = {"rate": random.uniform(0.2, 3.0), "peak": random.choice([1.0, 2.0, 3.0])}
    spread, shared = random.choice(["share", "capacity"]), random.random() < 0.5
    asked = question(
        here, names, **traffic, shares=shares, spread=spread, survive=survive, limits=limits, shared=shared
    )
    return asked, way, random.uniform(0.8, 5.0)


def k_of_n(each, sites, total):
    """Share of time in which at least `total` replicas are up, each up by itself with chance `each`."""
    up = [1.0]
    for replicas in sites:
        for _ in range(replicas):
            up = [
                (up[i] if i < len(up) else 0.0) * (1 - each) + (up[i - 1] if i else 0.0) * each
                for i in range(len(up) + 1)
            ]
    return math.fsum(up[total:])


def capacities(table):
    """A capacity that is looked up by device and precision, lower for a tighter p95 and for longer outputs."""

    def capacity(way, demand, promise):
        base = table.get((way.device, way.precision), 0.0) * way.gpus**0.9 / way.slots
        limit = promise.p95 or 10.0
        floor = 1.0 / max(way.gpus, 1)
        rate = base * max(0.0, 1.0 - floor / limit)
        return Capacity(rate, binds="p95", reason="" if rate > 0 else f"p95 is {floor:.2f} s at the least")

    return capacity
