"""Supervision: what is left after kill -9 of anything, and what a new controller makes of it."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.loop.plan import StartGateway, StartReplica, StopProcess
from mainspring.loop.ports import Accepted, Refused
from mainspring.loop.snapshot import ProcessSeen
from mainspring.testing import faults
from mainspring.testing.builders import a_replica, a_run, a_step
from mainspring.worlds.local.world import Programs

from .parts import Here, here

NAME = "delay-1-0"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Here]:
    """A fresh world."""
    with here(tmp_path) as found:
        yield found


def seen(world: Here, name: str = NAME) -> ProcessSeen:
    """One process, now."""
    return next(process for process in world.world.processes.observe() if process.name == name)


def started(world: Here, name: str = NAME) -> dict[str, int]:
    """What the shim wrote at the start."""
    found: dict[str, int] = json.loads((world.state / "processes" / name / "started.json").read_text())
    return found


def ready(world: Here) -> ProcessSeen:
    """A replica that is ready."""
    assert world.world.begin(a_step(a_replica(str(world.artefact)))) == Accepted()
    faults.wait_until(lambda: seen(world).state == "ready", "ready")
    return seen(world)


def test_a_killed_shim_takes_its_child_with_it(world: Here) -> None:
    """Kill -9 of the shim leaves no orphan, and the process is lost with a reason."""
    child = ready(world).pid
    faults.kill(started(world)["shim"])
    faults.wait_until(lambda: not faults.is_alive(child), "the child's end")
    faults.wait_until(lambda: seen(world).state == "lost", "lost")
    assert "vanished" in seen(world).reason


def test_a_killed_child_leaves_its_signal(world: Here) -> None:
    """Kill -9 of the child is exit status -9, with use of the machine recorded."""
    faults.kill(ready(world).pid)
    faults.wait_until(lambda: seen(world).state == "exited", "exited")
    assert (seen(world).exit_status, seen(world).reason) == (-signal.SIGKILL, "killed by SIGKILL")
    cpu, rss = world.world.processes.usage(NAME)
    assert cpu > 0
    assert rss > 1_000_000


def test_what_left_the_group_ends_with_the_process(world: Here) -> None:
    """A server's worker in a session of its own does not outlive a kill -9 of the server."""
    world.how("stranger")
    child = ready(world).pid
    told = world.artefact / "stranger.json"
    faults.wait_until(told.exists, "the worker")
    worker = int(json.loads(told.read_text())["pid"])
    assert faults.is_alive(worker)
    faults.kill(child)
    faults.wait_until(lambda: seen(world).state == "exited", "exited")
    assert not faults.is_alive(worker)


def test_a_failure_says_its_last_line(world: Here) -> None:
    """A program that raises is exited with the last line of its log as the reason."""
    world.how("broken")
    world.world.begin(a_step(a_replica(str(world.artefact))))
    faults.wait_until(lambda: seen(world).state == "exited", "exited")
    assert (seen(world).exit_status, seen(world).reason) == (1, "ValueError: no such model")
    assert "Traceback" in (world.state / "logs" / f"{NAME}.log").read_text()


def test_a_program_that_is_not_there_is_exited(tmp_path: Path) -> None:
    """A missing executable is an exit with a reason, not an exception."""
    with here(tmp_path) as world:
        world.world._python = "/nonesuch/python"
        assert world.world.begin(a_step(a_replica(str(world.artefact)))) == Accepted()
        faults.wait_until(lambda: seen(world).state == "exited", "exited")
        assert (seen(world).exit_status, seen(world).reason) == (127, "cannot start it: No such file or directory")


def test_a_new_controller_adopts(world: Here) -> None:
    """A new world on the same folder sees the same process, does not start it again, and can stop it."""
    before = ready(world)
    world.world = world.reborn()
    assert seen(world) == before
    assert world.world.begin(a_step(a_replica(str(world.artefact)))) == Accepted()
    assert seen(world) == before
    world.world.begin(a_step(StopProcess(NAME, 1, 5.0)))
    faults.wait_until(lambda: seen(world).state == "exited", "exited")
    assert seen(world).exit_status == 0


def test_a_stubborn_process_is_killed_after_its_grace(world: Here) -> None:
    """A process that ignores SIGTERM is stopping, then killed, also when no controller looks."""
    world.how("stubborn")
    child = ready(world).pid
    world.world.begin(a_step(StopProcess(NAME, 1, 0.3)))
    assert seen(world).state == "stopping"
    faults.wait_until(lambda: not faults.is_alive(child), "its end without a look")
    faults.wait_until(lambda: seen(world).state == "exited", "exited")
    assert seen(world).exit_status == -signal.SIGKILL


def test_a_frozen_shim_does_not_save_its_child(world: Here) -> None:
    """With the shim stopped (SIGSTOP), the next looks enforce the deadline."""
    child = ready(world).pid
    os.kill(started(world)["shim"], signal.SIGSTOP)
    world.world.begin(a_step(StopProcess(NAME, 1, 0.1)))
    faults.wait_until(lambda: seen(world).state in ("lost", "exited"), "its end", 10)
    assert not faults.is_alive(child)


def test_what_a_child_started_ends_with_it(world: Here) -> None:
    """A grandchild does not outlive the child, be the child or the shim killed."""
    for generation, victim in ((1, "child"), (2, "shim")):
        world.how("parent")
        world.world.begin(a_step(a_replica(str(world.artefact), generation=generation)))
        faults.wait_until(lambda: seen(world).state == "ready", "ready")
        child = seen(world).pid
        grandchildren = [int(pid) for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
        assert grandchildren
        faults.kill(started(world)[victim])
        faults.wait_until(lambda: seen(world).state in ("exited", "lost"), "its end")
        for grandchild in grandchildren:
            faults.wait_until(functools.partial(_is_gone, grandchild), "the grandchild's end")


def test_a_reused_process_id_is_not_killed(world: Here) -> None:
    """Files that name somebody else's process do no harm: it does not bear the token."""
    ready(world)
    folder = world.state / "processes" / NAME
    real = json.loads((folder / "started.json").read_text())
    bystander = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "30")
    try:
        (folder / "started.json").write_text(json.dumps({**real, "shim": bystander, "child": bystander}))
        world.world.begin(a_step(StopProcess(NAME, 1, 0.0)))
        for _ in range(5):
            world.world.observe()
            time.sleep(0.02)
        world.world.processes.kill_all()
        assert faults.is_alive(bystander)
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)
    world.world.processes.kill_all()  # the real ones are found by their token
    faults.wait_until(lambda: not faults.is_alive(real["child"]), "the real one's end")


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b'{"generation": "x"}', b"\xff\xfe", b"[" * 5000])
def test_an_unreadable_spec_is_a_lost_process(world: Here, junk: bytes) -> None:
    """It is shown with a reason, hides no other, and can be started anew."""
    ready(world)
    folder = world.state / "processes" / "delay-2-0"
    folder.mkdir()
    (folder / "spec.json").write_bytes(junk)
    found = seen(world, "delay-2-0")
    assert (found.state, found.kind, found.generation) == ("lost", "replica", 0)
    assert "unreadable" in found.reason
    assert seen(world).state == "ready"
    again = a_replica(str(world.artefact), name="delay-2-0", generation=3)
    assert world.world.begin(a_step(again)) == Accepted()
    faults.wait_until(lambda: seen(world, "delay-2-0").state == "ready", "ready")


def test_damaged_files_of_a_shim_are_a_lost_process(world: Here) -> None:
    """Hostile values in exit.json do not raise."""
    ready(world)
    folder = world.state / "processes" / NAME
    token = json.loads((folder / "spec.json").read_text())["token"]
    (folder / "exit.json").write_text(json.dumps({"token": token, "status": "often", "reason": 3}))
    assert seen(world).state == "lost"
    assert "damaged" in seen(world).reason


def test_a_start_that_was_cut_short_is_made_good(world: Here) -> None:
    """A spec that was written and never launched is lost; the same step again launches it."""
    folder = world.state / "processes" / NAME
    folder.mkdir()
    spec = {"name": NAME, "kind": "replica", "generation": 1, "token": "t", "argv": [], "env": {}, "since": 1.0}
    (folder / "spec.json").write_text(json.dumps(spec))
    assert seen(world).state == "lost"
    assert ready(world).generation == 1


def test_a_second_generation_waits_for_the_first(world: Here) -> None:
    """While generation 1 runs, generation 2 is refused."""
    ready(world)
    outcome = world.world.begin(a_step(a_replica(str(world.artefact), generation=2)))
    assert isinstance(outcome, Refused)
    assert "still runs" in outcome.why


def test_an_address_of_another_process_is_not_ready(world: Here) -> None:
    """Only the address that this generation's own child wrote makes it ready."""
    ready(world)
    (world.state / "processes" / NAME / "address.json").write_text('{"address": "127.0.0.1:1", "pid": 1}')
    assert (seen(world).state, seen(world).address) == ("starting", "")


def test_children_get_their_environment(world: Here) -> None:
    """Threads as asked for, no telemetry, unbuffered; the state folder's spec holds nothing of ours besides."""
    world.how("environment")
    os.environ["MAINSPRING_TEST_SECRET"] = "hush"
    try:
        world.world.begin(a_step(a_replica(str(world.artefact), threads=3)))
        faults.wait_until(lambda: seen(world).state == "ready", "ready")
    finally:
        del os.environ["MAINSPRING_TEST_SECRET"]
    given = json.loads((world.artefact / "environment.json").read_text())
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        assert given[name] == "3"
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert given["MAINSPRING_TEST_SECRET"] == "hush"
    assert "hush" not in (world.state / "processes" / NAME / "spec.json").read_text()
    run = world.world.command(a_run())
    assert run.env["PYTHONHASHSEED"] == "0"


def test_the_command_lines_are_those_agreed(world: Here) -> None:
    """The real programs are started with the options of the design."""
    world.world._programs = Programs()
    replica = world.world.command(a_replica("/a")).argv[1:]
    assert replica[:6] == ("-m", "mainspring.replicas.onnx", "--artefact", "/a", "--name", NAME)
    assert replica[-2:] == ("--batch-wait", "0.002")
    gateway = world.world.command(StartGateway("gateway-0", 1, 8080, workers=2)).argv[1:]
    assert gateway[:4] == ("-m", "mainspring.gateway", "--name", "gateway-0")
    assert gateway[-1] == "--workers-share"
    told = dict(itertools.pairwise(gateway))
    assert told["--port"] == "8080"
    for option in ("--keys", "--pepper", "--upstream-key", "--processes"):
        assert Path(told[option]).is_relative_to(world.state), option
    chat = world.world.command(
        StartReplica("chat-1-0", 1, "chat", "chat", "1", "/a", "llamacpp", options=("--slots", "4"))
    )
    assert chat.argv[1:3] == ("-m", "mainspring.replicas.llamacpp")
    assert chat.argv[-2:] == ("--slots", "4")
    assert chat.env["GOMP_SPINCOUNT"] == "1000"
    secret = Path(dict(itertools.pairwise(chat.argv))["--key-file"]).read_text()
    assert secret not in " ".join([*chat.argv, *chat.env.values(), *gateway])
    run = world.world.command(a_run()).argv[1:]
    assert run[:4] == ("-m", "mainspring.pipelines.host", "--run", str(world.state / "runs" / "delay-1"))


def test_a_long_log_is_put_aside(world: Here) -> None:
    """A log of more than 20 MB is renamed at the next start, and the reason comes from the new one."""
    log = world.state / "logs" / f"{NAME}.log"
    with open(log, "wb") as file:
        file.truncate(21 * 1024 * 1024)
    world.how("broken")
    world.world.begin(a_step(a_replica(str(world.artefact))))
    faults.wait_until(lambda: seen(world).state == "exited", "exited")
    assert log.stat().st_size < 10_000
    assert log.with_name(log.name + ".1").exists()


def test_an_ended_process_can_be_removed(world: Here) -> None:
    """A live one cannot."""
    ready(world)
    assert not world.world.processes.remove(NAME)
    world.crash(NAME)
    faults.wait_until(lambda: world.world.processes.remove(NAME), "removal")
    assert world.world.processes.observe() == ()


def test_a_look_is_quick(world: Here) -> None:
    """Observing twenty processes takes a few milliseconds."""
    ready(world)
    for number in range(20):
        folder = world.state / "processes" / f"old-{number}"
        folder.mkdir()
        for file in ("spec.json", "exit.json"):
            value = {"generation": 1, "token": "t", "kind": "replica", "status": 0, "reason": ""}
            (folder / file).write_text(json.dumps(value))
    world.world.processes.observe()
    best = min(_timed(world) for _ in range(5))
    assert best < 0.02


def _is_gone(pid: int) -> bool:
    return not faults.is_alive(pid)


def _timed(world: Here) -> float:
    began = time.perf_counter()
    world.world.processes.observe()
    return time.perf_counter() - began
