"""Where data comes from: files, packages, the web, S3, SQL; each kept under the hash of what was read.

`cache/data/<sha256>/` holds `source<ending>` and, once it was parsed, `table-<format>.parquet`. Who calls it:
the built-in step `data`, in its own process. What it must never do: use half a download, import the package that
a file lies in, or follow a `package:` path out of that package.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mainspring.errors import EnvironmentError_, InputError, UserCodeError
from mainspring.pipelines.files import digest_file, disk_error, new_folder
from mainspring.pipelines.values import read_frame, write_frame
from mainspring.stack.pipelines import DataSpec
from mainspring.stack.weights import NotThereError, is_remote, locate

if TYPE_CHECKING:
    import pandas as pd

_EXTRA = {"s3": "s3", "http": "http", "https": "http"}
_SQL = re.compile(r"^(sqlite|postgresql|mysql|mariadb|oracle|mssql)(\+\w+)?://", re.IGNORECASE)
_ENDINGS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A version of a source."""

    digest: str  # sha256 of what was read
    file: str  # "source.csv.zip", within cache/data/<digest>
    format: str  # "csv" | "parquet" | "jsonl" | "gguf"

    def path(self, root: Path) -> Path:
        """The file, under `cache/data`."""
        return root / self.digest / self.file


def fetch(name: str, spec: DataSpec, folder: Path, root: Path, mark: str) -> Fetched:
    """Read a source whole and keep it; `folder` is the stack file's, `root` is `cache/data`.

    Raises `InputError` for a URL that means nothing, `EnvironmentError_` when it cannot be read.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        if _SQL.match(spec.url):
            return _query(name, spec, root, mark)
        if "://" in spec.url:
            return _download(f"the source `{name}`", spec.url, lambda file: _format(name, spec, file), root, mark)
        path = _package_file(name, spec.url) if spec.url.startswith("package:") else _local_file(name, spec.url, folder)
        return _keep(path, _ending(path.name), _format(name, spec, path.name), root, mark)
    except OSError as error:
        raise disk_error(error, f"the source `{name}` cannot be kept") from error


def fetch_weights(url: str, folder: Path, root: Path, mark: str) -> Fetched:
    """Read a file of weights and keep it; `folder` is the stack file's, `root` is `cache/data`. Raises as `fetch`."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        if is_remote(url):
            return _download("the weights", url, lambda _: "gguf", root, mark)
        return _keep(locate(url, folder), ".gguf", "gguf", root, mark)
    except NotThereError as error:
        raise InputError(error.code, error.message, error.hint or "mainspring explain pipelines.weights") from error
    except OSError as error:
        raise disk_error(error, "the weights cannot be kept") from error


def _keep(path: Path, ending: str, kind: str, root: Path, mark: str) -> Fetched:
    digest = digest_file(path)
    fetched = Fetched(digest, f"source{ending}", kind)
    if fetched.path(root).is_file():
        return fetched
    final = root / digest
    if final.is_dir():  # the same bytes under another ending
        os.link(next(final.glob("source*")), fetched.path(root))
        return fetched
    with new_folder(final, mark) as fresh:
        copy = fresh / fetched.file
        shutil.copyfile(path, copy)
        if digest_file(copy) != digest:
            raise EnvironmentError_(
                "data-changing", f"`{path}` changed while it was read", "run again when it is whole"
            )
    return fetched


def _local_file(name: str, url: str, folder: Path) -> Path:
    path = Path(os.path.expanduser(url.removeprefix("file:")))
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InputError("data-missing", f"the source `{name}`: `{path}` {what}", f"look at `data.{name}`")
    return path


def _package_file(name: str, url: str) -> Path:
    """Find a file inside an installed package without importing it."""
    package, _, inside = url.removeprefix("package:").partition("/")
    parts = PurePosixPath(inside).parts
    if (
        not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package)
        or not parts
        or ".." in parts
        or inside.startswith("/")
    ):
        raise InputError("data-url", f"`{url}` is not `package:NAME/path/of/file`", f"look at `data.{name}`")
    spec = None
    if "." not in package:  # find_spec imports the parents of a dotted name
        with contextlib.suppress(ValueError, ImportError):
            spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise InputError(
            "data-package", f"the source `{name}`: there is no package `{package}` here", f"`pip install {package}`"
        )
    for place in places:
        path, base = Path(place, *parts).resolve(), Path(place).resolve()
        if path.is_file() and path.is_relative_to(base):
            return path
    beside = [p.name for place in places for p in sorted(Path(place, *parts).parent.glob("*")) if p.is_file()]
    close = difflib.get_close_matches(parts[-1], beside, n=1)
    nearest = f"; did you mean `{close[0]}`?" if close else ""
    message = f"the source `{name}`: package `{package}` has no file `{inside}`{nearest}"
    raise InputError("data-missing", message, f"beside it are: {', '.join(beside[:10]) or 'no files'}")


def _download(what: str, url: str, kind_of: Callable[[str], str], root: Path, mark: str) -> Fetched:
    import fsspec

    scheme, _, rest = url.partition("://")
    file = rest.partition("?")[0].partition("#")[0].rpartition("/")[2]
    kind = kind_of(file)
    with _temporary(root, mark) as part:
        try:
            with fsspec.open(url, "rb").open() as source, part.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                expected = getattr(source, "size", None)
        except ImportError as error:
            extra = _EXTRA.get(scheme)
            raise EnvironmentError_(
                "data-extra",
                f"{what}: `{scheme}://` needs a package that is not installed ({error})",
                f"`pip install 'mainspring[{extra}]'`" if extra else "install the package that the message names",
            ) from error
        except ValueError as error:
            raise InputError("data-url", f"{what}: `{scheme}://` is not known ({error})") from error
        except Exception as error:  # each file system of fsspec has its own errors
            if isinstance(error, OSError) and error.errno is not None and error.filename == str(part):
                raise
            raise EnvironmentError_(
                "data-unreachable", f"{what}: `{_shown(url)}` cannot be read: {_line(error)}"
            ) from error
        if expected is not None and part.stat().st_size != expected:
            raise EnvironmentError_(
                "data-half", f"{what} broke off at {part.stat().st_size:,} of {expected:,} bytes", "run again"
            )
        return _keep(part, ".gguf" if kind == "gguf" else _ending(file), kind, root, mark)


def _query(name: str, spec: DataSpec, root: Path, mark: str) -> Fetched:
    import pandas as pd
    import sqlalchemy

    if not spec.query:
        raise InputError(
            "data-query", f"the source `{name}` is a database and has no `query`", f"set `data.{name}.query`"
        )
    url = os.path.expandvars(spec.url)
    with _temporary(root, mark) as part:
        try:
            engine = sqlalchemy.create_engine(url)
        except ImportError as error:
            raise EnvironmentError_(
                "data-extra", f"the source `{name}`: its database driver is not installed ({error})"
            ) from error
        try:
            with engine.connect() as connection:
                table = pd.read_sql_query(sqlalchemy.text(spec.query), connection)
        except sqlalchemy.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise EnvironmentError_(
                "data-unreachable", f"the source `{name}`: `{_shown(url)}` cannot answer the query: {cause}"
            ) from error
        finally:
            engine.dispose()
        write_frame(table, part, name)
        return _keep(part, ".parquet", "parquet", root, mark)


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _shown(url: str) -> str:
    """The URL without the password in it."""
    return re.sub(r"://([^:/@]*):[^@]*@", r"://\1:***@", url).partition("?")[0]


@contextlib.contextmanager
def _temporary(root: Path, mark: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f".tmp-{mark}-", dir=root))
    try:
        yield folder / "part"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ending(file: str) -> str:
    return "".join(s.lower() for s in Path(file).suffixes[-2:] if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", s))


def _format(name: str, spec: DataSpec, file: str) -> str:
    if spec.format:
        return spec.format
    for ending in reversed(Path(file).suffixes):
        if ending.lower() in _ENDINGS:
            return _ENDINGS[ending.lower()]
    raise InputError(
        "data-format",
        f"the source `{name}`: `{file}` does not tell its format by its ending",
        f"set `data.{name}.format` to `csv`, `parquet` or `jsonl`",
    )


def parse(name: str, fetched: Fetched, root: Path) -> Path:
    """Read a source as a table once, and keep it as Parquet beside it; returns that file."""
    final = root / fetched.digest / f"table-{fetched.format}{_ending(fetched.file)}.parquet"
    if not final.is_file():
        part = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            write_frame(_read(name, fetched, root), part, name)
            part.replace(final)
        except OSError as error:
            raise disk_error(error, f"the source `{name}` cannot be kept as a table") from error
        finally:
            part.unlink(missing_ok=True)
    return final


def read(parsed: Path) -> pd.DataFrame:
    """The table that `parse` kept."""
    return read_frame(parsed)


def _read(name: str, fetched: Fetched, root: Path) -> pd.DataFrame:
    import pandas as pd

    path = fetched.path(root)
    separator: dict[str, Any] = {"sep": "\t"} if ".tsv" in fetched.file else {}
    try:
        if fetched.format == "parquet":
            table = pd.read_parquet(path)
        elif fetched.format == "jsonl":
            table = pd.read_json(path, lines=True)
        else:
            table = pd.read_csv(path, low_memory=False, **separator)
    except Exception as error:  # parsers raise whatever they like
        raise UserCodeError(
            "data-parse",
            f"the source `{name}` cannot be read as {fetched.format}: {_line(error)}",
            f"look at `data.{name}`; `format:` says how it is read",
        ) from error
    return table
