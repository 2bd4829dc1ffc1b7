"""One file, downloaded so that a cut costs little and a lie costs the liar: `.part`, and what it is a part of.

    part        the bytes so far                  part.json   what they are of: its source's name for it, its size

What this is: tries until the file is whole, going on where the last try ended while the source says that the content
is the same. Who calls it: `fetch.py`, under a lock.
What it must never do: put parts of two files together and call it one, or give up what came already without need.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mainspring.artefacts.folders import digest_of_part
from mainspring.artefacts.sources.limits import Broken, Limits, Lying, Remote, Stream, Tell
from mainspring.errors import ArtefactError, EnvironmentError_

OTHER = "see who changed it; then `--digest` with the one that you trust"
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Came:
    """A file that is whole."""

    path: Path
    digest: str  # "sha256:..."
    tag: str  # its source's name for this content; "": it has none
    size: int


def download(remote: Remote, folder: Path, digest: str, tell: Tell, limits: Limits) -> Came:
    """Bring a file into `folder` (as `part`); `digest` is what it must have, "" when nobody knows.

    Raises `ArtefactError` when the digest is another, `EnvironmentError_` when the source can't be read or the disk
    refuses, `InputError` when there is nothing.
    """
    part = folder / "part"
    try:
        for last in (False, True):
            tag, pieced = _whole(remote, part, tell, limits, pinned=bool(digest))
            found = "sha256:" + digest_of_part(part)
            if not digest or found == digest:
                return Came(part, found, tag, part.stat().st_size)
            _forget(part)
            if last or not pieced:
                break
            tell("it is not what was promised, and came in pieces: once more from its beginning", 0, None)
    except OSError as error:
        raise as_disk_error(error) from error
    message = f"`{remote.shown}` is not what was promised: its digest is `{found}`, not `{digest}`"
    raise ArtefactError("digest-differs", message, OTHER)


def _whole(remote: Remote, part: Path, tell: Tell, limits: Limits, *, pinned: bool) -> tuple[str, bool]:
    """Try until the file is whole; its tag, and whether it came in pieces. Raises `EnvironmentError_`, `OSError`."""
    poor, pieced, pause = 0, False, limits.pause
    while True:
        before = _there(part)
        tag, size = _told(part)
        if before and not (tag or (pinned and size is not None)):
            _forget(part)  # nobody can say that what follows belongs to it
            before = 0
        if before and size is not None and before > size:
            _forget(part)
            before = 0
        if before and before == size:
            return tag, True
        try:
            with remote.open(before, tag) as stream:
                pieced = pieced or stream.start > 0
                _take(stream, part, tell, remote.shown, pinned=pinned)
                return stream.tag, pieced
        except Broken as error:
            now = _there(part)
            if isinstance(error, Lying):
                _forget(part)
            poor = 0 if now - before >= limits.progress else poor + 1
            if poor >= limits.attempts:
                hint = "what came is kept: the same command goes on with it" if _there(part) else ""
                raise EnvironmentError_("source-unreachable", str(error), hint) from error
            pause = limits.pause if poor == 0 else pause * 2
            tell(f"{error}: once more in {pause:.0f} s", now, size)
            time.sleep(min(pause, 30.0))


def _take(stream: Stream, part: Path, tell: Tell, shown: str, *, pinned: bool) -> None:
    """Write what comes to its place. Raises `Broken` when it ends too early."""
    if stream.size is None and not stream.framed and not pinned:
        message = f"`{shown}` doesn't say how long it is, so a cut would not be seen"
        raise EnvironmentError_("source-endless", message, "name its digest: --digest sha256:…")
    room = shutil.disk_usage(part.parent).free
    if stream.size is not None and stream.size - stream.start > room:
        message = f"`{shown}` has {stream.size:,} bytes, and `{part.parent}` has room for {room:,}"
        raise EnvironmentError_("disk-full", message, "free some space, or `mainspring models cache --clear`")
    if stream.start == 0:
        _forget(part)
        _note(part, stream)
    done = stream.start
    with part.open("r+b" if stream.start else "wb") as out:
        out.seek(stream.start)
        out.truncate()
        for piece in stream.pieces:
            done += len(piece)
            if stream.size is not None and done > stream.size:
                raise Broken(f"`{shown}` sends more than the {stream.size:,} bytes that it promised")
            out.write(piece)
            tell("downloading", done, stream.size)
        out.flush()
        os.fsync(out.fileno())
    if stream.size is not None and done != stream.size:
        raise Broken(f"`{shown}` broke off at {done:,} of {stream.size:,} bytes")


def _note(part: Path, stream: Stream) -> None:
    """Write down what the bytes to come are of, before the first of them."""
    text = json.dumps({"tag": stream.tag, "size": stream.size})
    fresh = part.with_suffix(".json.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(part.with_suffix(".json"))


def _told(part: Path) -> tuple[str, int | None]:
    try:
        told = json.loads(part.with_suffix(".json").read_bytes())
        size = told["size"]
        return str(told["tag"]), int(size) if size is not None else None
    except (OSError, ValueError, KeyError, TypeError):
        return "", None


def _there(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_suffix(".json").unlink(missing_ok=True)


def as_disk_error(error: OSError) -> EnvironmentError_:
    """Tell an error of the disk to a person."""
    code = "disk-full" if error.errno in _FULL else "disk-error"
    message = f"the download cannot be kept: {error.strerror or error}: `{error.filename or ''}`"
    hint = "free some space (`mainspring models cache --clear`): the same command then goes on"
    return EnvironmentError_(code, message, hint if code == "disk-full" else "mainspring doctor")
