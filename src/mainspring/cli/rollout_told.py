"""One rollout, put together from its records: stages, what was seen over time, checks, how it ended, its gates.

What this is: pure; plain data with documented keys. Who calls it: `rollout_report.py`, which shows it, and the page.
What it must never do: judge, or fill in what nobody recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mainspring.errors import InputError

Json = dict[str, Any]
Records = Sequence[Mapping[str, Any]]
ENDS = ("promoted", "aborted", "superseded", "undone")
LEFT_OUT = "left out"
"""What became of a stage that there was no room for."""
SERIES = (
    "stage", "number", "wave", "share", "requests", "errors", "control_requests", "control_errors", "mirrored",
    "mirrored_errors", "p50", "p95", "control_p50", "control_p95", "first_p95", "control_first_p95",
)  # fmt: skip
"""What is taken from each look, beside its time and its checks."""


def choose(records: Records, what: str | None) -> list[Mapping[str, Any]]:
    """The records of one rollout, oldest first: the latest of an endpoint, of `MODEL@N`, or of all.

    Raises `InputError` when there is none.
    """
    groups: dict[tuple[str, str, float], list[Mapping[str, Any]]] = {}
    for record in records:
        value = record["value"]
        if value.get("began") is not None and value.get("endpoint") is not None:
            key = str(value["endpoint"]), str(value["version"]), float(value["began"])
            groups.setdefault(key, []).append(record)
    mine = [group for key, group in groups.items() if what is None or _is(what, key, group[0]["value"])]
    if "@" in (what or ""):  # the version's own rollout, if there was one, and not one of settings that it got later
        own = [group for group in mine if group[0]["value"].get("change", "version") == "version"]
        exact = [group for group in mine if what == f"{group[0]['value'].get('model')}@{group[0]['value']['version']}"]
        mine = (exact if "." in str(what).partition("@")[2] else own) or mine
    if not mine:
        about = f"no rollout of `{what[:60]}` is recorded" if what else "no rollout is recorded"
        names = list(dict.fromkeys(endpoint for endpoint, _, _ in groups))
        known = ", ".join(f"`{name}`" for name in names)
        raise InputError("no-such-rollout", f"{about}; there are of: {known}" if known else about,
                         "mainspring rollout status")  # fmt: skip
    return max(mine, key=lambda group: (group[-1]["at"], group[0]["value"]["began"]))


def _is(what: str, key: tuple[str, str, float], value: Mapping[str, Any]) -> bool:
    """Whether a rollout is the one that is named: by its endpoint, or by `MODEL@N`."""
    endpoint, label, _ = key
    model, at, number = what.partition("@")
    if not at:
        return what == endpoint
    return model == value.get("model") and number in (label, label.partition(".")[0])


def gathered(records: Records, gates: Records = ()) -> Json:
    """All that is known of one rollout.

    Keys: `endpoint`, `model`, `version`, `control`, `change`, `began`, `at` (of the last record), `verdict` (one of
    `ENDS`, or `under way`), `message`, `risks`; `stages`: kind, wave, share, began, ended,
    elapsed, requests, errors, outcome, message of each stage or wave; `series`: at, checks by name, and the keys of
    `SERIES`, of each look; `checks`: as they stood last; `soak`: what it was thought to find out; `gates`: name,
    passed, message of each gate before it; `notes`: at, message of what else happened (paused, resumed).
    Requests and errors of a mirror are those of the copies.
    """
    first, last = records[0]["value"], records[-1]
    ended = next((r for r in reversed(records) if r["value"]["kind"] in ENDS), None)
    judged = [r for r in records if r["value"].get("checks")]
    gate = _gate(gates, str(first.get("model")), str(first["version"]))
    taken = [r for r in records if r["value"].get("risk")]
    return {
        "endpoint": first["endpoint"],
        "model": first.get("model"),
        "version": first["version"],
        "control": first.get("control"),
        "change": first.get("change", "version"),
        "began": first["began"],
        "at": last["at"],
        "verdict": ended["value"]["kind"] if ended else "under way",
        "message": (ended or last)["value"].get("message", ""),
        "risks": list(dict.fromkeys(r["value"]["risk"] for r in taken)),
        "stages": _stages(records),
        "series": [_point(r) for r in records if r["value"].get("requests") is not None],
        "checks": list({c["name"]: c for r in judged for c in r["value"]["checks"]}.values()),
        "last": _point(judged[-1]) if judged else None,
        "soak": next((r["value"]["soak"] for r in records if r["value"].get("soak")), []),
        "gates": [
            {"name": str(i.get("name") or i.get("gate") or ""), "passed": bool(i.get("passed")),
             "message": str(i.get("message", ""))}
            for i in (gate.get("items") or ())
        ],
        "notes": [{"at": r["at"], "message": r["value"].get("message", "")} for r in records
                  if r["value"]["kind"] in ("paused", "resumed")],
    }  # fmt: skip


def _gate(gates: Records, model: str, label: str) -> Mapping[str, Any]:
    """The last verdict of the gates on a version."""
    key = f"{model}/{label.partition('.')[0]}"
    return next((r["value"] for r in reversed(gates) if r["key"] == key), {})


def _stages(records: Records) -> list[Json]:
    """Each stage, or wave of one, from the first look at it to the last; one that was left out, too."""
    found: dict[tuple[Any, Any], Json] = {}
    since = records[0]["value"]["began"]
    for record in records:
        value = record["value"]
        if value.get("number") is None or value["kind"] in ("began", "paused", "resumed"):
            continue
        place = value["number"], value.get("wave") or 0
        new = {"kind": value.get("stage"), "wave": place[1], "began": since}
        one = found.setdefault(place, new | dict.fromkeys(("share", "elapsed", "requests", "errors")))
        counted = ("mirrored", "mirrored_errors") if value.get("stage") == "mirror" else ("requests", "errors")
        seen = {
            "share": value.get("share"),
            "elapsed": value.get("elapsed"),
            "requests": value.get(counted[0]),
            "errors": value.get(counted[1]),
        }
        one |= {key: part for key, part in seen.items() if part is not None}
        one |= {"ended": record["at"], "outcome": _outcome(value), "message": value.get("message", "")}
        since = record["at"]
    return list(found.values())


def _outcome(value: Mapping[str, Any]) -> str:
    """What became of a stage by one record: `advance`, `left out`, `ended by anna`, ..., or how the rollout ended."""
    if value["kind"] == "skipped":
        return LEFT_OUT
    if value.get("ended_by"):
        return f"ended by {value['ended_by']}"
    return str(value["kind"] if value["kind"] not in ("look", "stage") else value.get("verdict") or "hold")


def _point(record: Mapping[str, Any]) -> Json:
    value = record["value"]
    checks = {str(c["name"]): c for c in value.get("checks") or ()}
    return {"at": record["at"], **{key: value.get(key) for key in SERIES}, "checks": checks}
