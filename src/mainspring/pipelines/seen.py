"""A run's folder, from outside: what it was asked to do, how far it is, how it ended.

`spec.json` is a `StartRun`, `state.json` the progress, `result.json` the end; each is replaced whole. Who calls it:
the local world, through the app; the host. What it must never do: raise for a missing or damaged file, or import
anything heavy.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mainspring.decide.price import DAY
from mainspring.decide.probes import BannedSeen, ProbeSeen, SafetyNumbers
from mainspring.decide.ranges import ColumnSeen, InputNumbers, InputSeen
from mainspring.errors import EnvironmentError_
from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import (
    CheckNumbers,
    DayLoss,
    EvalNumbers,
    Footprint,
    GateNumbers,
    GroupNumbers,
    RunSeen,
    StepSeen,
)
from mainspring.pipelines.files import disk_error, read_json, write_json

SPEC, STATE, RESULT = "spec.json", "state.json", "result.json"


def prepare_run(state: Path, spec: StartRun) -> Path:
    """Write `runs/<run>/spec.json` and return the folder. Idempotent; a higher attempt replaces a lower one."""
    folder = state / "runs" / spec.run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = read_spec(folder)
        if before is None or before.attempt < spec.attempt:
            write_json(folder / SPEC, asdict(spec))
    except OSError as error:
        raise disk_error(error, f"the run `{spec.run}` cannot be prepared") from error
    return folder


def read_spec(folder: Path) -> StartRun | None:
    """What the run was asked to do; None when that is not there."""
    raw = read_json(folder / SPEC)
    if not isinstance(raw, dict):
        return None
    known = {field.name for field in fields(StartRun)}
    try:
        return StartRun(**{key: value for key, value in raw.items() if key in known})
    except TypeError:
        return None


def need_spec(folder: Path) -> StartRun:
    """What the run was asked to do. Raises `EnvironmentError_` when that is not there."""
    spec = read_spec(folder)
    if spec is None:
        raise EnvironmentError_("run-lost", f"`{folder / SPEC}` is missing or damaged", "start the run anew")
    return spec


def read_run(folder: Path) -> RunSeen:
    """How a run stands. Never raises: what cannot be read is not known yet.

    The end that an earlier attempt came to does not count while a later one is asked for, unless it was success.
    """
    spec = read_spec(folder)
    attempt = spec.attempt if spec else 0
    result, state = read_json(folder / RESULT), read_json(folder / STATE)
    if _current(result, attempt) or (isinstance(result, dict) and result.get("state") == "succeeded"):
        try:
            return _run(folder, result, spec, attempt)
        except (TypeError, ValueError, KeyError, AttributeError):
            pass  # damaged: as if it were not there
    try:
        progress = state if _current(state, attempt) else {}
        return _run(folder, {**progress, "state": "running"}, spec, attempt)
    except (TypeError, ValueError, KeyError, AttributeError):
        return _run(folder, {"state": "running"}, spec, attempt)


def by_day(raw: Any) -> dict[str, float]:
    """CPU seconds by the real day (since 1970, UTC), of what a state or a result says; nothing when it says none."""
    try:
        found = {str(int(day)): float(seconds) for day, seconds in raw["days"].items()}
        return {day: seconds for day, seconds in found.items() if 0.0 <= seconds < math.inf}
    except (TypeError, ValueError, KeyError, AttributeError):
        return {}


def training_days(folder: Path) -> dict[int, float]:
    """CPU seconds of a run by real day. Never raises.

    A run of before this was noted has all its seconds on the day on which its folder's files were last written.
    """
    told: dict[int, float] = {}
    for name in (STATE, RESULT):  # both are sums since the run's beginning: the larger is the later
        days = {int(day): seconds for day, seconds in by_day(read_json(folder / name)).items()}
        if sum(days.values()) >= sum(told.values()):
            told = days
    seconds = read_run(folder).seconds
    if told or not 0.0 < seconds < math.inf:
        return told
    written = 0.0
    for name in (STATE, RESULT):
        with suppress(OSError):
            written = max(written, (folder / name).stat().st_mtime)
    return {int(written // DAY): seconds}


def _current(value: Any, attempt: int) -> bool:
    return isinstance(value, dict) and value.get("attempt") == attempt


def _run(folder: Path, raw: dict[str, Any], spec: StartRun | None, attempt: int) -> RunSeen:
    return RunSeen(
        id=folder.name,
        pipeline=spec.pipeline if spec else str(raw.get("pipeline", "")),
        attempt=attempt,
        state=str(raw["state"]),
        steps=tuple(_step(step) for step in raw.get("steps", ())),
        artefact=str(raw.get("artefact", "")),
        digest=str(raw.get("digest", "")),
        metrics={str(k): number(v) for k, v in raw.get("metrics", {}).items()},
        gate=gate_from(raw["gate"]) if raw.get("gate") else None,
        error=str(raw.get("error", "")),
        retryable=bool(raw.get("retryable", False)),
        seconds=float(raw.get("seconds", 0.0)),
    )


def _step(raw: dict[str, Any]) -> StepSeen:
    return StepSeen(
        str(raw["name"]), str(raw["state"]), int(raw["attempt"]), float(raw["seconds"]), str(raw.get("error", ""))
    )


def number(value: Any) -> float:
    """A number from JSON, where null stands for what is none."""
    return math.nan if value is None else float(value)


def plain(value: Any) -> Any:
    """A value for JSON: NaN and infinity become null, all the way down."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def gate_to(numbers: GateNumbers) -> dict[str, Any]:
    """Gate numbers as plain values."""
    told: dict[str, Any] = plain(asdict(numbers))
    return told


def gate_from(raw: dict[str, Any]) -> GateNumbers:
    """Gate numbers from plain values; raises `KeyError`, `TypeError` or `ValueError` when they are none."""
    return GateNumbers(
        rows=int(raw["rows"]),
        days=tuple(
            DayLoss(
                int(d["day"]),
                int(d["rows"]),
                number(d["candidate"]),
                number(d["champion"]),
                number(d.get("squares")),
            )
            for d in raw["days"]
        ),
        auc=number(raw["auc"]),
        champion_auc=number(raw["champion_auc"]),
        latency_p95=number(raw["latency_p95"]),
        groups=tuple(
            GroupNumbers(
                str(g["check"]),
                str(g["group"]),
                int(g["rows"]),
                number(g["value"]),
                number(g.get("error")),
                int(g.get("days", 0)),
            )
            for g in raw["groups"]
        ),
        checks=tuple(CheckNumbers(str(c["name"]), bool(c["passed"]), str(c["message"])) for c in raw["checks"]),
        champion=str(raw["champion"]),
        evals=tuple(
            EvalNumbers(str(e["name"]), tuple(map(float, e["candidate"])), tuple(map(float, e["champion"])))
            for e in raw.get("evals", ())
        ),
        converted=str(raw.get("converted", "")),
        own=_footprint(raw.get("own")),
        other=_footprint(raw.get("other")),
        auc_errors=_pair(raw.get("auc_errors")),
        safety=_safety(raw.get("safety")),
        inputs=_inputs(raw.get("inputs")),
        predicted=_pair(raw.get("predicted")),
        memory=number(raw.get("memory")),
    )


def _pair(raw: Any) -> tuple[float, float]:
    first, second = raw or (None, None)
    return number(first), number(second)


def _safety(raw: dict[str, Any] | None) -> SafetyNumbers | None:
    if raw is None:
        return None
    return SafetyNumbers(
        probes=tuple(
            ProbeSeen(
                str(p["set"]),
                str(p["name"]),
                bool(p["candidate"]),
                None if p["champion"] is None else bool(p["champion"]),
                str(p["said"]),
            )
            for p in raw["probes"]
        ),
        banned=tuple(BannedSeen(str(b["banned"]), str(b["where"]), str(b["said"])) for b in raw["banned"]),
        answers=int(raw["answers"]),
        silent=int(raw["silent"]),
    )


def _inputs(raw: dict[str, Any] | None) -> InputNumbers | None:
    if raw is None:
        return None
    return InputNumbers(
        rows=int(raw["rows"]),
        columns=tuple(
            ColumnSeen(str(c["column"]), int(c["values"]), int(c["outside"]), number(c["low"]), number(c["high"]))
            for c in raw["columns"]
        ),
        probes=tuple(
            InputSeen(
                str(p["column"]), str(p["what"]), bool(p["inside"]), p["outcome"], number(p["score"]), str(p["said"])
            )
            for p in raw["probes"]
        ),
        steady=bool(raw["steady"]),
        absent=tuple(map(str, raw["absent"])),
    )


def _footprint(raw: dict[str, Any] | None) -> Footprint | None:
    if raw is None:
        return None
    return Footprint(
        size=int(raw["size"]),
        memory=number(raw["memory"]),
        latency_p95=number(raw["latency_p95"]),
        throughput=number(raw["throughput"]),
        latency_spread=number(raw.get("latency_spread", 0.0)),
        throughput_spread=number(raw.get("throughput_spread", 0.0)),
    )
