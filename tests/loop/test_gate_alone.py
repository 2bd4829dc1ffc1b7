"""`gate` by itself: a version is judged, the verdict is kept, and nothing is rolled out for it."""

from __future__ import annotations

import pytest

from mainspring.loop.memory import Memory, from_json, to_json
from mainspring.testing.virtual import VirtualLoop
from mainspring.worlds.twin.beliefs import DAY
from tests.loop.stacks import MARCH, flights


def lived(**changes: object) -> VirtualLoop:
    """A day in, with version 1 as champion, and a version 5 that somebody registered."""
    loop = VirtualLoop(flights(retrain={"when": []}, **changes), MARCH).run(days=1)
    loop.world.add_version("delay", "5", "theirs", (MARCH - 300 * DAY, MARCH))
    return loop


def answered(loop: VirtualLoop, target: str, version: str) -> tuple[bool, str]:
    """Ask for the gates of a version, and what is answered to that."""
    ident = f"gate-{target}-{loop.cycles}"
    loop.ask("gate", target, version=version)
    loop.run()
    answer = loop.store.answers(ident)
    assert answer is not None
    return answer.accepted, answer.message


def verdict(loop: VirtualLoop, number: str = "5") -> str:
    """The verdict that the registry has."""
    return next(v.verdict for v in loop.world.versions if v.number == number)


def keys(loop: VirtualLoop) -> list[str]:
    """Records of gates."""
    return sorted(r.key for r in loop.store.records("gate"))


def test_what_passes_alone_is_not_rolled_out() -> None:
    """The verdict is written down and recorded by its run; the champion keeps all traffic, for a month."""
    loop = lived()
    loop.ask("gate", "delay", version="5")
    loop.run(days=30)
    assert verdict(loop) == "passed"
    assert keys(loop) == ["delay/1", "delay/5/delay-2"]
    story = loop.story()
    assert story["aliases"]["delay"]["champion"] == "1"
    assert "challenger" not in story["aliases"]["delay"]
    assert loop.store.load()[1].alone == ("delay/5",)


def test_promoted_afterwards_it_needs_no_second_judgement() -> None:
    """Named challenger, a version that passed alone is rolled out at once."""
    loop = lived()
    loop.ask("gate", "delay", version="5")
    loop.run(days=1)
    loop.world.aliases["delay"]["challenger"] = "5"
    loop.run()
    assert loop.store.load()[1].rollouts["delay"].candidate == "5"
    assert len(loop.world.runs) == 2


def test_again_is_judged_anew_and_written_over() -> None:
    """Stricter gates refuse what passed before; both verdicts are recorded, the registry has the later one."""
    loop = lived()
    loop.ask("gate", "delay", version="5")
    loop.run(days=1)
    loop.stack = flights(auc=0.99, retrain={"when": []})
    loop.ask("gate", "delay", version="5")
    loop.run(days=1)
    assert verdict(loop) == "refused"
    assert keys(loop) == ["delay/1", "delay/5/delay-2", "delay/5/delay-3"]
    assert [r.value["passed"] for r in sorted(loop.store.records("gate"), key=lambda r: r.key)] == [True, True, False]


def test_a_version_that_waits_for_its_rollout_still_has_it() -> None:
    """Who asks for the gates of a version that passed by its own run takes nothing from it."""
    loop = VirtualLoop(flights(), MARCH).run(days=22)
    assert loop.store.load()[1].rollouts["delay"].candidate == "2"
    loop.ask("gate", "delay", version="2")
    loop.run(days=8)
    assert loop.store.load()[1].alone == ()
    assert loop.story()["aliases"]["delay"]["champion"] == "2"


@pytest.mark.parametrize(
    ("target", "version", "said"),
    [
        ("delay", "9", "there is no version 9 of `delay`"),
        ("delay", "", "there is no version of `delay` yet"),
        ("nix", "1", "no pipeline of the stack file produces `nix`, so it has no gates"),
    ],
)
def test_what_cannot_be_judged_is_told(target: str, version: str, said: str) -> None:
    """No such version, and no such model: answered, and nothing is begun."""
    loop = lived()
    assert answered(loop, target, version) == (False, said)
    assert len(loop.world.runs) == 1


def test_a_busy_pipeline_says_not_now() -> None:
    """While a run is under way the gates wait: who asked is told for what."""
    loop = lived()
    loop.ask("run", "delay")
    assert answered(loop, "delay", "5") == (False, "not now: run delay-2 is under way")


def test_without_a_champion_it_makes_none() -> None:
    """The first version of a model is not chosen by `gate` alone."""
    loop = VirtualLoop(flights(retrain={"when": []}), MARCH)
    loop.world.failing["delay"] = "no data"
    loop.run(days=1)
    loop.world.failing.clear()
    loop.world.add_version("delay", "5", "theirs", (MARCH - 300 * DAY, MARCH))
    loop.ask("gate", "delay", version="5")
    loop.run(days=2)
    assert verdict(loop) == "passed"
    assert loop.store.load()[1].models == {}
    assert "champion" not in loop.story()["aliases"].get("delay", {})


@pytest.mark.parametrize("seed", range(4))
def test_a_death_at_any_point_judges_once(seed: int) -> None:
    """Killed before or after whatever effect, the next controller comes to the same verdict, recorded once."""
    calm = lived()
    calm.ask("gate", "delay", version="5")
    before = calm.points.passed
    calm.run(days=1)
    for at in range(before + 1 + seed, calm.points.passed + 1, 4):
        loop = lived()
        loop.points.chosen = frozenset({at})
        loop.ask("gate", "delay", version="5")
        loop.run(days=1)
        assert loop.deaths == 1
        assert loop.story() == calm.story()
        assert loop.store.load()[1].alone == ("delay/5",)


def test_an_older_memory_knows_none() -> None:
    """What a Mainspring of before wrote is read as if nobody had asked for gates alone."""
    assert from_json(to_json(Memory())).alone == ()
