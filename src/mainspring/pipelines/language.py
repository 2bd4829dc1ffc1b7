"""A run of a pipeline that has `weights`: nothing is trained, what is there is packaged, asked and judged.

    weights > package > evaluate > gate

`weights` fetches the file and reads its header; `package` makes a version of it together with the settings;
`evaluate` starts it as a real replica, beside the champion, and runs the user's own evaluations; `gate` judges by the
same function as for any other model. A run that only judges (`StartRun.candidate`) has the last two.
Who calls it: the host. What it must never do: import the user's code, or copy weights where a link will do.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mainspring.artefacts.load import WEIGHTS, load_manifest, save_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.errors import ArtefactError, InputError, MainspringError, UserCodeError
from mainspring.facts.gguf import from_header
from mainspring.loop.snapshot import StepSeen
from mainspring.pipelines import convert, safety, signature, work
from mainspring.pipelines.cache import Entry
from mainspring.pipelines.evaluate import evaluate
from mainspring.pipelines.files import installed, link, new_folder, read_json, write_json
from mainspring.pipelines.job import Job
from mainspring.pipelines.run import Run
from mainspring.pipelines.seen import gate_from
from mainspring.pipelines.sources import Fetched, fetch_weights
from mainspring.pipelines.values import Saved
from mainspring.pipelines.work import Function


class LanguageRun(Run):
    """One attempt at a run."""

    def go(self) -> None:
        """Run all steps. Raises `Failed`, `MainspringError`, or `child.Stopped`."""
        evals = self._evals()
        if self.job.judge_only:
            self.judge_version(Path(self.job.spec.candidate), evals)
            return
        packaged = convert.converted_weights(self) if self.job.spec.convert else self._packaged(self._weights())
        self.judge_version(work.artefact_folder(self.job, packaged.key), evals)
        self._place(packaged)

    def _evals(self) -> dict[str, Function]:
        """Take snapshots of the evaluations' code, after seeing that they can be called."""
        wrong = signature.check_signatures(self.job.stack_folder, self.job.pipeline)
        if wrong:
            raise UserCodeError("eval-signature", f"`{wrong[0].step}`: {wrong[0].message}", wrong[0].hint)
        evals = {name: self._function(gate.run) for name, gate in self.job.pipeline.gates.evals.items()}
        self.made.code = {f"evals.{name}": function.digest for name, function in evals.items()}
        return evals

    def _weights(self) -> Fetched:
        """Fetch the weights; a later attempt at the same run takes what the first one found."""
        job, url = self.job, self.job.pipeline.weights
        pinned = read_json(job.folder / "weights.json")
        if isinstance(pinned, dict) and pinned.get("url") == url:
            found = Fetched(**pinned["found"])
            if found.path(job.data_root).is_file():
                self.made.sources = {"weights": found}
                self.steps.skip("weights")
                return found
        found = Fetched(**self.steps.fresh("weights", lambda: fetch(job)))
        write_json(job.folder / "weights.json", {"url": url, "found": asdict(found)})
        self.made.sources = {"weights": found}
        return found

    def _packaged(self, weights: Fetched) -> Entry:
        job = self.job
        parts = {"weights": weights.digest, "produces": job.pipeline.produces, "settings": job.pipeline.settings.given}
        return self.steps.cached("package", parts, lambda key: package(job, key, weights))

    def judge_version(self, candidate: Path, evals: dict[str, Function]) -> None:
        """Evaluate an artefact of this model (and the champion), and judge what came of it."""
        job = self.job
        champion = self._champion()
        gates = job.pipeline.gates
        banned = safety.banned_words(gates.safety, job.stack_folder)
        parts: dict[str, Any] = {
            "candidate": asdict(load_manifest(candidate)),
            "champion": [asdict(champion), job.spec.champion_version] if champion else [],
            "evals": {name: [f.run, f.digest, gates.evals[name].no_worse_by is None] for name, f in evals.items()},
            "at": gates.latency.at.per_second if gates.latency and gates.latency.at else None,
            "timed": gates.latency is not None,
            "server": [list(job.words), job.threads],
            "convert": job.spec.convert,
            "run": job.spec.run if job.judge_only else "",  # who asks for the gates wants them measured, not recalled
        }
        longest = 2 * sum(gate.timeout for gate in gates.evals.values())  # of both versions: each has its own limit
        if gates.safety is not None:
            parts["safety"] = [gates.safety.sets, safety.compared(gates.safety), banned, safety.digest()]
            longest += 2 * gates.safety.timeout
        entry = self.steps.cached("evaluate", parts, lambda key: evaluate(job, key, candidate, evals, banned), longest)
        self.made.gate = work.describe(entry.path.read_bytes())
        self.progress.note(StepSeen("gate", "running", 1))
        self.made.metrics |= _metrics(self.made.gate)
        self.made.verdict = self._judge(self.made.gate)
        self.progress.note(StepSeen("gate", "succeeded", 1))

    def _champion(self) -> Manifest | None:
        """The champion's manifest, after seeing that its weights are there: the candidate's answers take minutes."""
        folder = Path(self.job.spec.champion)
        if not self.job.spec.champion:
            return None
        try:
            manifest = load_manifest(folder)
            if not (folder / WEIGHTS).is_file():
                raise ArtefactError("artefact-missing", f"`{folder / WEIGHTS}` is not there", "mainspring models list")
        except MainspringError as error:
            number = self.job.spec.champion_version
            message = f"version {number}, the champion, can't be compared with: {error.message}"
            raise self.steps.fail("evaluate", ArtefactError(error.code, message, error.hint)) from error
        return manifest

    def _place(self, packaged: Entry) -> None:
        """Put the artefact where it is served from: `artefacts/<model>/<run>/`, whole or not at all."""
        job = self.job
        source = work.artefact_folder(job, packaged.key)
        manifest = replace(load_manifest(source), run=job.spec.run)
        final = job.state / "artefacts" / job.pipeline.produces / job.spec.run
        if final.exists() and not _is(final, manifest):
            shutil.rmtree(final)  # of an earlier attempt, with other weights or settings; no version was made of it
        with new_folder(final, job.spec.run) as fresh:
            link(source / WEIGHTS, fresh / WEIGHTS)
            save_manifest(fresh, manifest)
        self.made.digest, self.made.artefact = manifest.digest, str(final)


def names(job: Job) -> list[str]:
    """The steps that the run will have, in order."""
    return ["evaluate", "gate"] if job.judge_only else ["weights", "package", "evaluate", "gate"]


def fetch(job: Job) -> dict[str, Any]:
    """Fetch the weights, and read what they are (in the step's process). Raises `InputError` when they are no GGUF."""
    url = job.pipeline.weights
    assert url is not None
    found = fetch_weights(url, job.stack_folder, job.data_root, job.spec.run)
    path = found.path(job.data_root)
    try:
        with path.open("rb") as file:
            shape, precision = from_header(file)
    except InputError as error:
        raise InputError("weights-not-gguf", f"`{url}` is not usable: {error.message}", error.hint) from error
    print(f"{shape.name}: {shape.parameters / 1e6:,.0f} M parameters in {precision}, {path.stat().st_size:,} bytes")
    print(f"sha256:{found.digest}")
    return asdict(found)


def package(job: Job, key: str, weights: Fetched) -> None:
    """Make the artefact of weights and settings (in the step's process)."""

    def make(folder: Path) -> Saved:
        inside = folder / "artefact"
        inside.mkdir()
        link(weights.path(job.data_root), inside / WEIGHTS)
        manifest = Manifest(
            model=job.pipeline.produces,
            run="",  # set when the artefact is placed
            format="gguf",
            digest=f"sha256:{weights.digest}",
            inputs=(),
            output="",
            settings=job.pipeline.settings.given,
            created_with=_versions(),
        )
        save_manifest(inside, manifest)
        return Saved("file", f"artefact/{WEIGHTS}", weights.digest)

    job.cache.put_files(key, make, {})
    told = ", ".join(f"{name} {value!r}" for name, value in job.pipeline.settings.given.items())
    print(f"settings: {told or 'none'}")


def _is(folder: Path, manifest: Manifest) -> bool:
    try:
        return load_manifest(folder) == manifest and (folder / WEIGHTS).is_file()
    except MainspringError:
        return False


def _metrics(measured: dict[str, Any]) -> dict[str, float]:
    """What the evaluations gave, as metrics of the run; times are left out: they differ from one try to the next."""
    found = {}
    numbers = gate_from(measured)
    for one in numbers.evals:
        for prefix, scores in (("eval", one.candidate), ("eval.champion", one.champion)):
            if scores:
                found[f"{prefix}.{one.name}"] = sum(scores) / len(scores)
    if numbers.safety is not None:
        for name in dict.fromkeys(p.set for p in numbers.safety.probes):
            good = [p.candidate for p in numbers.safety.probes if p.set == name]
            found[f"safety.{name}"] = sum(good) / len(good)
    return found


def _versions() -> dict[str, str]:
    return {"python": ".".join(str(n) for n in sys.version_info[:3]), **installed(("xllamacpp", "mainspring"))}
