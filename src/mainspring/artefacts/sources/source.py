"""What a source of a model is, read from the words of a person.

    path/of/a/file-or-folder     hf:ORG/NAME[/FILE][@REVISION]     mlflow:URI/NAME/VERSION
    https://HOST/path            s3://BUCKET/key                   external

Who calls it: `models add`. What it must never do: keep a user, a password or a signed query where somebody sees it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mainspring.errors import InputError

_HUB = re.compile(
    r"hf:(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?P<inside>(/[\w.+-]+)*)(@(?P<revision>[\w./-]{1,200}))?"
)
_MLFLOW = re.compile(r"mlflow:(?P<uri>.+)/(?P<name>[^/]{1,200})/(?P<number>[0-9]{1,9})")
_HINT = "mainspring models add --help"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is."""

    kind: str  # "path" | "http" | "s3" | "hub" | "mlflow" | "external"
    url: str  # whole: it may carry a signed query, so it is never shown
    shown: str  # for people, logs and the registry
    name: str  # the last part of its path
    folder: bool = False  # it is known to be one: a URL that ends with "/"
    repo: str = ""  # of the hub: "ORG/NAME"; of an MLflow registry: the model's name
    inside: str = ""  # of the hub: one file of it
    revision: str = ""  # of the hub; of an MLflow registry: the version

    @property
    def remote(self) -> bool:
        """Whether it comes over a network."""
        return self.kind in {"http", "s3", "hub"}


def read_source(text: str, beside: Path) -> Source:
    """What `text` means; paths are taken from `beside`. Raises `InputError` `bad-source`."""
    if text == "external":
        return Source("external", "", "external", "")
    if not text or not text.isprintable() or len(text) > 4000:
        raise InputError("bad-source", "a source is a path or a URL of printable characters", _HINT)
    if text.startswith("hf:"):
        return _hub(text)
    if text.startswith("mlflow:"):
        return _mlflow(text)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in {"http", "https", "s3"}:
        return _url(text, scheme)
    if scheme not in {"", "file"}:
        message = f"`{scheme:.20}://` is no source; there are: a path, `https://`, `http://`, `s3://`, `hf:`, `mlflow:`"
        raise InputError("bad-source", message, _HINT)
    return _path(text, beside)


def _path(text: str, beside: Path) -> Source:
    path = Path(os.path.expanduser(unquote(urlsplit(text).path) if text.startswith("file:") else text))
    path = path if path.is_absolute() else beside / path
    if not path.exists():
        raise InputError("source-missing", f"`{path}` does not exist", _HINT)
    path = path.resolve()
    return Source("path", str(path), str(path), path.name, path.is_dir())


def _url(text: str, scheme: str) -> Source:
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None:
        host = parts.hostname or ""
        how = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if scheme == "s3" else "MAINSPRING_MODELS_TOKEN"
        message = f"`{scheme}://…@{host}`: a URL with a user or password in it is seen by everybody on the machine"
        raise InputError("source-secret", message, f"set {how} in the environment")
    if not parts.hostname or parts.fragment or not text.isascii() or " " in text or parts.path in {"", "/"}:
        raise InputError("bad-source", f"`{scheme}://{parts.netloc}{parts.path}` names no file or folder", _HINT)
    shown = f"{scheme}://{parts.netloc}{parts.path}"
    if scheme == "s3" and parts.query:
        raise InputError(
            "bad-source", f"`s3://{parts.netloc}{parts.path}` has a query, which S3's keys have not", _HINT
        )
    shown = f"{scheme}://{parts.netloc}{parts.path}"
    name = unquote(parts.path.rstrip("/").rpartition("/")[2])
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise InputError("bad-source", f"`{shown}` names no file or folder", _HINT)
    return Source("s3" if scheme == "s3" else "http", text, shown, name, parts.path.endswith("/"))


def _hub(text: str) -> Source:
    match = _HUB.fullmatch(text)
    if match is None or ".." in text:
        raise InputError("bad-source", f"`{text[:200]}` is not `hf:ORG/NAME[/FILE][@REVISION]`", _HINT)
    inside = match["inside"].lstrip("/")
    name = inside.rpartition("/")[2] or match["repo"].partition("/")[2]
    return Source("hub", text, text, name, not inside, match["repo"], inside, match["revision"] or "")


def _mlflow(text: str) -> Source:
    match = _MLFLOW.fullmatch(text)
    if match is None or "@" in match["uri"].partition("://")[2].partition("/")[0]:
        hint = "a user and password go into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise InputError(
            "bad-source", "an MLflow registry elsewhere is `mlflow:URI/NAME/VERSION`, without a user", hint
        )
    return Source("mlflow", match["uri"], text, match["name"], True, match["name"], "", match["number"])
