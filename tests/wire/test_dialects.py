"""Every dialect, there and back: a foreign server understands what was asked, and what it answers is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.testing.foreign import Row, answer, score
from mainspring.wire.dialects import DIALECTS, Call, Garbage, NotAsked, Served, Spoken, spoken
from mainspring.wire.dialects.openai import renamed

FIELDS = (("x", "FP64"), ("n", "INT64"), ("ok", "BOOL"), ("small", "FP32"), ("carrier", "BYTES"))
NAMES = [name for name, _ in FIELDS]
SERVED = Served("delay", "3", "delay-3", FIELDS, "score")
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "FP64": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "BOOL": st.booleans(),
    "FP32": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "BYTES": st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != "\0"),
}


def rows(*, null: bool = True) -> st.SearchStrategy[list[Row]]:
    """One to twelve rows."""
    row = {name: (st.none() | _VALUES[kind]) if null else _VALUES[kind] for name, kind in FIELDS}
    return st.lists(st.fixed_dictionaries(row), min_size=1, max_size=12)


def canonical(table: list[Row], id: str = "", *, nested: bool = False, fields: Any = FIELDS) -> bytes:
    """A request as the gateway's own replicas take it."""
    inputs = []
    for name, datatype in fields:
        data = [row[name] for row in table]
        shape = [len(data), 1] if nested else [len(data)]
        inputs.append(
            {"name": name, "shape": shape, "datatype": datatype, "data": [[v] for v in data] if nested else data}
        )
    return json.dumps({"id": id, "inputs": inputs}).encode()


def speak(protocol: str, served: Served = SERVED) -> Spoken:
    """A dialect at work."""
    speech = spoken(protocol, served)
    assert isinstance(speech, Spoken)
    return speech


def path(call: Call) -> str:
    """The path of a request line, which has to be one."""
    method, found, version = call.line.decode().split(" ")
    assert (method, version) == ("POST", "HTTP/1.1\r\n")
    return found


def there_and_back(protocol: str, table: list[Row], body: bytes) -> None:
    """Ask a double, and read its answer."""
    speech = speak(protocol)
    seen_rows: list[Row] = []
    call = speech.ask(body, "made")
    status, said = answer(protocol, "delay-3", path(call), call.body, NAMES, seen_rows)
    assert status == 200, said
    assert seen_rows == table
    status, told = speech.answer(call, 200, json.dumps(said).encode())
    assert status == 200
    expected = {"name": "score", "datatype": "FP64", "shape": [len(table)], "data": [score(row) for row in table]}
    id = json.loads(body)["id"] or "made"
    assert json.loads(told) == {"model_name": "delay", "model_version": "3", "id": id, "outputs": [expected]}


@pytest.mark.parametrize("protocol", sorted(set(DIALECTS) - {"tfserving"}))
@given(table=rows(), id=st.sampled_from(["", "request 1", "é"]), nested=st.booleans())
def test_any_rows_there_and_back(protocol: str, table: list[Row], id: str, nested: bool) -> None:
    """The server understands the very rows, nulls and texts included; its answer is in canonical form, under the id."""
    there_and_back(protocol, table, canonical(table, id, nested=nested))


@given(table=rows(null=False), nan=st.booleans())
def test_tensorflow_there_and_back(table: list[Row], nan: bool) -> None:
    """So it is with TensorFlow Serving, where floats alone can be missing."""
    for row in table if nan else ():
        row["x"] = None
    there_and_back("tfserving", table, canonical(table))


@pytest.mark.parametrize("name", ["n", "ok", "carrier"])
def test_what_tensorflow_has_no_word_for(name: str) -> None:
    """A missing text, integer or truth value is refused in words that name the input."""
    row = {"x": 1.0, "n": 2, "ok": True, "small": 0.5, "carrier": "UA"} | {name: None}
    with pytest.raises(NotAsked, match=f"`{name}` is null"):
        speak("tfserving").ask(canonical([row]))


def test_what_triton_has_no_word_for() -> None:
    """The text that stands for a missing one there can't be asked."""
    row = {"x": 1.0, "n": 2, "ok": True, "small": 0.5, "carrier": "\0"}
    with pytest.raises(NotAsked, match="NUL"):
        speak("triton").ask(canonical([row]))


GOOD: Row = {"x": 1.0, "n": 2, "ok": True, "small": 0.5, "carrier": "UA"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": "one"}, "`x` has a value that is not FP64"),
        ({"n": 1.5}, "`n` has a value that is not INT64"),
        ({"n": 2**63}, "`n` has a value that is not INT64"),
        ({"ok": 1}, "`ok` has a value that is not BOOL"),
        ({"small": 1e39}, "`small` has a value that is not FP32"),
        ({"carrier": 7}, "`carrier` has a value that is not BYTES"),
        ({"x": [1.0]}, "`x` has a value that is not FP64"),
    ],
)
def test_wrong_values(change: Row, words: str) -> None:
    """A value that is not of its field's datatype never reaches a foreign server."""
    with pytest.raises(NotAsked, match=words):
        speak("oip").ask(canonical([GOOD | change]))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"name": "x"', b'"name": "y"', "no input `y`"),
        (b'"name": "n"', b'"name": "x"', "not `INT64`|twice"),
        (b'"shape": [1]', b'"shape": [2]', "its shape says 2"),
        (b'"shape": [1]', b'"shape": [1, 2]', r"it is \[n\] or \[n, 1\]"),
        (b'"datatype": "FP64"', b'"datatype": "FP32"', "is FP64, not `FP32`"),
        (b'"data": [1.0]', b'"data": [NaN]', "not a request"),
        (b'"inputs": [', b'"inputs": [3, ', "not a request"),
        (b'"id": ""', b'"outputs": [{"name": "other"}]', "no output `other`"),
    ],
)
def test_wrong_requests(old: bytes, new: bytes, words: str) -> None:
    """What does not fit the model is refused, in the words of Mainspring's own replica."""
    body = canonical([GOOD]).replace(old, new, 1)
    assert body != canonical([GOOD])
    with pytest.raises(NotAsked, match=words):
        speak("oip").ask(body)


def test_rows_that_are_not_there() -> None:
    """No rows, columns of different lengths and missing columns are refused."""
    longer = canonical([GOOD]).replace(
        b'[1], "datatype": "INT64", "data": [2]', b'[2], "datatype": "INT64", "data": [2, 3]'
    )
    for body, words in (
        (canonical([]), "no rows"),
        (canonical([GOOD], fields=FIELDS[:2]), "`ok`, `small`, `carrier`"),
        (longer, "another has 1"),
    ):  # fmt: skip
        with pytest.raises(NotAsked, match=words):
            speak("oip").ask(body)


@given(body=st.binary() | st.text().map(str.encode))
def test_requests_of_junk(body: bytes) -> None:
    """Whatever is asked is asked or refused."""
    for protocol in DIALECTS:
        with pytest.raises(NotAsked):
            speak(protocol).ask(body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["predictions", "outputs", "data", "shape", "name", "error", "score"]), inner)
    ),
    max_leaves=12,
)


@given(said=_JSON.map(lambda value: json.dumps(value).encode()) | st.binary(), count=st.integers(1, 3))
def test_hostile_answers(said: bytes, count: int) -> None:
    """An answer of status 200 is so many finite numbers, or the failure of the replica: nothing else escapes."""
    for protocol in DIALECTS:
        speech = speak(protocol)
        call = speech.ask(canonical([GOOD] * count))
        try:
            status, told = speech.answer(call, 200, said)
        except Garbage:
            continue
        found = json.loads(told)
        if status == 200:
            [output] = found["outputs"]
            assert len(output["data"]) == count
            assert all(isinstance(value, float) and abs(value) < float("inf") for value in output["data"])
        else:
            assert 400 <= status < 600
            assert isinstance(found["error"], str)


@pytest.mark.parametrize("depth", [10, 100_000])
def test_answers_that_are_nested(depth: int) -> None:
    """Depth is not followed for ever."""
    for protocol in DIALECTS:
        speech = speak(protocol)
        with pytest.raises(Garbage):
            speech.answer(speech.ask(canonical([GOOD])), 200, b'{"predictions":' + b"[" * depth + b"]" * depth + b"}")


def oip(**change: Any) -> bytes:
    """An answer with one output, changed."""
    output = {"name": "score", "datatype": "FP64", "shape": [2, 1], "data": [0.25, 0.5]} | change
    return json.dumps({"outputs": [output]}).encode()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (oip(), [0.25, 0.5]),
        (oip(shape=[2]), [0.25, 0.5]),
        (oip(shape=[2, 2], data=[0.75, 0.25, 0.5, 0.5]), [0.25, 0.5]),
        (oip(shape=[2, 2], data=[[0.75, 0.25], [0.5, 0.5]]), [0.25, 0.5]),
        (oip(datatype="INT64", data=[1, 0]), [1.0, 0.0]),
        (oip(name="another"), [0.25, 0.5]),
        (oip(shape=[1, 2]), None),
        (oip(shape=[2, 0]), None),
        (oip(shape=[2, 1, 1]), None),
        (oip(data=[0.25]), None),
        (oip(data=[0.25, None]), None),
        (oip(datatype="BYTES", data=["a", "b"]), None),
        (b'{"outputs":[]}', None),
        (oip().replace(b"0.25", b"NaN"), None),
        (oip().replace(b"0.25", b"1e999"), None),
    ],
)
def test_answers_of_the_open_inference_protocol(said: bytes, expected: list[float] | None) -> None:
    """[n], [n, 1] and [n, k], of which the last column counts; any other answer is garbage."""
    speech = speak("oip")
    call = speech.ask(canonical([GOOD, GOOD]))
    if expected is None:
        with pytest.raises(Garbage):
            speech.answer(call, 200, said)
    else:
        assert json.loads(speech.answer(call, 200, said)[1])["outputs"][0]["data"] == expected


@pytest.mark.parametrize(
    ("protocol", "said", "expected"),
    [
        ("oip1", {"predictions": [[0.75, 0.25]]}, [0.25]),
        ("oip1", {"predictions": [{"score": 0.25, "label": "late"}]}, [0.25]),
        ("tfserving", {"outputs": {"score": [[0.25]]}}, [0.25]),
        ("tfserving", {"outputs": {"other": [0.25]}}, [0.25]),
        ("tfserving", {"predictions": [{"score": [0.25], "classes": [1]}]}, [0.25]),
        ("torchserve", [0.25], [0.25]),
        ("torchserve", {"predictions": [[0.75, 0.25]]}, [0.25]),
        ("bentoml", [0.25], [0.25]),
        ("bentoml", {"predictions": [0.25]}, [0.25]),
        ("tfserving", {"outputs": {"a": [0.25], "b": [0.25]}}, None),
        ("torchserve", {"predictions": [0.25, 0.5]}, None),
        ("bentoml", {"predictions": [True]}, None),
        ("oip1", {"predictions": [{"label": "late", "class": 1}]}, None),
        ("oip1", [], None),
    ],
)
def test_answers_of_other_protocols(protocol: str, said: object, expected: list[float] | None) -> None:
    """The shapes that a prediction may have; any other answer is garbage."""
    speech = speak(protocol)
    call = speech.ask(canonical([GOOD]))
    if expected is None:
        with pytest.raises(Garbage):
            speech.answer(call, 200, json.dumps(said).encode())
    else:
        told = speech.answer(call, 200, json.dumps(said).encode())[1]
        assert json.loads(told)["outputs"][0]["data"] == expected


def test_a_failure_within_an_answer() -> None:
    """Where a server joins requests, one of them can fail alone: its row says so."""
    speech = speak("bentoml")
    call = speech.ask(canonical([GOOD, GOOD]))
    status, told = speech.answer(call, 200, b'[0.5, {"error": "`x` must not be null", "status": 400}]')
    assert (status, json.loads(told)) == (400, {"error": "`x` must not be null"})


@pytest.mark.parametrize(
    ("status", "said", "told", "words"),
    [
        (400, b'{"error": "bad row"}', 400, "bad row"),
        (400, b'{"code": 400, "type": "BadRequestException", "message": "bad row"}', 400, "bad row"),
        (422, b'{"detail": [{"loc": ["body"], "msg": "bad row"}]}', 400, "bad row"),
        (500, b'{"error": {"message": "it broke"}}', 500, "it broke"),
        (503, b"<html>busy</html>", 503, "<html>busy</html>"),
        (500, b"", 500, "without saying why"),
        (404, b'{"error": "unknown model"}', 502, "status 404: unknown model"),
        (401, b'{"error": "token abc"}', 502, "refused the gateway's key"),
        (507, b'{"error": "full"}', 502, "status 507: full"),
        (400, b'{"error": {"error": {"error": {"error": 3}}}}', 400, "without saying why"),
    ],
)
def test_errors(status: int, said: bytes, told: int, words: str) -> None:
    """A foreign error keeps its words; what is no fault of the client's is a 502."""
    speech = speak("oip")
    found, body = speech.answer(speech.ask(canonical([GOOD])), status, said)
    assert found == told
    assert words in json.loads(body)["error"]


def test_other_statuses_are_garbage() -> None:
    """A redirect, or a success without an answer, is none."""
    speech = speak("oip")
    for status in (201, 204, 302):
        with pytest.raises(Garbage):
            speech.answer(speech.ask(canonical([GOOD])), status, oip())


def test_a_protocol_that_nobody_knows() -> None:
    """Each request is refused with a 502 that names the protocol."""
    with pytest.raises(NotAsked, match="`morse`") as error:
        speak("morse").ask(canonical([GOOD]))
    assert error.value.status == 502


def test_a_model_of_unknown_inputs() -> None:
    """Where the fields are not known, tensors go as they came."""
    speech = speak("oip", Served("delay", "3", "a model/1"))
    call = speech.ask(canonical([GOOD]))
    assert path(call) == "/v2/models/a%20model%2F1/infer"
    said = json.loads(call.body)
    assert [one["name"] for one in said["inputs"]] == NAMES
    assert "outputs" not in said
    assert speech.answer(call, 200, b'{"outputs":[{"name":"p","datatype":"FP32","shape":[1],"data":[0.5]}]}')[0] == 200


@pytest.mark.parametrize("protocol", sorted(DIALECTS))
def test_odd_names(protocol: str) -> None:
    """A field may be called anything."""
    fields = (('50% "off", [a]', "FP64"), ("%b\\", "BYTES"), ("ü\n", "BOOL"))
    table = [
        {name: value for (name, _), value in zip(fields, row, strict=True)}
        for row in ((1.5, "%s,", True), (2.0, "]", False))
    ]
    speech, seen = speak(protocol, Served("delay", "3", "delay-3", fields, "%s")), list[Row]()
    call = speech.ask(canonical(table, fields=fields))
    status, _ = answer(protocol, "delay-3", path(call), call.body, [name for name, _ in fields], seen)
    assert (status, seen) == (200, table)


def test_no_translation() -> None:
    """Our own replicas, and language models that are called by the endpoint's name, are asked as the request stands."""
    assert spoken("mainspring", SERVED) is None
    assert spoken("openai", Served("chat", "3", "chat")) is None
    assert spoken("openai", Served("chat", "3")) is None


@given(
    content=st.text(st.characters(exclude_categories=["Cs"])),
    more=st.dictionaries(st.sampled_from(["a", "tools", "model2"]), _JSON, max_size=2),
)
def test_the_model_s_name(content: str, more: dict[str, Any]) -> None:
    """Of a language model's request only `model` is changed, whatever the prompt says."""
    said = {**more, "model": "chat", "messages": [{"role": "user", "content": content}]}
    body = json.dumps(said).encode()
    if b"NaN" in body or b"Infinity" in body:
        return  # those are refused before
    assert json.loads(renamed(body, "chat-3")) == said | {"model": "chat-3"}


def test_the_model_s_name_beside_others() -> None:
    """A tool may have a field of that name."""
    said = {"tools": [{"model": "chat"}], "model": "chat", "prompt": 'he said "model": "chat"'}
    assert json.loads(renamed(json.dumps(said).encode(), "chat-3")) == said | {"model": "chat-3"}
