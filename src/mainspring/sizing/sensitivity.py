"""How the cheapest fleet moves when what it rests on moves: one thing at a time.

What this is: the search run again on changed questions; pure. Who calls it: `answer.py`. What it must never do: search
less than it says: where only some ways were looked at again, the row says how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mainspring.forecast.lengths import percentile, scaled
from mainspring.sizing import words
from mainspring.sizing.question import AvailabilityOf, CapacityOf, Question, Way
from mainspring.sizing.rank import Fleet, Ranking, rank, size, with_demand

PEAKS = (0.5, 0.75, 1.5, 2.0)
OUTPUTS = (0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
PRICES = (0.7, 1.3)


@dataclass(frozen=True, slots=True)
class Row:
    """One changed thing."""

    factor: str  # "peak", "output", "precision", "price"
    setting: str  # "x1.5 (26/s)"
    times: float | None  # the change, for numbers
    dollars: float | None  # of the cheapest fleet; None: nothing meets the needs
    fleet: Fleet | None
    looked: int  # ways that were looked at
    why: str = ""  # nothing does


@dataclass(frozen=True, slots=True)
class Swing:
    """How far one factor moves the cost."""

    factor: str
    low: float | None  # dollars, the least of its rows and the base
    high: float | None  # the most
    impossible: tuple[str, ...]  # settings at which nothing meets the needs


def sensitivity(
    question: Question,
    ranking: Ranking,
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None = None,
    *,
    ways_again: int = 24,
    everything: Ranking | None = None,
) -> tuple[Row, ...]:
    """Rows for peak, output length, precision and price; `ways_again` bounds the forecasts that are made anew.

    `everything` has the ways that ask the user to accept something too: precisions are read from it.
    """
    rows = []
    for times in PEAKS:
        changed = with_demand(question, peak=question.demand.peak * times)
        rows.append(_again(changed, ranking, "peak", f"x{times:g} ({words.rate(changed.demand.at_peak)})", times,
                           capacity_of, availability_of))  # fmt: skip
    rows += _outputs(question, ranking, capacity_of, availability_of, ways_again)
    rows += _precisions(everything or ranking)
    rows += _prices(question, ranking, capacity_of, availability_of)
    return tuple(rows)


def _again(
    question: Question,
    ranking: Ranking,
    factor: str,
    setting: str,
    times: float,
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None,
) -> Row:
    """All ways once more; what a replica carries hasn't changed."""
    ways = [fleet.way for fleet in ranking.fleets] + [each.way for each in ranking.refused]
    found = rank(question, tuple(ways), capacity_of, availability_of, exact=1)
    return _row(factor, setting, times, found.best, len(ways), _first(found))


def _row(factor: str, setting: str, times: float | None, best: Fleet | None, looked: int, why: str = "") -> Row:
    reason = "" if best else why or "no way of those that were looked at will do"
    return Row(factor, setting, times, best.dollars if best else None, best, looked, reason)


def _first(ranking: Ranking) -> str:
    return ranking.refused[0].why if ranking.refused else "there is no way to run it"


def _outputs(
    question: Question,
    ranking: Ranking,
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None,
    most: int,
) -> list[Row]:
    """Longer and shorter outputs: what a replica carries is forecast anew.

    Longer outputs make no way cheaper, and none possible that wasn't. So the ways are tried from the cheapest on, and
    once one costs no more than the next did with the outputs as they are, no later one is better.
    """
    lengths = question.demand.lengths
    if lengths is None:
        return []
    rows = []
    for times in OUTPUTS:
        changed = with_demand(question, lengths=scaled(lengths, output=times))
        assert changed.demand.lengths is not None
        setting = f"x{times:g} (p95 {percentile(changed.demand.lengths, 0.95):,.0f} tokens)"
        tries = [(fleet.way, fleet.dollars if times > 1 else 0.0) for fleet in ranking.fleets]
        if times < 1:
            tries += [(each.way, 0.0) for each in sorted(ranking.refused, key=lambda one: one.capacity.rate <= 0)]
        best, looked, why = _cheapest(changed, tries[:most], capacity_of, availability_of)
        if not tries:
            why = f"nothing will do with the outputs as they are: {_first(ranking)}"
        rows.append(_row("output", setting, times, best, looked, why))
    return rows


def _cheapest(
    question: Question,
    tries: Sequence[tuple[Way, float]],
    capacity_of: CapacityOf,
    availability_of: AvailabilityOf | None,
) -> tuple[Fleet | None, int, str]:
    """The cheapest of ways that each cost at least so much; how many were looked at; why the first was refused."""
    best: Fleet | None = None
    why, looked = "", 0
    for way, least in tries:
        if best is not None and least >= best.dollars:
            break
        looked += 1
        found = size(question, way, capacity_of(way, question.demand, question.promise), availability_of)
        if not isinstance(found, Fleet):
            why = why or found.why
        elif best is None or found.dollars < best.dollars:
            best = found
    return best, looked, why


def _precisions(ranking: Ranking) -> list[Row]:
    """The cheapest at each precision, from the ranking as it is."""
    names = [fleet.way.precision for fleet in ranking.fleets] + [each.way.precision for each in ranking.refused]
    rows = []
    for name in dict.fromkeys(names):
        best = next((fleet for fleet in ranking.fleets if fleet.way.precision == name), None)
        why = next((each.why for each in ranking.refused if each.way.precision == name), "")
        rows.append(_row("precision", name, None, best, names.count(name), why))
    return rows


def _prices(
    question: Question, ranking: Ranking, capacity_of: CapacityOf, availability_of: AvailabilityOf | None
) -> list[Row]:
    """The price of the cheapest fleet's devices moves, and no other."""
    if ranking.best is None:
        return []
    name = ranking.best.way.pool
    rows = []
    for times in PRICES:
        pools = tuple(
            replace(pool, tariffs={region: tariff.times(times) for region, tariff in pool.tariffs.items()})
            if pool.name == name
            else pool
            for pool in question.pools
        )
        setting = f"of {words.pool(name)} x{times:g}"
        changed = replace(question, pools=pools)
        rows.append(_again(changed, ranking, "price", setting, times, capacity_of, availability_of))
    return rows


def tornado(rows: Sequence[Row], base: float | None) -> tuple[Swing, ...]:
    """The swing of each factor around `base` dollars, the widest first."""
    swings = []
    for factor in dict.fromkeys(row.factor for row in rows):
        mine = [row for row in rows if row.factor == factor]
        costs = [row.dollars for row in mine if row.dollars is not None] + ([] if base is None else [base])
        impossible = tuple(row.setting for row in mine if row.dollars is None)
        swings.append(Swing(factor, min(costs, default=None), max(costs, default=None), impossible))
    return tuple(sorted(swings, key=lambda one: (-((one.high or 0) - (one.low or 0)), one.factor)))
