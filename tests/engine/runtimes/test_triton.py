"""NVIDIA Triton as itself: batches, instances that work at once, and one server for the models of several endpoints."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from tests.engine.runtimes import machine as here

from mainspring.replicas.kept.child import descendants
from mainspring.testing import runtime_artefacts as judge
from mainspring.testing.faults import is_alive
from mainspring.testing.runtime_under_test import UnderTest
from mainspring.testing.serving import Reply, call

pytestmark = pytest.mark.engine
RUNTIME = "triton"
SLACK = 30.0
"""Seconds that a busy machine may take for what is at once on a quiet one."""
SHARE = ("--share",)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with the judge in it, and one that can't be loaded."""
    here.installed(RUNTIME)
    judge.onnx(tmp_path / "good", tmp_path / "code")
    judge.spoilt(tmp_path / "good", tmp_path / "bad")
    return tmp_path


@contextmanager
def replica(state: Path, endpoint: str, version: str = "1", **more: Any) -> Iterator[UnderTest]:
    """A replica of Triton that serves the judge."""
    runtime = here.installed(RUNTIME)
    with UnderTest(runtime, state, state / "good", state / "code", endpoint, version, **more) as under:
        yield under


@contextmanager
def guests(state: Path, *endpoints: str) -> Iterator[list[UnderTest]]:
    """Replicas in one shared server, all ready; killed at the end, as is the host, which would take its time."""
    with ExitStack() as stack:
        found = [stack.enter_context(replica(state, one, words=SHARE)) for one in endpoints]
        for one in found:
            one.up()
        try:
            yield found
        finally:
            for said in (state / "servers").glob("*/host.json"):
                os.kill(json.loads(said.read_bytes())["pid"], signal.SIGKILL)


def host(state: Path) -> dict[str, Any]:
    """What the host of the shared server says of itself."""
    said: dict[str, Any] = json.loads((state / "servers" / "triton" / "host.json").read_bytes())
    return said


def until(holds: Any, what: str, seconds: float = SLACK) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)


def loaded(address: str) -> dict[str, int]:
    """For each model of the server, the status of the question whether it is ready."""
    return {name: call(address, "GET", f"/v2/models/{name}/ready").status for name in ("judge-1", "judge-2", "other-1")}


class Traffic:
    """Requests to one replica, one after another, for as long as this lasts."""

    def __init__(self, under: UnderTest) -> None:
        self.replies: list[Reply | Exception] = []
        self._under, self._over = under, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self.replies.append(self._under.ask(judge.row(18, 250.5, "UA")))
            except Exception as error:  # a lost answer is what this looks for
                self.replies.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def lost(self) -> list[Reply | Exception]:
        """What was not answered as it should be."""
        return [one for one in self.replies if not isinstance(one, Reply) or one.status != 200]


@pytest.mark.light
def test_requests_are_executed_together(state: Path) -> None:
    """Requests that come while the model is busy are put together: by Triton's own count, far fewer executions."""
    with replica(state, "judge") as under:
        under.up()
        before = under.until_gauges(lambda said: "batches" in said)
        slow = threading.Thread(target=under.ask, args=[judge.row(wait=1.0)])
        slow.start()
        time.sleep(0.3)
        rows = [judge.row(hour, 100.0 * hour, "UA") for hour in range(24)]
        replies = under.ask_all(rows)
        slow.join()
        assert [reply.status for reply in replies] == [200] * 24
        after = under.until_gauges(lambda said: said.get("requests", 0) >= before["requests"] + 25)
        assert after["requests"] - before["requests"] == 25
        assert after["batches"] - before["batches"] <= 6
        for hour, reply in enumerate(replies):
            wanted = judge.expected({"hour": [hour], "distance": [100.0 * hour], "carrier": ["UA"]})
            assert reply.json()["outputs"][0]["data"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.light
@pytest.mark.parametrize(("instances", "least", "most"), [(1, 3.0, 9.0), (2, 1.5, 2.9)])
def test_instances_work_at_once(state: Path, instances: int, least: float, most: float) -> None:
    """Two requests of 1.5 s, which may not be put together: one instance takes both after another, two at once."""
    words = ("--instances", "2") if instances == 2 else ()
    with replica(state, "judge", words=words, options=("--batch-size", "1")) as under:
        under.up()
        stubs = [pid for pid in descendants(under.server()) if is_alive(pid)]
        assert len(stubs) == instances
        began = time.monotonic()
        replies = under.ask_all([judge.row(wait=1.5)] * 2)
        took = time.monotonic() - began
        assert [reply.status for reply in replies] == [200, 200]
        assert least <= took < most


def test_a_dead_process_of_the_model_ends_the_replica(state: Path) -> None:
    """Triton goes on to say that it is ready when the process that would answer is dead: the keeper does not."""
    with replica(state, "judge") as under:
        under.up()
        [stub] = descendants(under.server())
        time.sleep(1.5)  # the keeper has looked once
        os.kill(stub, signal.SIGKILL)
        found = under.gone(SLACK)
        assert found is not None
        assert found.exit_status == 1
        assert found.reason == f"error: NVIDIA Triton lost the process {stub}, which held the model"


@pytest.mark.light
def test_nobody_loads_code_into_it(state: Path) -> None:
    """What loads models, writes logs and maps memory is closed, in a server of one model and in a shared one."""
    closed = [
        ("POST", "/v2/repository/models/judge-1/load"), ("POST", "/v2/repository/models/judge-1/unload"),
        ("POST", "/v2/repository/index"), ("POST", "/v2/logging"), ("POST", "/v2/trace/setting"),
        ("POST", "/v2/systemsharedmemory/region/x/register"),
    ]  # fmt: skip
    headers = {"content-type": "application/json", "x-closed": "%0A"}
    with replica(state, "judge") as under, guests(state, "other") as [shared]:
        under.up()
        for address in (under.look().address, shared.look().address):
            found = {call(address, method, path, b"{}", headers).status for method, path in closed}
            assert found == {403}
    assert (state / "servers" / "triton" / "work" / "control").stat().st_mode & 0o077 == 0


@pytest.mark.light
def test_two_endpoints_in_one_server(state: Path) -> None:
    """Both answer at one address; while one is taken out and put back, the other loses nothing."""
    with guests(state, "judge", "other") as [judge_, other]:
        address = judge_.look().address
        assert other.look().address == address
        assert loaded(address) == {"judge-1": 200, "other-1": 200, "judge-2": 400}
        rows = dict(judge.ROWS)
        for under in (judge_, other):
            assert under.scores(judge.request(rows)) == pytest.approx(judge.expected(rows), abs=1e-5)
        with Traffic(judge_) as traffic:
            other.stop(SLACK)
            found = other.gone()
            assert found is not None
            assert found.exit_status == 0
            assert loaded(address)["other-1"] == 400
            other.up()
            assert other.look().address == address
            assert loaded(address)["other-1"] == 200
        assert len(traffic.replies) > 20
        assert not traffic.lost()
        counted = other.until_gauges(bool)["requests"]
        assert counted < 5, "the other model's requests are counted as its own"


def test_what_is_under_way_is_answered_before_a_model_leaves(state: Path) -> None:
    """A request of 2 s that is being worked on when the replica is told to stop."""
    with guests(state, "judge", "other") as [_, other]:
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(other.ask(judge.row(wait=2.0))))
        thread.start()
        time.sleep(0.5)
        other.stop(SLACK)
        thread.join()
        other.gone()
        assert [reply.status for reply in replies] == [200]


def test_two_versions_of_an_endpoint_in_one_server(state: Path) -> None:
    """A canary beside its stable version: two models, told apart by their revisions' names."""
    with guests(state, "judge") as [stable], replica(state, "judge", "2", words=SHARE) as canary:
        canary.up()
        assert canary.look().address == stable.look().address
        assert loaded(canary.look().address) == {"judge-1": 200, "judge-2": 200, "other-1": 400}
        for under, version in ((stable, "1"), (canary, "2")):
            assert under.ask(judge.row()).json()["model_version"] == version


def test_a_model_that_does_not_load_harms_nobody(state: Path) -> None:
    """Its replica ends with the reason; nothing of it stays in the server, and the other one answers all along."""
    with guests(state, "judge") as [good], replica(state, "other", words=SHARE) as bad, Traffic(good) as traffic:
        bad.start(state / "bad")
        found = bad.until(lambda seen: seen.state != "starting", "ended", SLACK)
        assert found.state == "exited"
        assert found.exit_status == 2
        assert "did not load the model" in bad.log()
        assert "ONNX Runtime cannot load" in found.reason + bad.log()
        assert not (state / "servers" / "triton" / "work" / "models" / "other-1").exists()
        assert not traffic.lost()


def test_a_keeper_that_is_killed_leaves_no_model_behind(state: Path) -> None:
    """`kill -9` of one keeper: the host takes its model out, the other goes on; of all: the host ends, too."""
    with guests(state, "judge", "other") as [first, second]:
        said, address = host(state), first.look().address
        with Traffic(first) as traffic:
            os.kill(second.child, signal.SIGKILL)
            until(lambda: loaded(address)["other-1"] != 200, "the model's leave")
        assert not traffic.lost()
        os.kill(first.child, signal.SIGKILL)
        until(lambda: not is_alive(said["pid"]) and not is_alive(said["server"]), "the end of the host")


@pytest.mark.parametrize("victim", ["pid", "server"])
def test_the_death_of_a_shared_server_is_everybody_s(state: Path, victim: str) -> None:
    """`kill -9` of the host or of Triton: each replica ends with a reason, and the next ones share a new server."""
    with guests(state, "judge", "other") as found:
        said = host(state)
        below = descendants(said["server"])
        os.kill(said[victim], signal.SIGKILL)
        for one in found:
            ended = one.gone(SLACK)
            assert ended is not None
            assert ended.exit_status == 1
            wanted = "NVIDIA Triton was killed by signal 9" if victim == "server" else "its host is gone"
            assert ended.reason == f"error: the shared server ended: {wanted}"
        until(lambda: not any(map(is_alive, below)), "the end of the models' processes")
        for one in found:
            one.up()
            assert one.ask(judge.row()).status == 200
        assert host(state)["life"] != said["life"]


def test_a_dead_process_of_one_model_ends_its_replica_only(state: Path) -> None:
    """In a shared server: the other endpoint answers on, and the one that was hit starts again in the same server."""
    with guests(state, "judge", "other") as [good, hit], Traffic(good) as traffic:
        said = host(state)
        [stub] = [
            pid for pid in descendants(said["server"]) if b"/other-1/" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        time.sleep(1.5)
        os.kill(stub, signal.SIGKILL)
        ended = hit.gone(SLACK)
        assert ended is not None
        assert f"lost the process {stub}" in ended.reason
        hit.up()
        assert hit.ask(judge.row()).status == 200
        assert host(state)["life"] == said["life"]
        assert not traffic.lost()


def test_words_of_its_own_make_a_server_of_its_own(state: Path) -> None:
    """A server can be started with one set of words only: who has others does not get somebody else's."""
    with guests(state, "judge") as [one], replica(state, "other", words=(*SHARE, "--log-verbose=0")) as apart:
        apart.up()
        assert apart.look().address != one.look().address
        assert replace(apart.look(), address="").state == "ready"
