"""JSON of TensorFlow Serving's REST API: requests to columns, scores to answers, as its published API has them.

What this is: pure. Who calls it: `tfserving_server`. What it must never do: be kinder than the server is (it takes no
null, no whole number with a point where an integer is asked for, no input that is missing).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mainspring.artefacts.manifest import Field

DEFAULT = "serving_default"
_TYPES = {"BOOL": "DT_BOOL", "INT64": "DT_INT64", "FP64": "DT_DOUBLE", "FP32": "DT_FLOAT", "BYTES": "DT_STRING"}
_SHOWN = {"DT_BOOL": "bool", "DT_INT64": "int64", "DT_DOUBLE": "double", "DT_FLOAT": "float", "DT_STRING": "string"}


class BadRequest(Exception):
    """The request is not one; the message is what the server says."""


def dtype(field: Field) -> str:
    """The tensor type of a field; only floating point has something that stands for a missing value: NaN."""
    return _TYPES[field.datatype]


def read(body: bytes, fields: Sequence[Field]) -> tuple[bool, dict[str, list[Any]]]:
    """Whether a predict request is in rows, and its columns by name. Raises `BadRequest`.

    >>> read(b'{"instances": [1.0, NaN]}', [Field("x", "FP64")])
    (True, {'x': [1.0, nan]})
    """
    document = _parsed(body)
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise BadRequest("'signature_name' key must be a string value.")
    if signature not in ("", DEFAULT):
        raise BadRequest(f'Serving signature name: "{signature}" not found in signature def')
    if "instances" in document and "inputs" in document:
        raise BadRequest("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in document:
        return True, _rows(document["instances"], fields)
    if "inputs" in document:
        return False, _columns(document["inputs"], fields)
    raise BadRequest("Missing 'inputs' or 'instances' key")


def answer(scores: Sequence[float], *, in_rows: bool) -> bytes:
    """The body of an answer with one output, whose name is left out then."""
    told = [float(score) for score in scores]
    return json.dumps({"predictions" if in_rows else "outputs": told}, indent=4).encode()


def _parsed(body: bytes) -> dict[str, Any]:
    if not body:
        raise BadRequest("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", 0)
        raise BadRequest(f"JSON Parse error: Invalid value. at offset: {at}") from error
    if not isinstance(document, dict):
        raise BadRequest(f"JSON Value: {_shown(document)} Is not object")
    return document


def _rows(instances: object, fields: Sequence[Field]) -> dict[str, list[Any]]:
    if not isinstance(instances, list):
        raise BadRequest("Excepting 'instances' to be an list/array")  # its own spelling
    if not instances:
        raise BadRequest("No values in 'instances' array")
    names = {field.name for field in fields}
    if not isinstance(instances[0], dict):
        if len(fields) > 1:
            raise BadRequest(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            )
        return _columns(instances, fields)
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, row in enumerate(instances):
        if not isinstance(row, dict):
            raise BadRequest(f"Expecting object but got list at item {number} of input list")
        if set(row) != names:
            wanted = ",".join(sorted(names))
            raise BadRequest(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(row)} "
                f"keys must be equal to: {wanted}"
            )
        for field in fields:
            try:
                columns[field.name].append(_value(_leaf(row[field.name]), field))
            except BadRequest as error:
                raise BadRequest(
                    f"Failed to process element: {number} key: {field.name} of 'instances' list. Error: "
                    f"INVALID_ARGUMENT: {error}"
                ) from error
    return columns


def _columns(inputs: object, fields: Sequence[Field]) -> dict[str, list[Any]]:
    if not isinstance(inputs, dict):
        if len(fields) > 1:
            raise BadRequest(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        inputs = {fields[0].name: inputs}
    columns = {}
    for field in fields:
        if field.name not in inputs:
            raise BadRequest(f"Missing named input: {field.name} in 'inputs' object.")
        given = inputs[field.name]
        values = given if isinstance(given, list) else [given]
        columns[field.name] = [_value(_leaf(value), field) for value in values]
    sizes = {len(values) for values in columns.values()}
    if len(sizes) != 1 or not min(sizes):
        raise BadRequest(f"input tensors have different or empty 0-th dimensions: {sorted(sizes)}")
    return columns


def _leaf(value: object) -> object:
    """A value of a tensor of shape [n], or of [n, 1]."""
    if isinstance(value, list):
        if len(value) != 1 or isinstance(value[0], list):
            raise BadRequest(f"Encountered list at unexpected size: {len(value)} at level: 1 expected size: 1")
        return value[0]
    return value


def _value(value: object, field: Field) -> Any:
    wanted = dtype(field)
    if wanted == "DT_STRING":
        if isinstance(value, dict) and list(value) == ["b64"]:
            return _unpacked(value["b64"])
        fits = isinstance(value, str)
    elif wanted == "DT_BOOL":
        fits = isinstance(value, bool)
    elif wanted == "DT_INT64":
        fits = type(value) is int and -(2**63) <= value < 2**63
    else:
        fits = type(value) in (int, float)
        if type(value) is int and abs(value) > 2**53 - 1:
            raise BadRequest(f"Cannot convert JSON value: {value} to {_SHOWN[wanted]} without loss of precision.")
    if not fits:
        kind = {bool: str(value), str: "String", dict: "Object", type(None): "Null"}.get(type(value), "Number")
        raise BadRequest(f"JSON Value: {_shown(value)} Type: {kind} is not of expected type: {_SHOWN[wanted]}")
    return None if isinstance(value, float) and math.isnan(value) else value


def _unpacked(packed: object) -> str:
    try:
        return base64.b64decode(str(packed), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise BadRequest("Unable to base64 decode") from error


def _shown(value: object) -> str:
    return json.dumps(value)[:200]


def metadata(name: str, version: str, fields: Sequence[Field], output: str) -> Mapping[str, Any]:
    """What `GET /v1/models/NAME/metadata` answers."""

    def tensor(kind: str, label: str) -> dict[str, Any]:
        shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
        return {"dtype": kind, "tensor_shape": shape, "name": f"{DEFAULT}_{label}:0"}

    signature = {
        "inputs": {field.name: tensor(dtype(field), field.name) for field in fields},
        "outputs": {output: tensor("DT_DOUBLE", output)},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {DEFAULT: signature}}},
    }
