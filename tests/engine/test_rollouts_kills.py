"""Two rollouts, with `kill -9` of the controller and of replicas in every phase: the end is what it would have been."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine.rolling import ENDS, Scene
from tests.engine.rolling_stacks import parcel, parcels

from mainspring.testing.misbehaving import FAIL, predictive, same
from mainspring.testing.users import Users
from mainspring.testing.watched import RoutesWatch

pytestmark = pytest.mark.engine

RATE = 30.0  # requests a second
WALK = [{"canary": "30%", "for": "10s"}, {"waves": "1 replica", "within": "12s"}]
OBJECTIVE = {"availability": "90%"}
ABORT = {"errors": "0% over control", "false_aborts": "0.1%"}  # two deaths of a replica are no reason to give it up
CONTROLLER, CANDIDATE, CONTROL, FRESH, HOST = "controller", "candidate", "control", "fresh control", "gates"
PATIENCE = 150.0  # seconds for one rollout


@dataclass(frozen=True)
class Blow:
    """One `kill -9`, when the rollout of version `number` is in a phase: `gates`, `begins`, `canary`, `wave 1`..."""

    number: str
    phase: str
    what: str
    within: float = 0.5  # seconds, of which chance takes a part, from when the phase is seen


BLOWS = (
    Blow("2", "gates", CONTROLLER),
    Blow("2", "gates", HOST),
    Blow("2", "begins", CONTROLLER),
    Blow("2", "canary", CANDIDATE),
    Blow("2", "canary", CONTROL),
    Blow("2", "canary", FRESH),
    Blow("2", "canary", CONTROLLER),
    Blow("2", "wave 1", CONTROL),
    Blow("2", "wave 1", CONTROLLER),
    Blow("2", "wave 2", CANDIDATE),
    Blow("2", "wave 2", CONTROLLER),
    Blow("2", "promoted", CONTROLLER, 0.1),
    Blow("3", "gates", CONTROLLER),
    Blow("3", "canary", CONTROLLER, 0.5),
    Blow("3", "aborted", CONTROLLER, 0.1),
)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A stack with three replicas, and no process left behind."""
    made = parcels(tmp_path / "stack", WALK, replicas=3, objective=OBJECTIVE, abort=ABORT)
    yield made
    made.clear()


def test_killed_in_every_phase_a_rollout_ends_as_if_nothing_had_happened(scene: Scene, seed: int, capsys) -> None:
    """A good version is promoted, a bad one given up: each step once, shares of 100 % in all, no request lost."""
    chance, struck, blows = random.Random(seed), list[Blow](), list(BLOWS)
    scene.up()
    began = time.monotonic()
    bad = partial(predictive, when='len(rows) < 100 and (rows["rain_mm"] > 900).any()', does=FAIL)
    makes = {"2": same, "3": lambda good, folder: bad(good, folder, scene.state / "code")}
    with RoutesWatch(scene.state) as watch, scene.users(parcel, RATE) as users:
        for number, make in makes.items():
            assert scene.version(make) == number
            scene.name_challenger(number)
            _follow(scene, number, [blow for blow in blows if blow.number == number], chance, struck)
            scene.quiet()
    with capsys.disabled():
        told = ", ".join(f"{one.what} in {one.phase} of {one.number}" for one in struck)
        print(f"\nseed {seed}: {len(struck)} kills in {time.monotonic() - began:.0f} s ({told})")
        print("\n".join(f"version {number}: {scene.told(number)}" for number in makes))
    assert len(struck) == len(BLOWS)
    assert not watch.problems(), watch.problems()[:5]
    _nobody_was_lost(scene, users)
    _each_step_once(scene)
    assert scene.champion == "2"
    assert {v["number"]: v["verdict"] for v in scene.versions()} == {"1": "passed", "2": "passed", "3": "refused"}
    assert {v["number"]: v["aliases"] for v in scene.versions()} == {"1": ["previous"], "2": ["champion"], "3": []}
    assert watch.shares("delay")[-1] == {"delay-2": 1.0}


def _each_step_once(scene: Scene) -> None:
    """What was decided, each of it once, and told once."""
    walked = [r for n in ("2", "3") for r in scene.rollouts(n) if r["kind"] not in ("look", "began")]
    assert sorted((r["version"], r["kind"], r["stage"], r["wave"]) for r in walked) == [
        ("2", "promoted", "waves", 2),
        ("2", "stage", "canary", 0),
        ("2", "stage", "waves", 1),
        ("2", "stage", "waves", 2),
        ("3", "aborted", "canary", 0),
    ], scene.tell()
    assert [r["at"] for r in walked] == sorted(r["at"] for r in walked)
    reasons = ("RolloutBegan", "StageBegan", "GatesJudged", "Promoted", "RolloutAborted")
    events = [e for e in scene.events(*reasons) if not e["message"].startswith("version 1 ")]
    assert {e["count"] for e in events} == {1}, events
    counts = Counter(e["reason"] for e in events)
    assert {reason: counts[reason] for reason in reasons if reason != "StageBegan"} == {
        "RolloutBegan": 2, "GatesJudged": 2, "Promoted": 1, "RolloutAborted": 1,
    }  # fmt: skip


def _follow(scene: Scene, number: str, blows: list[Blow], chance: random.Random, struck: list[Blow]) -> None:
    """Wait for the end of a rollout; meanwhile strike, each blow when its phase is there."""
    until = time.monotonic() + PATIENCE
    while True:
        phases = _phases(scene, number)
        for blow in [b for b in blows if b.phase in phases][:1]:
            if _strike(scene, blow, chance):
                blows.remove(blow)
                struck.append(blow)
        missed = [blow for blow in blows if blow.phase not in ENDS]
        assert not (phases & set(ENDS) and missed), f"it ended before {missed}\n{scene.tell()}"
        if phases & set(ENDS) and not blows:
            return
        assert time.monotonic() < until, f"version {number} stands in {phases}\n{scene.tell()}"
        time.sleep(0.05)


def _phases(scene: Scene, number: str) -> set[str]:
    """Where the rollout of a version is, by what the control API says; a controller that is down is started again."""
    kinds = {one["kind"] for one in scene.rollouts(number)}
    if kinds & set(ENDS):
        return kinds & set(ENDS)
    if "began" not in kinds:
        runs = scene.control.status()["pipelines"]
        return {"gates"} if any(one["running"] for one in runs) else set()
    found: list[dict[str, Any]] = [r for r in scene.control.status()["rollouts"] if str(r["candidate"]) == number]
    if not found or not found[0]["ready"]:
        return {"begins"} if not any(one["kind"] == "stage" for one in scene.rollouts(number)) else set()
    stage = found[0]["stage"]
    return {f"wave {found[0]['wave']}" if stage == "waves" else stage}


def _strike(scene: Scene, blow: Blow, chance: random.Random) -> bool:
    """Kill after a moment that chance takes; whether there was somebody to kill."""
    names = {
        CONTROLLER: ("controller",),
        CANDIDATE: (f"delay-{blow.number}-0",),
        CONTROL: ("delay-1-0", "delay-1-1"),
        FRESH: ("delay-1.fresh-0",),
        HOST: tuple(path.name for path in (scene.state / "processes").glob("run-delay-*")),
    }[blow.what]
    time.sleep(chance.uniform(0.0, blow.within))
    return any(scene.kill(name) for name in names)


def _nobody_was_lost(scene: Scene, users: Users) -> None:
    """Every request got a whole answer; those that are no 200 are version 3's own."""
    assert not users.lost(), (users.lost()[:3], scene.tell())
    failed = [one for one in users.since(0.0) if one.status != 200]
    assert {one.revision for one in failed} <= {"delay-3"}, failed[:5]
