"""What the controller tells of quotas, and that a gateway whose ledger was lost counts on from there."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from mainspring.cost.quotas import DAY, quotas
from mainspring.decide.limits import NANO, Limit, window_of
from mainspring.decide.price import Usage
from mainspring.decide.routes import EndpointRoutes, TenantRoute
from mainspring.gateway.accounts import Accounts, Charge, Refusal
from mainspring.gateway.tokens import Key

NOW = datetime(2026, 11, 30, 15, tzinfo=UTC).timestamp()
TODAY = int(NOW // DAY)


def usage(day: int, tokens: int = 100, **more: Any) -> Usage:
    """One row of what was metered."""
    given = {"endpoint": "chat", "revision": "chat-1", "role": "live", "requests": 1, "predictions": 0, "errors": 0,
             "compute": 3600.0, "tenant": "acme", "key": "k1", "prompt": tokens, "output": 0}  # fmt: skip
    return Usage(**cast("Any", given | {"day": day} | more))


@given(st.lists(st.tuples(st.integers(TODAY - 60, TODAY), st.integers(0, 999), st.sampled_from(["live", "mirror"]))))
def test_sums_of_the_day_and_of_the_month(rows: list[tuple[int, int, str]]) -> None:
    """A day's and a month's sums are those of their rows, mirrors left out, whatever came before."""
    all_ = [usage(day, tokens, role=role) for day, tokens, role in rows]
    said = quotas(lambda first, last: [one for one in all_ if first <= one.day < last], NOW, 0.5)
    for period in ("day", "month"):
        window = window_of(cast("Any", period), NOW)
        mine = [u for u in all_ if u.role == "live" and window_of(cast("Any", period), u.day * DAY) == window]
        for account in ("tenant/chat/acme", "key/k1"):
            row = said.get(account, {}).get(period)
            assert (row is None) == (not mine)
            if row is not None:
                assert row["tokens"] == sum(u.prompt for u in mine)
                assert row["dollars"] == len(mine) * 1800 * NANO
                assert row["window"] == window


def test_a_lost_ledger_does_not_give_the_day_anew(tmp_path: Path) -> None:
    """With the ledger gone, a quota goes on from what was metered; without that word it would begin anew."""
    limit = Limit("tokens", 1000, "day")
    routes = EndpointRoutes((), tenants={"acme": TenantRoute((limit,))})
    route = cast("Any", SimpleNamespace(name="chat", routes=routes))
    key = Key("k1", "h", ("chat",), tenant="acme")
    window = window_of("day", time.time())
    used = tmp_path / "used.json"
    used.write_text(json.dumps({"tenant/chat/acme": {"day": {"window": window, "tokens": 950}}}))
    accounts = Accounts(tmp_path / "ledger", used)
    account = accounts.of(route, key)
    assert isinstance(account.reserve(100, 0), Refusal)
    assert isinstance(account.reserve(40, 0), Charge)
    accounts.close()
    anew = Accounts(tmp_path / "other", None)
    assert isinstance(anew.of(route, key).reserve(100, 0), Charge)
    anew.close()


def test_a_broken_word_is_none(tmp_path: Path) -> None:
    """A file that is no such word, or is of another day, changes nothing."""
    limit = Limit("tokens", 1000, "day")
    route = cast(
        "Any", SimpleNamespace(name="chat", routes=EndpointRoutes((), tenants={"acme": TenantRoute((limit,))}))
    )
    key = Key("k1", "h", ("chat",), tenant="acme")
    for number, text in enumerate(["", "[]", '{"tenant/chat/acme": 3}',
                                   '{"tenant/chat/acme": {"day": {"window": 3, "tokens": 999}}}']):  # fmt: skip
        used = tmp_path / f"used-{number}"
        used.write_text(text)
        accounts = Accounts(tmp_path / f"ledger-{number}", used)
        assert isinstance(accounts.of(route, key).reserve(1000, 0), Charge)
        accounts.close()
