"""The few fields of a body that the gateway reads; everything else is forwarded as it came.

Who calls it: the gateway's server, forwarding and mirror. What it must never do: decode a tensor.
"""

from __future__ import annotations

import math
import re
from typing import Any
from urllib.parse import quote_from_bytes

import msgspec

MAX_ID = 256
MAX_FEEDBACK = 10_000
MAX_FIELDS = 16  # of one outcome
MAX_FIELD = 256  # characters of its name
_NOT_JSON = re.compile(rb"(?<![\w\"])(?:NaN|-?Infinity)(?![\w\"])")
_LATEST = 253402300799.0  # the last second of the year 9999
_VISIBLE = "".join(chr(c) for c in range(0x21, 0x7F) if c != 0x25)


class Infer(msgspec.Struct):
    """A request of the Open Inference Protocol, as far as the gateway reads it."""

    inputs: msgspec.Raw
    id: str | None = None
    parameters: Any = None

    def at(self) -> float | None:
        """The event time that the request carries, POSIX seconds; None when it carries none that makes sense."""
        return moment(self.parameters.get("at")) if isinstance(self.parameters, dict) else None


class Answered(msgspec.Struct):
    """An answer, as far as the gateway reads it."""

    outputs: msgspec.Raw


class Told(msgspec.Struct):
    """One outcome that became known."""

    id: str
    truth: dict[str, float | bool]
    at: Any = None

    def fault(self) -> str:
        """What is wrong with it, in words; "" when nothing is."""
        if not 0 < len(self.id) <= MAX_ID:
            return f"an `id` has 1 to {MAX_ID} characters, not {len(self.id)}"
        if not 0 < len(self.truth) <= MAX_FIELDS:
            return f"the outcome of `{self.id:.100}` has {len(self.truth)} fields, and may have 1 to {MAX_FIELDS}"
        for name in self.truth:
            if not 0 < len(name) <= MAX_FIELD:
                return f"a field of `{self.id:.100}` has a name of {len(name)} characters, not of 1 to {MAX_FIELD}"
        if not any(0 <= value <= 1 for value in self.truth.values()):  # others may stand beside it
            name, value = next(iter(self.truth.items()))
            return f"`{name:.40}` of `{self.id:.100}` is `{float(value):g}`, and has to be from 0 to 1"
        return ""


class Feedback(msgspec.Struct):
    """Outcomes that became known."""

    feedback: list[Told]


infer = msgspec.json.Decoder(Infer).decode
answered = msgspec.json.Decoder(Answered).decode
feedback = msgspec.json.Decoder(Feedback).decode


def moment(value: object) -> float | None:
    """A time in POSIX seconds that a calendar knows, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            return None
        if math.isfinite(seconds) and 0 <= seconds <= _LATEST:
            return seconds
    return None


def one_line(raw: msgspec.Raw | bytes) -> msgspec.Raw:
    """The same JSON without line ends, so that it fits into a log line; raises `MsgspecError` on junk."""
    value = bytes(raw)
    if b"\n" in value or b"\r" in value:
        value = msgspec.json.format(value, indent=-1)
    return msgspec.Raw(value)


def header_safe(id: str) -> bytes:
    """An id as a header value: what is not visible ASCII is percent-encoded."""
    if id.isascii() and id.isalnum():
        return id.encode()
    return quote_from_bytes(id.encode("utf-8", "surrogatepass"), safe=_VISIBLE).encode()


def names_nan(body: bytes, error: Exception) -> bool:
    """Whether a body that did not parse has NaN or Infinity as a value."""
    return not isinstance(error, msgspec.ValidationError) and _NOT_JSON.search(body) is not None
