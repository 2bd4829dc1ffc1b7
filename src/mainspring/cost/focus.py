"""A bill as CSV in the columns of FOCUS, the FinOps Open Cost and Usage Specification.

What this is: a table of texts; one row a day, group and charge. Who calls it: `mainspring cost --csv`. What it must
never do: round (the rows of `period.daily` add up as they are), or let a name become a formula in a spreadsheet.

Columns and rules are those of FOCUS 1.2 (https://focus.finops.org/focus-specification/v1-2/), and those that 1.0 asks
for besides, empty: https://github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec. Absent values are empty cells. Names
of our own columns begin with `x_`. There is one price, so billed, effective, list and contracted cost are the same.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any

PROVIDER = "Mainspring"
_EMPTY = (
    "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName", "CommitmentDiscountStatus",
    "CommitmentDiscountType", "ContractedUnitPrice", "ListUnitPrice", "RegionId", "RegionName", "SkuId", "SkuPriceId",
)  # fmt: skip
_OURS = {
    "x_CachedTokens": "cached", "x_DecodeSeconds": "decode", "x_EstimatedRequests": "estimated",
    "x_MirroredRequests": "mirrored", "x_OrphanedRequests": "orphans", "x_OutputTokens": "output",
    "x_Predictions": "predictions", "x_PrefillSeconds": "prefill", "x_PromptTokens": "prompt", "x_Requests": "requests",
}  # fmt: skip
COLUMNS = (
    *sorted([
        *_EMPTY, "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
        "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency",
        "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost",
        "InvoiceIssuerName", "ListCost", "PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName",
        "PublisherName", "ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName",
        "SubAccountId", "SubAccountName", "Tags",
    ]),
    *_OURS,
)  # fmt: skip
_SERVICE = {"serving": "Model Serving", "training": "Model Training", "idle": "Idle Capacity"}
_CATEGORY = {"serving": "AI and Machine Learning", "training": "AI and Machine Learning", "idle": "Compute"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def table(rows: Iterable[Mapping[str, Any]], stack: str) -> str:
    """The rows of `period.daily` as CSV with a header; `stack` is the billing account."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in _row(row, stack).items()})
    return out.getvalue()


def _cell(value: str | int) -> str | int:
    """A cell that a spreadsheet takes for text or a number; numbers here are never below zero."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _row(row: Mapping[str, Any], stack: str) -> dict[str, str | int]:
    kind, billed, day = row["kind"], row["billed"], date.fromisoformat(row["day"])
    month = day.replace(day=1)
    consumed, unit = _consumed(row)
    names = {f"mainspring/{name}": row[name] for name in ("endpoint", "revision", "key") if row[name]}
    return {
        **dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), billed),
        "BillingAccountId": stack,
        "BillingAccountName": stack,
        "BillingCurrency": "USD",
        "BillingPeriodStart": _moment(month),
        "BillingPeriodEnd": _moment((month + timedelta(days=31)).replace(day=1)),
        "ChargePeriodStart": _moment(day),
        "ChargePeriodEnd": _moment(day + timedelta(days=1)),
        "ChargeCategory": "Usage",
        "ChargeDescription": _description(row),
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": consumed,
        "ConsumedUnit": unit,
        "PricingCategory": "Standard",
        "PricingQuantity": _number(row["seconds"] / 3600.0),
        "PricingUnit": "Core-Hours",
        **dict.fromkeys(("ProviderName", "PublisherName", "InvoiceIssuerName"), PROVIDER),
        **_resource(row, stack),
        "ServiceName": _SERVICE[kind],
        "ServiceCategory": _CATEGORY[kind],
        "SubAccountId": row["tenant"],
        "SubAccountName": row["tenant"],
        "Tags": json.dumps(names, sort_keys=True, ensure_ascii=False) if names else "",
        **({column: _number(row[key]) for column, key in _OURS.items()} if kind == "serving" else {}),
    }


def _consumed(row: Mapping[str, Any]) -> tuple[str, str]:
    """What was used, as its user counts it; where there is nothing to count, the core-hours that it is priced by."""
    for unit, count in (("Tokens", row["prompt"] + row["output"]), ("Requests", row["requests"])):
        if count:
            return str(count), unit
    return _number(row["seconds"] / 3600.0), "Core-Hours"


def _description(row: Mapping[str, Any]) -> str:
    if row["kind"] != "serving":
        return "Training of models" if row["kind"] == "training" else "Time that was paid for and that nobody used"
    what = row["revision"] or row["endpoint"] or "all endpoints"
    whom = f", tenant {row['tenant']}" if row["tenant"] else ""
    lost = f"; {row['orphans']} requests without an end, charged their prompts" if row["orphans"] else ""
    key = f", key {row['key']}" if row["key"] else ""
    return f"Serving of {what}{whom}{key}{lost}"


def _resource(row: Mapping[str, Any], stack: str) -> dict[str, str]:
    if not row["endpoint"]:
        return {}
    path = [stack, row["endpoint"], *([row["revision"]] if row["revision"] else [])]
    return {
        "ResourceId": "/".join(path),
        "ResourceName": path[-1],
        "ResourceType": "Model revision" if row["revision"] else "Endpoint",
    }


def _moment(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _number(value: float) -> str:
    """A number in plain digits, nine after the point at most."""
    return str(value) if isinstance(value, int) else f"{value:.9f}".rstrip("0").rstrip(".")
