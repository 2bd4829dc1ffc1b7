"""The ONNX replica as a process: protocol, batching, and faults that stay with the request they belong to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from mainspring.artefacts.score import Scorer
from mainspring.testing.artefacts import FEATURES, tiny_artefact
from mainspring.testing.serving import Process, Reply, Site, call, infer_body, post_all

PATH = "/v2/models/delay/versions/7/infer"
TYPES = {"hour": "INT64", "distance": "FP64", "carrier": "BYTES"}
ROW = {"hour": 18, "distance": 500.5, "carrier": "UA"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Process]]:
    """A replica with a features function that raises for hour 13 and ends its thread for hour 14."""
    source = FEATURES.replace(
        "    return pd",
        "    if (rows['hour'] == 13).any():\n        raise ValueError('unlucky')\n"
        "    if (rows['hour'] == 14).any():\n        raise SystemExit\n"
        "    if (rows['hour'] == 15).any():\n        rows = rows.assign(hour='x')\n    return pd",
    )
    folder = tmp_path_factory.mktemp("replica")
    tiny_artefact(folder / "a", folder / "code", features=source)
    with Site(folder) as site:
        process = site.replica(folder / "a", "delay-7-0", "7", "--batch-size", "16")
        process.wait_ready()
        yield site, process


def ask(process: Process, **changed: object) -> Reply:
    return call(process.address, "POST", PATH, infer_body(ROW | changed, "one", TYPES))


def test_protocol(served: tuple[Site, Process]) -> None:
    """Metadata names inputs and output; wrong models, versions, paths and methods are told apart."""
    _, process = served
    meta = call(process.address, "GET", "/v2/models/delay").json()
    assert [(i["name"], i["datatype"]) for i in meta["inputs"]] == list(TYPES.items())
    assert meta["outputs"] == [{"name": "late", "datatype": "FP64", "shape": [-1]}]
    wanted = {
        "/v2": 200, "/v2/health/live": 200, "/v2/health/ready": 200, "/v2/models/delay/ready": 200, "/metrics": 200,
        "/v2/models/delay/versions/7": 200, "/v2/models/delay/versions/7/ready": 200, "/v2/models/-/ready": 200,
        "/v2/models/other": 404, "/v2/models/delay/versions/8": 404, "/": 404, "/v2/models": 404, PATH: 405,
    }  # fmt: skip
    assert {path: call(process.address, "GET", path).status for path in wanted} == wanted
    assert call(process.address, "DELETE", "/v2").status == 405


def test_answers_equal_the_scorer(served: tuple[Site, Process]) -> None:
    """Single rows in whatever batches, and many rows in one request, score as the scorer does, bit for bit."""
    site, process = served
    rows = [
        {"hour": i % 13, "distance": i * 7.5 if i % 5 else None, "carrier": ["UA", "AA", None][i % 3]}
        for i in range(64)
    ]
    columns = {name: [row[name] for row in rows] for name in TYPES}
    expected = Scorer(site.folder / "a", site.folder / "code").score(columns).tolist()
    bodies = [infer_body(row, f"r{i}", TYPES) for i, row in enumerate(rows)]
    replies = asyncio.run(post_all(lambda: process.address, PATH, bodies, at_once=32))
    assert [r.json()["outputs"][0]["data"][0] for r in replies] == expected
    assert [r.json()["id"] for r in replies] == [f"r{i}" for i in range(64)]
    assert all(int(r.headers["x-mainspring-compute-us"]) > 0 for r in replies)
    for nested in (False, True):
        inputs = [
            {"name": n, "datatype": t, "shape": [64, 1] if nested else [64],
             "data": [[v] for v in columns[n]] if nested else columns[n]}
            for n, t in TYPES.items()
        ]  # fmt: skip
        [output] = call(process.address, "POST", PATH, json.dumps({"inputs": inputs}).encode()).json()["outputs"]
        assert output == {"name": "late", "shape": [64], "datatype": "FP64", "data": expected}
    batches = call(process.address, "GET", "/metrics").body.decode().split("batches_total ")[1].split()[0]
    assert int(batches) < 64


def test_one_bad_row_fails_alone(served: tuple[Site, Process]) -> None:
    """When the user's function raises for one request, its neighbours in the batch are still answered."""
    _, process = served
    hours = [13 if i % 10 == 3 else 14 if i % 10 == 4 else i % 12 for i in range(60)]
    bodies = [infer_body(ROW | {"hour": hour}, f"b{i}", TYPES) for i, hour in enumerate(hours)]
    replies = asyncio.run(post_all(lambda: process.address, PATH, bodies, at_once=30))
    assert [r.status for r in replies] == [500 if hour in (13, 14) else 200 for hour in hours]
    assert "raised ValueError: unlucky" in replies[3].json()["error"]


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"hour": None}, 400, "`hour` must not be null"),
        ({"hour": 3.0}, 400, "not INT64"),
        ({"hour": True}, 400, "not INT64"),
        ({"hour": 2**70}, 400, "INT64"),
        ({"carrier": 5}, 400, "not BYTES"),
        ({"carrier": ["UA"]}, 400, "not BYTES"),
        ({"distance": "far"}, 400, "not FP64"),
        ({"distance": None}, 200, ""),
        ({"carrier": "\u0000 \U0001f6eb"}, 200, ""),
        ({"hour": 15}, 500, "raised TypeError"),
    ],
)
def test_values_are_checked(served: tuple[Site, Process], changed: dict[str, object], status: int, says: str) -> None:
    """What the manifest does not allow is a 400 that names the field; what it allows is answered."""
    _, process = served
    reply = ask(process, **changed)
    assert reply.status == status
    assert says in reply.json().get("error", "")
    assert ask(process).status == 200


def test_stops_cleanly(served: tuple[Site, Process]) -> None:
    """SIGTERM ends the process with status 0 and takes the announcement back."""
    site, _ = served
    process = site.replica(site.folder / "a", "delay-7-1", "7")
    process.wait_ready()
    assert ask(process).status == 200
    assert process.stop() == 0
    assert not process.announce.exists()
