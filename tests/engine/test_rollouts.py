"""Versions of the flights example that misbehave, and one that does not, on real replicas under real traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.engine.rolling import Scene
from tests.engine.rolling_stacks import ROWS, Passengers, flights

from mainspring.testing.misbehaving import DIE, FAIL, predictive, same, slow
from mainspring.testing.watched import RoutesWatch

pytestmark = pytest.mark.engine

RATE, AT_ONCE = 60.0, 4  # requests a second, in fours
WALK = [{"canary": "30%", "for": "8s"}, {"all": "100%"}]
OBJECTIVE = {"p95": "500ms", "availability": "98%"}
ABORT = {"errors": ["0% over control", "50%"], "p95": "50% over control", "false_aborts": "1%"}


@dataclass(frozen=True)
class Kind:
    """A way to be: when a version's `features` misbehaves, how, and how its rollout ends."""

    when: str
    does: str
    end: str
    after: int = 0


KINDS = {
    "fails on one request in 20": Kind('len(rows) < 100 and (rows["carrier"] == "ZZ").any()', FAIL, "aborted"),
    "is slow for large requests": Kind(f"{ROWS} <= len(rows) < 100", slow(0.15), "aborted"),
    "dies when requests come together": Kind(f"1 < len(rows) < {ROWS}", DIE, "aborted", after=3),
    "is fine": Kind("", "", "promoted"),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The example, up with its first version; each test rolls out one version more."""
    made = flights(tmp_path_factory.mktemp("flights") / "stack", WALK, objective=OBJECTIVE, abort=ABORT)
    try:
        made.up()
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def passengers(scene: Scene) -> Passengers:
    """What users of the example ask."""
    return Passengers(scene.path.parent)


@pytest.mark.parametrize("name", KINDS)
def test_a_version_ends_as_it_deserves(scene: Scene, passengers: Passengers, capsys, name: str) -> None:
    """It passes the gates and gets its canary; what misbehaves is given up, what is fine promoted; nobody is lost."""
    kind, before = KINDS[name], scene.champion

    def make(good: Path, folder: Path) -> Path:
        if not kind.does:
            return same(good, folder)
        bad = partial(predictive, when=kind.when, does=kind.does, after=kind.after)
        return bad(good, folder, scene.state / "code")

    number = scene.version(make)
    began = time.time()
    with RoutesWatch(scene.state) as watch, scene.users(passengers, RATE, at_once=AT_ONCE) as users:
        scene.promote(number)
        end = scene.ended(number)
        scene.quiet()
        time.sleep(1.0)
    counts, lost = users.count(), users.lost()
    candidate = sum(n for (revision, _), n in counts.items() if revision == f"delay-{number}")
    with capsys.disabled():
        print(f"\n{name}: {candidate} of {len(users.asked)} requests; {scene.told(number)}")
    assert end["kind"] == kind.end, scene.tell()
    assert not lost, lost[:5]
    assert candidate > 0
    assert _judged(scene, number), "it did not go through the gates"
    assert scene.champion == (number if kind.end == "promoted" else before)
    assert not watch.problems()
    assert any(one.get(f"delay-{number}") == pytest.approx(0.3) for one in watch.shares("delay"))
    failed = [one for one in users.since(began) if one.status != 200]
    if kind.does == FAIL:  # these are the version's own answers, and only those that it had to fail
        assert {(one.revision, one.status) for one in failed} == {(f"delay-{number}", 500)}
        assert {one.number % 20 for one in failed} == {11}
    else:
        assert not failed, failed[:5]
    after = [one for one in users.since(end["at"] + 3.0) if one.revision != f"delay-{scene.champion}"]
    assert not after, "the one that lost still answers"


def _judged(scene: Scene, number: str) -> bool:
    found = [r["value"] for r in scene.control.records("gate") if r["value"]["version"] == number]
    return [one["passed"] for one in found] == [True]
