"""Purses and accounts: what is reserved is settled, over any number of workers, and nothing is lost or won."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring.decide.limits import Limit, block
from mainspring.decide.routes import EndpointRoutes, RevisionRoute, TenantRoute
from mainspring.gateway.accounts import Account, Accounts, Charge, Refusal
from mainspring.gateway.learned import Learned
from mainspring.gateway.ledger import Ledger, LedgerError
from mainspring.gateway.refused import limit_words
from mainspring.gateway.routing import Endpoint, Traffic
from mainspring.gateway.tokens import Key

DAY = 86_400.0
WALL = 20_800 * DAY  # the 13th of December 2026
REVISION = RevisionRoute("chat-1", "1", 10_000, ())


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.mono, self.wall = 1000.0, WALL

    def go(self, seconds: float) -> None:
        """Time goes by."""
        self.mono += seconds
        self.wall += seconds


class Machine:
    """Workers that share a ledger, in a time of their own."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.path, self.clock = folder / "ledger", Clock()
        self.workers = [self.worker() for _ in range(workers)]

    def worker(self) -> Accounts:
        """One more."""
        made = Accounts(self.path)
        made._ledger = Ledger(self.path, mono=lambda: self.clock.mono, wall=lambda: self.clock.wall, boot="b")
        return made

    def tick(self, times: int = 1) -> None:
        """So many seconds of every worker."""
        for _ in range(times):
            self.clock.go(1.0)
            for one in self.workers:
                one.tick(self.clock.wall)

    def used(self, name: str, limit: Limit) -> int:
        """What the ledger says is used, blocks in hand included."""
        return self.workers[0].ledger().used(name, limit)[0]


def endpoint(*limits: Limit, name: str = "chat", **more: object) -> Endpoint:
    """An endpoint whose tenant `acme` has limits."""
    routes = EndpointRoutes((REVISION,), kind="language", tenants={"acme": TenantRoute(limits)}, **more)  # type: ignore[arg-type]
    return Endpoint(name, routes, [], Traffic())


def key(*limits: Limit, id: str = "k1") -> Key:
    """A key of `acme`."""
    return Key(id, "", ("chat",), tenant="acme", limits=limits)


def taken(account: Account, tokens: int = 0, dollars: int = 0) -> Charge:
    """A reservation that is expected to be made."""
    found = account.reserve(tokens, dollars)
    assert isinstance(found, Charge), found
    return found


def refused(account: Account, tokens: int = 0, dollars: int = 0) -> Refusal:
    """A reservation that is expected to be refused."""
    found = account.reserve(tokens, dollars)
    assert isinstance(found, Refusal), found
    return found


TENANT = "tenant/chat/acme"


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), amount=st.sampled_from([5, 40, 1000, 50_000]))
def test_never_over_and_nothing_lost(tmp_path_factory: pytest.TempPathFactory, seed: int, workers: int,
                                     amount: int) -> None:  # fmt: skip
    """Requests that come, end, break off and are withdrawn on several workers: a day's quota is never exceeded while
    no answer is longer than was reserved, `at_once` never; when all rest, the ledger says what was used, exactly.
    """
    chance = random.Random(seed)
    quota, room, count = Limit("tokens", amount, "day"), Limit("at_once", 4), Limit("requests", 100, "day")
    machine = Machine(tmp_path_factory.mktemp("m"), workers)
    route, who = endpoint(quota, room, count), key()
    way: list[tuple[Charge, int]] = []
    used = requests = 0
    for _ in range(120):
        if way and chance.random() < 0.45:
            charge, reserved = way.pop(chance.randrange(len(way)))
            real = chance.randint(0, reserved)
            charge.settle(real, 0)
            charge.settle(reserved, 0)  # a second end changes nothing
            used += real
        elif chance.random() < 0.1:
            machine.tick()
        else:
            asked = chance.randint(1, max(amount // 8, 1))
            found = chance.choice(machine.workers).of(route, who).reserve(asked, 0)
            if isinstance(found, Charge):
                if chance.random() < 0.1:
                    found.undo()
                else:
                    requests += 1
                    way.append((found, asked))
        assert used + sum(reserved for _, reserved in way) <= amount
        assert len(way) <= room.amount
        assert requests <= count.amount
    for charge, _ in way:
        charge.settle(0, 0)
    machine.tick(3)
    assert machine.used(TENANT, quota) == used
    assert machine.used(TENANT, count) == requests
    assert machine.used(TENANT, room) == 0


def test_under_by_the_blocks_at_most(tmp_path: Path) -> None:
    """With all workers asking for one unit after another, all but what they hold in hand is let in: two blocks each."""
    limit = Limit("tokens", 6400, "day")
    machine = Machine(tmp_path, 4)
    route, who = endpoint(limit), key()
    accounts = [one.of(route, who) for one in machine.workers]
    let_in = 0
    for turn in range(4 * 6400):
        found = accounts[turn % 4].reserve(1, 0)
        let_in += isinstance(found, Charge)
    assert 6400 - 4 * 2 * block(6400) <= let_in <= 6400


def test_a_debt_is_waited_for_and_never_a_400(tmp_path: Path) -> None:
    """Who used more than was reserved waits until that is filled in; it isn't told to ask for less."""
    limit = Limit("tokens", 100, "min")
    machine = Machine(tmp_path)
    account = machine.workers[0].of(endpoint(limit), key())
    taken(account, 50).settle(120, 0)
    said = refused(account, 90)
    assert said.wait == pytest.approx((90 + 20) * 0.6)
    assert limit_words(said).status == 429
    machine.clock.go(said.wait)
    taken(account, 90)


def test_after_the_wait_it_is_let_in(tmp_path: Path) -> None:
    """`Retry-After` is that of the limit that takes longest, so whoever keeps to it is let in, with all limits held."""
    limits = (Limit("requests", 60, "min"), Limit("tokens", 600, "min"), Limit("dollars", 10**9, "h"))
    machine = Machine(tmp_path)
    account = machine.workers[0].of(endpoint(*limits), key(Limit("requests", 1, "s")))
    chance = random.Random(1)
    waited = 0
    for _ in range(200):
        tokens, dollars = chance.randint(1, 500), chance.randint(0, 10**8)
        found = account.reserve(tokens, dollars)
        if isinstance(found, Refusal):
            waited += 1
            machine.clock.go(math.ceil(found.wait))
            found = account.reserve(tokens, dollars)
        assert isinstance(found, Charge), found
        found.settle(tokens - chance.randint(0, tokens), dollars)
        machine.clock.go(chance.random())
    assert waited > 20


def test_what_is_never_let_in_is_told_at_once(tmp_path: Path) -> None:
    """A request that no limit could ever hold is a 400, also while another limit would only have it wait."""
    machine = Machine(tmp_path)
    account = machine.workers[0].of(endpoint(Limit("requests", 1, "min"), Limit("tokens", 100, "min")), key())
    taken(account, 10)
    said = refused(account, 101)
    assert said.limit.what == "tokens"
    assert limit_words(said)[:2] == (400, "request_exceeds_limit")
    assert limit_words(said).again == b""


def test_a_refusal_takes_nothing(tmp_path: Path) -> None:
    """What one limit refuses costs nothing of the others, in any order."""
    machine = Machine(tmp_path)
    limits = (Limit("requests", 10, "day"), Limit("tokens", 100, "day"), Limit("at_once", 1))
    account = machine.workers[0].of(endpoint(*limits), key(Limit("tokens", 1000, "day")))
    first = taken(account, 60)
    for _ in range(5):
        assert refused(account, 60).limit.what == "tokens"
        assert refused(account, 10).limit.what == "at_once"
    first.settle(60, 0)
    machine.tick(3)
    assert [machine.used(TENANT, limit) for limit in limits] == [1, 60, 0]
    assert machine.used("key/k1", Limit("tokens", 1000, "day")) == 60


@pytest.mark.parametrize(("before", "after"), [(3, 5), (3, 2)])
def test_a_limit_that_changes_under_way(tmp_path: Path, before: int, after: int) -> None:
    """Requests that began under another `at_once` give their places back: afterwards the new one holds, no less."""
    machine = Machine(tmp_path, 2)
    worker, other = machine.workers
    charges = [taken(worker.of(endpoint(Limit("at_once", before)), key())) for _ in range(before)]
    route = endpoint(Limit("at_once", after))
    account = worker.of(route, key())
    if after > before:
        charges.append(taken(account))
    else:
        refused(account)
    for charge in charges:
        charge.settle(0, 0)
    machine.tick(3)
    assert machine.used(TENANT, Limit("at_once", after)) == 0
    held = [taken(other.of(route, key())) for _ in range(after)]
    refused(other.of(route, key()))
    assert len(held) == after


def test_a_stream_longer_than_a_purse_is_remembered(tmp_path: Path) -> None:
    """A purse that nobody asked for is forgotten; what was under way gives its place back all the same."""
    machine = Machine(tmp_path)
    worker, limits = machine.workers[0], (Limit("at_once", 1), Limit("tokens", 1000, "month"))
    route, who = endpoint(*limits), key()
    charge = taken(worker.of(route, who), 500)
    machine.tick(700)
    assert worker._purses == {}
    charge.settle(510, 0)
    assert [machine.used(TENANT, limit) for limit in limits] == [0, 510]
    taken(worker.of(route, who))


def test_a_new_day_in_the_middle(tmp_path: Path) -> None:
    """A request over midnight is the old day's; the new one is whole, and blocks of the old one are void."""
    limit = Limit("tokens", 1000, "day")
    machine = Machine(tmp_path)
    machine.clock.go(DAY - 5.0)
    account = machine.workers[0].of(endpoint(limit), key())
    charge = taken(account, 900)
    assert refused(account, 200).wait == pytest.approx(5.0)
    machine.clock.go(6.0)
    second = taken(account, 1000)
    charge.settle(900, 0)
    assert isinstance(account.reserve(1, 0), Refusal)
    second.settle(400, 0)
    machine.tick(3)
    assert machine.used(TENANT, limit) == 400


def test_a_clock_that_goes_back_gives_nothing(tmp_path: Path) -> None:
    """Neither bucket nor quota is filled by a clock that was put back, or forward and back again."""
    quota, bucket = Limit("tokens", 100, "day"), Limit("requests", 5, "h")
    machine = Machine(tmp_path)
    account = machine.workers[0].of(endpoint(quota, bucket), key())
    for _ in range(5):
        taken(account, 20)
    for jump in (-3 * DAY, 2 * DAY, DAY - 10.0):  # of the wall clock alone
        machine.clock.wall += jump
        refused(account, 1)
    assert machine.clock.wall < WALL + DAY


def test_a_killed_worker_frees_what_was_at_once(tmp_path: Path) -> None:
    """The places of a worker that died are free; tokens that it had reserved are not: never over, slightly under."""
    limits = (Limit("at_once", 2), Limit("tokens", 1000, "day"))
    machine = Machine(tmp_path, 2)
    dies, lives = machine.workers
    route, who = endpoint(*limits), key()
    for _ in range(2):
        taken(dies.of(route, who), 300)
    refused(lives.of(route, who), 100)
    dies.ledger().close()  # as the kernel does
    machine.workers = [lives]
    taken(lives.of(route, who), 100)
    machine.tick(2)
    assert machine.used(TENANT, limits[1]) == 700


def test_no_ledger(tmp_path: Path) -> None:
    """Where nothing can be counted, `fail` decides; a request without limits does not care."""
    (tmp_path / "file").write_text("")
    accounts = Accounts(tmp_path / "file" / "ledger")
    limit = Limit("requests", 1, "min")
    with pytest.raises(LedgerError):
        accounts.of(endpoint(limit), key()).reserve(0, 0)
    open_ = accounts.of(endpoint(limit, fail_open=True), key())
    for _ in range(5):
        taken(open_).settle(3, 0)
    assert accounts.uncounted == 6
    assert not accounts.of(endpoint(), key()).asks
    taken(accounts.of(endpoint(), key()), 10**9)


def test_a_limit_of_zero_or_less_lets_nothing_in(tmp_path: Path) -> None:
    """The stack file can't say that, `keys.json` can: it is a plain refusal, headers included."""
    for amount in (0, -5):
        for what, per in (("requests", "min"), ("tokens", "min"), ("tokens", "day"), ("at_once", ""),
                          ("dollars", "month")):  # fmt: skip
            machine = Machine(tmp_path / f"{amount}{what}{per}")
            account = machine.workers[0].of(endpoint(), key(Limit(what, amount, per)))  # type: ignore[arg-type]
            said = refused(account, 1, 1)
            assert said.wait == math.inf
            assert limit_words(said).status == 400
            assert account.lines().count(b"remaining") == (per == "min")


def test_a_spent_budget_lets_nothing_in_after_a_restart(tmp_path: Path) -> None:
    """A worker that has not yet learned what tokens cost asks the budget all the same."""
    limit = Limit("dollars", 10**9, "month")
    machine = Machine(tmp_path)
    route = endpoint(limit, slot_cores=1.0, core_price=0.001)
    taken(machine.workers[0].of(route, key()), 0, 1).settle(0, 10**9)
    machine.tick(3)
    fresh = machine.worker().of(route, key())
    assert refused(fresh, 10, fresh.affordable(Learned().seconds(10, 10))).limit == limit


def test_headers_say_what_is_left(tmp_path: Path) -> None:
    """`remaining` and `reset` of the limit over the shortest time, in OpenAI's names; reset is when it is full."""
    limits = (Limit("tokens", 600, "min"), Limit("tokens", 10_000, "h"), Limit("requests", 10, "s"),
              Limit("requests", 50, "day"))  # fmt: skip
    machine = Machine(tmp_path)
    account = machine.workers[0].of(endpoint(*limits), key())
    charge = taken(account, 200)
    said = dict(line.split(": ") for line in account.lines().decode().split("\r\n") if line)
    assert said["x-ratelimit-limit-tokens"] == "600"
    assert said["x-ratelimit-remaining-tokens"] == "400"
    assert said["x-ratelimit-reset-tokens"] == "20s"
    assert said["x-ratelimit-limit-requests"] == "10"
    assert said["x-ratelimit-remaining-requests"] == "9"
    charge.settle(0, 0)
    assert b"remaining-tokens: 600" in account.lines()


def test_one_purse_for_all_keys_of_a_tenant(tmp_path: Path) -> None:
    """Keys share their tenant's limits and have their own; endpoints share a key's, but not a tenant's."""
    machine = Machine(tmp_path)
    worker = machine.workers[0]
    chat = endpoint(Limit("requests", 3, "h"))
    code = endpoint(Limit("requests", 3, "h"), name="code")
    own = Limit("requests", 4, "h")
    taken(worker.of(chat, key(own, id="a")))
    taken(worker.of(chat, key(own, id="b")))
    taken(worker.of(chat, key(own, id="a")))
    assert refused(worker.of(chat, key(own, id="b"))).whose == "tenant"
    taken(worker.of(code, key(own, id="a")))
    taken(worker.of(code, key(own, id="a")))
    assert refused(worker.of(code, key(own, id="a"))).whose == "key"


def test_a_new_tenant_costs_others_nothing(tmp_path: Path) -> None:
    """That somebody's first day begins in a worker does not void what others have under way there."""
    limit = Limit("tokens", 10_000, "day")
    machine = Machine(tmp_path)
    worker = machine.workers[0]
    charge = taken(worker.of(endpoint(limit), key()), 4000)
    taken(worker.of(endpoint(Limit("dollars", 10**9, "month"), name="code"), key(limit, id="k2")), 1, 1)
    charge.settle(100, 0)
    machine.tick(3)
    assert machine.used(TENANT, limit) == 100


def test_closing_gives_everything_back(tmp_path: Path) -> None:
    """A worker that ends in good order leaves no block behind."""
    limit = Limit("tokens", 10_000, "day")
    machine = Machine(tmp_path, 2)
    taken(machine.workers[1].of(endpoint(limit), key()), 7).settle(5, 0)
    machine.workers[1].close()
    assert machine.used(TENANT, limit) == 5
