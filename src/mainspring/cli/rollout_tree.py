"""A rollout as a tree of 80 columns: stages, arms, checks with their evidence, what it waits for and how long still.

What this is: pure text of what the control API says (`console/rollouts.py` has the keys). Who calls it: `rollout.py`,
`rollout_watch.py`. What it must never do: judge, or show a number that is not known as if it were zero.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mainspring.cli.output import WIDTH, state, table
from mainspring.cli.status import length

Json = Mapping[str, Any]
BAR = 10
"""Characters of a bar."""
_STATES = {"bad": "bad", "certain": "ok", "open": "waiting", "unknown": "unknown"}
_HOW = {
    "in place": "there is no room for more: an old replica is stopped for each new one",
    "stop first": "there is room for one: the old one is stopped before the new one is ready",
    "no room": "there is no room for a new replica",
}
_ARMS = {"candidate": "new", "fresh": "old, fresh", "control": "old"}


def tree(one: Json, *, color: bool = False) -> str:
    """One rollout, whole."""
    lines = [_head(one)]
    stages: Sequence[Json] = one["stages"]
    for stage in stages:
        said = f"{_glyph(one, stage, color)} {_stage(stage)}{_how(one, stage)}"
        lines.append("\n  ".join(textwrap.wrap(said, WIDTH - 2)))
        if stage["state"] == "here":
            lines += [f"  {line}" for line in _here(one, color)]
    lines += _below(one)
    return "\n".join(lines)


def line(one: Json) -> str:
    """One rollout in a line, for those who read a log."""
    about = f"{one['endpoint']}: version {one['candidate']}, {one['stage']}{_wave(one)}"
    if one["paused"]:
        return f"{about}: paused; {one['message'] or 'nothing was judged yet'}"
    if not one["ready"]:
        return f"{about}: gets ready"
    if one["message"] is None:
        return f"{about}: {length(one['elapsed'])} of {length(one['seconds'])}"
    counts = f"{count(one['requests'])} requests, {count(one['errors'])} errors"
    worst = max(one["checks"], key=_fraction, default=None)
    beside = f"; {worst['name']}: e {number(worst['evidence'])} of {number(worst['threshold'])}" if worst else ""
    return f"{about}: {counts}{beside}; {one['message']}"


def bar(value: float | None, of: float | None, size: int = BAR) -> str:
    """How far a value has come on the way from 1 to `of`, on a log scale: `[####......]`; `[??????????]`: not known."""
    if value is None or of is None or not of > 1:
        return f"[{'?' * size}]"
    filled = int(size * share_of(value, of) + 1e-9)
    return f"[{'#' * filled}{'.' * (size - filled)}]"


def share_of(value: float, of: float) -> float:
    """The part of the way from 1 to `of` that a value has gone, by its logarithm; 0 below 1, 1 at `of`."""
    if value <= 1:
        return 0.0
    return min(1.0, math.log(value) / math.log(of)) if math.isfinite(value) else 1.0


def _head(one: Json) -> str:
    what = f"version {one['candidate']} against {one['control']}"
    if one["change"] == "settings":
        what = f"settings of {one['candidate']} against {one['control']}"
    place = f"{one['stage']}{_wave(one)}, stage {one['number']} of {len(one['stages'])}"
    return _cut(f"{one['endpoint']}: {what} ({place})")


def _wave(one: Json) -> str:
    if one["stage"] != "waves" or not one["wave"]:
        return ""
    return f", wave {one['wave']}" + (f" of {one['waves']}" if one["waves"] else "")


def _glyph(one: Json, stage: Json, color: bool) -> str:
    kind = {"done": "ok", "to come": "waiting", "left out": "left out"}.get(stage["state"], "progressing")
    if stage["state"] == "here" and one["paused"]:
        kind = "paused"
    return state(kind, " ", color=color).rstrip()


def _stage(stage: Json) -> str:
    kind, seconds = stage["kind"], stage["seconds"]
    if kind == "waves":
        step = stage["step"]
        size = f"{step} replica{'s' * (step > 1)}" if step else f"{stage['step_share']:.0%}"
        return f"waves of {size}{' per region' * bool(stage['per_region'])}, {length(seconds)} in all"
    where = f" of {stage['region']}" if stage["region"] else ""
    metric = f" by `{stage['metric']}`" if stage["metric"] else ""
    lasts = f", {length(seconds)}" if seconds else ""
    return f"{kind} {_percent(stage['share'])}{where}{metric}{lasts}"


def _how(one: Json, stage: Json) -> str:
    if stage["state"] != "here":
        return f": {stage['state']}" + (f", {why}" if (why := stage.get("why")) else "")
    if one["paused"]:
        return ": paused"
    if not one["ready"]:
        return ": gets ready"
    if one["left"] > 0:
        return f": {length(one['elapsed'])} passed, {length(one['left'])} to go"
    return f": {length(one['elapsed'])} passed, its time is over" if one["seconds"] else ": begins"


def _here(one: Json, color: bool) -> Iterator[str]:
    """What is under the present stage: who answers, and each check."""
    yield from _arms(one)
    if one["how"] in _HOW:
        yield _HOW[one["how"]]
    for check in one["checks"]:
        yield from _check(check, color)
    if not one["checks"] and one["ready"]:
        yield "nothing was judged yet"


def _arms(one: Json) -> Iterator[str]:
    """Who answers, with what was counted: of the old version as a whole, since checks take all of its replicas."""
    rows = []
    for arm in one["arms"]:
        unseen = arm["arm"] == "candidate" and bool(arm["mirror"])
        row = {
            "version": arm["version"],
            "arm": _ARMS[arm["arm"]],
            "share": f"mirror {_percent(arm['mirror'])}" if unseen else _percent(arm["share"]),
            "ready": f"{arm['ready']}/{arm['wanted']}",
            **dict.fromkeys(("requests", "failed", "p95"), " "),
        }
        if arm["arm"] != "fresh":
            old = "control_" if arm["arm"] == "control" else ""
            names = ("mirrored", "mirrored_errors") if unseen else (f"{old}requests", f"{old}errors")
            row |= {"requests": count(one[names[0]]), "failed": count(one[names[1]])}
            row |= {"p95": seconds_of(one[f"{old}p95"])}
        rows.append(row)
    shown = table(rows, ["version", "arm", "share", "ready", "requests", "failed", "p95"], WIDTH - 2)
    yield from shown.split("\n") if rows else ()


def _check(check: Json, color: bool) -> Iterator[str]:
    """One check: the evidence against the version, its certificate, and its sentence."""
    glyph = state(_STATES.get(check["state"], "unknown"), check["state"], color=color)
    gap = " " * max(1, 11 - 2 - len(check["state"]))
    lines = []
    if (check["threshold"] or 0.0) > 1.0:
        evidence = f"e {number(check['evidence'])} of {number(check['threshold'])}"
        lines.append(f"{evidence:<18} {bar(check['evidence'], check['threshold'])}")
    if check["wanted"]:
        sure = f"sure {number(check['certainty'])} of {number(check['wanted'])}"
        lines.append(f"{sure:<18} {bar(check['certainty'], check['wanted'])}{_left(check)}")
    yield f"{glyph}{gap}{check['name']:<20.20} {lines[0] if lines else ''}".rstrip()
    yield from (f"{'':32}{line}" for line in lines[1:])
    if check["message"]:
        yield from (f"{'':11}{part}" for part in textwrap.wrap(check["message"], WIDTH - 15))


def _left(check: Json) -> str:
    """How much more it takes until the promise is certain."""
    if check["state"] == "certain":
        return ""
    if check.get("seconds_left") is not None:
        return f" {length(max(1.0, round(check['seconds_left'])))} still"
    return f" {count(check['requests_left'])} still" if check["requests_left"] is not None else ""


def _below(one: Json) -> Iterator[str]:
    said = [
        *([f"found: {one['message']}"] if one["message"] else []),
        *([f"risk: {one['risk']}"] if one["risk"] else []),
    ]
    said += [f"waits: {why}" for why in one["waits"] if not one["message"] or one["message"] not in why]
    said += [f"can find out: {text}" for text in one["soak"]]
    for text in said:
        yield "\n  ".join(textwrap.wrap(text, WIDTH - 2))


def _fraction(check: Json) -> float:
    if check["evidence"] is None or not check["threshold"] or check["threshold"] <= 1 or check["name"] == "split":
        return -1.0
    return share_of(check["evidence"], check["threshold"])


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def count(value: float | None) -> str:
    """A number of requests; `?` where nobody knows."""
    return "?" if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """An e-value in a few characters: `0.02`, `3.1`, `118`, `4e+06`; `?` where nobody knows."""
    if value is None:
        return "?"
    return f"{value:.2g}" if value < 10 or value >= 1e5 else f"{value:,.0f}"


def seconds_of(value: float | None) -> str:
    """A time of an answer: `1.2s`, `35ms`; `?` where nobody knows."""
    if value is None:
        return "?"
    return f"{value:.2g}s" if value >= 1 else f"{value * 1000:.3g}ms"


def _cut(text: str, width: int = WIDTH) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
