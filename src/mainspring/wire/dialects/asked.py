"""What clients ask in other protocols than the Open Inference Protocol, as columns of one model's fields.

Who calls it: the readers of those protocols (`tfserving_client`, `torchserve_client`). Pure. What it must never do:
make up a value that was not sent.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import msgspec

from mainspring.wire.dialects.base import EXPECTED
from mainspring.wire.dialects.canonical import Garbage, NotAsked, Served, inputs

MOST = 1_000_000  # values in one request
_decode = msgspec.json.Decoder().decode


class Asked(msgspec.Struct, gc=False):
    """A request that was understood."""

    inputs: bytes  # as the Open Inference Protocol has them
    form: str  # how it was asked, for the answer's shape


class _Output(msgspec.Struct, gc=False):
    data: list[float]


class _Answer(msgspec.Struct, gc=False):
    outputs: list[_Output]


class _Error(msgspec.Struct, gc=False):
    error: str = "it failed without saying why"


_answer = msgspec.json.Decoder(_Answer).decode
_error = msgspec.json.Decoder(_Error).decode


def document(body: bytes) -> Any:
    """A request's JSON; raises `NotAsked`."""
    try:
        return _decode(body)
    except EXPECTED as error:
        raise NotAsked(f"the body is not JSON (of a missing value, write `null`): {error}") from None


def scores(body: bytes) -> list[float]:
    """The numbers in a canonical answer; raises `Garbage`."""
    try:
        return _answer(body).outputs[0].data
    except (*EXPECTED, IndexError):
        raise Garbage("the replica's answer is not of the Open Inference Protocol") from None


def message(body: bytes) -> str:
    """The words of a canonical error."""
    try:
        return _error(body).error
    except EXPECTED:
        return body[:2000].decode(errors="replace")


def from_columns(served: Served, columns: dict[str, Any]) -> bytes:
    """The canonical inputs, of a list of values for each field."""
    known = dict(served.inputs)
    _check_names(known, columns)
    found: dict[str, tuple[str, list[Any]]] = {}
    for name, values in columns.items():
        if not isinstance(values, list):
            raise NotAsked(f"the input `{name:.100}` is a list, with a value for each row")
        flat = [_plain(name, value) for value in values]
        datatype = known.get(name) or _guess(name, flat)
        found[name] = (datatype, _whole(flat) if datatype.startswith(("INT", "UINT")) else flat)
    if sum(len(values) for _, values in found.values()) > MOST:
        raise NotAsked(f"more than {MOST} values")
    return inputs(found)


def from_rows(served: Served, rows: Sequence[Any]) -> bytes:
    """The canonical inputs, of rows: objects by name, lists in the order of the model's inputs, or single values."""
    if not rows:
        raise NotAsked("there are no rows")
    if all(isinstance(row, dict) for row in rows):
        names = dict(served.inputs) or rows[0]
        _check_rows(names, rows)
        return from_columns(served, {name: [row[name] for row in rows] for name in names})
    names = [name for name, _ in served.inputs]
    if not names:
        raise NotAsked("the order of the model's inputs is not known here: send rows as objects")
    if len(names) == 1 and not any(isinstance(row, list) and len(row) != 1 for row in rows):
        return from_columns(served, {names[0]: list(rows)})
    shown = ", ".join(f"`{name}`" for name in names)
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise NotAsked(f"row {number} is not a list of {len(names)} values, in this order: {shown}")
    return from_columns(served, {name: [row[i] for row in rows] for i, name in enumerate(names)})


def _check_names(known: dict[str, str], given: dict[str, Any]) -> None:
    if not given:
        raise NotAsked("there are no inputs")
    for name in given if known else ():
        if name not in known:
            there = ", ".join(f"`{one}`" for one in known)
            raise NotAsked(f"there is no input `{name:.100}`; there are {there}")
    missing = [name for name in known if name not in given]
    if missing:
        raise NotAsked(f"these inputs are missing: {', '.join(f'`{name}`' for name in missing)}")


def _check_rows(names: Any, rows: Sequence[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        for name in names:
            if name not in row:
                raise NotAsked(f"row {number} lacks the input `{name:.100}` (of a missing value, write `null`)")
        if len(row) != len(names):
            extra = next(name for name in row if name not in names)
            there = ", ".join(f"`{one:.100}`" for one in names)
            raise NotAsked(f"there is no input `{extra:.100}` in row {number}; there are {there}")


def _plain(name: str, value: Any) -> Any:
    """One value: itself, the only one of a list, or text in base64 as TensorFlow Serving has it."""
    if isinstance(value, list):
        if len(value) != 1 or isinstance(value[0], list):
            raise NotAsked(f"the input `{name:.100}` has one value in each row, and `{str(value)[:60]}` is none")
        value = value[0]
    if not isinstance(value, dict):
        return value
    try:
        if set(value) == {"b64"} and isinstance(value["b64"], str):
            return base64.b64decode(value["b64"], validate=True).decode()
    except (binascii.Error, ValueError):
        pass
    raise NotAsked(f"the input `{name:.100}` has one value in each row, and `{str(value)[:60]}` is none")


def _guess(name: str, values: list[Any]) -> str:
    """The datatype of values whose field is not known."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {str}:
        return "BYTES"
    if kinds <= {int, float}:
        return "FP64"
    raise NotAsked(f"the input `{name:.100}` has values of several kinds")


def _whole(values: list[Any]) -> list[Any]:
    """Integers, of which some clients write `5.0`."""
    return [int(value) if type(value) is float and value.is_integer() else value for value in values]
