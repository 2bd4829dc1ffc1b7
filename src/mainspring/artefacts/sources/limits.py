"""How long a download waits for its source, and what it tells meanwhile.

Who calls it: everything here; `models add` shows what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

Tell = Callable[[str, int, int | None], None]
"""Told of progress: what is done, bytes so far, bytes in all (None: not known). May be called often."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Patience with a source."""

    answer: float = 60.0  # seconds until its answer's head is whole, redirects included
    silent: float = 30.0  # seconds without a byte, and until it is connected
    least: float = 1024.0  # bytes/s, over `over`: slower is given up
    over: float = 60.0  # seconds
    attempts: int = 5  # tries in a row that bring less than `progress`
    progress: int = 1 << 20  # bytes that make a try a good one
    pause: float = 1.0  # seconds before the next try, and twice as long each time
    redirects: int = 5


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer: its content from `start` on."""

    start: int  # the first byte's place; not always the one that was asked for
    size: int | None  # of the whole; None: not told
    tag: str  # what its source calls this very content; "": it has no such name
    framed: bool  # its end is told, so that a cut is seen
    pieces: Iterator[bytes]


class Remote(Protocol):
    """A file that is elsewhere."""

    shown: str

    def open(self, start: int, tag: str) -> AbstractContextManager[Stream]:
        """Read from `start` on, of the content that `tag` names; from 0 on when it is another by now, or can't.

        Raises `Broken` for what may go well the next time, `MainspringError` for what will not.
        """

    def tag(self) -> str:
        """What its source calls its content now; "" when it has no name for it. Raises as `open` does."""


class Broken(Exception):
    """A try went wrong in a way that may pass: a cut, a silence, a server that is busy."""


class Lying(Broken):
    """A source that says it can go on from a place, and can't: what came already is of no use."""
