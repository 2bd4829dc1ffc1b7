"""The loop's questions, answered from the prediction store's tables, exactly as `loop/readings.py` defines them.

What this is: one function a query. Who calls it: `PredictionStore.samples`. What it must never do: depend on the
order in which records arrived (rows are taken in the order of (at, id), sums are exact), or answer zero for unknown.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mainspring.decide.reference import Reference, from_json
from mainspring.loop.readings import (
    LATENCY_EDGES,
    ArmsQuery,
    DayPairs,
    Drift,
    DriftQuery,
    FeatureDrift,
    Pairs,
    PairsQuery,
    Quality,
    QualityQuery,
    Query,
    Reading,
    Spend,
    SpendQuery,
    Traffic,
    TrafficQuery,
    Unknown,
)
from mainspring.monitoring.arms import Rollouts
from mainspring.monitoring.arms_rows import rounded
from mainspring.monitoring.segments import DAY, FAILED, LIVE, MIRROR, OK

BINS = 1000
_AT = "INDEXED BY predictions_at"  # by (endpoint, at, id): what a stretch of event time is read by
_KEY = "INDEXED BY predictions_key"  # by id; left to itself SQLite takes the other, a thousand times slower
FIRST = f"""NOT EXISTS (SELECT 1 FROM predictions o {_KEY}
 WHERE o.endpoint = p.endpoint AND o.id = p.id AND o.role = {LIVE} AND o.rank = {OK}
 AND o.revision <> p.revision AND (o.at, o.revision) < (p.at, p.revision))"""
"""A live answer `p` is the first that its id got, of all revisions."""
COUNTS = f"(p.rank <> {OK} OR {FIRST})"
"""A live record `p` counts: a failure always does, a success when it is the first."""


@dataclass(slots=True)
class References:
    """The drift references of versions, read once each; an artefact never changes."""

    artefacts: Callable[[str, str], Path | None]
    read: dict[tuple[str, str], Reference] = field(default_factory=dict)

    def get(self, model: str, version: str) -> Reference | str:
        """Give a version's reference, or say why there is none."""
        found = self.read.get((model, version))
        if found is not None:
            return found
        folder = self.artefacts(model, version)
        if folder is None:
            return f"version `{version}` of `{model}` has no artefact"
        try:
            reference = from_json((folder / "reference.json").read_bytes())
        except (OSError, ValueError) as error:
            return f"the reference of `{model}` version `{version}` cannot be read: {error}"
        self.read[model, version] = reference
        return reference


@dataclass(slots=True)
class Asked:
    """What answers rest on beside the tables."""

    references: References
    spend: Callable[[float], float] | None
    rollouts: Rollouts
    alive: frozenset[str] | None = None  # gateway workers that ran when records were last taken in; None: not known


def answer(db: sqlite3.Connection, asked: Asked, query: Query) -> Reading | Unknown:
    """Answer one query; a store that cannot be read makes it unknown."""
    try:
        match query:
            case TrafficQuery():
                return _traffic(db, query)
            case ArmsQuery():
                return asked.rollouts.answer(db, query, asked.alive)
            case PairsQuery():
                return _pairs(db, query)
            case QualityQuery():
                return quality_of(db.execute(_SCORED, (query.endpoint, query.since, query.until)))
            case DriftQuery():
                return _drift(db, asked.references, query)
            case SpendQuery():
                spend = asked.spend
                return Unknown("no meter runs here") if spend is None else Spend(spend(query.period))
    except sqlite3.Error as error:
        return Unknown(f"the prediction store cannot be read: {error}")


_SCORED = f"""SELECT p.score, t.value FROM predictions p {_AT}
 LEFT JOIN truths t ON t.endpoint = p.endpoint AND t.id = p.id
 WHERE p.endpoint = ? AND p.at >= ? AND p.at < ? AND p.role = {LIVE} AND p.rank = {OK} AND p.score IS NOT NULL
 AND {FIRST} ORDER BY p.at, p.id"""


def _traffic(db: sqlite3.Connection, query: TrafficQuery) -> Traffic:
    role = LIVE if query.role == "live" else MIRROR
    counting = f" AND {COUNTS}" if role == LIVE else ""
    rows = db.execute(
        f"SELECT p.rank, p.tries, p.upstream, p.compute FROM predictions p {_AT} WHERE p.endpoint = ? AND p.at >= ? "
        f"AND p.at < ? AND p.revision = ? AND p.role = ? AND p.row = 0{counting}",
        (query.endpoint, query.since, query.until, query.revision, role),
    ).fetchall()
    calm = np.array([upstream for rank, tries, upstream, _ in rows if rank == OK and tries == 1], dtype=np.float64)
    buckets = np.bincount(np.searchsorted(np.asarray(LATENCY_EDGES), calm), minlength=len(LATENCY_EDGES) + 1)
    return Traffic(
        requests=len(rows),
        errors=sum(1 for rank, *_ in rows if rank == FAILED),
        latency=tuple(int(n) for n in buckets),
        compute=math.fsum(compute for *_, compute in rows),
    )


_PAIRED = f"""SELECT live.id, live.at, live.score, mirror.score, t.value FROM predictions live {_AT}
 JOIN predictions mirror {_KEY}
 ON mirror.endpoint = live.endpoint AND mirror.id = live.id AND mirror.role = {MIRROR}
 AND mirror.revision = ? AND mirror.rank = {OK} AND mirror.score IS NOT NULL
 LEFT JOIN truths t ON t.endpoint = live.endpoint AND t.id = live.id
 WHERE live.endpoint = ? AND live.at >= ? AND live.at < ? AND live.role = {LIVE} AND live.revision = ?
 AND live.rank = {OK} AND live.score IS NOT NULL"""


def _pairs(db: sqlite3.Connection, query: PairsQuery) -> Pairs:
    """An id paired both ways round (asked twice) counts once, with the candidate as the mirror."""
    found: dict[str, tuple[float, float, float, float | None]] = {}
    for hidden, shown in ((query.candidate, query.control), (query.control, query.candidate)):
        asked = (hidden, query.endpoint, query.since, query.until, shown)
        for id_, at, live, mirror, truth in db.execute(_PAIRED, asked):
            candidate, control = (mirror, live) if hidden == query.candidate else (live, mirror)
            found.setdefault(id_, (at, candidate, control, truth))
    days: dict[int, list[tuple[float, float, float]]] = {}
    differences: Counter[float] = Counter()
    untold = 0
    for at, candidate, control, truth in found.values():
        if truth is None:
            untold += 1
        else:
            days.setdefault(int(at // DAY), []).append((candidate, control, truth))
            differences[rounded((candidate - truth) ** 2 - (control - truth) ** 2)] += 1
    return Pairs(tuple(_day(day, days[day]) for day in sorted(days)), untold, tuple(sorted(differences.items())))


def _day(day: int, rows: list[tuple[float, float, float]]) -> DayPairs:
    return DayPairs(
        day=day,
        rows=len(rows),
        loss_candidate=math.fsum((candidate - truth) ** 2 for candidate, _, truth in rows),
        loss_control=math.fsum((control - truth) ** 2 for _, control, truth in rows),
        positives=sum(1 for *_, truth in rows if truth == 1),
    )


def quality_of(scored: Iterable[tuple[float, float | None]]) -> Quality:
    """Sum up (score, truth or None)."""
    told: list[tuple[float, float]] = []
    untold = 0
    for score, truth in scored:
        if truth is None:
            untold += 1
        else:
            told.append((score, truth))
    score_of = np.array([score for score, _ in told], dtype=np.float64)
    positive = np.array([truth for _, truth in told], dtype=np.float64) == 1
    bins = np.clip(np.floor(score_of * BINS), 0, BINS - 1).astype(np.int64)
    return Quality(
        rows=len(told),
        positives=int(positive.sum()),
        loss=math.fsum((score - truth) ** 2 for score, truth in told),
        score=math.fsum(score for score, _ in told),
        histogram_positive=tuple(np.bincount(bins[positive], minlength=BINS).tolist()),
        histogram_negative=tuple(np.bincount(bins[~positive], minlength=BINS).tolist()),
        untold=untold,
    )


def _drift(db: sqlite3.Connection, references: References, query: DriftQuery) -> Drift | Unknown:
    reference = references.get(query.model, query.version)
    if isinstance(reference, str):
        return Unknown(reference)
    length = query.until - query.since
    if abs(reference.window - length) > 0.01 * length:
        return Unknown(f"the reference is calibrated for windows of {reference.window:g} s, not of {length:g} s")
    raw = tuple(name for name in query.features if name)
    columns: dict[str, list[Any]] = {name: [] for name in query.features}
    places: dict[int, tuple[int | None, ...]] = {}
    unpack = msgspec.msgpack.Decoder(list[Any]).decode
    rows = 0
    for score, layout, packed in db.execute(
        "SELECT p.score, p.layout, p.inputs FROM predictions p INDEXED BY predictions_at "
        "WHERE p.endpoint = ? AND p.at >= ? AND p.at < ? "
        f"AND p.role = {LIVE} AND p.rank = {OK} AND {FIRST} ORDER BY p.at, p.id",
        (query.endpoint, query.since, query.until),
    ):
        rows += 1
        if "" in columns and score is not None:
            columns[""].append(score)
        if raw and packed is not None:
            if layout not in places:
                places[layout] = _places(db, layout, raw)
            values = unpack(packed)
            for name, place in zip(raw, places[layout], strict=True):
                columns[name].append(None if place is None else values[place])
    return Drift(rows, tuple(f for name in query.features if (f := _feature(reference, name, columns[name]))))


def _places(db: sqlite3.Connection, layout: int, names: tuple[str, ...]) -> tuple[int | None, ...]:
    """Where each name stands in a layout; None when requests of this layout do not carry it (it counts as missing)."""
    (text,) = db.execute("SELECT names FROM layouts WHERE id = ?", (layout,)).fetchone()
    there = {name: place for place, name in enumerate(msgspec.json.decode(text))}
    return tuple(there.get(name) for name in names)


def _feature(reference: Reference, name: str, values: list[Any]) -> FeatureDrift | None:
    known = reference.get(name)
    if known is None:
        return None
    return FeatureDrift(name, known.shares, tuple(int(n) for n in known.bin_counts(values)), known.inside)
