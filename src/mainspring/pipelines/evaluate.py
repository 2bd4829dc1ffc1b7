"""The built-in step `evaluate`: what a language model's gates are judged by, measured on real replicas.

What this is: the candidate is asked what the evaluations and the sets of safety ask, alone; then how long its answers
take at the stack file's rate, and how much memory it holds. The champion is asked the same after it has ended, or,
where the candidate's weights were converted, beside it, so that their speeds are measured by turns. Who calls it: a run
of a pipeline that has `weights`, in a process of the step's own. What it must never do: judge (that is
`decide/gate.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mainspring.artefacts import code
from mainspring.artefacts.load import WEIGHTS, load_manifest
from mainspring.errors import UserCodeError
from mainspring.loop.snapshot import EvalNumbers, Footprint, GateNumbers
from mainspring.pipelines import safety
from mainspring.pipelines.asking import Ask, run_eval
from mainspring.pipelines.candidate import Served, serve
from mainspring.pipelines.job import Job
from mainspring.pipelines.load import under_load
from mainspring.pipelines.seen import gate_to
from mainspring.pipelines.weigh import weigh
from mainspring.pipelines.work import Function


@dataclass(frozen=True, slots=True)
class Asked:
    """What one version gave."""

    scores: dict[str, tuple[float, ...]]
    bodies: list[dict[str, Any]]  # every request that is timed, in order
    alone: float  # seconds within which 95 of 100 answers came, each asked alone; nan without any
    asks: dict[str, Ask] = field(default_factory=dict)  # of the evaluations
    sets: safety.Answers = field(default_factory=safety.Answers)


def evaluate(job: Job, key: str, candidate: Path, evals: dict[str, Function], banned: Sequence[str] = ()) -> None:
    """Measure, and keep the numbers under `key`; `banned` is looked for in the candidate's answers."""
    manifest = load_manifest(candidate)
    converted = manifest.precision if manifest.made_of else ""
    weighed = bool(converted and job.spec.champion)
    compared = evals if weighed else _compared(job, evals)
    gate = job.pipeline.gates.safety
    sets = gate.sets if gate is not None else ()
    champion = f"version {job.spec.champion_version}" if job.spec.champion_version else "the champion"
    other: Asked | None = None
    feet: tuple[Footprint, Footprint] | None = None
    with serve(job, candidate, "the candidate", "candidate") as served:
        own = _asked(job, served, evals, candidate, sets)
        memory = served.memory()
        latency = _latency(job, served, own.bodies, own.alone)
        if weighed:
            with serve(job, Path(job.spec.champion), champion, "champion") as second:
                other = _asked(job, second, compared, Path(job.spec.champion), safety.compared(gate))
                feet = _weighed(job, (served, second), (candidate, Path(job.spec.champion)), own.bodies)
    if job.spec.champion and (compared or safety.compared(gate)) and not weighed:
        with serve(job, Path(job.spec.champion), champion, "champion") as served:
            other = _asked(job, served, compared, Path(job.spec.champion), safety.compared(gate))
    _same_items(own, other)
    alone = Footprint((candidate / WEIGHTS).stat().st_size, memory, own.alone, math.nan, math.nan, math.nan)
    numbers = GateNumbers(
        rows=0,
        days=(),
        auc=math.nan,
        champion_auc=math.nan,
        latency_p95=latency,
        champion=(job.spec.champion_version or "champion") if job.spec.champion else "",
        evals=_paired(own, other),
        converted=converted,
        own=feet[0] if feet else alone,
        other=feet[1] if feet else None,
        safety=safety.numbers_of(own.sets, other.sets if other else None, own.asks, banned) if gate else None,
        memory=memory,
    )
    job.cache.put(key, gate_to(numbers), {}, "evaluate")


def _paired(own: Asked, other: Asked | None) -> tuple[EvalNumbers, ...]:
    """The scores of both, by evaluation."""
    theirs = other.scores if other else {}
    return tuple(EvalNumbers(name, scores, theirs.get(name, ())) for name, scores in own.scores.items())


def _compared(job: Job, evals: dict[str, Function]) -> dict[str, Function]:
    """Those that the champion is asked too."""
    return {name: f for name, f in evals.items() if job.pipeline.gates.evals[name].no_worse_by is not None}


def _asked(job: Job, served: Served, evals: dict[str, Function], artefact: Path, sets: Sequence[str]) -> Asked:
    """Ask a version that runs everything that the evaluations and the named sets of safety ask."""
    print(f"{served.name} answers at {served.address}", flush=True)
    asked: dict[str, Ask] = {}
    scores: dict[str, tuple[float, ...]] = {}
    for one, function in evals.items():
        call = code.load(job.code_root, function.digest, function.run)
        scores[one], ask = run_eval(one, call, served, job.pipeline.gates.evals[one].timeout, job.code_root)
        asked[one] = ask
    answers, gate = safety.Answers(), job.pipeline.gates.safety
    if gate is not None and sets:
        system = str(load_manifest(artefact).settings.get("system", ""))
        answers = safety.ask_sets(gate, sets, served, system)
    timed = list(asked.values()) or answers.asks  # the evaluations' prompts are the ones that are like the users'
    alone = [reply.seconds for ask in timed for reply in ask.replies]
    p95 = float(np.quantile(alone, 0.95)) if alone else math.nan
    told = f", 95 of 100 answers alone within {p95:.2f} s" if alone else ""
    print(f"{served.name}: {served.memory() / 1e6:,.0f} MB{told}", flush=True)
    return Asked(scores, [body for ask in timed for body in ask.bodies], p95, asked, answers)


def _weighed(
    job: Job, both: tuple[Served, Served], artefacts: tuple[Path, Path], bodies: list[dict[str, Any]]
) -> tuple[Footprint, Footprint]:
    """What serving each of two versions takes, while both run."""
    speeds = weigh(*both, bodies, _slots(job))
    own, other = (
        Footprint(
            size=(artefact / WEIGHTS).stat().st_size,
            memory=served.memory(),
            latency_p95=speed.p95,
            throughput=speed.rate,
            latency_spread=speed.p95_spread,
            throughput_spread=speed.rate_spread,
        )
        for served, artefact, speed in zip(both, artefacts, speeds, strict=True)
    )
    return own, other


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
