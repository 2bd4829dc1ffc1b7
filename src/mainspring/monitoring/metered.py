"""Who used what, each line once: the meter's part of the prediction store.

What this is: tables in `predictions.db` of what was used, by real day, endpoint, tenant, key, revision and role; and
of the language requests that are on their way. Who calls it: `PredictionStore`, inside its transactions. What it must
never do: count by a client's id (each line of a segment counts, also when two requests have one id), or charge a
request both for its end and for having none.

A request is known by its worker, the worker's boot and its number `n` since then. Its end may be read before or after
its beginning. When the boot is over and all that it wrote is taken in, a beginning without an end is an orphan: charged
the tokens of its prompt, no output and no seconds, and counted apart. Should its end come after all (a boot was taken
for over that was not), the charge is taken back and the end counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from mainspring.decide.price import Usage
from mainspring.monitoring.segments import DAY, LIVE, METERED, Batch

Boot = tuple[str, str]
"""A gateway worker's name, and which of its lives."""

NAMES = ("endpoint", "tenant", "key", "revision")
"""What use is metered apart by, beside day and role."""
_ACCOUNT = ", ".join(["day INTEGER NOT NULL", *(f"{name} TEXT NOT NULL" for name in NAMES), "role INTEGER NOT NULL"])
_REQUEST = f"worker TEXT NOT NULL, boot TEXT NOT NULL, n INTEGER NOT NULL, {_ACCOUNT}, prompt INTEGER NOT NULL"
TABLES = f"""
CREATE TABLE IF NOT EXISTS metered (
  {_ACCOUNT}, {", ".join(f"{column} INTEGER NOT NULL" for column in METERED)},
  PRIMARY KEY (day, endpoint, tenant, key, revision, role)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS metered_whom ON metered (endpoint, tenant, day);
CREATE INDEX IF NOT EXISTS metered_key ON metered (key, day);
CREATE TABLE IF NOT EXISTS begun ({_REQUEST}, PRIMARY KEY (worker, boot, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS orphans ({_REQUEST}, PRIMARY KEY (worker, boot, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (
  worker TEXT NOT NULL, boot TEXT NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
  PRIMARY KEY (worker, boot, low)) WITHOUT ROWID;
"""
"""`ended` holds the numbers of requests that ended, as ranges without gaps: nearly all do, so there are few."""
_ADD = (
    f"INSERT INTO metered VALUES ({', '.join('?' * (6 + len(METERED)))}) "
    "ON CONFLICT (day, endpoint, tenant, key, revision, role) DO UPDATE SET "
    + ", ".join(f"{column} = {column} + excluded.{column}" for column in METERED)
)
_OF = "WHERE worker = ? AND boot = ?"
_KEPT = "day, endpoint, tenant, key, revision, role, prompt"


@dataclass(frozen=True, slots=True)
class Used:
    """What somebody used of an endpoint since a day, live requests only."""

    requests: int  # those without an end included
    tokens: int  # of prompts and answers
    seconds: float  # core-seconds
    dollars: float  # at the rate that was asked with


def origin(name: str) -> tuple[str, str, int]:
    """Worker, boot and number of a segment file's name, `<worker>-<boot>-<number>.jsonl`."""
    parts = name.removesuffix(".jsonl").rsplit("-", 2)
    if len(parts) < 3 or not parts[2].isascii() or not parts[2].isdigit():
        return name, "", 0
    return parts[0], parts[1], int(parts[2][:18])


def born(boot: str) -> float | None:
    """When a boot began, POSIX seconds: its first twelve digits are milliseconds, in hexadecimal; None: not so."""
    try:
        return int(boot[:12], 16) / 1000.0 if len(boot) == 16 else None
    except ValueError:
        return None


# Taking in


def take(db: sqlite3.Connection, boot: Boot, batch: Batch) -> None:
    """Add what the lines of a piece of a segment say; in the transaction that notes the piece as taken in."""
    db.executemany(_ADD, [(*account, *sums) for account, sums in batch.metered.items()])
    if batch.ended:
        _end(db, boot, batch.ended)
    rows = [
        (*boot, n, *account, prompt)
        for n, (account, prompt) in batch.begun.items()
        if n not in batch.ended and not _has_ended(db, boot, n)
    ]
    orphans = {n for (n,) in db.execute(f"SELECT n FROM orphans {_OF}", boot)} if rows else set()
    db.executemany(
        "INSERT OR IGNORE INTO begun VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [r for r in rows if r[2] not in orphans]
    )


def _end(db: sqlite3.Connection, boot: Boot, ended: set[int]) -> None:
    """Note requests as ended; one that was charged as an orphan is charged as that no more."""
    on_their_way = [n for (n,) in db.execute(f"SELECT n FROM begun {_OF}", boot) if n in ended]
    db.executemany(f"DELETE FROM begun {_OF} AND n = ?", [(*boot, n) for n in on_their_way])
    for n, *account, prompt in db.execute(f"SELECT n, {_KEPT} FROM orphans {_OF}", boot).fetchall():
        if n in ended:
            db.execute(_ADD, _orphan(account, -1, -prompt))
            db.execute(f"DELETE FROM orphans {_OF} AND n = ?", (*boot, n))
    numbers = sorted(ended)
    reach = (*boot, numbers[-1] + 1, numbers[0] - 1)
    near = db.execute(f"SELECT low, high FROM ended {_OF} AND low <= ? AND high >= ?", reach).fetchall()
    db.executemany(f"DELETE FROM ended {_OF} AND low = ?", [(*boot, low) for low, _ in near])
    runs = _joined(sorted([*near, *((n, n) for n in numbers)]))
    db.executemany("INSERT INTO ended VALUES (?, ?, ?, ?)", [(*boot, low, high) for low, high in runs])


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges, in order, with those that touch made one."""
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _has_ended(db: sqlite3.Connection, boot: Boot, n: int) -> bool:
    row = db.execute(f"SELECT high FROM ended {_OF} AND low <= ? ORDER BY low DESC LIMIT 1", (*boot, n)).fetchone()
    return row is not None and row[0] >= n


def _orphan(account: Iterable[object], requests: int, prompt: int) -> tuple[object, ...]:
    return (*account, *[0] * (len(METERED) - 2), requests, prompt)


def waiting(db: sqlite3.Connection) -> tuple[Boot, ...]:
    """The boots that have requests on their way."""
    return tuple(db.execute("SELECT DISTINCT worker, boot FROM begun ORDER BY 1, 2"))


def bury(db: sqlite3.Connection, boot: Boot) -> int:
    """Charge what a boot that is over left without an end; give the number of requests."""
    found = db.execute(f"SELECT {_KEPT} FROM begun {_OF}", boot).fetchall()
    db.executemany(_ADD, [_orphan(account, 1, prompt) for *account, prompt in found])
    db.execute(f"INSERT INTO orphans SELECT * FROM begun {_OF}", boot)
    db.execute(f"DELETE FROM begun {_OF}", boot)
    return len(found)


def over(boots: Iterable[Boot], known: Iterable[Boot], alive: Callable[[str], bool]) -> list[Boot]:
    """Which of `boots` are over: a later one of the same worker is `known`, or the worker is not `alive`."""
    latest: dict[str, str] = {}
    for worker, boot in known:
        latest[worker] = max(boot, latest.get(worker, ""))
    return [(worker, boot) for worker, boot in boots if boot < latest.get(worker, "") or not alive(worker)]


def let_go(db: sqlite3.Connection, boot: Boot) -> None:
    """Forget the numbers of a boot of which no segment is left: nothing more can be read of it."""
    for table in ("ended", "orphans"):
        db.execute(f"DELETE FROM {table} {_OF}", boot)


# Asking


def usage(db: sqlite3.Connection, first: int, last: int, by: Collection[str] = NAMES) -> tuple[Usage, ...]:
    """What was used on the real days from `first` to before `last`, in the order of day, role and names.

    Names that are not in `by` (of endpoint, tenant, key and revision) are added up, and are "" in what is given.
    """
    names = [name if name in by else "''" for name in NAMES]
    kept = ", ".join(["day", "role", *(name for name in NAMES if name in by)])
    sums = ", ".join(f"total({column})" for column in METERED)  # a float: `sum` fails where integers end
    rows = db.execute(
        f"SELECT day, role, {', '.join(names)}, {sums} FROM metered WHERE day >= ? AND day < ? "
        f"GROUP BY {kept} ORDER BY {kept}",
        (first, last),
    )
    return tuple(_usage(row[:6], dict(zip(METERED, row[6:], strict=True))) for row in rows)


def _usage(account: tuple[int, int, str, str, str, str], sums: dict[str, float]) -> Usage:
    day, role, endpoint, tenant, key, revision = account
    n = {name: int(value) for name, value in sums.items()}
    return Usage(
        endpoint, revision, "live" if role == LIVE else "mirror", n["requests"] + n["orphans"], n["predictions"],
        n["errors"], n["compute"] / 1e6, day, tenant, key, n["refused"], n["prompt"] + n["lost"], n["cached"],
        n["output"], n["prefill"] / 1e6, n["decode"] / 1e6, n["estimated"], n["orphans"], n["lost"],
    )  # fmt: skip


def first_day(db: sqlite3.Connection) -> int | None:
    """The first real day on which anything was metered."""
    found: int | None = db.execute("SELECT min(day) FROM metered").fetchone()[0]
    return found


def used(
    db: sqlite3.Connection, since: float, rate: float, endpoint: str | None, tenant: str | None, key: str | None
) -> Used:
    """What was used since the beginning of the day of `since`; a name that is None is not looked at."""
    asked = {"endpoint = ?": endpoint, "tenant = ?": tenant, "key = ?": key}
    given = [value for value in asked.values() if value is not None]
    where = "".join(f" AND {clause}" for clause, value in asked.items() if value is not None)
    requests, tokens, compute = db.execute(
        "SELECT total(requests) + total(orphans), total(prompt) + total(lost) + total(output), total(compute) "
        f"FROM metered WHERE day >= ? AND role = {LIVE}{where}",
        (int(since // DAY), *given),
    ).fetchone()
    return Used(int(requests), int(tokens), compute / 1e6, compute / 1e6 * rate)
