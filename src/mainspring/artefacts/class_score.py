"""Scoring rows with a class of the user's own: raw fields -> its `predict` -> a number for each row.

    class Delay:
        batch = True                      # or the most rows of one call, such as 64; or False: one row a call

        def load(self, folder): ...       # once, before the first request, with a `pathlib.Path`; may be left out
        def predict(self, columns): ...   # {field: array of n values} -> n numbers; with `batch = False` {field: value}

What this is: the class found in its code snapshot, checked, loaded, called, and what it returns checked. Who calls it:
the replica of the `python` runtime, and gates that score tables.
What it must never do: run a class whose code or files are not those of its manifest, or let a value through that is
not a number.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.artefacts import code
from mainspring.artefacts.answers import Floats, finite, refuse, shown
from mainspring.artefacts.columns import Columns, typed_column
from mainspring.artefacts.load import load_folder, load_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.errors import ArtefactError, UserCodeError

_ONE = "return an array, or write `batch = False` in the class"
_LABEL = "return a probability or a value, not a label"


class ClassScorer:
    """A user's class, loaded and ready to score.

    Raises `ArtefactError` when the artefact or its code is missing or changed, `UserCodeError` when the class is not
    as it must be, or raises while it loads.
    """

    def __init__(self, artefact: Path, code_root: Path) -> None:
        self.manifest: Manifest = load_manifest(artefact)
        if self.manifest.format != "python":
            raise ArtefactError("artefact-unfit", f"`{artefact}` holds no Python class, but `{self.manifest.format}`")
        folder = load_folder(artefact, self.manifest)
        self._name = self.manifest.entry
        made = _made(code_root, self.manifest)
        self._most = _most(made, self._name)
        self._predict = made.predict
        load = getattr(made, "load", None)
        if load is not None:
            _guarded(self._name, "load", load, folder)

    def score(self, columns: Columns) -> Floats:
        """What `predict` gives for each row, shape (n,); of several columns the last.

        `columns` has all fields of the manifest, each of n values (None or NaN for null). Raises `UserCodeError` when
        `predict` raises, or returns what are not n finite numbers.
        """
        # Copies: a class may write into what it is given, and tables are scored more than once.
        arrays = {one.name: np.array(typed_column(columns[one.name], one)) for one in self.manifest.inputs}
        rows = len(next(iter(arrays.values())))
        if self._most == 0:
            return np.array([self._one(row) for row in _rows(arrays, rows)], dtype=np.float64)
        step = min(self._most, rows)
        parts = [
            self._many({name: values[at : at + step] for name, values in arrays.items()}, min(step, rows - at))
            for at in range(0, rows, max(step, 1))
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def _one(self, row: Mapping[str, Any]) -> float:
        found = _guarded(self._name, "predict", self._predict, row)
        if not isinstance(found, numbers.Real | np.bool_) and getattr(found, "shape", None) not in ((), (1,)):
            refuse(f"{self._name}.predict", f"returned {shown(found)}", "with `batch = False` return one number")
        return float(finite(f"{self._name}.predict", np.ravel(np.asarray(found)), 1)[0])

    def _many(self, columns: Mapping[str, npt.NDArray[Any]], rows: int) -> Floats:
        found = _guarded(self._name, "predict", self._predict, columns)
        return finite(f"{self._name}.predict", found, rows, one=_ONE, label=_LABEL)


def _made(code_root: Path, manifest: Manifest) -> Any:
    """An object of the class, with its methods checked."""
    name = manifest.entry
    try:
        found: Any = code.load(code_root, manifest.code, name)
    except UserCodeError as error:
        if error.code != "code-no-function":
            raise
        module, _, short = name.partition(":")
        raise UserCodeError("class-missing", f"`{module}` has no class `{short}`") from error
    if not isinstance(found, type):
        raise UserCodeError("class-missing", f"`{name}` is a function, and must be a class with a method `predict`")
    _check_method(found, name, "predict", "columns")
    if hasattr(found, "load"):
        _check_method(found, name, "load", "folder")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise UserCodeError("class-arguments", f"`{name}` is made without arguments, and it asks: {error}") from error
    except ValueError:  # a class made in C has no signature to look at
        pass
    return _guarded(name, "__init__", found)


def _check_method(found: type, name: str, method: str, argument: str) -> None:
    given = getattr(found, method, None)
    says = f"`{name}` has no method `{method}(self, {argument})`"
    if given is None or not callable(given):
        raise UserCodeError("class-method", says)
    if inspect.iscoroutinefunction(given):
        raise UserCodeError("class-method", f"`{name}.{method}` is `async`: write it as a plain `def {method}`")
    bound = inspect.getattr_static(found, method)
    own = () if isinstance(bound, staticmethod | classmethod) else (None,)
    try:
        inspect.signature(given).bind(*own, None)
    except TypeError as error:
        raise UserCodeError("class-method", f"{says}: the one that it has can't take it ({error})") from error


def _most(made: Any, name: str) -> int:
    """Rows of one call at most; 0 where each call gets one row as scalars."""
    batch = getattr(made, "batch", True)
    if batch is True:
        return 1 << 20
    if batch is False:
        return 0
    if type(batch) is int and batch >= 1:
        return batch
    raise UserCodeError(
        "class-batch", f"`{name}.batch` is `{batch!r:.60}`: write True, False, or the most rows of a call"
    )


def _guarded(name: str, method: str, call: Any, *given: object) -> Any:
    try:
        return call(*given)
    except (Exception, SystemExit) as error:
        message = f"`{name}.{method}` raised {type(error).__name__}: {error}"
        raise UserCodeError("class-raised", message) from error


def _rows(arrays: Mapping[str, npt.NDArray[Any]], rows: int) -> list[dict[str, Any]]:
    """Each row as plain Python values; None for null."""
    lists = {name: [_plain(value) for value in values.tolist()] for name, values in arrays.items()}
    return [{name: values[at] for name, values in lists.items()} for at in range(rows)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
