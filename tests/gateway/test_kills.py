"""Processes that are killed while they have requests lose none of them."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import time
from collections import Counter
from pathlib import Path

from mainspring.artefacts.manifest import Field
from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.serving import Process, Reply, Site, call, infer_body, post_all

X = {"x0": 1.0, "x1": 2.0, "x2": 0.25, "x3": -1.5}
PATH = "/v2/models/delay/infer"


def both(site: Site) -> tuple[Process, Process]:
    """A fresh replica and gateway, routed."""
    replica = site.replica(site.folder / "a", f"delay-1-{len(site.processes)}")
    site.route([("delay-1", 10_000, [replica.wait_ready()])])
    name = f"gateway-{len(site.processes)}"
    gateway = site.gateway(name)
    gateway.wait_ready()
    return replica, gateway


def test_replica_is_killed(site: Site) -> None:
    """A kill -9 of the only replica under load: every request is answered once the next one is there."""
    replica, gateway = both(site)

    async def scenario() -> list[Reply]:
        bodies = [infer_body(X, f"rk-{i}") for i in range(1500)]
        got: dict[int, Reply] = {}
        sending = asyncio.ensure_future(post_all(lambda: gateway.address, PATH, bodies, at_once=24, replies=got))
        for round_ in range(2):
            while len(got) < 200 + 500 * round_:
                await asyncio.sleep(0.005)
            site.processes[-1 if round_ else site.processes.index(replica)].kill()
            fresh = site.replica(site.folder / "a", f"delay-1-rk-{round_}")
            address = await asyncio.to_thread(fresh.wait_ready)
            await asyncio.to_thread(site.route, [("delay-1", 10_000, [address])])
        return await sending

    replies = asyncio.run(scenario())
    assert Counter(r.status for r in replies) == {200: 1500}
    records = [r for r in site.records() if r["id"].startswith("rk-")]
    assert Counter(r["status"] for r in records) == {200: 1500}
    assert len({r["id"] for r in records}) == 1500
    assert max(r["tries"] for r in records) <= 2
    assert gateway.stop() == 0


def test_a_request_that_kills(site: Site) -> None:
    """A request that was alone with a replica when that died is not tried on the next: it is a 502."""
    source = (
        "import os\n\n\ndef features(rows):\n    if (rows['x0'] == 666).any():\n        os._exit(9)\n    return rows\n"
    )
    folder = site.folder / "killer"
    tiny_artefact(folder, site.folder / "code", features=source, fields=[Field("x0", "FP64")], columns=["x0"])
    replicas = [site.replica(folder, f"delay-5-{i}", "5") for i in range(3)]
    site.route([("delay-5", 10_000, [r.wait_ready() for r in replicas])])
    gateway = site.gateway("gateway-killer")
    gateway.wait_ready()
    reply = call(gateway.address, "POST", PATH, infer_body({"x0": 666.0}, "poison"))
    assert reply.status == 502
    assert "1 replica of `delay-5` ended" in reply.json()["error"]
    assert call(gateway.address, "POST", PATH, infer_body({"x0": 1.0})).status == 200
    time.sleep(0.05)
    assert [r.popen.poll() for r in replicas].count(None) == 2
    assert [r["tries"] for r in site.records() if r["id"] == "poison"] == [1]
    assert gateway.stop() == 0


def test_gateway_is_killed(site: Site) -> None:
    """A kill -9 of the gateway under load: clients that resend under their ids get all answers, each is logged."""
    _, gateway = both(site)
    current = [gateway]
    name = gateway.name

    async def scenario() -> list[Reply]:
        bodies = [infer_body(X, f"gk-{i}") for i in range(1500)]
        got: dict[int, Reply] = {}
        sending = asyncio.ensure_future(
            post_all(lambda: current[0].address, PATH, bodies, at_once=16, retry=True, replies=got)
        )
        port = gateway.address.rpartition(":")[2]
        for round_ in range(2):
            while len(got) < 200 + 500 * round_:
                await asyncio.sleep(0.005)
            current[0].kill()
            current[0] = fresh = site.gateway(name, "--port", port)
            fresh.address = gateway.address
            await asyncio.to_thread(fresh.wait_ready)
        return await sending

    replies = asyncio.run(scenario())
    assert Counter(r.status for r in replies) == {200: 1500}
    assert {r["id"] for r in site.records() if r["id"].startswith("gk-")} == {f"gk-{i}" for i in range(1500)}
    assert current[0].stop() == 0


def test_owed_copies_survive(site: Site) -> None:
    """Copies owed when the gateway is killed are sent by the next one, each once, and noted as settled."""
    a = site.replica(site.folder / "a", "delay-1-m")
    b = site.replica(site.folder / "b", "delay-2-m", "2")
    gateway = site.gateway("gateway-mirror")
    for process in (a, b, gateway):
        process.wait_ready()
    revisions = [("delay-1", 10_000, [a.address]), ("delay-2", 0, [])]
    site.route(revisions, mirror="delay-2", mirror_share=10_000, wait=["gateway-mirror"])
    bodies = [infer_body(X, f"ow-{i}", parameters={"at": 5}) for i in range(400)]
    assert {r.status for r in asyncio.run(post_all(lambda: gateway.address, PATH, bodies))} == {200}
    gateway.kill()
    [segment] = (site.folder / "segments").glob("gateway-mirror-*.jsonl")
    with segment.open("ab") as torn:
        torn.write(b'{"endpoint":"delay","id":"torn","at":1')
    site.route([revisions[0], ("delay-2", 0, [b.address])], mirror="delay-2", mirror_share=10_000)
    for _ in range(2):  # the second boot owes nothing
        gateway = site.gateway("gateway-mirror")
        address = gateway.wait_ready()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and len(_copies(site)) < 400:
            time.sleep(0.05)
        assert call(address, "GET", "/internal/quiesce?timeout=10").json() == {"quiet": True, "owed": 0}
        assert gateway.stop() == 0
        copies = _copies(site)
        assert {r["id"] for r in copies} == {f"ow-{i}" for i in range(400)}
        assert len(copies) == 400
        assert {(r["status"], r["revision"]) for r in copies} == {(200, "delay-2")}
    live = {r["id"]: r["at"] for r in site.records() if r["id"].startswith("ow-") and r["role"] == "live"}
    assert all(live[r["id"]] == r["at"] for r in copies)


def _copies(site: Site) -> list[dict[str, object]]:
    return [r for r in site.records() if r["id"].startswith("ow-") and r["role"] == "mirror"]


def test_disk_is_full(site: Site) -> None:
    """With no room for records the gateway serves on, counts what it lost, and refuses feedback."""
    replica = site.replica(site.folder / "a", "delay-1-full")
    site.route([("delay-1", 10_000, [replica.wait_ready()])])

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    gateway = site.gateway("gateway-full", before=little_room)
    gateway.wait_ready()
    for i in range(20):
        assert call(gateway.address, "POST", PATH, infer_body(X, f"full-{i}")).status == 200
    text = call(gateway.address, "GET", "/metrics").body.decode()
    lost = int(text.split("mainspring_log_lost_total ")[1].split()[0])
    kept = [r for r in site.records() if r["id"].startswith("full-")]
    assert 0 < len(kept) < 20
    assert lost == 20 - len(kept)
    told = json.dumps({"feedback": [{"id": "full-1", "truth": {"late": 1}}]}).encode()
    assert call(gateway.address, "POST", "/v2/models/delay/feedback", told).status == 503
    assert gateway.stop() == 0
    assert gateway.log.read_text().count("serving goes on") == 1


def test_client_leaves(site: Site) -> None:
    """A client that goes away while it waits frees its place in the queue."""
    gateway = site.gateway("gateway-leave")
    gateway.wait_ready()
    site.route([("delay-1", 10_000, [])], queue=2, wait=["gateway-leave"])
    host, _, port = gateway.address.rpartition(":")
    body = infer_body(X)
    for _ in range(6):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(
                b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
            )
            time.sleep(0.05)
        time.sleep(0.05)
    text = call(gateway.address, "GET", "/metrics").body.decode()
    assert "mainspring_clients_gone_total 6" in text
    assert 'mainspring_inflight{endpoint="delay"} 0' in text
    assert gateway.stop() == 0


def test_drains_on_sigterm(site: Site) -> None:
    """SIGTERM: the announcement goes, a request that is inside is answered, then the end is clean."""
    replica, gateway = both(site)
    site.route([("delay-1", 10_000, [])], wait=[gateway.name])

    async def scenario() -> list[Reply]:
        sending = asyncio.ensure_future(post_all(lambda: gateway.address, PATH, [infer_body(X)], at_once=1))
        await asyncio.sleep(0.2)
        gateway.popen.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert not gateway.announce.exists()
        await asyncio.to_thread(site.route, [("delay-1", 10_000, [replica.address])])
        return await sending

    [reply] = asyncio.run(scenario())
    assert reply.status == 200
    assert gateway.popen.wait(10) == 0


def test_refuses_to_start(site: Site, tmp_path: Path) -> None:
    """A port in use, and a folder that cannot be written, are one clear line and exit status 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = site.gateway("gateway-port", "--port", port)
        assert process.popen.wait(10) == 2
        assert f"error: port `{port}` is in use" in process.log.read_text()
    (tmp_path / "file").write_text("")
    process = site.gateway("gateway-folder", "--segments", str(tmp_path / "file" / "segments"))
    assert process.popen.wait(10) == 2
    assert process.log.read_text().startswith("error: records cannot be written to `")


def test_workers_share_a_port(site: Site) -> None:
    """Two workers take one port, and both log under their names."""
    first = site.gateway("gateway-s1", "--workers-share")
    port = first.wait_ready().rpartition(":")[2]
    second = site.gateway("gateway-s2", "--workers-share", "--port", port)
    assert second.wait_ready() == first.address
    assert first.stop() == second.stop() == 0


def test_replica_refuses_to_start(site: Site) -> None:
    """An artefact that was tampered with is one line on stderr and exit status 2."""
    tiny_artefact(site.folder / "bad", site.folder / "code")
    (site.folder / "bad" / "model.onnx").write_bytes(b"something else")
    process = site.replica(site.folder / "bad", "delay-bad-0")
    assert process.popen.wait(20) == 2
    said = process.log.read_text()
    assert said.startswith("error: ")
    assert "Traceback" not in said
