"""Artefacts that the data plane's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.serving import Site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with an artefact in `a` (fields x0..x3) and another in `b`."""
    folder: Path = tmp_path_factory.mktemp("site")
    tiny_artefact(folder / "a", folder / "code")
    tiny_artefact(folder / "b", folder / "code", bias=0.5)
    with Site(folder) as made:
        yield made
