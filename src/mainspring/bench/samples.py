"""What was measured of each request, in columns.

What this is: arrays that grow while the load runs, and the same as NumPy columns afterwards. Who calls it: `pool.py`
fills, `summary.py` reads. What it must never do: make an object for each request.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mainspring.bench.arrivals import Floats

NAN = float("nan")
MOST_GAPS = 4_000_000
"""Gaps between pieces that are kept (32 MB); later ones are only counted."""
OPEN, DONE = 0, 1
"""Kinds of an end: none yet; well. The others are failures in the order in which they were first met."""


class Log:
    """Filled while the load runs. Times are those of `time.perf_counter`."""

    def __init__(self) -> None:
        self.due = array("d")  # when it should have been sent
        self.begun = array("d")  # when the generator took it up
        self.sent = array("d")  # when its bytes were written
        self.first = array("d")  # its first piece came
        self.last = array("d")  # its last piece came
        self.end = array("d")  # its answer was whole, or had failed
        self.overhead = array("d")  # seconds inside the gateway, as its header says
        self.pieces = array("q")
        self.prompt = array("q")
        self.output = array("q")
        self.cached = array("q")
        self.kind = array("h")
        self.gaps = array("d")
        self.kinds = ["open", "done"]
        self.said: dict[str, str] = {}  # the first message of each kind of failure
        self.well = 0  # answers
        self.resent = 0  # requests sent once more: an unused connection was closed under them
        self.uncounted = 0  # answers without `usage`

    def begin(self, due: float, now: float) -> int:
        """Take a request up; its number."""
        for column in (self.sent, self.first, self.last, self.end, self.overhead):
            column.append(NAN)
        for count in (self.pieces, self.prompt, self.output, self.cached, self.kind):
            count.append(0)
        self.due.append(due)
        self.begun.append(now)
        return len(self.due) - 1

    def failed(self, number: int, kind: str, message: str) -> None:
        """Note a failure."""
        if kind not in self.said:
            self.kinds.append(kind)
            self.said[kind] = message
        self.kind[number] = self.kinds.index(kind)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Requests in the order in which they were taken up. Times are seconds after the start; nan: never."""

    due: Floats
    begun: Floats
    sent: Floats
    first: Floats
    last: Floats
    end: Floats
    overhead: Floats
    pieces: NDArray[np.int64]
    prompt: NDArray[np.int64]
    output: NDArray[np.int64]
    cached: NDArray[np.int64]
    kind: NDArray[np.int16]  # an index into `kinds`
    kinds: tuple[str, ...]
    gaps: Floats  # between the pieces of counted requests, warm-up left out

    @classmethod
    def of(cls, log: Log, start: float) -> Samples:
        """The columns of a log."""
        return cls(
            due=np.array(log.due) - start,
            begun=np.array(log.begun) - start,
            sent=np.array(log.sent) - start,
            first=np.array(log.first) - start,
            last=np.array(log.last) - start,
            end=np.array(log.end) - start,
            overhead=np.array(log.overhead),
            pieces=np.array(log.pieces, dtype=np.int64),
            prompt=np.array(log.prompt, dtype=np.int64),
            output=np.array(log.output, dtype=np.int64),
            cached=np.array(log.cached, dtype=np.int64),
            kind=np.array(log.kind, dtype=np.int16),
            kinds=tuple(log.kinds),
            gaps=np.array(log.gaps),
        )
