"""The gateway's record files: one JSON object a line, appended before the answers are sent.

What this is: a buffer per turn of the event loop, written by one `write`. What was answered is in the
page cache by then, so it is still there after a kill -9 of the gateway (a power cut may lose it).
Who calls it: the gateway's server and mirror. What it must never do: raise, or stop serving because the
disk is full.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import msgspec

from mainspring.errors import EnvironmentError_
from mainspring.facts.records import BegunRecord, PredictionRecord, WrittenRecord

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EMFILE, errno.ENFILE)


def _struct(name: str, of: type[Any]) -> Callable[..., msgspec.Struct]:
    """A record field for field, made several times faster than a frozen dataclass is; defaults are not written."""
    given = {f.name: f for f in fields(of)}
    tag = str(given.pop("k").default)
    rows = [(n, Any) if f.default is MISSING else (n, Any, f.default) for n, f in given.items()]
    return msgspec.defstruct(name, rows, kw_only=True, gc=False, omit_defaults=True, tag_field="k", tag=tag)


Row = _struct("Row", PredictionRecord)
Begun = _struct("Begun", BegunRecord)
Written = _struct("Written", WrittenRecord)
row: Callable[[object], bytes] = msgspec.json.Encoder().encode

Done = Callable[[bool], None]
Position = tuple[str, int]
"""A segment's file name and an offset in it."""


class Log:
    """Appends lines to `<folder>/<worker>-<boot>-<number>.jsonl`."""

    def __init__(self, folder: Path, worker: str, boot: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open the first segment; raises `EnvironmentError_` when the folder does not allow it.

        A full disk is not such a reason: the log starts without a file and tries again later.
        """
        self._folder, self._stem = folder, f"{worker}-{boot}"
        self._limit = segment_bytes
        self._number = -1
        self._name = ""
        self._file = -1
        self._size = 0
        self._torn = False
        self._retry_at = 0.0
        self._lines: list[bytes] = []
        self._done: list[tuple[int, Done]] = []  # (lines there were before it and with it, callback)
        self._scheduled = False
        self._loop = asyncio.get_running_loop()
        self.lost = 0  # lines that could not be written
        self.written = 0
        self._warned = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            if error.errno not in _PASSING:
                raise EnvironmentError_(
                    "segments", f"records cannot be written to `{folder}`: {error.strerror}", "make it writable"
                ) from error
            self._warn(error)

    @property
    def pending(self) -> bool:
        """Whether lines wait for the end of this turn."""
        return bool(self._lines)

    def append(self, line: bytes, done: Done | None = None) -> Position:
        """Write `line` (without its end) at the end of this turn, then call `done(written)`.

        Returns where the line will be, or at the least a place before it.
        """
        place = (self._name, self._size)
        self._lines.append(line)
        if done is not None:
            self._done.append((len(self._lines), done))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        return place

    @property
    def position(self) -> Position:
        """Everything appended from now on lies at or after this."""
        return (self._name, self._size)

    def flush(self) -> None:
        """Write what was appended, then tell those who wait."""
        self._scheduled = False
        lines, self._lines = self._lines, []
        done, self._done = self._done, []
        whole = self._write(lines) if lines else 0
        self.written += whole
        self.lost += len(lines) - whole
        for number, tell in done:
            try:
                tell(number <= whole)
            except Exception:  # of one request; the others of this turn are told all the same
                log.exception("an answer was not sent")

    def _write(self, lines: list[bytes]) -> int:
        """Append the lines; returns how many are whole in the file."""
        if not self._ready():
            return 0
        data = b"".join([b"\n" if self._torn else b"", *(piece for line in lines for piece in (line, b"\n"))])
        view, put = memoryview(data), 0
        try:
            while put < len(data):
                put += os.write(self._file, view[put:])
        except OSError as error:
            self._warn(error)
        self._size += put
        if put == len(data):
            if self._torn or self._warned:
                log.warning("records are written again; %d were lost", self.lost)
            self._torn = self._warned = False
            if self._size >= self._limit:
                self._rotate()
            return len(lines)
        self._torn = self._torn or (put > 0 and data[put - 1] != 10)
        return data.count(b"\n", 1 if data[:1] == b"\n" else 0, put)

    def _ready(self) -> bool:
        if self._file >= 0:
            return True
        if time.monotonic() < self._retry_at:
            return False
        self._retry_at = time.monotonic() + 0.5
        self._rotate()
        return self._file >= 0

    def _rotate(self) -> None:
        try:
            self._open()
        except OSError as error:  # the old segment, if there is one, goes on
            self._warn(error)

    def _open(self) -> None:
        number = self._number + 1
        name = f"{self._stem}-{number}.jsonl"
        fresh = os.open(self._folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._name, self._number = fresh, name, number
        self._size, self._torn = os.fstat(fresh).st_size, False

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            log.warning("records cannot be written to `%s`: %s; serving goes on", self._folder, error.strerror)

    def close(self) -> None:
        """Write what is left and close."""
        self.flush()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
