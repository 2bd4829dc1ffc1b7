"""A server elsewhere, behind the forwarder: what is passed on and what is not, its key, its limits, its health."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.artefacts.external import read_external
from mainspring.artefacts.score import Scorer
from mainspring.errors import EnvironmentError_, InputError
from mainspring.replicas.external.__main__ import key_of
from mainspring.replicas.external.limits import Limits
from mainspring.replicas.external.target import Target, target_of
from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.elsewhere import HEADERS, KEY, OWN, Scripted, answered, fake, forwarder, terminated
from mainspring.testing.language_conformance import LanguageConformance, LanguageServer
from mainspring.testing.serving import Process, Site, call, infer_body
from mainspring.testing.streaming import ask_now, chat

ROW = {f"x{at}": at * 0.5 for at in range(4)}


def stats(process: Process) -> dict[str, Any]:
    """The fake's own counts."""
    found: dict[str, Any] = call(process.address, "GET", "/stats", headers={"authorization": f"Bearer {KEY}"}).json()
    return found


def says(process: Process, text: str) -> None:
    """Wait until its log has this."""
    until = time.monotonic() + 20
    while text not in process.log.read_text():
        assert time.monotonic() < until, process.log.read_text()
        time.sleep(0.02)


class TestConformance(LanguageConformance):
    """An OpenAI server elsewhere passes the whole suite through the forwarder."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
        """The forwarder before the fake, which asks for another key."""
        with Site(tmp_path_factory.mktemp("external")) as site:
            behind = fake(site, "--slots", "2", "--context", "1000")
            process = forwarder(site, f"http://{behind.address}/v1", key="env:FAR_KEY", model="chat")
            yield LanguageServer(process.wait_ready(), key=OWN, slots=2, context=1000)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A folder with processes."""
    with Site(tmp_path / "site") as made:
        yield made


# --- the key, the headers, the model


def test_only_what_is_meant_goes_on(site: Site) -> None:
    """The user's key replaces the gateway's token, the server's own model name what was asked for; cookies end here."""
    behind = fake(site)
    process = forwarder(site, f"http://{behind.address}", key="env:FAR_KEY", model="gpt-far")
    address = process.wait_ready()
    more = {"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "x-request-id": "abc", "te": "trailers"}
    reply = call(address, "POST", "/v1/chat/completions", json.dumps(chat("hi", stream=False)).encode(), HEADERS | more)
    assert reply.status == 200
    last = call(behind.address, "GET", "/last", headers={"authorization": f"Bearer {KEY}"}).body.decode()
    assert KEY in last
    assert "gpt-far" in last
    assert "abc" in last
    assert OWN not in last
    assert "cookie" not in last.lower()
    assert "1.2.3.4" not in last
    assert "trailers" not in last
    assert call(address, "POST", "/v1/chat/completions", b"{}").status == 401
    assert call(address, "POST", "/v1/chat/completions", b"[1]", HEADERS).status == 400
    assert process.stop() == 0
    assert KEY not in process.log.read_text()
    assert OWN not in process.log.read_text()
    assert KEY not in " ".join(process.command)


def test_a_wrong_key_is_not_the_clients_fault(site: Site) -> None:
    """A server that refuses the user's key makes the replica unwell, and says which answer it was."""
    behind = fake(site)
    process = forwarder(site, f"http://{behind.address}", key="env:FAR_KEY", env={"FAR_KEY": "sk-wrong"})
    says(process, "`/v1/models` answers with 401")
    assert not process.announce.exists()


def test_a_key_that_is_not_set_ends_it(site: Site) -> None:
    """Without its variable the process ends with status 2 and names it; a key with a line break is refused."""
    process = forwarder(site, "http://127.0.0.1:9", key="env:FAR_AWAY_KEY")
    assert process.popen.wait(20) == 2
    assert "the variable `FAR_AWAY_KEY` is not set" in process.log.read_text()
    found = read_external({"url": "http://h", "protocol": "oip", "key": "env:FAR_KEY"})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(EnvironmentError_, match="holds no key"):
        patch.setenv("FAR_KEY", "a\r\nhost: evil")
        key_of(found)


def test_another_protocol_than_the_stack_file_says(site: Site) -> None:
    """A stack file that says another protocol than the version has is told so."""
    process = forwarder(site, "http://127.0.0.1:9", "oip", "far-1-0", "--protocol", "openai")
    assert process.popen.wait(20) == 2
    assert "the stack file has `protocol: openai`, and the version speaks `oip`" in process.log.read_text()


# --- paths


FAR = target_of(read_external({"url": "https://h.example/base/v2/", "protocol": "oip", "model": "a/b c"}), "far")


@pytest.mark.parametrize(
    ("url", "protocol", "asked", "made"),
    [
        ("https://h/v1", "openai", "POST /v1/chat/completions", "/v1/chat/completions"),
        ("https://h/x", "openai", "POST /v1/embeddings", "/x/v1/embeddings"),
        ("https://h", "oip", "POST /v2/models/far-1.2/infer", "/v2/models/a%2Fb%20c/infer"),
        ("https://h", "oip", "POST /v2/models/far/versions/3/infer", "/v2/models/a%2Fb%20c/infer"),
        ("https://h", "oip", "GET /v2/models/far", "/v2/models/a%2Fb%20c"),
        ("https://h/p/", "tfserving", "POST /v1/models/far:predict", "/p/v1/models/a%2Fb%20c:predict"),
        ("https://h", "oip1", "GET /v1/models/far", "/v1/models/a%2Fb%20c"),
        ("https://h/p", "torchserve", "POST /predictions/far/1", "/p/predictions/a%2Fb%20c"),
        ("https://h", "openai", "POST /v1/files", None),
        ("https://h", "openai", "GET /v1/chat/completions", None),
        ("https://h", "oip", "POST /v2/repository/models/far/unload", None),
        ("https://h", "oip", "POST /v2/models/../infer/infer", None),
        ("https://h", "torchserve", "POST /predictions/a/../../models", None),
        ("https://h", "oip", "POST http://evil/v2/models/far/infer", None),
        ("https://h", "oip", "POST //evil/v2/models/far/infer", None),
    ],
)
def test_paths(url: str, protocol: str, asked: str, made: str | None) -> None:
    """A path of the protocol is made anew below the URL, with the server's own model name; others are none."""
    target = target_of(read_external({"url": url, "protocol": protocol, "model": "a/b c"}), "far")
    assert target.path(*asked.split(" ")) == made


@given(st.sampled_from(["GET", "POST", "DELETE"]), st.text(st.characters(codec="latin-1"), max_size=60))
def test_no_path_leaves_the_list(method: str, asked: str) -> None:
    """Whatever is asked, what is sent is one of a few paths below the prefix."""
    for path in (asked, f"/v2/models/{asked}/infer", f"/v2/models/far{asked}"):
        made = FAR.path(method, path)
        allowed = {f"/base/v2/models/a%2Fb%20c{tail}" for tail in ("", "/infer", "/ready")}
        assert made is None or made in allowed | {"/base/v2/health/live", "/base/v2/health/ready"}


def test_hosts() -> None:
    """Host, port, the `Host` header and IPv6 are as the URL has them; other scripts become ASCII."""

    def of(url: str) -> Target:
        return target_of(read_external({"url": url, "protocol": "oip"}), "far")

    assert (of("https://h.example").port, of("https://h.example:443").authority) == (443, "h.example")
    assert (of("http://h:81").port, of("http://h:81").authority) == (81, "h:81")
    assert (of("http://[::1]:81").host, of("http://[::1]:81").authority) == ("::1", "[::1]:81")
    assert of("https://bücher.example").host == "xn--bcher-kva.example"
    assert of("http://h").health == "/v2/health/ready"
    with pytest.raises(InputError, match="no host"):
        of("https://" + "a" * 70 + ".example")


# --- limits


def test_limits_by_the_clock() -> None:
    """A burst of one second's worth, then as fast as the rate; the wait that is told is long enough."""
    limits = Limits(0, 2.0)
    assert [limits.enter(0.0) for _ in range(3)] == [0, 0, 1]
    assert limits.enter(0.5) == 0
    slow = Limits(0, 0.1)
    assert slow.enter(0.0) == 0
    wait = slow.enter(1.0)
    assert wait == 9
    assert slow.enter(1.0 + wait) == 0
    few = Limits(2, None)
    assert [few.enter(0.0) for _ in range(3)] == [0, 0, 1]
    few.leave()
    assert few.enter(0.0) == 0


def test_limits_of_a_server(site: Site) -> None:
    """More at once than the version's limit is a 429 with `Retry-After`, and the server sees none of it."""
    behind = fake(site, "--first-ms", "2000")
    address = forwarder(site, f"http://{behind.address}", key="env:FAR_KEY", at_once=2).wait_ready()
    body = json.dumps(chat("hi", stream=False)).encode()
    found: list[tuple[int, str]] = []

    def one() -> None:
        reply = call(address, "POST", "/v1/chat/completions", body, HEADERS)
        found.append((reply.status, reply.headers.get("retry-after", "")))

    threads = [threading.Thread(target=one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(200, ""), (200, ""), (429, "1"), (429, "1"), (429, "1")]
    assert stats(behind)["requests"] == 2
    assert call(address, "POST", "/v1/chat/completions", body, HEADERS).status == 200


# --- streams


def test_a_stream_is_not_held_back(site: Site) -> None:
    """Events come while the server still writes, and a client that leaves is gone for the server too."""
    behind = fake(site, "--gap-ms", "300", "--tokens", "40")  # 12 s
    address = forwarder(site, f"http://{behind.address}", key="env:FAR_KEY").wait_ready()
    started = time.monotonic()
    sock = socket.create_connection(address.rsplit(":", 1))
    content = json.dumps(chat("hi", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWN}\r\n"
    sock.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content)
    seen = b""
    while seen.count(b"data: ") < 3:
        seen += sock.recv(4096)
    assert time.monotonic() - started < 6
    assert b"text/event-stream" in seen
    sock.close()
    until = time.monotonic() + 20
    while stats(behind)["cancelled"] < 1:
        assert time.monotonic() < until, "the server was not told that nobody waits"
        time.sleep(0.05)
    metrics = call(address, "GET", "/metrics", headers=HEADERS).body.decode()
    assert "mainspring_replica_running 0" in metrics


@pytest.mark.parametrize(("drain", "whole"), [("20", True), ("0.2", False)])
def test_it_ends_what_it_has_begun(site: Site, drain: str, whole: bool) -> None:
    """SIGTERM withdraws it at once; a stream that runs ends as it would, or is cut off when its time is up."""
    behind = fake(site, "--gap-ms", "100", "--tokens", "15")
    process = forwarder(site, f"http://{behind.address}", "openai", "far-1-0", "--drain", drain, key="env:FAR_KEY")
    address, told = process.wait_ready(), []
    thread = threading.Thread(target=lambda: told.append(ask_now(address, chat("hi", stream=True), headers=HEADERS)))
    thread.start()
    while not stats(behind)["streams"]:
        time.sleep(0.01)
    assert process.stop() == 0
    thread.join()
    assert not process.announce.exists()
    assert (told[0].is_whole, told[0].is_done) == (whole, whole)


def test_a_slow_reader_stops_the_server(site: Site) -> None:
    """What a client does not read stays with the server: the forwarder's memory does not grow with the stream."""
    behind = fake(site, "--tokens", "400000")
    process = forwarder(site, f"http://{behind.address}", key="env:FAR_KEY")
    address = process.wait_ready()

    def resident() -> int:
        return int(Path(f"/proc/{process.popen.pid}/statm").read_text().split()[1]) * 4096

    before = resident()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = address.rsplit(":", 1)
    sock.connect((host, int(port)))
    content = json.dumps(chat("hi", stream=True, max_tokens=400_000)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {OWN}\r\n"
    sock.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(content) + content)
    sock.recv(1000)
    time.sleep(2.0)
    assert resident() - before < 16 * 2**20
    sock.close()
    assert ask_now(address, chat("again", stream=False, max_tokens=3), headers=HEADERS).status == 200


# --- health


def test_health_announces_and_withdraws(site: Site) -> None:
    """It is announced only while the server is well, asked at the version's own path."""
    well = False

    def answer(head: bytes) -> bytes:
        return answered(b"{}") if well or not head.startswith(b"GET /alive ") else answered(b"", b"503 Service Down")

    with Scripted(answer) as behind:
        process = forwarder(site, f"http://127.0.0.1:{behind.port}/deep", "oip", health="/alive")
        says(process, "is not well")
        assert not process.announce.exists()
        well = True
        address = process.wait_ready()
        well = False
        until = time.monotonic() + 20
        while process.announce.exists():
            assert time.monotonic() < until, "still announced"
            time.sleep(0.02)
        well = True
        assert process.wait_ready() == address
        assert process.stop() == 0
        assert not process.announce.exists()
        log = process.log.read_text()
        assert "is not well, and gets no requests: `/alive` answers with 503" in log


# --- TLS, and the whole way through the gateway


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate of our own making for `localhost`, and what a server needs of it."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", key, "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def test_tls_is_verified(site: Site, certificate: tuple[Path, ssl.SSLContext]) -> None:
    """A real replica behind TLS scores as it does at home; an unknown authority, or another name, gets no request."""
    cert, context = certificate
    tiny_artefact(site.folder / "a", site.folder / "code")
    behind = site.replica(site.folder / "a")
    behind.wait_ready()
    with terminated(behind.address, context) as port:
        settings = {"model": "delay", "protocol": "oip"}
        good = forwarder(site, f"https://localhost:{port}", env={"SSL_CERT_FILE": str(cert)}, **settings)
        reply = call(good.wait_ready(), "POST", "/v2/models/any/infer", infer_body(ROW), HEADERS)
        expected = Scorer(site.folder / "a", site.folder / "code").score({k: [v] for k, v in ROW.items()}).tolist()
        assert reply.json()["outputs"][0]["data"] == expected
        unknown = forwarder(site, f"https://localhost:{port}", "oip", "far-1-1", model="delay")
        other = forwarder(
            site, f"https://127.0.0.1:{port}", "oip", "far-1-2", env={"SSL_CERT_FILE": str(cert)}, model="delay"
        )
        for process in (unknown, other):
            says(process, "can't be verified")
            assert not process.announce.exists()


def test_through_the_gateway(site: Site) -> None:
    """A client of the gateway talks to a language server elsewhere, streamed and not, and never sees a key."""
    behind = fake(site)
    far = forwarder(site, f"http://{behind.address}", key="env:FAR_KEY", model="chat")
    far.wait_ready()
    site.route([("chat-1", 10_000, [far])], "chat", kind="language", protocol="openai")
    gateway = site.gateway("gateway-0", "--upstream-key", str(site.folder / "upstream.key"), *site.exits)
    address = gateway.wait_ready()
    whole = ask_now(address, chat("hello", stream=False, max_tokens=5))
    streamed = ask_now(address, chat("hello", stream=True, max_tokens=5))
    assert whole.status == streamed.status == 200
    assert streamed.is_done
    assert whole.json()["choices"][0]["message"]["content"] == streamed.text
    assert stats(behind)["done"] == 2


def test_a_canary_from_home_to_elsewhere(site: Site) -> None:
    """One endpoint, half at home and half elsewhere in another protocol: clients see the same answers from both."""
    tiny_artefact(site.folder / "a", site.folder / "code")
    home, behind = site.replica(site.folder / "a"), site.replica(site.folder / "a", "far-model-0", "9")
    home.wait_ready()
    far = forwarder(site, f"http://{behind.wait_ready()}", "oip", model="delay")
    far.wait_ready()
    inputs = [[f"x{at}", "FP64"] for at in range(4)]
    rows = [
        {"name": "delay-1", "version": "1", "weight": 5_000, "replicas": [home.address]},
        {"name": "delay-2", "version": "2", "weight": 5_000, "replicas": [far.address], "protocol": "oip",
         "model": "delay-2", "inputs": inputs, "output": "late"},
    ]  # fmt: skip
    site.route([], "none", beside={"delay": {"revisions": rows}})
    key = str(site.folder / "upstream.key")
    address = site.gateway("gateway-0", "--upstream-key", key, *site.exits).wait_ready()
    scorer = Scorer(site.folder / "a", site.folder / "code")
    versions = set()
    for at in range(40):
        row = {name: value + at for name, value in ROW.items()}
        answer = call(address, "POST", "/v2/models/delay/infer", infer_body(row, f"r{at}")).json()
        expected = scorer.score({name: [value] for name, value in row.items()}).tolist()
        assert answer["outputs"] == [{"name": "late", "shape": [1], "datatype": "FP64", "data": expected}]
        versions.add(answer["model_version"])
    assert versions == {"1", "2"}
    behind.kill()
    until = time.monotonic() + 20
    while far.announce.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not far.announce.exists()
