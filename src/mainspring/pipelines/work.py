"""What is done inside the steps' own processes.

Each function here runs in a forked child: it reads its inputs from the cache, calls the user's function (or does a
built-in step), and keeps the output in the cache. Who calls it: the run, through `child.run`.
What it must never do: run in the host.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mainspring.artefacts import code
from mainspring.artefacts.load import MODEL, load_manifest
from mainspring.artefacts.manifest import Field
from mainspring.errors import UserCodeError
from mainspring.pipelines import datacheck, sources, table, values
from mainspring.pipelines.files import digest_file
from mainspring.pipelines.job import SEED, Job
from mainspring.pipelines.seen import gate_to
from mainspring.pipelines.signature import Signature
from mainspring.pipelines.table import Bounds, Part, Rows
from mainspring.pipelines.values import Saved

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from mainspring.loop.snapshot import GateNumbers
    from mainspring.pipelines.scored import Scores


class Window(NamedTuple):
    """The time that a run's rows come from, in UTC; `since` is None when it is open."""

    since: datetime | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the user's, from its snapshot."""

    run: str  # "module:function"
    digest: str
    signature: Signature


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a step's parameters are filled from."""

    sources: dict[str, sources.Fetched]
    outputs: dict[str, str]  # earlier step: key in the cache; the first step's is the cut table's
    table: str  # key of the cut table; "" for the first step
    limits: Bounds | None


# --- built-in: data ----------------------------------------------------------------------------------


def fetch_all(job: Job, parse: set[str]) -> dict[str, Any]:
    """Fetch every source, and read those of `parse` as tables."""
    found: dict[str, Any] = {}
    for name, spec in job.pipeline.data.items():
        fetched = sources.fetch(name, spec, job.stack_folder, job.data_root, job.spec.run)
        if name in parse:
            sources.parse(name, fetched, job.data_root)
        print(f"{name}: {fetched.digest[:12]} ({fetched.path(job.data_root).stat().st_size:,} bytes)")
        found[name] = asdict(fetched)
    return found


# --- the user's steps --------------------------------------------------------------------------------


def first_step(job: Job, key: str, function: Function, inputs: Inputs) -> None:
    """Call the first step, and give its table the index that everything is aligned by."""
    called = _call(job, job.first, function, inputs, "all")
    job.cache.put(key, table.with_index(called, job.first), {}, job.first)


def user_step(job: Job, key: str, step: str, function: Function, inputs: Inputs, part: Part) -> None:
    """Call a step with the rows that it may see, and keep what it returns."""
    value = _call(job, step, function, inputs, part)
    passed, message = value if isinstance(value, tuple) and len(value) == 2 else (value, "")
    if passed is False:
        raise UserCodeError("check-failed", f"step `{step}` says no{f': {message}' if message else ''}")
    job.cache.put(key, list(value) if isinstance(value, tuple) else value, _notes(value), step)


def _notes(value: Any) -> dict[str, Any]:
    """The numbers of a step that returns a dictionary: its metrics."""
    if not isinstance(value, dict):
        return {}
    found: dict[str, float] = {}
    for name, item in value.items():
        try:
            number = float(item)
        except (TypeError, ValueError):
            continue
        if math.isfinite(number):
            found[str(name)] = number
    return {"metrics": found}


def features_step(job: Job, key: str, function: Function, inputs: Inputs) -> None:
    """Make the model's columns of raw fields, just as a replica does: the same frame in, float32 out."""
    import numpy as np
    import pandas as pd

    from mainspring.artefacts.score import canonical_frame

    call = code.load(job.code_root, function.digest, function.run)
    rows = job.cache.load(inputs.table)
    raw = canonical_frame(rows, raw_fields(job, inputs.table), index=rows.index)
    made = call(raw)
    if not isinstance(made, pd.DataFrame):
        raise _unfit(f"returned a `{type(made).__name__}`, not a DataFrame")
    if not made.index.equals(rows.index):
        raise _unfit(f"returned {len(made):,} rows with another index than the {len(rows):,} that it got")
    if not made.columns.is_unique or not len(made.columns):
        raise _unfit("returned no columns, or one twice")
    try:
        numbers = made.to_numpy(dtype=np.float32, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise _unfit(f"returned what are not numbers: {error}") from error
    frame = pd.DataFrame(numbers, index=rows.index, columns=[str(c) for c in made.columns])
    job.cache.put(key, frame, {"columns": list(frame.columns)}, "features")


def _unfit(what: str) -> UserCodeError:
    return UserCodeError(
        "features-output", f"step `features` {what}", "return one row of numbers for each row, in order"
    )


def raw_fields(job: Job, key: str) -> tuple[Field, ...]:
    """The raw fields of the cut table."""
    entry = job.cache.get(key)
    return tuple(Field(**field) for field in entry.notes["fields"]) if entry else ()


def _call(job: Job, step: str, function: Function, inputs: Inputs, part: Part) -> Any:
    """Fill the function's parameters by name, with the rows of `part`, and call it."""
    call = code.load(job.code_root, function.digest, function.run)
    fixed = job.pipeline.steps[step].with_
    cutter = _Cutter(job, step, inputs, part)
    given: dict[str, Any] = dict(fixed) if function.signature.open else {}
    for parameter in function.signature.parameters:
        name = parameter.name
        if name in fixed:
            given[name] = fixed[name]
        elif name in inputs.sources:
            given[name] = _source(job, name, inputs.sources[name], parameter.path)
        elif name in inputs.outputs:
            given[name] = cutter.output(name)
        elif name in ("rows", "truth") and inputs.table:
            given[name] = cutter.rows() if name == "rows" else cutter.truth()
        elif name == "seed":
            given[name] = SEED
        elif name == "window":
            since = None if job.spec.since is None else datetime.fromtimestamp(job.spec.since, UTC)
            given[name] = Window(since, datetime.fromtimestamp(job.spec.until, UTC))
    return call(**given)


def _source(job: Job, name: str, fetched: sources.Fetched, path: bool) -> Any:
    if path:
        return fetched.path(job.data_root)
    return sources.read(sources.parse(name, fetched, job.data_root))


class _Cutter:
    """Reads earlier outputs and takes out the rows that the step must not see."""

    def __init__(self, job: Job, step: str, inputs: Inputs, part: Part) -> None:
        self.job, self.step, self.inputs, self.part = job, step, inputs, part
        self._table: Any = None
        self._rows: Rows | None = None

    def rows(self) -> Any:
        """The first step's table."""
        if self._table is None:
            self._table = self.job.cache.load(self.inputs.table)
        return self._cut(self._table, self.job.first)

    def truth(self) -> Any:
        """Its outcome column."""
        return self.rows()[self.job.shape.truth] if self.job.shape.truth else None

    def output(self, name: str) -> Any:
        """What an earlier step returned."""
        if name == self.job.first:
            return self.rows()
        return self._cut(self.job.cache.load(self.inputs.outputs[name]), name)

    def _cut(self, value: Any, name: str) -> Any:
        if self.part == "all" or not self.inputs.table:
            return value
        if self._rows is None:
            self._rows = cut_rows(self.job, self.inputs)
        return self._rows.take(value, self._rows.mask(self.part), name, self.step)


def cut_rows(job: Job, inputs: Inputs) -> Rows:
    """Moments and outcomes of the cut table, without its other columns."""
    assert inputs.limits is not None
    columns = [job.shape.time, *([job.shape.truth] if job.shape.truth else [])]
    slim = values.read_frame(job.cache.checked(inputs.table).path, columns=columns)
    return Rows(slim, job.shape, inputs.limits, job.first)


# --- built-in: data-check ----------------------------------------------------------------------------


def check_data(job: Job, key: str, source: str) -> None:
    """Cut the first step's table to the time of the run, check it, and keep what every later step sees."""
    whole = job.cache.load(source)
    times = table.moments(whole, job.shape, job.first)
    rows, times = table.cut(whole, times, job.spec.since, job.spec.until)
    span, wanted = table.hold_out(job.pipeline.gates)
    limits = table.bounds(times, job.spec.since, job.spec.until, span=span, wanted=wanted, step=job.first)
    fields = table.fields(rows, job.shape)
    profile = datacheck.profile(rows, times, fields, job.shape)
    notes = {
        "profile": profile,
        "bounds": asdict(limits),
        "fields": [asdict(f) for f in fields],
        "dropped": len(whole) - len(rows),
    }
    print(f"{len(rows):,} rows of {len(whole):,}, {len(fields)} raw fields; outcome known in {_known(rows, job):,}")
    job.cache.put(key, rows, notes, job.first)


def _known(rows: pd.DataFrame, job: Job) -> int:
    return int(rows[job.shape.truth].notna().sum()) if job.shape.truth else 0


# --- built-in: package -------------------------------------------------------------------------------


def package(
    job: Job, key: str, train: Function, features: Function | None, *, model: str, inputs: Inputs, evaluated: str
) -> None:
    """Package the model under the key `model`; `evaluated` is the package that passed the gates before a refit."""
    from mainspring.pipelines import package as packaging

    code.load(job.code_root, train.digest, train.run)  # its classes, before the model is read
    trained = _trained(job, model, features is not None, inputs, refit=bool(evaluated))
    naming = packaging.Naming(
        model=job.pipeline.produces,
        fields=raw_fields(job, inputs.table),
        features=features.run if features else "",
        code=features.digest if features else "",
        code_root=job.code_root,
        window=job.window,
    )
    notes: dict[str, Any] = {}
    before = packaging.score_of(artefact_folder(job, evaluated)) if evaluated else None

    def make(folder: Path) -> Saved:
        inside = folder / "artefact"
        inside.mkdir()
        notes.update(packaging.package(trained, naming, inside, before))
        return Saved("file", f"artefact/{MODEL}", digest_file(inside / MODEL))

    job.cache.put_files(key, make, notes)
    print(f"{notes['bytes']:,} bytes; model and artefact agree to {notes['difference']:.1e}")


def artefact_folder(job: Job, key: str) -> Path:
    """Where a packaged model lies in the cache."""
    return job.cache.folder / key / "artefact"


def _trained(job: Job, model: str, has_features: bool, inputs: Inputs, refit: bool) -> Any:
    from mainspring.pipelines.package import Trained

    assert inputs.limits is not None
    whole = job.cache.load(inputs.table)
    rows = Rows(whole, job.shape, inputs.limits, job.first)
    mask, held = rows.mask("known" if refit else "train"), rows.mask("held")
    features = job.cache.load(inputs.outputs["features"]) if has_features else None
    return Trained(
        model=job.cache.load(model),
        table=whole[mask],
        times=rows.times[mask],
        truth=None if rows.truth is None else rows.truth[mask],
        features=None if features is None else features[mask],
        held=whole[held],
        held_times=rows.times[held],
        since=inputs.limits.since,
        until=inputs.limits.until if refit else inputs.limits.held,
    )


# --- built-in: gate ----------------------------------------------------------------------------------


def gate(job: Job, key: str, candidate: Path, checks: dict[str, Function], inputs: Inputs) -> None:
    """Measure candidate and champion on the same held-out rows, unseen by both."""
    from mainspring.pipelines.probing import probed
    from mainspring.pipelines.scored import scorer

    whole = job.cache.load(inputs.table)
    with ExitStack() as held:  # a version that only a replica can ask is one until its table is scored
        mine = held.enter_context(scorer(job, candidate, "candidate"))
        champion = Path(job.spec.champion)
        theirs = held.enter_context(scorer(job, champion, "champion")) if job.spec.champion else None
        numbers, rows = _measured(job, checks, inputs, whole, mine, theirs)
        if mine.manifest.made_of and theirs is not None:
            numbers = _weighed(job, numbers, rows, mine, theirs, candidate)
    numbers = probed(job, numbers, candidate, rows)
    print(f"{numbers.rows:,} held-out rows of {len(numbers.days)} days, unseen by both")
    job.cache.put(key, gate_to(numbers), {}, "gate")


def _measured(
    job: Job, checks: dict[str, Function], inputs: Inputs, whole: pd.DataFrame, scorer: Scores, champion: Scores | None
) -> tuple[GateNumbers, pd.DataFrame]:
    """Candidate and champion on the held-out rows, and those rows."""
    from mainspring.pipelines.measure import measure

    seen = [s.manifest.trained_until for s in (scorer, champion) if s is not None]
    assert inputs.limits is not None
    rows = Rows(whole, job.shape, inputs.limits, job.first)
    mask = rows.mask("held", after=max(seen))
    truth: np.ndarray[Any, Any] | None = None if rows.truth is None else rows.truth[mask].to_numpy()
    functions = {name: code.load(job.code_root, f.digest, f.run) for name, f in checks.items()}
    numbers = measure(
        whole[mask],
        rows.times[mask],
        truth,
        scorer,
        champion,
        champion_version=job.spec.champion_version or "champion",
        gates=job.pipeline.gates,
        checks=functions,
    )
    return numbers, whole[mask]


def _weighed(
    job: Job, numbers: GateNumbers, rows: pd.DataFrame, scorer: Scores, champion: Scores, candidate: Path
) -> GateNumbers:
    """Add what serving takes, for a candidate whose weights were converted."""
    from mainspring.artefacts.score import Scorer
    from mainspring.pipelines import footprint

    assert isinstance(scorer, Scorer)  # only ONNX models are converted
    if not isinstance(champion, Scorer):
        return replace(numbers, converted=scorer.manifest.precision)
    folders = (candidate, Path(job.spec.champion))
    own, other = footprint.compare(rows, scorer, champion, folders, job.code_root) or (None, None)
    return replace(numbers, converted=scorer.manifest.precision, own=own, other=other)


def place(job: Job, key: str, folder: Path) -> str:
    """Copy a packaged model into `folder` under this run's name; return its digest. Small files, so the host may."""
    import shutil

    from mainspring.artefacts.load import save_manifest

    job.cache.checked(key)
    source = artefact_folder(job, key)
    for path in source.iterdir():
        if path.name != "manifest.json":
            shutil.copyfile(path, folder / path.name)
    manifest = replace(load_manifest(source), run=job.spec.run)
    save_manifest(folder, manifest)
    return manifest.digest


def describe(entry_json: bytes) -> dict[str, Any]:
    """Read a kept JSON value in the host, without the libraries of the steps."""
    found: dict[str, Any] = json.loads(entry_json)
    return found
