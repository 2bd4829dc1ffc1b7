"""A result of `mainspring bench` as text of 80 columns.

What this is: rendering, pure. Who calls it: `bench.py`, and `bench_page.py` for its words. What it must never do:
show a percentile that the samples can't carry, or leave out that the generator was the limit.
"""

from __future__ import annotations

import textwrap
from typing import Any

from mainspring.bench.quantiles import SHARES, Point, Quantiles, needed
from mainspring.bench.summary import Goodput, Result
from mainspring.cli.output import WIDTH, cell, state, table

DIFFERS = 0.05
"""The share by which latency and service time must differ for both to be shown."""
_VERDICTS = {"met": "ok", "missed": "bad", "unsure": "unknown"}


def text(result: Result, *, color: bool = False) -> str:
    """All of it."""
    parts = ["\n".join(_wrap(line) for line in heading(result)), _times(result)]
    facts = [*tokens(result), *generator(result)]
    parts.append("\n".join(_wrap(line, "  ") for line in facts))
    if result.goodput is not None:
        parts.append(_goodput(result.goodput, color))
    if result.errors:
        parts.append("\n".join(["ERRORS", *(_wrap(f"  {line}", "    ") for line in errors(result))]))
    said = [_wrap(f"{state('bad', limited(result), color=color)}", "  ")] if result.limited_by_generator else []
    said += [_wrap(f"note: {note}", "  ") for note in notes(result)]
    parts.append("\n".join(said))
    return "\n\n".join(part for part in parts if part)


def _wrap(line: str, indent: str = "  ") -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=True, break_on_hyphens=False)


def heading(result: Result) -> list[str]:
    """What was done."""
    if result.loop == "closed":
        how = f"closed loop of {result.concurrency}, for comparison: it waits for answers, so its percentiles flatter"
    else:
        how = f"open loop, {result.arrivals}"
    model = f"{result.model}: " if result.model and result.api != "infer" else ""
    counts = f"{result.sent:,} sent in {result.seconds:.4g} s, {result.answered:,} answered"
    counts += f" ({result.answered_per_second:.4g}/s), {result.failed:,} failed"
    if result.warmup:
        counts += f"; {result.warmup:,} more to warm up"
    if result.stopped:
        counts += f"; stopped with {result.abandoned:,} on their way"
    return [f"{model}{result.url}", how, counts]


def rows(result: Result) -> list[tuple[str, Quantiles]]:
    """The times that are shown, by name; `sent`: counted from when requests were sent, not from when they were due."""
    found = [("latency", result.latency)]
    if result.loop == "open" and _differ(result.latency, result.service):
        found.append((" sent", result.service))
    if result.ttft is not None:
        found.append(("ttft", result.ttft))
        if result.ttft_service and result.loop == "open" and _differ(result.ttft, result.ttft_service):
            found.append((" sent", result.ttft_service))
    for name, times in (("gap", result.gap), ("tpot", result.tpot), ("gateway", result.overhead)):
        if times is not None and times.samples:
            found.append((name, times))
    return found


def _differ(one: Quantiles, other: Quantiles) -> bool:
    pairs = [
        (getattr(one, f"p{share * 100:.0f}").value, getattr(other, f"p{share * 100:.0f}").value) for share in SHARES
    ]
    pairs += [(one.mean, other.mean), (one.largest, other.largest)]
    return any(a is not None and b is not None and abs(a - b) > DIFFERS * b for a, b in pairs)


def unit(times: Quantiles) -> tuple[str, float]:
    """The unit that a row of times is shown in, and how many of it are a second."""
    top = times.largest or 0.0
    return ("s", 1.0) if top >= 10 else ("ms", 1e3) if top >= 1e-3 else ("µs", 1e6)


def _times(result: Result) -> str:
    shown: list[dict[str, Any]] = []
    for name, times in rows(result):
        name_of, scale = unit(times)
        shown.append({"time": f"{name} {name_of}", "n": str(times.samples)})
        shown[-1] |= {f"p{share * 100:.0f}": point(getattr(times, f"p{share * 100:.0f}"), scale) for share in SHARES}
        shown[-1]["max"] = number(times.largest, scale) + ("+" if times.timed_out else "")
    lines = table(shown, [("", "time"), "n", "p50", "p95", "p99", "max"], width=200).splitlines()
    if max(map(len, lines)) > WIDTH:  # then without the intervals: cut figures would be wrong ones
        for row in shown:
            row |= {key: row[key].split(" (")[0] for key in ("p50", "p95", "p99")}
        lines = table(shown, [("", "time"), "n", "p50", "p95", "p99", "max"]).splitlines()
    return "\n".join(lines)


def number(value: float | None, scale: float) -> str:
    """Three digits, without exponents."""
    if value is None:
        return "-"
    scaled = value * scale
    return f"{scaled:.0f}" if scaled >= 100 else f"{scaled:.3g}"


def point(value: Point, scale: float) -> str:
    """`412 (398-431)`; `-` where the samples are too few; `>60000` beyond the timeout."""
    if value.beyond is not None:
        return f">{number(value.beyond, scale)}"
    if value.value is None:
        return "-"
    return f"{number(value.value, scale)} ({number(value.low, scale)}-{number(value.high, scale)})"


def tokens(result: Result) -> list[str]:
    """What was read and written."""
    told = result.tokens
    if told is None or not result.answered:
        return []
    each = f"{told.prompt / result.answered:.4g} in and {told.output / result.answered:.4g} out a request"
    if told.counted_by == "pieces":
        return [f"tokens: {told.output_per_second:.4g}/s out, a piece counted as one: answers don't say their usage"]
    cached = f" ({told.cached / told.prompt:.0%} cached)" if told.cached else ""
    return [f"tokens: {told.output_per_second:.4g}/s out, {told.prompt_per_second:.4g}/s in{cached}; {each}"]


def generator(result: Result) -> list[str]:
    """What the generator knows of itself."""
    own = result.generator
    late = "" if own.late_p95 is None else f"sent {own.late_p95 * 1e3:.2g} ms late (p95), "
    lag = f"lag {own.lag_p95 * 1e3:.2g} ms (p95)"
    return [f"generator: {late}{lag}, {own.cpu:.0%} of a core, {own.connections:,} connections"]


def _goodput(told: Goodput, color: bool) -> str:
    lines = [_wrap(goodput(told))]
    for kept in told.limits:
        line = f"{kept.limit}: {kept.share:.1%} ({kept.low:.1%} to {kept.high:.1%})"
        lines.append(f"  {state(_VERDICTS[kept.verdict], kept.verdict, color=color)}: {line}")
    return "\n".join(lines)


def goodput(told: Goodput) -> str:
    """The goodput in a sentence."""
    share = f"{told.share:.1%}, {told.low:.1%} to {told.high:.1%}"
    return f"goodput: {told.per_second:.4g}/s; {told.good:,} of {told.of:,} kept all limits ({share})"


def errors(result: Result) -> list[str]:
    """Failures by kind, with what the first of each said."""
    shown = []
    for kind, count in result.errors.items():
        said = cell(result.said.get(kind) or " ").strip()
        shown.append(f"{count:,} {kind}" + (f": {said}" if said else ""))
    return shown


def limited(result: Result) -> str:
    """The sentence that says that the figures are the generator's."""
    why = "; ".join(result.generator.reasons)
    return f"limited by the generator: {why}. These figures are not the server's alone"


def notes(result: Result) -> list[str]:
    """What a reader should know."""
    found = []
    absent = [share for share in SHARES if getattr(result.latency, f"p{share * 100:.0f}") == Point()]
    if absent and result.latency.samples:
        fewest = ", ".join(f"p{share * 100:.0f} takes {needed(share)}" for share in absent)
        found.append(f"{fewest} requests; there are {result.latency.samples}")
    if result.resent:
        found.append(f"{result.resent:,} requests were sent again: a kept connection was closed under them")
    if result.latency.timed_out:
        found.append(f"{result.latency.timed_out:,} timed out and count as longer than any")
    return found
