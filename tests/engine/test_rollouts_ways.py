"""Ways that a rollout can go, each with real replicas and real users: settings, queues, feedback, A/B, no room."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.rolling import ENDS, Scene
from tests.engine.rolling_stacks import four, tiny

from mainspring.testing.misbehaving import FAIL, predictive
from mainspring.testing.users import Asked, Request
from mainspring.testing.watched import RoutesWatch

pytestmark = pytest.mark.engine

RATE = 60.0  # requests a second
WALK = [{"canary": "40%", "for": "4s"}, {"all": "100%"}]
OBJECTIVE = {"availability": "90%"}
ABORT = {"errors": "0% over control", "false_aborts": "1%"}
QUIET = {"rollout": WALK, "abort": ABORT, "route": {}, "replicas": 1}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A stack for all tests of this file."""
    made = tiny(tmp_path_factory.mktemp("ways") / "stack", WALK, objective=OBJECTIVE, abort=ABORT)
    try:
        made.up()
        yield made
    finally:
        made.clear()


@pytest.fixture
def scene(running: Scene) -> Iterator[Scene]:
    """The stack with no rollout under way, and its first settings of rollouts again after the test."""
    yield running
    running.change(**QUIET)
    running.quiet()


def test_settings_are_rolled_out_as_a_canary(scene: Scene) -> None:
    """Two threads for one: the same version with other settings gets a part of the requests, then all of them."""
    version = scene.champion
    threads = 3 - int(scene.spec()["serving"]["delay"].get("threads", 1))
    with RoutesWatch(scene.state) as watch, scene.users(four, RATE) as users:
        label = scene.settings_changed(threads=threads)
        end = scene.ended(label)
        scene.quiet()
    assert end["kind"] == "promoted", scene.tell()
    assert label.startswith(f"{version}.")
    assert scene.champion == version
    assert not users.lost()
    assert {status for _, status in users.count()} == {200}
    assert any(one.get(f"delay-{label}") == pytest.approx(0.4) for one in watch.shares("delay"))
    assert watch.shares("delay")[-1] == {f"delay-{label}": 1.0}
    assert not watch.problems()
    line = Path(f"/proc/{scene.pid(f'delay-{label}-0')}/cmdline").read_bytes().split(b"\0")
    assert line[line.index(b"--threads") + 1] == str(threads).encode()


def test_two_rollouts_queue(scene: Scene) -> None:
    """Settings that change while a version is rolled out wait for it, which is said; then they have their turn."""
    threads = 3 - int(scene.spec()["serving"]["delay"].get("threads", 1))
    with scene.users(four, RATE) as users:
        number = scene.passed()
        first = scene.until("the version's canary", lambda: next((r for r in scene.begun("version", number)), None))
        scene.change(threads=threads)
        why = scene.until("the settings to wait", lambda: [w for w in scene.waits() if "settings" in w.lower()])
        label = scene.settings_label(since=first["at"])
        end = scene.ended(label)
        scene.quiet()
    version = next(one for one in scene.rollouts(str(first["version"])) if one["kind"] == "promoted")
    assert why
    assert end["kind"] == "promoted", scene.tell()
    assert next(one for one in scene.rollouts(label) if one["kind"] == "began")["at"] >= version["at"]
    assert label.partition(".")[0] == number
    assert not users.lost()


def test_a_newer_version_supersedes(scene: Scene) -> None:
    """The next one takes the place of the version that is rolled out, which is not called bad."""
    scene.change(rollout=[{"canary": "40%", "for": "60s"}, {"all": "100%"}])
    with RoutesWatch(scene.state) as watch, scene.users(four, RATE) as users:
        old = scene.passed()  # the newest that passed is the challenger, as soon as the loop sees it
        scene.until("its canary", lambda: scene.stage(scene.label(old)))
        scene.change(rollout=WALK)
        new = scene.passed()
        end = scene.ended(scene.label(new))
        scene.quiet()
    assert end["kind"] == "promoted", scene.tell()
    assert [one["kind"] for one in scene.rollouts(scene.label(old)) if one["kind"] in ENDS] == ["superseded"]
    assert next(v for v in scene.versions() if v["number"] == old)["verdict"] == "passed"
    assert not users.lost()
    assert not watch.problems()


def test_bad_feedback_gives_a_version_up(scene: Scene) -> None:
    """Answers are there and quick, and users like them less: that alone ends the rollout."""
    scene.change(rollout=[{"canary": "40%", "for": "60s"}, {"all": "100%"}], abort={**ABORT, "score": "10%"})
    before = scene.champion
    old = f"delay-{scene.label(before)}"

    def says(asked: Asked) -> Request:
        likes = asked.number % 10 < (9 if asked.revision.startswith(old) else 3)
        return Request({"feedback": [{"id": asked.id, "truth": {"score": float(likes)}}]})

    with scene.users(four, RATE, then=says) as users:
        number = scene.passed()
        end = scene.ended(scene.label(number))
        scene.quiet()
    assert end["kind"] == "aborted", scene.tell()
    assert [check["name"] for check in end["checks"] if check["state"] == "bad"] == ["score"]
    assert scene.champion == before
    assert users.told > 0
    assert {status for _, status in users.count()} == {200}


def test_an_ab_test_ends_with_its_interval(scene: Scene) -> None:
    """Users buy more often: as soon as that is certain at any look, the test ends, and says by how much."""
    scene.change(rollout=[{"ab": "50%", "metric": "bought", "for": "90s"}, {"all": "100%"}])
    old = f"delay-{scene.label(scene.champion)}"

    def buys(asked: Asked) -> Request:
        bought = asked.number % 10 < (3 if asked.revision.startswith(old) else 8)
        return Request({"feedback": [{"id": asked.id, "truth": {"bought": float(bought)}}]})

    with scene.users(four, RATE, then=buys) as users:
        number = scene.passed()
        end = scene.ended(scene.label(number))
        scene.quiet()
    assert end["kind"] == "promoted", scene.tell()
    stage = next(one for one in scene.rollouts(scene.label(number)) if one["kind"] == "stage")
    (ab,) = [check for check in stage["checks"] if check["name"] == "ab"]
    assert 0 < ab["numbers"]["low"] <= ab["numbers"]["difference"] <= ab["numbers"]["high"]
    assert ab["numbers"]["low"] <= 0.5 <= ab["numbers"]["high"], "the truth is 80 % less 30 %"
    assert stage["elapsed"] < 90
    assert not users.lost()


def test_users_keep_their_arm(scene: Scene) -> None:
    """Split by user: who has met the new version goes on with it when its share grows; nobody goes back and forth."""
    walk: list[dict[str, Any]] = [{"canary": share, "for": "4s", "otherwise": "proceed"} for share in ("20%", "60%")]
    scene.change(rollout=[*walk, {"all": "100%"}], route={"split": "x-user"})
    with RoutesWatch(scene.state) as watch, scene.users(four, RATE) as users:
        number = scene.passed()
        end = scene.ended(scene.label(number))
        scene.quiet()
    assert end["kind"] == "promoted", scene.tell()
    revision = f"delay-{scene.label(number)}"
    arms = defaultdict(list)
    for one in sorted(users.since(0.0), key=lambda a: a.at):
        arms[one.user].append(one.revision == revision)
    changes = [sum(a != b for a, b in itertools.pairwise(seen)) for seen in arms.values()]
    assert max(changes) == 1, "a user went back"
    steps = [one.get(revision, 0.0) for one in watch.shares("delay")]
    assert [share for share in dict.fromkeys(steps) if share] == pytest.approx([0.2, 0.6, 1.0])
    assert not users.lost()


@pytest.mark.parametrize("cores", [1, 2])
def test_a_full_pool_is_no_deadlock(tmp_path: Path, cores: int) -> None:
    """All cores are taken: replicas are replaced where they stand, one by one, and every request is answered."""
    walk = [{"waves": "1 replica", "within": f"{4 * cores}s"}]
    scene = tiny(tmp_path / "stack", walk, {"cores": cores}, replicas=cores, objective=OBJECTIVE, abort=ABORT)
    most, seen = 0, set()
    try:
        scene.up()
        with RoutesWatch(scene.state) as watch, scene.users(four, 30.0) as users:
            number = scene.passed()
            until = time.monotonic() + 90
            while not (ends := [r for r in scene.rollouts(number) if r["kind"] in ("promoted", "aborted")]):
                there = [f"delay-{v}-{i}" for v in ("1", number) for i in range(cores)]
                alive = {name for name in there if scene.pid(name)}
                most, seen = max(most, len(alive)), seen | alive
                assert time.monotonic() < until, scene.tell()
                time.sleep(0.02)
            scene.quiet()
            time.sleep(0.5)
        assert [end["kind"] for end in ends] == ["promoted"], scene.tell()
        assert most == cores, f"{most} replicas ran on {cores} cores"
        assert len(seen) == 2 * cores
        assert not users.lost()
        assert {status for _, status in users.count()} == {200}
        assert not watch.problems()
        assert watch.shares("delay")[-1] == {f"delay-{number}": 1.0}
    finally:
        scene.clear()


def test_a_version_that_fails_on_a_full_pool_leaves_it_as_it_was(tmp_path: Path) -> None:
    """Given up in the first wave, where its replica stands in the place of an old one: the old ones come back."""
    walk = [{"waves": "1 replica", "within": "60s"}]
    scene = tiny(tmp_path / "stack", walk, {"cores": 2}, replicas=2, objective=OBJECTIVE, abort=ABORT)
    try:
        scene.up()
        bad = partial(predictive, when='(rows["x0"] > 900).any()', does=FAIL)
        with RoutesWatch(scene.state) as watch, scene.users(four, RATE) as users:
            number = scene.passed(lambda good, folder: bad(good, folder, scene.state / "code"))
            end = scene.ended(number)
            scene.until("two old replicas", lambda: all(scene.pid(f"delay-1-{i}") for i in range(2)))
            scene.quiet()
        assert end["kind"] == "aborted", scene.tell()
        assert not users.lost()
        assert watch.shares("delay")[-1] == {"delay-1": 1.0}
        assert {one.revision for one in users.since(0.0) if one.status != 200} == {f"delay-{number}"}
        assert not watch.problems()
    finally:
        scene.clear()
