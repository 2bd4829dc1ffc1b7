"""The process of a run: `python -m mainspring.pipelines.host --run S/runs/ID --state S --stack FILE`.

It reads `spec.json`, runs the steps (each in a forked process), keeps `state.json` up to date and ends with
`result.json`. Exit status: 0 the run succeeded, 1 it failed (the result says why), 143 it was asked to stop.
Killed at any moment and started again, it goes on through the cache and ends with the same result.
Who calls it: the world, through a shim. What it must never do: import MLflow or the user's modules, or load a table.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mainspring.errors import EnvironmentError_, MainspringError
from mainspring.pipelines.child import Signals, Stopped
from mainspring.pipelines.files import disk_error, read_json, sweep, write_json
from mainspring.pipelines.seen import RESULT, STATE, by_day, need_spec, plain

LOCK_PATIENCE = 10.0  # seconds that the steps of a killed host get to be gone
NICE = 5  # training gives way to serving


def main(arguments: list[str] | None = None) -> int:
    """Run the run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mainspring.pipelines.host")
    for name in ("run", "state", "stack"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    signals = Signals()
    signals.install()
    environment()
    with contextlib.suppress(OSError):
        os.nice(NICE)
    try:
        return _run(given.run.resolve(), given.state.resolve(), given.stack.resolve(), signals)
    except Stopped:
        print("stopped", file=sys.stderr)
        return 143
    except MainspringError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1


def environment() -> None:
    """Set the number of threads of numeric libraries, before any is imported; what a person has set stays.

    The host must be single-threaded when it forks.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // 2)  # the other half serves
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # started in each step's process, by the step itself
    # On a busy core, threads that spin for each other make boosted trees 40 times slower; those that
    # do not spin at all, 4 times on an idle one.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # these start threads when they are imported
        os.environ.setdefault(name, "1")
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")


def _run(folder: Path, state: Path, stack: Path, signals: Signals) -> int:
    spec = need_spec(folder)
    try:
        for name in ("steps", "logs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with _alone(folder, signals):
            before = read_json(folder / RESULT)
            if isinstance(before, dict) and (
                before.get("state") == "succeeded" or before.get("attempt", 0) >= spec.attempt
            ):
                return 0 if before["state"] == "succeeded" else 1
            result = _attempt(folder, state, stack, signals)
            write_json(folder / RESULT, plain(result))
            if result["error"]:
                print(f"error: {result['error']}", file=sys.stderr)
            return 0 if result["state"] == "succeeded" else 1
    except OSError as error:
        raise disk_error(error, f"the run's folder `{folder}` cannot be written to") from error


def _attempt(folder: Path, state: Path, stack_file: Path, signals: Signals) -> dict[str, Any]:
    """One attempt; returns what goes into `result.json`."""
    from mainspring.pipelines.convert import ConvertRun
    from mainspring.pipelines.job import job as make_job
    from mainspring.pipelines.language import LanguageRun
    from mainspring.pipelines.run import Failed, Run
    from mainspring.stack.load import load

    spec = need_spec(folder)
    result: dict[str, Any] = {**asdict(spec), "schema": 1, "state": "failed", "error": "", "retryable": False}
    run: Run | None = None
    try:
        # The text that was applied when the run was asked for; the file may have been edited since. Paths in it are
        # meant from the file's own folder all the same.
        applied = folder / "stack.yaml"
        job = make_job(folder, state, stack_file, load(applied if applied.is_file() else stack_file))
        for place in (job.cache.folder, job.data_root, state / "artefacts" / job.pipeline.produces):
            sweep(place, spec.run)
        kind = LanguageRun if job.pipeline.weights is not None else ConvertRun if spec.convert else Run
        run = kind(job, signals)
        before = read_json(folder / STATE)
        run.progress.spent = float(before.get("seconds", 0.0)) if isinstance(before, dict) else 0.0
        run.progress.days = by_day(before)
        run.go()
        result["state"] = "succeeded"
        with contextlib.suppress(OSError):
            job.cache.prune(run.steps.keys)
    except Failed as failure:
        result |= _told(failure.error, failure.retryable)
    except MainspringError as error:
        result |= _told(error, isinstance(error, EnvironmentError_))
    except OSError as error:
        result |= _told(disk_error(error, f"the run `{spec.run}` cannot go on"), True)
    if run is not None:
        result |= _made(run)
    return {**result, "finished": time.time()}


def _told(error: MainspringError, retryable: bool) -> dict[str, Any]:
    return {"error": error.message, "code_of_error": error.code, "hint": error.hint, "retryable": retryable}


def _made(run: Any) -> dict[str, Any]:
    made, job = run.made, run.job
    return {
        "pipeline": job.spec.pipeline,
        "model": job.pipeline.produces,
        "judged_only": job.judge_only,
        "steps": [asdict(step) for step in run.progress.steps.values()],
        "seconds": run.progress.spent,
        "days": run.progress.days,
        "artefact": made.artefact,
        "digest": made.digest,
        "metrics": made.metrics,
        "gate": made.gate,
        "verdict": made.verdict,
        "profile": made.profile,
        "bounds": asdict(made.limits) if made.limits else {},
        "data": {name: source.digest for name, source in made.sources.items()},
        "code": made.code,
        "params": {name: step.with_ for name, step in job.pipeline.steps.items() if step.with_} | _settings(job),
    }


def _settings(job: Any) -> dict[str, dict[str, Any]]:
    """What a language model's version answers by: those of the stack file, or of the version it was made of."""
    from mainspring.artefacts.load import load_manifest

    found: dict[str, dict[str, Any]] = {"convert": {"to": job.spec.convert}} if job.spec.convert else {}
    if job.pipeline.weights is None:
        return found
    given: dict[str, Any] = job.pipeline.settings.given
    with contextlib.suppress(MainspringError):  # the run has told it already
        if job.spec.source or job.spec.candidate:
            given = dict(load_manifest(Path(job.spec.source or job.spec.candidate)).settings)
    return {**found, "settings": given}


@contextlib.contextmanager
def _alone(folder: Path, signals: Signals) -> Iterator[None]:
    """Hold the run's lock; only one host works on a run."""
    with (folder / "lock").open("w") as lock:
        until = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                signals.check()
                if time.monotonic() > until:
                    raise EnvironmentError_(
                        "run-busy", f"another process works on the run `{folder.name}`", "wait until it has ended"
                    ) from None
                time.sleep(0.05)
        yield


if __name__ == "__main__":
    sys.exit(main())
