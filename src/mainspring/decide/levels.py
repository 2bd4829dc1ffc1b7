"""How the chance of a false abort is split among the checks of a rollout.

What this is: one table; pure. Who calls it: `decide/rollout.py`; the soak calculator and the plan, to say thresholds.
What it must never do: depend on what was seen.
"""

from __future__ import annotations

from mainspring.decide.terms import Bound, Terms

ERRORS = 0.8
"""Errors' part of alpha. It is large because they are few: one more or less of them is a factor of ten of evidence,
while of times and means there are hundreds, and a threshold five times as high takes a tenth more of them."""
REFUSED = 0.25
"""The part of that, of a bound beside the control (else of one alone), that looks at refusals (4xx): a version that
takes no more what the old one took is as bad as one that fails, but rarer, and clients send bad requests too."""
ALPHA = 0.03
"""The part of alpha of errors beside the control, by default: three quarters of four fifths of 5 %."""
WEIGHTS: dict[str, float] = {
    "p95": 4.0,
    "ttft": 4.0,
    "pairs": 3.0,
    "tokens over control": 2.0,
    "cost over control": 2.0,
    "score": 2.0,
    "ab": 2.0,
    "mirrored errors over control": 1.0,
}
"""How the rest is shared among what is asked for; the last two always have theirs, since stages bring them."""
BOTH = {
    "errors over control": "refusals over control",
    "mirrored errors over control": "mirrored refusals over control",
}
"""Checks of failed answers beside the control, each with that of refused ones."""
ANEW = ("tokens over control", "cost over control", "score")
"""Checks that begin anew in each stage; where users keep their version, those of times do so too."""


def levels(terms: Terms, *, units: bool = False) -> dict[str, float]:
    """Each check's part of alpha, by name; they sum to `terms.alpha` at most (Bonferroni). A threshold is one over it.

    Errors have four fifths, shared by a bound of their own and one beside the control where both are asked for; without
    a bound on errors the rest has all. It is the same in all stages, and the e-processes of errors, times and paired
    rows run through all of them: a rollout is one test. Sums (tokens, cost, feedback) begin anew in each stage, since a
    candidate with a growing share is not to be compared with a control of other hours: each of `Terms.stages` has an
    even part. So has each where users keep their version (`units`) of times: one time of each user is of one stage. An
    A/B test has its even part of `Terms.tests`. What the terms have no bound for is not in it, but refusals beside the
    control are wherever there is a bound on errors.
    """
    bounds = {"tokens over control": terms.tokens, "cost over control": terms.cost, "score": terms.score}
    bounds["pairs"] = terms.margin
    asked = {name for name, bound in bounds.items() if bound is not None} | {"ab", "mirrored errors over control"}
    asked |= {name for name in ("p95", "ttft") if getattr(terms, name)}
    rest = terms.alpha * (1.0 - ERRORS if terms.errors else 1.0)
    whole = sum(WEIGHTS[name] for name in asked)
    parts = {name: rest * WEIGHTS[name] / whole for name in WEIGHTS if name in asked}
    anew = (*ANEW, *(("p95", "ttft") if units else ()))
    parts |= {name: parts[name] / max(1, terms.stages) for name in anew if name in parts}
    parts["ab"] /= max(1, terms.tests)
    found = _named("errors", terms.errors, terms.alpha * ERRORS)
    for name, part in parts.items():
        found |= _named(name, getattr(terms, name), part) if name in ("p95", "ttft") else {name: part}
    for errors, refusals in BOTH.items():
        if errors in found:
            found |= {errors: found[errors] * (1.0 - REFUSED), refusals: found[errors] * REFUSED}
        elif "errors" in found:
            found |= {"errors": found["errors"] * (1.0 - REFUSED), refusals: found["errors"] * REFUSED}
    return found


def level(terms: Terms, name: str) -> float:
    """The part of alpha of the check called `name`, such as `p95 over control`; 0 when nothing of it is asked for."""
    return levels(terms).get(name, 0.0)


def _named(name: str, bounds: tuple[Bound, ...], part: float) -> dict[str, float]:
    """The bounds of one thing: of its own, and beside the control."""
    kinds = {bound.over for bound in bounds}
    return {f"{name} over control" if over else name: part / len(kinds) for over in kinds}
