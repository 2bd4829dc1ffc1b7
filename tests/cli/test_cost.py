"""`mainspring cost`: what some days cost, as a table, JSON and CSV; the route that it asks."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mainspring.cli import cost as verb
from mainspring.cli.main import status
from mainspring.console import costs
from mainspring.cost import period
from mainspring.decide.price import Day, Usage

NOVEMBER = 20_758  # 2026-11-01
USED = (
    Usage("chat", "chat-1", "live", 41_234, 41_234, 0, 1200.0, NOVEMBER, "acme", "k1", 0, 123_456_789, 99_000,
          5_000_000, estimated=2, orphans=3, lost=270),
    Usage("a-very-long-name-of-an-endpoint", "a-very-long-name-of-an-endpoint-12", "live", 9, 9, 0, 60.0, NOVEMBER + 1),
    Usage("chat", "chat-2", "mirror", 7, 7, 0, 30.0, NOVEMBER + 1),
)  # fmt: skip
DAYS = [Day(NOVEMBER + i, 2.4, 86_400.0, tuple(u for u in USED if u.day == NOVEMBER + i), 100.0) for i in range(2)]


class Fake:
    """A controller that has `DAYS`."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def get(self, path: str, **query: Any) -> Any:
        """The rows as the app makes them, through JSON."""
        if path == "/v1/status":
            return {"stack": {"name": "shop"}}
        assert path == "/v1/cost"
        by = query.get("by")
        days = [] if query.get("from") == "2025-01-01" else DAYS
        rows = period.daily(days, by or "", 2) if query.get("daily") else period.rows(days, by or "endpoint", 2)
        return json.loads(json.dumps(rows))


@pytest.fixture(autouse=True)
def controller(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb asks the fake."""
    monkeypatch.setattr(verb, "Client", Fake)


@dataclass(frozen=True)
class Told:
    """What the verb said."""

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Told]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the verb."""

    def once(*words: str) -> Told:
        code = status(["cost", *words])
        return Told(code, *capsys.readouterr())

    return once


@pytest.mark.parametrize("by", ["tenant", "endpoint", "revision", "key"])
def test_the_table_is_eighty_columns_and_adds_up(run: Run, by: str) -> None:
    """Each group, training, idle and the total; no number is cut short."""
    shown = run("--by", by).stdout.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[0].split() == [by.upper(), "REQUESTS", "PROMPT", "CACHED", "OUTPUT", "SECONDS", "DOLLARS", "PER"]
    assert [line.split()[0] for line in shown[-3:]] == ["training", "idle", "total"]
    dollars = [line.split()[-2] for line in shown[1:]]
    assert dollars[-1] == "4.800000"
    assert sum(round(float(d) * 1e6) for d in dollars[:-1]) == 4_800_000
    assert not any("…" in word for line in shown for word in line.split()[-6:])


def test_what_a_person_should_know_of_the_numbers(run: Run) -> None:
    """Nobody's use has a name; orphans, estimates and mirrors are told on stderr."""
    told = run("--by", "tenant")
    assert "no tenant" in told.stdout
    assert "123M" in told.stdout
    assert "died with their gateway worker: 3 (charged 270 prompt tokens" in told.stderr
    assert "which the gateway counted: 2" in told.stderr
    assert "not in the requests: 7" in told.stderr


def test_a_past_month_with_nothing(run: Run) -> None:
    """It is said, and it is no error: an empty list, and a file with a header alone."""
    asked = ("--from", "2025-01-01", "--to", "2025-02-01")
    table, listed, file = run(*asked), run(*asked, "-o", "json"), run(*asked, "--csv", "-")
    assert [one.exit_code for one in (table, listed, file)] == [0, 0, 0]
    assert table.stdout == ""
    assert "nothing was metered from 2025-01-01 to before 2025-02-01" in table.stderr
    assert json.loads(listed.stdout) == []
    assert file.stdout.count("\n") == 1


def test_csv_in_a_file_and_on_stdout(run: Run, tmp_path: Path) -> None:
    """The same rows; the sum is the bill's."""
    target = tmp_path / "costs.csv"
    told = run("--csv", str(target))
    assert (told.exit_code, told.stdout) == (0, "")
    rows = list(csv.DictReader(target.read_text().splitlines()))
    assert sum(round(float(row["BilledCost"]) * 1e10) for row in rows) == 48_000_000_000
    assert {row["BillingAccountId"] for row in rows} == {"shop"}
    assert f"{len(rows)} rows" in told.stderr
    assert run("--csv", "-").stdout == target.read_text()
    refused = run("--csv", str(tmp_path / "no" / "costs.csv"))
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr
    assert run("--csv", "").exit_code == 2


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"), (12.34, "12.3"), (12.0, "12"), (9_999.96, "10000"), (99_999, "99999"), (123_456, "123k"),
        (1_234_567, "1.23M"), (999_499_999, "999M"), (999_500_000, "1G"), (10**18, "1e+18"), (10**21, "1e+21"),
    ],
)  # fmt: skip
def test_numbers_are_short(number: float, shown: str) -> None:
    """Six characters at most."""
    assert verb.short(number) == shown
    assert len(shown) <= 6


def test_the_route_answers_as_before_without_words() -> None:
    """Without parameters the bill up to now; with any of them, rows."""
    asked: list[Any] = []

    def charges(*words: Any, **more: Any) -> list[dict[str, Any]]:
        asked.append((*words, more["daily"]))
        return [{"dollars": float("nan")}]

    stack = SimpleNamespace(
        cost=SimpleNamespace(budget=None),
        compute={"here": SimpleNamespace(per_hour=0.1)},
        orchestration=SimpleNamespace(where="here"),
    )
    parts = SimpleNamespace(spend=lambda: {"dollars": 1.0}, charges=charges)
    app = FastAPI()
    costs.add(app, SimpleNamespace(desired=lambda: SimpleNamespace(stack=stack), parts=parts))  # type: ignore[arg-type]
    client = TestClient(app)
    assert client.get("/v1/cost").json() == {"dollars": 1.0, "budget": None, "period": None, "price_per_hour": 0.1}
    assert client.get("/v1/cost?by=tenant&from=2026-11-01").json() == [{"dollars": None}]
    client.get("/v1/cost?daily=true")
    client.get("/v1/cost?to=x")
    assert asked == [("tenant", "2026-11-01", "", False), (None, "", "", True), (None, "", "x", False)]
    assert client.get("/v1/cost?by=" + "x" * 99).status_code == 422
