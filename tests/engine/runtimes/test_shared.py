"""`share: true` in a real stack: two endpoints in one Triton, and a canary beside its stable version in there."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.rolling import Scene
from tests.engine.rolling_stacks import four, tiny
from tests.engine.runtimes import machine as here

from mainspring.testing.faults import is_alive
from mainspring.testing.serving import call

pytestmark = pytest.mark.engine

RATE = 30.0  # requests a second
WALK = [{"canary": "30%", "for": "4s"}, {"all": "100%"}]
ABORT = {"errors": "0% over control", "false_aborts": "1%"}
SHARED = {"runtime": "triton", "share": True}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A stack with the endpoints `delay` and `other` of one model, in one server."""
    here.installed("triton")
    made = tiny(tmp_path / "stack", WALK, objective={"availability": "90%"}, abort=ABORT, **SHARED)
    spec = made.spec()
    spec["serving"]["other"] = {"model": "delay@champion", "objective": {"availability": "90%"}, **SHARED}
    made.write(spec)
    try:
        made.up()
        made.until("both to be ready", lambda: all(is_ready(made, name) for name in ("delay", "other")), 120.0)
        yield made
    finally:
        said = host(made)
        made.clear()
        if said:
            os.kill(said["pid"], signal.SIGKILL)


def host(scene: Scene) -> dict[str, Any]:
    """What the host of the shared server says of itself; empty while there is none."""
    try:
        said: dict[str, Any] = json.loads((scene.state / "servers" / "triton" / "host.json").read_bytes())
    except OSError:
        return {}
    return said


def is_ready(scene: Scene, endpoint: str) -> bool:
    """Whether the gateway says that an endpoint is ready."""
    return call(scene.control.gateway(), "GET", f"/v2/models/{endpoint}/ready").status == 200


def ask(scene: Scene, endpoint: str) -> float:
    """One answer through the gateway."""
    body = json.dumps(four(1, "one").body).encode()
    reply = call(scene.control.gateway(), "POST", f"/v2/models/{endpoint}/infer", body)
    assert reply.status == 200, f"{reply}\n{scene.tell()}"
    score: float = reply.json()["outputs"][0]["data"][0]
    return score


def test_two_endpoints_and_a_canary_in_one_server(scene: Scene) -> None:
    """New settings are a canary in the same server: no request is lost there, nor at the neighbour."""
    said = host(scene)
    ports = {name: scene.server(f"{name}-1-0")[1] for name in ("delay", "other")}
    assert set(ports.values()) == {said["ports"]["http"]}
    assert ask(scene, "delay") == ask(scene, "other")
    with scene.users(four, RATE) as users:
        label = scene.settings_changed(instances=2)
        end = scene.ended(label, patience=180.0)
        scene.quiet()
    assert end["kind"] == "promoted", f"{end}\n{scene.tell()}"
    assert not users.lost(), users.lost()[:5]
    counts = users.count()
    assert {status for _, status in counts} == {200}, counts
    answered = {revision for revision, _ in counts}
    assert f"delay-{label}" in answered
    assert len(answered) > 1
    assert host(scene)["life"] == said["life"]
    models = scene.state / "servers" / "triton" / "work" / "models"
    scene.until("the old one to leave", lambda: {one.name for one in models.iterdir()} == {f"delay-{label}", "other-1"})


def test_a_shared_server_that_dies_is_replaced(scene: Scene) -> None:
    """`kill -9` of Triton: the loop starts both replicas again, in one new server."""
    said = host(scene)
    os.kill(said["server"], signal.SIGKILL)
    scene.until("a new server", lambda: host(scene).get("life") not in (None, said["life"]))
    scene.until("both to be ready", lambda: all(is_ready(scene, name) for name in ("delay", "other")))
    assert ask(scene, "delay") == ask(scene, "other")
    scene.control.down()
    scene.until("the host to end", lambda: not is_alive(said["pid"]) and not host(scene))
