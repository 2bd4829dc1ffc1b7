"""The binary tensor extension of the Open Inference Protocol, turned into its JSON form at the door.

What this is: one pure function, so that the log, the mirror and the replicas know one format. Who calls it: the door.
What it must never do: trust a size that a request names.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np

MAX_ELEMENTS = 1_000_000
_TYPES = {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class NotTensors(Exception):
    """The body is not what its header says; the message is for the client."""


def to_json(body: bytes, header: bytes) -> bytes:
    """The request as JSON; `header` is the value of `Inference-Header-Content-Length`. Raises `NotTensors`."""
    if not header.isdigit() or len(header) > 10 or int(header) > len(body):
        raise NotTensors("`Inference-Header-Content-Length` is a number of bytes within the body")
    length = int(header)
    try:
        said = _decode(body[:length])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise NotTensors(f"the JSON part is not a request of the Open Inference Protocol: {error}") from None
    inputs = said.get("inputs")
    if not isinstance(inputs, list):
        raise NotTensors("`inputs` is a list")
    rest = memoryview(body)[length:]
    left = MAX_ELEMENTS
    for tensor in inputs:
        if not isinstance(tensor, dict):
            raise NotTensors("each of `inputs` is an object")
        parameters = tensor.get("parameters")
        size = parameters.pop("binary_data_size", None) if isinstance(parameters, dict) else None
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
            raise NotTensors("`binary_data_size` is a number of bytes that the body has")
        if "data" in tensor:
            raise NotTensors("an input has `data` or `binary_data_size`, not both")
        count = _count(tensor.get("shape"))
        left -= count
        if left < 0:
            raise NotTensors(f"more than {MAX_ELEMENTS} elements")
        tensor["data"] = _values(tensor.get("datatype"), count, rest[:size])
        rest = rest[size:]
        if not parameters:
            del tensor["parameters"]
    if len(rest):
        raise NotTensors(f"{len(rest)} bytes follow that belong to no input")
    return _encode(said)


def _count(shape: object) -> int:
    """How many elements a shape has."""
    if not isinstance(shape, list) or not shape or len(shape) > 8:
        raise NotTensors("`shape` is a list of one to eight numbers")
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_ELEMENTS for n in shape):
        raise NotTensors(f"`shape` has numbers from 0 to {MAX_ELEMENTS}")
    return math.prod(shape)


def _values(datatype: object, count: int, data: memoryview) -> list[Any]:
    """The elements of one tensor."""
    if datatype == "BYTES":
        return _texts(count, data)
    kind = _TYPES.get(datatype) if isinstance(datatype, str) else None
    if kind is None:
        raise NotTensors(f"binary data of datatype `{datatype!s:.40}` are not taken")
    found = np.dtype(kind)
    if count * found.itemsize != len(data):
        raise NotTensors(f"{count} elements of {datatype} are {count * found.itemsize} bytes, not {len(data)}")
    if datatype == "BOOL":
        return [byte != 0 for byte in data]
    array = np.frombuffer(data, dtype=found)
    if found.kind != "f":
        return list(array.tolist())
    if np.isinf(array).any():
        raise NotTensors("Infinity is not JSON: leave the value out or send NaN for a missing one")
    # JSON has no NaN; a missing value is `null` there.
    return [None if value != value else value for value in array.tolist()]  # noqa: PLR0124 - what NaN is known by


def _texts(count: int, data: memoryview) -> list[str]:
    """Elements of BYTES: each with its length before it, in four bytes, the lowest first."""
    found: list[str] = []
    at = 0
    while at < len(data):
        if len(data) - at < 4:
            raise NotTensors("a tensor of BYTES ends within a length")
        (size,) = struct.unpack_from("<I", data, at)
        at += 4
        if size > len(data) - at or len(found) >= count:
            raise NotTensors("a tensor of BYTES has other elements than its shape says")
        try:
            found.append(bytes(data[at : at + size]).decode())
        except UnicodeDecodeError:
            raise NotTensors("an element of BYTES is not UTF-8, and JSON has no other text") from None
        at += size
    if len(found) != count:
        raise NotTensors(f"a tensor of BYTES has {len(found)} elements where its shape says {count}")
    return found
