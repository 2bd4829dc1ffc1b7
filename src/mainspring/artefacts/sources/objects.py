"""Files of an object store, and listings of folders there and on the web: by fsspec.

Who calls it: `fetch.py`. What it must never do: take credentials from anywhere but where the store's own client looks
(the environment, its profile files, the machine's role), or take a name out of a listing for a path out of the folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from mainspring.artefacts.sources.limits import Broken, Limits, Stream
from mainspring.artefacts.sources.source import Source
from mainspring.errors import EnvironmentError_, InputError, MainspringError

_PIECE = 1 << 20
FILES = 10_000
"""Files of a folder that are downloaded at most."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a folder that is elsewhere."""

    path: str  # below the folder
    url: str
    shown: str


class ObjectFile:
    """A file of an object store."""

    def __init__(self, url: str, limits: Limits) -> None:
        self.url = self.shown = url
        self._limits = limits

    @contextlib.contextmanager
    def open(self, start: int, tag: str) -> Iterator[Stream]:
        """Read from `start` on; see `Remote.open`."""
        now, size = self._about()
        if start and (not tag or tag != now or start > size):
            start = 0
        yield Stream(start, size, now, framed=True, pieces=self._pieces(start, size, now))

    def tag(self) -> str:
        """What the store calls its content now. Raises as `open` does."""
        return self._about()[0]

    def _about(self) -> tuple[str, int]:
        with _told(self.shown):
            about = store(self._limits).info(self.url, refresh=True)
            if about.get("type") == "directory":
                raise FileNotFoundError(self.url)
        return str(about.get("ETag") or "").strip('"'), int(about["size"])

    def _pieces(self, start: int, size: int, tag: str) -> Iterator[bytes]:
        """The content in ranges of at most `_PIECE`, each of the object that `tag` names."""
        system = store(self._limits, tag)
        while start < size:
            with _told(self.shown):
                piece = system.cat_file(self.url, start=start, end=min(size, start + _PIECE))
            if not piece:
                raise Broken(f"`{self.shown}` broke off at {start:,} of {size:,} bytes")
            start += len(piece)
            yield piece


def store(limits: Limits, tag: str = "") -> Any:
    """The S3 client, with our patience; it reads only what `tag` names. Raises `ImportError`."""
    import fsspec

    patience = {"connect_timeout": limits.silent, "read_timeout": limits.silent, "retries": {"max_attempts": 2}}
    only = {"IfMatch": f'"{tag}"'} if tag else {}
    return fsspec.filesystem(
        "s3", config_kwargs=patience, s3_additional_kwargs=only, skip_instance_cache=True, use_listings_cache=False
    )


def listing(source: Source, limits: Limits) -> tuple[Listed, ...] | None:
    """The files of a folder, by path; None when the source is a file. Raises `MainspringError`, `Broken`."""
    with _told(source.shown):
        if source.kind == "s3":
            system = store(limits)
            if not source.folder and system.isfile(source.url):
                return None
        elif not source.folder:
            return None
        else:
            import aiohttp
            import fsspec

            patience = aiohttp.ClientTimeout(total=limits.answer, sock_read=limits.silent)
            system = fsspec.filesystem("http", client_kwargs={"timeout": patience}, skip_instance_cache=True)
        found = system.find(source.url)
    files = tuple(sorted((_listed(source, str(url)) for url in found), key=lambda one: one.path))
    if not files:
        raise InputError(
            "source-missing", f"`{source.shown}` has no files, or doesn't list them", "name one file of it"
        )
    if len(files) > FILES:
        raise InputError("source-large", f"`{source.shown}` has more than {FILES:,} files")
    return files


def _listed(source: Source, url: str) -> Listed:
    """A file as the listing has it; raises `EnvironmentError_` for one that lies elsewhere."""
    full = url if "://" in url else f"s3://{url}"
    base, path = source.shown.rstrip("/") + "/", full.partition("?")[0].partition("#")[0]
    inside = path.removeprefix(base)
    if source.kind == "http":
        inside = unquote(inside)
    parts = PurePosixPath(inside).parts
    if not path.startswith(base) or not parts or ".." in parts or inside.startswith("/") or not inside.isprintable():
        message = f"`{source.shown}` lists `{urlsplit(full).path[:200]}`, which lies elsewhere or has an odd name"
        raise EnvironmentError_("source-odd", message)
    return Listed(inside, full, base + inside)


@contextlib.contextmanager
def _told(shown: str) -> Iterator[None]:
    """Tell what a store's client raises as ours; each has its own errors."""
    try:
        yield
    except (MainspringError, Broken):
        raise
    except ImportError as error:
        extra = "s3" if shown.startswith("s3") else "http"
        message = f"`{shown}` needs a package that is not installed ({error})"
        raise EnvironmentError_("source-extra", message, f"pip install 'mainspring[{extra}]'") from error
    except FileNotFoundError as error:
        raise InputError("source-missing", f"`{shown}` does not exist", "look at the address") from error
    except PermissionError as error:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise EnvironmentError_("source-closed", f"`{shown}` can't be read with the credentials here", hint) from error
    except Exception as error:  # botocore's, aiohttp's
        if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise EnvironmentError_("source-closed", f"`{shown}`: there are no credentials here", hint) from error
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Broken(f"`{shown}` cannot be read: {line}") from error
