"""The rows of the prediction store that a rollout is judged by, and up to when they are all there.

What this is: the queries of `arms.py`. Who calls it: `arms.py`. What it must never do: count.

A request is one row here: its first, for the revision that it fell on then (`COUNTS`). Gateway workers say up to when
all requests have ended, and all copies of them (`WrittenRecord`). What a worker does not say is taken to last for the
endpoint's time limit, and a copy for as long again after its request, 30 s at least.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from mainspring.loop.readings import ArmsQuery
from mainspring.monitoring.segments import FATE, FELL, LIVE, MIRROR, OK, STOOD_IN

MIRROR_LAG = 30.0
"""Seconds that a copy of a prediction is tried for."""
_AT = "INDEXED BY predictions_at"
_CAME = "ifnull({0}.came, {0}.at)"
COUNTS = f"""(p.role = {LIVE} AND p.row = 0 AND {FATE.format("p")} <> {STOOD_IN}
 AND ({FATE.format("p")} = {FELL} OR NOT EXISTS (SELECT 1 FROM predictions o INDEXED BY predictions_key
 WHERE o.endpoint = p.endpoint AND o.id = p.id AND o.role = {LIVE} AND o.revision <> p.revision
 AND ({_CAME.format("o")}, o.revision) < ({_CAME.format("p")}, p.revision))))"""
"""A row `p` is its request's first, or the failure of one."""
_COLUMNS = f"""p.revision, {_CAME.format("p")}, {FATE.format("p")}, iif(p.unit = '', p.id, p.unit), p.asked, p.region,
 p.at = {_CAME.format("p")} AND p.rank = {OK}, p.whole, p.tries, p.upstream, p.first, p.output, p.compute"""
_ROWS = f"""SELECT {_COLUMNS} FROM predictions p {_AT}
 WHERE p.endpoint = ? AND p.at >= ? AND {_CAME.format("p")} >= ? AND {_CAME.format("p")} < ?
 AND p.revision IN ({{}}) AND {COUNTS}"""
_COPIES = f"""SELECT {_COLUMNS} FROM predictions p {_AT} WHERE p.endpoint = ?
 AND p.at >= ? AND p.at < ? AND p.revision = ? AND p.role = {MIRROR} AND p.row = 0
 AND NOT ({FATE.format("p")} = {FELL} AND p.upstream = 0.0)"""  # one that no replica had tells nothing
_TOLD = f"""SELECT p.revision = ?, iif(p.unit = '', p.id, p.unit), f.value FROM feedback f INDEXED BY feedback_at
 JOIN predictions p INDEXED BY predictions_key ON p.endpoint = f.endpoint AND p.id = f.id AND p.role = {LIVE}
 WHERE f.endpoint = ? AND f.field = ? AND f.at >= ? AND f.at < ? AND {_CAME.format("p")} >= ?
 AND {_CAME.format("p")} < ? AND p.rank = {OK} AND p.at = {_CAME.format("p")} AND p.revision IN ({{}}) AND {COUNTS}"""


class Asked(NamedTuple):
    """A request, or a copy."""

    revision: str
    came: float
    fate: int
    unit: str
    asked: int
    region: str
    answered: int  # its answer is to this very try
    whole: int
    tries: int
    upstream: float
    first: float
    output: int
    compute: float


def ended(db: sqlite3.Connection, query: ArmsQuery, alive: Collection[str] | None) -> tuple[float, float]:
    """Up to which event time every request of an endpoint has ended and is in the store, and up to which its copies.

    `alive`: the gateway workers that run; None: not known, and then those that have given their word.
    """
    sure = query.until - query.lag
    surely = sure - max(query.lag, MIRROR_LAG)
    told = {
        worker: (at, copies)
        for worker, at, copies in db.execute(
            "SELECT worker, at, copies FROM written WHERE endpoint = ?", (query.endpoint,)
        )
    }
    words = [told.get(worker, (sure, None)) for worker in (told if alive is None else alive)]
    live = min(query.until, max(sure, min((at for at, _ in words), default=sure)))
    copied = min((surely if copies is None else copies for _, copies in words), default=surely)
    return live, min(live, max(surely, copied))


def live(
    db: sqlite3.Connection, query: ArmsQuery, names: tuple[str, ...], begins: float, ends: float, region: str
) -> Iterator[Asked]:
    """Give the requests of these revisions that came in [begins, ends), in any order."""
    sql = _ROWS.format(", ".join("?" * len(names)))
    values: tuple[object, ...] = (query.endpoint, begins, begins, ends, *names)
    if region:
        sql, values = f"{sql} AND p.region = ?", (*values, region)
    return map(Asked._make, db.execute(sql, values))


def copies(db: sqlite3.Connection, query: ArmsQuery, begins: float, ends: float) -> Iterator[Asked]:
    """Give the copies of requests that came in [begins, ends), in any order."""
    return map(Asked._make, db.execute(_COPIES, (query.endpoint, begins, ends, query.candidate)))


class Told(NamedTuple):
    """Feedback: how often each value was given on the candidate and on the control."""

    values: tuple[Counter[float], Counter[float]]
    answers: int  # of the candidate, that there is feedback on


def told(db: sqlite3.Connection, query: ArmsQuery, name: str, until: float) -> Told:
    """The feedback on the stage's answers that was known by then; it comes after the answer.

    Where the split is made by users, one value of each: the mean.
    """
    names = (query.candidate, *query.control)
    sql = _TOLD.format(", ".join("?" * len(names)))
    since = query.stage_since
    values: tuple[object, ...] = (query.candidate, query.endpoint, name, since, until, since, until, *names)
    if query.region:
        sql, values = f"{sql} AND p.region = ?", (*values, query.region)
    given: dict[tuple[int, str], list[float]] = {}
    found: tuple[Counter[float], Counter[float]] = (Counter(), Counter())
    answers = 0
    for is_candidate, unit, value in db.execute(sql, values):
        answers += is_candidate
        if query.sticky:
            given.setdefault((is_candidate, unit), []).append(value)
        else:
            found[0 if is_candidate else 1][rounded(value)] += 1
    for (is_candidate, _), of in given.items():
        found[0 if is_candidate else 1][rounded(math.fsum(of) / len(of))] += 1
    return Told(found, answers)


def rounded(value: float) -> float:
    """To a thousandth; what lies in the middle goes away from zero."""
    return math.copysign(math.floor(abs(value) * 1000 + 0.5) / 1000, value) if value else 0.0
