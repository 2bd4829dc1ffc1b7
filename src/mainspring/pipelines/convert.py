"""A run that trains nothing: a registered version's weights in fewer bits, packaged and judged as a new version.

    data > FIRST STEP > data-check > convert > package > gate        (pipelines that train)
    convert > package > evaluate > gate                              (pipelines of `weights`)

The rows are there to be judged on, as in a run that only judges; those that the version was trained on also give the
ranges of INT8. Who calls it: the host, and `language.py` for weights. What it must never do: train, let the
conversion see a held-out row, or make a version that is the champion over again.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mainspring.artefacts import convert_gguf, convert_onnx
from mainspring.artefacts.load import MODEL, WEIGHTS, load_manifest, load_model, save_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.errors import ArtefactError, MainspringError
from mainspring.pipelines import work
from mainspring.pipelines.cache import Entry
from mainspring.pipelines.files import digest_file, installed, link
from mainspring.pipelines.job import Job
from mainspring.pipelines.run import Run
from mainspring.pipelines.table import Bounds, Rows
from mainspring.pipelines.values import Saved

_TOOLS = ("onnxruntime", "onnx", "gguf")


class ConvertRun(Run):
    """One attempt at a conversion of a version that was trained by this pipeline."""

    def go(self) -> None:
        """Run all steps. Raises `Failed`, `MainspringError`, or `child.Stopped`."""
        functions, checks = self._prepare()
        source = _source(self, "onnx")
        self._data(functions)
        self._first(functions)
        self._check_data()
        job, table, limits = self.job, self.made.table, self.made.limits
        assert limits is not None
        parts = {"table": self._digest(job.first), "limits": asdict(limits), **_parts(job, source)}
        made = self.steps.cached("convert", parts, lambda key: convert(job, key, table, limits))
        packaged = _packaged(self, made, source)
        self._gate(work.artefact_folder(job, packaged.key), checks)
        self._place(packaged)


def converted_weights(run: Run) -> Entry:
    """The first two steps of converting a version of a pipeline of `weights`: its entry, as after `package`."""
    source = _source(run, "gguf")
    made = run.steps.cached("convert", _parts(run.job, source), lambda key: convert_weights(run.job, key))
    return _packaged(run, made, source)


def names(job: Job) -> list[str]:
    """The steps that the run will have, in order."""
    if job.pipeline.weights is not None:
        return ["convert", "package", "evaluate", "gate"]
    return [*(["data"] if job.pipeline.data else []), job.first, "data-check", "convert", "package", "gate"]


def _source(run: Run, kind: str) -> Manifest:
    """The manifest of what is converted, after seeing (in the host: nothing heavy) that something would change."""
    job = run.job
    folder = Path(job.spec.source)
    try:
        manifest = load_manifest(folder)
        if manifest.format != kind:
            raise ArtefactError("artefact-unfit", f"`{folder}` is of format `{manifest.format}`, not `{kind}`")
        if job.spec.champion:
            champion = load_manifest(Path(job.spec.champion))
            if (champion.made_of, champion.precision) == (manifest.digest, job.spec.convert):
                number = job.spec.champion_version or "that serves"
                message = f"version {number}, the champion, is that one in {job.spec.convert.upper()} already"
                raise ArtefactError("nothing-to-convert", f"{message}: nothing would change", "mainspring models list")
        if kind == "gguf":
            convert_gguf.check(job.spec.convert)
        else:
            why = convert_onnx.unfit(load_model(folder, manifest), job.spec.convert)
            if why:
                hint = f"mainspring models show {job.pipeline.produces}"
                raise ArtefactError("nothing-to-convert", f"the model stays as it is: {why}", hint)
    except MainspringError as error:
        raise run.steps.fail("convert", error) from error
    return manifest


def _parts(job: Job, source: Manifest) -> dict[str, Any]:
    """What a converted model depends on, beside the rows."""
    return {"source": source.digest, "to": job.spec.convert, "tools": installed(_TOOLS)}


def _packaged(run: Run, made: Entry, source: Manifest) -> Entry:
    job = run.job
    run.made.metrics |= made.notes["metrics"]
    run.say("convert", [made.notes["sentence"]])  # also of a conversion that was done before
    parts = {"model": made.saved.digest, "source": asdict(source), "to": job.spec.convert}
    return run.steps.cached("package", parts, lambda key: package(job, key, made.key))


# --- in the steps' own processes ---------------------------------------------------------------------


def convert(job: Job, key: str, table: str, limits: Bounds) -> None:
    """Convert an ONNX model, with ranges from rows that it was trained on."""
    from mainspring.artefacts.score import Scorer
    from mainspring.pipelines.package import raw_columns

    folder = Path(job.spec.source)
    scorer = Scorer(folder, job.code_root)
    manifest = scorer.manifest
    whole = job.cache.load(table)
    rows = Rows(whole, job.shape, limits, job.first)
    trained = rows.mask("train") & (rows.times >= manifest.trained_from) & (rows.times < manifest.trained_until)
    columns = scorer.matrix(raw_columns(whole[trained], manifest.inputs)) if trained.any() else None
    before = load_model(folder, manifest)
    made = convert_onnx.convert(before, job.spec.convert, columns)

    def make(inside: Path) -> Saved:
        (inside / MODEL).write_bytes(made.content)
        return Saved("file", MODEL, digest_file(inside / MODEL))

    metrics = {"convert.bytes": float(len(made.content)), "convert.bytes.before": float(len(before))}
    metrics |= {"convert.change": made.change} if math.isfinite(made.change) else {}
    told = f"; on training rows the probability changes by {made.change:.5f} (root mean square)"
    sentence = (
        f"{made.matrices} matrices to {job.spec.convert.upper()} ({made.how}): {len(before):,} bytes become"
        f" {len(made.content):,}{told if math.isfinite(made.change) else ''}"
    )
    job.cache.put_files(key, make, {"metrics": metrics, "sentence": sentence})


def convert_weights(job: Job, key: str) -> None:
    """Convert a GGUF file."""
    notes: dict[str, Any] = {}

    def make(inside: Path) -> Saved:
        report = convert_gguf.convert(Path(job.spec.source) / WEIGHTS, inside / WEIGHTS, job.spec.convert)
        notes["sentence"] = report.sentence
        notes["metrics"] = {
            "convert.bytes": float(report.size_after),
            "convert.bytes.before": float(report.size_before),
            "convert.weight_error": report.error,
            "convert.weight_error.worst": report.worst_error,
        }
        return Saved("file", WEIGHTS, digest_file(inside / WEIGHTS))

    job.cache.put_files(key, make, notes)


def package(job: Job, key: str, converted: str) -> None:
    """Make the artefact: the source's, with the other weights in it and a manifest that says of what they were made."""
    source, entry = Path(job.spec.source), job.cache.checked(converted)
    manifest = load_manifest(source)

    def make(folder: Path) -> Saved:
        inside = folder / "artefact"
        inside.mkdir()
        for path in source.iterdir():
            if path.name not in (MODEL, WEIGHTS, "manifest.json"):
                shutil.copyfile(path, inside / path.name)
        link(entry.path, inside / entry.path.name)
        save_manifest(
            inside,
            replace(
                manifest,
                run="",  # set when the artefact is placed
                digest=f"sha256:{entry.saved.digest}",
                precision=job.spec.convert,
                made_of=manifest.digest,
                created_with={**manifest.created_with, **installed(_TOOLS)},
            ),
        )
        return Saved("file", f"artefact/{entry.path.name}", entry.saved.digest)

    job.cache.put_files(key, make, {})
    print(f"{entry.path.stat().st_size:,} bytes, made of {manifest.digest}")
