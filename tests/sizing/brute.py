"""The same question answered by trying every fleet: written apart from the search, and shares no code with it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace


def piles(replicas, nodes):
    """Replicas of each node, spread one at a time."""
    counts = [0] * nodes
    for index in range(replicas):
        counts[index % nodes] += 1
    return counts


def survives(question, way, rate, replicas, nodes):
    """Whether a fleet meets every need but availability; `replicas` and `nodes` by region."""
    shares = question.shares()
    names = list(shares)
    peak = question.demand.rate * question.demand.peak
    f, g = question.survive.regions, question.survive.nodes_per_region
    if f >= len(names):
        return False
    after = {}
    for name in names:
        if not question.limits.least <= replicas[name]:
            return False
        after[name] = sum(sorted(piles(replicas[name], nodes[name]))[: max(nodes[name] - g, 0)]) if nodes[name] else 0
        if after[name] * rate < peak * shares[name] - 1e-9 * rate or (shares[name] > 0 and after[name] < 1):
            return False
    if sum(replicas.values()) * rate < peak - 1e-9 * rate:
        return False
    kept = after if question.survive.together else replicas
    for gone in itertools.combinations(names, f) if f else ():
        rest = [name for name in names if name not in gone]
        if question.demand.spread == "capacity":
            if sum(kept[name] for name in rest) * rate < peak - 1e-9 * rate or not sum(kept[name] for name in rest):
                return False
            continue
        whole = sum(shares[name] for name in rest)
        for name in rest:
            load = peak * (shares[name] / whole if whole > 1e-9 else 1 / len(rest))
            if kept[name] * rate < load - 1e-9 * rate:
                return False
    return True


def best(question, way, rate, available=None, upto=9):
    """The least cost in whole thousandths of a dollar with the least devices, and one fleet of it; None without any."""
    pool = question.pool(way.pool)
    if way.slice and not question.shared and pool.billed == "device":
        # A device whose slices are all its own is one replica that carries as much as all of them.
        limits = replace(question.limits, least=math.ceil(question.limits.least / way.slots))
        question, way, rate = replace(question, limits=limits), replace(way, slice="", slots=1), rate * way.slots
    hold = pool.per_node * way.slots if way.slice else pool.per_node // way.gpus
    shares = question.shares()
    choices = {}
    for name in shares:
        price, known = pool.price(name, way.mix), pool.nodes.get(name, 0)
        ways = [(0, 0, 0, 0.0)]
        if price is not None and hold:
            nodes = upto if known is None else known
            most = min(question.limits.most if question.limits.most is not None else upto, nodes * hold, upto)
            for count in range(1, most + 1):
                for on in range(math.ceil(count / hold), min(nodes, count) + 1):
                    devices = on * pool.per_node if pool.billed == "node" else count * way.gpus / way.slots
                    ways.append((count, on, round(price * 730 * 1000 * devices), devices))
        choices[name] = ways
    found = None
    for combo in itertools.product(*choices.values()):
        key = (sum(each[2] for each in combo), round(sum(each[3] for each in combo), 6))
        if found is not None and key >= found[0]:
            continue
        replicas = {name: each[0] for name, each in zip(shares, combo, strict=True)}
        nodes = {name: each[1] for name, each in zip(shares, combo, strict=True)}
        if not survives(question, way, rate, replicas, nodes):
            continue
        if available is not None and not available(combo):
            continue
        found = (key, combo)
    return found
