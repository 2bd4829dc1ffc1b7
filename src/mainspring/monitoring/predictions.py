"""Every prediction and every truth, each once: the store that monitoring, metering and reports read.

What this is: `PredictionStore` takes the gateway's segment files into `predictions.db`. The rows of a piece of a
file and the offset after it are committed together, so a record counts once whatever is killed. Who calls it: the
controller (one writer), which takes in and asks for `samples` each cycle; the command line and reports read.
What it must never do: be on the path of a request, or let the order of arrival change a reading.

Which record counts, for one (endpoint, id, role, revision): a success before a refusal before a failure; then the
earliest `at`; then the smaller numbers, so that it does not matter which was read first. A live id that two
revisions answered counts for the earlier answer; a revision's failure stays evidence against it. Of several
truths the one with the latest `at` wins; a truth may come before its prediction. For metering, other rules hold:
`metered.py` has them; for rollouts, a request's first try counts: `arms.py`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mainspring.decide.price import Usage
from mainspring.errors import EnvironmentError_
from mainspring.loop.readings import Query, Readings
from mainspring.monitoring import answers, lookups, metered, tables
from mainspring.monitoring.arms import Rollouts
from mainspring.monitoring.segments import Batch, Layout, decode, split

PIECE = 8 << 20  # bytes read at a time: some 6,000 records of 20 inputs
KEEP = 86400.0  # real seconds that a finished segment is kept at least


class PredictionStore:
    """`predictions.db`, and the segment files that it is fed from. Safe to share between threads."""

    def __init__(
        self,
        path: Path,
        segments: Path,
        artefacts: Callable[[str, str], Path | None],
        truth_fields: Mapping[str, str] | None = None,
        *,
        spend: Callable[[float], float] | None = None,
        read_only: bool = False,
    ) -> None:
        """Open or create the store.

        `artefacts` gives the folder of (model, version), or None. `truth_fields` names the outcome's field by
        endpoint; without it, a truth of several fields counts by the first by name. `spend` gives the dollars of the
        budget's present period, of so many seconds (the meter knows). `read_only` is for a second
        process (the command line): it never creates or writes. Raises `EnvironmentError_`.
        """
        self._segments = segments
        self._fields = dict(truth_fields or {})
        self._lock = threading.RLock()
        self._asked = answers.Asked(answers.References(artefacts), spend, Rollouts())
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
            self._db.isolation_level = None  # transactions are begun and ended below, by name
            if not read_only:
                self._prepare()
            self._layouts: dict[Layout, int] = {
                tuple(json.loads(names)): number for number, names in self._db.execute("SELECT id, names FROM layouts")
            }
        except (sqlite3.Error, OSError) as error:
            raise _not_written(path, error) from error
        self._path = path

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # after a power loss the tail is taken in again
        self._db.execute("PRAGMA cache_size = -65536")
        self._db.execute("PRAGMA wal_autocheckpoint = 8000")
        tables.prepare(self._db)

    def name_truths(self, fields: Mapping[str, str]) -> None:
        """Say which field of a feedback call holds the outcome, by endpoint; counts for what is taken in from now."""
        with self._lock:
            self._fields = dict(fields)

    def close(self) -> None:
        """Close the database; the store is of no use afterwards."""
        with self._lock:
            self._db.close()

    # Taking in

    def ingest(self, alive: Collection[str] | None = None) -> int:
        """Take in every complete line that was not taken in before; give the number of records.

        Lines that are no record are counted (`segments()`) and skipped; a file that cannot be read is left for the
        next time. Then requests without an end are charged, of gateway workers whose boot is over: a later one has a
        segment, or the worker is none of `alive` (names seen to run before this call; None: not known).
        Raises `EnvironmentError_` when the database cannot be written: nothing is lost, call it again.
        """
        with self._lock:
            self._asked.alive = None if alive is None else frozenset(alive)
            known = dict(self._db.execute("SELECT name, offset FROM segments"))
            files = sorted(self._segments.glob("*.jsonl"), key=lambda file: metered.origin(file.name))
            boots = {metered.origin(name)[:2] for name in (*known, *(file.name for file in files))}
            over = metered.over(boots, boots, lambda worker: alive is None or worker in alive)
            taken, unread = 0, set()
            for file in files:
                records, whole = self._take(file, known.get(file.name, 0))
                taken += records
                if not whole:
                    unread.add(metered.origin(file.name)[:2])
            self._bury(boot for boot in over if boot not in unread)
            return taken

    def _bury(self, over: Iterable[metered.Boot]) -> None:
        waiting = set(metered.waiting(self._db)).intersection(over)
        if waiting:
            with self._writing():
                for boot in waiting:
                    metered.bury(self._db, boot)

    def _take(self, file: Path, offset: int) -> tuple[int, bool]:
        """The records that a file had, and whether all its complete lines are taken in."""
        taken = 0
        try:
            with file.open("rb", buffering=0) as stream:
                stream.seek(offset)
                began = metered.born(metered.origin(file.name)[1])
                while True:
                    lines, length = split(_piece(stream.fileno()))
                    if not length:
                        return taken, True
                    offset += length
                    os.lseek(stream.fileno(), offset, os.SEEK_SET)
                    life = None if began is None else (began, os.fstat(stream.fileno()).st_mtime)
                    batch = decode(lines, self._fields, life)
                    self._commit(file.name, offset, batch)
                    taken += batch.records
        except FileNotFoundError:
            return taken, True
        except OSError:
            return taken, False  # seen again at the next call; `segments()` shows how far it got

    def _commit(self, name: str, offset: int, batch: Batch) -> None:
        with self._writing():
            rows = [self._numbered(row) for row in batch.rows]
            self._db.executemany(tables.PUT, rows)
            self._db.executemany("INSERT OR IGNORE INTO owed VALUES (?, ?, ?, ?)", [(name, *o) for o in batch.owed])
            tables.put(self._db, metered.origin(name)[:2], batch)
            self._db.execute(tables.PUT_SEGMENT, (name, offset, batch.records, batch.bad))
        self._asked.rollouts.taken(batch)

    def _numbered(self, row: tuple[object, ...]) -> tuple[object, ...]:
        layout = row[14]
        if layout is None:
            return row
        number = self._layouts.get(layout)  # type: ignore[call-overload]
        if number is None:
            names = json.dumps(layout)
            self._db.execute("INSERT OR IGNORE INTO layouts (names) VALUES (?)", (names,))
            number = self._db.execute("SELECT id FROM layouts WHERE names = ?", (names,)).fetchone()[0]
            self._layouts[layout] = number  # type: ignore[index]
        return (*row[:14], number, *row[15:])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._layouts = {k: v for k, v in self._layouts.items() if self._has_layout(v)}
            if isinstance(error, sqlite3.Error):
                raise _not_written(self._path, error) from error
            raise

    def _has_layout(self, number: int) -> bool:
        return self._db.execute("SELECT 1 FROM layouts WHERE id = ?", (number,)).fetchone() is not None

    # Asking

    def samples(self, wanted: Iterable[Query]) -> Readings:
        """Answer each query from what was taken in, or say why it is unknown (`loop.ports.MetricSource`)."""
        with self._lock:
            return {query: answers.answer(self._db, self._asked, query) for query in wanted}

    def counts(self, endpoint: str) -> lookups.Counts:
        """Count distinct requests, predictions, errors and repeats since the beginning."""
        with self._lock:
            return lookups.counts(self._db, endpoint)

    def endpoints(self) -> tuple[str, ...]:
        """Name every endpoint that has a record."""
        with self._lock:
            return tuple(name for (name,) in self._db.execute("SELECT DISTINCT endpoint FROM tallies ORDER BY 1"))

    def by_month(self, endpoint: str) -> tuple[lookups.Month, ...]:
        """Count and judge the live answers by calendar month (UTC) of event time, in order."""
        with self._lock:
            return lookups.by_month(self._db, endpoint)

    def rows(self, endpoint: str, since: float, until: float) -> Iterator[lookups.Told]:
        """Give the live answers with event time in [since, until), in the order of (at, id)."""
        with self._lock:
            return lookups.rows(self._db, endpoint, since, until)

    def inputs(self, endpoint: str, since: float, until: float) -> Iterator[lookups.Asked]:
        """Give what was asked, for the live answers with event time in [since, until), in the order of (at, id)."""
        with self._lock:
            return lookups.inputs(self._db, endpoint, since, until)

    def outputs(self, endpoint: str, ids: Iterable[str]) -> dict[str, lookups.Told]:
        """Give the live answers of these ids; an id that has none is left out."""
        with self._lock:
            return lookups.outputs(self._db, endpoint, ids)

    def usage(self) -> tuple[Usage, ...]:
        """Say what each revision did, for the meter: compute counts every record, repeats included."""
        with self._lock:
            return lookups.usage(self._db)

    def used(self, first: int, last: int, by: Collection[str] = metered.NAMES) -> tuple[Usage, ...]:
        """Say who used what on the real days (since 1970) from `first` to before `last`; every line counts.

        Names that are not in `by` are added up.
        """
        with self._lock:
            return metered.usage(self._db, first, last, by)

    def metered_since(self) -> int | None:
        """The first real day on which anything was metered; None: nothing was."""
        with self._lock:
            return metered.first_day(self._db)

    def usage_of(
        self, since: float, rate: float = 0.0, *,
        endpoint: str | None = None, tenant: str | None = None, key: str | None = None,
    ) -> metered.Used:  # fmt: skip
        """Say what a tenant of an endpoint, or a key, used since the beginning of the day of `since`, for budgets.

        `since` is real time, POSIX seconds; `rate` is dollars for a core-second (`cost.meter.Meter.rate`). A name
        that is None is not looked at; "" is nobody.
        """
        with self._lock:
            return metered.used(self._db, since, rate, endpoint, tenant, key)

    def spoken(self) -> tuple[lookups.Spoken, ...]:
        """Say what each version of each language model said, since the beginning."""
        with self._lock:
            return lookups.spoken(self._db)

    def segments(self) -> tuple[lookups.Segment, ...]:
        """Show each segment file: how far it was taken in, and how many of its lines were no records."""
        with self._lock:
            return lookups.segments(self._db, self._segments)

    # Keeping small

    def forget(self, before: float) -> int:
        """Delete predictions, truths and feedback of event time before `before`; totals and usage count them on."""
        with self._lock, self._writing():
            return lookups.forget(self._db, before)

    def collect(self, alive_boots: Iterable[str], now: float) -> tuple[str, ...]:
        """Delete finished segment files and name them; `now` is real time, POSIX seconds.

        Finished: taken in to the last complete line; its boot (`<worker>-<boot>-<number>.jsonl`) is not alive, so
        nothing is appended; not written to for a day; and every mirror copy that its records owe is logged, since
        a gateway sends owed copies again from its old segments when it starts.
        """
        alive = set(alive_boots)
        with self._lock:
            return tuple(
                seen.name
                for seen in lookups.segments(self._db, self._segments)
                if not seen.gone
                and not any(boot in seen.name for boot in alive)
                and lookups.settled(self._db, seen.name)
                and self._remove(seen.name, now)
            )

    def _remove(self, name: str, now: float) -> bool:
        file = self._segments / name
        try:
            if now - file.stat().st_mtime < KEEP:
                return False
            with file.open("rb") as stream:
                stream.seek(self._db.execute("SELECT offset FROM segments WHERE name = ?", (name,)).fetchone()[0])
                torn = stream.read()
            if b"\n" in torn:
                return False  # not taken in yet
            with self._writing():
                self._db.execute("UPDATE segments SET gone = 1, bad = bad + ? WHERE name = ?", (bool(torn), name))
                self._db.execute("DELETE FROM owed WHERE segment = ?", (name,))
                boot = metered.origin(name)[:2]
                left = self._db.execute("SELECT name FROM segments WHERE gone = 0")
                if not any(metered.origin(one)[:2] == boot for (one,) in left):
                    metered.let_go(self._db, boot)
            file.unlink()
        except OSError:
            return False
        return True


def _piece(descriptor: int) -> bytes:
    """Read a piece with at least one complete line, or what there is."""
    data = os.read(descriptor, PIECE)
    pieces = [data]
    while len(data) == PIECE and b"\n" not in data:
        data = os.read(descriptor, PIECE)
        pieces.append(data)
    return b"".join(pieces)


def _not_written(path: Path, error: Exception) -> EnvironmentError_:
    return EnvironmentError_(
        "predictions-not-open",
        f"the prediction store `{path}` cannot be read or written: {error}",
        "mainspring doctor",
    )
