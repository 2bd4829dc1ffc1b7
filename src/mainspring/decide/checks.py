"""What is looked at in a rollout, one function a check: errors, times, the split, and means in `decide/means.py`.

What this is: pure; from what was asked and what was seen to a `Check` with its sentence and numbers.
Who calls it: `decide/rollout.py`. What it must never do: decide what follows.

Two kinds of evidence, kept apart. `evidence` is against "it is within its bound": enough of it gives a rollout up, so
its threshold is one over the check's part of alpha. `certainty` is for a promise of the objective: enough of it
(1/beta) lets a rollout go on. A promotion needs every promise, so beta is not divided (intersection-union).

One control replica that is surely broken does no harm: its errors raise the control's rate, so the comparison
with the control finds less, never more (no false abort); and going on takes certainty about the candidate's own
answers, which the control has no part in (no wrong promotion).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from mainspring.decide.arms import EDGES
from mainspring.decide.sequential import (
    Floats,
    ratio_evidence,
    share_below,
    share_path,
    told,
    without_bursts,
)
from mainspring.decide.split import CERTAINTY, Split
from mainspring.decide.tally import Field, Tally
from mainspring.decide.terms import Bound, Check, State
from mainspring.decide.times import BUCKETS, SLOW, beside, maybe_over, quantile

MOST = 10**9
"""Requests: more is never."""
SCOPE = 2 / 3
"""The part of the money left that is bet in each scope on who of the users or sessions fails: the same ones may do so
in the next scope, so that evidence is not multiplied but added."""
WORDS = {"p95": "answers", "ttft": "first tokens"}


def percent(share: float, digits: int = 3) -> str:
    """A share for people: `0.13 %`, `12.5 %`."""
    return f"{share * 100:.{digits}g} %"


def seconds(time: float) -> str:
    """A time for people: `95 ms`, `2.31 s`."""
    return f"{time * 1e3:.3g} ms" if time < 1 else f"{time:.3g} s"


def least(bounds: tuple[Bound, ...], *, over: bool) -> float | None:
    """The smallest bound of a kind: it is the one that matters."""
    return min((bound.value for bound in bounds if bound.over == over), default=None)


def split_check(found: Split) -> Check:
    """Whether the arms got the shares that the routes gave."""
    if not found.requests:
        return Check("split", "unknown", "how the requests were split is not known")
    text = (
        f"the new version got {percent(found.got)} of {found.requests:,} requests, {percent(found.wanted)} was routed"
    )
    numbers = {"got": found.got, "wanted": found.wanted, "requests": float(found.requests)}
    state: State = "bad" if found.off else "open"
    return Check("split", state, text, found.evidence, 1.0 / CERTAINTY, numbers=numbers)


def errors(seen: Tally, bound: float | None, promised: float | None, threshold: float, wanted: float) -> Check | None:
    """Failed answers against a share of their own, and against the promise; live and mirrored answers together.

    What was refused (4xx) or left by its client is no answer. Where users keep their version they are what counts, each
    once (`Tally.promised`, `Tally.failures`). Where users are not known (the split is made for each request) errors are
    taken as independent: if they come in rows, since those who fail try again, a promise is called kept too early
    more often than with `Terms.beta`. None when there is neither bound nor promise.
    """
    if bound is None and promised is None:
        return None
    failed, asked = seen.errors + seen.arms.mirrored.errors, seen.answered + seen.copied
    if not asked:
        missing = "no answer is known" if not (seen.requests or seen.arms.mirrored.requests) else "nothing was answered"
        risk = f"{missing}, errors are not known" if promised is not None else ""
        kept = wanted if promised is not None else 0.0
        return Check("errors", "unknown", missing, threshold=_threshold(bound, threshold), wanted=kept, risk=risk)
    text = f"{failed:,} of {asked:,} answers failed"
    numbers = {"errors": float(failed), "requests": float(asked), "share": failed / asked}
    evidence = 1.0
    if bound is not None:
        bad, total = seen.failures
        evidence = float(told(share_path(_once(seen, bad), total, _inside(bound))))
        text += f", {percent(bound)} may"
        numbers["bound"] = bound
    if promised is None:
        return _check("errors", text, evidence, _threshold(bound, threshold), numbers=numbers)
    met, whole = seen.promised
    certain, left = certainty(met, whole, promised, wanted)
    most, whose = up_to(met, whole, wanted), ""
    numbers |= {"promised": promised, "upper": most}
    if seen.units is not None:
        numbers |= {"users": whole, "failing_users": met} | ({} if left is None else {"users_left": float(left)})
        whose = f" of users or sessions, {int(met):,} of {int(whole):,} met one"
    text += f"; surely below {percent(most)}{whose}, promised is {percent(promised)}"
    risk = f"errors may be up to {percent(most)} ({_sure(wanted)}){whose}, promised is {percent(promised)}"
    left, limit = in_requests(seen, left), _threshold(bound, threshold)
    return _check("errors", text, evidence, limit, certain, wanted, left, numbers, risk)


def _once(seen: Tally, bad: Floats) -> Floats:
    """Errors by slice, where many at once count as few: that only takes from the evidence, so it is safe."""
    if seen.units is not None or not len(seen.groups):
        return bad
    own, _ = without_bursts(seen.groups[:, 1], seen.groups[:, 4])
    return np.concatenate([bad[: len(bad) - len(own)], own])


def errors_over(seen: Tally, fraction: float, threshold: float, *, by_design: bool = True) -> Check:
    """Failed answers beside the control's at the same time, conditional on errors; many at once count as few.

    By the share that the routes gave, where it is known: the split is checked apart. Where that is surely off (not
    `by_design`), by the share that each slice got. Where the split is made by users or sessions each of them counts
    once, when it first fails; with shares that changed meanwhile, at the largest of them, which is on the safe side.
    """
    name = "errors over control"
    if seen.units is not None:
        own, rest = seen.units
        bad, total, control_bad, control = own.failing, own.seen, rest.failing, rest.seen
        whom = "users or sessions"
    else:
        whom = "answers"
        bad, total, control_bad, control = seen.errors, seen.requests, seen.control_errors, seen.control_requests
    if not control or not total:
        missing = "the old version's" if not control else "the new version's"
        return Check(name, "unknown", f"no answer of {missing} is known", threshold=threshold)
    evidence = _beside(seen, "failing", (1, 4), 1.0 + fraction, by_design=by_design)
    text = f"{bad:,} of {total:,} {whom} failed, {control_bad:,} of {control:,} of the old version's"
    if fraction:
        text += f"; {percent(fraction)} more may"
    numbers = {"share": bad / total, "control_share": control_bad / control, "bound": fraction}
    numbers |= {"errors": float(bad), "requests": float(total)}
    numbers |= {"control_errors": float(control_bad), "control_requests": float(control)}
    return _check(name, text, evidence, threshold, numbers=numbers)


def refusals_over(seen: Tally, fraction: float, threshold: float, *, by_design: bool = True) -> Check | None:
    """Answers with 4xx beside the control's, as errors are: does the new version refuse what the old one takes?

    Where the split is made by users or sessions each of them counts once. None where nothing was refused.
    """
    mine, theirs = seen.refused
    asked, control, whom = seen.requests, seen.control_requests, "answers"
    if seen.units is not None:
        (own, rest), whom = seen.units, "users or sessions"
        mine, theirs, asked, control = own.refused, rest.refused, own.seen, rest.seen
    if not (mine or theirs) or not asked or not control:
        return None
    evidence = _beside(seen, "refused", (2, 5), 1.0 + fraction, by_design=by_design)
    text = f"{mine:,} of {asked:,} {whom} were refused with 4xx, {theirs:,} of {control:,} of "
    numbers = {"share": mine / asked, "control_share": theirs / control, "bound": fraction}
    return _check("refusals over control", text + "the old version's", evidence, threshold, numbers=numbers)


def _beside(
    seen: Tally, what: Literal["failing", "refused"], columns: tuple[int, int], ratio: float, *, by_design: bool
) -> float:
    """The e-value beside the control: of users, each once; else of answers, slice by slice."""
    if seen.units is None:
        table = seen.groups.T
        bad, base = without_bursts(table[columns[0]], table[columns[1]])
        weight = table[0] if by_design else None
        return float(ratio_evidence(bad, table[3], base, table[6], ratio, weight, anew=True))
    share = max((piece[0] for piece in seen.arms.routed if 0 < piece[0] < 1), default=0.0)
    found, left = 0.0, 1.0
    for own, rest, largest in (*seen.arms.earlier, (*seen.units, share)):  # the money that is left, scope by scope
        counts = ([getattr(own, what)], [own.seen], [getattr(rest, what)], [rest.seen])
        found += left * SCOPE * float(ratio_evidence(*counts, ratio, [largest] if by_design else None))
        left *= 1.0 - SCOPE
    return found + left


def mirrored_over(seen: Tally, fraction: float, threshold: float, *, refused: bool = False) -> Check | None:
    """Copies that failed (or were refused) beside the live answers of the same time and region: no user saw them.

    Of an error a share s / (1 + s) at most is the candidate's, where a share s of the live requests is copied. The same
    requests fail in both arms for the request's own reason more often than different ones would: so the test, which
    takes them for different ones, is on the safe side. None where nothing was refused.
    """
    word, done = ("refusals", "were refused with 4xx") if refused else ("errors", "failed")
    name, slices = f"mirrored {word} over control", seen.arms.mirrored_slices
    rows = [
        (one.weight, a.refused if refused else a.errors, a.requests, b.refused if refused else b.errors, b.requests)
        for one in slices
        for a, b in ((one.candidate, one.control),)
    ]
    weight, bad, own, base, rest = np.array(rows, np.float64).reshape(-1, 5).T
    mine, copies, theirs, control = (int(column.sum()) for column in (bad, own, base, rest))
    if refused and not (mine or theirs):
        return None
    if not copies or not control:
        return Check(name, "unknown", "no answer of both versions at the same time is known", threshold=threshold)
    bad, base = without_bursts(bad, base)
    evidence = float(ratio_evidence(bad, own, base, rest, 1.0 + fraction, weight, anew=True))
    text = f"{mine:,} of {copies:,} mirrored answers {done}, {theirs:,} of {control:,} of "
    numbers = {"share": mine / copies, "bound": fraction, "control_share": theirs / control}
    return _check(name, text + "the old version's", evidence, threshold, numbers=numbers)


def times(
    seen: Tally, name: str, field: Field, bound: float | None, promised: float | None, threshold: float, wanted: float
) -> Check | None:
    """Answers (or first tokens) that took longer than a limit: more than 5 of 100 of them?

    What gives a rollout up are answers in buckets wholly above the bound; what a promise is judged by are those in
    buckets that reach above it. Answers are taken one by one: a load that makes many in a row slow counts as often as
    there are answers in it, since users waited as often. Who left before an answer is slow for a promise, however short
    the wait, and for a bound as long as it was (of first tokens that is not known). None when there is neither bound
    nor promise.
    """
    if bound is None and promised is None:
        return None
    found, waited, threshold = seen.times(field), seen.waited, _threshold(bound, threshold)
    gone = float(waited.sum())
    total = float(found.sum()) + gone
    if not found.any() and not (gone and field == "times"):
        risk = f"{name} is not known, promised is {seconds(promised)}" if promised is not None else ""
        wanted = wanted if promised is not None else 0.0
        text = f"no times of {WORDS[name]} are known"
        return Check(name, "unknown", text, threshold=threshold, wanted=wanted, risk=risk)
    p95, evidence = quantile(found + waited if field == "times" else found), 1.0
    text = f"p95 of {int(found.sum()):,} {WORDS[name]} is {_about(p95)}"
    text += f", {int(gone):,} were not waited for" if gone else ""
    numbers = {"answers": float(found.sum()), "left": gone} | ({"p95": p95} if math.isfinite(p95) else {})
    if bound is not None:
        counts = seen.slow(field, bound)
        slow, evidence = float(counts[0].sum()), float(told(share_path(*counts, SLOW)))
        text += f", {int(slow):,} took over {seconds(bound)}"
        numbers |= {"slow": slow, "bound": bound}
    if promised is None:
        return _check(name, text, evidence, threshold, numbers=numbers)
    certain, left = certainty(maybe_over(found, promised) + gone, total, SLOW, wanted)
    left = in_requests(seen, left)
    found[-1] += gone
    most = longest(found, wanted)
    numbers |= {"promised": promised} | ({"upper": most} if math.isfinite(most) else {})
    text += f"; {f'surely below {seconds(most)}' if math.isfinite(most) else 'no bound is sure'}"
    risk = f"{name} may be {f'up to {seconds(most)}' if math.isfinite(most) else 'any time'} ({_sure(wanted)})"
    promise = f", promised is {seconds(promised)}"
    return _check(name, text + promise, evidence, threshold, certain, wanted, left, numbers, risk=risk + promise)


def times_over(seen: Tally, name: str, field: Field, fraction: float, threshold: float) -> Check:
    """Answers (or first tokens) slower than the control's p95 of like prompts at the same time (`decide/times.py`)."""
    found = seen.blocks(field, 1.0 + fraction)
    own, rest = sum(float(b.answers.sum()) for b in found), sum(float(b.control.sum()) for b in found)
    title = f"{name} over control"
    if not own or not rest:
        text = f"too few times of {WORDS[name]} of both versions at the same time are known"
        return Check(title, "unknown", text, threshold=threshold)
    slow, usual = (
        sum(float(part.sum()) for part in parts) for parts in ([b.slow for b in found], [b.control_slow for b in found])
    )
    more = f"{1 + fraction:g} times " if fraction else ""
    text = f"{percent(slow / own)} of {int(own):,} {WORDS[name]} took over {more}the old version's p95, "
    text += f"{percent(usual / rest)} of its own took over it"
    numbers = {"slow": slow, "answers": own, "control_slow": usual, "control_answers": rest, "bound": fraction}
    return _check(title, text, beside(found), threshold, numbers=numbers)


def certainty(bad: float, total: float, bound: float, wanted: float) -> tuple[float, int | None]:
    """The e-value for "the share of bad ones is below the bound", and about how many more make it `wanted`.

    How many: at the share that was seen; None when that is not below the bound, or it takes over a thousand million.
    """
    bound = _inside(bound)
    found = float(told(share_below(bad, total, bound)))
    if found >= wanted:
        return found, 0
    share = bad / total if total else 1.0
    if share >= bound:
        return found, None
    first, last = max(total, 1.0), float(MOST)
    for _ in range(2):  # to 2 %
        counts = np.geomspace(first, last, 40)
        enough = share_below(share * counts, counts, bound) >= math.log(wanted)
        if not enough.any():
            return found, None
        i = int(enough.argmax())
        first, last = float(counts[max(i - 1, 0)]), float(counts[i])
    return found, max(1, math.ceil(last - total))


def in_requests(seen: Tally, left: int | None) -> int | None:
    """How many requests bring so many more: of users or sessions, where each counts once."""
    return None if left is None else math.ceil(left / max(seen.users_of_one, 1e-9))


def up_to(bad: float, total: float, wanted: float) -> float:
    """The smallest share that the bad ones are surely below, at any look; 1 when there is none."""
    low, high, enough = 1e-9, 1.0 - 1e-9, math.log(wanted)
    if total <= 0 or share_below(bad, total, high) < enough:
        return 1.0
    while high > 1.002 * low:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if share_below(bad, total, middle) >= enough else (middle, high)
    return high


def longest(counts: np.ndarray, wanted: float) -> float:
    """The shortest time that 95 of 100 answers are surely within, at any look; inf when there is none."""
    above = counts[::-1].cumsum()[::-1] - counts  # answers in later buckets than each
    sure = share_below(above, counts.sum(), SLOW) >= math.log(wanted)
    if not sure[: BUCKETS - 1].any():
        return math.inf
    return EDGES[int(sure.argmax())]


def _inside(bound: float) -> float:
    """`0%` and `100%` are bounds like others."""
    return min(max(bound, 1e-6), 1 - 1e-6)


def _threshold(bound: float | None, threshold: float) -> float:
    return 0.0 if bound is None else threshold


def _check(
    name: str,
    text: str,
    evidence: float,
    threshold: float,
    certain: float = 1.0,
    wanted: float = 0.0,
    left: int | None = None,
    numbers: dict[str, float] | None = None,
    risk: str = "",
) -> Check:
    """A check whose state follows from its e-values."""
    state: State = "open"
    if threshold and evidence >= threshold:
        state = "bad"
    elif wanted and certain >= wanted:
        state = "certain"
    taken = risk if wanted and certain < wanted else ""
    return Check(name, state, text, evidence, threshold, certain, wanted, left, numbers or {}, taken)


def _sure(wanted: float) -> str:
    return f"{percent(1 - 1 / wanted)} sure"


def _about(time: float) -> str:
    return f"about {seconds(time)}" if math.isfinite(time) else f"over {seconds(EDGES[-1])}"
