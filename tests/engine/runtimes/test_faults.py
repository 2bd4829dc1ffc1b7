"""Servers that fail: what their replica does, and what users and the loop see of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.engine.runtimes import bad_runtime

from mainspring.testing import runtime_artefacts as judge
from mainspring.testing.faults import is_alive
from mainspring.testing.runtime_under_test import UnderTest
from mainspring.testing.serving import Site, call

pytestmark = [pytest.mark.engine, pytest.mark.light]

SOON = 20.0  # seconds on a busy machine for what is at once on a quiet one
Make = Callable[..., UnderTest]


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Make]:
    """Makes replicas of the bad server; the fault is the first argument."""
    packages = bad_runtime.install(tmp_path / "packages")
    judge.onnx(tmp_path / "good", tmp_path / "code")
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    with ExitStack() as stack:

        def make(fault: str, number: int = 0, *options: str) -> UnderTest:
            state = tmp_path / f"state-{number}"
            under = UnderTest(bad_runtime.BAD, state, tmp_path / "good", tmp_path / "code", version=str(number + 1),
                              words=(fault,), options=options, env={"PYTHONPATH": path})  # fmt: skip
            return stack.enter_context(under)

        yield make


@pytest.mark.parametrize(("fault", "says"), [
    ("dies-at-once", "ended with status 3"),
    ("dies-while-loading", "ended with status 4"),
    ("never-ready", "was not ready within 8 s"),
])  # fmt: skip
def test_a_server_that_does_not_get_ready(bad: Make, fault: str, says: str) -> None:
    """Its replica ends with the reason, in bounded time; it never said that it is ready."""
    under = bad(fault)
    under.start()
    states = set()

    def ended(seen: object) -> bool:
        states.add(getattr(seen, "state", ""))
        return getattr(seen, "state", "") not in ("starting", "ready")

    found = under.until(ended, "ended", 8.0 + SOON)
    assert found.exit_status == 1
    assert says in found.reason
    assert states <= {"starting", "exited"}


def test_a_server_that_leaks_is_ended_at_its_limit(bad: Make) -> None:
    """Beyond its memory it is ended with a sentence that has both figures, and the next one begins with none of it."""
    under = bad("leaks", 0, "--memory", "400e6")
    under.up()
    under.seen.update(under.pids())
    for _ in range(30):
        if under.look().state != "ready":
            break
        try:
            under.ask(judge.row())
        except OSError:  # it was ended meanwhile
            break
        time.sleep(0.1)
    found = under.gone(SOON)
    assert found is not None
    assert found.exit_status == 1
    assert "GB of memory; the endpoint's `memory` is 0.40 GB" in found.reason
    under.up()
    assert under.ask(judge.row()).status == 200


def test_a_server_that_is_deaf_to_sigterm_is_killed_with_its_children(bad: Make) -> None:
    """It, and a child of its own that is as deaf, are gone soon after its grace; the replica ended as told."""
    under = bad("deaf")
    under.up()
    pids = under.pids()
    assert len(pids) == 3
    began = time.monotonic()
    under.stop(60.0)
    found = under.gone(SOON)
    took = time.monotonic() - began
    assert found is not None
    assert found.exit_status == 0
    assert 2.0 <= took < under.drain + 2.0 + SOON
    assert not [pid for pid in pids if is_alive(pid)]
    assert "did not end within 2 s: killed" in under.log()


@pytest.mark.parametrize("fault", ["garbage", "too-few", "no-number"])
def test_garbage_never_reaches_a_user(bad: Make, tmp_path: Path, fault: str) -> None:
    """A 200 that makes no sense is a 502 that says so; beside a replica that is well, users get its answers."""
    poor, well = bad(fault, 0), bad("none", 1)
    poor.up()
    well.up()
    fields = [[one.name, one.datatype] for one in judge.FIELDS]
    with Site(tmp_path / "site") as site:
        gateway = site.gateway("gateway-0")
        gateway.wait_ready()

        def route(*replicas: UnderTest) -> None:
            rows = [
                {"name": one.revision, "version": one.version, "weight": 10_000 // len(replicas),
                 "replicas": [one.look().address], "protocol": "oip", "model": one.revision, "inputs": fields,
                 "output": judge.OUTPUT}
                for one in replicas
            ]  # fmt: skip
            site.route([], "nobody", wait=["gateway-0"], beside={"judge": {"revisions": rows}})

        route(poor)
        replies = [call(gateway.address, "POST", "/v2/models/judge/infer", judge.row()) for _ in range(5)]
        assert replies[0].status == 502, replies
        # one that fails each time is left alone for a while: then nobody is there
        assert {reply.status for reply in replies} <= {502, 503}, replies
        assert all(reply.json()["error"] for reply in replies), replies
        route(well)
        reply = call(gateway.address, "POST", "/v2/models/judge/infer", judge.row(18, 10.0, "AA"))
        assert reply.status == 200, reply
        wanted = judge.expected({"hour": [18], "distance": [10.0], "carrier": ["AA"]})
        assert reply.json()["outputs"][0]["data"] == pytest.approx(wanted)
