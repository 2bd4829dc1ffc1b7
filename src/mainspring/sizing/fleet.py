"""All endpoints of a stack, answered: each by itself, and together where there are several.

What this is: the stack's own costs and canaries put beside the answers of sizing; pure. Who calls it: `cli/fleet.py`.
What it must never do: print.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mainspring.decide.soak import soak
from mainspring.decide.stages import canary_of
from mainspring.forecast.coefficients import Coefficients
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Response
from mainspring.loop.rollout_evidence import terms_of
from mainspring.sizing.answer import Answer, Asks, Forecasts, answer
from mainspring.sizing.ask import Asked
from mainspring.sizing.forecasts import forecasts
from mainspring.sizing.judge import Check
from mainspring.sizing.levers import Levers, levers
from mainspring.sizing.plain import plain
from mainspring.sizing.question import Capacity, Demand, Question, Way, is_market
from mainspring.sizing.shared import bills, checks
from mainspring.sizing.together import packed_dollars
from mainspring.sizing.told import told_check
from mainspring.stack.model import Stack

POINTS = 12
"""Loads at which a replica is shown, from none to its most."""


@dataclass(frozen=True, slots=True)
class Load:
    """What users of one replica see at one load."""

    rate: float  # requests/s
    response: Response


@dataclass(frozen=True, slots=True)
class Fleets:
    """The answer for a whole stack."""

    answers: tuple[Answer, ...]
    fixed: Mapping[str, float]  # dollars a month, beside devices
    levers: Levers | None = None  # where every endpoint is written down
    loads: Mapping[str, tuple[Load, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    budget: float | None = None  # dollars a month, for all of it
    shared: tuple[Check, ...] = ()  # of each pool and region that several endpoints share: whether it holds them all

    @property
    def met(self) -> bool:
        """Whether every endpoint meets its objective, and the pools hold them all together."""
        return all(one.met for one in self.answers) and all(check.met for check in self.shared)

    @property
    def judged(self) -> int:
        """Endpoints whose fleet is written, and was judged; of the others the file leaves it to the plan."""
        return sum(one.written is not None for one in self.answers)

    @property
    def written(self) -> float | None:
        """Dollars a month of the fleets as written, fixed costs included; None where the file leaves one open.

        A pool whose nodes the file counts is paid for whole, and once, whoever uses it; of others what replicas hold.
        """
        if self.judged < len(self.answers):
            return None
        made = bills([one.question for one in self.answers])
        return sum(one.devices for one in made) + sum(self.fixed.values())

    @property
    def parts(self) -> float | None:
        """Dollars a month of each endpoint's cheapest fleet, fixed costs included, a slice as its part of a GPU; None
        where nothing will do for one. What `enough` is above it is for whole GPUs.
        """
        known = [one.best.fleet.dollars for one in self.answers if one.best]
        return sum(known) + sum(self.fixed.values()) if len(known) == len(self.answers) else None

    @property
    def enough(self) -> float | None:
        """Dollars a month of the cheapest fleets, fixed costs included; None where nothing accepted will do for one.

        Several endpoints share GPUs, and whole ones are paid for: what the levers leave, bought as the file does.
        """
        if self.levers is not None and len(self.answers) > 1:
            row = next(row for row in self.levers.rows if row.lever == "precision")
            return None if not row.meets or self.parts is None else row.total + sum(self.fixed.values())
        return self.parts

    def told(self) -> dict[str, object]:
        """Plain data: what `-o json` prints."""
        return {
            "endpoints": [one.told() for one in self.answers],
            "met": self.met,
            "judged": self.judged,
            "shared": [told_check(check) for check in self.shared],
            "fixed": plain(self.fixed),
            "written": plain(self.written),
            "budget": plain(self.budget),
            "over_budget": None if self.budget is None or self.written is None else self.written > self.budget,
            "parts": plain(self.parts),
            "enough": plain(self.enough),
            "levers": _levers_told(self.levers),
            "loads": {
                name: [
                    {"rate": plain(one.rate), "p50": plain(one.response.p50), "p95": plain(one.response.p95)}
                    for one in several
                ]
                for name, several in self.loads.items()
            },
            "notes": list(self.notes),
        }


def _levers_told(found: Levers | None) -> object:
    if found is None:
        return None
    return {
        "base": plain(found.base),
        "saved": plain(found.saved),
        "rows": plain(found.rows),
        "final": [
            {
                "endpoint": one.endpoint,
                "dollars": plain(one.dollars),
                "fleet": f"{one.fleet.replicas} x {one.fleet.way}" if one.fleet else "as written",
                "bought": one.how,
                "devices": plain(one.devices),
            }
            for one in found.final
        ],
    }


Tell = Callable[[str, int, int], None]
"""Told before each part of the work: what it is, its number, and how many there are."""


def plan_fleets(stack: Stack, asked: Asked, coefficients: Coefficients, tell: Tell = lambda *_: None) -> Fleets:
    """Answer every question of a stack."""
    fixed = {name: rate.per_month for name, rate in stack.cost.fixed.items()}
    alone = len(asked.questions) == 1
    quoted = stack.cost.quoted.get("gpu")
    answers, loads, known = [], {}, []
    for number, question in enumerate(asked.questions, start=1):
        name = question.demand.endpoint
        tell(name, number, len(asked.questions))
        ways = forecasts(question, coefficients)
        asks = Asks(
            fixed=fixed if alone else {},
            quoted=quoted.per_month if quoted is not None and alone else None,
            sensitive=alone,
            elsewhere=is_market,
        )
        made = answer(question, ways, asks)
        answers.append(_with_soak(made, stack, question))
        loads[name] = _loads(made, ways)
        known.append((question, ways))
    tell("what each lever saves", len(asked.questions), len(asked.questions))
    found = _saved(known, stack.cost.spot)
    limit = None if stack.cost.budget is None else stack.cost.budget.per_month
    return Fleets(tuple(answers), fixed, found, loads, asked.notes, limit, checks(asked.questions))


def _saved(known: list[tuple[Question, Forecasts]], spot: float) -> Levers | None:
    """What the levers save, where every endpoint is written down."""
    if any(question.written is None for question, _ in known):
        return None
    by_name = {question.demand.endpoint: ways for question, ways in known}

    def capacity(way: Way, demand: Demand, promise: Promise) -> Capacity:
        return by_name[demand.endpoint].capacity(way, demand, promise)

    available = {name: ways.availability for name, ways in by_name.items() if ways.availability is not None}
    return levers(
        [_as_accepted(question) for question, _ in known], capacity, available, spot=spot, packed=packed_dollars
    )


def _as_accepted(question: Question) -> Question:
    """Only what the user accepts: a lever is pulled or not, and may not lower the quality unasked."""
    return replace(question, precisions=question.accepted)


def _loads(made: Answer, ways: Forecasts) -> tuple[Load, ...]:
    """The written fleet's replica (else the cheapest's) from an almost idle one to its most."""
    if ways.response is None:
        return ()
    if made.written is not None:
        way, most = made.written.judged.written.way, made.written.judged.capacity.rate
        most = max(most, made.question.demand.at_peak / max(made.written.judged.replicas, 1))
    elif made.best is not None:
        way, most = made.best.fleet.way, made.best.fleet.capacity.rate
    else:
        return ()
    found = []
    for point in range(1, POINTS + 1):
        load, demand = 1.2 * point / POINTS, made.question.demand
        rate = most * load
        seen = ways.response(way, replace(demand, rate=demand.at_peak * load, peak=1.0), rate)  # as many replicas
        if seen is not None and seen.stable:
            found.append(Load(rate, seen))
    return tuple(found)


def _with_soak(made: Answer, stack: Stack, question: Question) -> Answer:
    """The answer, with what the first canary of the rollout can find out."""
    endpoint = stack.serving[question.demand.endpoint]
    stage = next((stage for stage in endpoint.rollout if stage.kind in ("canary", "ab")), None)
    if stage is None or not stage.for_:
        return made
    seen = made.written.mean if made.written else made.best.peak if made.best else None
    p50, p95 = (seen.p50.value, seen.p95.value) if seen is not None else (0.0, 0.0)
    canary = canary_of(stack, endpoint, stage, question.demand.rate)
    return replace(made, soak=soak(canary, terms_of(stack, endpoint), p50=p50, p95=p95))
