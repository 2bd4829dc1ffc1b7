"""TensorFlow Serving's REST API, as clients ask it: `:predict` in its row and its column format, status and metadata.

Who calls it: the gateway's door for it. Pure. What it must never do: name a thing of TensorFlow that is not there, such
as a second signature.
"""

from __future__ import annotations

from typing import Any

from mainspring.wire.dialects import asked
from mainspring.wire.dialects.asked import Asked, document, from_columns, from_rows
from mainspring.wire.dialects.canonical import NotAsked, Served, encode

SIGNATURE = "serving_default"
_DTYPES = {
    "BOOL": "DT_BOOL", "BYTES": "DT_STRING", "FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE",
    **{f"{sign}INT{bits}": f"DT_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def read(served: Served, body: bytes) -> Asked:
    """A `:predict` request; raises `NotAsked`."""
    said = document(body)
    if not isinstance(said, dict):
        raise NotAsked("the body is an object with `instances` or `inputs`")
    signature = said.get("signature_name")
    if signature not in (None, "", SIGNATURE):
        raise NotAsked(f"there is no signature `{signature!s:.100}`; there is `{SIGNATURE}`")
    if ("instances" in said) == ("inputs" in said):
        raise NotAsked("the body has `instances` (a list of rows) or `inputs` (columns), and one of them only")
    if "instances" in said:
        rows = said["instances"]
        if not isinstance(rows, list):
            raise NotAsked("`instances` is a list of rows")
        return Asked(from_rows(served, rows), "rows")
    columns = said["inputs"]
    if not isinstance(columns, dict):
        if len(served.inputs) != 1:
            raise NotAsked("`inputs` is an object with a list of values for each input")
        columns = {served.inputs[0][0]: columns}
    return Asked(from_columns(served, columns), "columns")


def write(form: str, body: bytes) -> bytes:
    """A canonical answer in the format that was asked in; raises `Garbage`. A single output has no name there."""
    return encode({"predictions" if form == "rows" else "outputs": asked.scores(body)})


def error(status: int, message: str) -> bytes:  # noqa: ARG001 - the same shape for each
    """An error's body."""
    return encode({"error": message})


def status(versions: dict[str, bool]) -> bytes:
    """The state of each version: whether a replica is ready."""
    return encode(
        {
            "model_version_status": [
                {
                    "version": version,
                    "state": "AVAILABLE" if ready else "LOADING",
                    "status": {"error_code": "OK", "error_message": ""},
                }
                for version, ready in versions.items()
            ]
        }
    )


def metadata(served: Served) -> bytes:
    """What the model takes and gives, as a signature."""
    inputs = {name: _tensor(name, datatype) for name, datatype in served.inputs}
    output = served.output or "output"
    signature = {
        "inputs": inputs,
        "outputs": {output: _tensor(output, "FP64")},
        "method_name": "tensorflow/serving/predict",
    }
    return encode(
        {
            "model_spec": {"name": served.endpoint, "signature_name": "", "version": served.version},
            "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
        }
    )


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    return {"dtype": _DTYPES.get(datatype, "DT_INVALID"), "tensor_shape": shape, "name": name}
