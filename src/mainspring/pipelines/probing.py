"""A packaged tabular model as a real replica: how long a row takes, what it holds, and what it makes of odd requests.

What this is: the replica that serves later, asked over HTTP: single rows for the time, then values at, beyond and far
from the ranges of `gates.inputs`, and requests that are broken. Who calls it: the built-in step `gate`, in its own
process. What it must never do: judge (that is `decide/gate.py` and `decide/ranges.py`), or take a replica that has
ended for one that declines.
"""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mainspring.artefacts.load import load_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.decide.ranges import ColumnSeen, InputNumbers, InputSeen, Outcome
from mainspring.errors import EnvironmentError_, UserCodeError
from mainspring.loop.snapshot import GateNumbers
from mainspring.pipelines.candidate import Served, serve
from mainspring.pipelines.job import Job
from mainspring.stack.safety import InputGate

if TYPE_CHECKING:
    import pandas as pd

ROUNDS, SINGLES = 5, 60  # rounds of single rows; the fastest counts: whatever disturbs one only makes it slower
PATIENCE = 30.0  # seconds for the answer to one request
GONE = 2.0  # seconds that a replica which gave no answer has to end
FIELDS = 100  # columns that are probed, those with a range first
TRIED = 50  # rows among which one is looked for that scores well
PATH = "/v2/models/-/infer"
LONG = 10_000  # letters of a long text

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Odd:
    """A request that is unlike those of training."""

    column: str
    what: str
    body: bytes
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int  # 0: nothing
    score: float  # nan without one
    said: str


def probed(job: Job, numbers: GateNumbers, candidate: Path, rows: pd.DataFrame) -> GateNumbers:
    """Add what only a real replica shows, of what the gates ask for. Raises when it cannot be started."""
    gates = job.pipeline.gates
    if gates.latency is None and gates.inputs is None and gates.memory is None:
        return numbers
    manifest = load_manifest(candidate)
    plain = plain_rows(rows, manifest.inputs)
    with serve(job, candidate, "the candidate", "candidate") as served:
        latency = single_rows(served, manifest, plain) if plain else math.nan
        inputs = beyond(served, manifest, gates.inputs, rows, plain) if gates.inputs else None
        memory = math.nan if served.ended() else served.memory()
    return replace(numbers, latency_p95=latency, inputs=inputs, memory=memory)


def plain_rows(rows: pd.DataFrame, fields: Sequence[Field]) -> list[Row]:
    """Rows as requests bring them, evenly over all: plain values, None for what is missing."""
    if not len(rows):
        return []
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(ROUNDS * SINGLES, len(rows))).astype(np.int64))
    columns = {}
    for field in fields:
        column = rows[field.name].iloc[chosen]
        columns[field.name] = column.astype(object).where(column.notna(), None).tolist()
    return [{name: _plain(values[at]) for name, values in columns.items()} for at in range(len(chosen))]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def body(manifest: Manifest, row: Row) -> bytes:
    """A request of one row. Values that JSON has no word for (NaN, infinity) are written as Python does."""
    inputs = [
        {"name": f.name, "shape": [1], "datatype": f.datatype, "data": [_typed(f, row[f.name])]}
        for f in manifest.inputs
        if f.name in row
    ]
    return json.dumps({"inputs": inputs}).encode()


def _typed(field: Field, value: Any) -> Any:
    """A value of a table as its field's type: a text column may hold what is none."""
    if field.datatype == "BYTES" and value is not None and not isinstance(value, str):
        return str(value)
    if field.datatype == "INT64" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# --- time --------------------------------------------------------------------------------------------


def single_rows(served: Served, manifest: Manifest, rows: Sequence[Row]) -> float:
    """Seconds within which 95 of 100 single rows are answered, one after another; inf when more than 5 fail."""
    bodies = [body(manifest, row) for row in rows]
    connection = served.connect(PATIENCE)
    found = []
    try:
        for turn in range(-1, ROUNDS):  # the first one warms up
            seconds = []
            for at in range(SINGLES if turn >= 0 else 5):
                began = time.perf_counter()
                answer = _ask(connection, bodies[(max(turn, 0) * SINGLES + at) % len(bodies)])
                seconds.append(time.perf_counter() - began if answer.status == 200 else math.inf)
            if turn >= 0:
                found.append(float(np.quantile(seconds, 0.95, method="higher")))
    finally:
        connection.close()
    told = ", ".join(f"{one * 1e3:.2f} ms" for one in found)
    print(f"latency: 95 of 100 single rows within {told} in {ROUNDS} rounds", flush=True)
    return min(found)


def _ask(connection: http.client.HTTPConnection, content: bytes) -> Answer:
    """One request and its answer; none is a status of 0."""
    try:
        connection.request("POST", PATH, content, {"content-type": "application/json"})
        response = connection.getresponse()
        told = response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return Answer(0, math.nan, f"no answer ({type(error).__name__})")
    try:
        found = json.loads(told)
        if response.status == 200:
            score = float(found["outputs"][0]["data"][0])
            return Answer(200, score, "" if math.isfinite(score) else f"scored `{score}`")
        said = found["error"] if isinstance(found.get("error"), str) else str(found.get("error", {}).get("message", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        said = told[:100].decode("utf-8", "replace")
    return Answer(response.status, math.nan, f"`{response.status}` {said[:160]}".strip())


# --- odd requests ------------------------------------------------------------------------------------


def beyond(
    served: Served, manifest: Manifest, gate: InputGate, rows: pd.DataFrame, plain: Sequence[Row]
) -> InputNumbers:
    """Ask for what is odd, one column at a time, from a row that scores well; then for that row again."""
    taken = {field.name for field in manifest.inputs}
    absent = tuple(name for name in gate.columns if name not in taken)
    columns = tuple(_column(rows, name, gate.columns[name]) for name in gate.columns if name in taken)
    numbers = InputNumbers(len(rows), columns, absent=absent)
    connection = served.connect(PATIENCE)
    try:
        base, before = _base(connection, manifest, gate, plain)
        if base is None:
            print("inputs: no held-out row is scored, so nothing can be changed in one", flush=True)
            return numbers
        found = []
        for odd in oddities(manifest, gate, base):
            answer = _ask(connection, odd.body)
            found.append(InputSeen(odd.column, odd.what, odd.inside, outcome(answer), answer.score, answer.said))
            if answer.status == 0 and served.ended(GONE):
                found[-1] = replace(found[-1], said="the replica ended")
                break
        after = _ask(connection, body(manifest, base))
    finally:
        connection.close()
    for one in found:
        if one.outcome == "failed" or (one.inside and one.outcome != "scored"):
            print(f"inputs: {one.column or 'the request'} {one.what}: {one.outcome}: {one.said}", flush=True)
    return replace(numbers, probes=tuple(found), steady=after.score == before.score)


def outcome(answer: Answer) -> Outcome:
    """What an answer comes to."""
    if answer.status == 200 and math.isfinite(answer.score):
        return "scored"
    return "declined" if 400 <= answer.status < 500 else "failed"


def _column(rows: pd.DataFrame, name: str, span: tuple[float, float]) -> ColumnSeen:
    import pandas as pd

    column = rows[name]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        message = f"`gates.inputs` gives `{name}` a range, and it holds no numbers"
        raise UserCodeError("gate-column", message, "give ranges to columns of numbers only")
    values = column.dropna().to_numpy(dtype=np.float64)
    outside = int(((values < span[0]) | (values > span[1])).sum())
    low, high = (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)
    return ColumnSeen(name, len(values), outside, low, high)


def _base(
    connection: http.client.HTTPConnection, manifest: Manifest, gate: InputGate, plain: Sequence[Row]
) -> tuple[Row | None, Answer]:
    """A row whose values are in their ranges and that is scored, and its answer."""
    chosen = sorted({round(at) for at in np.linspace(0, len(plain) - 1, min(TRIED, len(plain)))}) if plain else []
    fitting = [plain[at] for at in chosen if _fits(plain[at], gate)]
    for row in fitting or [plain[at] for at in chosen]:
        answer = _ask(connection, body(manifest, row))
        if answer.status == 0:
            raise EnvironmentError_("replica-silent", f"the candidate gave {answer.said}", "mainspring doctor")
        if outcome(answer) == "scored":
            return row, answer
    return None, Answer(0, math.nan, "")


def _fits(row: Row, gate: InputGate) -> bool:
    return all(
        isinstance(row.get(name), int | float) and low <= row[name] <= high
        for name, (low, high) in gate.columns.items()
    )


def oddities(manifest: Manifest, gate: InputGate, base: Row) -> Iterator[Odd]:
    """Every odd request, made of a row that scores well: each has one thing that is changed."""
    ranged = [f for f in manifest.inputs if f.name in gate.columns]
    fields = [*ranged, *(f for f in manifest.inputs if f.name not in gate.columns)][:FIELDS]
    for field in fields:
        for what, value, inside in _values(field, gate.columns.get(field.name)):
            yield Odd(field.name, what, body(manifest, {**base, field.name: value}), inside)
        without = {name: value for name, value in base.items() if name != field.name}
        yield Odd(field.name, "left out", body(manifest, without))
    whole = body(manifest, base)
    yield Odd("", "every value missing", body(manifest, dict.fromkeys(base)))
    yield Odd("", "cut off in the middle", whole[: len(whole) // 2])
    yield Odd("", "without any row", b'{"inputs": []}')
    yield Odd("", "with an input that nobody knows", _with_unknown(whole))


def _values(field: Field, span: tuple[float, float] | None) -> Iterator[tuple[str, Any, bool]]:
    """Values of one field: what they are, themselves, whether they must be scored."""
    yield "missing", None, False
    if field.datatype == "BYTES":
        yield "empty", "", False
        yield "a text that was never seen", "\N{SNOWMAN} never seen", False
        yield f"a text of {LONG:,} letters", "x" * LONG, False
        return
    if field.datatype == "BOOL":
        yield "a text instead of a truth value", "never", False
        return
    if span is not None:
        yield from _around(field, *span)
    huge = {"INT64": 2**62, "FP32": 3e38}.get(field.datatype, 1e300)
    yield "huge", huge, False
    yield "hugely negative", -huge, False
    yield "not a number", math.nan, False
    yield "infinite", math.inf, False
    yield "a text instead of a number", "never", False


def _around(field: Field, low: float, high: float) -> Iterator[tuple[str, Any, bool]]:
    """The ends of a range, and as far beyond them as it is wide."""
    width = high - low
    ends: tuple[Any, ...] = (low, high, low - width, high + width)
    if field.datatype == "INT64":
        ends = (math.ceil(low), math.floor(high), math.floor(low - width), math.ceil(high + width))
    words = ("at its low end", "at its high end", "below its range", "above its range")
    yield from zip(words, ends, (True, True, False, False), strict=True)


def _with_unknown(whole: bytes) -> bytes:
    request = json.loads(whole)
    request["inputs"].append({"name": "nobody-knows", "shape": [1], "datatype": "FP64", "data": [1.0]})
    return json.dumps(request).encode()
