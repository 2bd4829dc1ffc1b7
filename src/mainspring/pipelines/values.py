"""What a step returns, as a file, and back.

DataFrame and Series become Parquet, arrays npy, bytes and files themselves, plain values JSON, and a fitted
estimator (an object with `fit` or `predict`) a pickle. Who calls it: the step's own process, through the cache.

What it must never do: unpickle anything but what a step of this state folder wrote itself. A pickle is read back
only from `cache/`, only in a step's process, and only when its digest is the one that was noted when it was
written; none ever comes from a request, an upload, a registry or a served artefact.
"""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mainspring.errors import UserCodeError
from mainspring.pipelines.files import digest_file

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("frame", "series", "array", "bytes", "file", "json", "estimator")


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a value lies, and what it is."""

    kind: str
    file: str  # name within its folder
    digest: str  # sha256 of the file


def save(value: Any, folder: Path, who: str) -> Saved:
    """Write a value into `folder`. Raises `UserCodeError` when it is of no kind that can be kept."""
    kind, file = _write(value, folder, who)
    return Saved(kind, file, digest_file(folder / file))


def _write(value: Any, folder: Path, who: str) -> tuple[str, str]:
    if isinstance(value, dict):
        return _json(value, folder, who)  # before anything heavy is imported
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        write_frame(value, folder / "value.parquet", who)
        return "frame", "value.parquet"
    if isinstance(value, pd.Series):
        name = "value" if value.name is None else str(value.name)
        write_frame(value.to_frame(name), folder / "value.parquet", who)
        return "series", "value.parquet"
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise _unfit(who, "an array of Python objects", "return numbers, or a DataFrame")
        np.save(folder / "value.npy", value, allow_pickle=False)
        return "array", "value.npy"
    if isinstance(value, bytes | bytearray):
        (folder / "value.bin").write_bytes(value)
        return "bytes", "value.bin"
    if isinstance(value, Path):
        if not value.is_file():
            raise _unfit(who, f"the path `{value}`, which is no file", "write the file before returning its path")
        shutil.copyfile(value, folder / f"value{value.suffix}")
        return "file", f"value{value.suffix}"
    if hasattr(value, "fit") or hasattr(value, "predict") or hasattr(value, "transform"):
        return _pickle(value, folder, who)
    return _json(value, folder, who)


def _pickle(value: Any, folder: Path, who: str) -> tuple[str, str]:
    try:
        content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # any class may refuse in its own way
        raise _unfit(
            who, f"a `{type(value).__name__}` that cannot be kept ({error})", "return a fitted model"
        ) from error
    (folder / "value.pkl").write_bytes(content)
    return "estimator", "value.pkl"


def _json(value: Any, folder: Path, who: str) -> tuple[str, str]:
    try:
        text = json.dumps(value, sort_keys=True, default=_plain)
    except (TypeError, ValueError) as error:
        hint = "return a DataFrame, an array, bytes, a file's path, a fitted model, or plain values"
        raise _unfit(who, f"a `{type(value).__name__}` that cannot be kept ({error})", hint) from error
    (folder / "value.json").write_text(text)
    return "json", "value.json"


def _plain(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # a NumPy scalar
        return value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"`{type(value).__name__}` is not a plain value")


def _unfit(who: str, what: str, hint: str) -> UserCodeError:
    return UserCodeError("step-output", f"step `{who}` returned {what}", hint)


def write_frame(frame: pd.DataFrame, path: Path, who: str) -> None:
    """Write a DataFrame as Parquet, its index included."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not frame.columns.is_unique:
        twice = sorted({str(c) for c in frame.columns[frame.columns.duplicated()]})
        raise _unfit(who, f"a table with the column `{twice[0]}` twice", "rename one of them")
    try:
        pq.write_table(pa.Table.from_pandas(frame), path, compression="lz4")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _unfit(who, f"a table that Parquet cannot hold: {error}", "give each column one type") from error


def read_frame(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a DataFrame that `write_frame` wrote, or some of its columns (with its index)."""
    import pandas as pd

    return pd.read_parquet(path, columns=columns)


def load(saved: Saved, folder: Path) -> Any:
    """Read a value back; the caller has checked its digest."""
    path = folder / saved.file
    if saved.kind == "frame":
        return read_frame(path)
    if saved.kind == "series":
        return read_frame(path).iloc[:, 0]
    if saved.kind == "array":
        import numpy as np

        return np.load(path, allow_pickle=False)
    if saved.kind == "bytes":
        return path.read_bytes()
    if saved.kind == "file":
        return path
    if saved.kind == "estimator":
        return pickle.loads(path.read_bytes())  # noqa: S301  our own step wrote it; see the module's docstring
    return json.loads(path.read_text())
