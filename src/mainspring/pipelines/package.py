"""Packaging: a trained model becomes an artefact folder, proven to answer as the model did.

Who calls it: the built-in steps `package` and `package-all`, in their own process. What it must never do: put a
pickle into an artefact, or let one out whose answers differ from the model's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mainspring.artefacts.load import MODEL, digest_of, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.score import Scorer
from mainspring.decide import reference as references
from mainspring.decide.drift import psi
from mainspring.decide.reference import FeatureReference, Reference
from mainspring.errors import ArtefactError, UserCodeError
from mainspring.pipelines.export import to_onnx
from mainspring.pipelines.files import installed

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4  # the most that a probability may change by being exported (float32 instead of float64)
VERIFIED = 5_000  # rows that model and artefact are compared on
REFERENCE = "reference.json"

_HELD = "score: held-out rows, which the evaluated model was not trained on"
_TRAINED = "score: rows that the model was trained on, for want of others; its spread is overstated"


@dataclass(frozen=True, slots=True)
class Trained:
    """What is packaged."""

    model: Any  # a fitted classifier, or ONNX bytes
    table: pd.DataFrame  # the rows trained on, raw
    times: np.ndarray[Any, Any]
    truth: pd.Series[float] | None
    features: pd.DataFrame | None  # of the same rows; None without a `features` step
    held: pd.DataFrame  # held-out rows, raw
    held_times: np.ndarray[Any, Any]
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Naming:
    """What the manifest says of it."""

    model: str
    fields: tuple[Field, ...]
    features: str  # "module:function", or ""
    code: str  # digest of its snapshot
    code_root: Path
    window: float  # seconds: length of monitoring's windows


def package(trained: Trained, naming: Naming, folder: Path, score: FeatureReference | None) -> dict[str, Any]:
    """Write the artefact into `folder`; returns notes (digest, rows, the largest difference found).

    `score` is the score's reference when it is known already (from the model that was evaluated).
    """
    columns = _columns(trained, naming)
    content = to_onnx(trained.model, len(columns))
    (folder / MODEL).write_bytes(content)
    manifest = Manifest(
        model=naming.model,
        run="",  # set when the artefact is placed
        format="onnx",
        digest=digest_of(content),
        inputs=naming.fields,
        output="probability",
        features=naming.features,
        code=naming.code,
        columns=columns,
        trained_from=trained.since,
        trained_until=trained.until,
        rows=len(trained.table),
        positive_rate=float(trained.truth.mean()) if trained.truth is not None and len(trained.truth) else 0.0,
        created_with=_versions(),
    )
    save_manifest(folder, manifest)
    scorer = Scorer(folder, naming.code_root)
    difference = _verify(scorer, trained, columns)
    note = _HELD
    if score is None:
        rows, times = (trained.held, trained.held_times) if len(trained.held) else (trained.table, trained.times)
        note = _HELD if len(trained.held) else _TRAINED
        scores = scorer.score(raw_columns(rows, naming.fields))
        score = references.feature_reference("", "number", scores, times, window=naming.window, statistic=psi)
    features = tuple(_feature(trained, field, naming.window) for field in naming.fields)
    made = Reference(
        window=naming.window,
        since=trained.since,
        until=trained.until,
        rows=len(trained.table),
        features=(*features, score),
        note=note,
    )
    (folder / REFERENCE).write_bytes(references.to_json(made))
    return {"digest": manifest.digest, "rows": manifest.rows, "difference": difference, "bytes": len(content)}


def raw_columns(table: pd.DataFrame, fields: tuple[Field, ...]) -> Mapping[str, Any]:
    """The raw fields of rows, as a scorer takes them. Raises `ArtefactError` when one is missing."""
    gone = [field.name for field in fields if field.name not in table.columns]
    if gone:
        raise ArtefactError(
            "fields-gone",
            f"the rows have no column `{gone[0]}`, which the model takes",
            "a version that takes other fields is a new model: give it a name of its own",
        )
    return {field.name: table[field.name] for field in fields}


def _columns(trained: Trained, naming: Naming) -> tuple[str, ...]:
    """The model's input columns, in order."""
    named = getattr(trained.model, "feature_names_in_", None)
    if trained.features is not None:
        offered = [str(c) for c in trained.features.columns]
    else:
        offered = [field.name for field in naming.fields if field.datatype != "BYTES"]
    columns = offered if named is None else [str(c) for c in named]
    strange = [c for c in columns if c not in offered]
    if strange:
        source = "`features` returns" if trained.features is not None else "the raw fields have"
        raise UserCodeError(
            "train-columns",
            f"the model was fitted on a column `{strange[0]}` that {source} not",
            "fit it on what `features` returns and nothing else: it is what the model gets at serving",
        )
    wanted = getattr(trained.model, "n_features_in_", len(columns))
    if wanted != len(columns):
        raise UserCodeError(
            "train-columns",
            f"the model was fitted on {wanted} columns, and there are {len(columns)} at serving",
            "fit it on all that `features` returns, and nothing else",
        )
    if trained.features is None and [c for c in columns if c not in {f.name for f in naming.fields}]:
        raise UserCodeError("train-columns", "the model was fitted on what a request does not carry")
    return tuple(columns)


def _verify(scorer: Scorer, trained: Trained, columns: tuple[str, ...]) -> float:
    """The largest difference between artefact and model, on training rows from raw fields to probability."""
    if isinstance(trained.model, bytes):
        return 0.0
    chosen = np.unique(np.linspace(0, len(trained.table) - 1, min(VERIFIED, len(trained.table))).astype(np.int64))
    source = trained.table if trained.features is None else trained.features
    matrix = source.iloc[chosen][list(columns)]
    given: Any = matrix if hasattr(trained.model, "feature_names_in_") else matrix.to_numpy(dtype=np.float32)
    own = trained.model.predict_proba(given)[:, 1]
    served = scorer.score(raw_columns(trained.table.iloc[chosen], scorer.manifest.inputs))
    difference = float(np.max(np.abs(own - served), initial=0.0))
    if not difference <= TOLERANCE:
        place = int(np.nanargmax(np.abs(own - served)))
        raise ArtefactError(
            "export-differs",
            f"the exported model says `{served[place]:.6f}` where the trained one says `{own[place]:.6f}`"
            f" (at most {TOLERANCE:g} apart is allowed)",
            "`features` must depend on each row alone, and the model must be fitted on what it returns",
        )
    return difference


def _feature(trained: Trained, field: Field, window: float) -> FeatureReference:
    kind = "category" if field.datatype in ("BYTES", "BOOL") else "number"
    column = trained.table[field.name]
    values: Any
    if kind == "number":
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        values = column.astype(object).where(column.notna(), None).to_numpy()
    return references.feature_reference(field.name, kind, values, trained.times, window=window, statistic=psi)


def _versions() -> dict[str, str]:
    names = ("scikit-learn", "skl2onnx", "onnx", "numpy", "pandas")
    return {"python": ".".join(str(n) for n in sys.version_info[:3]), **installed(names)}


def score_of(folder: Path) -> FeatureReference | None:
    """The score's reference of an artefact that was packaged before."""
    try:
        return references.from_json((folder / REFERENCE).read_bytes()).get("")
    except (OSError, ValueError, json.JSONDecodeError):
        return None
