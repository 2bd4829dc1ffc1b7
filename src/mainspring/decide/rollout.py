"""What becomes of a stage of a rollout: hold, advance or abort. Pure; one copy for loop, plan, twin and tests.

Abort and advance have error guarantees of their own. A rollout is given up when any check's evidence against its bound
reaches one over its part of `Terms.alpha` (`decide/levels.py`): the chance that this happens to a version within all
bounds is alpha at most, however often it is looked at. A stage ends when every promise of the objective is certain: the
chance that one is called kept while it is not is `Terms.beta` at most. Between the two lies hold, and no data
means hold.

Who calls it: the loop, with what `loop/readings.py` says; benchmarks. What it must never do: take "nothing bad was
seen" for "nothing is bad".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from mainspring.decide import checks, means
from mainspring.decide.arms import Arms
from mainspring.decide.latest import Latest
from mainspring.decide.levels import ALPHA, level, levels
from mainspring.decide.sequential import student_quantile
from mainspring.decide.split import Split, split
from mainspring.decide.tally import Field, Tally, tally
from mainspring.decide.terms import Bound, Check, Evidence, Kind, Looked, StageVerdict, State, Terms

__all__ = [
    "ALPHA",
    "Bound",
    "Check",
    "Evidence",
    "Looked",
    "StageVerdict",
    "State",
    "Terms",
    "in_words",
    "judge",
    "level",
    "levels",
    "paired_difference",
    "unit_split",
]

_ALONE = ("errors", "p95", "ttft", "pairs")
"""Checks that need no split."""
_FAILING = ("errors over control", "refusals over control")
_NEARLY = 1e-6  # of an e-value
FEW = 20
"""Answers at least of a rollout of which nothing is promised: of fewer, even half may fail and nobody has seen it."""
UNPROMISED = 0.05
"""Where nothing is promised, and errors look more than the control's: the share that they have to be surely below."""
_TIMES: tuple[tuple[str, Field], ...] = (("p95", "times"), ("ttft", "firsts"))


_ADDED_UP: Latest[Tally] = Latest()
_LOOKED_AT: Latest[tuple[Check, ...]] = Latest()


def paired_difference(days: tuple[tuple[int, float], ...], confidence: float) -> tuple[float, float, float]:
    """Mean loss difference (candidate - control) with a one-sided lower and upper bound, days as clusters.

    A ratio estimator over day totals with Student's t on days - 1 degrees of freedom (Cochran 1977,
    "Sampling Techniques", section 6.3): rows of one day share their weather, so days are the sample.
    Bounds are infinite with fewer than two days; all three are nan without rows.
    """
    rows = sum(n for n, _ in days)
    if rows == 0:
        return math.nan, math.nan, math.nan
    mean = math.fsum(d for _, d in days) / rows
    k = len(days)
    if k < 2:
        return mean, -math.inf, math.inf
    spread = math.fsum((d - mean * n) ** 2 for n, d in days)
    error = math.sqrt(k / (k - 1) * spread) / rows
    reach = student_quantile(confidence, k - 1) * error
    return mean, mean - reach, mean + reach


def in_words(seconds: float) -> str:
    """A length in the largest of h, min and s that it fills: `72 h`, `1.5 h`, `10 min`, `1 s`."""
    number, unit = next(((seconds / n, u) for n, u in ((3600, "h"), (60, "min")) if seconds >= n), (seconds, "s"))
    return f"{number:.1f}".removesuffix(".0") + f" {unit}"


def judge(terms: Terms, evidence: Evidence, stage: Looked) -> StageVerdict:
    """Judge a stage by all that was seen of the rollout so far.

    A mirror stage needs no certainty about the promises, since no user is at risk, unless its `otherwise` is `proceed`
    (it goes on, and the risk is told) or `abort`. An `ab` stage ends as soon as its metric is won or lost; a won one
    still needs the promises. Sums (tokens, cost, feedback, an A/B test's metric) are of the present stage, everything
    else is of the whole rollout.
    """
    if evidence.arms is None:
        return StageVerdict("hold", evidence.unknown or "no answers of the new version are known yet")
    arms = evidence.arms
    seen = _ADDED_UP.of((arms,), None, lambda: tally(arms))
    live, mirrored = seen.requests, evidence.arms.mirrored.requests
    if not (live + mirrored if stage.kind == "mirror" else live):
        return StageVerdict("hold", "no answers of the new version are known yet")
    routed = split(unit_split(evidence))
    key = (terms, evidence.differences, stage.kind, stage.metric)
    found = _LOOKED_AT.of((arms,), key, lambda: tuple(_checks(terms, evidence, stage, seen, routed)))
    numbers = _numbers(found, seen) | _days(evidence, terms.confidence)
    bad = [one for one in found if one.state == "bad" and _gives_up(one, routed)]
    if bad:
        return StageVerdict("abort", "; ".join(one.message for one in bad), found, numbers=numbers)
    kind, message, risk = _follows(terms, stage, found, seen, routed)
    return StageVerdict(kind, message + _told(evidence, terms), found, risk, numbers)


def unit_split(evidence: Evidence) -> tuple[tuple[float, int, int], ...]:
    """The pieces that the split is checked by: requests; or users and sessions, where they are what is split.

    Requests of one user all go one way: their share says little. Users are counted over the whole rollout, so with
    shares that changed meanwhile there is nothing to check.
    """
    arms = evidence.arms
    if arms is None or arms.candidate_units is None or arms.control_units is None:
        return arms.routed if arms is not None else ()
    shares = {share for share, _, _ in arms.routed}
    if len(shares) != 1:
        return ()
    return ((shares.pop(), arms.candidate_units.seen, arms.control_units.seen),)


def _checks(terms: Terms, evidence: Evidence, stage: Looked, seen: Tally, routed: Split) -> Iterator[Check]:
    """All that is asked for, or promised, or always looked at, in this kind of stage."""
    parts, live = levels(terms, units=seen.units is not None), stage.kind != "mirror"
    enough = {name: 1.0 / part for name, part in parts.items()}
    yield checks.split_check(routed)
    yield from _errors(terms, seen, enough, live=live, by_design=not (routed.off and routed.more))
    for name, field in _TIMES:
        bounds, promised = getattr(terms, name), getattr(terms, f"promised_{name}")
        alone, over = checks.least(bounds, over=False), checks.least(bounds, over=True)
        yield from _asked(checks.times(seen, name, field, alone, promised, enough.get(name, 0.0), 1.0 / terms.beta))
        if over is not None and live:
            yield checks.times_over(seen, name, field, over, enough[f"{name} over control"])
    if live:
        yield from _means(terms, seen.arms, enough)
    if terms.margin is not None and (evidence.differences or not live):
        yield means.pairs(evidence.differences, terms.margin, enough["pairs"])
    if stage.kind == "ab":
        yield means.ab(seen.arms.candidate, seen.arms.control, stage.metric, 1.0 / enough["ab"])


def _errors(terms: Terms, seen: Tally, enough: dict[str, float], *, live: bool, by_design: bool) -> Iterator[Check]:
    alone, over = checks.least(terms.errors, over=False), checks.least(terms.errors, over=True)
    yield from _asked(checks.errors(seen, alone, terms.promised_errors, enough.get("errors", 0.0), 1.0 / terms.beta))
    more = over or 0.0  # refusals are beside the control in any case: a share of their own would be the clients'
    if live:
        if over is not None:
            yield checks.errors_over(seen, over, enough["errors over control"], by_design=by_design)
        if terms.errors:
            yield from _asked(checks.refusals_over(seen, more, enough["refusals over control"], by_design=by_design))
        return
    if over is not None:
        yield from _asked(checks.mirrored_over(seen, over, enough["mirrored errors over control"]))
    if terms.errors:
        yield from _asked(checks.mirrored_over(seen, more, enough["mirrored refusals over control"], refused=True))


def _means(terms: Terms, arms: Arms, enough: dict[str, float]) -> Iterator[Check]:
    own, rest = arms.candidate, arms.control
    if terms.tokens is not None:
        yield means.amounts(own, rest, "tokens", terms.tokens, enough["tokens over control"])
    if terms.cost is not None:
        yield means.amounts(own, rest, "cost", terms.cost, enough["cost over control"])
    if terms.score is not None:
        yield means.score(own, rest, terms.score, enough["score"], arms.untold)


def _asked(check: Check | None) -> tuple[Check, ...]:
    return () if check is None else (check,)


def _gives_up(check: Check, routed: Split) -> bool:
    """Whether a bad check counts: where the split is off, those beside the live control don't.

    But for errors and refusals. While the candidate gets less than it should it is taken to have got all of its share:
    the test is on the safe side, and a version that fails is one that is tried last. While it gets more it is judged
    by what each slice got, which may be weaker, and is no less sure.
    """
    return check.name != "split" and (
        not routed.off or check.name in (*_ALONE, *_FAILING) or check.name.startswith("mirrored")
    )


def _follows(
    terms: Terms, stage: Looked, found: tuple[Check, ...], seen: Tally, routed: Split
) -> tuple[Kind, str, str]:
    """Hold, advance or abort, where nothing is surely bad: with its sentence, and the risk."""
    ab = next((one for one in found if one.name == "ab"), None)
    won = ab is not None and ab.state == "certain"
    over = stage.elapsed >= stage.length
    watched = f"watched for {in_words(stage.elapsed)} of {in_words(stage.length)}"
    if not over and not won:
        return "hold", watched + (f"; {ab.message}" if ab else ""), ""
    if routed.off:
        split_message = next(one.message for one in found if one.name == "split")
        return "hold", f"the arms cannot be compared: {split_message}", ""
    missing = _missing(stage, won=won)
    if missing:
        return "hold", missing, ""
    lacking = _lacking(terms, stage, found, seen)
    if not lacking:
        asked = seen.requests or seen.arms.mirrored.requests
        failed = seen.errors if seen.requests else seen.arms.mirrored.errors
        # Not enough to give it up for, and a person may want to look at it all the same.
        turned_down = next((f"; {one.message}" for one in found if "refusals" in one.name), "")
        return "advance", f"{asked:,} answers, {failed:,} failed{turned_down}" + (f"; {ab.message}" if ab else ""), ""
    if stage.otherwise == "proceed":
        risk = "; ".join(one.risk or one.message for one in lacking)
        return "advance", f"goes on without certainty: {risk}", risk
    if stage.otherwise == "abort" and over:
        said = "; ".join(one.risk or one.message for one in lacking)
        return "abort", f"not certain in the time given: {said}", ""
    return "hold", f"waits for certainty: {'; '.join(_still(one, stage.per_second) for one in lacking)}", ""


def _missing(stage: Looked, *, won: bool) -> str:
    """What is not known of a stage whose time is over; "" when it has requests of its own and all is known of it."""
    what = "copy was answered" if stage.kind == "mirror" else "request came to the new version"
    if stage.requests == 0:
        return f"no {what} in this stage yet"
    if not won and stage.covered is not None and stage.covered < stage.length:
        known, whole = in_words(max(stage.covered, 0.0)), in_words(stage.length)
        return f"what became of all requests is known for {known} of {whole}"
    return ""


def _lacking(terms: Terms, stage: Looked, found: tuple[Check, ...], seen: Tally) -> list[Check]:
    """What is not certain at a stage's end: promises; what is asked for and not known; of no promise, hardly anything.

    A mirror stage lacks nothing, unless something else than waiting was asked for. Where all requests go to the new
    version there is nothing to compare it with; paired rows come as late as their outcomes.
    """
    mirror = stage.kind == "mirror"
    if mirror and stage.otherwise == "wait":
        return []
    compared = stage.kind != "all" and stage.share < 1.0
    lacking = []
    for one in found:
        unknown = one.state == "unknown" and one.threshold > 0 and one.name not in ("pairs", "split")
        if (one.wanted and one.state != "certain") or (unknown and (compared or mirror or one.name in _ALONE)):
            lacking.append(one)
    if terms.promised_errors is None and not mirror:
        lacking += _unpromised(found, seen, 1.0 / terms.beta)
    return lacking


def _unpromised(found: tuple[Check, ...], seen: Tally, wanted: float) -> tuple[Check, ...]:
    """Whether so little is known of errors that it does not go on, though nothing is promised about them."""
    bad, total = seen.promised
    asked = seen.answered + seen.copied
    failed = seen.errors + seen.arms.mirrored.errors
    if asked < FEW:
        text = f"{asked:,} answers so far, {failed:,} failed: {FEW} are the least"
        return (Check("errors", "open", text, requests_left=FEW - asked, risk=text),)
    worse = [one for one in found if one.name in _FAILING and one.evidence > 1.0 + _NEARLY]
    if not worse or checks.up_to(bad, total, wanted) <= UNPROMISED:
        return ()
    left = checks.in_requests(seen, checks.certainty(bad, total, UNPROMISED, wanted)[1])
    text = f"errors look more than the old version's, and may be over {checks.percent(UNPROMISED)}: {worse[0].message}"
    return (Check("errors", "open", text, requests_left=left, risk=text),)


def _still(check: Check, per_second: float) -> str:
    """What is waited for, and how long still at what was seen."""
    if check.name == "ab" or check.state == "unknown":
        return check.message
    if check.requests_left is None:
        return f"{check.risk}; it does not get certain at what was seen"
    if "users_left" in check.numbers:  # each counts once
        about = f"about {check.numbers['users_left']:,.0f} more users or sessions like these"
        return f"{check.risk}; {about}; if no new ones come: `mainspring rollout promote --stage`"
    about = f"about {check.requests_left:,} more answers like these"
    if per_second > 0:
        about += f", {in_words(check.requests_left / per_second)}"
    return f"{check.risk}; {about}"


def _told(evidence: Evidence, terms: Terms) -> str:
    """What the paired rows say, days as clusters; or that no outcomes come back."""
    mean, _, high = paired_difference(evidence.days, terms.confidence)
    if math.isnan(mean):
        return "" if evidence.told else "; judged by errors and times alone, since no outcomes come back"
    rows = sum(n for n, _ in evidence.days)
    sure = f", below {high:+.4f} by days ({checks.percent(terms.confidence)} sure)" if math.isfinite(high) else ""
    return f"; Brier {mean:+.4f} on {rows:,} pairs{sure}"


def _numbers(found: tuple[Check, ...], seen: Tally) -> dict[str, float]:
    """All checks' numbers, flat."""
    mirrored = seen.arms.mirrored
    numbers = {"requests": float(seen.requests + mirrored.requests), "errors": float(seen.errors + mirrored.errors)}
    numbers |= {"control_requests": float(seen.control_requests), "control_errors": float(seen.control_errors)}
    numbers |= {"refused": float(seen.refused[0] + mirrored.refused), "control_refused": float(seen.refused[1])}
    for one in found:
        name = one.name.replace(" ", "_")
        numbers |= {f"{name}_evidence": one.evidence, f"{name}_threshold": one.threshold}
        if one.wanted:
            numbers |= {f"{name}_certainty": one.certainty, f"{name}_wanted": one.wanted}
    return numbers


def _days(evidence: Evidence, confidence: float) -> dict[str, float]:
    """Paired rows with days as clusters."""
    mean, low, high = paired_difference(evidence.days, confidence)
    if math.isnan(mean):
        return {}
    numbers = {"pairs": float(sum(n for n, _ in evidence.days)), "difference": mean}
    return numbers | ({"low": low, "high": high} if math.isfinite(low) else {})
