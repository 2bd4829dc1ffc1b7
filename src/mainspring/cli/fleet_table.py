"""The answer of sizing as text of 80 columns: what will happen, what binds, what would be enough, what was quoted.

What this is: rendering, pure. Who calls it: `fleet.py`. What it must never do: work anything out: every figure is the
answer's.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from mainspring.cli.output import WIDTH, Column, table
from mainspring.facts.shapes import GraphShape
from mainspring.forecast.setup import Interval, Response
from mainspring.sizing import words
from mainspring.sizing.answer import Answer, AsWritten, Sized
from mainspring.sizing.bill import Bill
from mainspring.sizing.fleet import Fleets
from mainspring.sizing.judge import Check
from mainspring.sizing.levers import Levers
from mainspring.sizing.question import Question, Way, is_market
from mainspring.sizing.rank import Refused

ROWS = 5
"""Fleets that are shown beside the cheapest of each kind."""
LEVERS = (
    "right-size: the cheapest kind and number of GPUs or CPU servers; slices: parts of a GPU (MIG), whole ones paid",
    "precision: those that `allow` has; spot: up to `cost.spot` of a fleet, where its availability still holds",
    "reserved: a year's commitment for what is used enough; follow: replicas follow the hours of the week (assumed)",
)
"""What the levers are."""


def text(answer: Answer) -> str:
    """The whole answer for one endpoint."""
    parts = [_head(answer.question)]
    if answer.written is not None:
        parts.append(_written(answer, answer.written))
    parts.append(_enough(answer))
    parts += [part for part in (_quoted(answer), _sensitive(answer), _soak(answer), _rests(answer)) if part]
    return "\n\n".join(parts)


def _wrapped(line: str, hang: str = "  ") -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(_wrapped(f"- {line}") for line in lines)


def _head(question: Question) -> str:
    demand, promise, survive = question.demand, question.promise, question.survive
    mean = demand.lengths.mean() if demand.lengths else None
    size = f", {mean[0]:,.0f} tokens in and {mean[1]:,.0f} out on average" if mean else ""
    kind = "graph" if isinstance(question.model, GraphShape) else "model"
    limits = [f"{name} {words.seconds(limit)}" for name, limit in promise.timed.items()]
    if promise.availability:
        limits.append(words.share(promise.availability))
    losses = [words.count(survive.regions, "region")] if survive.regions else []
    losses += [f"{words.count(survive.nodes_per_region, 'node')} per region"] if survive.nodes_per_region else []
    lines = [
        f"{demand.endpoint}: {kind} {question.model.name}",
        f"traffic: {words.rate(demand.rate)} on average, {words.rate(demand.at_peak)} at the peak{size}",
        f"promise: {', '.join(limits) or 'none'}; survives the loss of {' or '.join(losses) or 'nothing'}",
    ]
    return "\n".join(_wrapped(line) for line in lines)


def seconds(value: float) -> str:
    """`2.31 s`; a queue that grows has no end."""
    return words.seconds(value) if math.isfinite(value) else "no end"


def span(value: Interval) -> str:
    """`2.31 s (2.0 s to 2.7 s)`."""
    return f"{seconds(value.value)} ({seconds(value.low)} to {seconds(value.high)})"


def response(seen: Response) -> list[str]:
    """What users see, in lines."""
    if not seen.stable:
        return ["more comes than a replica can answer: the queue grows without end"]
    lines = [f"p50 {span(seen.p50)}, p95 {span(seen.p95)}, p99 {span(seen.p99)}"]
    if seen.tpot.value > 0:
        lines.append(f"first token p95 {span(seen.ttft)}, each one after {span(seen.tpot)}")
    lines.append(f"{words.share(seen.utilisation)} of a replica's most, {seen.running:.1f} in its batch ({seen.basis})")
    return lines


def verdict(answer: Answer) -> str:
    """Whether the fleet as written will do, and whether the interval leaves room for doubt."""
    written = answer.written
    if written is None:
        return "nothing is written to judge"
    if not written.judged.meets:
        return "does NOT meet its objective"
    seen, timed = written.peak, answer.question.promise.timed
    over = [name for name, limit in timed.items() if seen is not None and getattr(seen, name).high > limit]
    if over and seen is not None:
        high = ", ".join(f"{name} {seconds(getattr(seen, name).high)}" for name in over)
        return f"meets its objective by the forecast, and not by the end of its interval ({high})"
    return "meets its objective"


def _written(answer: Answer, written: AsWritten) -> str:
    judged = written.judged
    way = judged.written.way
    paid = words.count(judged.devices, way.unit)
    head = f"AS WRITTEN: {verdict(answer)}"
    lines = [
        f"{words.count(judged.replicas, 'replica')} of {way}: {judged.in_use:g} of {paid} in use",
    ]
    if written.peak is not None:
        lines += [f"at the peak: {line}" if number == 0 else line for number, line in enumerate(response(written.peak))]
    lines += [_checked(check) for check in judged.checks]
    lines.append(f"what binds: {judged.binds.says}")
    lines += _repaired(answer)
    idle = judged.devices - judged.in_use
    if idle > 0.5:
        cost = words.dollars(written.paid.bill.devices * idle / judged.devices)
        lines.append(f"idle: {idle:g} of {paid}, {cost} a month")
    lines.append(money(written.paid.bill))
    per = written.paid.unit
    each = f"{words.dollars(per.per_thousand_requests)} per 1,000 requests" if per.per_thousand_requests else ""
    if per.per_million_tokens and per.per_million_output:
        each += f", {words.dollars(per.per_million_tokens)} per million tokens"
        each += f" ({words.dollars(per.per_million_output)} per million of output)"
    return "\n".join([_wrapped(head), _list([line for line in (*lines, each) if line])])


def _repaired(answer: Answer) -> list[str]:
    """The file's own kind of replica, as many as are needed."""
    repair = answer.repair
    if repair is None:
        return []
    if isinstance(repair, Refused):
        return [f"more of the same will not do: {repair.why}"]
    devices = words.count(repair.fleet.devices, repair.fleet.way.unit)
    return [f"more of the same: {repair.why}, {devices}, {words.dollars(repair.fleet.dollars)} a month"]


def money(bill: Bill) -> str:
    """The bill's parts and their sum, in one line."""
    sums: dict[str, float] = {}
    for line in bill.lines:
        name = line.what if line.kind == "fixed" else f"{line.what.split(' in ')[0]} {line.kind.replace('_', ' ')}"
        sums[name] = sums.get(name, 0.0) + line.dollars
    parts = " + ".join(f"{name} {words.dollars(value)}" for name, value in sums.items())
    return f"a month: {parts} = {words.dollars(bill.total)}"


def shown(answer: Answer) -> list[Sized]:
    """The cheapest of each kind, then the next best ones, each once."""
    found: dict[str, Sized] = {}
    for one in (*answer.options, *([answer.best] if answer.best else []), *answer.next_best):
        found.setdefault(str(one.fleet.way) + one.fleet.way.pool, one)
    return sorted(found.values(), key=lambda one: one.fleet.dollars)[: ROWS + len(answer.options)]


def asks(sized: Sized) -> str:
    """What a fleet asks of the user beside its price, in a word or two."""
    wanted = ["GPUs"] if is_market(sized.fleet.way.pool) else []
    wanted += [each.rsplit(" ", 1)[-1].upper() for each in sized.fleet.way.accept]
    return ", ".join(wanted) or "-"


def why(answer: Answer, sized: Sized) -> str:
    """Why a fleet is not the one to take, or what it would save."""
    best, mine = answer.best, sized.fleet
    carries = f"a replica carries {words.rate(mine.capacity.rate)}, held by {mine.capacity.binds}"
    if best is None or mine == best.fleet:
        asked = "if you take what it asks" if mine.way.accept else "as asked"
        where = " of all GPUs" if is_market(mine.way.pool) else ""
        return f"the cheapest {asked}{where}: {carries}" if best else carries
    less = best.fleet.dollars - mine.dollars
    if less > 0:
        return f"{words.dollars(less)} a month less, if you take what it asks: {carries}"
    return sized.why


def measure(answer: Answer) -> str:
    """What is promised, to be shown of each fleet: `p95`, or another when that is not promised."""
    timed = answer.question.promise.timed
    return "p95" if "p95" in timed or not timed else next(iter(timed))


def _enough(answer: Answer) -> str:
    found = shown(answer)
    if not found:
        return _impossible(answer)
    parts = [] if answer.impossible is None else [_impossible(answer)]
    ways = words.count(len(answer.ranking.fleets), "way")
    head = f"WHAT IS ENOUGH (devices alone; {ways} to run it will do, {len(answer.ranking.refused)} will not)"
    name = measure(answer)
    columns: list[Column] = ["no", "fleet", ("replicas", "count"), "devices", ("$/month", "dollars"), name, "asks"]
    rows = [_row(number, one, name) for number, one in enumerate(found, start=1)]
    notes = [f"{number}: {why(answer, one)}" for number, one in enumerate(found, start=1)]
    if any(asks(one) != "-" for one in found):
        notes.append(
            "ASKS: `GPUs` that are not in `compute`, at the price list's price; a precision whose quality you would "
            "have to accept (`allow: [fp8]`)"
        )
    parts.append("\n".join([_wrapped(head), table(rows, columns), _list(notes)]))
    return "\n\n".join(parts)


def _row(number: int, sized: Sized, name: str) -> dict[str, object]:
    fleet, seen = sized.fleet, sized.peak
    what = f"{fleet.way.slice} of " if fleet.way.slice else f"{fleet.way.gpus} x "
    what = f"{fleet.way.cores:g} cores of " if fleet.way.cores else what
    return {
        "no": number,
        "fleet": f"{what}{fleet.way.device.removesuffix('-SXM')} {fleet.way.precision.upper()}",
        "count": fleet.replicas,
        "devices": words.count(fleet.devices, fleet.way.unit),
        "dollars": words.dollars(fleet.dollars),
        name: seconds(getattr(seen, name).value) if seen else "<unknown>",
        "asks": asks(sized),
    }


def _impossible(answer: Answer) -> str:
    why = answer.impossible
    if why is None:
        return "NOTHING WILL DO"
    lines = [f"{says} ({words.count(count, 'way')})" for _, count, says in why.by_cause]
    near = [f"the nearest: {one.nearest.says}" for one in why.offers]
    return "\n".join([_wrapped(f"NOTHING WILL DO AS ASKED: {why.why}"), _list([*lines, *near])])


def _quoted(answer: Answer) -> str:
    if not answer.audits:
        return ""
    parts = []
    for audit in answer.audits:
        verdict = "which is what it comes to" if audit.holds else "which is NOT what it comes to"
        parts.append(f"QUOTED for {audit.what}: {words.dollars(audit.quoted)} a month, {verdict}")
        parts.append(_list([finding.says for finding in audit.findings]))
    return "\n".join(parts)


def _sensitive(answer: Answer) -> str:
    if not answer.rows:
        return ""
    rows = [
        {
            "change": f"{row.factor} {row.setting}",
            "dollars": words.dollars(row.dollars) if row.dollars is not None else "nothing will do",
            "fleet": f"{row.fleet.replicas} x ({row.fleet.way})" if row.fleet else row.why,
        }
        for row in answer.rows
    ]
    shown = table(rows, [("if", "change"), ("$/month", "dollars"), ("cheapest that will do", "fleet")])
    return f"IF THINGS CHANGE (devices of the cheapest)\n{shown}"


def _soak(answer: Answer) -> str:
    return f"WHAT THE CANARY CAN SAY\n{_list(answer.soak.says())}" if answer.soak is not None else ""


def rests(answer: Answer) -> list[str]:
    """What the answer rests on, in lines: things of one basis and source together."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in answer.rests:
        found.setdefault((one.basis, one.source), []).append(one.what)
    lines = [f"{basis} ({source}): {'; '.join(dict.fromkeys(what))}" for (basis, source), what in found.items()]
    return lines + list(answer.assumed)


def _rests(answer: Answer) -> str:
    lines = rests(answer)
    return f"WHAT THIS RESTS ON\n{_list(lines)}" if lines else ""


def summary(fleets: Fleets) -> str:
    """Many endpoints: a line each, the levers, and the sums."""
    rows = []
    for answer in fleets.answers:
        written, best = answer.written, answer.best
        rows.append(
            {
                "endpoint": answer.question.demand.endpoint,
                "written": short(written.judged.replicas, written.judged.written.way) if written else "<none>",
                "now": words.dollars(written.paid.bill.devices) if written else "<none>",
                "met": {True: "yes", False: "NO", None: "-"}[answer.verdict],
                "enough": short(best.fleet.replicas, best.fleet.way) if best else "nothing will do",
                "dollars": words.dollars(best.fleet.dollars) if best else "<none>",
            }
        )
    columns: list[Column] = [
        "endpoint",
        ("as written", "written"),
        ("$/month", "now"),
        "met",
        "enough",
        ("$/month", "dollars"),
    ]
    parts = [table(rows, columns)]
    if fleets.levers is not None:
        parts.append(levers(fleets.levers))
    parts.append(_list([*_sums(fleets), *(_checked(check) for check in fleets.shared)]))
    parts.append("each in full: mainspring plan --endpoint NAME")
    return "\n\n".join(parts)


def _sums(fleets: Fleets) -> list[str]:
    lines = []
    if fleets.written is not None:
        lines.append(f"in all {words.dollars(fleets.written)} a month as written, what is paid besides included")
    if fleets.enough is not None:
        line = f"{words.dollars(fleets.enough)} would be enough, with the precisions that `allow` has, on demand"
        extra = fleets.enough - fleets.parts if fleets.parts is not None else 0.0
        whole = f" ({words.dollars(extra)} of it for the rest of GPUs that slices leave)" if extra > 0.5 else ""
        lines.append(line + whole)
    return lines


def _checked(check: Check) -> str:
    return f"{'ok ' if check.met else 'NO '} {check.says}"


def short(replicas: int, way: Way) -> str:
    """`5 x 4 H100 FP16`, for tables of many."""
    device = way.device.removesuffix("-SXM")
    cores = f"{way.cores:g} cores {device}" if way.cores else ""
    what = cores or (f"{way.slice} {device}" if way.slice else f"{way.gpus} {device}" if way.gpus > 1 else device)
    return f"{replicas} x {what} {way.precision.upper()}"


def levers(found: Levers) -> str:
    """What each lever saves, alone and on top of those before it."""
    rows = [
        {
            "lever": row.lever,
            "alone": words.dollars(row.alone),
            "on_top": words.dollars(row.on_top),
            "total": words.dollars(row.total),
        }
        for row in found.rows
    ]
    columns: list[Column] = ["lever", ("saves alone", "alone"), ("saves on top", "on_top"), ("bill after it", "total")]
    return f"OF {words.dollars(found.base)} A MONTH AS WRITTEN\n{table(rows, columns)}\n{_list(LEVERS)}"


def pools(fleets: Fleets) -> str:
    """Whether the pools that several endpoints share hold them all; "" where none is shared."""
    return "\n".join(_wrapped(_checked(check)) for check in fleets.shared)


def budget(fleets: Fleets) -> str:
    """The fleets as written against the budget; "" when there is none, or nothing is written."""
    if fleets.budget is None or fleets.written is None:
        return ""
    over = fleets.written - fleets.budget
    word = f"OVER by {words.dollars(over)}" if over > 0 else f"{words.dollars(-over)} are left"
    return f"budget {words.dollars(fleets.budget)} a month: {words.dollars(fleets.written)} as written, {word}"
