"""The twin passes the same suite as the real world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mainspring.testing.conformance import WorldConformance
from mainspring.worlds.twin.beliefs import Beliefs
from mainspring.worlds.twin.world import TwinWorld


@dataclass
class TwinUnderTest:
    """The twin, and a hand on it."""

    artefact: Path
    world: TwinWorld = field(default_factory=lambda: TwinWorld(beliefs=Beliefs(run_seconds=5.0)))
    pipeline: str = "delay"
    failing: str = "broken"

    def __post_init__(self) -> None:
        self.world.failing["broken"] = "ValueError: no"

    def advance(self, seconds: float) -> None:
        self.world.advance(seconds)

    def crash(self, name: str) -> None:
        self.world.crash(name)


class TestTwin(WorldConformance):
    """The twin, in virtual time."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> TwinUnderTest:
        return TwinUnderTest(tmp_path)
