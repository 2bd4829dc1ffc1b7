"""When nothing can keep the promise: why, and the nearest promise that could be kept.

What this is: the refusals of all ways read together; pure. Who calls it: `answer.py`. What it must never do: forecast:
what is nearest is asked of the function that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.sizing import words
from mainspring.sizing.judge import contradiction
from mainspring.sizing.needs import MOST
from mainspring.sizing.question import Nearest, NearestOf, Question, Way
from mainspring.sizing.rank import Ranking, Refused

HIGHER = frozenset({"output"})
"""What is nearer the more there is of it; of times, the less the nearer."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A promise that could be kept, and by what."""

    way: Way
    nearest: Nearest


@dataclass(frozen=True, slots=True)
class Impossible:
    """Why nothing will do."""

    why: str  # one sentence
    by_cause: tuple[tuple[str, int, str], ...]  # cause, how many ways, the one that came closest in its words
    offers: tuple[Offer, ...]


def impossible(question: Question, ranking: Ranking, nearest_of: NearestOf | None = None) -> Impossible | None:
    """Read the refusals; None when some fleet meets the needs."""
    if ranking.fleets:
        return None
    if not ranking.refused:
        return Impossible("there is no way to run it in the pools of the file", (), ())
    offers = _offers(question, ranking.refused, nearest_of)
    groups: dict[str, list[Refused]] = {}
    for each in ranking.refused:
        groups.setdefault(_cause(each), []).append(each)
    causes = []
    for cause, several in sorted(groups.items()):
        closest = _closest(several, offers)
        causes.append((cause, len(several), f"{closest.way}: {closest.why}"))
    return Impossible(_why(question, groups), tuple(causes), nearest(offers))


def _why(question: Question, groups: dict[str, list[Refused]]) -> str:
    clash = contradiction(question)
    if clash:
        return clash
    limits = ", ".join(f"{name} {words.seconds(limit)}" for name, limit in question.promise.timed.items())
    lengths = " at these lengths" if question.demand.lengths else ""
    if set(groups) <= {"promise", "fit"} and "promise" in groups:
        return f"no fleet keeps {limits}{lengths}, however many replicas it has"
    if set(groups) <= {"many", "promise", "fit"} and "many" in groups:
        most = words.amount(MOST)
        return f"a peak of {words.rate(question.demand.at_peak)} takes more than {most} replicas: is the rate right?"
    if set(groups) == {"fit"}:
        return "it fits on nothing that is in the pools"
    if set(groups) & {"promise", "fit"}:
        return f"what keeps {limits or 'the promise'}{lengths} is not there in the number that is needed"
    if not question.survive.regions and not question.survive.nodes_per_region and set(groups) == {"nodes"}:
        return "a replica keeps the promise, but there are not as many of them to be had as the peak needs"
    return "a replica keeps the promise, but there is not enough to survive what must be survived"


def _offers(question: Question, refused: Sequence[Refused], nearest_of: NearestOf | None) -> list[Offer]:
    """What each way that can't keep the promise could keep."""
    if nearest_of is None:
        return []
    asked = [each.way for each in refused if _cause(each) == "promise"]
    return [Offer(way, one) for way in asked for one in nearest_of(way, question.demand, question.promise)]


def _cause(refused: Refused) -> str:
    if refused.unmet is not None:
        return refused.unmet.what
    return refused.capacity.binds if refused.capacity.binds == "fit" else "promise"


def _closest(refused: Sequence[Refused], offers: Sequence[Offer]) -> Refused:
    """The way whose time is the nearest; else the first."""
    times = {offer.way: offer.nearest.value for offer in offers if offer.nearest.what not in HIGHER}
    known = [each for each in refused if each.way in times]
    return min(known, key=lambda each: (times[each.way], str(each.way))) if known else refused[0]


def nearest(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """For each thing that could give, the offer that asks the least; one to be accepted only where it is nearer."""

    def far(offer: Offer) -> tuple[float, float, str]:
        sign = -1.0 if offer.nearest.what in HIGHER else 1.0
        return sign * offer.nearest.value, offer.way.billed, str(offer.way)

    found: dict[tuple[bool, str], Offer] = {}
    for offer in sorted(offers, key=far):
        found.setdefault((bool(offer.way.accept), offer.nearest.what), offer)
    kept = []
    for (accepted, what), offer in sorted(found.items(), key=lambda pair: pair[0]):
        plain = found.get((False, what))
        if not accepted or plain is None or far(offer)[0] < far(plain)[0]:
            kept.append(offer)
    return tuple(kept)
