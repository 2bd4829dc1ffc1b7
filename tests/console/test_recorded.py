"""What the controller does when a change can't be written down: nothing, but for `down`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.controller import Controller, Eyes, Parts
from mainspring.errors import Conflict, EnvironmentError_, InputError, StackError
from mainspring.facts.changes import Caller, Change
from mainspring.loop.plan import Step
from mainspring.loop.ports import Refused
from mainspring.loop.snapshot import Now
from mainspring.store.memory import MemoryStore
from mainspring.testing.served import stack_file

ANNA = Caller("k3 (anna)", "admin", "a remark")


class Store(MemoryStore):
    """A store whose disk may be full."""

    full = False

    def note(self, change: Change) -> None:
        """Write down, if there is space."""
        if self.full:
            raise EnvironmentError_("disk-full", "no space is left", "free some")
        super().note(change)

    def backup(self, to: Path) -> None:
        """Write a copy."""
        to.write_bytes(b"copy")


class World:
    """A world that notes what is begun, and refuses it."""

    def __init__(self) -> None:
        self.begun: list[Step] = []

    def begin(self, step: Step) -> Refused:
        """Refuse."""
        self.begun.append(step)
        return Refused("it is as it is")


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    """A controller whose loop does not run: what is to be done in the loop is done at once."""
    made = Controller(
        Parts(
            path=stack_file(tmp_path / "stack"),
            folder=SimpleNamespace(path=tmp_path),  # type: ignore[arg-type]
            store=Store(),  # type: ignore[arg-type]
            eyes=Eyes(World()),  # type: ignore[arg-type]
            source=SimpleNamespace(),  # type: ignore[arg-type]
            taker=SimpleNamespace(),  # type: ignore[arg-type]
            clock=SimpleNamespace(now=lambda watched, last: Now(7.0, 0.0, 0.0)),  # type: ignore[arg-type]
            quiesce=lambda address: None,
        )
    )
    made.in_loop = lambda work, timeout=0.0: work()  # type: ignore[method-assign,assignment]
    return made


def acts(controller: Controller, folder: Path) -> dict[str, Any]:
    """Everything that a person may change through the controller."""
    text = controller.parts.path.read_text()
    return {
        "apply": lambda: controller.apply(text, ANNA),
        "pause": lambda: controller.ask("pause", "delay", {}, ANNA),
        "challenger": lambda: controller.name_challenger("delay", "1", ANNA),
        "backup": lambda: controller.backup(folder / "copy", ANNA),
        "clock": lambda: controller.advance(8.0, 0.0, ANNA),
    }


def test_a_full_disk_refuses_every_change_but_down(controller: Controller, tmp_path: Path) -> None:
    """None of them is made, and everything can still be stopped."""
    controller.parts.store.full = True  # type: ignore[attr-defined]
    for what, act in acts(controller, tmp_path).items():
        with pytest.raises(EnvironmentError_) as caught:
            act()
        assert caught.value.code == "disk-full", what
    store = controller.parts.store
    assert (store.desired(), store.requests(), store.changes()) == (None, (), ())
    assert controller.parts.eyes._world.begun == []  # type: ignore[attr-defined]
    assert not (tmp_path / "copy").exists()
    controller.down(ANNA)
    assert controller.going_down


def test_every_change_says_who_and_how_it_ended(controller: Controller, tmp_path: Path) -> None:
    """Accepted, refused, failed, or left to the loop's answer."""
    for what, act in acts(controller, tmp_path).items():
        if what in {"challenger", "clock"}:
            with pytest.raises((EnvironmentError_, Conflict)):
                act()
        else:
            act()
    controller.down(ANNA)
    found = {one.what: one for one in controller.changes(0.0, 100, "")}
    assert {what: one.outcome for what, one in found.items()} == {
        "apply": "accepted", "pause": "", "challenger": "failed", "backup": "accepted", "clock": "refused",
        "down": "accepted",
    }  # fmt: skip
    assert {(one.who, one.remark) for one in found.values()} == {("k3 (anna)", "a remark")}
    assert found["challenger"].message == "it is as it is"
    assert controller.parts.store.requests()[0].id == found["pause"].id


def test_bad_input_changes_nothing(controller: Controller) -> None:
    """A stack with problems, one made from another revision, or a verb that is none."""
    text = controller.parts.path.read_text()
    with pytest.raises(StackError):
        controller.apply(text.replace("serving:", "servin:"), ANNA)
    controller.apply(text, ANNA)
    with pytest.raises(Conflict):
        controller.apply(text, ANNA, "0123456789abcdef")
    with pytest.raises(InputError):
        controller.ask("sing", "delay", {}, ANNA)
    outcomes = [(one.what, one.outcome) for one in controller.changes(0.0, 100, "anna")]
    assert sorted(outcomes) == [("apply", "accepted"), ("apply", "refused"), ("apply", "refused")]
