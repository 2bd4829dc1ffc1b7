"""The chat demo by tenant: what each asked and got, what was metered of it, and how the bill is divided.

What this is: arithmetic on the users' answers and on the rows of `/v1/cost`; pure. Who calls it: `chat_report.py`. What
it must never do: round or divide money (the control API has), or leave a row of the bill out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mainspring.cli.demo.chat_numbers import quantile
from mainspring.cli.demo.chat_users import Answer

Row = Mapping[str, Any]
_NAMES = {"training": "making and judging versions", "idle": "idle"}


def tenants(answers: Sequence[Answer], bill: Sequence[Row]) -> list[dict[str, Any]]:
    """Each tenant that asked, in order of its first request; `metered` is None where the bill does not know it."""
    names = dict.fromkeys(a.tenant for a in answers)
    known = {str(row["tenant"]): row for row in bill if row["kind"] == "serving"}
    return [_tenant(name, [a for a in answers if a.tenant == name], known.get(name)) for name in names]


def _tenant(name: str, mine: Sequence[Answer], metered: Row | None) -> dict[str, Any]:
    whole = [a for a in mine if not a.error]
    again = [a.again for a in mine if a.refused and a.again is not None]
    refusals = sorted({a.error for a in mine if a.refused})
    times = [a.ttft for a in mine if a.ttft is not None]
    return {
        "tenant": name,
        "requests": len(mine),
        "answered": len(whole),
        "failed": sum(a.failed for a in mine),
        "refused": sum(a.refused for a in mine),
        "refusals": {code: sum(a.refused and a.error == code for a in mine) for code in refusals},
        "retry_after": {"told": len(again), "least": min(again), "most": max(again)} if again else None,
        "ttft_p50": quantile(times, 0.5),
        "ttft_p95": quantile(times, 0.95),
        "prompt": sum(a.prompt for a in whole),  # tokens, as the answers themselves said
        "cached": sum(a.cached for a in whole),
        "output": sum(a.output for a in whole),
        "metered": _metered(metered),
    }


def _metered(row: Row | None) -> dict[str, Any] | None:
    keys = ("requests", "prompt", "cached", "output", "estimated", "orphans", "seconds", "dollars")
    return None if row is None else {key: row[key] for key in keys}


def bill(rows: Sequence[Row], node: tuple[float, float] | None) -> dict[str, Any]:
    """The bill's rows as they came, and their sum; `node`: what the node had cost just before they came, and after."""
    return {
        "rows": [_line(row) for row in rows],
        "dollars": math.fsum(row["dollars"] for row in rows),
        "node": list(node) if node is not None else None,
    }


def _line(row: Row) -> dict[str, Any]:
    serving = row["kind"] == "serving"
    return {
        "what": str(row["tenant"]) or "no tenant" if serving else _NAMES.get(str(row["kind"]), str(row["kind"])),
        "requests": row["requests"] if serving else None,
        "tokens": row["prompt"] + row["output"] if serving else None,
        "seconds": row["seconds"],  # of one core
        "dollars": row["dollars"],
    }
