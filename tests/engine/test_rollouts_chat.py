"""Versions of the chat example that misbehave, and one that does not: llama.cpp, real weights, streamed answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.engine.rolling import Scene
from tests.engine.rolling_stacks import PERIOD, Chats, chat

from mainspring.testing.faults import KillsUnderLoad
from mainspring.testing.misbehaving import fails_for_one_length_in, language, repeats_messages_above, same
from mainspring.testing.watched import RoutesWatch

pytestmark = pytest.mark.engine

RATE, AT_ONCE = 4.5, 3  # requests a second, in fours
SHORT = [{"canary": "50%", "for": "10s"}, {"all": "100%"}]
LONG = [{"canary": "50%", "for": "4m"}, {"all": "100%"}]  # given up as soon as that is certain: ten failures or so
OBJECTIVE = {"p95": "10s", "availability": "90%"}
ABORT = {"errors": ["0% over control", "50%"], "p95": ["8s", "50% over control"], "false_aborts": "3%"}
ROUTE = {"retries": "60%"}  # half of the requests meet a version that dies again and again
STANDS = 1  # requests at once that the version that dies stands
PATIENCE = 420.0  # seconds; a stage that is not certain on a busy machine goes on


@dataclass(frozen=True)
class Kind:
    """A way to be: what a version's chat template begins with, and how its rollout ends."""

    before: str
    end: str
    killed: bool = False


KINDS = {
    "fails on one prompt in 20": Kind(fails_for_one_length_in(PERIOD), "aborted"),
    "is slow for long prompts": Kind(repeats_messages_above(400, 2), "aborted"),
    "dies when requests come together": Kind("", "aborted", killed=True),
    "is fine": Kind("", "promoted"),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The example, up with its first version; each test rolls out one version more."""
    made = chat(tmp_path_factory.mktemp("chat") / "stack", LONG, objective=OBJECTIVE, abort=ABORT, route=ROUTE)
    try:
        made.up()
        yield made
    finally:
        made.clear()


@pytest.mark.parametrize("name", KINDS)
def test_a_chat_version_ends_as_it_deserves(scene: Scene, capsys, name: str) -> None:
    """It passes the gates and gets its canary; what misbehaves is given up, what is fine promoted; nobody is lost."""
    kind, before = KINDS[name], scene.champion

    def make(good: Path, folder: Path) -> Path:
        return language(good, folder, kind.before) if kind.before else same(good, folder)

    scene.change(rollout=SHORT if kind.end == "promoted" else LONG)
    number = scene.version(make)
    revision, began = f"chat-{number}", time.time()
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(RoutesWatch(scene.state))
        killer = KillsUnderLoad(lambda: scene.server(f"{revision}-0"), STANDS)
        if kind.killed:
            stack.enter_context(killer)
        chats = Chats(stream=not kind.killed)  # a stream that has begun can't be sent again
        users = stack.enter_context(scene.users(chats, RATE, at_once=AT_ONCE))
        scene.name_challenger(number)
        end = scene.ended(number, PATIENCE)
        scene.quiet()
    lost, failed = users.lost(), [one for one in users.since(began) if one.status != 200]
    candidate = sum(one.revision == revision for one in users.since(0.0))
    with capsys.disabled():
        print(f"\n{name}: {candidate} of {len(users.asked)} requests; {scene.told(number)}")
    assert end["kind"] == kind.end, scene.tell()
    assert not lost, lost[:5]
    assert killer.kills if kind.killed else candidate  # who dies at each volley may never answer: others do, for it
    assert scene.champion == (number if kind.end == "promoted" else before)
    assert not watch.problems()
    assert any(one.get(revision) == pytest.approx(0.5) for one in watch.shares("chat"))
    if "20" in name:  # these are the version's own answers, and only those that it had to fail
        assert {one.revision for one in failed} == {revision}
        assert all(one.status == 400 and Chats.fails(one.number) for one in failed)
    else:
        assert not failed, failed[:5]
