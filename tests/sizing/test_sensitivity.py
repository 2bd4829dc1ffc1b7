"""What moves the cheapest fleet, and how far."""

from __future__ import annotations

from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Lengths
from mainspring.sizing.question import Capacity, Nearest, Survive, Way
from mainspring.sizing.rank import Known, rank
from mainspring.sizing.reasons import impossible
from mainspring.sizing.sensitivity import sensitivity, tornado
from tests.sizing import cases

LENGTHS = Lengths((1000.0,), (100.0,), (1.0,))
SPEED = {"H100": 0.015, "B200": 0.008, "L4": 0.08}


def fastest(way, demand):
    """Seconds of a lone request."""
    return SPEED[way.device] * (0.7 if way.precision == "fp8" else 1.0) * demand.lengths.mean()[1] / way.gpus**0.5


def nearest(way, demand, promise):
    """The p95 of a lone request, and the output that keeps the promise."""
    alone = fastest(way, demand)
    longest = demand.lengths.mean()[1] * promise.p95 / alone
    return (Nearest("p95", alone, f"p95 {alone:.2f} s can be kept"), Nearest("output", longest, "short"))


def capacity(way, demand, promise):
    """A replica that takes so long per output token, and slower in proportion to its load."""
    alone = fastest(way, demand)
    if alone > promise.p95:
        return Capacity(0.0, None, "p95", f"p95 is {alone:.2f} s at the least")
    return Capacity((promise.p95 - alone) * 3 * way.gpus**0.9, binds="p95")


def asked(**rest):
    """Three pools of different speed and price."""
    pools = [
        cases.pool("h100", 4.0, nodes=None),
        cases.pool("b200", 8.0, nodes=None),
        cases.pool("l4", 0.7, nodes=None),
    ]
    return cases.question(pools, rate=5.79, survive=Survive(1, 0), lengths=LENGTHS, **rest)


WAYS = tuple(
    Way(name.lower(), name, tp, precision, accept=() if precision == "fp16" else ("quality at fp8",))
    for name in SPEED
    for tp in (1, 4)
    for precision in ("fp16", "fp8")
)


def rows_of(question):
    """The ranking and its rows."""
    known = Known(capacity)
    ranking = rank(question, WAYS, known)
    return ranking, sensitivity(question, ranking, known)


def test_rows_are_what_a_search_of_the_changed_question_finds():
    """Each row of peak and output equals a full search for the question with that one thing changed."""
    question = asked()
    _, rows = rows_of(question)
    for row in rows:
        if row.factor == "peak":
            again = rank(asked(peak=3.0 * row.times), WAYS, capacity)
        elif row.factor == "output":
            longer = Lengths((1000.0,), (100.0 * row.times,), (1.0,))
            again = rank(
                cases.question(question.pools, rate=5.79, survive=Survive(1, 0), lengths=longer), WAYS, capacity
            )
        else:
            continue
        assert row.dollars == (again.best.dollars if again.best else None), row
    assert {row.factor for row in rows} == {"peak", "output", "precision", "price"}


def test_longer_outputs_and_dearer_devices_never_cost_less():
    """Along each factor the cost rises, until nothing will do; then the row says why."""
    _, rows = rows_of(asked(promise=Promise(p95=2.0)))
    for factor in ("peak", "output", "price"):
        mine = sorted(
            (row.times, row.dollars if row.dollars is not None else 1e18) for row in rows if row.factor == factor
        )
        costs = [dollars for _, dollars in mine]
        assert costs == sorted(costs)
    never = [row for row in rows if row.dollars is None]
    assert all(row.why.startswith("p95 is") for row in never)


def test_precision_rows_are_the_cheapest_of_each():
    """The rows of precision are read off the ranking."""
    ranking, rows = rows_of(asked())
    for row in rows:
        if row.factor == "precision":
            fleets = [fleet for fleet in ranking.fleets if fleet.way.precision == row.setting]
            assert row.dollars == min(fleet.dollars for fleet in fleets)


def test_the_widest_swing_comes_first():
    """Swings are ordered by how far they move the cost, the base included."""
    ranking, rows = rows_of(asked())
    swings = tornado(rows, ranking.best.dollars)
    widths = [swing.high - swing.low for swing in swings]
    assert widths == sorted(widths, reverse=True)
    assert all(swing.low <= ranking.best.dollars <= swing.high for swing in swings)


def test_an_impossible_promise_says_why_and_what_is_nearest():
    """When no way keeps the promise the nearest p95 and longest output are offered, as is and with lower precision."""
    question = asked(promise=Promise(p95=0.2))
    ranking = rank(question, WAYS, capacity)
    found = impossible(question, ranking, nearest)
    assert found.why == "no fleet keeps p95 200 ms at these lengths, however many replicas it has"
    least = min(fastest(way, question.demand) for way in WAYS)
    plain = min(fastest(way, question.demand) for way in WAYS if not way.accept)
    offered = [(offer.nearest.what, offer.nearest.value, bool(offer.way.accept)) for offer in found.offers]
    assert ("p95", plain, False) in offered
    assert ("p95", least, True) in offered
    assert max(value for what, value, _ in offered if what == "output") == 100 * 0.2 / least
    assert [(cause, count) for cause, count, _ in found.by_cause] == [("promise", len(WAYS))]
    assert impossible(question, rank(asked(), WAYS, capacity)) is None


def test_a_promise_kept_with_too_little_to_buy_is_another_reason():
    """Too few nodes aren't blamed on the promise."""
    question = cases.question([cases.pool("h100", nodes=1)], rate=50.0, survive=Survive(1, 0), lengths=LENGTHS)
    found = impossible(question, rank(question, WAYS[:1], capacity))
    assert found.why == "a replica keeps the promise, but there is not enough to survive what must be survived"
    assert [cause for cause, _, _ in found.by_cause] == ["nodes"]
    assert (
        impossible(question, rank(question, (), capacity)).why == "there is no way to run it in the pools of the file"
    )
