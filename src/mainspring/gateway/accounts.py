"""What keys and tenants may still use, as this worker holds it: reserved before a request, settled at its end.

What this is: `Purse` is one limit of one account, filled with blocks leased from the ledger that all workers share;
`Account` is all purses that one key's requests to one endpoint are counted in. Who calls it: the doors and their
exchanges. What it must never do: touch the ledger for a request that the block at hand is enough for, or count a
request that was refused.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import NamedTuple

import msgspec

from mainspring.decide.limits import SECONDS, Limit, block, is_bucket, window_of
from mainspring.decide.routes import TenantRoute
from mainspring.gateway.learned import rate_of
from mainspring.gateway.ledger import Ledger, LedgerError
from mainspring.gateway.metrics import Metrics
from mainspring.gateway.routing import Endpoint
from mainspring.gateway.tokens import Key

log = logging.getLogger(__name__)

_FEW, _MANY = 256, 2**31 - 1  # tokens of an answer
AGAIN = 1.0  # seconds until a ledger that could not be opened is tried again
_FORGET = 600  # ticks that a purse rests before it is forgotten


class Refusal(NamedTuple):
    """Why a request is not let in: the limit, and the seconds until there is room (inf: never; `at_once`: a guess)."""

    limit: Limit
    wait: float
    whose: str  # "key" | "tenant"


class Purse:
    """One limit of one account."""

    __slots__ = ("_accounts", "_before", "_block", "_idle", "_name", "_seeded", "fills", "known", "left", "limit",
                 "most", "stamp", "whose", "window")  # fmt: skip

    def __init__(self, accounts: Accounts, name: str, limit: Limit) -> None:
        self._accounts, self._name, self.limit = accounts, name, limit
        self.whose = name.partition("/")[0]
        self._block = block(limit.amount)
        self.most: float = 2 * self._block  # in hand
        self.fills = is_bucket(limit.per)
        self.left = 0  # of what was leased; less than 0 is a debt
        self.window = 0  # that it was leased in
        self.stamp = 0  # the accounts' when that began
        self.known = limit.amount  # what the ledger had left when it was last asked
        self._before = self._idle = 0
        self._seeded = -1  # the ledger's file that what was used before is counted in

    def take(self, amount: int) -> float:
        """Spend so much; 0.0, or the seconds until that can be had (inf: never). Raises `LedgerError`."""
        for _ in range(3):  # again where a new day or month has begun, and the rest of the old one is void
            if self.left < 0:  # else debt and request together may be more than the limit ever holds
                self.give_back(self.left)
            if self.left >= amount:
                self.left -= amount
                return 0.0
            ledger, needed = self._accounts.ledger(), amount - self.left
            if self._seeded != ledger.epoch:
                self._renew(ledger.epoch)
                needed = amount - self.left
            self._fit(ledger.workers)
            lease = ledger.lease(self._name, self.limit, needed, max(needed, self._block))
            self.known = lease.left
            if not lease.granted:
                return lease.wait if lease.wait > 0.0 else AGAIN
            if lease.window != self.window:
                self.begin(lease.window)
            self.left += lease.granted
        return AGAIN

    def _renew(self, epoch: int) -> None:
        """Another file is the ledger now: what was leased from the old one counts in no other."""
        if self._seeded >= 0:
            self.begin(self.window)
        self._seeded = epoch
        self._accounts.seed(self._name, self.limit)

    def _fit(self, workers: int) -> None:
        """How much is leased at a time, and how much may be in hand."""
        self._block = block(self.limit.amount, workers)
        self.most = 2 * self._block
        if self.limit.what == "at_once" and self._block == 1 and workers > 1:
            self.most = self._block = 0  # a place that rests here would be missing elsewhere

    def begin(self, window: int) -> None:
        """A new day or month: what was leased for the old one is void, and so are debts of it."""
        self.window, self.left = window, 0  # of a ledger that was replaced, likewise
        self._accounts.stamp += 1
        self.stamp = self._accounts.stamp

    def change(self, limit: Limit) -> None:
        """The same limit by another amount; what is under way is settled here all the same."""
        self.limit, self._block = limit, block(limit.amount)
        self.most, self.known = 2 * self._block, min(self.known, limit.amount)

    def retire(self) -> None:
        """It is forgotten here: what is settled from now on goes to the ledger at once."""
        self.most, self._block = -math.inf, 0

    def spill(self) -> None:
        """More is in hand than a worker needs: give it back but for a block."""
        self.give_back(self.left - self._block)

    def give_back(self, amount: int) -> None:
        """Give so much of what is in hand back to the ledger; where that fails it stays in hand."""
        try:
            ledger = self._accounts.ledger()
            if ledger.epoch != self._seeded:
                self._renew(ledger.epoch)
                return
            ledger.give_back(self._name, self.limit, amount, self.window)
        except LedgerError:
            return
        self.left -= amount
        self.known += amount

    def tick(self, wall: float) -> bool:
        """Once a second: give back what nobody asked for since the last time; False when nobody has for long."""
        if self.limit.per in ("day", "month") and window_of(self.limit.per, wall) > self.window and self.left:
            self.begin(self.window)
        self._idle = 0 if self.left != self._before else self._idle + 1
        if self._idle and self.left:
            self.give_back(self.left)
        self._before = self.left
        return self._idle < _FORGET or self.left != 0


ONE, TOKENS, DOLLARS, AT_ONCE = range(4)
_KINDS = {"requests": ONE, "tokens": TOKENS, "dollars": DOLLARS, "at_once": AT_ONCE}
Rows = tuple[list[Purse], list[Purse], list[Purse], list[Purse]]
"""Purses by their kind."""


class Charge:
    """What one request has taken."""

    __slots__ = ("_accounts", "_dollars", "_rows", "_stamp", "_tokens")

    def __init__(self, accounts: Accounts, rows: Rows, tokens: int, dollars: int) -> None:
        self._accounts, self._rows = accounts, rows
        self._tokens, self._dollars = tokens, dollars
        self._stamp = accounts.stamp  # what begins later is not what it was taken from

    def done(self) -> Charge:
        """All is taken."""
        self._stamp = self._accounts.stamp
        return self

    def settle(self, tokens: int, dollars: int) -> None:
        """It is over, and used so many tokens and billionths of a dollar. Calls after the first do nothing."""
        _, of_tokens, of_dollars, at_once = self._rows
        self._rows = _NOTHING
        if self._stamp != self._accounts.stamp:  # somewhere a new day or month has begun: what was taken may be void
            of_tokens = [purse for purse in of_tokens if purse.stamp <= self._stamp]
            of_dollars = [purse for purse in of_dollars if purse.stamp <= self._stamp]
            at_once = [purse for purse in at_once if purse.stamp <= self._stamp]
        back = self._tokens - tokens
        for purse in of_tokens:
            purse.left += back
            if purse.left > purse.most:
                purse.spill()
        back = self._dollars - dollars
        for purse in of_dollars:
            purse.left += back
            if purse.left > purse.most:
                purse.spill()
        for purse in at_once:
            purse.left += 1
            if purse.left > purse.most:
                purse.spill()

    def undo(self) -> None:
        """It was not let in after all."""
        for kind, purses in enumerate(self._rows):
            for purse in purses:
                purse.left += _amount(kind, self._tokens, self._dollars)
                if purse.left > purse.most:
                    purse.spill()
        self._rows = _NOTHING


_NOTHING: Rows = ([], [], [], [])


def _amount(kind: int, tokens: int, dollars: int) -> int:
    return tokens if kind == TOKENS else dollars if kind == DOLLARS else 1


class Account:
    """All that one key's requests to one endpoint are counted in."""

    __slots__ = ("_form", "_lefts", "_poorest", "_rows", "_shown", "_smallest", "_told", "accounts", "asks", "context",
                 "counts", "counts_dollars", "counts_tokens", "key", "own_context", "rate", "route")  # fmt: skip

    def __init__(self, accounts: Accounts, key: Key, route: Endpoint, tenant: TenantRoute | None) -> None:
        self.accounts, self.key, self.route = accounts, key, route
        found = [accounts.purse(f"key/{key.id}", limit) for limit in key.limits]
        if tenant is not None:
            found += [accounts.purse(f"tenant/{route.name}/{key.tenant}", limit) for limit in tenant.limits]
        self._rows: Rows = ([], [], [], [])
        for purse in found:
            self._rows[_KINDS[purse.limit.what]].append(purse)
        own = tenant.context if tenant is not None else 0
        self.own_context = min((one for one in (key.context, own) if one), default=0)
        self.context = min((one for one in (self.own_context, route.routes.context) if one), default=0)
        self.asks = bool(found or self.own_context)
        self.counts_tokens = bool(self._rows[TOKENS] or self._rows[DOLLARS])
        self.counts_dollars = bool(self._rows[DOLLARS])
        self.rate = rate_of(route.routes)
        self.counts = accounts.metrics.tenant(route.name, key.tenant)
        self._smallest = min((purse.limit.amount for purse in self._rows[TOKENS]), default=_MANY)
        self._poorest = min((purse.limit.amount for purse in self._rows[DOLLARS]), default=0)
        told = [(word, purse) for word in ("requests", "tokens") for purse in _tightest(found, word)]
        self._form = "".join(_form(word, purse.limit.amount) for word, purse in told).encode()
        self._shown = [(p, p.limit.amount, SECONDS[p.limit.per], p.limit.amount // 1000) for _, p in told]
        self._tell()

    def unsaid(self, likely: int) -> int:
        """Tokens of an answer where the request says none: a quarter of a limit at most, so that others have room too.

        Of a small limit more, but never more than it holds beside the prompt's `likely` tokens.
        """
        each = [min(max(p.limit.amount // 4, _FEW), p.limit.amount - likely) for p in self._rows[TOKENS]]
        return min(each, default=_MANY)

    def within(self, likely: int, may: int) -> int:
        """What to reserve of a request that `may` use so many tokens, and probably not more than `likely`.

        No more than a limit ever holds, if that is enough for what is likely: else it could never be let in.
        """
        if may > self._smallest:
            for purse in self._rows[TOKENS]:
                if likely <= purse.limit.amount < may:
                    may = purse.limit.amount
        return may

    def affordable(self, seconds: float) -> int:
        """Billionths of a dollar to reserve of a request that may take so many seconds of a slot.

        No more than a budget ever holds, for it is a guess; and never 0, so that a spent budget lets nothing in.
        """
        dollars = int(seconds * self.rate)
        return min(max(dollars, 1), self._poorest)

    def reserve(self, tokens: int, dollars: int) -> Charge | Refusal:
        """Take what a request may use, or say which limit does not allow it; then nothing is taken.

        Raises `LedgerError` where limits cannot be counted and the endpoint fails closed.
        """
        low = 0
        ones, of_tokens, of_dollars, at_once = self._rows
        for purse in ones:
            left = purse.left = purse.left - 1
            low |= left  # its sign is that of the lowest
        for purse in of_tokens:
            left = purse.left = purse.left - tokens
            low |= left
        for purse in of_dollars:
            left = purse.left = purse.left - dollars
            low |= left
        for purse in at_once:
            left = purse.left = purse.left - 1
            low |= left
        if low < 0:
            for kind, purses in enumerate(self._rows):
                for purse in purses:
                    purse.left += _amount(kind, tokens, dollars)
            return self._slowly(tokens, dollars)
        return Charge(self.accounts, self._rows, tokens, dollars)

    def _slowly(self, tokens: int, dollars: int) -> Charge | Refusal:
        """The same where a block has to be leased first."""
        taken: Rows = ([], [], [], [])
        charge = Charge(self.accounts, taken, tokens, dollars)
        refusal: Refusal | None = None  # by the limit that has to be waited for longest: then all let it in
        for kind, purses in enumerate(self._rows):
            for purse in purses:
                try:
                    wait = purse.take(_amount(kind, tokens, dollars))
                except LedgerError:
                    self.accounts.uncounted += 1
                    if self.route.routes.fail_open:
                        continue
                    charge.undo()
                    raise
                if not wait:
                    taken[kind].append(purse)
                elif refusal is None or wait > refusal.wait:
                    refusal = Refusal(purse.limit, wait, purse.whose)
        if refusal is None:
            return charge.done()
        charge.undo()
        return refusal

    def lines(self) -> bytes:
        """The rate limits as lines of a header, in OpenAI's names; empty where there are none.

        `remaining` is of all workers when this one last asked, to a thousandth of the limit; the exact figure is
        nobody's.
        """
        for (purse, _, _, grain), told in zip(self._shown, self._lefts, strict=True):
            if not -grain <= purse.left + purse.known - told <= grain:
                return self._tell()
        return self._told

    def _tell(self) -> bytes:
        shown: list[int] = []
        self._lefts = [purse.left + purse.known for purse, *_ in self._shown]
        for found, (_, amount, seconds, _) in zip(self._lefts, self._shown, strict=True):
            left = min(max(found, 0), amount)
            shown += (left, -((left - amount) * seconds // (amount or 1)))
        self._told = self._form % tuple(shown)
        return self._told


def _form(word: str, amount: int) -> str:
    """The lines of one limit, with places for what is left and for the seconds until it is full."""
    limit = f"x-ratelimit-limit-{word}: {amount}\r\n"
    return f"{limit}x-ratelimit-remaining-{word}: %d\r\nx-ratelimit-reset-{word}: %ds\r\n"


def _tightest(purses: list[Purse], what: str) -> list[Purse]:
    """The limit over the shortest time, of those that fill by themselves; none or one."""
    found = [p for p in purses if p.limit.what == what and p.fills]
    return sorted(found, key=lambda p: (SECONDS[p.limit.per], p.limit.amount))[:1]


class _Window(msgspec.Struct):
    window: int
    requests: int = 0
    tokens: int = 0
    dollars: int = 0


class _Metered(msgspec.Struct):
    day: _Window | None = None
    month: _Window | None = None


_used = msgspec.json.Decoder(dict[str, _Metered]).decode


class Accounts:
    """All accounts of a worker."""

    def __init__(self, path: Path | None, used: Path | None = None, metrics: Metrics | None = None) -> None:
        """`path`: the ledger's; `used`: of the file in which the controller says what was metered."""
        self._path, self._used = path, used
        self.metrics = metrics or Metrics()
        self._ledger: Ledger | None = None
        self._opened = -math.inf
        self._purses: dict[tuple[str, str, str], Purse] = {}
        self._known: dict[tuple[str, str], Account] = {}
        self.stamp = 0  # counts the days and months that have begun for some purse
        self.uncounted = 0  # requests whose limits could not be counted

    def ledger(self) -> Ledger:
        """The ledger, opened when it is first asked for. Raises `LedgerError`."""
        if self._ledger is None:
            now = time.monotonic()
            if self._path is None or now - self._opened < AGAIN:
                raise LedgerError("there is no ledger to count in")
            self._opened = now
            try:
                self._ledger = Ledger(self._path)
            except LedgerError as error:
                log.warning("limits cannot be counted: %s", error)
                raise
        return self._ledger

    def seed(self, name: str, limit: Limit) -> None:
        """Count what metering says was used of a quota, if the ledger knows of less: its file may have been lost.

        Raises `LedgerError`.
        """
        if limit.per not in ("day", "month") or self._used is None:
            return
        try:
            said = _used(self._used.read_bytes()).get(name)
        except (OSError, msgspec.MsgspecError):  # nothing was metered yet, or nobody knows: the ledger stands alone
            return
        one = getattr(said, limit.per, None)
        if one is not None:
            self.ledger().seed(name, limit, getattr(one, limit.what, 0), one.window)

    def of(self, route: Endpoint, key: Key) -> Account:
        """The account of a key's requests to an endpoint."""
        tenant = route.routes.tenants.get(key.tenant) if key.tenant else None
        found = self._known.get((route.name, key.id))
        if found is None or found.key is not key or found.route is not route:
            found = self._known[route.name, key.id] = Account(self, key, route, tenant)
        return found

    def purse(self, name: str, limit: Limit) -> Purse:
        """The purse of an account's limit: one for all keys that it holds for."""
        key = (name, limit.what, limit.per)
        found = self._purses.get(key)
        if found is None:
            found = self._purses[key] = Purse(self, name, limit)
        elif found.limit != limit:
            found.change(limit)
        return found

    def tick(self, wall: float) -> None:
        """Once a second: give back what nobody asked for lately."""
        resting = [key for key, purse in self._purses.items() if not purse.tick(wall)]
        for key in resting:
            self._purses.pop(key).retire()
        if resting:
            self._known.clear()

    def sync(self) -> None:
        """Have the disk keep what the ledger says; may take long, and be called from any thread."""
        if self._ledger is not None:
            self._ledger.sync()

    def close(self) -> None:
        """Give back all that is in hand."""
        for purse in self._purses.values():
            if purse.left:
                purse.give_back(purse.left)
        if self._ledger is not None:
            self._ledger.close()
