"""From one model server to another under traffic: a change of `runtime:` is a canary like any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.rolling import Scene
from tests.engine.rolling_stacks import four, tiny
from tests.engine.runtimes import machine as here

from mainspring.testing.watched import RoutesWatch

pytestmark = [pytest.mark.engine, pytest.mark.light]

RATE = 40.0  # requests a second
WALK = [{"canary": "30%", "for": "4s"}, {"all": "100%"}]
ABORT = {"errors": "0% over control", "false_aborts": "1%"}


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A stack that serves one model with ONNX Runtime."""
    here.installed("triton")
    made = tiny(tmp_path / "stack", WALK, objective={"availability": "90%"}, abort=ABORT)
    try:
        made.up()
        yield made
    finally:
        made.clear()


def test_from_onnx_to_triton_and_back(scene: Scene) -> None:
    """Requests are answered by both meanwhile; none is lost, none fails; and the way back is the same."""
    for runtime in ("triton", "onnx"):
        with RoutesWatch(scene.state) as watch, scene.users(four, RATE) as users:
            label = scene.settings_changed(runtime=runtime)
            end = scene.ended(label, patience=180.0)
            scene.quiet()
        assert end["kind"] == "promoted", f"{end}\n{scene.tell()}"
        assert not users.lost(), users.lost()[:5]
        counts = users.count()
        assert {status for _, status in counts} == {200}, counts
        answered = {revision for revision, _ in counts}
        assert f"delay-{label}" in answered, counts
        assert len(answered) > 1, counts
        assert watch.problems() == []
