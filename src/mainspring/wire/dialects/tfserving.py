"""TensorFlow Serving's REST API, as a server that is asked: columns in, columns or rows out.

A tensor has the shape [n, 1], as models of one value a field are exported. Its JSON takes the word NaN for a missing
float; there is no missing text, integer or truth value in TensorFlow, so a request with one is refused, in words.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainspring.wire.dialects.base import EXPECTED, column, named, parsed, post, with_nan
from mainspring.wire.dialects.canonical import Column, Garbage, NotAsked, Rows, Served, encode

_FLOATS = frozenset(("FP64", "FP32", "FP16"))


class _Outputs(msgspec.Struct, gc=False):
    outputs: list[list[float]]


_outputs = msgspec.json.Decoder(_Outputs).decode


class TfServing:
    """Columnar requests to the signature `serving_default`."""

    def line(self, served: Served) -> bytes:
        """The model by its name; its server has one version of it."""
        return post(f"/v1/models/{named(served.model)}:predict")

    def body(self, served: Served, rows: Rows) -> bytes:  # noqa: ARG002 - the dialect's shape
        """All columns, by name."""
        columns = b",".join(b"%b:%b" % (encode(one.name), _data(one)) for one in rows.columns)
        return b'{"signature_name":"serving_default","inputs":{%b}}' % columns

    def scores(self, served: Served, body: bytes, count: int) -> list[float]:
        """`outputs` (columns) or `predictions` (rows); of several outputs the one that the model is known to have."""
        quick = _quick(body, count)
        if quick is not None:
            return quick
        found = parsed(body)
        if not isinstance(found, dict):
            raise Garbage("the replica's answer is no object")
        if "predictions" in found:
            return column(found["predictions"], served.output, count)
        outputs: Any = found.get("outputs")
        if isinstance(outputs, dict):
            if served.output not in outputs and len(outputs) != 1:
                raise Garbage(f"the replica's answer has no output `{served.output}`")
            outputs = outputs[served.output] if served.output in outputs else next(iter(outputs.values()))
        return column(outputs, served.output, count)


def _data(one: Column) -> bytes:
    """A column of shape [n, 1]."""
    if one.datatype == "BYTES" and None not in one.values:
        return encode([[value] for value in one.values])
    if one.datatype not in _FLOATS and None in one.values:
        what = "text" if one.datatype == "BYTES" else one.datatype
        raise NotAsked(f"the input `{one.name:.100}` is null, and TensorFlow has no missing {what}: give a value")
    return b"[%b]" % with_nan(one).replace(b",", b"],[")


def _quick(body: bytes, count: int) -> list[float] | None:
    """The numbers of the one output of shape [n, k], which is what most answers are; None for all others."""
    try:
        found = _outputs(body).outputs
    except EXPECTED:
        return None
    return [row[-1] for row in found] if len(found) == count and all(found) else None
