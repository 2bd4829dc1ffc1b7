"""What all tests have in common: hypothesis from a printed seed, a clean environment, no colour."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

SEED = int(os.environ.get("MAINSPRING_SEED", "2013"))
"""The seed of everything random in the tests; set MAINSPRING_SEED to try another."""

settings.register_profile(
    "mainspring",
    derandomize="MAINSPRING_SEED" not in os.environ,
    deadline=None,  # the machine is shared: time is measured by benchmarks, not here
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mainspring")


def pytest_report_header() -> str:
    """Print the seed, so that any failure can be had again."""
    return f"mainspring seed: {SEED} (set MAINSPRING_SEED to try another)"


@pytest.fixture
def seed() -> int:
    """The seed of everything random in a test."""
    return SEED


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person's own changes what a test sees."""
    for name in ("MAINSPRING_FILE", "MAINSPRING_CONTROL", "MAINSPRING_TOKEN", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
