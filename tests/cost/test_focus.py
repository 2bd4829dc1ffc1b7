"""FOCUS columns: the right names, values that are allowed, sums that are the bill's, and no formulas."""

from __future__ import annotations

import csv
import io
import json
import re
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mainspring.cost import focus, period
from mainspring.cost.report import units
from mainspring.decide.price import Day, Usage

NOVEMBER = 20_758  # 2026-11-01
MANDATORY = {
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost",
    "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName",
    "PublisherName", "ServiceCategory", "ServiceName",
}  # fmt: skip
"""Columns of the feature level Mandatory in FOCUS 1.2."""
MAY_BE_NULL = {"ChargeClass"}


def read(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(text)))


def use(**over: Any) -> Usage:
    """A tenant's use of a language model for a quarter of an hour of a core."""
    told = {
        "endpoint": "chat", "revision": "chat-1", "role": "live", "requests": 3, "predictions": 3, "errors": 0,
        "compute": 900.0, "tenant": "acme", "key": "k1", "prompt": 100, "output": 50,
    }  # fmt: skip
    return Usage(**(told | over))


def table(usage: list[Usage], day: int = NOVEMBER, by: str = "", dollars: float = 1.0) -> list[dict[str, str]]:
    """An hour of a core on a day, as FOCUS rows."""
    return read(focus.table(period.daily([Day(day, dollars, 3600.0, tuple(usage), 360.0)], by, 1), "shop"))


def test_a_day_by_hand() -> None:
    """A row for the tenant, one for training, one for idle time."""
    acme, training, idle = table([use(orphans=1)])
    assert acme["BilledCost"] == acme["EffectiveCost"] == acme["ListCost"] == acme["ContractedCost"] == "0.2500000000"
    assert (acme["BillingPeriodStart"], acme["BillingPeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z")
    assert (acme["ChargePeriodStart"], acme["ChargePeriodEnd"]) == ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z")
    assert (acme["ConsumedQuantity"], acme["ConsumedUnit"]) == ("150", "Tokens")
    assert (acme["PricingQuantity"], acme["PricingUnit"]) == ("0.25", "Core-Hours")
    assert (acme["SubAccountId"], acme["ResourceId"], acme["ResourceName"]) == ("acme", "shop/chat/chat-1", "chat-1")
    tags = {"mainspring/endpoint": "chat", "mainspring/key": "k1", "mainspring/revision": "chat-1"}
    assert json.loads(acme["Tags"]) == tags
    assert (acme["x_PromptTokens"], acme["x_OutputTokens"], acme["x_OrphanedRequests"]) == ("100", "50", "1")
    assert acme["ChargeDescription"].startswith("Serving of chat-1, tenant acme, key k1; 1 requests without an end")
    assert (training["ServiceName"], training["ConsumedQuantity"], training["Tags"]) == ("Model Training", "0.1", "")
    assert (idle["ServiceCategory"], idle["BilledCost"], idle["ConsumedQuantity"]) == (
        "Compute",
        "0.6500000000",
        "0.65",
    )
    assert (idle["SubAccountId"], idle["x_Requests"]) == ("", "")


def test_columns_and_values_are_those_of_the_specification() -> None:
    """All mandatory columns, in order, filled where they must be; our own begin with x_."""
    rows = table([use(), use(tenant="", key="", prompt=0, output=0), use(role="mirror", compute=1.0)])
    assert set(focus.COLUMNS) >= MANDATORY
    named = [name for name in focus.COLUMNS if not name.startswith("x_")]
    assert named == sorted(named)
    assert len(set(focus.COLUMNS)) == len(focus.COLUMNS) == len(rows[0])
    for row in rows:
        assert all(row[name] for name in MANDATORY - MAY_BE_NULL), row
        assert row["ChargeClass"] == ""
        assert row["ChargeCategory"] == "Usage"
        assert row["ServiceCategory"] in ("AI and Machine Learning", "Compute")
        assert re.fullmatch(r"\d+\.\d{10}", row["BilledCost"])
        assert float(row["ConsumedQuantity"]) > 0
        assert row["ConsumedUnit"] in ("Tokens", "Requests", "Core-Hours")
        assert row["Tags"] == "" or isinstance(json.loads(row["Tags"]), dict)
    assert rows[0]["SubAccountId"] == ""
    assert rows[0]["ConsumedUnit"] == "Requests"


def test_the_year_turns() -> None:
    """The billing period of a day in December ends in January."""
    row = table([], NOVEMBER + 60)[0]
    assert (row["ChargePeriodEnd"], row["BillingPeriodEnd"]) == ("2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z")


def test_nothing_is_a_header() -> None:
    """Tools find their columns in an empty file too."""
    assert focus.table([], "shop") == ",".join(focus.COLUMNS) + "\n"


names = st.one_of(
    st.sampled_from(["=1+1", "+1", "-1", "@SUM(A1)", "\tx", '"a",b', "a\nb", "'x", "=cmd|'/c calc'!A0"]),
    st.text(max_size=12),
)


@given(st.lists(st.builds(use, tenant=names, key=names, revision=names, endpoint=names), max_size=5), names)
def test_no_cell_becomes_a_formula(usage: list[Usage], stack: str) -> None:
    """Whatever the names are, no cell begins as a formula does, and the file has its columns and sums."""
    rows = period.daily([Day(NOVEMBER, 3.3, 3600.0, tuple(usage))], "", 1)
    text = focus.table(rows, stack)
    found = list(csv.reader(io.StringIO(text.replace("\0", ""), newline="")))
    assert all(len(row) == len(focus.COLUMNS) for row in found)
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for row in found for cell in row)
    billed = sum(Decimal(row[focus.COLUMNS.index("BilledCost")]) for row in found[1:])
    assert billed == Decimal(units([3.3], 10)[0]).scaleb(-10)
