"""Autoscaling in the twin: ours beside HPA, KEDA and Knative, on traces and on steps, ramps, bursts and a day.

    python benchmarks/scaling.py [TRACE ...] [--quick] [--jobs N] [--tuning]

What this is: every contender on the same arrivals, replicas and seeds; how many requests had a slot in time, and what
the replicas cost in hours. Who calls it: `make bench-scaling TRACES="a.csv b.csv.gz"`. What it must never do: tune ours
to what is reported (one set of defaults; `--tuning` shows where they were chosen), or judge the others by one setting:
each has its documented default and a grid over its target.

The comparison. Among all settings of all others, those that kept at least as many requests in time as ours are
candidates, and the cheapest of them is what ours is held against, chosen with hindsight for each scenario; where none
kept as many, the cheapest of those within half a point of the one that kept most. Met: at most 0.9 of its hours.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from autoscalers.peers import Hpa, Keda, Kpa
from autoscalers.scenarios import LOADS, MOST, SLOTS, WAIT, Scenario, fleet, shaped, tuning
from figures import Figure, figure, write

from mainspring.decide.scale import Rules
from mainspring.facts.traces import parse
from mainspring.worlds.twin.arrivals import Arrivals, of_trace
from mainspring.worlds.twin.queueing import Ours, Scaler, simulate

SEEDS = (1, 2, 3)
HOURS, RATE = 2.0, 4.0
DAY_HOURS, DAY_RATE = 24.0, 2.0
AIM = 0.9
NEARLY = 0.005
"""Where none of the others kept as many, the cheapest that is within this share of the best of them."""

Make = Callable[[int], Scaler]  # from the slots of a replica
CONTENDERS: dict[str, Make] = {"HPA 80% (default)": lambda slots: Hpa(0.8, slots, 1, MOST)}
CONTENDERS |= {f"HPA {t:.0%}": lambda slots, t=t: Hpa(t, slots, 1, MOST) for t in (0.35, 0.5, 0.6, 0.7, 0.9)}
CONTENDERS |= {"KEDA 5 (default)": lambda _: Keda(5.0, 1, MOST)}
CONTENDERS |= {
    f"KEDA {t:.0%} of slots": lambda slots, t=t: Keda(t * slots, 1, MOST) for t in (0.35, 0.5, 0.7, 0.8, 0.9, 1.0)
}
CONTENDERS |= {f"KEDA {t} waiting": lambda _, t=t: Keda(t, 1, MOST, in_flight=False) for t in (1, 5)}
CONTENDERS |= {"KPA 70% (default)": lambda slots: Kpa(0.7 * slots, 1, MOST)}
CONTENDERS |= {f"KPA {t:.0%}": lambda slots, t=t: Kpa(t * slots, 1, MOST) for t in (0.35, 0.5, 0.6, 0.8, 0.9, 1.0)}
OURS = "Mainspring"


@dataclass(frozen=True, slots=True)
class Result:
    """Of one contender on one scenario, seed by seed."""

    kept: tuple[float, ...]  # shares of requests with a slot in time
    hours: tuple[float, ...]

    @property
    def share(self) -> float:
        """Of all seeds."""
        return statistics.fmean(self.kept)

    @property
    def total(self) -> float:
        """Replica-hours of all seeds."""
        return sum(self.hours)


def ours(scenario: Scenario) -> Scaler:
    """Mainspring with nothing said but the range, the slots and the objective."""
    return Ours(Rules(1, MOST, scenario.fleet.slots, objective=scenario.wait))


def run(scenario: Scenario, name: str) -> tuple[float, float]:
    """The share that was in time, and replica-hours."""
    scaler = ours(scenario) if name == OURS else CONTENDERS[name](scenario.fleet.slots)
    found = simulate(scenario.arrivals, scenario.fleet, scenario.service, scaler)
    return found.attainment(scenario.wait), found.replica_hours


def compare(scenarios: Sequence[Scenario]) -> dict[str, Result]:
    """All contenders on a scenario's seeds."""
    found = {}
    for name in (OURS, *CONTENDERS):
        kept, hours = zip(*(run(one, name) for one in scenarios), strict=True)
        found[name] = Result(kept, hours)
    return found


def rival(found: dict[str, Result]) -> str:
    """What ours is held against."""
    others = {name: one for name, one in found.items() if name != OURS}
    as_good = {name: one for name, one in others.items() if one.share >= found[OURS].share}
    if as_good:
        return min(as_good, key=lambda name: as_good[name].total)
    most = max(one.share for one in others.values())
    nearly = [name for name, one in others.items() if one.share >= most - NEARLY]
    return min(nearly, key=lambda name: others[name].total)


def _traces(paths: Sequence[Path]) -> Iterator[tuple[str, list[Arrivals]]]:
    for path in paths:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        yield f"trace {path.name.split('.')[0]}", [of_trace(parse(raw.decode("utf-8-sig").splitlines(), path.name))]


def _groups(paths: Sequence[Path], *, quick: bool) -> list[tuple[str, list[Scenario]]]:
    """Each scenario by its name, with its seeds."""
    several = list(_traces(paths))
    for shape in ("steps", "ramps", "burst"):
        seeds = SEEDS[:1] if quick else SEEDS
        several.append((shape, [shaped(shape, seed, 1.0 if quick else HOURS, RATE) for seed in seeds]))
    if not quick:
        several.append(("day", [shaped("day", SEEDS[0], DAY_HOURS, DAY_RATE)]))
    return [
        (f"{name}, load {load:g} s", [Scenario(name, one, fleet(one, load)) for one in arrivals])
        for name, arrivals in several
        for load in (LOADS[1:2] if quick else LOADS)
    ]


def _block(title: str, found: dict[str, Result], against: str) -> str:
    """A scenario as a few lines: ours, each default, and the others' settings that are as good or nearly."""
    lines = [f"{title:44} {'in time':>9} {'replica-h':>10}"]
    shown = [OURS, *(name for name in found if "default" in name)]
    shown += [against] if against not in shown else []
    lines += [f"  {name:42} {found[name].share:9.2%} {found[name].total:10.2f}" for name in shown]
    return "\n".join(lines)


def judged(title: str, found: dict[str, Result]) -> Figure:
    """Ours beside the best of the others."""
    against = rival(found)
    mine, theirs = found[OURS], found[against]
    ratios = [a / b for a, b in zip(mine.hours, theirs.hours, strict=True)]
    spread = f" [{min(ratios):.2f}, {max(ratios):.2f}]" if len(ratios) > 1 else ""
    word = "" if theirs.share >= mine.share else "; none of theirs kept as many"
    beside = f"{against}: {theirs.share:.2%} in time, ours {mine.share:.2%}{spread}{word}"
    return figure(title, mine.total / theirs.total, "of hours", beside, at_most=AIM)


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true", help="one seed, one hour, one time to load")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--tuning", action="store_true", help="the scenarios on which ours was set up, instead")
    given = parser.parse_args()
    groups = _groups(given.traces, quick=given.quick)
    if given.tuning:
        groups = [(f"{one.name}, load {load:g} s", [one]) for load in LOADS for one in tuning(load)]
    print(
        f"a slot within {WAIT:g} s; {SLOTS} slots a replica, 1..{MOST} replicas" if not given.tuning else "setting up"
    )
    figures: list[Figure] = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for (title, _), found in zip(groups, pool.map(compare, (group for _, group in groups)), strict=True):
            figures.append(judged(title, found))
            print(_block(title, found, rival(found)), flush=True)
            print(f"  hours of ours over those: {figures[-1].value:.2f}, {figures[-1].compared_with}\n", flush=True)
    met = sum(one.met is True for one in figures)
    print(f"{met} of {len(figures)} with at most {AIM:.0%} of the replica-hours of the best that is as good")
    write("scaling-tuning" if given.tuning else "scaling", figures)


if __name__ == "__main__":
    main()
