"""The built-in step `evaluate`: what a language model's gates are judged by, measured on real replicas.

What this is: candidate and champion, one after the other, each asked the same things alone; then, of the candidate,
how long answers take at the stack file's rate, and how much memory it holds. Who calls it: a run of a pipeline that
has `weights`, in a process of the step's own. What it must never do: judge (that is `decide/gate.py`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.artefacts import code
from mainspring.artefacts.load import WEIGHTS, load_manifest
from mainspring.errors import UserCodeError
from mainspring.loop.snapshot import EvalNumbers, Footprint, GateNumbers
from mainspring.pipelines.asking import Ask, run_eval
from mainspring.pipelines.candidate import Served, serve
from mainspring.pipelines.job import Job
from mainspring.pipelines.load import side_by_side, spread, under_load
from mainspring.pipelines.seen import gate_to
from mainspring.pipelines.work import Function

NO_RATE = (math.nan, 0.0)


@dataclass(frozen=True, slots=True)
class Asked:
    """What one version gave."""

    scores: dict[str, tuple[float, ...]]
    bodies: list[dict[str, Any]]  # every request, in order
    footprint: Footprint
    latency_p95: float  # seconds at the gate's rate; nan when no gate asks


def evaluate(job: Job, key: str, candidate: Path, evals: dict[str, Function]) -> None:
    """Measure, and keep the numbers under `key`."""
    manifest = load_manifest(candidate)
    converted = manifest.precision if manifest.made_of else ""
    weighed = bool(converted and job.spec.champion)
    own = _version(job, candidate, "candidate", "the candidate", evals, weighed=weighed)
    other: Asked | None = None
    compared = evals if weighed else _compared(job, evals)
    if job.spec.champion and (compared or weighed):
        name = f"version {job.spec.champion_version}" if job.spec.champion_version else "the champion"
        other = _version(job, Path(job.spec.champion), "champion", name, compared, weighed=weighed)
    _same_items(own, other)
    numbers = GateNumbers(
        rows=0,
        days=(),
        auc=math.nan,
        champion_auc=math.nan,
        latency_p95=own.latency_p95,
        champion=(job.spec.champion_version or "champion") if job.spec.champion else "",
        evals=tuple(
            EvalNumbers(name, scores, other.scores.get(name, ()) if other else ())
            for name, scores in own.scores.items()
        ),
        converted=converted,
        own=own.footprint,
        other=other.footprint if other else None,
    )
    job.cache.put(key, gate_to(numbers), {}, "evaluate")


def _compared(job: Job, evals: dict[str, Function]) -> dict[str, Function]:
    """Those that the champion is asked too."""
    return {name: f for name, f in evals.items() if job.pipeline.gates.evals[name].no_worse_by is not None}


def _version(job: Job, artefact: Path, short: str, name: str, evals: dict[str, Function], *, weighed: bool) -> Asked:
    with serve(job, artefact, name, short) as served:
        print(f"{name} answers at {served.address}", flush=True)
        asked: dict[str, Ask] = {}
        scores: dict[str, tuple[float, ...]] = {}
        for one, function in evals.items():
            call = code.load(job.code_root, function.digest, function.run)
            timeout = job.pipeline.gates.evals[one].timeout
            scores[one], asked[one] = run_eval(one, call, served, timeout, job.code_root)
        bodies = [body for ask in asked.values() for body in ask.bodies]
        alone = [reply.seconds for ask in asked.values() for reply in ask.replies]
        p95 = float(np.quantile(alone, 0.95)) if alone else math.nan
        memory = served.memory()
        latency = _latency(job, served, bodies, p95) if short == "candidate" else math.nan
        fast = side_by_side(served, _encoded(served, bodies), _slots(job)) if weighed and bodies else NO_RATE
        print(f"{name}: {memory / 1e6:,.0f} MB, 95 of 100 answers alone within {p95:.2f} s", flush=True)
    size = (artefact / WEIGHTS).stat().st_size
    footprint = Footprint(size, memory, p95, fast[0], _spread(alone), fast[1])
    return Asked(scores, bodies, footprint, latency)


def _spread(alone: list[float]) -> float:
    """How far the 95th percentiles of thirds of the answers lie apart, relative to their middle."""
    thirds = [float(np.quantile(alone[at::3], 0.95)) for at in range(3) if alone[at::3]]
    return spread(thirds) if thirds else math.nan


def _encoded(served: Served, bodies: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps({"model": served.model, **body}).encode() for body in bodies]


def _slots(job: Job) -> int:
    """How many requests the server works on at once."""
    words = list(job.words)
    return int(words[words.index("--slots") + 1]) if "--slots" in words else 1


def _latency(job: Job, served: Served, bodies: list[dict[str, Any]], alone: float) -> float:
    """What 95 of 100 answers take, at the rate that the gate names or one by one."""
    gate = job.pipeline.gates.latency
    if gate is None:
        return math.nan
    if gate.at is None:
        return alone
    if not bodies:
        raise UserCodeError("eval-asked-nothing", "the evaluations asked nothing, so no answer can be timed")
    return under_load(served, _encoded(served, bodies), gate.at)


def _same_items(own: Asked, other: Asked | None) -> None:
    for name, theirs in (other.scores if other else {}).items():
        if len(theirs) != len(own.scores[name]):
            message = (
                f"eval `{name}` has {len(own.scores[name])} scores of the candidate and {len(theirs)} of the champion"
            )
            hint = "return one score for each item, the same items for every version"
            raise UserCodeError("eval-scores", message, hint)
