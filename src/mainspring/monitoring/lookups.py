"""What reports, the meter and the command line read from the prediction store.

What this is: plain look-ups on its tables, each with its value type. Who calls it: `PredictionStore`. What it must
never do: change a count that decisions use (`forget` moves what it deletes into the totals first).
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from mainspring.decide.price import Usage
from mainspring.facts.records import FIRST_EDGES
from mainspring.loop.readings import Quality
from mainspring.monitoring.answers import COUNTS, FIRST, quality_of
from mainspring.monitoring.segments import DAY, FAILED, LIVE, MIRROR, OK, SPOKEN


@dataclass(frozen=True, slots=True)
class Counts:
    """Live traffic of an endpoint since the beginning."""

    requests: int  # distinct ids of requests, answered or not
    predictions: int  # distinct rows that were answered
    errors: int  # requests that never got an answer (no status, or 5xx)
    refused: int  # requests that were the client's own fault (4xx)
    repeats: int  # records beyond the first of a request: sent again, or sent to two revisions
    by_revision: dict[str, int]  # predictions


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month of live answers."""

    month: str  # "2013-03", UTC
    requests: int
    errors: int
    quality: Quality


@dataclass(frozen=True, slots=True)
class Told:
    """A live answer, and its outcome once it is known."""

    id: str
    at: float
    revision: str
    version: str
    score: float | None
    truth: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What a live request carried."""

    id: str
    at: float
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one version of a language model said, repeats included."""

    endpoint: str
    revision: str
    role: str  # "live" | "mirror"
    answers: int
    prompt: int  # tokens
    output: int
    cached: int  # of the prompts' tokens, those that the prefix cache had
    drafted: int  # tokens guessed ahead
    accepted: int  # of them, those that were right
    cut: int  # streams that broke off
    first_p50: float | None  # seconds to the first token: the upper edge of the bucket; None without streams
    first_p95: float | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment file."""

    name: str
    offset: int  # bytes taken in
    size: int  # bytes there are; 0 when it is gone
    records: int
    bad: int  # lines that were no records
    gone: bool


_TOLD = (
    "SELECT p.id, p.at, p.revision, p.version, p.score, t.value, p.seconds FROM predictions p "
    "LEFT JOIN truths t ON t.endpoint = p.endpoint AND t.id = p.id "
    f"WHERE p.endpoint = ? AND p.role = {LIVE} AND p.rank = {OK} AND {FIRST} "
)
_BEST = (
    "SELECT endpoint, min(rank) AS best, min(at) AS at FROM predictions "
    f"WHERE role = {LIVE} AND row = 0 AND {{}} GROUP BY endpoint, id"
)
_REQUESTS = f"count(*), ifnull(sum(best = {FAILED}), 0), ifnull(sum(best NOT IN ({OK}, {FAILED})), 0)"
_REQUEST = -1  # the role under which `forgotten` keeps requests, whatever their revisions


def counts(db: sqlite3.Connection, endpoint: str) -> Counts:
    """Count the live traffic of an endpoint; what was forgotten counts on."""
    by_revision: dict[str, int] = dict(
        db.execute(
            f"SELECT p.revision, count(*) FROM predictions p WHERE p.endpoint = ? AND p.role = {LIVE} "
            f"AND p.rank = {OK} AND {FIRST} GROUP BY p.revision",
            (endpoint,),
        )
    )
    requests, errors, refused = db.execute(
        f"SELECT {_REQUESTS} FROM ({_BEST.format('endpoint = ?')})", (endpoint,)
    ).fetchone()
    old = db.execute(
        "SELECT revision, role, requests, predictions, errors, refused FROM forgotten WHERE endpoint = ?", (endpoint,)
    ).fetchall()
    for revision, role, more, predictions, failed, faulty in old:
        if role == _REQUEST:
            requests, errors, refused = requests + more, errors + failed, refused + faulty
        elif role == LIVE:
            by_revision[revision] = by_revision.get(revision, 0) + predictions
    (records,) = db.execute(
        f"SELECT ifnull(sum(records), 0) FROM tallies WHERE endpoint = ? AND role = {LIVE}", (endpoint,)
    ).fetchone()
    by_revision = {name: by_revision[name] for name in sorted(by_revision) if by_revision[name]}
    return Counts(requests, sum(by_revision.values()), errors, refused, records - requests, by_revision)


def month_of(at: float) -> str:
    """Name the calendar month (UTC) of a moment."""
    return _month_of_day(int(at // DAY))


@lru_cache(maxsize=4096)
def _month_of_day(day: int) -> str:
    try:
        return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m")
    except (ValueError, OverflowError, OSError):
        return "unknown"


def by_month(db: sqlite3.Connection, endpoint: str) -> tuple[Month, ...]:
    """Judge the live answers month by month."""
    requests: dict[str, list[int]] = {}
    for _, best, at in db.execute(_BEST.format("endpoint = ?"), (endpoint,)):
        count = requests.setdefault(month_of(at), [0, 0])
        count[0] += 1
        count[1] += best == FAILED
    scored: dict[str, list[tuple[float, float | None]]] = {}
    for told in _told(db.execute(_TOLD + "ORDER BY p.at, p.id", (endpoint,))):
        if told.score is not None:
            scored.setdefault(month_of(told.at), []).append((told.score, told.truth))
    return tuple(
        Month(month, count[0], count[1], quality_of(scored.get(month, [])))
        for month in sorted({*requests, *scored})
        for count in [requests.get(month, [0, 0])]
    )


def _told(cursor: Iterable[tuple[Any, ...]]) -> Iterator[Told]:
    return (Told(*row) for row in cursor)


def rows(db: sqlite3.Connection, endpoint: str, since: float, until: float) -> Iterator[Told]:
    """Give the live answers of a stretch of event time, in the order of (at, id)."""
    sql = _TOLD + "AND p.at >= ? AND p.at < ? ORDER BY p.at, p.id"
    return _told(db.execute(sql, (endpoint, since, until)).fetchall())


def outputs(db: sqlite3.Connection, endpoint: str, ids: Iterable[str]) -> dict[str, Told]:
    """Give the live answers of these ids."""
    found = (db.execute(_TOLD + "AND p.id = ?", (endpoint, id_)).fetchone() for id_ in ids)
    return {row[0]: Told(*row) for row in found if row is not None}


def inputs(db: sqlite3.Connection, endpoint: str, since: float, until: float) -> Iterator[Asked]:
    """Give what was asked in a stretch of event time, in the order of (at, id)."""
    layouts = {number: msgspec.json.decode(names) for number, names in db.execute("SELECT id, names FROM layouts")}
    found = db.execute(
        "SELECT p.id, p.at, p.layout, p.inputs FROM predictions p INDEXED BY predictions_at "
        "WHERE p.endpoint = ? AND p.at >= ? AND p.at < ? "
        f"AND p.role = {LIVE} AND p.rank = {OK} AND p.inputs IS NOT NULL AND {FIRST} ORDER BY p.at, p.id",
        (endpoint, since, until),
    ).fetchall()
    return (
        Asked(id_, at, dict(zip(layouts[layout], msgspec.msgpack.decode(packed), strict=False)))
        for id_, at, layout, packed in found
    )


_TOTALS = (
    "SELECT p.endpoint, p.revision, p.role, sum(p.row = 0), sum(p.rank = 0), sum(p.row = 0 AND p.rank = 2), "
    f"sum(p.row = 0 AND p.rank = 1) FROM predictions p WHERE (p.role <> {LIVE} OR {COUNTS}) "
)


def usage(db: sqlite3.Connection) -> tuple[Usage, ...]:
    """Say what each revision did in each role, forgotten rows included, in the order of names."""
    done: dict[tuple[str, str, int], list[int]] = {}
    for endpoint, revision, role, *numbers in [
        *db.execute(_TOTALS + "GROUP BY 1, 2, 3"),
        *db.execute(
            "SELECT endpoint, revision, role, requests, predictions, errors, refused FROM forgotten WHERE role <> ?",
            (_REQUEST,),
        ),
    ]:
        total = done.setdefault((endpoint, revision, role), [0, 0, 0, 0])
        done[endpoint, revision, role] = [a + b for a, b in zip(total, numbers, strict=True)]
    compute = db.execute(
        "SELECT endpoint, revision, role, total(compute) FROM tallies GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    )
    return tuple(
        Usage(endpoint, revision, "live" if role == LIVE else "mirror", n[0], n[1], n[2], nanoseconds / 1e9)
        for endpoint, revision, role, nanoseconds in compute
        for n in [done.get((endpoint, revision, role), [0, 0, 0, 0])]
    )


def forget(db: sqlite3.Connection, before: float) -> int:
    """Delete what is older, after adding it to the totals; give the number of rows deleted."""
    found = db.execute(_TOTALS + "AND p.at < ? GROUP BY 1, 2, 3", (before,)).fetchall()
    found += db.execute(
        f"SELECT endpoint, '', {_REQUEST}, count(*), 0, ifnull(sum(best = {FAILED}), 0), "
        f"ifnull(sum(best NOT IN ({OK}, {FAILED})), 0) FROM ({_BEST.format('at < ?')}) GROUP BY endpoint",
        (before,),
    ).fetchall()
    db.executemany(
        "INSERT INTO forgotten VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (endpoint, revision, role) DO UPDATE SET "
        "requests = requests + excluded.requests, predictions = predictions + excluded.predictions, "
        "errors = errors + excluded.errors, refused = refused + excluded.refused",
        found,
    )
    deleted = db.execute("DELETE FROM predictions WHERE at < ?", (before,)).rowcount
    for table in ("truths", "feedback"):
        db.execute(f"DELETE FROM {table} WHERE at < ?", (before,))
    return deleted


def spoken(db: sqlite3.Connection) -> tuple[Spoken, ...]:
    """Say what each version of each language model said, in the order of names."""
    firsts: dict[tuple[str, str, int], list[int]] = {}
    for endpoint, revision, role, bucket, streams in db.execute(
        "SELECT endpoint, revision, role, bucket, sum(streams) FROM firsts GROUP BY 1, 2, 3, 4"
    ):
        firsts.setdefault((endpoint, revision, role), [0] * (len(FIRST_EDGES) + 1))[bucket] = streams
    sums = ", ".join(f"sum({c})" for c in SPOKEN)
    return tuple(
        Spoken(
            endpoint, revision, "live" if role == LIVE else "mirror", *numbers,
            *(_quantile(firsts.get((endpoint, revision, role), []), q) for q in (0.5, 0.95)),
        )
        for endpoint, revision, role, *numbers in db.execute(
            f"SELECT endpoint, revision, role, {sums} FROM spoken GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
        )
    )  # fmt: skip


def _quantile(buckets: list[int], q: float) -> float | None:
    """The upper edge of the bucket that a quantile falls into; None without any."""
    total, reached = sum(buckets), 0
    for edge, count in zip((*FIRST_EDGES, math.inf), buckets, strict=False):
        reached += count
        if total and reached >= q * total:
            return edge
    return None


def segments(db: sqlite3.Connection, folder: Path) -> tuple[Segment, ...]:
    """Show how far each known segment file was taken in."""
    found = db.execute("SELECT name, offset, records, bad, gone FROM segments ORDER BY name").fetchall()
    return tuple(
        Segment(name, offset, _size(folder / name), records, bad, bool(gone))
        for name, offset, records, bad, gone in found
    )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def settled(db: sqlite3.Connection, segment: str) -> bool:
    """Say whether every mirror copy that a segment's records owe has been logged, or its request forgotten."""
    same = "SELECT 1 FROM predictions p INDEXED BY predictions_key WHERE p.endpoint = o.endpoint AND p.id = o.id"
    waiting = db.execute(
        f"SELECT 1 FROM owed o WHERE o.segment = ? AND EXISTS ({same} AND p.role = {LIVE}) "
        f"AND NOT EXISTS ({same} AND p.role = {MIRROR} AND p.revision = o.revision) LIMIT 1",
        (segment,),
    ).fetchone()
    return waiting is None
