"""Batches of runs: requests are made up, every rule is tried on them, and what it did comes back as minutes.

What this is: the jobs that are spread over cores. Who calls it: `benchmarks/canary.py`. What it must never do: give one
rule other requests than another, or let two batches share random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from canaries import ours, times, traffic
from canaries.argo import Argo
from canaries.flagger import Flagger
from canaries.kayenta import Kayenta
from canaries.traffic import Counts, Floats, World
from canaries.ztest import Peeked

BATCH = 100
USUAL = times.Shape()
ERRORS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.10)
LOOKS = {"10 s": 1, "1 min": 6, "5 min": 30, "15 min": 90}
OURS = "Mainspring"
BESIDE = f"{OURS}, `p95: 20% over control`"
EITHER = f"{OURS}, that or errors"
GOT = f"{OURS}, share not known by design"
ALSO = f"{OURS}, `errors: 1%` too"
Rule = Callable[[Counts], Floats]
Key = tuple[str, str]  # rule, version
Minutes = dict[Key, Floats]

PEERS: Mapping[str, Rule] = {
    "Argo, 5 min, 95 %, limit 3 (its example)": Argo(0.95, 3).by_errors,
    "Argo, 5 min, 99.9 %, limit 0 (default)": Argo(0.999).by_errors,
    "Argo, 5 min, 99.9 %, limit 3 (tuned)": Argo(0.999, 3).by_errors,
    "Flagger, 1 min, 99 %, threshold 10": Flagger().by_errors,
    "z-test, each 5 min, 5 %": Peeked().by_errors,
}
GRID: dict[str, Rule] = {
    f"Argo, {window // 6} min, {least:.1%}, limit {limit}": Argo(least, limit, window).by_errors
    for window in (6, 30)
    for least in (0.95, 0.98, 0.99, 0.995, 0.999)
    for limit in range(6)
}
GRID |= {
    f"Flagger, 1 min, {least:.1%}, threshold {threshold}": Flagger(least, threshold).by_errors
    for least in (0.95, 0.98, 0.99, 0.995, 0.999)
    for threshold in (2, 3, 4, 5, 7, 10)
}
"""What a peer could have been set to by someone who knew the outcome."""

TIMES_GRID = {
    f"Argo, {window // 6} min, p95 <= {bound:g} s, limit {limit}": (window, bound, limit)
    for window in (6, 30, 60)
    for bound in (2.5, 3.0, 3.5, 4.0, 5.0)
    for limit in (0, 1, 2, 3, 5, 9)
}
SLOWER: Mapping[str, times.Slower] = {
    **{f"all x {f:g}": times.Slower(all=f) for f in (1.0, 1.2, 1.3, 1.5, 2.0, 3.0)},
    **{f"long x {f:g}": times.Slower(long=f) for f in (1.5, 2.0, 3.0, 5.0)},
}


@dataclass(frozen=True, slots=True)
class Job:
    """One batch of one part."""

    world: World
    seed: tuple[int, ...]
    runs: int = BATCH
    errors: tuple[float, ...] = ERRORS
    rules: tuple[str, ...] = tuple(PEERS)
    looks: tuple[int, ...] = (1,)
    also: bool = False  # ours with `errors: 1%` beside the default, too
    shape: times.Shape = USUAL
    slower: tuple[str, ...] = tuple(SLOWER)
    peers: bool = True


def by_errors(job: Job) -> Minutes:
    """Ours at each interval of looks, and the peers, for versions that fail so often."""
    requests = traffic.draw(job.world, job.runs, (*job.seed, 0))
    found: Minutes = {}
    for errors in job.errors:
        counts, version = traffic.count(requests, errors, (*job.seed, 1)), f"{errors:g}"
        for every, minutes in ours.by_errors(counts, job.world, job.looks).items():
            found[f"{OURS}, {every * traffic.WIDTH:g} s", version] = minutes
        found[GOT, version] = ours.by_errors(counts, job.world, (1,), by_design=False)[1]
        if job.also:
            found[ALSO, version] = ours.by_errors(counts, job.world, (1,), ours.ALSO)[1]
        for name in job.rules:
            found[name, version] = (PEERS | GRID)[name](counts)
    return found


def by_times(job: Job) -> Minutes:
    """The same for versions that are slower; the names of bounds are in the rules' names."""
    requests = traffic.draw(job.world, job.runs, (*job.seed, 0))
    timed = times.draw(requests, job.shape, (*job.seed, 2))
    seconds = {version: timed.with_(requests, SLOWER[version]) for version in job.slower}
    over = ours.over_control(requests, timed, seconds)
    failed = ours.by_errors(traffic.count(requests, job.world.errors, (*job.seed, 1)), job.world, (1,))[1]
    found: Minutes = {}
    for version, taken in seconds.items():
        found[f"{OURS}, `p95: 3s`", version] = ours.over_bound(requests, taken)
        found[BESIDE, version] = over[version]
        found[EITHER, version] = np.fmin(over[version], failed)
        if job.peers:
            found |= {(name, version): minutes for name, minutes in _peers(requests, taken).items()}
        found["share over 3 s", version] = np.array([(taken > times.BOUND)[requests.candidate].mean()])
    return found


def _peers(requests: traffic.Requests, seconds: Floats) -> dict[str, Floats]:
    """The peers' rules on p95, and the z-test on the share of answers over the objective's bound."""
    runs, slices, mine = requests.runs, requests.world.slices, requests.candidate
    run, at = np.divmod(requests.cell, slices)

    def points(which: np.ndarray, length: int) -> Floats:
        number = slices // length
        group = run[which] * number + at[which] // length
        return times.quantiles(group, seconds[which], runs * number, 0.95).reshape(runs, number)

    minute, five, ten = points(mine, 6), points(mine, 30), points(mine, 60)
    twin = ~mine & (requests.chance * (1 - requests.world.share) < requests.world.share)  # as many as the canary's
    far = seconds > times.BOUND
    tallies = [np.bincount(requests.cell[w], minlength=runs * slices).reshape(runs, slices)
               for w in (mine, mine & far, ~mine, ~mine & far)]  # fmt: skip
    found = {
        name: Argo(0.0, limit, window).by_times({6: minute, 30: five, 60: ten}[window], bound)
        for name, (window, bound, limit) in TIMES_GRID.items()
    }
    return found | {
        "Flagger, 1 min, p95 <= 3 s, threshold 10": Flagger().by_times(minute, times.BOUND),
        "z-test on the share over 3 s, each 5 min": Peeked().by_shares(*tallies),
        "Kayenta, p95 of a minute, each 30 min": Kayenta().by_points(minute, points(twin, 6)),
    }


def joined(parts: Sequence[Minutes]) -> Minutes:
    """Batches of one part, one after the other."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
