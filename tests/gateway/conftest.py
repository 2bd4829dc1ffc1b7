"""Artefacts that the data plane's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.serving import Site
from mainspring.testing.tenants import Tenancy


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with an artefact in `a` (fields x0..x3) and another in `b`."""
    folder: Path = tmp_path_factory.mktemp("site")
    tiny_artefact(folder / "a", folder / "code")
    tiny_artefact(folder / "b", folder / "code", bias=0.5)
    with Site(folder) as made:
        yield made


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenancy]:
    """A gateway before one fake; each test has tenants of its own."""
    with Site(tmp_path_factory.mktemp("limits")) as site:
        made = Tenancy(site)
        made.start_fakes(1)
        made.worker()
        made.learn()
        yield made
        assert made.workers[0].popen.poll() is None, "the gateway itself has ended"
        assert "Traceback" not in made.workers[0].log.read_text()
