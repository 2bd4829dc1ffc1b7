"""Tokens of endpoints: only hashes are kept, and nothing is lost."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mainspring.decide.limits import NANO, Limit
from mainspring.errors import EnvironmentError_, InputError
from mainspring.gateway.tokens import Tokens
from mainspring.worlds.local import secrets, tokens


def test_a_token_is_kept_as_a_keyed_hash_only(tmp_path: Path) -> None:
    """The file holds HMAC-SHA256 under the pepper; the token is nowhere in the folder."""
    key, token = tokens.create(tmp_path, ("chat",), "anna", now=5.0, expires=9.0)
    pepper = bytes.fromhex(secrets.pepper(tmp_path).read_text())
    assert key.hash == hmac.new(pepper, token.encode(), hashlib.sha256).hexdigest()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert json.loads(secrets.keys(tmp_path).read_text())["keys"][0]["endpoints"] == ["chat"]
    assert len(token) == len(tokens.PREFIX) + 43


def test_ids_are_never_used_twice_at_once_and_none_is_lost(tmp_path: Path) -> None:
    """Twenty made side by side are twenty."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: tokens.create(tmp_path, ("chat",), f"p{n}", 0.0)[0], range(20)))
    there = tokens.listed(tmp_path)
    assert {key.id for key in made} == {key.id for key in there}
    assert len({key.id for key in there}) == 20


def test_revoking(tmp_path: Path) -> None:
    """A revoked key is gone; one that is not there is an error that names those that are."""
    first, _ = tokens.create(tmp_path, ("chat",), "", 0.0)
    second, _ = tokens.create(tmp_path, ("chat",), "", 0.0)
    assert tokens.revoke(tmp_path, first.id) == first
    assert tokens.listed(tmp_path) == (second,)
    with pytest.raises(InputError, match="there is `k2`"):
        tokens.revoke(tmp_path, "k9")


def test_an_id_is_never_given_twice(tmp_path: Path) -> None:
    """What was billed to `k2` stays that key's, though it is gone; also after a file that did not count yet."""
    tokens.create(tmp_path, ("chat",), "", 0.0)
    tokens.revoke(tmp_path, tokens.create(tmp_path, ("chat",), "", 0.0)[0].id)
    assert tokens.create(tmp_path, ("chat",), "", 0.0)[0].id == "k3"
    older = json.loads(secrets.keys(tmp_path).read_text())
    del older["made"]
    secrets.keys(tmp_path).write_text(json.dumps(older))
    assert tokens.create(tmp_path, ("chat",), "", 0.0)[0].id == "k4"


def test_rotating(tmp_path: Path) -> None:
    """The heir may do the same until the same end; the old one lasts for the overlap, never longer than before."""
    first, token = tokens.create(tmp_path, ("chat", "embed"), "anna", 0.0, expires=100.0)
    heir, new = tokens.rotate(tmp_path, first.id, now=10.0, overlap=30.0)
    assert (heir.id, heir.endpoints, heir.name, heir.expires, heir.created) == (
        "k2",
        first.endpoints,
        "anna",
        100.0,
        10.0,
    )
    assert new != token
    assert [(key.id, key.hash, key.expires) for key in tokens.listed(tmp_path)] == [
        ("k1", first.hash, 40.0),
        ("k2", heir.hash, 100.0),
    ]
    last, _ = tokens.rotate(tmp_path, "k2", now=90.0, overlap=30.0)
    assert [(key.id, key.expires) for key in tokens.listed(tmp_path)] == [("k1", 40.0), ("k2", 100.0), ("k3", 100.0)]
    tokens.rotate(tmp_path, last.id, now=95.0, overlap=0.0)
    assert [key.id for key in tokens.listed(tmp_path)] == ["k1", "k2", "k4"]
    with pytest.raises(InputError, match="has expired"):
        tokens.rotate(tmp_path, "k1", now=95.0, overlap=30.0)
    with pytest.raises(InputError, match="there is no key `k9`"):
        tokens.rotate(tmp_path, "k9", now=95.0, overlap=30.0)


def test_a_broken_file_is_told_and_not_overwritten(tmp_path: Path) -> None:
    """Half a file is an error with its path; making a key does not wipe it."""
    secrets.keys(tmp_path).write_text('{"keys": [{"id"')
    with pytest.raises(EnvironmentError_, match="can't be read"):
        tokens.create(tmp_path, ("chat",), "", 0.0)
    assert secrets.keys(tmp_path).read_text() == '{"keys": [{"id"'


def test_secrets_are_made_once(tmp_path: Path) -> None:
    """A second look gives the same secret, so that running replicas and old hashes stay good."""
    first = secrets.upstream(tmp_path).read_text()
    assert secrets.upstream(tmp_path).read_text() == first
    assert secrets.pepper(tmp_path).read_text() != first
    assert sorted(path.name for path in (tmp_path / secrets.FOLDER).iterdir()) == ["pepper", "upstream"]


def test_processes_that_make_a_secret_at_once_agree(tmp_path: Path) -> None:
    """All that were there first believe in the same one, since the others' did not replace it."""
    for round in range(20):
        state = tmp_path / str(round)
        state.mkdir()
        barrier = threading.Barrier(8)

        def look(state: Path = state, barrier: threading.Barrier = barrier) -> str:
            barrier.wait()
            return secrets.pepper(state).read_text()

        with ThreadPoolExecutor(8) as pool:
            assert len({job.result() for job in [pool.submit(look) for _ in range(8)]}) == 1


def test_rotating_keeps_tenant_limits_and_role(tmp_path: Path) -> None:
    """The heir belongs to the same tenant under the same limits, or has the same role; the order of others stays."""
    limits = (Limit("requests", 60, "min"), Limit("at_once", 4), Limit("dollars", 20 * NANO, "month"))
    tokens.create(tmp_path, ("chat",), "", 0.0, tenant="acme", limits=limits, context=4000)
    tokens.create(tmp_path, (), "anna", 0.0, role="operator")
    heir, _ = tokens.rotate(tmp_path, "k1", 1.0, 60.0)
    assert (heir.tenant, heir.limits, heir.context, heir.role) == ("acme", limits, 4000, "")
    assert tokens.rotate(tmp_path, "k2", 1.0, 0.0)[0].role == "operator"
    there = tokens.listed(tmp_path)
    assert [key.id for key in there] == ["k1", "k3", "k4"]
    assert there[1] == heir
    written = json.loads(secrets.keys(tmp_path).read_text())["keys"][1]
    assert written["limits"][0] == {"what": "requests", "amount": 60, "per": "min"}


def test_the_gateway_reads_what_is_written(tmp_path: Path) -> None:
    """Tenant, limits and role arrive as they were given."""
    limits = (Limit("tokens", 2_000_000, "day"),)
    _, token = tokens.create(tmp_path, ("chat",), "", 0.0, tenant="acme", limits=limits, context=4000)
    _, other = tokens.create(tmp_path, (), "anna", 0.0, role="admin")
    read = Tokens(secrets.keys(tmp_path), secrets.pepper(tmp_path))
    key, control = read.of(f"Bearer {token}".encode()), read.of(f"Bearer {other}".encode())
    assert key is not None
    assert (key.tenant, key.limits, key.context, key.role) == ("acme", limits, 4000, "")
    assert control is not None
    assert (control.endpoints, control.role) == ((), "admin")


@pytest.mark.parametrize(
    "more", [{"role": "admin"}, {"endpoints": ()}, {"endpoints": (), "role": "admin", "tenant": "acme"}]
)
def test_a_key_is_of_one_kind(tmp_path: Path, more: dict[str, Any]) -> None:
    """For endpoints or for the control API; neither, or both, is nobody's key."""
    with pytest.raises(ValueError, match="a key is for"):
        tokens.create(tmp_path, **{"endpoints": ("chat",), "name": "", "now": 0.0, **more})
    assert not secrets.keys(tmp_path).exists()


def test_a_file_from_before_tenants_is_read(tmp_path: Path) -> None:
    """Keys without the newer fields belong to nobody, without limits."""
    tokens.create(tmp_path, ("chat",), "anna", 0.0)
    older = json.loads(secrets.keys(tmp_path).read_text())
    for name in ("tenant", "limits", "context", "role"):
        del older["keys"][0][name]
    secrets.keys(tmp_path).write_text(json.dumps(older))
    [key] = tokens.listed(tmp_path)
    assert (key.name, key.tenant, key.limits, key.context, key.role) == ("anna", "", (), 0, "")
