"""The process around the loop: one thread that cycles, paced by what happens, and survives its own failures.

What this is: `Cycle.once` again and again, with what people ask in between. Who calls it: `app` makes it, the control
API asks it. What it must never do: decide anything, die of a cycle that raises, or act on a stack file that nobody
applied.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from mainspring.errors import Conflict, EnvironmentError_, InputError, MainspringError
from mainspring.facts.changes import Caller, Change, change
from mainspring.loop.cycle import Cycle
from mainspring.loop.plan import Fence, Plan, SetAlias, Step
from mainspring.loop.ports import Accepted, Clock, MetricSource, Refused, World
from mainspring.loop.snapshot import Desired, Observed, ProcessSeen, Request
from mainspring.stack import load
from mainspring.stack.model import Stack
from mainspring.stack.resolve import revision
from mainspring.stack.runnable import runnable
from mainspring.store.changelog import recorded
from mainspring.store.sqlite import SqliteStore
from mainspring.worlds.local import journal
from mainspring.worlds.local.clock import ReplayClock
from mainspring.worlds.local.folder import LocalFolder

LOG = logging.getLogger("mainspring.controller")

BUSY = 0.03  # seconds between two cycles while something ends by itself, at first
BUSY_MOST = 0.1  # and when it takes longer
IDLE = 0.5  # seconds between two cycles while nothing happens
BACKOFF, BACKOFF_MOST = 1.0, 30.0  # seconds after a cycle that raised
ALIVE = ("starting", "ready", "stopping")
VERBS = ("run", "promote", "abort", "pause", "resume", "undo", "approve", "gate", "quantize")

T = TypeVar("T")


class Taker(Protocol):
    """Whoever takes in what the gateway wrote down."""

    def ingest(self) -> object:
        """Take in all that is there."""


class Eyes(World):
    """A world that remembers what was seen last, for people who ask in between."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.last = Observed()

    def observe(self) -> Observed:
        """Look, and remember."""
        self.last = self._world.observe()
        return self.last

    def begin(self, step: Step) -> Accepted | Refused:
        """Begin a step in the world."""
        return self._world.begin(step)


@dataclass(slots=True)
class Parts:
    """The concrete parts, picked by `app.build`."""

    path: Path  # of the stack file
    folder: LocalFolder
    store: SqliteStore
    eyes: Eyes
    source: MetricSource
    taker: Taker
    clock: Clock
    quiesce: Callable[[str], None]  # ask the gateway worker at an address to write down all; raises `OSError`
    spend: Callable[[], dict[str, Any]] = dict  # the bill up to now, for people
    charges: Callable[..., list[dict[str, Any]]] = lambda *_, **__: []  # what some days cost, divided, for people
    traffic: Callable[[], dict[str, Any]] = dict  # counts of predictions, for people
    spoken: Callable[[], list[dict[str, Any]]] = list  # what language models said, for people
    runs: Callable[[], Sequence[Any]] = tuple  # all runs with what they used and gave, for people
    close: tuple[Callable[[], object], ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """One cycle, as people see it."""

    number: int
    at: float  # event time
    desired: Desired
    observed: Observed
    plan: Plan


@dataclass(slots=True)
class Trouble:
    """Why cycles fail at present."""

    code: str
    message: str
    hint: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Quiet:
    """The answer to waiting for quiet."""

    clock: float
    quiet: bool
    cycles: int
    waiting: tuple[str, ...] = ()


@dataclass(slots=True)
class _Errand:
    work: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)


class Controller:
    """The loop in its thread, and the questions that people ask of it. All public methods may be called anywhere."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.boot = secrets.token_hex(8)
        self.state = parts.folder.path
        self.look: Look | None = None
        self.trouble: Trouble | None = None
        self._cycle = Cycle(parts.clock, parts.eyes, parts.source, parts.store, self.desired, self._report)
        self._turned = threading.Condition()
        self._begun = 0  # cycles
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._down = False
        self._errands: queue.SimpleQueue[_Errand] = queue.SimpleQueue()
        self._parsed: tuple[str, Desired] | None = None
        self._backoff = BACKOFF
        self._busy = BUSY
        self.ended: Callable[[], None] = lambda: None

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Cycle until told to stop, or until everything is down."""
        LOG.info("the loop begins on %s", self.parts.path)
        try:
            while not self._stop.is_set():
                self._wake.clear()
                self._run_errands()
                self._wake.wait(self._once())
        finally:
            self._refuse_errands()
            self.ended()

    def stop(self) -> None:
        """End after the present cycle; what it started goes on."""
        self._stop.set()
        self._wake.set()
        with self._turned:
            self._turned.notify_all()

    def close(self) -> None:
        """Let go of everything; after `run` has returned."""
        for close in self.parts.close:
            with contextlib.suppress(Exception):
                close()
        self.parts.store.close()
        self.parts.folder.close()

    def _once(self) -> float:
        """Cycle once, and give the seconds until the next."""
        with self._turned:
            self._begun += 1
            number = self._begun
        try:
            self.parts.taker.ingest()
            plan = self._cycle.once()
        except Conflict as error:
            LOG.info("%s", error.message)
            return 0.0
        except Exception as error:  # the loop outlives whatever a part does
            return self._failed(error)
        self._went_well(number, plan)
        if self._down and self._all_down(plan):
            LOG.info("everything is down")
            self.stop()
            return 0.0
        if plan.quiet and not self._down:
            self._busy = BUSY
            return IDLE
        if plan.steps:
            self._busy = BUSY
        pause, self._busy = self._busy, min(self._busy * 1.1, BUSY_MOST)
        return pause

    def _went_well(self, number: int, plan: Plan) -> None:
        if self.trouble is not None:
            LOG.info("cycles work again")
        self._backoff = BACKOFF
        at = plan.memory.last.wall if plan.memory.last else 0.0
        with self._turned:
            self.trouble = None
            self.look = Look(number, at, self.desired(), self.parts.eyes.last, plan)
            self._turned.notify_all()

    def _failed(self, error: Exception) -> float:
        code = error.code if isinstance(error, MainspringError) else "cycle-failed"
        message = error.message if isinstance(error, MainspringError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, MainspringError) else "`mainspring logs controller` has the traceback"
        pause, self._backoff = self._backoff, min(self._backoff * 2, BACKOFF_MOST)
        with self._turned:
            known = self.trouble is not None and self.trouble.message == message
            times = self.trouble.times + 1 if self.trouble is not None and known else 1
            self.trouble = Trouble(code, message, hint, times)
            self._turned.notify_all()
        if not known:
            LOG.error("a cycle failed, and is tried again: %s", message, exc_info=error)
        return pause

    def _all_down(self, plan: Plan) -> bool:
        """Whether no process is left."""
        return not plan.steps and not any(p.state in ALIVE for p in self.parts.eyes.last.processes)

    def _report(self, step: Step, outcome: str) -> None:
        name = getattr(step.action, "name", "") or getattr(step.action, "run", "") or getattr(step.action, "model", "")
        level = logging.INFO if outcome == "begun" else logging.WARNING
        LOG.log(level, "%s %s: %s (%s)", type(step.action).__name__, name, step.because, outcome)
        self.parts.store.outcome(step.id, outcome)

    def _run_errands(self) -> None:
        while True:
            try:
                errand = self._errands.get_nowait()
            except queue.Empty:
                return
            if not errand.done.set_running_or_notify_cancel():
                continue  # nobody waits any more, and was told that it is not done
            try:
                errand.done.set_result(errand.work())
            except Exception as error:  # it is the asker's
                errand.done.set_exception(error)

    def _refuse_errands(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                errand = self._errands.get_nowait()
                if errand.done.set_running_or_notify_cancel():
                    error = EnvironmentError_("controller-ends", "the controller ends", "mainspring status")
                    errand.done.set_exception(error)

    # -- what is wanted ------------------------------------------------------------------------------------------

    def desired(self) -> Desired:
        """What is wanted: the stack that was applied last, read once."""
        kept = self.parts.store.desired()
        if kept is None:
            raise MainspringError("no-stack", "no stack was applied to this folder", "mainspring up")
        if self._parsed is None or self._parsed[0] != kept.text:
            stack = load.parse(kept.text.encode(), kept.path)
            self._parsed = (kept.text, Desired(stack, kept.revision, clock=self.clock_kind))
        desired = self._parsed[1]
        if self._down:
            return Desired(desired.stack, desired.revision, down=True, clock=desired.clock)
        return desired

    @property
    def clock_kind(self) -> str:
        """`request` in a replay, `wall` else."""
        return "request" if isinstance(self.parts.clock, ReplayClock) else "wall"

    @property
    def going_down(self) -> bool:
        """Whether `down` was asked for."""
        return self._down

    def apply(self, text: str, by: Caller, expected: str = "") -> tuple[Stack, bool]:
        """Apply a stack file's text: the stack, and whether it is another. Raises `StackError`, `Conflict`."""
        before = self.parts.store.desired()
        apply(self.parts.store, text, self.parts.path, by, expected)
        desired = self.desired()
        LOG.info("%s applies the stack at revision %s", by.who, desired.revision)
        changed = before is None or before.revision != desired.revision
        self.wake()
        return desired.stack, changed

    def down(self, by: Caller) -> None:
        """Stop everything, then end; also when there is no space to write down who wanted it."""
        with recorded(self.parts.store, self._change(by, "down"), needed=False):
            LOG.info("%s asks for down", by.who)
            self._down = True
            self.wake()

    # -- people --------------------------------------------------------------------------------------------------

    def ask(self, verb: str, target: str, args: dict[str, Any], by: Caller) -> Request:
        """Keep what a person asks for; the next cycle answers it."""
        if verb not in VERBS:
            known = ", ".join(f"`{v}`" for v in VERBS)
            raise InputError("unknown-verb", f"`{verb}` is nothing to ask for; there are: {known}", "mainspring --help")
        told = self._change(
            by, verb, target, " ".join(f"{k}={args[k]}" for k in ("version", "to", "stage", "why") if k in args)
        )
        request = Request(told.id, verb, target, self.event_time(), by.who, args)
        with recorded(self.parts.store, told, answered=True):
            self.parts.store.ask(request)
        LOG.info("%s asks: %s %s", by.who, verb, target)
        self.wake()
        return request

    def name_challenger(self, model: str, number: str, by: Caller) -> None:
        """Name a version `challenger` by hand: it is judged when it was not, and rolled out when it passed."""

        def work() -> None:
            action = SetAlias(model, "challenger", number)
            outcome = self.parts.eyes.begin(Step(secrets.token_hex(8), action, Fence(""), f"asked by {by.who}"))
            if isinstance(outcome, Refused):
                raise EnvironmentError_("alias-refused", outcome.why, f"mainspring models show {model}")

        LOG.info("%s names version %s of %s challenger", by.who, number, model)
        with recorded(self.parts.store, self._change(by, "challenger", f"{model}@{number}")):
            self.in_loop(work)

    def backup(self, to: Path, by: Caller) -> None:
        """Write the controller's memory to a new file."""
        with recorded(self.parts.store, self._change(by, "backup", str(to))):
            self.parts.store.backup(to)

    def changes(self, since: float, limit: int, who: str) -> tuple[Change, ...]:
        """Who changed what, newest first: what was asked of a controller, and what was done with keys.

        `since`: real time, POSIX seconds. Raises `EnvironmentError_`.
        """
        return journal.with_keys(self.parts.store.changes(since, limit, who), self.state, since, limit, who)

    def _change(self, by: Caller, what: str, target: str = "", detail: str = "") -> Change:
        return change(secrets.token_hex(8), time.time(), by, what, target, detail)

    def in_loop(self, work: Callable[[], T], timeout: float = 30.0) -> T:
        """Do something between two cycles, and give its result."""
        errand = _Errand(work)
        self._errands.put(errand)
        self.wake()
        try:
            result: T = errand.done.result(timeout)
        except TimeoutError:
            if not errand.done.cancel():  # it is being done just now: what comes of it is the answer
                late: T = errand.done.result(timeout)
                return late
            message = f"the loop did not come to it in {timeout:.0f} s"
            raise EnvironmentError_("loop-busy", message, "mainspring status") from None
        return result

    def wake(self) -> None:
        """Cycle at once."""
        self._wake.set()

    def event_time(self) -> float:
        """Event time, POSIX seconds."""
        return self.parts.clock.now(0.0, None).wall

    # -- the clock of a replay -----------------------------------------------------------------------------------

    def advance(self, to: float, timeout: float, by: Caller) -> Quiet:
        """Move a replay's clock, once all that was answered before is written down; then wait until all is quiet."""
        until = time.monotonic() + timeout
        with recorded(self.parts.store, self._change(by, "clock", f"{to:.0f}")):
            clock = self.parts.clock
            if not isinstance(clock, ReplayClock):
                raise Conflict("clock-live", "the clock of a live stack cannot be set", "mainspring status")
            if to < clock.wall():
                message = f"the clock is at `{clock.wall():.0f}` and never goes back to `{to:.0f}`"
                raise Conflict("clock-backwards", message, "mainspring status")
            self._quiesce(until)
            clock.set(to)
        return self.until_quiet(until - time.monotonic())

    def until_quiet(self, timeout: float) -> Quiet:
        """Wait until a cycle that begins from now on finds everything quiet."""
        until = time.monotonic() + max(timeout, 0.0)
        with self._turned:
            after = self._begun

            def settled() -> bool:
                look = self.look
                fresh = look is not None and look.number > after and look.plan.quiet and self.trouble is None
                return fresh or self._stop.is_set()

            self.wake()
            self._turned.wait_for(settled, max(until - time.monotonic(), 0.0))
            look = self.look
            quiet = settled() and not self._stop.is_set()
            waiting = tuple(f"{w.what}: {w.why}" for w in look.plan.waiting if w.self_ending) if look else ()
            if self.trouble is not None:
                waiting = (self.trouble.message, *waiting)
            return Quiet(self.event_time(), quiet, self._begun - after, waiting)

    def gateways(self) -> Iterable[ProcessSeen]:
        """The gateway's workers, as last seen."""
        return [p for p in self.parts.eyes.last.processes if p.kind == "gateway"]

    def _quiesce(self, until: float) -> None:
        """Have each gateway worker write down all that it answered; wait for one that is being started again."""
        while True:
            waiting = [p.name for p in self.gateways() if p.state != "ready"]
            for worker in self.gateways():
                if worker.state == "ready":
                    try:
                        self.parts.quiesce(worker.address)
                    except OSError:
                        waiting.append(worker.name)
            if not waiting:
                return
            if time.monotonic() > until or self._stop.is_set():
                message = f"{', '.join(waiting)} did not say that all is written down; the clock was not moved"
                raise EnvironmentError_("gateway-away", message, f"mainspring logs {waiting[0]}")
            self.wake()
            time.sleep(0.05)


def apply(store: SqliteStore, text: str, path: Path, by: Caller, expected: str = "") -> Stack:
    """Check a stack file's text, and keep it as what is wanted, with who wanted it.

    Raises `StackError`, `Conflict`, and `InputError` for a stack that this version only plans.
    """
    kept = store.desired()
    with recorded(store, change(secrets.token_hex(8), time.time(), by, "apply", str(path))) as ending:
        if expected and kept is not None and kept.revision != expected:
            message = f"the stack is at revision `{kept.revision}`, not at `{expected}` any more"
            raise Conflict("stack-moved", message, "mainspring plan")
        stack = load.read(text.encode(), str(path), path.parent).stack
        runnable(stack)
        new = revision(stack)
        ending.message = f"revision {new}" + (f", after {kept.revision}" if kept is not None else "")
        store.set_desired(text, new, str(path))
    return stack
