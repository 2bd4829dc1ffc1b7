"""What a gateway writes down for rollouts: whose request, from where, by which replica; who failed it; what ended."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mainspring.loop.readings import ArmsQuery
from mainspring.monitoring.predictions import PredictionStore
from mainspring.testing.serving import Process, Reply, Site, call, infer_body
from mainspring.testing.stage import Stage, busy, within
from mainspring.testing.streaming import ask_now, chat

FEEDBACK = "/v2/models/chat/feedback"


class Pair(Stage):
    """A gateway before two revisions of `chat`."""

    def route_two(self, old: list[str | Process], new: list[str | Process], share: int, **more: Any) -> None:
        """Send `share` of 10,000 to `chat-2`, the rest to `chat-1`."""
        rows: list[tuple[str, int, list[str | Process]]] = [("chat-1", 10_000 - share, old), ("chat-2", share, new)]
        fields: dict[str, Any] = {"kind": "language", "timeout_s": 20.0, "first_s": 5.0, "idle_s": 0.5}
        self.site.route(rows, "chat", wait=[self.gateway.name], **(fields | more))

    def words(self) -> list[float]:
        """Up to when the gateway said that requests have ended, in order."""
        return [record["at"] for record in self.site.records("w") if record["endpoint"] == "chat"]

    def rate(self, body: object) -> Reply:
        """Give feedback."""
        return call(self.address, "POST", FEEDBACK, json.dumps(body).encode())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A gateway that outlives all of it."""
    with Site(tmp_path_factory.mktemp("evidence")) as site:
        site.route([("chat-1", 10_000, [])], "chat", kind="language")
        gateway = site.gateway("gateway-0", *site.exits)
        gateway.wait_ready()
        yield Pair(site, gateway)
        assert gateway.popen.poll() is None, "the gateway itself has ended"
        assert "Traceback" not in gateway.log.read_text()


def test_a_language_request_says_what_rollouts_ask(pair: Pair) -> None:
    """Replica, region, user and length of the prompt are told; the user's name is not, and one revision needs none."""
    [old], [new] = pair.fakes(1), pair.fakes(1)
    near = {"us": ["us", "eu"], "eu": ["eu", "us"]}
    regions = {old.address: "us", new.address: "eu"}
    pair.route_two([old], [new], 10_000, split="user", near=near, regions=regions, home="us")
    for id, user in (("ev-1", "ada lovelace"), ("ev-2", "ada lovelace"), ("ev-3", "grace")):
        headers = {"x-request-id": id} | ({"x-mainspring-region": "eu"} if id == "ev-2" else {})
        assert ask_now(pair.address, chat("hello " * 100, user=user), headers=headers).is_done
    assert pair.ask("hello", "ev-4").is_done
    one, two, three, four = (pair.record(f"ev-{i}") for i in range(1, 5))
    assert (one["replica"], one["region"], two["region"], one["failed"]) == (new.name, "us", "eu", "")
    assert re.fullmatch("[0-9a-f]{12}", one["unit"])
    assert one["unit"] == two["unit"] != three["unit"]
    assert four["unit"] == "", "nobody was named"
    assert one["asked"] > four["asked"] > 0
    assert not any(b"lovelace" in path.read_bytes() for path in pair.site.folder.glob("segments/*"))
    pair.route([old])
    assert pair.ask("hello", "ev-5").is_done
    assert pair.record("ev-5")["asked"] == 0


def test_a_prediction_says_them_too(site: Site) -> None:
    """The session that its revision is chosen by is told as a unit, and the replica by its name."""
    replica = site.replica(site.folder / "a", "delay-1-7")
    replica.wait_ready()
    gateway = site.gateway("gateway-9")
    address = gateway.wait_ready()
    site.route([("delay-1", 10_000, [replica])], split="x-session", wait=["gateway-9"])
    body = infer_body({f"x{i}": 0.5 for i in range(4)}, "ev-10")
    assert call(address, "POST", "/v2/models/delay/infer", body, {"x-session": "s-1"}).status == 200
    [record] = [record for record in site.records() if record["id"] == "ev-10"]
    assert (record["replica"], len(record["unit"]), record["region"]) == ("delay-1-7", 12, "")
    [own] = site.folder.glob("segments/gateway-9-*.jsonl")
    time.sleep(0.8)
    assert b'"k":"w"' not in own.read_bytes().partition(b"ev-10")[2], "one revision: nothing is compared"
    gateway.stop()


def test_who_leaves_is_told_where_versions_are_compared(site: Site) -> None:
    """A client that gives up has a record then, with how long its request was with a replica: a hang isn't unseen."""
    gateway = site.gateway("gateway-8")
    host, _, port = gateway.wait_ready().rpartition(":")
    site.route([("delay-1", 0, []), ("delay-2", 10_000, [])], wait=["gateway-8"])
    body = infer_body({"x0": 0.5}, "left-1")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /v2/models/delay/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(0.2)
    within(5.0, lambda: any(record["id"] == "left-1" for record in site.records()))
    [record] = [record for record in site.records() if record["id"] == "left-1"]
    assert (record["revision"], record["status"], record["upstream"], record["inputs"]) == ("delay-2", 499, 0.0, None)
    gateway.stop()


def test_who_failed_a_request_stays_on_record(pair: Pair, tmp_path: Any) -> None:
    """The candidate's last replica dies with a request: the control answers it, and it is the candidate's error."""
    [old], [new] = pair.fakes(1), pair.fakes(1)
    pair.route_two([old], [new], 10_000)
    started = time.time()

    async def run() -> Any:
        task = asyncio.create_task(pair.asking("fake:first-ms=400", "failed-1"))
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(busy, [new]) is new
        new.kill()
        await asyncio.sleep(0.3)
        await asyncio.to_thread(pair.route_two, [old], [], 0)
        return await task

    assert asyncio.run(run()).is_done
    record = pair.record("failed-1")
    assert (record["revision"], record["failed"], record["tries"]) == ("chat-1", "chat-2", 2)
    assert record["replica"] == old.name
    found = arms(pair, tmp_path, started)
    assert [(s.candidate.requests, s.candidate.errors, s.control.requests) for s in found.slices] == [(1, 1, 0)]


def test_a_replica_that_ended_with_a_request_failed_it(pair: Pair, tmp_path: Any) -> None:
    """Though another replica of the same version answers: else the version with more replicas would fail less often.

    Also where its connection had been used before.
    """
    old, [new] = pair.fakes(2), pair.fakes(1)
    pair.route_two([*old], [new], 0)
    for i in range(4):
        assert pair.ask("hello", f"warm-{i}").is_done
    started = time.time()

    async def run() -> Any:
        task = asyncio.create_task(pair.asking("fake:first-ms=400", "again-1"))
        await asyncio.sleep(0.1)
        (await asyncio.to_thread(busy, old)).kill()
        return await task

    assert asyncio.run(run()).is_done
    record = pair.record("again-1")
    assert (record["revision"], record["failed"], record["tries"]) == ("chat-1", "chat-1", 2)
    found = arms(pair, tmp_path, started)
    assert [(s.candidate.requests, s.control.requests, s.control.errors) for s in found.slices] == [(0, 1, 1)]


def test_a_cut_stream_is_an_error(pair: Pair, tmp_path: Any) -> None:
    """A stream that ends before its end counts against its revision, though its status line said 200."""
    [old], [new] = pair.fakes(1), pair.fakes(1)
    pair.route_two([old], [new], 10_000)
    started = time.time()
    assert pair.ask("fake:reset-mid-stream", "cut-1").is_cut
    assert pair.ask("fake:stall-mid-stream", "cut-2").is_cut
    assert pair.ask("hello", "cut-3").is_done
    found = arms(pair, tmp_path, started)
    assert sum(s.candidate.requests for s in found.slices) == 3
    assert sum(s.candidate.errors for s in found.slices) == 2
    assert sum(n for s in found.slices for _, n in s.candidate.times) == 1


def arms(pair: Pair, tmp_path: Any, started: float) -> Any:
    """What the store says of both arms since `started`, once the gateway has said that all of it has ended."""
    now = time.time()
    within(5.0, lambda: max(pair.words(), default=0.0) > now)
    store = PredictionStore(tmp_path / "predictions.db", pair.site.folder / "segments", lambda *_: None)
    store.ingest({pair.gateway.name})
    asking = ArmsQuery("chat", "chat-2", ("chat-1",), "", started, now + 60.0, now - started, started)
    found = store.samples([asking])[asking]
    store.close()
    return found


def test_the_gateway_says_what_has_ended(pair: Pair) -> None:
    """Its word stands still while a request is on its way, waiting ones included, and comes after its record."""
    [old], [new] = pair.fakes(1), pair.fakes(1)
    pair.route_two([old], [new], 5_000)

    async def run(prompt: str, id: str) -> tuple[float, float]:
        before = time.time()
        task = asyncio.create_task(pair.asking(prompt, id))
        await asyncio.sleep(1.3)
        return before, (pair.words()[-1], await task)[0]

    before, said = asyncio.run(run("fake:first-ms=1600", "open-1"))
    assert before - 0.1 <= said <= pair.record("open-1")["at"]
    within(5.0, lambda: pair.words()[-1] > pair.record("open-1")["at"])
    lines = [json.loads(line) for line in segment(pair).read_bytes().splitlines()]
    ended = next(i for i, line in enumerate(lines) if line.get("id") == "open-1")
    passed = next(i for i, line in enumerate(lines) if line["k"] == "w" and line["at"] > lines[ended]["at"])
    assert ended < passed, "its record is written before the word that it has ended"
    pair.route_two([old], [], 10_000, hold_s=1.6)
    before, said = asyncio.run(run("hello", "held-1"))
    assert before - 0.1 <= said <= pair.record("held-1")["at"]
    assert pair.record("held-1")["status"] == 503


def segment(pair: Pair) -> Any:
    """The gateway's record file."""
    [path] = pair.site.folder.glob("segments/*.jsonl")
    return path


@pytest.fixture
def once() -> Iterator[str]:
    """A server that answers one request on each connection, and closes it when a second comes: as idle ones end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer_once, args=(server, SAID, 0), daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _answer_once(server: socket.socket, said: bytes, deaths: int) -> None:
    """Answer one request of each connection; the first `deaths` get none."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # the test is over
        with connection, connection.makefile("rb") as stream:
            lines = list(iter(stream.readline, b"\r\n"))
            if lines[-1:] == [b""]:
                continue
            stream.read(next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")))
            deaths -= 1
            if deaths < 0:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))
                stream.readline()


SAID = json.dumps(
    {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
).encode()


def test_a_copy_that_found_an_idle_connection_closed_is_sent_again(pair: Pair, once: str) -> None:
    """As a live request is: it tells nothing of the version, and a rare canary meets it more often than the old one."""
    [old] = pair.fakes(1)
    pair.route_two([old], [once], 0, mirror="chat-2", mirror_share=10_000)
    tries = []
    for i in range(3):
        assert pair.ask("hello", f"idle-{i}").is_done
        within(5.0, lambda i=i: len(copies(pair, f"idle-{i}")) == 1)  # type: ignore[misc]
        [copy] = copies(pair, f"idle-{i}")
        assert (copy["status"], copy["failed"]) == (200, "")
        tries.append(copy["tries"])
    assert max(tries) == 2, "no connection was used again"


def test_a_copy_whose_first_try_failed_says_so(site: Site) -> None:
    """A copy of a prediction is tried again, so that a pair is not lost; that it had failed counts all the same."""
    replica = site.replica(site.folder / "a", "delay-1-7")
    replica.wait_ready()
    gateway = site.gateway("gateway-7")
    address = gateway.wait_ready()
    said = json.dumps({"outputs": [{"name": "p", "shape": [1], "datatype": "FP64", "data": [0.5]}]}).encode()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer_once, args=(server, said, 1), daemon=True).start()
        new = f"127.0.0.1:{server.getsockname()[1]}"
        rows: list[tuple[str, int, list[str | Process]]] = [("delay-1", 10_000, [replica]), ("delay-2", 0, [new])]
        site.route(rows, mirror="delay-2", mirror_share=10_000, wait=["gateway-7"])
        body = infer_body({f"x{i}": 0.5 for i in range(4)}, "twice-1")
        assert call(address, "POST", "/v2/models/delay/infer", body).status == 200
        within(5.0, lambda: any(one["id"] == "twice-1" and one["role"] == "mirror" for one in site.records()))
    [copy] = [one for one in site.records() if one["id"] == "twice-1" and one["role"] == "mirror"]
    assert (copy["status"], copy["tries"], copy["failed"]) == (200, 2, "delay-2")
    gateway.stop()


def copies(pair: Pair, id: str) -> list[dict[str, Any]]:
    """The records of a request's copies."""
    return [one for one in pair.site.records() if one["id"] == id and one["role"] == "mirror"]


def test_the_gateway_says_which_copies_have_ended(pair: Pair) -> None:
    """While a copy is on its way, or has just been owed, its request's time is not over for copies."""
    [old], [new] = pair.fakes(1), pair.fakes(1, "--first-ms", "1500")
    pair.route_two([old], [new], 0, mirror="chat-2", mirror_share=10_000)
    time.sleep(1.2)
    assert pair.ask("hello", "copied-1").is_done
    came = pair.record("copied-1")["at"]
    time.sleep(0.9)
    words = [one for one in pair.site.records("w") if one["at"] > came]
    assert words
    assert all(0.0 < one["copies"] <= came for one in words)
    within(5.0, lambda: len(copies(pair, "copied-1")) == 1)
    lines = len(segment(pair).read_bytes().splitlines())
    within(5.0, lambda: max(one["copies"] for one in pair.site.records("w")) > came)
    before = [json.loads(line) for line in segment(pair).read_bytes().splitlines()[:lines]]
    assert max(one["copies"] for one in before if one["k"] == "w") <= came, "its record is written before the word"


def test_ratings_are_taken(pair: Pair) -> None:
    """Any field from 0 to 1 is taken for a language endpoint, by the id of the answer."""
    [old] = pair.fakes(1)
    pair.route([old])
    given = [{"id": "rate-1", "truth": {"score": 0.8, "kept": True}}, {"id": "rate-2", "truth": {"score": 0, "by": 3}}]
    assert pair.rate({"feedback": given}).json() == {"accepted": 2}
    told = {record["id"]: record["truth"] for record in pair.site.records("t")}
    assert (told["rate-1"], told["rate-2"]) == ({"score": 0.8, "kept": 1.0}, {"score": 0.0, "by": 3.0})


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ({"id": "r", "truth": {"score": 7}}, "`score` of `r` is `7`, and has to be from 0 to 1"),
        ({"id": "r", "truth": {"score": -0.1, "by": 2}}, "`score` of `r` is `-0.1`"),
        ({"id": "r", "truth": {"score": 1e400}}, "not feedback"),
        ({"id": "r", "truth": {"score": "good"}}, "not feedback"),
        ({"id": "r", "truth": {}}, "the outcome of `r` has 0 fields"),
        ({"id": "r", "truth": {f"f{i}": 1 for i in range(17)}}, "may have 1 to 16"),
        ({"id": "r", "truth": {"": 1}}, "a field of `r` has a name of 0 characters"),
        ({"id": "", "truth": {"score": 1}}, "an `id` has 1 to 256 characters, not 0"),
    ],
)
def test_what_is_no_rating_is_refused(pair: Pair, outcome: dict[str, Any], said: str) -> None:
    """Refused as a whole call, with the value in the words; nothing of it is written."""
    reply = pair.rate({"feedback": [{"id": "fine", "truth": {"score": 1}}, outcome]})
    assert reply.status == 400
    assert said in reply.json()["error"]
    assert not [record for record in pair.site.records("t") if record["id"] in ("fine", "r", "")]
