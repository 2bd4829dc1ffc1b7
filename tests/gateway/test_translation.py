"""One client protocol in, another server's out: real gateways before doubles of servers of other makes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton

from mainspring.testing.foreign import ForeignServer, score
from mainspring.testing.serving import Process, Reply, Site, call, infer_body

NAMES = ["x0", "x1", "x2", "x3"]
FIELDS = [[name, "FP64"] for name in NAMES]
ROWS: list[dict[str, Any]] = [
    {"x0": 1.0, "x1": 2.0, "x2": 0.25, "x3": -1.5},
    {"x0": -4.0, "x1": 0.5, "x2": 3.0, "x3": 8.0},
]
PROTOCOLS = ["oip", "oip1", "triton", "tfserving", "torchserve", "bentoml"]
Row = tuple[str, int, list[str | Process]]
OIP, TF, TORCH = "/v2/models/delay/infer", "/v1/models/delay:predict", "/predictions/delay"


class World:
    """A gateway, one replica of our own, and a foreign server of each protocol."""

    def __init__(self, site: Site, foreign: dict[str, ForeignServer]) -> None:
        self.site, self.foreign = site, foreign
        self.own = site.replica(site.folder / "a")
        key = site.upstream_key("upstream-secret")
        site.route([])
        tokens = site.keys(
            {"ms_good": ["delay"], "ms_other": ["else"]}, more={"ms_good": {"id": "k-good", "tenant": "harbour"}}
        )
        self.gateway = site.gateway("gateway-0", *site.exits, *tokens, "--upstream-key", str(key),
                                    "--ledger", str(site.folder / "ledger"))  # fmt: skip
        self.own.wait_ready()
        self.address = self.gateway.wait_ready()

    def foreign_row(self, protocol: str, **more: Any) -> dict[str, Any]:
        """What the routes say of a revision that a foreign server answers for."""
        return {"protocol": protocol, "model": "delay-1", "inputs": FIELDS, "output": "late"} | more

    def to(self, protocol: str, *, spoken: dict[str, Any] | None = None, **more: Any) -> ForeignServer:
        """All traffic of `delay` to the foreign server of a protocol, which has seen nothing yet."""
        server = self.foreign[protocol]
        server.asked.clear()
        server.rows.clear()
        server.status, server.instead = 0, None
        row = self.foreign_row(protocol) | (spoken or {})
        self.route([("delay-1", 10_000, [server.address])], {"delay-1": row}, **more)
        return server

    def route(self, rows: list[Row], spoken: dict[str, Any], **more: Any) -> None:
        """Write routes, and wait until the gateway has them."""
        self.site.route(rows, spoken=spoken, wait=["gateway-0"], **more)

    def post(self, path: str, said: object, **headers: str) -> Reply:
        """One request; the body as JSON unless it is bytes already."""
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        return call(self.address, "POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def record(self, id: str, role: str = "live") -> dict[str, Any]:
        """The one record of a request."""
        [found] = [r for r in self.site.records() if r["id"] == id and r["role"] == role]
        return found


@pytest.fixture(scope="module")
def world(site: Site) -> Iterator[World]:
    """Everything, started once."""
    with ExitStack() as stack:
        foreign = {protocol: stack.enter_context(ForeignServer(protocol, NAMES)) for protocol in PROTOCOLS}
        yield World(site, foreign)


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def tensors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the inputs of the Open Inference Protocol."""
    return [
        {"name": name, "shape": [len(data)], "datatype": "FP64", "data": data} for name, data in columns(rows).items()
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_need_not_know_who_answers(world: World, protocol: str) -> None:
    """A request of the Open Inference Protocol is answered, recorded and charged alike, whatever the server speaks."""
    server = world.to(protocol, slot_cores=2.0)
    rows = [*ROWS, {"x0": None, "x1": None, "x2": 0.0, "x3": 1.0}]
    id = f"any {protocol}"
    reply = world.post(OIP, {"id": id, "inputs": tensors(rows)})
    assert reply.status == 200, reply
    output = {"name": "late", "datatype": "FP64", "shape": [3], "data": [score(row) for row in rows]}
    assert reply.json() == {"model_name": "delay", "model_version": "1", "id": id, "outputs": [output]}
    assert server.rows == rows
    [(_, headers)] = server.asked
    assert headers["authorization"] == "Bearer upstream-secret"
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"] == reply.headers["x-request-id"]
    record = world.record(id)
    assert (record["status"], record["inputs"], record["outputs"]) == (200, tensors(rows), [output])
    assert record["compute"] == pytest.approx(2.0 * record["upstream"])


@pytest.mark.parametrize("protocol", ["mainspring", *PROTOCOLS])
def test_every_door_before_every_server(world: World, protocol: str) -> None:
    """Rows and columns in TensorFlow Serving's and TorchServe's words get the answers of the protocol of `/v2`."""
    if protocol == "mainspring":
        world.route([("delay-1", 10_000, [world.own])], {"delay-1": {"inputs": FIELDS, "output": "late"}})
    else:
        world.to(protocol)
    [output] = world.post(OIP, {"inputs": tensors(ROWS)}).json()["outputs"]
    expected = output["data"]
    assert len(set(expected)) == 2
    lists = [list(row.values()) for row in ROWS]
    for path, said, told in (
        (TF, {"instances": ROWS}, {"predictions": expected}),
        (TF, {"signature_name": "serving_default", "instances": lists}, {"predictions": expected}),
        (TF, {"inputs": columns(ROWS)}, {"outputs": expected}),
        (
            TF,
            {"inputs": {name: [[v] for v in values] for name, values in columns(ROWS).items()}},
            {"outputs": expected},
        ),
        ("/v1/models/delay/versions/1:predict", {"instances": ROWS[:1]}, {"predictions": expected[:1]}),
        (TORCH, columns(ROWS), expected),
        (TORCH, ROWS, expected),
        (TORCH, lists, expected),
        (TORCH, ROWS[0], expected[0]),
        (TORCH, {"inputs": columns(ROWS)}, {"predictions": expected}),
        (f"{TORCH}/1", ROWS[1], expected[1]),
    ):
        reply = world.post(path, said)
        assert (reply.status, reply.json()) == (200, told), path
        assert reply.headers["x-mainspring-revision"] == "delay-1"


def test_ids_and_outcomes_at_the_other_doors(world: World) -> None:
    """A client's `x-request-id` is kept; under it, or one that was made, the record is found and an outcome taken."""
    world.to("torchserve")
    for path, said in ((TF, {"instances": ROWS}), (TORCH, ROWS)):
        name = f"mine{path.count('/')}"
        assert world.post(path, said, x_request_id=name).headers["x-request-id"] == name
        made = world.post(path, said, x_request_id="not this").headers["x-request-id"]
        assert len(made) == 32
        for id in (name, made):
            assert world.record(id)["inputs"] == tensors(ROWS)
            told = world.post("/v2/models/delay/feedback", {"feedback": [{"id": id, "truth": {"late": 1}}]})
            assert told.json() == {"accepted": 1}


@pytest.mark.parametrize("binary", [True, False])
def test_the_official_triton_client(world: World, binary: bool) -> None:
    """`tritonclient` asks a model that BentoML serves."""
    world.to("bentoml")
    asked = []
    for name, values in columns(ROWS).items():
        one = triton.InferInput(name, [2, 1], "FP64")
        one.set_data_from_numpy(np.array(values).reshape(2, 1), binary_data=binary)
        asked.append(one)
    client = triton.InferenceServerClient(world.address)
    answer = client.infer("delay", asked, outputs=[triton.InferRequestedOutput("late", binary_data=False)])
    assert answer.as_numpy("late").tolist() == [score(row) for row in ROWS]
    client.close()


def test_a_request_that_does_not_fit(world: World) -> None:
    """What no server would take is a 400 in each door's shape, and a foreign server is not even asked."""
    server = world.to("triton")
    words = "there is no input `y`; there are `x0`, `x1`, `x2`, `x3`"
    reply = world.post(OIP, infer_body(ROWS[0] | {"y": 1.0}, "misfit"))
    assert (reply.status, reply.json()) == (400, {"error": words})
    assert world.record("misfit")["status"] == 400
    assert world.record("misfit")["inputs"] is None
    texts = {"x0": "far", "x1": 1.0, "x2": 1.0, "x3": 1.0}
    for path, said, part in (
        (TF, {"instances": [ROWS[0] | {"y": 1.0}]}, "no input `y` in row 0"),
        (TF, {"instances": [{"x0": 1.0}]}, "row 0 lacks the input `x1`"),
        (TF, {"instances": [[1.0]]}, "in this order: `x0`, `x1`, `x2`, `x3`"),
        (TF, {"instances": [texts]}, "`x0` has a value that is not FP64"),
        (TF, {"inputs": {"x0": [1.0]}}, "missing: `x1`"),
        (TF, {"inputs": columns(ROWS) | {"x1": [1.0]}}, "`x1` has 1 rows, another has 2"),
        (TF, {"inputs": [1.0]}, "an object with a list"),
        (TF, {"instances": [], "inputs": {}}, "one of them only"),
        (TF, {"instances": []}, "no rows"),
        (TF, {"instances": ROWS, "signature_name": "other"}, "no signature `other`"),
        (TF, b'{"instances": [{"x0": NaN}]}', "write `null`"),
        (TORCH, ROWS[0] | {"x1": [1.0]}, "columns, or one row"),
        (TORCH, 3, "an object of columns"),
        (TORCH, b"pixels", "not JSON"),
        (TORCH, [], "no rows"),
    ):
        reply = world.post(path, said)
        assert reply.status == 400, (path, said)
        told = reply.json()
        if path == TORCH:
            assert (told["code"], told["type"]) == (400, "BadRequestException")
        assert part in told["message" if path == TORCH else "error"]
    assert server.asked == []


def test_what_is_not_there(world: World) -> None:
    """Paths, versions, methods and forms that are not served are refused in each door's words."""
    world.to("oip")
    for method, path, status, part in (
        ("POST", "/v1/models/nothing:predict", 404, "there is no endpoint `nothing`; there is `delay`"),
        ("POST", "/v1/models/delay/versions/9:predict", 404, "no version `9`"),
        ("POST", "/v1/models/delay:classify", 404, "only `:predict`"),
        ("POST", "/v1/models/delay/labels/canary:predict", 404, "no labels"),
        ("GET", TF, 405, "this is a `POST`"),
        ("POST", "/v1/models/delay/metadata", 405, "this is a `GET`"),
        ("POST", "/predictions/nothing", 404, "there is no endpoint `nothing`"),
        ("POST", "/predictions/delay/9", 404, "no version `9`"),
        ("POST", "/predictions/delay/1/explain", 404, "nothing at this path"),
        ("GET", TORCH, 405, "this is a `POST`"),
    ):
        reply = call(world.address, method, path, b"{}")
        told = reply.json()
        assert reply.status == status, path
        if path.startswith("/predictions"):
            assert told["code"] == status
            assert part in told["message"]
        else:
            assert part in told["error"]
    form = world.post(TORCH, b"--x", content_type="multipart/form-data; boundary=x")
    assert (form.status, form.json()["type"]) == (415, "UnsupportedMediaTypeException")
    assert world.post(TF, b"x", content_encoding="gzip").status == 415


def test_text_has_no_meaning_at_these_doors(world: World) -> None:
    """A language model asked in TensorFlow Serving's or TorchServe's words says where to ask instead."""
    row = {"name": "chat-1", "version": "1", "weight": 10_000, "replicas": []}
    world.to("oip", beside={"chat": {"revisions": [row], "kind": "language"}})
    for path, key in (("/v1/models/chat:predict", "error"), ("/predictions/chat", "message")):
        reply = world.post(path, {"instances": ["hello"]})
        assert reply.status == 400
        assert "ask `/v1/chat/completions`" in reply.json()[key]
    assert call(world.address, "GET", "/v1/models/chat").json()["object"] == "model"
    assert [one["id"] for one in call(world.address, "GET", "/v1/models").json()["data"]] == ["chat"]


def test_what_a_model_is(world: World) -> None:
    """Status and metadata in TensorFlow Serving's and the protocol's own words; no server is asked for them."""
    server = world.to("bentoml")
    for path in ("/v1/models/delay", "/v1/models/delay/versions/1"):
        [version] = call(world.address, "GET", path).json()["model_version_status"]
        assert (version["version"], version["state"]) == ("1", "AVAILABLE")
    said = call(world.address, "GET", "/v1/models/delay/metadata").json()
    assert said["model_spec"] == {"name": "delay", "signature_name": "", "version": "1"}
    signature = said["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert {name: one["dtype"] for name, one in signature["inputs"].items()} == dict.fromkeys(NAMES, "DT_DOUBLE")
    assert list(signature["outputs"]) == ["late"]
    described = call(world.address, "GET", "/v2/models/delay").json()
    assert [(one["name"], one["datatype"]) for one in described["inputs"]] == [(name, "FP64") for name in NAMES]
    assert described["outputs"] == [{"name": "late", "datatype": "FP64", "shape": [-1]}]
    assert call(world.address, "GET", "/ping").json() == {"status": "Healthy"}
    assert server.asked == []
    world.route([("delay-1", 10_000, [])], {"delay-1": world.foreign_row("bentoml")})
    [version] = call(world.address, "GET", "/v1/models/delay").json()["model_version_status"]
    assert version["state"] == "LOADING"


def test_tokens_and_limits_hold_at_every_door(world: World) -> None:
    """A token is asked for, its tenant's limit counts all doors together, and a refusal has the door's shape."""
    limits = [{"what": "requests", "amount": 3, "per": "day"}]
    world.to("torchserve", auth=True, tenants={"harbour": {"limits": limits}})
    doors = ((OIP, {"inputs": tensors(ROWS)}), (TF, {"instances": ROWS}), (TORCH, ROWS))
    for path, said in doors:
        assert world.post(path, said).status == 401
        assert world.post(path, said, authorization="Bearer ms_other").status == 401
        assert world.post(path, said, authorization="Bearer ms_good").status == 200
    for path, said in doors:
        reply = world.post(path, said, authorization="Bearer ms_good")
        assert reply.status == 429
        told = reply.json()
        assert "this tenant's limit is 3 requests a day" in (told["message"] if path == TORCH else told["error"])
    assert call(world.address, "GET", "/v1/models/delay").status == 401


def test_a_retry_falls_on_another_dialect(world: World) -> None:
    """A server that answers garbage fails the request; another version, which speaks otherwise, takes it over."""
    good = world.to("bentoml")
    with ForeignServer("oip", NAMES, instead=b'{"outputs": "soon"}') as bad:
        spoken = {"late-1": world.foreign_row("oip"), "late-2": world.foreign_row("bentoml")}
        rows: list[Row] = [("late-1", 9_999, [bad.address]), ("late-2", 1, [good.address])]
        world.route(rows, spoken, endpoint="late")
        reply = world.post("/v2/models/late/infer", {"id": "handed over", "inputs": tensors(ROWS)})
    assert reply.status == 200, reply
    assert reply.json()["outputs"][0]["data"] == [score(row) for row in ROWS]
    record = world.record("handed over")
    assert (record["revision"], record["failed"], record["tries"]) == ("late-2", "late-1", 2)


@pytest.mark.parametrize("door", ["oip", "tfserving", "torchserve"])
@pytest.mark.parametrize(
    "junk", [b"<html>", b'{"outputs": [1.0]}', b'{"outputs": [NaN, 1.0]}', b'{"outputs": ["late", "late"]}']
)
def test_garbage(world: World, door: str, junk: bytes) -> None:
    """An answer that makes no sense is the failure of that replica: 502, in the door's shape, and recorded."""
    name = f"spoiled-{door}-{zlib.crc32(junk)}"  # each has a budget of retries of its own
    path, said = {
        "oip": (f"/v2/models/{name}/infer", {"inputs": tensors(ROWS)}),
        "tfserving": (f"/v1/models/{name}:predict", {"instances": ROWS}),
        "torchserve": (f"/predictions/{name}", {"inputs": columns(ROWS)}),
    }[door]
    with ForeignServer("tfserving", NAMES, instead=junk) as server:
        spoken = {f"{name}-1": world.foreign_row("tfserving")}
        world.route([(f"{name}-1", 10_000, [server.address])], spoken, endpoint=name)
        reply = world.post(path, said)
        assert reply.status == 502, reply
        assert "the replica" in reply.json()["message" if door == "torchserve" else "error"]
        record = world.record(reply.headers["x-request-id"])
        assert (record["status"], record["outputs"], record["tries"]) == (502, None, 2)
        assert len(server.asked) == 2


def test_a_server_s_own_error(world: World) -> None:
    """Its words reach the client; that it does not know its model or our key is no fault of the client's."""
    server = world.to("oip1")
    for status, told in ((400, 400), (503, 503), (500, 500), (404, 502), (403, 502)):
        server.status = status
        reply = world.post(TORCH, ROWS)
        assert reply.status == told
        assert reply.json()["code"] == told
        assert ("not today" in reply.json()["message"]) == (status != 403)


def test_mirror_copies_in_another_dialect(world: World) -> None:
    """A copy of a request to our own replica is answered by a foreign server, and its answer compared in one form."""
    server = world.to("torchserve")
    spoken = {"delay-2": world.foreign_row("torchserve")}
    both: list[Row] = [
        ("delay-1", 10_000, [world.own]), ("delay-2", 0, [server.address]),
    ]  # fmt: skip
    world.route(both, spoken, mirror="delay-2", mirror_share=10_000)
    assert world.post(TF, {"instances": ROWS}, x_request_id="copied").status == 200
    assert call(world.address, "GET", "/internal/quiesce?timeout=10").json()["quiet"]
    live, copy = world.record("copied"), world.record("copied", "mirror")
    assert live["outputs"][0]["shape"] == copy["outputs"][0]["shape"]
    assert copy["outputs"][0]["data"] == [score(row) for row in ROWS]
    assert server.rows == ROWS


def test_a_canary_of_another_make(world: World) -> None:
    """Half the traffic falls on our own replica and half on Triton: each is asked in its own words."""
    server = world.to("triton")
    rows: list[Row] = [
        ("delay-1", 5_000, [world.own]), ("delay-2", 5_000, [server.address]),
    ]  # fmt: skip
    world.route(rows, {"delay-2": world.foreign_row("triton")})
    seen = set()
    for i in range(40):
        reply = world.post(OIP, infer_body(ROWS[0], f"half-{i}"))
        assert reply.status == 200
        foreign = reply.headers["x-mainspring-revision"] == "delay-2"
        assert (reply.json()["outputs"][0]["data"] == [score(ROWS[0])]) == foreign
        seen.add(foreign)
    assert seen == {True, False}


def test_a_protocol_that_nobody_speaks(world: World) -> None:
    """It costs its own revision's requests alone: other endpoints are routed, and the words say what is wrong."""
    server = world.foreign["oip"]
    rows = {"name": "other-1", "version": "1", "weight": 10_000, "replicas": [server.address], "protocol": "morse"}
    world.to("oip", beside={"other": {"revisions": [rows]}})
    assert world.post(OIP, {"inputs": tensors(ROWS)}).status == 200
    reply = world.post("/v2/models/other/infer", {"inputs": tensors(ROWS)})
    assert reply.status == 502
    assert "`morse`" in reply.json()["error"]


def test_connections_as_the_revision_has_them(world: World) -> None:
    """`keep_alive` of a revision goes before the endpoint's."""
    for said, closes in ((None, False), (False, True), (True, False)):
        server = world.to("oip", spoken={"keep_alive": said})
        assert world.post(OIP, {"inputs": tensors(ROWS)}).status == 200
        [(_, headers)] = server.asked
        assert (headers.get("connection") == "close") == closes


class _Namer(ForeignServer):
    """A language model's server that answers with the name that it was asked by."""

    def reply(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        said = json.loads(body)
        self.asked.append((path, headers))
        choice = {"index": 0, "message": {"role": "assistant", "content": said["model"]}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        return 200, json.dumps({"id": "c", "choices": [choice], "usage": usage, "rest": said}).encode()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_the_name_that_a_language_server_was_started_with(world: World, path: str) -> None:
    """Such as vLLM refuse any other name than their own: `model` is changed for them, and nothing else is."""
    with _Namer("openai", []) as server:
        for model, expected in (("chat-1", "chat-1"), ("", "chat")):
            spoken = {"chat-1": {"protocol": "openai", "model": model}}
            world.site.route(
                [("chat-1", 10_000, [server.address])], endpoint="chat", kind="language", spoken=spoken,
                wait=["gateway-0"],
            )  # fmt: skip
            wanted = {"messages": [{"role": "user", "content": 'my "model": "chat"'}], "prompt": "hi", "input": "hi"}
            reply = world.post(path, {"model": "chat"} | wanted)
            assert reply.status == 200, reply
            assert reply.json()["rest"] == {"model": expected} | wanted
            assert server.asked[-1][1]["authorization"] == "Bearer upstream-secret"
