"""The lines of the gateway's record files, as they are read: the fields of `facts.records`, some of them left raw.

Who calls it: `segments.py`. What it must never do: need a field that an older gateway did not write.
"""

from __future__ import annotations

import msgspec


class Prediction(msgspec.Struct, tag_field="k", tag="p", gc=False):
    """An answer, or a failure."""

    endpoint: str
    id: str
    at: float
    revision: str
    version: str
    role: str
    status: int
    seconds: float
    upstream: float
    compute: float
    tries: int
    first: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    end: str = ""
    inputs: msgspec.Raw = msgspec.Raw(b"null")
    outputs: msgspec.Raw = msgspec.Raw(b"null")
    owes: str = ""
    error: str = ""
    n: int = 0
    tenant: str = ""
    key: str = ""
    prefill: float = 0.0
    decode: float = 0.0
    estimated: bool = False
    real: float = 0.0
    replica: str = ""
    region: str = ""
    unit: str = ""
    asked: int = 0
    failed: str = ""


class Begun(msgspec.Struct, tag_field="k", tag="b", gc=False):
    """A request on its way."""

    endpoint: str
    n: int
    at: float
    revision: str
    tenant: str = ""
    key: str = ""
    prompt_tokens: int = 0


class Written(msgspec.Struct, tag_field="k", tag="w", gc=False):
    """A worker's word of what has ended."""

    endpoint: str
    at: float
    copies: float = 0.0


class Truth(msgspec.Struct, tag_field="k", tag="t", gc=False):
    """An outcome, or feedback."""

    endpoint: str
    id: str
    at: float
    truth: dict[str, float | bool] = {}


Record = Prediction | Truth | Begun | Written

_decoder = msgspec.json.Decoder(Record)
line_of = _decoder.decode
lines_of = _decoder.decode_lines
