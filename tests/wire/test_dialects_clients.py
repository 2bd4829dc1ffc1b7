"""What clients ask in TensorFlow Serving's and TorchServe's words becomes the one form of a request, or is refused."""

from __future__ import annotations

import base64
import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.wire.dialects import Garbage, NotAsked, Served, spoken, tfserving_client, torchserve_client
from mainspring.wire.dialects.asked import Asked, message

FIELDS = (("x", "FP64"), ("n", "INT64"), ("ok", "BOOL"), ("carrier", "BYTES"))
SERVED = Served("delay", "3", "delay-3", FIELDS, "late")
ROWS: list[dict[str, Any]] = [
    {"x": 1.5, "n": 3, "ok": True, "carrier": "UA"},
    {"x": None, "n": -1, "ok": False, "carrier": "ü"},
]
COLUMNS = {name: [row[name] for row in ROWS] for name, _ in FIELDS}
LISTS = [list(row.values()) for row in ROWS]
CANONICAL = [{"name": name, "shape": [2], "datatype": datatype, "data": COLUMNS[name]} for name, datatype in FIELDS]
ANSWER = b'{"model_name":"delay","outputs":[{"name":"late","datatype":"FP64","shape":[2],"data":[0.25,0.5]}]}'


def read(protocol: ModuleType, said: object, served: Served = SERVED) -> Asked:
    """Read a request of a protocol."""
    asked = protocol.read(served, said if isinstance(said, bytes) else json.dumps(said).encode())
    assert isinstance(asked, Asked)
    return asked


@pytest.mark.parametrize(
    ("protocol", "said", "told"),
    [
        (tfserving_client, {"instances": ROWS}, {"predictions": [0.25, 0.5]}),
        (tfserving_client, {"instances": LISTS}, {"predictions": [0.25, 0.5]}),
        (
            tfserving_client,
            {"instances": [{k: [v] for k, v in row.items()} for row in ROWS]},
            {"predictions": [0.25, 0.5]},
        ),
        (tfserving_client, {"inputs": COLUMNS, "signature_name": ""}, {"outputs": [0.25, 0.5]}),
        (torchserve_client, COLUMNS, [0.25, 0.5]),
        (torchserve_client, ROWS, [0.25, 0.5]),
        (torchserve_client, LISTS, [0.25, 0.5]),
        (torchserve_client, {"inputs": COLUMNS}, {"predictions": [0.25, 0.5]}),
        (torchserve_client, {"inputs": ROWS}, {"predictions": [0.25, 0.5]}),
    ],
)
def test_every_form(protocol: ModuleType, said: object, told: object) -> None:
    """Rows and columns are the same request, and the answer has the shape that was asked in."""
    asked = read(protocol, said)
    assert json.loads(asked.inputs) == CANONICAL
    assert json.loads(protocol.write(asked.form, ANSWER)) == told


def test_one_row_is_one_number() -> None:
    """TorchServe's object of single values."""
    asked = read(torchserve_client, ROWS[0])
    assert [one["data"] for one in json.loads(asked.inputs)] == [[value] for value in ROWS[0].values()]
    assert torchserve_client.write(asked.form, ANSWER.replace(b"0.25,0.5", b"0.5")) == b"0.5"


def test_a_model_of_one_input() -> None:
    """Its rows may be single values, and its columns a bare list, as TensorFlow Serving has it."""
    one = Served("delay", inputs=(("x", "FP64"),))
    for said in (
        {"instances": [1.5, 2.5]},
        {"instances": [[1.5], [2.5]]},
        {"inputs": [1.5, 2.5]},
        {"inputs": [[1.5], [2.5]]},
    ):
        assert json.loads(read(tfserving_client, said, one).inputs)[0]["data"] == [1.5, 2.5]


def test_values_as_clients_write_them() -> None:
    """An integer may be written `5.0`, and a text in base64; what is no integer stays what it is."""
    row = ROWS[0] | {"n": 5.0, "carrier": {"b64": base64.b64encode("ü".encode()).decode()}}
    found = {one["name"]: one["data"][0] for one in json.loads(read(tfserving_client, {"instances": [row]}).inputs)}
    assert (found["n"], type(found["n"]), found["carrier"]) == (5, int, "ü")
    row |= {"n": 5.5}
    assert json.loads(read(tfserving_client, {"instances": [row]}).inputs)[1]["data"] == [5.5]  # refused further on


def test_fields_that_are_not_known() -> None:
    """Where the routes don't say what a model takes, datatypes are those of the values."""
    unknown = Served("delay")
    rows = [{"a": 1, "b": True, "c": "x"}, {"a": 2.5, "b": None, "c": None}]
    found = json.loads(read(torchserve_client, rows, unknown).inputs)
    assert [one["datatype"] for one in found] == ["FP64", "BOOL", "BYTES"]
    for said, words in (([[1.0]], "order"), ([{"a": 1}, {"a": "x"}], "several kinds")):
        with pytest.raises(NotAsked, match=words):
            read(torchserve_client, said, unknown)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"instances": [ROWS[0] | {"y": 1}]}, "no input `y` in row 0"),
        ({"instances": [ROWS[0], {"x": 1.0}]}, "row 1 lacks the input `n`"),
        ({"instances": [ROWS[0], 3]}, "row 0 is not a list of 4 values, in this order: `x`, `n`, `ok`, `carrier`"),
        ({"instances": [[1.0, 2]]}, "row 0 is not a list of 4 values"),
        ({"instances": []}, "no rows"),
        ({"instances": 3}, "list of rows"),
        ({"inputs": COLUMNS | {"y": [1, 2]}}, "no input `y`"),
        ({"inputs": {}}, "no inputs"),
        ({"inputs": {"x": [1.0]}}, "missing: `n`, `ok`, `carrier`"),
        ({"inputs": COLUMNS | {"x": 1.0}}, "`x` is a list"),
        ({"inputs": COLUMNS | {"x": [[1.0, 2.0], [3.0]]}}, "`x` has one value in each row"),
        ({"inputs": COLUMNS | {"carrier": [{"b64": "?"}, "a"]}}, "`carrier` has one value in each row"),
        ({"inputs": COLUMNS | {"carrier": [{"b64": "//79"}, "a"]}}, "`carrier` has one value in each row"),
        ({"inputs": COLUMNS, "instances": ROWS}, "one of them only"),
        ({}, "one of them only"),
        ([], "an object"),
        ({"instances": ROWS, "signature_name": "regress"}, "no signature `regress`; there is `serving_default`"),
        (b'{"instances": [NaN]}', "write `null`"),
        (b"\xff", "not JSON"),
        (b'{"instances": ' + b"[" * 100_000, "not JSON"),
    ],
)
def test_what_is_refused(said: object, words: str) -> None:
    """What is wrong is said of the row and the input that it is of."""
    with pytest.raises(NotAsked, match=words):
        read(tfserving_client, said)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["instances", "inputs", "x", "n", "ok", "carrier", "b64"]), inner, max_size=4)
    ),
    max_leaves=16,
)


@given(said=_JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40))
def test_any_body(said: bytes) -> None:
    """Whatever is asked is refused in words, or becomes tensors that a foreign server is asked or refused."""
    speech = spoken("oip", SERVED)
    assert speech is not None
    for protocol in (tfserving_client, torchserve_client):
        try:
            asked = read(protocol, said)
            call = speech.ask(b'{"inputs":%b}' % asked.inputs)
        except NotAsked as error:
            assert error.message
        else:
            assert [one["name"] for one in json.loads(call.body)["inputs"]] == [name for name, _ in FIELDS]


@given(body=st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_answer(body: bytes) -> None:
    """An answer of our own replica that is none becomes none in another protocol; an error always has words."""
    for protocol in (tfserving_client, torchserve_client):
        with pytest.raises(Garbage):
            protocol.write("list", body)
    assert isinstance(message(body), str)


def test_errors() -> None:
    """Each protocol's own shape."""
    assert json.loads(tfserving_client.error(404, "no")) == {"error": "no"}
    kinds = {
        400: "BadRequest",
        404: "ModelNotFound",
        502: "InternalServer",
        503: "ServiceUnavailable",
        418: "BadRequest",
    }
    for status, kind in kinds.items():
        told = json.loads(torchserve_client.error(status, "no"))
        assert told == {"code": status, "type": f"{kind}Exception", "message": "no"}
