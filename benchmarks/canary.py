"""Canary analysis in simulation: ours beside the rules of Argo Rollouts, Flagger, Kayenta and a peeked z-test.

    python benchmarks/canary.py [--quick] [--jobs N] [--parts errors times looks sizes promises] [--svg FILE]

What this is: rollouts of two hours at 500,000 requests a day, 5 % of one of three regions, made up request by request
from a seed; all rules on the same requests. Who calls it: `make bench-canary`. What it must never do: judge by other
code than the loop's (`canaries/ours.py` is that code over many runs at once; a test holds it against `judge`), or tell
a probability without its interval.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from canaries import drawing, ours, promises
from canaries.found import Found, rows
from canaries.runs import (
    ALSO,
    BATCH,
    BESIDE,
    EITHER,
    ERRORS,
    GOT,
    GRID,
    LOOKS,
    OURS,
    PEERS,
    SLOWER,
    TIMES_GRID,
    Job,
    Minutes,
    by_errors,
    by_times,
    joined,
)
from canaries.times import Shape
from canaries.traffic import DAY, Ints, Retries, Users, World
from figures import Figure, figure, table, write

from mainspring.decide.rollout import in_words

SEED = 20_260
HOME = World()
ALPHA, BETA = 0.05, 0.05
WORLDS: dict[str, World] = {
    "steady": HOME,
    "a morning: traffic grows fivefold": World(rise=5.0),
    "users retry, split by request": World(users=Users(), retries=Retries()),
    "users retry, split by user": World(users=Users(), retries=Retries(), sticky=True),
    "2 % of users meet all errors, split by user": World(users=Users(unlucky=0.02), retries=Retries(), sticky=True),
    "20 % fail on both for six minutes": World(incident=(0.3, 0.35, 0.2)),
    "two replicas die each hour, ten requests with each": World(deaths=(2.0, 10)),
    "one of four control replicas fails 20 %": World(bad=(0.25, 0.2)),
}
SHAPES: dict[str, tuple[World, Shape]] = {
    "both twice as slow for 20 minutes": (HOME, Shape(wave=(0.4, 0.57, 2.0))),
    "a morning: five times the traffic, times by half": (World(rise=5.0), Shape(growth=1.5)),
    "prompts four times as long by the end": (HOME, Shape(longer=4.0)),
    "one of four control replicas three times slower": (World(bad=(0.25, 0.001)), Shape(broken=3.0)),
    "split by user, prompts are the users' own": (World(users=Users(), sticky=True), Shape(own=0.8)),
}
SIZES = (
    (50_000.0, 0.05),
    (500_000.0, 0.01),
    (500_000.0, 0.05),
    (500_000.0, 0.5),
    (5_000_000.0, 0.01),
    (5_000_000.0, 0.05),
)
SLOW = 0.05  # of the answers may take longer than a p95
PROMISES = (("99.9 %", 0.001, 7.0), ("99.5 %", 0.005, 3.0), ("99 %", 0.01, 1.0), ("p95", SLOW, 1.0))
ASKS = (1, 3, 10)  # requests of each user, where a promise is one about users
TRUTHS = (0.0, 0.1, 0.2, 0.5, 1.0, 1.1, 1.5, 2.0)  # true share of errors over the promised one
TUNED = "Argo, 5 min, 99.9 %, limit 3 (tuned)"


@dataclass(frozen=True, slots=True)
class Bench:
    """How much of it is run, and where."""

    pool: ProcessPoolExecutor
    runs: int

    def batches(self, job: Job, work: Callable[[Job], Minutes]) -> Minutes:
        """A job over as many batches as there are runs."""
        size = min(job.runs, self.runs)
        jobs = [replace(job, runs=size, seed=(*job.seed, i)) for i in range(math.ceil(self.runs / size))]
        return joined(list(self.pool.map(work, jobs)))


def errors(bench: Bench) -> tuple[str, list[Figure], Minutes]:
    """The main table, and the best that a peer could have been set to for it."""
    minutes = bench.batches(Job(HOME, (SEED, 1), rules=(*PEERS, *GRID)), by_errors)
    best = best_of(minutes)
    names = [f"{OURS}, 10 s", GOT, *PEERS, best]
    cells = {name: [Found.of(minutes[name, f"{e:g}"]).cell() for e in ERRORS] for name in names}
    cells[f"{best}: best of {len(GRID)} settings, with hindsight"] = cells.pop(best)
    text = rows("% aborted in 2 h (median min); errors:", [f"{e:.1%}" for e in ERRORS], cells)
    mine = {e: Found.of(minutes[f"{OURS}, 10 s", f"{e:g}"]) for e in ERRORS}
    beside = {e: Found.of(minutes[TUNED, f"{e:g}"]) for e in ERRORS}
    figures = [
        figure(
            "false aborts in 2 h, a look each 10 s", mine[0.001].share, "of rollouts", mine[0.001].sure(), at_most=ALPHA
        )
    ]
    for e, most in ((0.01, None), (0.02, 23.0), (0.05, 8.0), (0.1, None)):
        name = f"{TUNED}: {beside[e].cell()}; ours aborts {mine[e].sure()}"
        figures.append(
            figure(f"{e:.0%} of answers fail: median time to abort", mine[e].median, "min", name, at_most=most)
        )
    return text, figures, minutes


def best_of(minutes: Minutes, settings: Iterable[str] = GRID, usual: str = "0.001", fault: str = "0.02") -> str:
    """Of the peers' settings with at most ALPHA false aborts here, the one that finds a fault soonest (2 h: never)."""
    allowed = [name for name in settings if Found.of(minutes[name, usual]).share <= ALPHA]
    return min(allowed, key=lambda name: float(np.nan_to_num(minutes[name, fault], nan=120.0).mean()))


def times(bench: Bench) -> tuple[str, list[Figure]]:
    """Versions that are slower: on all requests, and for long prompts only."""
    minutes = bench.batches(Job(HOME, (SEED, 2)), by_times)
    best = best_of(minutes, TIMES_GRID, "all x 1", "all x 1.5")
    shown = {"Argo, 5 min, p95 <= 3 s, limit 0", "Argo, 5 min, p95 <= 3 s, limit 3", best}
    unseen = {"share over 3 s", EITHER, *TIMES_GRID} - shown
    names = [name for name in dict.fromkeys(name for name, _ in minutes) if name not in unseen]
    found = {(name, version): Found.of(minutes[name, version]) for name in names for version in SLOWER}
    text = []
    for kind in ("all", "long"):
        versions = [v for v in SLOWER if v.startswith(kind) or v == "all x 1"]
        heads = [f"{v} ({np.mean(minutes['share over 3 s', v]):.1%})" for v in versions]
        lines = {name: [found[name, v].cell() for v in versions] for name in names}
        lines[f"{best}: best of {len(TIMES_GRID)} settings, with hindsight"] = lines.pop(best)
        text.append(rows("% aborted in 2 h (median min); times (share over 3 s):", heads, lines))
    same, bound = found[BESIDE, "all x 1"], found[BESIDE, "all x 1.2"]
    either = Found.of(minutes[EITHER, "all x 1"])
    twice = found[BESIDE, "all x 2"]
    longer = found[BESIDE, "long x 3"]
    figures = [
        figure("p95, times as before: false aborts", same.share, "of rollouts", same.sure(), at_most=ALPHA),
        figure("p95 or errors, nothing changed", either.share, "of rollouts", either.sure(), at_most=ALPHA),
        figure("p95, a fifth longer, which is allowed", bound.share, "of rollouts", bound.sure(), at_most=ALPHA),
        figure("p95, twice as long: median time to abort", twice.median, "min", f"aborts {twice.sure()}"),
        figure("long prompts take three times as long", longer.median, "min", f"aborts {longer.sure()}"),
    ]
    more, others = shapes(bench)
    return "\n\n".join([*text, more]), figures + others


def shapes(bench: Bench) -> tuple[str, list[Figure]]:
    """False aborts by times, whatever times are like on both versions."""
    lines: dict[str, list[str]] = {}
    figures = []
    for number, (name, (world, shape)) in enumerate(SHAPES.items()):
        job = Job(world, (SEED, 7, number), shape=shape, slower=("all x 1.2", "all x 2"), peers=False)
        minutes = bench.batches(job, by_times)
        found = [Found.of(minutes[BESIDE, version]) for version in job.slower]
        lines[name] = [one.cell() for one in found]
        one = found[0]
        figures.append(figure(f"p95 a fifth longer: {name}", one.share, "of rollouts", one.sure(), at_most=ALPHA))
    return rows("`p95: 20% over control`: % aborted (median min)", ["x 1.2, which is allowed", "x 2"], lines), figures


def looks(bench: Bench) -> tuple[str, list[Figure]]:
    """False aborts however often one looks, whatever the traffic is like; and what is still found there."""
    lines, figures, found_lines = {}, [], {}
    for number, (name, world) in enumerate(WORLDS.items()):
        job = Job(world, (SEED, 3, number), errors=(0.001, 0.02), looks=tuple(LOOKS.values()), also=True)
        minutes = bench.batches(job, by_errors)
        mine = [Found.of(minutes[f"{OURS}, {n * 10:g} s", "0.001"]) for n in LOOKS.values()]
        others = [Found.of(minutes[other, "0.001"]) for other in (ALSO, *PEERS)]
        lines[name] = [one.rate() for one in (*mine, *others)]
        worst = max(mine, key=lambda one: one.share)
        beside = f"the worst interval of looks, {worst.sure()}"
        figures.append(figure(f"false aborts: {name}", worst.share, "of rollouts", beside, at_most=ALPHA))
        if world.incident is None:  # in which the version itself is over such a bound
            also, title = Found.of(minutes[ALSO, "0.001"]), f"false aborts with `errors: 1%` too: {name}"
            figures.append(figure(title, also.share, "of rollouts", also.sure(), at_most=ALPHA))
        found = [Found.of(minutes[n, "0.02"]) for n in (f"{OURS}, 10 s", ALSO, *PEERS)]
        found_lines[name] = [one.cell() for one in found]
    heads = [*(f"{OURS}, each {look}" for look in LOOKS), ALSO, *PEERS]
    text = rows("% false aborts in 2 h (0.1 % fail)", heads, lines)
    return text + "\n\n" + rows("2 % fail: % aborted (median min)", [OURS, ALSO, *PEERS], found_lines), figures


def sizes(bench: Bench, best: str) -> tuple[str, list[Figure]]:
    """Other traffic and other shares, with everything set as it was: ours, the tuned ones, and the best of above."""
    versions, figures = {"0.001": "nothing changed", "0.01": "1 % fail", "0.02": "2 % fail"}, []
    lines: dict[str, dict[str, list[str]]] = {version: {} for version in versions}
    rules = (f"{OURS}, 10 s", *PEERS, best)
    for number, (per_day, share) in enumerate(SIZES):
        size = f"{per_day:,.0f} a day, {share:.0%} of a region"
        batch = min(BATCH, max(5, int(5e7 / per_day)))
        job = Job(World(per_day=per_day, share=share), (SEED, 4, number), batch, (0.001, 0.01, 0.02), rules[1:])
        minutes = bench.batches(job, by_errors)
        for version, table_ in lines.items():
            table_[size] = [Found.of(minutes[name, version]).cell() for name in rules]
        mine = Found.of(minutes[rules[0], "0.001"])
        figures.append(figure(f"false aborts: {size}", mine.share, "of rollouts", mine.sure(), at_most=ALPHA))
    heads = [*rules[:-1], f"{best} (above: best with hindsight)"]
    text = [rows(f"{title}: % aborted in 2 h (median min)", heads, lines[v]) for v, title in versions.items()]
    return "\n\n".join(text), figures


def certain(bench: Bench) -> tuple[str, list[Figure]]:
    """Days of a rollout until the promise is certain, at 5 % of one region; the control fails as often."""
    lines: dict[str, list[str]] = {}
    figures: list[Figure] = []
    for row, (name, promise, days) in enumerate(PROMISES):
        most = int(HOME.rate * HOME.share * days * DAY)
        enough = promises.certain_from(promise, BETA, int(most * 1.2))
        ends = _ends(bench, promise, days, enough, (SEED, 5, row))
        title = f"{name}, within {days:g} d"
        lines[title] = [_ended(sure, out) for sure, out in ends.values()]
        figures += _wrong(bench, name, promise, enough, most, (SEED, 6, row))
    heads = [f"x {truth:g}" for truth in TRUTHS]
    return rows("% promoted (median), % given up; true share / promised:", heads, lines), figures


def _ends(
    bench: Bench, promise: float, days: float, enough: Ints, seed: tuple[int, ...]
) -> dict[float, tuple[Found, Found]]:
    """For each true share over the promised one: when it was promoted, and when given up. Slow answers give up nobody
    here: they have bounds of their own.
    """
    size = min(BATCH, bench.runs)
    worlds = {truth: replace(HOME, seconds=days * DAY, errors=max(truth, 0.1) * promise) for truth in TRUTHS}
    least = None
    if promise < SLOW:
        least = ours.given_up(HOME, promises.events(worlds[TRUTHS[-1]], TRUTHS[-1] * promise))
    found = {}
    for column, (truth, world) in enumerate(worlds.items()):
        batches = range(math.ceil(bench.runs / size))
        jobs = [(world, truth * promise, enough, least, size, (*seed, column, i)) for i in batches]
        hours = np.concatenate(list(bench.pool.map(_walked, jobs)), axis=1)
        found[truth] = Found.of(hours[0] * 60), Found.of(hours[1] * 60)
    return found


def _wrong(bench: Bench, name: str, promise: float, enough: Ints, most: int, seed: tuple[int, ...]) -> Iterator[Figure]:
    """Wrong promotions at exactly the promise: exact, since the chance is near what is allowed.

    And when users retry, so that errors come in rows of three on average. Split by request, the rest of a row mostly
    meets the other version: rows of 1.1. Where all requests are the candidate's and users are not told apart there is
    no guard. Split by user, the promise is one about users: where each asks once, fewer of them than of the requests
    fail. None of these has an aim, but they are not to be hidden.
    """
    title, chance = f"wrong promotions at {name}", promises.ever_certain(promise, enough, most)
    yield figure(title, chance, "of rollouts", "exact", at_most=BETA)
    if promise >= SLOW:
        return
    runs = 20 * bench.runs
    for way, length in (("split by request", 1 + 2 * HOME.share), ("no split", 3.0)):
        one = Found(runs, int(promises.clumped(promise, length, enough, most, runs, seed).sum()), math.nan)
        yield figure(f"{title}, errors in rows of 3, {way}", one.share, "of rollouts", one.sure())
    for asks in ASKS:
        chance, (failing, _) = promises.by_user(promise, 3.0, asks, enough, most), promises.of_users(promise, 3.0, asks)
        way = f"promoted at {name}, errors in rows of 3, split by user, {asks} requests of each"
        yield figure(way, chance, "of rollouts", f"exact; {failing:.3%} of the users meet an error")


def _ended(sure: Found, out: Found) -> str:
    when = f" ({sure.median / 60:.1f} h)" if sure.hits else ""
    return f"{sure.rate()}{when}, {out.rate()}"


def _walked(given: tuple[World, float, Ints, Ints | None, int, tuple[int, ...]]) -> np.ndarray:
    return np.stack(promises.walk(*given))


def needed() -> str:
    """How long a promotion takes when nothing fails."""
    lines = {}
    for name, promise, _ in PROMISES:
        count = int(promises.certain_from(promise, BETA, 10_000)[0])
        places = ((HOME.part, 0.05), (1.0, 0.05), (HOME.part, 0.2), (1.0, 0.5))
        seconds = [count / (HOME.per_day / DAY * part * share) for part, share in places]
        lines[name] = [f"{count:,}", *(in_words(s) for s in seconds)]
    heads = ["answers, none of them bad", "5 % of a region", "5 % of all", "20 % of a region", "50 % of all"]
    return rows("promised", heads, lines)


def _parts(bench: Bench, wanted: Sequence[str], svg: Path | None) -> Iterator[tuple[str, str, list[Figure]]]:
    best = TUNED
    if {"errors", "sizes"} & set(wanted) or svg:
        text, figures, minutes = errors(bench)
        best = best_of(minutes)
        yield "errors", text, figures
        if svg:
            names = {n: Found.of(minutes[n, "0.001"]).share for n in (f"{OURS}, 10 s", *PEERS)}
            drawn = {f"{n}: {false:.1%} of the unchanged": minutes[n, "0.02"] for n, false in names.items()}
            title = "2 % of a new version's answers fail: share of rollouts given up, by minutes"
            svg.write_text(drawing.over_time(title, drawn), encoding="utf-8")
    if "times" in wanted:
        yield "times", *times(bench)
    if "looks" in wanted:
        yield "looks", *looks(bench)
    if "sizes" in wanted:
        yield "sizes", *sizes(bench, best)
    if "promises" in wanted:
        text, figures = certain(bench)
        yield "promises", needed() + "\n\n" + text, figures


def main() -> None:
    """Run the parts, print tables and figures, write."""
    parts = ("errors", "times", "looks", "sizes", "promises")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 runs each instead of 2,000")
    parser.add_argument("--runs", type=int, default=0, help="so many runs each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--svg", type=Path, help="also draw who was given up by when")
    given = parser.parse_args()
    runs, began = given.runs or (200 if given.quick else 2000), time.perf_counter()
    print(f"seed {SEED}, {runs:,} runs each; 95 % intervals (Wilson)\n")
    figures: list[Figure] = []
    with ProcessPoolExecutor(given.jobs) as pool:
        for name, text, found in _parts(Bench(pool, runs), given.parts, given.svg):
            print(f"{name}, after {time.perf_counter() - began:.0f} s\n\n{text}\n", flush=True)
            figures += found
    print(table(figures))
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"\n{time.perf_counter() - began:.0f} s, {used:.0f} s of CPU")
    write("canary", figures)


if __name__ == "__main__":
    main()
