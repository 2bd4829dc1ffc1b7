"""The official `tritonclient` through the gateway, and versions of a model by name."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from mainspring.testing.serving import Site, call, infer_body

X = {"x0": 1.0, "x1": 2.0, "x2": 0.25, "x3": -1.5}


@pytest.fixture(scope="module")
def address(site: Site) -> str:
    """A gateway before two versions of a model; all traffic goes to the first."""
    a, b = site.replica(site.folder / "a"), site.replica(site.folder / "b", "delay-2-0", "2")
    site.route([("delay-1", 10_000, [a.wait_ready()]), ("delay-2", 0, [b.wait_ready()])])
    return site.gateway().wait_ready()


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client."""
    with triton.InferenceServerClient(address) as made:
        yield made


def inputs(*, binary: bool) -> list[triton.InferInput]:
    made = []
    for name, value in X.items():
        one = triton.InferInput(name, [1], "FP64")
        one.set_data_from_numpy(np.array([value]), binary_data=binary)
        made.append(one)
    return made


def test_what_there_is(client: triton.InferenceServerClient) -> None:
    """Health, readiness and metadata, with the model's own inputs and outputs."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("delay")
    assert client.is_model_ready("delay", "2")
    for version in ("", "1"):
        said = client.get_model_metadata("delay", version)
        assert said["name"] == "delay"
        assert [one["name"] for one in said["inputs"]] == list(X)
        assert len(said["outputs"]) == 1
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


@pytest.mark.parametrize("binary", [True, False])
def test_infer(client: triton.InferenceServerClient, site: Site, binary: bool) -> None:
    """The same answer and the same record, whether tensors come in binary or in JSON."""
    answer = client.infer("delay", inputs(binary=binary), request_id=f"triton-{binary}")
    name = answer.get_response()["outputs"][0]["name"]
    value = answer.as_numpy(name)
    assert value.shape == (1,)
    [record] = [r for r in site.records() if r["id"] == f"triton-{binary}"]
    assert record["inputs"] == json.loads(infer_body(X))["inputs"]
    assert record["outputs"][0]["data"] == value.tolist()


def test_versions(client: triton.InferenceServerClient, address: str) -> None:
    """A version is asked by its number while it is routed, whatever its weight; others are not there."""
    first, second = (client.infer("delay", inputs(binary=True), model_version=v).get_response() for v in ("1", "2"))
    assert first["outputs"][0]["data"] != second["outputs"][0]["data"]
    reply = call(address, "POST", "/v2/models/delay/versions/2/infer", infer_body(X))
    assert reply.headers["x-mainspring-revision"] == "delay-2"
    for path in ("/v2/models/delay/versions/9", "/v2/models/delay/versions/9/ready", "/v2/models/delay/versions"):
        assert call(address, "GET", path).status == 404
    with pytest.raises(InferenceServerException, match="no version `9`"):
        client.infer("delay", inputs(binary=False), model_version="9")


def test_what_is_refused(client: triton.InferenceServerClient, address: str) -> None:
    """A compressed body is a 415, and binary sizes that are not true a 400."""
    with pytest.raises(InferenceServerException, match="compressed"):
        client.infer("delay", inputs(binary=True), request_compression_algorithm="gzip")
    head = json.dumps({"inputs": [{"name": "x0", "shape": [1], "datatype": "FP64",
                                   "parameters": {"binary_data_size": 80}}]}).encode()  # fmt: skip
    path, length = "/v2/models/delay/infer", {"Inference-Header-Content-Length": str(len(head))}
    assert call(address, "POST", path, head + b"12345678", length).status == 400


def test_asks_for_a_token(site: Site, address: str) -> None:
    """With `auth`, predictions, outcomes and metadata ask for a token, too."""
    site.keys({"ms_good": ["delay"], "ms_other": ["else"]})
    words = ["--keys", str(site.folder / "keys.json"), "--pepper", str(site.folder / "pepper")]
    gateway = site.gateway("gateway-keys", *words)
    with_key = gateway.wait_ready()
    replica = next(p.address for p in site.processes if p.name == "delay-1-0")
    second = next(p.address for p in site.processes if p.name == "delay-2-0")
    both = [("delay-1", 10_000, [replica]), ("delay-2", 0, [second])]
    site.route(both, auth=True, wait=["gateway-keys", "gateway-0"])
    asked = [("POST", "/v2/models/delay/infer", infer_body(X)), ("GET", "/v2/models/delay", None),
             ("POST", "/v2/models/delay/feedback", b'{"feedback":[]}')]  # fmt: skip
    for method, path, body in asked:
        for token, status in (("", 401), ("ms_other", 401), ("ms_good", 200)):
            headers = {"authorization": f"Bearer {token}"} if token else {}
            reply = call(with_key, method, path, body, headers)
            assert reply.status == status, (path, token)
            if status == 401:
                assert reply.headers["www-authenticate"] == "Bearer"
                assert isinstance(reply.json()["error"], str)
    assert call(address, *asked[0]).status == 401
    site.route(both, wait=["gateway-keys", "gateway-0"])  # as the other tests want it
    assert gateway.stop() == 0
