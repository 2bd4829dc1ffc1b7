"""What real users asked for: a trace of requests, read from text and checked line by line.

What this is: parsing and plain statistics of `arrival, prompt, output`; pure. Who calls it: the resolver of
`traffic: {trace: FILE}`, `sizing/`, the twin. What it must never do: open or unpack a file (the caller does, and bounds
what it unpacks), sort what is not sorted, or fill a hole.

Three forms, told apart by their first line, one a file:

    TIMESTAMP,ContextTokens,GeneratedTokens          Azure LLM inference traces (dates, UTC if they don't say)
    {"timestamp": 0, "input_length": 4, "output_length": 2, "hash_ids": [0]}     Mooncake (ms, blocks of 512 tokens)
    arrival,prompt,output                            plain: seconds and tokens; this header may be left out

A hole is a gap over 5 minutes and over 20 times the mean of the shorter gaps. It is told, and left out of the covered
time that rates are made of: nobody knows whether users slept or the recorder did.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import InputError

Floats = NDArray[np.float64]

BLOCK = 512  # tokens of a Mooncake hash block
HOLE = 300.0  # s: a gap that is shorter is never a hole
HOLE_OF_MEAN = 20.0  # nor one of fewer mean gaps
MOST_TOKENS = 10_000_000
MOST_ROWS = 5_000_000
FORMS = "TIMESTAMP,ContextTokens,GeneratedTokens | Mooncake JSON lines | arrival,prompt,output"

Row = tuple[float, float, float, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch without requests that is too long to be chance."""

    start: float  # s after the first request
    length: float  # s


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order in which they came."""

    name: str
    form: str  # "azure", "mooncake" or "plain"
    arrival: Floats  # s after the first
    prompt: Floats  # tokens
    output: Floats  # tokens
    blocks: tuple[tuple[int, ...], ...] = ()  # prefix blocks of each prompt; () where the trace has none
    holes: tuple[Hole, ...] = ()
    empty: int = 0  # rows of no output (answers that failed or were cancelled), left out

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def covered(self) -> float:
        """Seconds from the first request to the last, without holes."""
        return float(self.arrival[-1]) - math.fsum(hole.length for hole in self.holes)

    @property
    def rate(self) -> float:
        """Mean requests/s over the covered time."""
        return (len(self) - 1 - len(self.holes)) / self.covered

    @property
    def variability(self) -> float:
        """Squared coefficient of variation of the gaps between requests, holes left out; 1 is Poisson."""
        gaps = _gaps(self)
        return float(gaps.var() / gaps.mean() ** 2)

    def dispersion(self, window: float) -> float:
        """Variance over mean of the number of requests in windows of so many seconds; 1 is Poisson.

        Over the length of a request it says how uneven the load is that a replica feels, which the gaps alone do not
        when requests come in bursts. Windows that touch a hole are left out; nan with fewer than 10 windows.
        """
        counts = _counts(self, window)
        return float(counts.var() / counts.mean()) if len(counts) >= 10 else math.nan

    @property
    def peak(self) -> float:
        """Requests of the busiest whole minute over those of a mean one; nan for less than a minute."""
        counts = _counts(self, 60.0)
        return float(counts.max() / (self.rate * 60.0)) if len(counts) else math.nan

    def percentile(self, share: float, of: str = "output") -> float:
        """Tokens of output, or of the prompt, that `share` of the requests do not exceed."""
        return float(np.quantile(self.output if of == "output" else self.prompt, share))

    def hit_share(self, pool: float) -> float | None:
        """Share of prompt tokens found in a prefix cache of `pool` tokens; None where the trace has no blocks.

        Least recently used blocks go first, as in vLLM; only whole leading blocks count. One cache meets all requests:
        replicas that share the traffic have less each, unless a router sends like prompts to like places.
        """
        return _hit_share(self.blocks, self.prompt, int(pool // BLOCK)) if self.blocks else None

    @property
    def complaints(self) -> tuple[str, ...]:
        """What a person should know of this trace before believing its rate."""
        told = [f"{self.empty:,} rows without output are left out"] if self.empty else []
        if self.holes:
            first, total = self.holes[0], math.fsum(hole.length for hole in self.holes)
            told.append(
                f"{len(self.holes)} hole(s) of {total:,.0f} s in all, the first after {first.start:,.0f} s: "
                "rates are of the time between"
            )
        if self.covered < 86_400:
            told.append(
                f"{self.covered / 3600:.1f} h of requests are no day: peak over mean by the hour stays your `peak`"
            )
        return tuple(told)


def parse(lines: Iterable[str], name: str = "trace") -> Trace:
    """Read a trace. Raises `InputError` with line number and value for what can't be right."""
    form, empty, rows = "", 0, list[Row]()
    read: Callable[[str, int, str], Row] = _plain
    for number, text in enumerate(lines, start=1):
        line = text.strip().removeprefix("\ufeff")
        if not line:
            continue
        if not form:
            form, read, header = _form(line, number, name)
            if header:
                continue
        row = read(line, number, name)
        if row[2] == 0:
            empty += 1
            continue
        if rows and row[0] < rows[-1][0]:
            raise _bad(name, number, f"`{line[:60]}` comes before the line above it", f"sort it: sort -t, -k1n {name}")
        rows.append(row)
        if len(rows) > MOST_ROWS:
            raise _bad(name, number, f"more than `{MOST_ROWS:,}` requests", "cut out the days that matter")
    return _trace(name, form, rows, empty)


def _trace(name: str, form: str, rows: list[Row], empty: int) -> Trace:
    if len(rows) < 2:
        raise InputError(
            "bad-trace", f"`{name}` has {len(rows)} request(s) with an output: a rate takes two", f"one of: {FORMS}"
        )
    arrival = np.array([row[0] for row in rows])
    arrival -= arrival[0]
    if arrival[-1] <= 0:
        raise InputError("bad-trace", f"all requests of `{name}` come at the same moment", "give arrivals in seconds")
    gaps = np.diff(arrival)
    # a hole must not hide itself by stretching the mean
    usual = gaps[gaps <= HOLE]
    limit = max(HOLE, HOLE_OF_MEAN * float(usual.mean() if len(usual) else gaps.mean()))
    found = np.flatnonzero(gaps > limit)
    holes = tuple(Hole(float(arrival[i]), float(gaps[i])) for i in found)
    if len(holes) == len(gaps):
        raise InputError("bad-trace", f"`{name}` is nothing but holes", "give the requests between them too")
    return Trace(
        name,
        form,
        arrival,
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        tuple(row[3] for row in rows) if form == "mooncake" else (),
        holes,
        empty,
    )


def _form(line: str, number: int, name: str) -> tuple[str, Callable[[str, int, str], Row], bool]:
    """The form, its reader, and whether this line is a header."""
    if line.startswith("{"):
        return "mooncake", _mooncake, False
    cells = [cell.strip().lower() for cell in line.split(",")]
    if cells == ["timestamp", "contexttokens", "generatedtokens"]:
        return "azure", _azure, True
    if cells == ["arrival", "prompt", "output"]:
        return "plain", _plain, True
    if len(cells) == 3 and all(_is_number(cell) for cell in cells):
        return "plain", _plain, False
    raise _bad(name, number, f"`{line[:60]}` is no known first line", f"one of: {FORMS}")


def _azure(line: str, number: int, name: str) -> Row:
    when, prompt, output = _cells(line, number, name)
    try:
        moment = datetime.fromisoformat(when[:26] if len(when) == 27 and when[-1].isdigit() else when)
    except ValueError as error:
        hint = "as in 2023-11-16 18:15:46.6805900"
        raise _bad(name, number, f"`{when}` is not a date and time", hint) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    fraction = float("0.0000000" + when[26]) if len(when) == 27 and when[-1].isdigit() else 0.0
    return moment.timestamp() + fraction, *_tokens(prompt, output, number, name), ()


def _plain(line: str, number: int, name: str) -> Row:
    arrival, prompt, output = _cells(line, number, name)
    return _seconds(arrival, number, name), *_tokens(prompt, output, number, name), ()


def _mooncake(line: str, number: int, name: str) -> Row:
    try:
        found = json.loads(line)
        arrival, prompt, output = found["timestamp"], found["input_length"], found["output_length"]
        blocks = tuple(found.get("hash_ids", ()))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        hint = "every line needs timestamp, input_length and output_length"
        raise _bad(name, number, f"`{line[:60]}` is not a request in JSON", hint) from error
    if not all(isinstance(block, int) for block in blocks):
        raise _bad(name, number, f"hash_ids `{str(blocks)[:40]}` are not whole numbers", "leave them out")
    seconds = _seconds(str(arrival), number, name) / 1000.0
    return seconds, *_tokens(str(prompt), str(output), number, name), blocks


def _cells(line: str, number: int, name: str) -> tuple[str, str, str]:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != 3:
        raise _bad(name, number, f"`{line[:60]}` has {len(cells)} columns, not 3", f"one form a file, one of: {FORMS}")
    return cells[0], cells[1], cells[2]


def _seconds(text: str, number: int, name: str) -> float:
    value = _number(text, number, name, "an arrival")
    if value < 0:
        raise _bad(name, number, f"arrival `{text}` is negative", "count from the first request")
    if value > 1e13:  # ms since 1970 are 1.8e12
        raise _bad(name, number, f"arrival `{text}` is too large", "give seconds (Mooncake: milliseconds)")
    return value


def _tokens(prompt: str, output: str, number: int, name: str) -> tuple[float, float]:
    """Tokens of both. An output of none is let through, to be counted; a prompt of none is an error."""
    p, o = _number(prompt, number, name, "a prompt"), _number(output, number, name, "an output")
    if not 1 <= p <= MOST_TOKENS:
        raise _bad(name, number, f"prompt of `{prompt}` tokens", "between 1 and 10,000,000")
    if not 0 <= o <= MOST_TOKENS:
        raise _bad(name, number, f"output of `{output}` tokens", "between 0 (failed: left out) and 10,000,000")
    return p, o


def _number(text: str, number: int, name: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise _bad(name, number, f"`{text[:40]}` is not {what}", f"one form a file, one of: {FORMS}") from error
    if not math.isfinite(value):
        raise _bad(name, number, f"`{text[:40]}` is not {what}", "leave the line out")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _bad(name: str, number: int, message: str, hint: str) -> InputError:
    return InputError("bad-trace", f"{name}:{number}: {message}", hint)


def _gaps(trace: Trace) -> Floats:
    gaps = np.diff(trace.arrival)
    shortest = min((hole.length for hole in trace.holes), default=math.inf)
    kept: Floats = gaps[gaps < shortest]
    return kept


def _counts(trace: Trace, window: float) -> Floats:
    """Requests in each whole window that touches no hole."""
    windows = int(trace.arrival[-1] // window)
    counts = np.bincount((trace.arrival // window).astype(np.int64), minlength=windows)[:windows].astype(np.float64)
    keep = np.ones(windows, dtype=bool)
    for hole in trace.holes:
        keep[int(hole.start // window) : int((hole.start + hole.length) // window) + 1] = False
    kept: Floats = counts[keep]
    return kept


def _hit_share(blocks: tuple[tuple[int, ...], ...], prompt: Floats, room: int) -> float:
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0.0
    for asked, tokens in zip(blocks, prompt.tolist(), strict=True):
        found = 0
        while found < len(asked) and asked[found] in kept:
            found += 1
        hits += min(found * BLOCK, tokens)
        for block in reversed(asked):  # the end of a prompt goes before its beginning
            kept[block] = None
            kept.move_to_end(block)
        while len(kept) > room:
            kept.popitem(last=False)
    return hits / float(prompt.sum())
