"""A run, from data to a judged candidate: the order of the steps, and what each depends on.

    data > FIRST STEP > data-check > your steps ... train, validate > package > gate [> train-all > package-all]

The last two are for a first version, which is fitted again on all rows when its gates have passed. A run that only
judges (`StartRun.candidate`) has data, the first step, data-check and gate; one that converts: `convert.py`.
Who calls it: the host.
What it must never do: import the user's code or load a table: steps do that, in their own processes.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mainspring.artefacts import code
from mainspring.artefacts.load import load_manifest
from mainspring.errors import EnvironmentError_, MainspringError, UserCodeError
from mainspring.loop.snapshot import GateNumbers, StepSeen
from mainspring.pipelines import datacheck, signature, work
from mainspring.pipelines.cache import Entry
from mainspring.pipelines.child import Signals
from mainspring.pipelines.files import new_folder, read_json, write_json
from mainspring.pipelines.job import SEED, Job
from mainspring.pipelines.seen import gate_from
from mainspring.pipelines.sources import Fetched
from mainspring.pipelines.steps import Failed, Progress, Steps
from mainspring.pipelines.table import Bounds, Part, hold_out
from mainspring.pipelines.work import Function, Inputs


@dataclass
class Made:
    """What the run has made so far; it goes into `result.json`."""

    sources: dict[str, Fetched] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)  # step: digest
    outputs: dict[str, str] = field(default_factory=dict)  # step: key
    table: str = ""
    limits: Bounds | None = None
    profile: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    gate: dict[str, Any] | None = None
    verdict: dict[str, Any] = field(default_factory=dict)
    artefact: str = ""
    digest: str = ""

    @property
    def inputs(self) -> Inputs:
        """What later steps' parameters are filled from."""
        return Inputs(self.sources, dict(self.outputs), self.table, self.limits)


class Run:
    """One attempt at a run."""

    def __init__(self, job: Job, signals: Signals) -> None:
        self.job = job
        self.made = Made()
        self.progress = Progress(job, {name: StepSeen(name, "waiting") for name in _names(job)})
        self.steps = Steps(job, self.progress, signals)

    def go(self) -> None:
        """Run all steps. Raises `Failed`, `MainspringError`, or `child.Stopped`."""
        functions, checks = self._prepare()
        self._data(functions)
        self._first(functions)
        self._check_data()
        if self.job.judge_only:
            self._gate(Path(self.job.spec.candidate), checks)
            return
        for step in list(self.job.pipeline.steps)[1:]:
            self._user_step(step, functions[step])
        packaged = self._package("package", functions, self.made.outputs["train"], evaluated="")
        self._gate(work.artefact_folder(self.job, packaged.key), checks)
        if self.job.spec.first and not self.job.spec.champion and self.made.verdict["passed"]:
            packaged = self._refit(functions, packaged)
        self._place(packaged)

    # --- before anything runs ---

    def _prepare(self) -> tuple[dict[str, Function], dict[str, Function]]:
        """Check what can be checked without running anything, and take snapshots of the code."""
        job = self.job
        wrong = signature.check_signatures(job.stack_folder, job.pipeline)
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UserCodeError("step-signature", f"step `{wrong[0].step}`: {wrong[0].message}{more}", wrong[0].hint)
        hold_out(job.pipeline.gates)
        steps = {name: self._function(spec.run) for name, spec in job.pipeline.steps.items()}
        self.made.code = {name: function.digest for name, function in steps.items()}
        return steps, {name: self._function(check.run) for name, check in job.pipeline.gates.checks.items()}

    def _function(self, run: str) -> Function:
        folder = self.job.stack_folder
        digest = code.snapshot(folder, run.partition(":")[0], self.job.code_root)
        return Function(run, digest, signature.read(folder, run))

    # --- data ---

    def _data(self, functions: dict[str, Function]) -> None:
        """Fetch the sources; a later attempt at the same run takes what the first one found."""
        job = self.job
        if not job.pipeline.data:
            return
        tables = {p.name for f in functions.values() for p in f.signature.parameters if not p.path}
        parse = tables & set(job.pipeline.data)
        specs = {name: spec.model_dump() for name, spec in job.pipeline.data.items()}
        pinned = read_json(job.folder / "data.json")
        if isinstance(pinned, dict) and pinned.get("specs") == specs and self._have(pinned["found"]):
            found = pinned["found"]
            self.steps.skip("data")
        else:
            found = self.steps.fresh("data", lambda: work.fetch_all(job, parse))
            write_json(job.folder / "data.json", {"specs": specs, "found": found})
        self.made.sources = {name: Fetched(**raw) for name, raw in found.items()}

    def _have(self, found: dict[str, Any]) -> bool:
        return all(Fetched(**raw).path(self.job.data_root).is_file() for raw in found.values())

    def _first(self, functions: dict[str, Function]) -> None:
        name, function = self.job.first, functions[self.job.first]
        parts = self._parts(name, function, "all")
        if not self.made.sources.keys() & function.signature.names:
            parts["run"] = self.job.spec.run  # it reads its data by itself, so only this run may keep it
        entry = self.steps.cached(name, parts, lambda key: work.first_step(self.job, key, function, self.made.inputs))
        self.made.outputs[name] = entry.key

    def _check_data(self) -> None:
        job, step = self.job, "data-check"
        source = job.cache.checked(self.made.outputs[job.first])
        parts = {
            "table": source.saved.digest,
            "time": [job.spec.since, job.spec.until],
            "held": hold_out(job.pipeline.gates),
            "shape": asdict(job.shape),
        }
        entry = self.steps.cached(step, parts, lambda key: work.check_data(job, key, source.key))
        self.made.table = self.made.outputs[job.first] = entry.key
        self.made.limits = Bounds(**entry.notes["bounds"])
        self.made.profile = entry.notes["profile"]
        last = last_profile(job)
        wrong = datacheck.compare(self.made.profile, last, job.spec.since, job.spec.until)
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            self.say(step, wrong)
            hint = "mend the data, or take the column out of the first step's table"
            raise self.steps.fail(step, UserCodeError("data-unfit", f"the data is not fit: {wrong[0]}{more}", hint))

    # --- the user's steps ---

    def _user_step(self, step: str, function: Function) -> None:
        job, inputs = self.job, self.made.inputs
        if step == "features":
            parts: dict[str, Any] = {"code": function.digest, "run": function.run, "table": self._digest(job.first)}
            parts["fields"] = [asdict(f) for f in work.raw_fields(job, self.made.table)]
            entry = self.steps.cached(step, parts, lambda key: work.features_step(job, key, function, inputs))
        else:
            part: Part = "train" if step == "train" else "held" if step == "validate" else "all"
            parts = self._parts(step, function, part)
            entry = self.steps.cached(step, parts, lambda key: work.user_step(job, key, step, function, inputs, part))
        self.made.outputs[step] = entry.key
        for name, value in entry.notes.get("metrics", {}).items():
            self.made.metrics[name if step == "validate" else f"{step}.{name}"] = value

    def _parts(self, step: str, function: Function, part: Part) -> dict[str, Any]:
        """Everything that a step's output depends on."""
        names = function.signature.names
        fixed = self.job.pipeline.steps[step].with_
        parts: dict[str, Any] = {"code": function.digest, "run": function.run, "with": fixed, "part": part}
        parts["sources"] = {n: asdict(s) for n, s in self.made.sources.items() if n in names and n not in fixed}
        parts["steps"] = {n: self._digest(n) for n in self.made.outputs if n in names and n not in fixed}
        if self.made.table and names & {"rows", "truth"}:
            parts["steps"]["rows"] = self._digest(self.job.first)
        if "window" in names:
            parts["window"] = [self.job.spec.since, self.job.spec.until]
        if "seed" in names:
            parts["seed"] = SEED
        if part != "all" and self.made.limits:
            parts["held"] = self.made.limits.held
        return parts

    def _digest(self, step: str) -> str:
        entry = self.job.cache.get(self.made.outputs[step])
        if entry is None:
            raise EnvironmentError_("cache-lost", f"the output of step `{step}` is gone", "run again")
        return entry.saved.digest

    # --- package, gate, refit ---

    def _package(self, step: str, functions: dict[str, Function], model: str, evaluated: str) -> Entry:
        job, inputs = self.job, self.made.inputs
        train, features = functions["train"], functions.get("features")
        entry = job.cache.get(model)
        parts = {
            "model": entry.saved.digest if entry else model,
            "produces": job.pipeline.produces,
            "features": [features.run, features.digest] if features else [],
            "table": self._digest(job.first),
            "limits": asdict(self.made.limits) if self.made.limits else {},
            "window": job.window,
            "evaluated": evaluated,
        }

        def make(key: str) -> None:
            work.package(job, key, train, features, model=model, inputs=inputs, evaluated=evaluated)

        return self.steps.cached(step, parts, make)

    def _gate(self, candidate: Path, checks: dict[str, Function]) -> None:
        job, inputs = self.job, self.made.inputs
        champion = load_manifest(Path(job.spec.champion)) if job.spec.champion else None
        parts = {
            "candidate": asdict(load_manifest(candidate)),
            "champion": [asdict(champion), job.spec.champion_version] if champion else [],
            "table": self._digest(job.first),
            "limits": asdict(self.made.limits) if self.made.limits else {},
            "gates": job.pipeline.gates.model_dump(),
            "checks": {name: f.digest for name, f in checks.items()},
            "server": [job.threads, *job.batch],
            "run": job.spec.run if job.judge_only else "",  # who asks for the gates wants them measured, not recalled
        }
        entry = self.steps.cached("gate", parts, lambda key: work.gate(job, key, candidate, checks, inputs))
        self.made.gate = work.describe(entry.path.read_bytes())
        self.made.metrics |= _gate_metrics(gate_from(self.made.gate))
        self.made.verdict = self._judge(self.made.gate)

    def _judge(self, measured: dict[str, Any]) -> dict[str, Any]:
        """Judge by the same function and seed as the loop, whose verdict is the one that counts."""
        from mainspring.decide.gate import judge, seed_of

        verdict = judge(self.job.pipeline.gates, gate_from(measured), seed_of(self.job.spec.run))
        self.say("gate", [item.message for item in verdict.items])
        return {"passed": verdict.passed, "message": verdict.message}

    def say(self, step: str, sentences: Iterable[str]) -> None:
        """Add to a step's log what the host found of its output."""
        with (self.job.folder / "logs" / f"{step}.log").open("a") as log:
            log.writelines(f"{sentence}\n" for sentence in sentences)

    def _refit(self, functions: dict[str, Function], evaluated: Entry) -> Entry:
        """Fit a first version again on all rows: no later gate's rows are among them."""
        job, inputs, function = self.job, self.made.inputs, functions["train"]
        parts = self._parts("train", function, "known")

        def fit(key: str) -> None:
            work.user_step(job, key, "train", function, inputs, "known")

        model = self.steps.cached("train-all", parts, fit)
        return self._package("package-all", functions, model.key, evaluated.key)

    def _place(self, packaged: Entry) -> None:
        """Put the artefact where it is served from: `artefacts/<model>/<run>/`, whole or not at all."""
        job = self.job
        final = job.state / "artefacts" / job.pipeline.produces / job.spec.run
        if final.exists() and not self._placed(final, packaged):
            shutil.rmtree(final)  # of an earlier attempt, with other code or data; no version was made of it
        with new_folder(final, job.spec.run) as fresh:
            self.made.digest = work.place(job, packaged.key, fresh)
        self.made.artefact = str(final)

    def _placed(self, final: Path, packaged: Entry) -> bool:
        try:
            return load_manifest(final).digest == load_manifest(work.artefact_folder(self.job, packaged.key)).digest
        except MainspringError:
            return False


def _names(job: Job) -> list[str]:
    """The steps that the run will have, in order."""
    if job.spec.convert:
        from mainspring.pipelines import convert

        return convert.names(job)
    if job.pipeline.weights is not None:
        from mainspring.pipelines import language

        return language.names(job)
    users = list(job.pipeline.steps)
    names = [*(["data"] if job.pipeline.data else []), users[0], "data-check"]
    if job.judge_only:
        return [*names, "gate"]
    names += [*users[1:], "package", "gate"]
    return [*names, "train-all", "package-all"] if job.spec.first and not job.spec.champion else names


def last_profile(job: Job) -> dict[str, Any] | None:
    """What the data looked like in the last run of this pipeline that succeeded."""
    found: tuple[float, dict[str, Any]] | None = None
    for path in (job.state / "runs").glob("*/result.json"):
        raw = read_json(path)
        if (
            path.parent.name != job.spec.run
            and isinstance(raw, dict)
            and raw.get("state") == "succeeded"
            and raw.get("pipeline") == job.spec.pipeline
            and not raw.get("judged_only")
            and raw.get("profile")
            and (found is None or raw.get("finished", 0) > found[0])
        ):
            found = (raw.get("finished", 0), raw["profile"])
    return found[1] if found else None


__all__ = ["Failed", "Run", "last_profile"]


def _gate_metrics(measured: GateNumbers) -> dict[str, float]:
    """What the gates measured, as metrics of the run; latency is left out: it differs from one try to the next."""
    found = {"gate.rows": float(measured.rows), "gate.auc": measured.auc, "gate.champion.auc": measured.champion_auc}
    if measured.rows:
        found["gate.brier"] = math.fsum(d.candidate for d in measured.days) / measured.rows
        found["gate.champion.brier"] = math.fsum(d.champion for d in measured.days) / measured.rows
    return {name: value for name, value in found.items() if math.isfinite(value)}
