"""Any server of the Open Inference Protocol v2 that names its model in the path: MLServer, other gateways.

Tensors have the shape [n, 1]: servers that batch by themselves join requests along the first axis, and take the second
for the value's own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mainspring.wire.dialects.base import EXPECTED, column, named, numbers, post
from mainspring.wire.dialects.canonical import Column, Garbage, Rows, Served, encode

_NUMBERS = frozenset(
    ("FP64", "FP32", "FP16", "BF16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
)


class _Tensor(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct, gc=False):
    outputs: list[_Tensor]


_answer = msgspec.json.Decoder(_Answer).decode
_list = msgspec.json.Decoder(list[Any]).decode


class Oip:
    """The protocol as it is written: null stays null."""

    def line(self, served: Served) -> bytes:
        """The model by its name."""
        return post(f"/v2/models/{named(served.model)}/infer")

    def body(self, served: Served, rows: Rows) -> bytes:
        """The request's tensors, with the data as they came."""
        tensors = b",".join(
            b'{"name":%b,"datatype":"%b","shape":[%d,1],"data":%b}'
            % (encode(column.name), datatype.encode(), rows.count, data)
            for column in rows.columns
            for datatype, data in [self.data(column)]
        )
        wanted = b',"outputs":[{"name":%b}]' % encode(served.output) if served.output else b""
        return b'{"id":%b,"inputs":[%b]%b}' % (encode(rows.id), tensors, wanted)

    def data(self, column: Column) -> tuple[str, bytes]:
        """The datatype and the data of one tensor."""
        return column.datatype, column.raw

    def scores(self, served: Served, body: bytes, count: int) -> list[float]:
        """The output by its name, or the last one of numbers: of each row the last column."""
        try:
            outputs = _answer(body).outputs
        except EXPECTED:
            raise Garbage("the replica's answer is not of the Open Inference Protocol") from None
        there = [one for one in outputs if one.name == served.output] or [
            one for one in outputs if one.datatype in _NUMBERS
        ]
        if not there:
            raise Garbage("the replica's answer has no output of numbers")
        return _scores(there[-1], count)


def _scores(output: _Tensor, count: int) -> list[float]:
    shape = output.shape
    width = shape[1] if len(shape) == 2 else 1
    if len(shape) not in (1, 2) or shape[0] != count or width < 1 or output.datatype not in _NUMBERS:
        raise Garbage(f"the replica answered {output.datatype:.20} of shape {str(shape)[:60]} for {count} rows")
    flat = numbers(output.data)
    if flat is not None:
        if len(flat) != count * width:
            raise Garbage(f"the replica answered {len(flat)} values for the shape {shape}")
        return flat if width == 1 else flat[width - 1 :: width]
    try:
        rows = _list(output.data)
    except EXPECTED:
        raise Garbage("the replica's answer has no data that are JSON") from None
    return column(rows, output.name, count)
