"""The gateway's record files, read: lines to rows, without ever trusting a line.

What this is: `decode` turns complete lines into rows for the prediction store; `split` cuts what was read at the last
newline. Who calls it: `predictions.py`. What it must never do: raise for a bad line (it is counted and skipped), or
keep a number that is not finite.

A request of several rows (tensors of shape [n] or [n, 1]) becomes n rows with ids `id`, `id#1`, `id#2`, ...; the
truth of `id` belongs to the first. Inputs are kept as one MessagePack list of values in the order of their layout
(the names), which is some eight times smaller than the request.

For metering each line counts, whatever its id (`metered.py`). It counts on the day of the real clock: of `real`, or
of `at` where that lies in the segment's life; a replay's `at` does not, and then it is the day of the last write.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from mainspring.facts.records import FIRST_EDGES
from mainspring.monitoring.lines import Begun, Prediction, Record, Truth, Written, line_of, lines_of

LIVE, MIRROR = 0, 1
OK, REFUSED, FAILED = 0, 1, 2  # rank of an answer: 2xx; the client's own fault (1xx, 3xx, 4xx); nobody's answer or 5xx
_SANE = 1e11  # seconds; an event time or duration beyond is no time
_LONGEST = 1e6  # seconds; a request that claims more is not believed
_MOST_ROWS = 100_000
_MOST_TOKENS = 10**9
_MOST_NUMBER = 2**53
_MOST_SUM = 2**62  # SQLite holds no larger integer of a piece; sums of pieces become floats by themselves
_LONGEST_NAME = 256  # characters; the stack file and the registry allow far fewer
_SLACK = 3600.0  # seconds that a clock may be put back or forward while a segment is written
SPOKEN = ("answers", "prompt", "output", "cached", "drafted", "accepted", "cut")
"""What is counted of a language model's answers, in the order of the columns; the middle five are tokens."""
DAY = 86400.0


class _Tensor(msgspec.Struct, gc=False):
    name: str = ""
    shape: list[int] = []
    datatype: str = ""
    data: Any = None


class _Input(msgspec.Struct, gc=False):  # what is kept of an input: reading less of it is a third faster
    name: str = ""
    data: Any = None


_tensors = msgspec.json.Decoder(list[_Tensor])
_given = msgspec.json.Decoder(list[_Input])
_data_of = attrgetter("data")
_pack = msgspec.msgpack.Encoder().encode

Row = tuple[Any, ...]
"""endpoint, id, role, revision, version, row, at, rank, status, seconds, upstream, compute, tries, score, layout,
inputs, error; and for rollouts: came (when it came first), fate (`FINE` and so on), first (seconds to the first byte
of a stream), asked (tokens that its prompt was reckoned to have), output (tokens), whole, replica, region, unit."""
FINE, FELL, STOOD_IN, TURNED_DOWN, WENT = 0, 1, 2, 3, 4
"""What became of a request at its first try: it did not fail; it failed; another revision had failed it before; a
replica said that it is the client's own fault (not the gateway, which would have said so whatever the revision); its
client left before the answer had begun or ended."""
LEFT = 499
"""The status of a request whose client left before its answer."""
FATE = f"ifnull({{0}}.fate, iif({{0}}.status = {LEFT}, {WENT}, {{0}}.rank = {FAILED}))"
"""The fate of a row of the store, and what is known of it in one of before fates were kept."""
Layout = tuple[str, ...]
Tally = tuple[str, str, int, int]
"""endpoint, revision, role, day."""
Account = tuple[int, str, str, str, str, int]
"""Real day, endpoint, tenant, key, revision, role: what is metered apart."""
METERED = ("requests", "predictions", "errors", "refused", "prompt", "cached", "output", "prefill", "decode",
           "compute", "estimated", "orphans", "lost")  # fmt: skip
"""What is metered, in the order of the columns; prefill, decode and compute in microseconds. Orphans died with their
worker and are no `requests`; `lost` are the tokens of their prompts and are not in `prompt`."""


@dataclass(slots=True)
class Batch:
    """What the lines of one piece of a segment say."""

    rows: list[Row] = field(default_factory=list)
    truths: list[tuple[str, str, float, float]] = field(default_factory=list)  # endpoint, id, at, value
    feedback: list[tuple[str, str, str, float, float]] = field(default_factory=list)  # endpoint, field, id, at, value
    written: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    """By endpoint: what came before then has ended, and its copies; None: of these nothing is said."""
    owed: list[tuple[str, str, str]] = field(default_factory=list)  # endpoint, id, mirror revision
    tallies: dict[Tally, list[int]] = field(default_factory=dict)  # [records, compute in nanoseconds]
    spoken: dict[Tally, list[int]] = field(default_factory=dict)  # as `SPOKEN` names them
    firsts: dict[tuple[str, str, int, int, int], int] = field(default_factory=dict)  # tally and bucket: streams
    metered: dict[Account, list[int]] = field(default_factory=dict)  # as `METERED` names them
    begun: dict[int, tuple[Account, int]] = field(default_factory=dict)  # by `n`: whose, and its prompt tokens
    ended: set[int] = field(default_factory=set)  # `n` of the predictions
    records: int = 0
    bad: int = 0


def split(data: bytes) -> tuple[bytes, int]:
    """Give the complete lines at the start of `data`, and how many bytes they are."""
    end = data.rfind(b"\n") + 1
    return data[:end], end


def decode(lines: bytes, truth_fields: dict[str, str], life: tuple[float, float] | None = None) -> Batch:
    """Read complete lines; a line that is not a record is counted in `bad`.

    `life`: real times, POSIX seconds, at which their segment was begun and last written to; None: not known.
    """
    batch = Batch()
    try:
        records = lines_of(lines)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        records = _one_by_one(lines, batch)
    for record in records:
        if isinstance(record, Prediction):
            _prediction(record, batch, life)
        elif isinstance(record, Begun):
            _begun(record, batch)
        elif isinstance(record, Written):
            _written(record, batch)
        else:
            _truth(record, batch, truth_fields)
    return batch


def _one_by_one(lines: bytes, batch: Batch) -> list[Record]:
    records: list[Record] = []
    for line in lines.split(b"\n"):
        if not line.strip():
            continue
        try:
            records.append(line_of(line))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            batch.bad += 1
    return records


def _truth(record: Truth, batch: Batch, fields: dict[str, str]) -> None:
    name = fields.get(record.endpoint) or min(record.truth, default="")
    good = {one: float(value) for one, value in record.truth.items() if 0 <= value <= 1 and _named(one)}
    if not good or not record.id or not abs(record.at) < _SANE:
        batch.bad += 1
        return
    batch.records += 1
    if good.get(name) in (0.0, 1.0):
        batch.truths.append((record.endpoint, record.id, record.at, good[name]))
    batch.feedback += [(record.endpoint, one, record.id, record.at, value) for one, value in good.items()]


def _written(r: Written, batch: Batch) -> None:
    if not (abs(r.at) < _SANE and abs(r.copies) < _SANE and _named(r.endpoint)):
        batch.bad += 1
        return
    batch.records += 1
    before = batch.written.get(r.endpoint)
    if before is None or (r.at, r.copies) > (before[0], before[1] or 0.0):
        batch.written[r.endpoint] = (r.at, r.copies or None)


def _begun(r: Begun, batch: Batch) -> None:
    named = _named(r.endpoint, r.revision, r.tenant, r.key)
    if not (named and 0 < r.n < _MOST_NUMBER and abs(r.at) < _SANE and 0 <= r.prompt_tokens < _MOST_TOKENS):
        batch.bad += 1
        return
    batch.records += 1
    account = (int(r.at // DAY), r.endpoint, r.tenant, r.key, r.revision, LIVE)
    batch.begun.setdefault(r.n, (account, r.prompt_tokens))


def _named(*names: str) -> bool:
    """Whether names are short enough to be kept for good."""
    return max(map(len, names)) <= _LONGEST_NAME


def _prediction(r: Prediction, batch: Batch, life: tuple[float, float] | None) -> None:
    if not (
        r.id
        and abs(r.at) < _SANE
        and 0.0 <= r.compute < _LONGEST
        and 0.0 <= r.seconds < _LONGEST
        and 0.0 <= r.upstream < _LONGEST
        and 0 <= r.status < 1000
        and 0 <= r.tries < 1000
        and r.role in ("live", "mirror")
        and 0.0 <= r.first < _LONGEST
        and min(r.prompt_tokens, r.output_tokens, r.cached_tokens, r.drafted, r.accepted) >= 0
        and max(r.prompt_tokens, r.output_tokens, r.cached_tokens, r.drafted, r.accepted) < _MOST_TOKENS
        and 0 <= r.n < _MOST_NUMBER
        and 0.0 <= r.prefill < _LONGEST
        and 0.0 <= r.decode < _LONGEST
        and abs(r.real) < _SANE
        and 0 <= r.asked < _MOST_TOKENS
        and _named(r.endpoint, r.revision, r.tenant, r.key, r.replica, r.region, r.unit, r.failed)
    ):
        batch.bad += 1
        return
    batch.records += 1
    role = LIVE if r.role == "live" else MIRROR
    key = (r.endpoint, r.revision, role, int(r.at // DAY))
    tally = batch.tallies.setdefault(key, [0, 0])
    tally[0] += 1
    tally[1] = min(tally[1] + round(r.compute * 1e9), _MOST_SUM)
    if r.prompt_tokens or r.end:
        _spoken(r, key, batch)
    if r.owes:
        batch.owed.append((r.endpoint, r.id, r.owes))
    status = r.status
    rank = OK if 200 <= status < 300 else FAILED if status == 0 or status >= 500 else REFUSED
    scores = _scores(r.outputs) if rank == OK else [None]
    _metered(r, batch, life, role, rank, len(scores))
    layout, inputs = _inputs(r.inputs, len(scores)) if role == LIVE else (None, None)
    fate = _fate(r, rank)
    evidence = (r.at, fate, r.first, r.asked or r.prompt_tokens, r.output_tokens, r.end in ("", "done"), r.replica,
                r.region, r.unit)  # fmt: skip
    for row, score in enumerate(scores):
        first = row == 0
        batch.rows.append(
            (
                r.endpoint,
                r.id if first else f"{r.id}#{row}",
                role,
                r.revision,
                r.version,
                row,
                r.at,
                rank,
                status,
                r.seconds,
                r.upstream,
                r.compute if first else 0.0,
                r.tries,
                score,
                layout,
                inputs[row] if inputs is not None else None,
                r.error,
                *evidence,
            )
        )
    if fate == STOOD_IN and role == LIVE:
        batch.rows.append(_fell(r))


def _fate(r: Prediction, rank: int) -> int:
    if r.failed not in ("", r.revision):
        return STOOD_IN
    # A try that failed tells of a version, though another replica of it has answered: else one with more replicas
    # would fail less often. Older gateways, which name no replica, do not say who failed it: they asked the same one.
    if rank == FAILED or r.failed or (r.tries > 1 and not r.replica and r.role == "live"):
        return FELL
    if r.status == LEFT or r.end == "gone":
        return WENT
    return TURNED_DOWN if rank == REFUSED and r.upstream > 0.0 else FINE


def _fell(r: Prediction) -> Row:
    """What stays against a revision that failed a request which another one then answered. It is metered as one."""
    return (
        r.endpoint, r.id, LIVE, r.failed, "", 0, r.at, FAILED, 0, r.seconds, 0.0, 0.0, 1, None, None, None,
        f"`{r.revision}` answered instead", r.at, FELL, 0.0, r.asked or r.prompt_tokens, 0, False, "", r.region, r.unit,
    )  # fmt: skip


def _metered(r: Prediction, batch: Batch, life: tuple[float, float] | None, role: int, rank: int, rows: int) -> None:
    """Count a line for the one whom it is charged to."""
    at = r.real or r.at
    if life is not None and not r.real and not life[0] - _SLACK <= at <= life[1] + _SLACK:
        at = life[1]
    account = (int(at // DAY), r.endpoint, r.tenant, r.key, r.revision, role)
    sums = batch.metered.get(account)
    if sums is None:
        sums = batch.metered[account] = [0] * len(METERED)
    sums[0] += 1
    sums[1] += rows if rank == OK else 0
    sums[2] += rank == FAILED
    sums[3] += rank == REFUSED
    sums[4] += r.prompt_tokens
    sums[5] += r.cached_tokens
    sums[6] += r.output_tokens
    sums[7] += round(r.prefill * 1e6)
    sums[8] += round(r.decode * 1e6)
    sums[9] += round(r.compute * 1e6)
    sums[10] += r.estimated
    if r.n:
        batch.ended.add(r.n)


def _spoken(r: Prediction, key: Tally, batch: Batch) -> None:
    """Count what a language model said."""
    told = batch.spoken.setdefault(key, [0] * len(SPOKEN))
    cut = r.end in ("cut", "late")
    for i, n in enumerate((1, r.prompt_tokens, r.output_tokens, r.cached_tokens, r.drafted, r.accepted, cut)):
        told[i] += n
    if r.first > 0:
        bucket = (*key, bisect_left(FIRST_EDGES, r.first))
        batch.firsts[bucket] = batch.firsts.get(bucket, 0) + 1


_T = TypeVar("_T")


def _decoded(raw: msgspec.Raw, decoder: msgspec.json.Decoder[list[_T]]) -> list[_T]:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []  # `null`, or nothing that this protocol knows


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        return []
    if any(isinstance(value, list) for value in data):
        return [leaf for value in data for leaf in (_flat(value) if isinstance(value, list) else [value])]
    return data


def _scores(raw: msgspec.Raw) -> list[float | None]:
    """Take the first numeric output; of several columns the last (the positive class) counts."""
    for tensor in _decoded(raw, _tensors):
        data = tensor.data if type(tensor.data) is list and len(tensor.data) == 1 else _flat(tensor.data)
        rows = tensor.shape[0] if tensor.shape else len(data)
        if data and 0 < rows <= _MOST_ROWS and len(data) % rows == 0 and tensor.datatype not in ("BYTES", "BOOL"):
            width = len(data) // rows
            return [_number(value) for value in data[width - 1 :: width]]
    return [None]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _inputs(raw: msgspec.Raw, rows: int) -> tuple[Layout | None, list[bytes] | None]:
    """Pack the inputs of each row; None when they do not come to `rows` rows."""
    tensors = _decoded(raw, _given)
    if not tensors:
        return None, None
    names = tuple([tensor.name for tensor in tensors])
    try:
        values = [value for (value,) in map(_data_of, tensors)]  # one value each: the usual request, and the fast way
        if rows == 1 and list not in set(map(type, values)):
            return names, [_pack(values)]
    except (TypeError, ValueError, OverflowError):
        pass  # another shape, or a number that MessagePack has no room for
    try:
        columns = [_rows_of(_flat(tensor.data), rows) for tensor in tensors]
        packed = [_pack([column[i] for column in columns]) for i in range(rows)]
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return None, None
    return names, packed


def _rows_of(data: list[Any], rows: int) -> list[Any]:
    if len(data) == rows:
        return data
    if rows == 1:
        return [data]
    width = len(data) // rows
    if width == 0 or width * rows != len(data):
        raise ValueError("not a multiple of the rows")
    return [data[i * width : (i + 1) * width] for i in range(rows)]
