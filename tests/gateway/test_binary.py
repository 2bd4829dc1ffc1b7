"""The binary tensor extension: what goes in binary is what would have gone in JSON, and sizes are never trusted."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.gateway.binary import NotTensors, to_json

TYPES = {"INT8": "<i1", "UINT16": "<u2", "INT32": "<i4", "INT64": "<i8", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4",
         "FP64": "<f8"}  # fmt: skip


def packed(said: dict[str, Any], *data: bytes) -> tuple[bytes, bytes]:
    head = json.dumps(said).encode()
    return head + b"".join(data), str(len(head)).encode()


def tensor(name: str, datatype: str, count: int, size: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [count], "parameters": {"binary_data_size": size}} | more


@given(st.sampled_from(sorted(TYPES)), st.lists(st.integers(-100, 100), max_size=20))
def test_numbers(datatype: str, values: list[int]) -> None:
    """Numbers of each type come out as they went in."""
    array = np.abs(np.array(values)).astype(TYPES[datatype])
    data = array.tobytes()
    body, header = packed({"id": "a", "inputs": [tensor("x", datatype, len(array), len(data))]}, data)
    said = json.loads(to_json(body, header))
    assert said["inputs"] == [{"name": "x", "datatype": datatype, "shape": [len(array)], "data": array.tolist()}]
    assert said["id"] == "a"


@given(st.lists(st.text(max_size=10), max_size=8), st.lists(st.booleans(), max_size=8))
def test_texts_and_booleans(texts: list[str], flags: list[bool]) -> None:
    """BYTES and BOOL, several tensors in a row, and one that is in JSON already."""
    words = b"".join(struct.pack("<I", len(t.encode())) + t.encode() for t in texts)
    bits = bytes(flags)
    plain = {"name": "z", "datatype": "INT64", "shape": [1], "data": [7]}
    inputs = [tensor("x", "BYTES", len(texts), len(words)), plain, tensor("y", "BOOL", len(flags), len(bits))]
    said = json.loads(to_json(*packed({"inputs": inputs}, words, bits)))
    assert [one["data"] for one in said["inputs"]] == [texts, [7], flags]


def test_missing_values() -> None:
    """NaN is a missing value, which JSON writes as null; Infinity has no such word and is refused."""
    data = np.array([1.5, float("nan")]).tobytes()
    said = json.loads(to_json(*packed({"inputs": [tensor("x", "FP64", 2, 16)]}, data)))
    assert said["inputs"][0]["data"] == [1.5, None]
    with pytest.raises(NotTensors, match="Infinity"):
        to_json(*packed({"inputs": [tensor("x", "FP64", 1, 8)]}, np.array([np.inf]).tobytes()))


@pytest.mark.parametrize(
    ("said", "data"),
    [
        ({"inputs": [tensor("x", "FP64", 1, 9)]}, b"12345678"),
        ({"inputs": [tensor("x", "FP64", 2, 8)]}, b"12345678"),
        ({"inputs": [tensor("x", "FP64", 1, 8)]}, b"123456789"),
        ({"inputs": [tensor("x", "FP64", 1, -1)]}, b""),
        ({"inputs": [tensor("x", "FP64", 1, True)]}, b"1"),
        ({"inputs": [tensor("x", "BF16", 1, 2)]}, b"12"),
        ({"inputs": [tensor("x", "BYTES", 1, 8)]}, b"\xff\xff\xff\xff1234"),
        ({"inputs": [tensor("x", "BYTES", 1, 2)]}, b"\x01\x00"),
        ({"inputs": [tensor("x", "BYTES", 2, 5)]}, b"\x01\x00\x00\x00a"),
        ({"inputs": [tensor("x", "BYTES", 1, 5)]}, b"\x01\x00\x00\x00\xff"),
        ({"inputs": [tensor("x", "BOOL", 10**9, 8)]}, b"12345678"),
        ({"inputs": [tensor("x", "BOOL", 8, 8, shape=[10**6, 10**6])]}, b"12345678"),
        ({"inputs": [tensor("x", "BOOL", 8, 8, shape="8")]}, b"12345678"),
        ({"inputs": [tensor("x", "BOOL", 8, 8, data=[1])]}, b"12345678"),
        ({"inputs": 5}, b""),
        ({"inputs": [5]}, b""),
    ],
)
def test_what_is_refused(said: dict[str, Any], data: bytes) -> None:
    """Sizes that are not true, types that are unknown, and tensors that are none."""
    with pytest.raises(NotTensors):
        to_json(*packed(said, data))


@given(st.binary(max_size=200), st.binary(max_size=6) | st.integers(0, 300).map(lambda n: str(n).encode()))
def test_anything(body: bytes, header: bytes) -> None:
    """Whatever comes, it is either a request or refused with a word."""
    try:
        assert isinstance(json.loads(to_json(body, header)), dict)
    except NotTensors as error:
        assert str(error)
