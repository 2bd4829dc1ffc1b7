"""Running one step after another: from the cache, or in a process of its own, with retries and progress.

Who calls it: the run. What it must never do: know what the steps mean.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from mainspring.decide.price import spread
from mainspring.errors import EnvironmentError_, MainspringError, UserCodeError
from mainspring.loop.snapshot import StepSeen
from mainspring.pipelines import child
from mainspring.pipelines.cache import Entry, key_of
from mainspring.pipelines.files import write_json
from mainspring.pipelines.job import Job
from mainspring.pipelines.preload import preload
from mainspring.pipelines.seen import STATE

KILLS = 3  # how often a step that somebody killed is begun again, apart from its own retries
BUILT_IN_TIMEOUT = 3600.0  # seconds


class Failed(Exception):
    """A step failed for good."""

    def __init__(self, error: MainspringError, retryable: bool) -> None:
        super().__init__(error.message)
        self.error, self.retryable = error, retryable


@dataclass
class Progress:
    """How far the run is; written to `state.json` at each change."""

    job: Job
    steps: dict[str, StepSeen]
    spent: float = 0.0  # CPU seconds
    days: dict[str, float] = field(default_factory=dict)  # the same by the real day (since 1970, UTC), for the bill

    def spend(self, seconds: float, began: float, ended: float) -> None:
        """Add the CPU seconds of a process that ran between two real times (POSIX seconds)."""
        self.spent += seconds
        for day, part in spread(seconds, began, ended).items():
            self.days[str(day)] = self.days.get(str(day), 0.0) + part

    def note(self, step: StepSeen) -> None:
        """Note how a step stands; a full disk does not stop the run here."""
        self.steps[step.name] = step
        spec = self.job.spec
        told = {
            "run": spec.run,
            "pipeline": spec.pipeline,
            "attempt": spec.attempt,
            "steps": [asdict(s) for s in self.steps.values()],
            "seconds": self.spent,
            "days": self.days,
        }
        with contextlib.suppress(OSError):
            write_json(self.job.folder / STATE, told)


class Steps:
    """Runs steps, one at a time."""

    def __init__(self, job: Job, progress: Progress, signals: child.Signals) -> None:
        self.job, self.progress, self.signals = job, progress, signals
        self.keys: set[str] = set()

    def cached(self, step: str, parts: dict[str, Any], work: Callable[[str], None], more: float = 0.0) -> Entry:
        """The output of `work(key)`: from the cache, or made now, in `more` seconds than others. Raises `Failed`."""
        key = key_of({"step": step, **parts})
        entry = self.job.cache.get(key)
        if entry is None:
            self.fresh(step, lambda: work(key), more)
            entry = self.job.cache.get(key)
            if entry is None:
                error = EnvironmentError_("cache-lost", f"the output of step `{step}` is gone", "run again")
                raise Failed(error, retryable=True)
        else:
            self.progress.note(StepSeen(step, "cached"))
        self.keys.add(key)
        return entry

    def skip(self, step: str) -> None:
        """Note a step whose result is there from an earlier attempt."""
        self.progress.note(StepSeen(step, "cached"))

    def fresh(self, step: str, work: Callable[[], Any], more: float = 0.0) -> Any:
        """Do `work` in a process of its own, again while retries are left; returns its plain result."""
        spec = self.job.pipeline.steps.get("train" if step == "train-all" else step)
        timeout = spec.timeout if spec else BUILT_IN_TIMEOUT + more
        retries, kills = spec.retries if spec else 0, KILLS
        attempt, spent = 0, 0.0
        while True:
            attempt += 1
            self.signals.check()
            self.progress.note(StepSeen(step, "running", attempt, spent))
            preload(self.job, step)
            began = time.time()
            ended = child.run(
                step,
                work,
                log=self.job.folder / "logs" / f"{step}.log",
                report=self.job.folder / "steps" / f"{step}.json",
                code_root=self.job.code_root,
                timeout=timeout,
                signals=self.signals,
            )
            spent += ended.seconds
            self.progress.spend(ended.seconds, began, time.time())
            if ended.ok:
                self.progress.note(StepSeen(step, "succeeded", attempt, spent))
                return ended.result
            print(f"{step}: attempt {attempt}: {ended.message}", file=sys.stderr, flush=True)
            if ended.kind == "signal" and kills:
                kills -= 1
            elif retries:
                retries -= 1
            else:
                self.progress.note(StepSeen(step, "failed", attempt, spent, ended.message))
                raise Failed(_error(ended, attempt), ended.kind in ("signal", "machine"))

    def fail(self, step: str, error: MainspringError) -> Failed:
        """Note that a step failed by what the host found; to be raised."""
        before = self.progress.steps.get(step)
        attempt, spent = (before.attempt, before.seconds) if before else (0, 0.0)
        self.progress.note(StepSeen(step, "failed", attempt, spent, error.message))
        return Failed(error, retryable=isinstance(error, EnvironmentError_))


def _error(ended: child.Ended, attempt: int) -> MainspringError:
    message = ended.message + (f" (tried {attempt} times)" if attempt > 1 else "")
    kind = EnvironmentError_ if ended.kind == "machine" else UserCodeError
    return kind(ended.code, message, ended.hint)
