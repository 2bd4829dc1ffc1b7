"""Who may do what: every route, every role, every door; hostile headers; keys that end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from mainspring.console.api import api
from mainspring.console.doors import ByToken, Door, Token, by_socket
from mainspring.console.roles import NEEDS, Guard
from mainspring.facts.changes import ROLES
from mainspring.gateway.tokens import Tokens
from mainspring.store.memory import MemoryStore
from mainspring.worlds.local import secrets, tokens

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW")
REACHED = 299  # what a handler answers here, whatever it would have done


async def reached(scope: Any, receive: Any, send: Any) -> None:
    """Stand where a handler stands."""
    await send({"type": "http.response.start", "status": REACHED, "headers": []})
    await send({"type": "http.response.body", "body": scope["mainspring.caller"].who.encode()})


def marked() -> FastAPI:
    """The API's own routes, whose handlers only say that they were reached."""
    app = api(SimpleNamespace(parts=SimpleNamespace(store=MemoryStore()), state=Path("/nowhere")))  # type: ignore[arg-type]
    for route in app.routes:
        route.app = reached  # type: ignore[attr-defined]
    return app


class House:
    """Both doors of a control API, and a state folder whose keys one of them reads."""

    def __init__(self, state: Path, app: FastAPI) -> None:
        state.mkdir(exist_ok=True)
        self.state = state
        guard = Guard(app, app.routes)
        people = ByToken(Token(state / "control.token"), Tokens(secrets.keys(state), secrets.pepper(state)))
        self.tcp, self.unix = Door(guard, people, 1), Door(guard, by_socket)

    def key(self, role: str = "", **more: Any) -> str:
        """A new key's token: of a role, or of an endpoint."""
        key, token = tokens.create(self.state, () if role else ("chat",), "anna", time.time(), role=role, **more)
        self.last = key.id
        return token

    def call(
        self, method: str, path: str, token: str | None = None, *, door: str = "tcp", raw: tuple[bytes, ...] = ()
    ) -> tuple[int, str]:
        """One request: the status, and what was said."""
        headers = [(b"host", b"localhost"), *((b"authorization", one) for one in raw)]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": b"", "headers": headers, "scheme": "http", "server": ("localhost", 1),
            "client": ("uid 7 (socket)", 0) if door == "unix" else ("127.0.0.1", 5),
        }  # fmt: skip
        said: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            said.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        asyncio.run((self.unix if door == "unix" else self.tcp)(scope, receive, send))
        return said[0]["status"], b"".join(one.get("body", b"") for one in said[1:]).decode()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house whose keys nobody revokes."""
    return House(tmp_path_factory.mktemp("house"), marked())


@pytest.fixture(scope="module")
def held(house: House) -> dict[str, str]:
    """A token of each kind."""
    return {
        **{role: house.key(role) for role in ROLES},
        "endpoint": house.key(),
        "owner": (house.state / "control.token").read_text().strip(),
    }


def declared(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path that the API answers."""
    for route in app.routes:
        for method in route.methods:  # type: ignore[attr-defined]
            yield method, route.path  # type: ignore[attr-defined]


def test_every_route_declares_its_role() -> None:
    """A new route without a line in the table fails here, and so does a line without a route."""
    assert set(declared(marked())) == set(NEEDS)


def test_reading_is_a_viewers_and_changing_is_not() -> None:
    """Every GET is open to viewers, and of the rest only the forecast."""
    for (method, path), role in NEEDS.items():
        assert (role == "viewer") == (method in {"GET", "HEAD"} or path == "/v1/foresee"), path
    assert {path for (_, path), role in NEEDS.items() if role == "admin"} == {"/v1/stack", "/v1/down", "/v1/backup"}


def test_the_matrix(house: House, held: dict[str, str]) -> None:
    """All routes, all methods, all roles, both doors: in only by a line of the table, and with at least its role."""
    app = marked()
    paths = {path for _, path in declared(app)}
    for path in paths:
        real = path.replace("{ident}", "a").replace("{name}", "b").replace("{model}", "c")
        for method in METHODS:
            need = NEEDS.get((method, path))
            for role, token in held.items():
                rank = {"endpoint": -1, "owner": 2}.get(role, ROLES.index(role) if role in ROLES else -1)  # type: ignore[arg-type]
                status, text = house.call(method, real, token)
                if need is None:
                    assert status == 405, (method, path, role)
                elif rank >= ROLES.index(need):
                    assert status == REACHED, (method, path, role)
                else:
                    assert status == 403, (method, path, role)
                    assert f"needs the role `{need}`" in json.loads(text)["message"]
            assert house.call(method, real)[0] == 401, (method, path)
            assert house.call(method, real, "ms_wrong")[0] == 401, (method, path)
            by_owner = house.call(method, real, door="unix")
            assert by_owner[0] == (405 if need is None else REACHED), (method, path)


def test_paths_that_are_none_do_nothing(house: House, held: dict[str, str]) -> None:
    """Odd spellings of a path reach no handler, whatever the role; without a token they are not even looked at."""
    for path in ("/", "/v1", "/v1/nix", "//v1/stack", "/v1//stack", "/v1/stack%00", "/V1/STACK", "/v1/down;x", "/docs"):
        for role in ("viewer", "admin"):
            assert house.call("PUT", path, held[role])[0] == 404, path
        assert house.call("PUT", path)[0] == 401, path


def test_a_route_that_nobody_declared_is_closed(tmp_path: Path) -> None:
    """Also to the owner: default deny."""
    app = marked()
    app.add_api_route("/v1/new", lambda: None, methods=["GET", "DELETE"])
    app.mount("/v1/below", reached)
    house = House(tmp_path, app)
    owner = (tmp_path / "control.token").read_text().strip()
    for method, path in (("GET", "/v1/new"), ("DELETE", "/v1/new"), ("GET", "/v1/below/x"), ("PUT", "/v1/below/")):
        for door in ("tcp", "unix"):
            status, text = house.call(method, path, owner, door=door)
            assert (status, json.loads(text)["code"]) == (403, "closed"), (method, path)


@given(
    raw=st.lists(st.binary(max_size=400), min_size=0, max_size=2), scheme=st.sampled_from([b"", b"Bearer ", b"bearer"])
)
def test_any_bytes_are_only_refused(house: House, raw: list[bytes], scheme: bytes) -> None:
    """Whatever stands in `Authorization`: 401, and no error."""
    assert house.call("GET", "/v1/status", raw=tuple(scheme + one for one in raw))[0] == 401


@given(cut=st.integers(0, 45), extra=st.binary(min_size=1, max_size=8))
def test_a_token_is_good_as_a_whole_only(house: House, held: dict[str, str], cut: int, extra: bytes) -> None:
    """A part of it, or more than it, is none; nor are two at once."""
    token = held["admin"].encode()
    assert house.call("GET", "/v1/status", raw=(b"Bearer " + token[:cut],))[0] == 401
    if extra.strip():
        assert house.call("GET", "/v1/status", raw=(b"Bearer " + token + b"!" + extra,))[0] == 401
    assert house.call("GET", "/v1/status", raw=(b"Bearer " + token, b"Bearer " + token))[0] == 401
    assert house.call("GET", "/v1/status", raw=(b"Basic " + token,))[0] == 401


def test_who_asks_is_what_was_proven(house: House, held: dict[str, str]) -> None:
    """A key by its id and name, the owner by the token, the socket by the user whom the kernel named."""
    assert house.call("GET", "/v1/status", held["viewer"])[1].endswith(" (anna)")
    assert house.call("GET", "/v1/status", held["owner"])[1] == "owner (control.token)"
    assert house.call("GET", "/v1/status", door="unix")[1] == "uid 7 (socket)"


def test_a_key_ends(tmp_path: Path) -> None:
    """Revoked, expired or rotated away, it is refused at the next request; its heir may do the same."""
    house = House(tmp_path, marked())
    token = house.key("operator")
    assert house.call("POST", "/v1/requests", token)[0] == REACHED
    _, heir = tokens.rotate(tmp_path, house.last, time.time(), 3600.0)
    assert [house.call("POST", "/v1/requests", one)[0] for one in (token, heir)] == [REACHED, REACHED]
    tokens.revoke(tmp_path, house.last)
    assert [house.call("POST", "/v1/requests", one)[0] for one in (token, heir)] == [401, REACHED]
    assert house.call("PUT", "/v1/stack", heir)[0] == 403
    short = house.key("viewer", expires=time.time() + 0.3)
    assert house.call("GET", "/v1/status", short)[0] == REACHED
    time.sleep(0.35)
    assert house.call("GET", "/v1/status", short)[0] == 401


def test_a_broken_file_of_keys_keeps_the_last_good_one(tmp_path: Path) -> None:
    """Half a file, junk, or none at all: those who could come in still can, and nobody else."""
    house = House(tmp_path, marked())
    token = house.key("viewer")
    assert house.call("GET", "/v1/status", token)[0] == REACHED
    good = secrets.keys(tmp_path).read_bytes()
    for bad in (good[: len(good) // 2], b"", b"[]", b'{"keys": [{"id": 7}]}'):
        secrets.keys(tmp_path).write_bytes(bad)
        assert house.call("GET", "/v1/status", token)[0] == REACHED
        assert house.call("GET", "/v1/status", "ms_other")[0] == 401
    secrets.keys(tmp_path).unlink()
    assert house.call("GET", "/v1/status", token)[0] == REACHED


@pytest.mark.parametrize("change", [{"role": "root"}, {"role": "Admin"}, {"endpoints": ["chat"]}])
def test_an_odd_key_may_do_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    """A role that is none, or a key of two kinds, which only a hand can have written: 403."""
    house = House(tmp_path, marked())
    token = house.key("admin")
    kept = json.loads(secrets.keys(tmp_path).read_text())
    kept["keys"][0] |= change
    secrets.keys(tmp_path).write_text(json.dumps(kept))
    assert house.call("GET", "/v1/status", token)[0] == 403


def test_the_documented_roles_are_those_of_the_table() -> None:
    """Each route that is no viewer's stands in the line of its role in `docs/security.md`, and in no other."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    for (method, path), role in NEEDS.items():
        if method not in {"GET", "HEAD"}:
            [line] = [line for line in page.splitlines() if line.startswith("| `") and f"`{method} {path}`" in line]
            assert line.startswith(f"| `{role}` |")
