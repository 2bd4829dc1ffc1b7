"""Runs as people see them: what each used and what it gave, read from its folder.

Who calls it: the registry, which also logs it to MLflow. What it must never do: raise for a damaged folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.loop.snapshot import RunSeen, VersionSeen
from mainspring.pipelines.files import read_json
from mainspring.pipelines.seen import RESULT, read_run


@dataclass(frozen=True, slots=True)
class RunListed:
    """A run, for people: what it used and what it gave."""

    seen: RunSeen
    cause: str
    params: dict[str, str]
    data: dict[str, str]  # source: digest
    code: dict[str, str]  # step: digest
    since: float | None
    until: float | None
    version: str = ""  # the version that was made of it
    verdict: str = ""
    finished: float = 0.0


def listed(folder: Path, version: VersionSeen | None) -> RunListed:
    """A run's folder, and the version that was made of it."""
    raw = read_json(folder / RESULT)
    spec = read_json(folder / "spec.json")
    told: dict[str, Any] = {**(spec if isinstance(spec, dict) else {}), **(raw if isinstance(raw, dict) else {})}
    params = told.get("params") or {}
    return RunListed(
        seen=read_run(folder),
        cause=str(told.get("cause", "")),
        params={f"{step}.{key}": json.dumps(value) for step, fixed in params.items() for key, value in fixed.items()},
        data={str(k): str(v) for k, v in (told.get("data") or {}).items()},
        code={str(k): str(v) for k, v in (told.get("code") or {}).items()},
        since=told.get("since"),
        until=told.get("until"),
        version=version.number if version else "",
        verdict=version.verdict if version else "",
        finished=float(told.get("finished") or 0.0),
    )


def params_of(listed: RunListed) -> dict[str, str]:
    """What a run was given, as MLflow's parameters."""
    return {
        **listed.params,
        **{f"data.{name}": digest for name, digest in listed.data.items()},
        **{f"code.{step}": digest for step, digest in listed.code.items()},
        "since": str(listed.since),
        "until": str(listed.until),
    }


def order(folder: Path) -> tuple[str, int]:
    """By a run's name, then its number."""
    name, _, number = folder.name.rpartition("-")
    return (name, int(number)) if number.isdigit() else (folder.name, 0)
