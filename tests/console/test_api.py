"""The control API of a real controller: who may come in, and what it answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mainspring.cli import starting
from mainspring.cli.client import Client
from mainspring.errors import Conflict, InputError, StackError
from mainspring.testing.served import stack_file
from mainspring.worlds.local import tokens
from tests.cli_verbs.conftest import kill_all, until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack that is up, without any model: in a folder whose name is too long for a socket's address."""
    import sys

    path = stack_file(tmp_path_factory.mktemp("api") / ("long" * 30))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    try:
        starting.start(path)
        yield path
    finally:
        kill_all(path.parent / ".mainspring")
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def client(stack: Path) -> Client:
    """The owner's side."""
    return Client(stack.parent / ".mainspring")


def tcp(stack: Path, path: str = "/v1/status", method: str = "GET", **headers: str) -> tuple[int, Any]:
    """A call by TCP, with the headers given and no others; `Authorization` is right unless it is given."""
    state = stack.parent / ".mainspring"
    host, port = starting.told(state)["tcp"].split(":")
    sent = {"Host": f"{host}:{port}", "Authorization": f"Bearer {(state / 'control.token').read_text().strip()}"}
    sent |= {key.replace("_", "-"): value for key, value in headers.items()}
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text)


def test_the_files_are_the_owners_alone(stack: Path) -> None:
    """Socket and token can be used by the owner only, and the token is in no other file."""
    state = stack.parent / ".mainspring"
    for name in ("control.sock", "control.token"):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    token = (state / "control.token").read_bytes().strip()
    others = [f for f in state.rglob("*") if f.is_file() and f.name != "control.token"]
    assert not any(token in f.read_bytes() for f in others)


def key(stack: Path, role: str, name: str = "anna") -> tuple[str, str]:
    """A new key of a role: its id and its token."""
    made, token = tokens.create(stack.parent / ".mainspring", (), name, time.time(), role=role)
    return made.id, token


def test_a_role_is_held_to(stack: Path) -> None:
    """A key may do what its role may, and is told which one is needed for the rest."""
    for role, statuses in (("viewer", (200, 403, 403)), ("operator", (200, 400, 403)), ("admin", (200, 400, 400))):
        bearer = f"Bearer {key(stack, role)[1]}"
        asked = [("/v1/status", "GET"), ("/v1/requests", "POST"), ("/v1/backup", "POST")]
        assert tuple(tcp(stack, *one, Authorization=bearer)[0] for one in asked) == statuses
    told = tcp(stack, "/v1/down", "POST", Authorization=f"Bearer {key(stack, 'operator')[1]}")[1]
    assert told["code"] == "role-needed"
    assert "needs the role `admin`; this key has `operator`" in told["message"]


def test_a_revoked_key_is_refused_within_a_second(stack: Path, client: Client) -> None:
    """Also while the loop is kept busy, and the API computes: from the revocation to the first refusal."""
    ident, token = key(stack, "viewer")
    busy = threading.Event()

    def bother() -> None:
        own = Client(client.state)
        while not busy.is_set():
            own.post("/v1/requests", {"verb": "pause", "target": "nix"})
            own.post("/v1/foresee")

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(bother) for _ in range(2)]
        try:
            for _ in range(5):
                assert tcp(stack, "/v1/versions", Authorization=f"Bearer {token}")[0] == 200
            tokens.revoke(client.state, ident)
            begun = time.monotonic()
            while tcp(stack, "/v1/versions", Authorization=f"Bearer {token}")[0] != 401:
                pass
            assert time.monotonic() - begun < 1.0
        finally:
            busy.set()
        for job in jobs:
            job.result()


def test_who_changed_what_is_recorded(stack: Path, client: Client) -> None:
    """Each change with who it was proven to be, its outcome, and no more than a remark of what it says of itself."""
    ident, token = key(stack, "operator", "bert")
    state = client.state
    before = client.get("/v1/stack")
    client.put("/v1/stack", before["text"])
    with pytest.raises(StackError):
        client.put("/v1/stack", before["text"].replace("model:", f"{token}:"))
    lied = {"X-Mainspring-User": "k1", "X-Forwarded-For": "uid 0 (socket)", "Forwarded": "for=k1"}
    asked = {"verb": "pause", "target": f"to {token}", "args": {"version": token, "secret": "hunter2"}}
    with calling(stack, token, "/v1/requests", asked, lied) as answer:
        request = json.loads(answer.read())["id"]
    with pytest.raises(Conflict):
        client.post("/v1/clock", {"to": 0.0})
    with pytest.raises(InputError):
        client.post("/v1/backup", {"to": str(state / "state.db")})
    until(lambda: client.get(f"/v1/requests/{request}")["answered"])

    found = client.get("/v1/changes", limit=1000)
    by = {one["what"]: one for one in reversed(found)}
    me = f"uid {os.getuid()} (socket)"
    assert (by["pause"]["who"], by["pause"]["remark"], by["pause"]["outcome"]) == (f"{ident} (bert)", "k1", "refused")
    assert (by["clock"]["who"], by["clock"]["outcome"]) == (me, "refused")
    assert (by["backup"]["who"], by["backup"]["outcome"]) == (me, "refused")
    applied = [one["outcome"] for one in found if one["what"] == "apply" and one["who"] == me]
    assert {"accepted", "refused"} <= set(applied)
    assert any(one["who"].endswith("(mainspring up)") for one in found)
    assert any((one["what"], one["target"]) == ("create key", ident) for one in found)
    assert all(one["at"] > 1.7e9 for one in found)
    assert [one["at"] for one in found] == sorted((one["at"] for one in found), reverse=True)
    assert {one["who"] for one in client.get("/v1/changes", who="bert")} == {f"{ident} (bert)"}
    text = json.dumps(found)
    assert token not in text
    assert "hunter2" not in text
    with pytest.raises(InputError):
        client.get("/v1/changes", limit=0)
    with pytest.raises(InputError):
        client.get("/v1/changes", since="nan")


@contextlib.contextmanager
def calling(
    stack: Path, token: str, path: str, body: Any, headers: dict[str, str]
) -> Iterator[http.client.HTTPResponse]:
    """One POST by TCP, with a key and headers of one's own."""
    address = starting.told(stack.parent / ".mainspring")["tcp"]
    connection = http.client.HTTPConnection(address, timeout=10)
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
    connection.request("POST", path, json.dumps(body), sent)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def test_no_secret_is_in_any_file(stack: Path, client: Client) -> None:
    """Tokens of people are in no file of the state folder: neither databases nor logs nor the keys."""
    token = key(stack, "admin")[1]
    assert tcp(stack, "/v1/status", Authorization=f"Bearer {token}")[0] == 200
    assert tcp(stack, "/v1/nix", Authorization=f"Bearer {token}")[0] == 404
    assert not any(token.encode() in f.read_bytes() for f in client.state.rglob("*") if f.is_file())


def test_tcp_wants_the_token(stack: Path) -> None:
    """The right token comes in; a wrong, a cut or no token does not."""
    assert tcp(stack)[0] == 200
    for wrong in ("", "Bearer x", "Basic eDp5", "Bearer ", "Bearer " + "é" * 40):
        status, told = tcp(stack, Authorization=wrong.encode().decode("latin-1"))
        assert (status, told["code"]) == (401, "bad-token")
    assert tcp(stack, "/openapi.json", Authorization="")[0] == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost:1", "[::1]", "0.0.0.0"])
def test_foreign_hosts_are_refused(stack: Path, host: str) -> None:
    """A name that was bound to loopback from elsewhere (DNS rebinding) does not come in."""
    assert tcp(stack, Host=host)[0] == 421


def test_foreign_pages_are_refused(stack: Path) -> None:
    """A page of another origin does not come in, even with the token; no CORS header is sent."""
    for origin in ("http://evil.example", "null", "https://localhost", "http://localhost:1"):
        assert tcp(stack, Origin=origin)[0] == 403
    assert tcp(stack, Sec_Fetch_Site="cross-site")[0] == 403
    assert tcp(stack, Origin=f"http://{starting.told(stack.parent / '.mainspring')['tcp']}")[0] == 200


def test_bodies_are_limited(stack: Path, client: Client) -> None:
    """A body of 3 MB is refused, whether it says so before or not; the controller goes on."""
    assert tcp(stack, "/v1/requests", "POST", Content_Length="3000000")[0] == 413
    host, port = starting.told(stack.parent / ".mainspring")["tcp"].split(":")
    token = (stack.parent / ".mainspring" / "control.token").read_text().strip()
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        head = f"PUT /v1/stack HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(50):
                sock.sendall(b"10000\r\n" + b"#" * 0x10000 + b"\r\n")
            sock.sendall(b"0\r\n\r\n")
            assert b" 200 " not in sock.recv(100)
        except OSError:
            pass
    assert client.get("/v1/status")["stack"]["name"] == "tiny"


def test_the_api_describes_itself(stack: Path, client: Client) -> None:
    """OpenAPI lists every path with its summary; there is no page that loads from elsewhere."""
    paths = client.get("/openapi.json")["paths"]
    assert {"/v1/status", "/v1/plan", "/v1/stack", "/v1/requests", "/v1/clock", "/v1/wait", "/v1/down"} <= set(paths)
    assert all(one.get("description") for verbs in paths.values() for one in verbs.values())
    assert tcp(stack, "/docs")[0] == 404


def test_a_bad_stack_changes_nothing(client: Client) -> None:
    """All problems come back, with their places; what was applied stays."""
    before = client.get("/v1/stack")
    with pytest.raises(StackError) as raised:
        client.put("/v1/stack", before["text"].replace("model:", "modl:").replace("p95", "p96"))
    assert len(raised.value.problems) >= 2
    assert raised.value.problems[0].line > 0
    assert client.get("/v1/stack") == before


def test_a_stack_is_applied_once_and_fenced(client: Client) -> None:
    """The same again changes nothing; a change made from an older revision is refused."""
    before = client.get("/v1/stack")
    assert client.put("/v1/stack", before["text"])["changed"] is False
    changed = client.put("/v1/stack", before["text"].replace("50ms", "51ms"), expected=before["revision"])
    assert changed["changed"] is True
    with pytest.raises(Conflict):
        client.put("/v1/stack", before["text"], expected=before["revision"])
    client.put("/v1/stack", before["text"])


def test_requests_are_answered(client: Client) -> None:
    """A request is kept with who asked, and answered by the loop; nonsense is refused at once."""
    ident = client.post("/v1/requests", {"verb": "run", "target": "nix"})["id"]
    client.get("/v1/wait", timeout=30)
    answer = client.get(f"/v1/requests/{ident}")
    assert answer["answered"]
    assert not answer["accepted"]
    with pytest.raises(InputError):
        client.post("/v1/requests", {"verb": "sing", "target": "delay"})
    with pytest.raises(InputError):
        client.post("/v1/requests", {"verb": "run", "target": "delay", "more": 1})
    with pytest.raises(InputError):
        client.get("/v1/requests/nix")


def test_a_live_clock_is_not_moved(client: Client) -> None:
    """Only a replay's clock can be set."""
    with pytest.raises(Conflict):
        client.post("/v1/clock", {"to": 0.0})


def test_waiting_is_for_quiet(client: Client) -> None:
    """`wait` answers when the loop has nothing to do, and says where it stands."""
    answer = client.get("/v1/wait", timeout=60)
    assert answer["quiet"]
    assert answer["cycles"] >= 1


@pytest.mark.parametrize("name", ["..%2Fstate.db", "nix", "..", "%2Fetc%2Fpasswd"])
def test_logs_stay_in_their_folder(client: Client, name: str) -> None:
    """No name leads out of the folder of logs."""
    with pytest.raises(InputError):
        client.get(f"/v1/logs/{name}")
    assert client.get("/v1/logs/controller")["lines"]
