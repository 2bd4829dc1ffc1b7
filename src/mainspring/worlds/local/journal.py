"""What was done with keys, by whom and when: lines that are only added, beside `keys.json`.

What this is: the change log of what needs no controller. Two lines a change: one before it is made, flushed to the
disk, and one that says how it ended. Who calls it: `tokens.py`, under the keys' lock; whoever shows the change log.
What it must never do: hold a token or its hash, or let a key be made that is not written down here.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import secrets as chance
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mainspring.errors import EnvironmentError_
from mainspring.facts.changes import Caller, Change, change, said

NAME = "key-changes.jsonl"


def person(where: str) -> Caller:
    """Whoever runs this process, `where` being what it changes by itself: `uid 1000 (keys.json)`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return Caller(f"uid {os.getuid()} ({where})", "admin", name)


@contextlib.contextmanager
def recorded(state: Path, what: str, target: str, detail: str, where: str = "keys.json") -> Iterator[None]:
    """Write down a change of keys, have it made, write down how that ended. The caller holds the keys' lock.

    `where`: what is changed, when it is something else that needs no controller, such as the registry.

    Raises `OSError` before anything was done, and whatever the change itself raises.
    """
    entry = change(chance.token_hex(8), time.time(), person(where), what, target, detail)
    begun = {name: value for name, value in asdict(entry).items() if name not in {"outcome", "message"}}
    _append(state, begun)
    try:
        yield
    except BaseException as error:
        _ended(state, entry.id, "failed", said(str(error)))
        raise
    _ended(state, entry.id, "accepted")


@contextlib.contextmanager
def recorded_alone(state: Path, what: str, target: str, detail: str, where: str) -> Iterator[None]:
    """The same for what holds no lock of the keys: it is held here. Raises `EnvironmentError_` before the change."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "keys.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            noted = recorded(state, what, target, detail, where)
            noted.__enter__()
        except OSError as error:
            message = f"`{state / NAME}` can't be written: {error.strerror}; nothing was changed"
            raise EnvironmentError_("changes-not-written", message, "mainspring doctor") from error
        with contextlib.ExitStack() as stack:
            stack.push(noted.__exit__)
            yield


def _ended(state: Path, id: str, outcome: str, message: str = "") -> None:
    with contextlib.suppress(OSError):  # the change itself can't be taken back; how it ended stays unsaid
        _append(state, {"id": id, "outcome": outcome, "message": message})


def _append(state: Path, line: dict[str, Any]) -> None:
    """Add a line, whole or not at all, and see it on the disk. A line that a crash cut off is ended first."""
    path = state / NAME
    made = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    size = os.fstat(fd).st_size
    try:
        cut = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        left = memoryview((b"\n" if cut else b"") + json.dumps(line).encode() + b"\n")
        while left:
            left = left[os.write(fd, left) :]
        os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise
    finally:
        os.close(fd)
    if made:
        _sync(state)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def changes(state: Path) -> tuple[Change, ...]:
    """All changes of keys, oldest first; a line that can't be read is shown as one, at the time of the one before.

    Raises `OSError`.
    """
    try:
        lines = (state / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    found: dict[str, Change] = {}
    at = 0.0
    for number, raw in enumerate(lines, start=1):
        try:
            entry = _read(raw, found)
        except (ValueError, TypeError, KeyError):
            entry = Change(f"line {number}", at, "unknown", "unreadable", f"line {number} of {NAME}")
        found[entry.id], at = entry, entry.at
    return tuple(found.values())


def _read(raw: bytes, found: dict[str, Change]) -> Change:
    """The change that a line begins, or the one that it ends; raises `ValueError`, `TypeError` or `KeyError`."""
    line = json.loads(raw)
    if "outcome" in line:
        return replace(found[line["id"]], outcome=line["outcome"], message=str(line["message"]))
    texts = {name: said(str(line[name])) for name in ("id", "who", "what", "target", "detail", "remark")}
    return Change(at=float(line["at"]), **texts)  # type: ignore[arg-type]


def with_keys(asked: Iterable[Change], state: Path, since: float, limit: int, who: str) -> tuple[Change, ...]:
    """The change log as people see it, newest first: what a store gives, and the changes of keys, by the same choice.

    Raises `EnvironmentError_`.
    """
    try:
        of_keys = [one for one in changes(state) if one.at >= since and who in one.who]
    except OSError as error:
        message = f"`{state / NAME}` can't be read: {error.strerror}"
        raise EnvironmentError_("changes-unreadable", message, "mainspring doctor") from error
    return tuple(sorted([*asked, *of_keys[::-1]], key=lambda one: one.at, reverse=True)[:limit])
