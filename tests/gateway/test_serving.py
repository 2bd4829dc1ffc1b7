"""The gateway in front of real replicas: answers, records, shares, mirrors, event time, hostile input."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import Any

import pytest

from mainspring.testing.serving import Process, Reply, Site, call, infer_body, post_all

X = {"x0": 1.0, "x1": 2.0, "x2": 0.25, "x3": -1.5}
PATH = "/v2/models/delay/infer"


@pytest.fixture(scope="module")
def world(site: Site) -> tuple[Site, Process, Process, Process]:
    """A gateway and a replica of each of two versions."""
    a, b = site.replica(site.folder / "a"), site.replica(site.folder / "b", "delay-2-0", "2")
    site.route([])
    gateway = site.gateway()
    for process in (a, b, gateway):
        process.wait_ready()
    return site, gateway, a, b


@pytest.fixture
def one(world: tuple[Site, Process, Process, Process]) -> tuple[Site, str]:
    """All traffic to the first version."""
    site, gateway, a, _ = world
    site.route([("delay-1", 10_000, [a.address])], wait=["gateway-0"])
    return site, gateway.address


def send(address: str, body: bytes, path: str = PATH) -> Reply:
    return call(address, "POST", path, body)


def test_an_answer_and_its_record(one: tuple[Site, str]) -> None:
    """An answer carries id, revision and overhead; its record holds inputs and outputs as they were."""
    site, address = one
    reply = send(address, infer_body(X, "first one"))
    assert reply.status == 200
    assert reply.json()["id"] == "first one"
    assert reply.headers["x-request-id"] == "first%20one"
    assert reply.headers["x-mainspring-revision"] == "delay-1"
    assert 0 < int(reply.headers["x-mainspring-overhead-us"]) < 1_000_000
    [record] = [r for r in site.records() if r["id"] == "first one"]
    assert record["outputs"] == reply.json()["outputs"]
    assert record["inputs"] == json.loads(infer_body(X))["inputs"]
    assert record["status"] == 200
    assert record["tries"] == 1
    assert record["compute"] > 0
    assert abs(record["at"] - time.time()) < 60


def test_made_ids_are_echoed(one: tuple[Site, str]) -> None:
    """Without an id the gateway makes one: in the header, the body and the record."""
    site, address = one
    plain = infer_body(X)
    for body in (plain, plain.replace(b"{", b'{"id": "",', 1), plain.replace(b"{", b'{"id": null,', 1)):
        reply = send(address, body)
        id = reply.headers["x-request-id"]
        assert len(id) == 32
        assert reply.json()["id"] == id
        assert any(r["id"] == id for r in site.records())


def test_canary_shares(world: tuple[Site, Process, Process, Process]) -> None:
    """Shares are what the weights say; a request resent under its id gets the same revision."""
    site, gateway, a, b = world
    site.route([("delay-1", 9_000, [a.address]), ("delay-2", 1_000, [b.address])], wait=["gateway-0"])
    bodies = [infer_body(X, f"share-{i}") for i in range(1000)]
    for _ in range(2):
        replies = asyncio.run(post_all(lambda: gateway.address, PATH, bodies, at_once=8))
        assert {r.status for r in replies} == {200}
        assert 70 <= sum(r.headers["x-mainspring-revision"] == "delay-2" for r in replies) <= 130
    seen: dict[str, set[str]] = {}
    for record in site.records():
        seen.setdefault(record["id"], set()).add(record["revision"])
    assert all(len(revisions) == 1 for id, revisions in seen.items() if id.startswith("share-"))


def test_mirror_pairs(world: tuple[Site, Process, Process, Process]) -> None:
    """At 100 % each live answer gets a mirror record of the other version; at a share, that share."""
    site, gateway, a, b = world
    both = [("delay-1", 10_000, [a.address]), ("delay-2", 0, [b.address])]
    for prefix, share, low, high in (("all", 10_000, 200, 200), ("half", 5_000, 70, 130)):
        site.route(both, mirror="delay-2", mirror_share=share, wait=["gateway-0"])
        bodies = [infer_body(X, f"{prefix}-{i}") for i in range(200)]
        replies = asyncio.run(post_all(lambda: gateway.address, PATH, bodies))
        assert {(r.status, r.headers["x-mainspring-revision"]) for r in replies} == {(200, "delay-1")}
        assert call(gateway.address, "GET", "/internal/quiesce?timeout=10").json() == {"quiet": True, "owed": 0}
        records = [r for r in site.records() if r["id"].startswith(f"{prefix}-")]
        owing = {r["id"] for r in records if r["role"] == "live" and r["owes"] == "delay-2"}
        copies = [r for r in records if r["role"] == "mirror"]
        assert low <= len(owing) <= high
        assert {r["id"] for r in copies} == owing
        assert len(copies) == len(owing)
        assert {(r["status"], r["revision"], r["version"]) for r in copies} == {(200, "delay-2", "2")}
        assert all(r["outputs"] for r in copies)


def test_mirror_never_hurts(world: tuple[Site, Process, Process, Process]) -> None:
    """A mirror that nobody answers for is settled when its revision goes, and live traffic never waits."""
    site, gateway, a, _ = world
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{nobody.getsockname()[1]}"
        both = [("delay-1", 10_000, [a.address]), ("delay-9", 0, [dead])]
        site.route(both, mirror="delay-9", mirror_share=10_000, wait=["gateway-0"])
        started = time.monotonic()
        for i in range(5):
            assert send(gateway.address, infer_body(X, f"dead-{i}")).status == 200
        assert time.monotonic() - started < 2
        assert not call(gateway.address, "GET", "/internal/quiesce?timeout=0.05").json()["quiet"]
        site.route([("delay-1", 10_000, [a.address])], wait=["gateway-0"])
        assert call(gateway.address, "GET", "/internal/quiesce").json()["quiet"]
    copies = [r for r in site.records() if r["id"].startswith("dead-") and r["role"] == "mirror"]
    assert [r["status"] for r in copies] == [0] * 5


def test_event_time(world: tuple[Site, Process, Process, Process]) -> None:
    """With `clock: request` a request carries its own time, for feedback too; else the wall's counts."""
    site, gateway, a, _ = world
    for clock, at, expected in (("request", 1.36e9, 1.36e9), ("request", "soon", None), ("wall", 1.36e9, None),
                                ("request", 1e300, None)):  # fmt: skip
        site.route([("delay-1", 10_000, [a.address])], clock=clock, wait=["gateway-0"])
        assert send(gateway.address, infer_body(X, "timed", parameters={"at": at})).status == 200
        told = json.dumps({"feedback": [{"id": "timed", "truth": {"late": True, "by": 3.5}, "at": at}]}).encode()
        assert send(gateway.address, told, "/v2/models/delay/feedback").json() == {"accepted": 1}
        for record in (site.records()[-1], site.records("t")[-1]):
            assert record["id"] == "timed"
            assert record["at"] == expected if expected else abs(record["at"] - time.time()) < 60
    assert site.records("t")[-1]["truth"] == {"late": 1.0, "by": 3.5}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "Input data was truncated"),
        (b"{", 400, "not a request"),
        (b"[]", 400, "not a request"),
        (b'{"inputs": 1}', 400, "not a request"),
        (b'{"id": 5, "inputs": []}', 400, "id"),
        (b'{"id": "\\ud800", "inputs": []}', 400, ""),
        (json.dumps({"id": "x" * 300, "inputs": []}).encode(), 400, "256"),
        (b'{"inputs": [{"name":"x0","shape":[1],"datatype":"FP64","data":[NaN]}]}', 400, "NaN"),
        (b'{"inputs": [{"name":"x0","shape":[1],"datatype":"FP64","data":[-Infinity]}]}', 400, "Infinity"),
        (b'{"inputs": []}', 400, "missing"),
        (infer_body(X | {"x4": 1}), 400, "there is no input `x4`"),
        (infer_body({"x0": 1.0}), 400, "`x1`, `x2`, `x3`"),
        (infer_body(X, datatypes={"x1": "INT64"}), 400, "is FP64, not `INT64`"),
        (infer_body(X | {"x1": "a"}), 400, "which is not FP64"),
        (infer_body(X | {"x1": True}), 400, "which is not FP64"),
        (infer_body(X | {"x1": {"a": 1}}), 400, "which is not FP64"),
        (infer_body(X | {"x1": 10**400}), 400, ""),
        (infer_body(X, outputs=[{"name": "other"}]), 400, "there is no output `other`"),
        (infer_body(X).replace(b"[1]", b"[2]"), 400, "its shape says 2"),
        (infer_body(X).replace(b"[1]", b"[1, 2]"), 400, "[n] or [n, 1]"),
        (infer_body(X).replace(b"[1]", b"[-1]"), 400, "shape says -1"),
        (infer_body(X).replace(b'"x1"', b'"x0"'), 400, "twice"),
        (b'{"inputs":' + b"[" * 100_000, 400, ""),
        (b'{"inputs": "\xff\xfe"}', 400, ""),
    ],
)  # fmt: skip
def test_bad_bodies(one: tuple[Site, str], body: bytes, status: int, says: str) -> None:
    """A bad request gets a 4xx that says what is wrong, and the next good one an answer."""
    _, address = one
    reply = send(address, body)
    assert reply.status == status
    assert says in reply.json()["error"]
    assert send(address, infer_body(X)).status == 200


def raw(address: str, *parts: bytes) -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        for part in parts:
            try:
                sock.sendall(part)
            except OSError:
                break
        sock.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while chunk := sock.recv(65536):
                got += chunk
        except OSError:
            pass
        return got


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"\x16\x03\x01\x02\x00\x01\x00"], 400),
        ([b"GET / HTTP/1.1\r\nhost : x\r\n\r\n"], 400),
        ([b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"], 400),
        ([b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd"], 400),
        ([b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n"], 400),
        ([b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n"], 400),
        ([b"POST /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n"], 413),
        ([b"POST /v2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"]
         + [b"100000\r\n" + b"a" * 0x100000 + b"\r\n"] * 9, 413),
        ([b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 70_000 + b"\r\n\r\n"], 431),
        ([b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 12_000 + b"\r\n"], 431),
        ([b"GET /v2 HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"], 400),
        ([b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], 404),
        ([b"PUT /v2 HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"], 405),
        ([b"GET /v2/models/delay/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], 405),
        ([b"GET /v2/models/%2e%2e/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"], 404),
    ],
)  # fmt: skip
def test_bad_framing(one: tuple[Site, str], parts: list[bytes], status: int) -> None:
    """What is not strict HTTP/1.1, or too large, is refused; others are served on."""
    _, address = one
    answer = raw(address, *parts)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"\r\ncontent-type: ") == 1
    assert send(address, infer_body(X)).status == 200


def test_pipelined_requests(one: tuple[Site, str]) -> None:
    """Requests sent at once on a connection are answered in their order."""
    _, address = one
    parts = b""
    for i in range(30):
        body = infer_body(X, f"pipe-{i}")
        parts += b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(parts)
        got = b""
        while got.count(b"HTTP/1.1 200 OK") < 30 or b'"pipe-29"' not in got:
            got += sock.recv(65536)
    order = [got.index(b'"id":"pipe-%d"' % i) for i in range(30)]
    assert order == sorted(order)


def test_feedback_is_checked(one: tuple[Site, str]) -> None:
    """Feedback that is none gets a 400 with an example; many outcomes go in one call."""
    site, address = one
    path = "/v2/models/delay/feedback"
    for bad in (b"{}", b'{"feedback": [{"id": 1}]}', b'{"feedback": [{"id": "", "truth": {"late": 1}}]}',
                b'{"feedback": [{"id": "a", "truth": {"late": "yes"}}]}',
                b'{"feedback": [{"id": "a", "truth": {"a": NaN}}]}'):  # fmt: skip
        assert send(address, bad, path).status == 400
    many = json.dumps({"feedback": [{"id": f"f{i}", "truth": {"late": i % 2}} for i in range(500)]}).encode()
    assert send(address, many, path).json() == {"accepted": 500}
    assert len([r for r in site.records("t") if r["id"].startswith("f")]) == 500


def test_log_lines_hold_hostile_content(one: tuple[Site, str]) -> None:
    """Line ends and control characters in a request never break a record or a header."""
    site, address = one
    id = 'a\r\nx-evil: 1\n{"k":"t"} \u00e9\u2028'
    body = json.dumps(json.loads(infer_body(X, id)), indent=2).encode().replace(b"\n", b"\r\n")
    reply = send(address, body)
    assert reply.status == 200
    assert "x-evil" not in reply.headers
    assert reply.json()["id"] == id
    assert [r["status"] for r in site.records() if r["id"] == id] == [200]


def test_metadata_and_metrics(one: tuple[Site, str]) -> None:
    """Health, metadata and metrics answer, with labels only of the route table."""
    _, address = one
    send(address, infer_body(X))
    send(address, infer_body(X), "/v2/models/made-up/infer")
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/delay", "/v2/models/delay/ready"):
        assert call(address, "GET", path).status == 200
    text = call(address, "GET", "/metrics").body.decode()
    assert 'mainspring_requests_total{endpoint="delay",revision="delay-1",role="live"}' in text
    assert "made-up" not in text


def test_bad_routes_keep_the_last_good(one: tuple[Site, str]) -> None:
    """A half-written, foreign or missing route file changes nothing; the next good one is taken."""
    site, address = one
    path = site.folder / "routes.json"
    good = path.read_text()
    for bad in (good[: len(good) // 2], "[]", '{"epoch": "x", "endpoints": {}}', ""):
        path.write_text(bad)
        time.sleep(0.12)
        assert send(address, infer_body(X)).status == 200
    path.unlink()
    time.sleep(0.12)
    assert send(address, infer_body(X)).status == 200
    replicas: list[Any] = json.loads(good)["endpoints"]["delay"]["revisions"][0]["replicas"]
    site.route([("delay-1", 10_000, replicas)], wait=["gateway-0"])


def test_holding(world: tuple[Site, Process, Process, Process]) -> None:
    """With no replica a request waits; it is answered when one comes, or told why not when time is up."""
    site, gateway, a, _ = world
    site.route([("delay-1", 10_000, [])], timeout_s=0.2, queue=3, wait=["gateway-0"])
    reply = send(gateway.address, infer_body(X))
    assert reply.status == 503
    assert "no replica of `delay-1` is ready" in reply.json()["error"]
    assert reply.headers["retry-after"] == "1"
    site.route([("delay-1", 10_000, [])], timeout_s=10, queue=3, wait=["gateway-0"])

    async def held() -> list[Reply]:
        sending = asyncio.ensure_future(
            post_all(lambda: gateway.address, PATH, [infer_body(X, f"held-{i}") for i in range(5)], at_once=5)
        )
        await asyncio.sleep(0.3)
        await asyncio.to_thread(site.route, [("delay-1", 10_000, [a.address])], queue=3)
        return await sending

    replies = asyncio.run(held())
    assert sorted(r.status for r in replies) == [200, 200, 200, 503, 503]
    assert all("`queue`" in r.json()["error"] for r in replies if r.status == 503)
