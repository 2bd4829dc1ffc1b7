"""Bringing a model here: once on a machine, whole, and what was promised.

What this is: `fetch`, from a source to a path whose digest is known. Who calls it: `models add`.
What it must never do: give out what is not whole, or what has another digest than was asked for.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mainspring.artefacts.sources import hub, objects
from mainspring.artefacts.sources.cache import DIGEST, Cache, digest_of, read
from mainspring.artefacts.sources.download import OTHER, as_disk_error, download
from mainspring.artefacts.sources.limits import Broken, Limits, Remote, Tell
from mainspring.artefacts.sources.source import Source
from mainspring.artefacts.sources.web import WebFile
from mainspring.errors import ArtefactError, EnvironmentError_, InputError

_LAST = "last.json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model that is here."""

    path: Path  # of a file, or of a folder; not to be written to
    digest: str  # of its content: `folders.py`
    name: str
    shown: str  # where it came from
    downloaded: bool  # by this very call
    remote: bool = True  # it came over a network, now or before: its files are the cache's, and read-only


def quiet(_what: str, _done: int, _size: int | None) -> None:
    """Tell nobody."""


def fetch(source: Source, digest: str = "", cache: Cache | None = None, tell: Tell = quiet,
          limits: Limits | None = None) -> Fetched:  # fmt: skip
    """Bring what `source` names; `digest` is what it must have, "" when nobody knows.

    What the machine has already is not downloaded again. Raises `InputError` when it does not exist or the digest is
    none, `ArtefactError` when it has another digest, `EnvironmentError_` when it can't be had.
    """
    if digest and not DIGEST.fullmatch(digest):
        raise InputError("bad-digest", f"`{digest[:100]}` is not `sha256:` and 64 hexadecimal digits", "sha256sum FILE")
    if not source.remote:
        path = Path(source.url)
        found = digest_of(path)
        _promised(source, found, digest)
        return Fetched(path, found, source.name, source.shown, downloaded=False, remote=False)
    cache = cache or Cache()
    there = cache.get(digest) if digest else None
    if there is not None:
        return Fetched(there, digest, there.name, source.shown, downloaded=False)
    try:
        return _downloaded(source, digest, cache, tell, limits or Limits())
    except Broken as error:
        raise EnvironmentError_("source-unreachable", str(error)) from error
    except OSError as error:
        raise as_disk_error(error) from error


def _promised(source: Source, found: str, digest: str) -> None:
    if digest and found != digest:
        message = f"`{source.shown}` is not what was promised: its digest is `{found}`, not `{digest}`"
        raise ArtefactError("digest-differs", message, OTHER)


def _downloaded(source: Source, digest: str, cache: Cache, tell: Tell, limits: Limits) -> Fetched:
    asked = time.time()
    with cache.work(source.url, tell) as work:
        last = read(work / _LAST)
        known = str(last.get("digest", ""))
        just_now = bool(known) and float(last.get("at", 0.0)) >= asked  # by the process that was waited for
        tag = _tag(source, limits) if source.kind == "hub" or (known and not digest and not just_now) else ""
        same = just_now or bool(tag and last.get("tag") == tag)
        wanted = digest or (known if same and DIGEST.fullmatch(known) else "")
        there = cache.get(wanted) if wanted else None
        if there is not None:
            return Fetched(there, wanted, there.name, source.shown, downloaded=False)
        path, tag = _brought(source, tag, digest, work, tell, limits)
        tell("reading it through", 0, None)
        found = digest_of(path)
        if digest and found != digest:
            _thrown_away(path)
        _promised(source, found, digest)
        kept = cache.keep(path, found, source.name, source.shown)
        text = json.dumps({"digest": found, "tag": tag, "at": time.time()})
        _tidied(work)
        (work / _LAST).write_text(text, encoding="utf-8")
        return Fetched(kept, found, source.name, source.shown, downloaded=True)


def _tag(source: Source, limits: Limits) -> str:
    """What the source calls its content now; "" when it has no name for it, or can't be asked."""
    if source.kind == "hub":
        return hub.revision_of(source, limits)
    if source.folder:
        return ""
    try:
        return _remote(source.kind, source.url, source.shown, limits).tag()
    except (Broken, InputError):  # a folder of an object store; what is really wrong is told by the download
        return ""


def _remote(kind: str, url: str, shown: str, limits: Limits) -> Remote:
    return objects.ObjectFile(url, limits) if kind == "s3" else WebFile(url, shown, limits)


def _brought(source: Source, tag: str, digest: str, work: Path, tell: Tell, limits: Limits) -> tuple[Path, str]:
    """Download into `work`; the path, and what the source calls it."""
    if source.kind == "hub":
        return hub.bring(source, tag, work / "tree", tell, limits), tag
    files = objects.listing(source, limits)
    if files is None:
        came = download(_remote(source.kind, source.url, source.shown, limits), work, digest, tell, limits)
        return came.path, came.tag
    tree, whole = work / "tree", read(work / "files.json")
    for at, one in enumerate(files, start=1):
        remote, place = _remote(source.kind, one.url, one.shown, limits), tree / one.path
        if place.is_file() and whole.get(one.path) and remote.tag() == whole[one.path]:
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        came = download(remote, work, "", _headed(tell, f"{at} of {len(files)}: {one.path}"), limits)
        came.path.replace(place)
        (work / "part.json").unlink(missing_ok=True)
        whole[one.path] = came.tag
        (work / "files.json").write_text(json.dumps(whole), encoding="utf-8")
    for path in [path for path in tree.rglob("*") if path.is_file()]:
        if path.relative_to(tree).as_posix() not in {one.path for one in files}:
            path.unlink()  # of an earlier try, and no more there
    return tree, ""


def _headed(tell: Tell, head: str) -> Tell:
    def told(what: str, done: int, size: int | None) -> None:
        tell(f"{what} {head}", done, size)

    return told


def _thrown_away(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _tidied(work: Path) -> None:
    """Take away what a download needs no more."""
    for path in work.iterdir():
        if path.name != "lock":
            _thrown_away(path)
