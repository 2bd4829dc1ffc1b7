"""The Open Inference Protocol v2 as this replica speaks it: requests to columns, scores to answers.

Who calls it: the replica's server. What it must never do: run the model, or let a value through that
the manifest does not allow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from mainspring.artefacts.manifest import Field, Manifest

MAX_ID = 256
_NOT_JSON = re.compile(rb"(?<![\w\"])(?:NaN|-?Infinity)(?![\w\"])")
_KINDS: dict[str, tuple[type, ...]] = {
    "BOOL": (bool,),
    "INT64": (int,),
    "FP64": (float, int),
    "FP32": (float, int),
    "BYTES": (str,),
}
_FP32_MAX = 3.4028234663852886e38


class BadRequest(Exception):
    """The request cannot be answered as it is; the message says why."""


class Tensor(msgspec.Struct):
    """One input: all rows of one field."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Wanted(msgspec.Struct):
    """One output that the request asks for."""

    name: str


class Infer(msgspec.Struct):
    """A request."""

    inputs: list[Tensor]
    id: str | None = None
    outputs: list[Wanted] | None = None


class Output(msgspec.Struct):
    """One output: all rows of the score."""

    name: str
    shape: tuple[int]
    datatype: str
    data: list[float]


class Answer(msgspec.Struct):
    """An answer."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[Output]


_decode = msgspec.json.Decoder(Infer).decode
_encode = msgspec.json.Encoder().encode


def answer(model: str, version: str, id: str, output: str, scores: list[float]) -> bytes:
    """The body of an answer."""
    return _encode(Answer(model, version, id, (Output(output, (len(scores),), "FP64", scores),)))


class Reader:
    """Reads requests for one manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._fields = {field.name: field for field in manifest.inputs}
        self._output = manifest.output

    def read(self, body: bytes) -> tuple[str | None, int, dict[str, list[Any]]]:
        """The request's id, its number of rows, and its columns by name; raises `BadRequest`."""
        request = self._parsed(body)
        if request.id is not None and len(request.id) > MAX_ID:
            raise BadRequest(f"`id` has more than {MAX_ID} characters")
        for wanted in request.outputs or ():
            if wanted.name != self._output:
                raise BadRequest(f"there is no output `{wanted.name:.100}`; there is `{self._output}`")
        columns: dict[str, list[Any]] = {}
        rows = -1
        for tensor in request.inputs:
            field = self._fields.get(tensor.name)
            if field is None:
                raise BadRequest(f"there is no input `{tensor.name:.100}`; there are {self._names()}")
            if tensor.name in columns:
                raise BadRequest(f"the input `{tensor.name}` is given twice")
            if tensor.datatype != field.datatype:
                raise BadRequest(f"the input `{field.name}` is {field.datatype}, not `{tensor.datatype:.100}`")
            columns[tensor.name] = values = _values(tensor, field)
            if rows >= 0 and len(values) != rows:
                raise BadRequest(f"the input `{tensor.name}` has {len(values)} rows, another has {rows}")
            rows = len(values)
        if len(columns) != len(self._fields):
            missing = ", ".join(f"`{name}`" for name in self._fields if name not in columns)
            raise BadRequest(f"these inputs are missing: {missing}")
        if rows < 1:
            raise BadRequest("there are no rows")
        return request.id, rows, columns

    def _parsed(self, body: bytes) -> Infer:
        try:
            return _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            found = None if isinstance(error, msgspec.ValidationError) else _NOT_JSON.search(body)
            if found:
                said = found[0].decode()
                raise BadRequest(f"`{said}` is not JSON: write `null` for a missing value") from None
            raise BadRequest(f"not a request of the Open Inference Protocol: {error}") from None

    def _names(self) -> str:
        return ", ".join(f"`{name}`" for name in self._fields)


def _values(tensor: Tensor, field: Field) -> list[Any]:
    """The tensor's rows, flat and checked."""
    shape, data = tensor.shape, tensor.data
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise BadRequest(f"the input `{field.name}` has shape {shape}; it is [n] or [n, 1]")
    if len(shape) == 2 and data and type(data[0]) is list:
        if not all(type(row) is list and len(row) == 1 for row in data):
            raise BadRequest(f"the input `{field.name}` has data that does not fit its shape {shape}")
        data = [row[0] for row in data]
    if len(data) != shape[0]:
        raise BadRequest(f"the input `{field.name}` has {len(data)} values, its shape says {shape[0]}")
    check_values(data, field)
    return data


def check_values(data: Sequence[Any], field: Field) -> None:
    """Raises `BadRequest` where a value is not what the field takes."""
    kinds, datatype = _KINDS[field.datatype], field.datatype
    for value in data:
        if value is None:
            if not field.nullable:
                raise BadRequest(f"the input `{field.name}` must not be null")
        elif type(value) not in kinds:
            raise BadRequest(f"the input `{field.name}` has the value `{value!r:.60}`, which is not {datatype}")
        elif datatype == "INT64":
            if not -(2**63) <= value < 2**63:
                raise BadRequest(f"the input `{field.name}` has the value `{value}`, which does not fit {datatype}")
        elif datatype == "FP32":
            if abs(value) > _FP32_MAX:
                raise BadRequest(
                    f"the input `{field.name}` has the value `{value!r:.60}`, which does not fit {datatype}"
                )
        elif type(value) is int and datatype == "FP64" and abs(value) > 2**1023:
            raise BadRequest(f"the input `{field.name}` has a number that does not fit {datatype}")


def are_numbers(scores: Sequence[float]) -> bool:
    """Whether each score is finite: what an answer may carry."""
    return all(map(math.isfinite, scores))
