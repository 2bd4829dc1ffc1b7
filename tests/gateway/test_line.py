"""Who waits: in order within a tenant, by turns between them, found again when they leave, and never lost."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from mainspring.decide.admit import SAVED
from mainspring.gateway.exchange import Exchange
from mainspring.gateway.hub import Hub
from mainspring.gateway.line import Line


@dataclass(eq=False)
class One:
    """A request as far as a line looks at it."""

    tenant: str
    asks: float = 20.0
    share: float = 1.0
    priority: int = 1
    since: float = 0.0
    work: float = field(default=0.0)
    is_live: bool = True

    def weigh(self) -> float:
        """What it may take."""
        return self.asks

    def standing(self) -> tuple[float, int]:
        """Share and priority of its tenant."""
        return self.share, self.priority


def append(line: Line, *ones: One) -> None:
    """Have them wait."""
    for one in ones:
        line.append(cast("Exchange", one))


def taken(line: Line, count: int) -> list[Any]:
    """Whose turns are next."""
    return [line.next() for _ in range(count)]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(1, 5000)), max_size=60), st.integers(0, 2**32))
def test_all_come_out_once_in_their_order(asked: list[tuple[str, float]], seed: int) -> None:
    """Whatever is appended, taken, put back and removed: each comes out once, those of a tenant in their order."""
    chance, line = random.Random(seed), Line()
    came, gone, removed, waits = {name: [] for name in "abcd"}, {name: [] for name in "abcd"}, [], []
    for tenant, work in asked:
        one = One(tenant, work)
        append(line, one)
        came[tenant].append(one)
        waits.append(one)
        step = chance.random()
        if step < 0.3:
            found = cast("Any", line.next())
            if chance.random() < 0.5:
                line.put_back(found)
            else:
                gone[found.tenant].append(found)
                waits.remove(found)
        elif step < 0.45:
            leaver = chance.choice(waits)
            assert line.remove(cast("Exchange", leaver))
            assert not line.remove(cast("Exchange", leaver))
            removed.append(leaver)
            waits.remove(leaver)
        assert line.size == len(waits)
    for found in taken(line, line.size):
        gone[found.tenant].append(found)
    assert line.next() is None
    for name, ones in came.items():
        assert gone[name] == [one for one in ones if one not in removed]


def test_a_noisy_tenant_waits_behind_its_own() -> None:
    """With a hundred of one tenant waiting, others that come have the next turns."""
    line = Line()
    append(line, *(One("noisy") for _ in range(100)))
    taken(line, 40)
    append(line, One("a"), One("b"), One("a"))
    assert [one.tenant for one in taken(line, 4)].count("noisy") <= 1


def test_what_is_saved_is_spent_first_and_is_bounded() -> None:
    """A tenant that was away has some `SAVED` usual requests coming before one that was not, then they are as equals;
    it is the same whether the line has seen it before or not.
    """
    for seen in (False, True):
        line = Line()
        if seen:
            append(line, One("quiet"))
            taken(line, 1)
        append(line, *(One("noisy") for _ in range(1000)))
        taken(line, 300)
        append(line, *(One("quiet") for _ in range(300)))
        found = [one.tenant for one in taken(line, 200)]
        assert abs(found.index("noisy") - SAVED) <= 3
        later = Counter(found[30:])
        assert abs(later["quiet"] - later["noisy"]) <= 2


def test_shares_of_work() -> None:
    """Shares of 1 and 3 divide work, not requests, while both wait; a share that is changed counts from then."""
    line = Line()
    append(line, *(One("a", 40.0, 1.0) for _ in range(2000)), *(One("b", 10.0, 3.0) for _ in range(2000)))
    taken(line, 500)
    work = Counter[str]()
    for one in taken(line, 400):
        work[one.tenant] += one.work
    assert 2.8 < work["b"] / work["a"] < 3.2
    append(line, One("a", 40.0, 3.0))
    taken(line, 100)
    work.clear()
    for one in taken(line, 400):
        work[one.tenant] += one.work
    assert 0.9 < work["b"] / work["a"] < 1.1


def test_corrections() -> None:
    """Who used more than was reckoned has that much less coming, and who used less has more, within bounds."""
    line = Line()
    for name in ("a", "b"):
        append(line, *(One(name) for _ in range(2000)))
    taken(line, 100)
    line.correct("a", 20.0 * 10)
    found = Counter(one.tenant for one in taken(line, 100))
    assert abs(found["b"] - found["a"] - 10) <= 2
    line.correct("a", -20.0 * 10)
    found = Counter(one.tenant for one in taken(line, 100))
    assert abs(found["a"] - found["b"] - 10) <= 2
    line.correct("a", 1e12)
    assert "a" in [one.tenant for one in taken(line, 80)], "no debt is for ever"
    line.correct("nobody", 5.0)


def test_a_turn_that_came_to_nothing_costs_nothing() -> None:
    """Whoever is put back because there was no room is as before: who comes meanwhile and has saved up goes first."""
    line = Line()
    append(line, *(One("noisy") for _ in range(100)))
    taken(line, 50)
    for _ in range(20):
        line.put_back(cast("Exchange", line.next()))
    append(line, *(One("quiet") for _ in range(10)))
    assert [one.tenant for one in taken(line, 10)] == ["quiet"] * 10


def test_a_replica_that_lies_hangs_nobody() -> None:
    """Work without measure is cut: a turn is found all the same, also for the smallest share."""
    line = Line()
    append(line, *(One(name, 1e300, share) for name, share in (("a", 0.01), ("b", 1000.0), ("c", 1.0))))
    assert {one.tenant for one in taken(line, 3)} == {"a", "b", "c"}


def gives_way(lines: list[Line], tenant: str, priority: int = 1) -> Any:
    """Who gives way to a new request of a tenant, of those that wait in an endpoint's lines."""
    hub = Hub.__new__(Hub)
    hub._held = {("chat", f"chat-{number}"): line for number, line in enumerate(lines)}
    route = SimpleNamespace(name="chat", standing=lambda _: (1.0, priority))
    return hub.displaced(cast("Any", route), tenant)


def test_who_gives_way() -> None:
    """The latest of the tenant with the most waiting for its share; nobody for that tenant's own; the line keeps it."""
    line = Line()
    assert gives_way([line], "a") is None
    ones = [One("noisy", since=float(n)) for n in range(5)]
    append(line, *ones, One("small"))
    assert gives_way([line], "new") is ones[-1]
    assert gives_way([line], "noisy") is None
    assert gives_way([line], "low", 2) is None
    assert line.size == 6


def test_who_gives_way_in_all_lines_together() -> None:
    """A tenant's requests count over all versions of an endpoint: a canary's short line makes no quiet tenant noisy."""
    stable, canary = Line(), Line()
    append(stable, *(One("noisy") for _ in range(50)))
    quiet = [One("quiet"), One("quiet")]
    append(canary, *quiet)
    assert gives_way([stable, canary], "noisy") is None
    assert gives_way([stable, canary], "quiet").tenant == "noisy"


def test_copies_give_no_way() -> None:
    """What no client waits for is in nobody's way: it does not count in the queue."""
    line = Line()
    copies = [One("", is_live=False) for _ in range(9)]
    append(line, *copies)
    assert gives_way([line], "new") is None


def test_put_back_into_another_line() -> None:
    """A request whose version is another by the time that its turn comes: both lines go on, with all that wait."""
    old, new = Line(), Line()
    append(old, One("a"), One("b"), One("c"))
    append(new, One("b"))
    taken(new, 1)
    moved = cast("Any", old.next())
    new.put_back(moved)
    append(new, One("d"))
    assert {one.tenant for one in taken(new, 2)} == {moved.tenant, "d"}
    assert [one.tenant for one in taken(old, 2)]
    assert old.next() is None
    assert new.next() is None


def test_who_has_waited_longest() -> None:
    """Over all tenants, whatever their turns."""
    line = Line()
    assert line.oldest() is None
    append(line, One("a", since=5.0), One("a", since=6.0), One("b", since=4.0))
    assert cast("Any", line.oldest()).since == 4.0
