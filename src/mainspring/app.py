"""The one place that picks concrete parts, and puts them together into a controller.

    python -m mainspring.app --stack FILE [--clock 2013-03-01T00:00:00Z]

What this is: wiring. Who calls it: the controller process (`mainspring.console`, which the line above starts), tests.
What it must never do: decide, or act on a stack file that nobody applied.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import runpy
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mainspring.controller import ALIVE, Controller, Eyes, Parts, apply
from mainspring.cost import period
from mainspring.cost.meter import Meter
from mainspring.cost.quotas import quotas
from mainspring.errors import InputError, MainspringError
from mainspring.loop.plan import StartRun
from mainspring.loop.readings import Query, Reading, Readings, Spend, SpendQuery, Unknown
from mainspring.loop.snapshot import RunSeen
from mainspring.monitoring.predictions import PredictionStore
from mainspring.pipelines.registry import Registry
from mainspring.pipelines.seen import prepare_run, read_run, training_days
from mainspring.stack import load
from mainspring.store.sqlite import SqliteStore
from mainspring.worlds.local import journal
from mainspring.worlds.local.clock import LiveClock, ReplayClock
from mainspring.worlds.local.folder import LocalFolder
from mainspring.worlds.local.shim import write_whole
from mainspring.worlds.local.world import LocalWorld

FOLDER = ".mainspring"
QUIESCE = 5.0  # seconds that a gateway worker may take to write down what it owes


def build(stack_path: Path, *, clock_start: float | None = None, apply_digest: str = "") -> Controller:
    """Make the controller of a stack file: its folder is locked, its stack read, its stores opened.

    `clock_start`: event time at which a replay begins; None: the real time (or the replay that the folder holds).
    `apply_digest`: the SHA-256 of the stack file as a person agreed to it; the file is applied if it is still that.
    Without one, the stack that was applied last stays; the first stack is the file. Raises `MainspringError`.
    """
    path = stack_path.absolute()
    folder = LocalFolder(path.parent / FOLDER)
    try:
        folder.clean_stale()
        store = SqliteStore(folder.path / "state.db")
    except BaseException:
        folder.close()
        raise
    try:
        _wanted(store, path, apply_digest)
        return _wired(path, folder, store, _clock(folder.path, store, clock_start))
    except BaseException:
        store.close()
        folder.close()
        raise


def _wanted(store: SqliteStore, path: Path, digest: str) -> None:
    """Apply the file, if somebody agreed to it as it is, or if there is no other."""
    if not digest and store.desired() is not None:
        return
    text = load.fetch(path)
    if digest and hashlib.sha256(text).hexdigest() != digest:
        message = f"`{path}` has changed since it was looked at; it was not applied"
        raise InputError("stack-changed", message, "mainspring up")
    load.read(text, str(path), path.parent)
    apply(store, text.decode("utf-8-sig"), path, journal.person("mainspring up"))


def _clock(state: Path, store: SqliteStore, start: float | None) -> LiveClock | ReplayClock:
    """The clock that the folder has; a folder is live or a replay for all its life."""
    mark = state / "clock.json"
    _, memory = store.load()
    replay = mark.exists()
    if start is not None and not replay and memory.last is not None:
        message = f"`{state}` holds a live stack, whose clock cannot be set"
        raise InputError("clock-live", message, "replay in a copy of the stack's folder, without its `.mainspring`")
    if start is None and not replay:
        return LiveClock()
    if not replay:
        write_whole(str(mark), json.dumps({"kind": "replay", "start": start}, sort_keys=True).encode())
    begun = json.loads(mark.read_bytes()).get("start") or start or 0.0
    return ReplayClock(max(float(begun), memory.last.wall if memory.last is not None else 0.0))


def _wired(path: Path, folder: LocalFolder, store: SqliteStore, clock: LiveClock | ReplayClock) -> Controller:
    state = folder.path
    registry = Registry(state)  # made and asked by the first cycle: importing MLflow takes seconds
    predictions = PredictionStore(state / "predictions.db", state / "segments", _Artefacts(registry))
    world = Eyes(LocalWorld(state, path, registry, _Runs(state, store), clock.mono))
    spending = _Spending(state, store, predictions, world)
    parts = Parts(
        path=path,
        folder=folder,
        store=store,
        eyes=world,
        source=_Source(predictions, spending),
        taker=_Taker(predictions, spending, store, world),
        clock=clock,
        quiesce=quiesce,
        spend=spending.told,
        charges=spending.charges,
        traffic=lambda: {name: asdict(predictions.counts(name)) for name in predictions.endpoints()},
        spoken=lambda: [asdict(one) for one in predictions.spoken()],
        runs=registry.runs,
        close=(lambda: spending.tick(now=True), predictions.close, registry.close),
    )
    return Controller(parts)


class _Runs:
    """Run folders, each with the stack that was applied when the run was asked for."""

    def __init__(self, state: Path, store: SqliteStore) -> None:
        self._state = state
        self._store = store

    def prepare(self, spec: StartRun) -> Path:
        folder = prepare_run(self._state, spec)
        applied = self._store.desired()
        kept = folder / "stack.yaml"
        if applied is not None and not kept.exists():
            write_whole(str(kept), applied.text.encode())
        return folder

    def read(self, folder: Path) -> RunSeen:
        return read_run(folder)


class _Artefacts:
    """The folder of a version's artefact, for monitoring; asked of the registry once a version."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[tuple[str, str], Path] = {}

    def __call__(self, model: str, number: str) -> Path | None:
        if (model, number) not in self._known:
            try:
                seen = self._registry.versions()
            except MainspringError:
                return None
            self._known |= {(v.model, v.number): Path(v.artefact) for v in seen if v.artefact}
        return self._known.get((model, number))


class _Taker:
    """Takes in what the gateway wrote, under the applied stack's names of outcomes, and ticks the meter."""

    def __init__(self, predictions: PredictionStore, spending: _Spending, store: SqliteStore, world: Eyes) -> None:
        self._predictions, self._spending, self._store, self._world = predictions, spending, store, world
        self._text = ""  # of the stack whose names are known
        self._told = float("-inf")
        self._said: dict[str, Any] = {}

    def ingest(self) -> object:
        self._spending.tick()
        kept = self._store.desired()
        if kept is not None and kept.text != self._text:
            serving = load.parse(kept.text.encode(), kept.path).serving
            self._predictions.name_truths({name: e.truth.field for name, e in serving.items() if e.truth is not None})
            self._text = kept.text
        taken = self._predictions.ingest(_gateways(self._world))
        if time.monotonic() - self._told >= _Spending.EVERY:
            self._told = time.monotonic()
            self._say_used()
        return taken

    def _say_used(self) -> None:
        """Tell the gateway what was metered of quotas: its ledger may be lost. A full disk leaves the old word."""
        said = quotas(self._predictions.used, time.time(), self._spending.rate())
        if said != self._said:
            with contextlib.suppress(OSError):
                write_whole(str(self._spending.folder / "used.json"), json.dumps(said).encode(), durable=False)
                self._said = said


def _gateways(world: Eyes) -> set[str] | None:
    """The gateway workers that ran at the last look; None before the first, or when nothing ran at all."""
    seen = world.last.processes
    return {one.name for one in seen if one.kind == "gateway" and one.state in ALIVE} if seen else None


class _Source:
    """Samples from the prediction store, and what was spent from the meter."""

    def __init__(self, predictions: PredictionStore, spending: _Spending) -> None:
        self._predictions, self._spending = predictions, spending

    def samples(self, wanted: Iterable[Query]) -> Readings:
        asked = tuple(wanted)
        answers: dict[Query, Reading | Unknown] = {}
        answers.update(self._predictions.samples([q for q in asked if not isinstance(q, SpendQuery)]))
        for query in asked:
            if isinstance(query, SpendQuery):
                answers[query] = self._spending.spent(query.period)
        return answers


class _Spending:
    """The meter of this folder, ticked now and then, at the price of the stack that is applied."""

    EVERY = 5.0  # seconds between two ticks, each of which writes a file

    def __init__(self, state: Path, store: SqliteStore, predictions: PredictionStore, world: Eyes) -> None:
        self._state, self._store, self._predictions, self._world = state, store, predictions, world
        self._boot = _machine_boot()
        self._ticked = float("-inf")
        self._meter: tuple[str, Meter] | None = None

    def tick(self, *, now: bool = False) -> None:
        """Count the time since the last tick. A full disk loses nothing: the next tick counts it."""
        mono = time.monotonic()
        if now or mono - self._ticked >= self.EVERY:
            self._ticked = mono
            up = any(seen.state in ALIVE for seen in self._world.last.processes)
            with contextlib.suppress(MainspringError):
                self._metered().tick(time.time(), up, self._boot, _since_boot())

    @property
    def folder(self) -> Path:
        """Where the meter keeps its files."""
        return self._state / "meter"

    def rate(self) -> float:
        """Dollars of a core-second."""
        return self._metered().rate

    def spent(self, period: float) -> Spend | Unknown:
        """Dollars spent in the present period."""
        try:
            return Spend(self._metered().spent(period))
        except MainspringError as error:
            return Unknown(error.message)

    def told(self) -> dict[str, Any]:
        """The bill, for people."""
        seconds = (read_run(folder).seconds for folder in (self._state / "runs").glob("*") if folder.is_dir())
        made = self._metered().bill(self._predictions, seconds)
        return {
            "dollars": made.dollars,
            "seconds_up": made.seconds_up,
            "predictions": made.predictions,
            "per_thousand": made.per_thousand,
            "lines": [asdict(line) for line in made.lines],
        }

    def charges(self, by: str | None, since: str, until: str, *, daily: bool = False) -> list[dict[str, Any]]:
        """What the days from `since` to before `until` cost, divided. Raises `InputError`.

        Undivided days are divided by endpoint; `daily` rows, without `by`, by all names at once.
        """
        group = period.grouping(by) if by is not None else "" if daily else "endpoint"
        asked = period.span(since, until, time.time(), self._first_day())
        training: dict[int, float] = {}
        for folder in (self._state / "runs").glob("*"):
            for day, seconds in training_days(folder).items():
                training[day] = training.get(day, 0.0) + seconds
        meter = self._metered()
        days = period.days(meter, self._predictions, training, asked, group)
        return (period.daily if daily else period.rows)(days, group, meter.cores)

    def _first_day(self) -> int | None:
        known = [*self._metered().days(), self._predictions.metered_since()]
        return min((day for day in known if day is not None), default=None)

    def _metered(self) -> Meter:
        kept = self._store.desired()
        revision = kept.revision if kept is not None else ""
        if self._meter is None or self._meter[0] != revision:
            price = 0.0
            if kept is not None:
                stack = load.parse(kept.text.encode(), kept.path)
                price = stack.compute[stack.orchestration.where].per_hour
            self._meter = (revision, Meter(self._state / "meter", price, os.cpu_count() or 1))
        return self._meter[1]


def _machine_boot() -> str:
    """Which life of the machine this is; "" where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _since_boot() -> float:
    """Seconds since the machine started, the time asleep included."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


def quiesce(address: str) -> None:
    """Have a gateway worker log what it owes. Raises `OSError` when it does not say that all is logged."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=QUIESCE + 2.0)
    try:
        connection.request("GET", f"/internal/quiesce?timeout={QUIESCE:g}", headers={"Connection": "close"})
        answer = connection.getresponse()
        told = json.loads(answer.read() or b"{}")
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
    if answer.status != http.client.OK or not told.get("quiet"):
        raise OSError(f"`{address}` still owes `{told.get('owed', '?')}` records")


if __name__ == "__main__":
    # By name: the process with its API stands above this module, which must not import it.
    runpy.run_module("mainspring.console", run_name="__main__", alter_sys=True)
