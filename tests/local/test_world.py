"""The local world passes the conformance suite, with stand-in programs behind the real command lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.testing.conformance import WorldConformance

from .parts import Here, here


class TestLocalWorld(WorldConformance):
    """Real processes, real files."""

    tick = 0.03

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[Here]:
        """A fresh world."""
        with here(tmp_path) as found:
            yield found
