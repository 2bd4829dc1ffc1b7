"""A server elsewhere that fails: each fault is an answer of its own, and no fault reaches another host or request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mainspring.testing.elsewhere import HEADERS, OWN, Scripted, answered, fake, forwarder
from mainspring.testing.serving import Site, call
from mainspring.testing.streaming import ask_now, chat, raw


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder with processes."""
    with Site(tmp_path / "site") as made:
        yield made


@pytest.mark.parametrize(
    ("fault", "status"),
    [("garbage", 502), ("close-before-first", 502), ("reset-before-first", 502), ("short-body", 502),
     ("endless-headers", 502), ("error-500", 500), ("error-429", 429), ("never-answer", 504)],
)  # fmt: skip
def test_faults_of_the_server(site: Site, fault: str, status: int) -> None:
    """Each way to fail is an answer of its own, and the next request is answered."""
    behind = fake(site)
    process = forwarder(site, f"http://{behind.address}", "openai", "far-1-0", "--timeout", "1", key="env:FAR_KEY")
    address = process.wait_ready()
    told = ask_now(address, chat(f"fake:{fault}", stream=False), headers=HEADERS)
    assert told.status == status
    assert told.json()["error"]["message"]
    assert ask_now(address, chat("well?", stream=False), headers=HEADERS).status == 200


@pytest.mark.parametrize("fault", ["reset-mid-stream", "truncated-chunk", "garbage-mid-stream", "stall-mid-stream"])
def test_a_stream_that_breaks_is_not_whole(site: Site, fault: str) -> None:
    """A stream that the server breaks off is broken off for the client too, never ended as if it were whole."""
    behind = fake(site)
    process = forwarder(site, f"http://{behind.address}", "openai", "far-1-0", "--timeout", "1", key="env:FAR_KEY")
    told = ask_now(process.wait_ready(), chat(f"fake:{fault}", stream=True), headers=HEADERS)
    assert told.status == 200
    assert not told.is_whole
    assert not told.is_done


def odd(answer: bytes) -> Callable[[bytes], bytes]:
    """A server that is well, and answers requests oddly."""
    return lambda head: answered(b"{}") if head.startswith(b"GET") else answer


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (answered(b"", b"307 Temporary Redirect", b"location: http://127.0.0.1:1/secret\r\n"), 502, "redirect"),
        (answered(b"{}", b"599 Odd"), 502, "status 599"),
        (answered(b"{}", b"401 Unauthorized"), 502, "refuses its key"),
        (answered(b"xx", more=b"content-encoding: gzip\r\n"), 502, "compresses"),
        (answered(b"{}", more=b"set-cookie: a=b\r\nx-mainspring-compute-us: 99\r\n"), 200, ""),
        (answered(b"{}") + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret", 200, ""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answered(b"{}"), 200, ""),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", 502, "more than"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"100000\r\n%b\r\n" % (b"x" * 2**20) * 40,
            502,
            "more",
        ),
    ],
    ids=["redirect", "odd-status", "key", "gzip", "cookies", "two-answers", "continue", "large", "chunks"],
)
def test_odd_answers(site: Site, answer: bytes, status: int, says: str) -> None:
    """A redirect is not followed, and no cookie, charge or second answer comes through."""
    with Scripted(odd(answer)) as behind:
        address = forwarder(site, f"http://127.0.0.1:{behind.port}", "oip").wait_ready()
        reply = call(address, "POST", "/v2/models/far/infer", b"{}", HEADERS)
        assert reply.status == status, reply
        assert says in reply.json().get("error", "")
        assert not {"set-cookie", "x-mainspring-compute-us", "location"} & set(reply.headers)
        again = call(address, "POST", "/v2/models/far/infer", b"{}", HEADERS)
        assert again.status == status
        assert b"secret" not in reply.body + again.body


def test_absolute_requests_are_not_a_proxy(site: Site) -> None:
    """A request in absolute form, or with another `Host`, asks no other host."""
    with Scripted(lambda _: answered(b"{}")) as behind, Scripted(lambda _: answered(b"{}")) as other:
        address = forwarder(site, f"http://127.0.0.1:{behind.port}", "oip").wait_ready()
        rest = f"authorization: Bearer {OWN}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
        line = f"POST http://127.0.0.1:{other.port}/v2/models/far/infer HTTP/1.1\r\nhost: 127.0.0.1:{other.port}\r\n"
        said = raw(address, (line + rest).encode(), half_close=False)
        assert b" 404 " in said.split(b"\r\n")[0]
        line = f"POST /v2/models/far/infer?u=http://x HTTP/1.1\r\nhost: 127.0.0.1:{other.port}\r\n"
        said = raw(address, (line + rest).encode(), half_close=False)
        assert b" 200 " in said.split(b"\r\n")[0]
        assert other.connections == 0
        assert behind.heads[-1].split(b"\r\n")[:2] == [
            b"POST /v2/models/far/infer HTTP/1.1", b"host: 127.0.0.1:%d" % behind.port,
        ]  # fmt: skip


def test_connections_are_used_again(site: Site) -> None:
    """Requests share a connection, and one that the server has closed meanwhile costs nobody an answer."""
    with Scripted(lambda _: answered(b"{}")) as behind:
        address = forwarder(site, f"http://127.0.0.1:{behind.port}", "oip", health="/h").wait_ready()
        for _ in range(20):
            assert call(address, "POST", "/v2/models/far/infer", b"{}", HEADERS).status == 200
        assert behind.connections <= 2  # one for requests, one for looks
    with Scripted(lambda head: answered(b"{}", more=b"keep-alive: timeout=1\r\n")) as behind:
        behind.closes = True  # after each answer, without having said so
        address = forwarder(site, f"http://127.0.0.1:{behind.port}", "oip", "far-1-1").wait_ready()
        for _ in range(5):
            assert call(address, "POST", "/v2/models/far/infer", b"{}", HEADERS).status == 200


def test_what_nobody_asked_for_is_nobodys_answer(site: Site) -> None:
    """Bytes that a server sends after its answer never become the answer of the next request."""
    with Scripted(lambda head: answered(b'{"of": "%b"}' % head.split(b"x-request-id: ")[-1][:2])) as behind:
        behind.later = answered(b'{"of": "another"}')
        address = forwarder(site, f"http://127.0.0.1:{behind.port}", "oip").wait_ready()
        for at in range(8):
            more = {"x-request-id": f"r{at}"}
            reply = call(address, "POST", "/v2/models/far/infer", b"{}", HEADERS | more)
            assert (reply.status, reply.json()) == (200, {"of": f"r{at}"})
            time.sleep(0.05)


def test_where_the_server_is_stays_in_the_log(site: Site) -> None:
    """A client of a server that is away learns that, and not its address."""
    with Scripted(lambda _: answered(b"{}")) as behind:
        process = forwarder(site, f"http://127.0.0.1:{behind.port}", "oip")
        address, port = process.wait_ready(), behind.port
    reply = call(address, "POST", "/v2/models/far/infer", b"{}", HEADERS)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert str(port) not in reply.body.decode()
    assert f"no connection to `127.0.0.1:{port}`" in process.log.read_text()
