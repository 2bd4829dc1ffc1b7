"""Where one request goes: the arrays that the functions of `decide` are asked with.

What this is: endpoints and revisions as the gateway holds them, made anew from each route table.
Who calls it: `table` makes them, exchanges ask them. What it must never do: decide; that is done in `decide`.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt

from mainspring.decide import affinity, nearest, pick
from mainspring.decide.admit import retry_after
from mainspring.decide.routes import EndpointRoutes, RevisionRoute
from mainspring.gateway.lately import Lately
from mainspring.gateway.learned import Learned
from mainspring.gateway.prefix import Blocks, PrefixIndex
from mainspring.gateway.upstream import Upstream
from mainspring.wire.dialects import Served, spoken

_SESSIONS = 65_536
_WINDOW = 5.0  # seconds; a rate is of this and of the window before it
_ANYBODY = (1.0, 1)
_Counts = npt.NDArray[np.integer[Any]]


class Asked(msgspec.Struct, gc=False):
    """What of a request its route depends on."""

    region: int = -1
    session: bytes = b""
    blocks: Blocks = ()
    missing: int = 0  # of the blocks, those that the replica it was sent to was not believed to have


class Sessions:
    """Which replica a session was with, for the sessions of late."""

    def __init__(self, capacity: int = _SESSIONS) -> None:
        self._capacity = capacity
        self._at: OrderedDict[tuple[str, bytes], str] = OrderedDict()

    def of(self, revision: str, session: bytes) -> str:
        """The address of its replica; "" when it is not known."""
        return self._at.get((revision, session), "")

    def note(self, revision: str, session: bytes, address: str) -> None:
        """It is with this replica now."""
        key = (revision, session)
        self._at[key] = address
        self._at.move_to_end(key)
        if len(self._at) > self._capacity:
            self._at.popitem(last=False)


class Beliefs:
    """What outlives a route table: sessions, and what replicas have cached."""

    def __init__(self) -> None:
        self.sessions = Sessions()
        self.prefixes = PrefixIndex()
        # By revision: blocks that the replica chosen was believed to have, and blocks in all.
        self.blocks: dict[str, list[int]] = {}


class Traffic:
    """What is going on at one endpoint, whatever table is in force: who is inside, and the rates of late."""

    __slots__ = ("_before", "_rolled", "inside", "lately", "learned", "requests", "retried", "served")

    def __init__(self) -> None:
        self.inside = 0
        self.learned = Learned()
        self.lately = Lately()
        self.requests = self.retried = self.served = 0  # of the window
        self._before = (0, 0, 0)
        self._rolled = 0.0

    def roll(self, now: float) -> None:
        """Begin a new window when it is time."""
        if now - self._rolled >= _WINDOW:
            self._before = (self.requests, self.retried, self.served)
            self.requests = self.retried = self.served = 0
            self._rolled = now

    def retries(self) -> tuple[int, int]:
        """Retries and requests of late."""
        return self.retried + self._before[1], self.requests + self._before[0]

    def rate(self) -> float:
        """Answers a second, of late."""
        return (self.served + self._before[2]) / (2 * _WINDOW)


class Revision:
    """One version behind an endpoint, with its replicas."""

    def __init__(
        self, route: RevisionRoute, upstreams: list[Upstream], routes: EndpointRoutes, beliefs: Beliefs,
        endpoint: str = "",
    ) -> None:  # fmt: skip
        self.name, self.version = route.name, route.version
        inputs = tuple((name, datatype) for name, datatype in route.inputs)
        self.served = Served(endpoint, route.version, route.model or endpoint, inputs, route.output)
        self.speech = spoken(route.protocol, self.served)  # None: requests go as they are
        self.header = route.name.encode("ascii", "replace")
        self.upstreams = upstreams
        self._beliefs = beliefs
        self._blocks = beliefs.blocks.setdefault(route.name, [0, 0])
        self._addresses = [upstream.address for upstream in upstreams]
        self._slots = slots = route.slots or routes.slots
        # Requests with one replica. A few more than its slots, so that none is ever idle; but what waits there waits
        # in the order in which it came, so with tenants it waits here.
        more = max(1, slots // 4) if len(routes.tenants) < 2 else 0
        self._most = slots + more if slots else 0
        self._regions = len({upstream.region for upstream in upstreams}) > 1
        self._start = 0

    @property
    def is_empty(self) -> bool:
        """Whether no replica is ready."""
        return not self.upstreams

    def free(self, now: float) -> int:
        """Requests that its replicas could take at once; -1 when none can be asked, 1 when slots are not known."""
        ready = [upstream for upstream in self.upstreams if upstream.usable(now)]
        if not ready:
            return -1
        return sum(max(self._slots - upstream.outstanding, 0) for upstream in ready) if self._slots else 1

    def replica(
        self, asked: Asked | None, orders: Sequence[Sequence[int]], avoid: Upstream | None = None
    ) -> Upstream | None:
        """The replica for the next request; None when none is there, or all have just refused, or all are full.

        `avoid` is not taken while there is another.
        """
        now = time.monotonic()
        ready = [upstream for upstream in self.upstreams if upstream.usable(now)]
        if self._regions and asked is not None and 0 <= asked.region < len(orders):
            ready = self._near(ready, orders[asked.region])
        if avoid is not None and len(ready) > 1:
            ready = [upstream for upstream in ready if upstream is not avoid]
        if not ready or (self._most and self._are_full(ready)):
            return None
        if self._slots and len(ready) > 1:
            # To wait for a whole request to end takes longer than a prefill, whatever a cache holds.
            roomy = [upstream for upstream in ready if upstream.outstanding < self._slots]
            if roomy:
                ready = roomy
        addresses = self._addresses
        if len(ready) != len(addresses):
            addresses = [upstream.address for upstream in ready]
        if asked is None or not (asked.session or asked.blocks):
            return ready[_fewest(ready, self._next_start(ready))]
        return self._choose(ready, addresses, asked)

    def _are_full(self, ready: list[Upstream]) -> bool:
        for upstream in ready:  # noqa: SIM110 - quicker than `all`, and asked for each request
            if upstream.outstanding < self._most:
                return False
        return True

    def _next_start(self, ready: list[Upstream]) -> int:
        """Where ties go to, in turn."""
        self._start = (self._start + 1) % len(ready)
        return self._start

    def _choose(self, ready: list[Upstream], addresses: list[str], asked: Asked) -> Upstream:
        """By session and prefix; what is believed afterwards is noted."""
        sessions, blocks, sticky = self._beliefs.sessions, asked.blocks, -1
        if asked.session:
            known = sessions.of(self.name, asked.session)
            sticky = addresses.index(known) if known in addresses else -1
        hits, total = self._beliefs.prefixes.hits(blocks, addresses), len(blocks)
        start = self._next_start(ready)
        if sticky < 0 and not affinity.differ(hits):
            index = _fewest(ready, start)
        else:
            work = [upstream.work for upstream in ready]
            index = affinity.choose(work, self._slots, hits, total, sticky, start, total)
        chosen = ready[index]
        if asked.session:
            sessions.note(self.name, asked.session, chosen.address)
        if blocks:
            had = hits[index]
            self._blocks[0] += had
            self._blocks[1] += total
            asked.missing = total - had
            self._beliefs.prefixes.note(blocks, chosen.address)
        return chosen

    def _near(self, ready: list[Upstream], order: Sequence[int]) -> list[Upstream]:
        count, free = [0] * (max(order, default=-1) + 1), [0] * (max(order, default=-1) + 1)
        for upstream in ready:
            if 0 <= upstream.region < len(count):
                count[upstream.region] += 1
                free[upstream.region] += max(self._slots - upstream.outstanding, 0) if self._slots else 1
        region = nearest.region(order, count, free)
        return [upstream for upstream in ready if upstream.region == region] if region >= 0 else ready


def _fewest(ready: list[Upstream], start: int) -> int:
    return pick.replica(cast("_Counts", [upstream.outstanding for upstream in ready]), start)


class Endpoint:
    """One endpoint, with its revisions; `regions`: the number of each region by its name."""

    def __init__(
        self,
        name: str,
        routes: EndpointRoutes,
        revisions: list[Revision],
        traffic: Traffic,
        regions: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.encoded = name.encode("utf-8", "surrogatepass")
        self.routes = routes
        self.timeout, self.queue = routes.timeout_s, routes.queue
        self.is_language, self.auth = routes.kind == "language", routes.auth
        self.session = routes.session.lower().encode()
        self.split = routes.split
        self.split_header = routes.split.lower().encode() if routes.split not in {"", "user"} else b""
        self.traffic = traffic
        self.revisions = {revision.name: revision for revision in revisions}
        self.only = revisions[0] if len(revisions) == 1 else None
        self._ordered = revisions
        self._weights = cast("_Counts", [route.weight for route in routes.revisions])
        numbers = regions or {}
        own = {region for route in routes.revisions for region in route.regional}
        # Of the regions whose requests are divided otherwise, by their numbers; a region that nobody knows has none.
        self._regional = {
            numbers[region]: cast("_Counts", [route.weight_in(region) for route in routes.revisions])
            for region in sorted(own)
            if region in numbers
        }
        self._mirror, self._mirror_share = routes.mirror, routes.mirror_share
        self._mirror_region = numbers.get(routes.mirror_region, -1) if routes.mirror_region else None
        self.salts: dict[str, bytes] = {}  # of the prefix index, by tenant or key; there are as many as those
        self._standing = {name: (one.share, one.priority) for name, one in routes.tenants.items()}
        self.mirrors = bool(routes.mirror) and routes.mirror_share > 0

    def choose(self, u: float, region: int = -1) -> Revision | None:
        """The revision that `u` falls on, for a request of a region; None when no revision has a weight there."""
        if self.only is not None:
            return self.only
        index = pick.revision(u, self._weights_in(region))
        return self._ordered[index] if index >= 0 else None

    def _weights_in(self, region: int) -> _Counts:
        return self._regional.get(region, self._weights) if self._regional else self._weights

    def instead(self, revision: Revision, failed: Upstream | None, region: int = -1) -> Revision:
        """Who takes a request of `revision` when that may have no replica: it itself, where it has one to ask.

        Else the revision with the largest share that has one, so that nobody waits for a canary to be started again.
        `failed`: the replica that ended while it had the request. Not asked in a replay, where a request waits: there
        the same version answers, however often something is killed.
        """
        now = time.monotonic()
        if any(one is not failed and one.usable(now) for one in revision.upstreams):
            return revision
        others = [
            (w, one)
            for w, one in zip(self._weights_in(region), self._ordered, strict=True)
            if w > 0 and one is not revision
        ]
        there = [(w, one) for w, one in others if one.free(now) >= 0]
        return max(there, key=lambda pair: int(pair[0]), default=(0, revision))[1]

    def of_version(self, version: str) -> str:
        """The name of the revision that answers requests for one version; "" for none.

        Where two have it (other settings are tried, or a fresh control runs beside it): the first with a replica.
        """
        mine = [revision for revision in self._ordered if revision.version == version]
        return next((one.name for one in mine if not one.is_empty), mine[0].name if mine else "")

    def standing(self, tenant: str) -> tuple[float, int]:
        """Share and priority of a tenant; of one that the routes do not know (any more), those of any other."""
        return self._standing.get(tenant, _ANYBODY)

    def mirror(self, id: str, live: str, region: int = -1) -> str:
        """The name of the revision that gets a copy of this request, which came from a region; "" for none."""
        name = self._mirror
        if not name or name == live or name not in self.revisions:
            return ""
        if self._mirror_region is not None and region != self._mirror_region:
            return ""
        return name if pick.mirrored(chance(self.name, id, b"mirror"), self._mirror_share) else ""

    def full(self) -> str:
        """What is said to a request that finds no room."""
        return f"`{self.name}` has {self.traffic.inside} requests waiting, which is its `queue`"

    def again(self) -> bytes:
        """The line of a header that says when to try again."""
        return b"retry-after: %d\r\n" % retry_after(self.traffic.inside, self.traffic.rate())

    def free(self) -> int:
        """Requests that its replicas could take at once; -1 when none can be asked."""
        now = time.monotonic()
        each = [revision.free(now) for revision in self.revisions.values()]
        return max(each, default=-1)


def chance(endpoint: str, id: str, salt: bytes = b"revision", draw: str = "") -> float:
    """A number in [0, 1) of the request's own: the same for the same id and `draw`, whichever worker asks."""
    key = (f"{endpoint}\0{id}\0{draw}" if draw else f"{endpoint}\0{id}").encode("utf-8", "surrogatepass")
    return pick.unit(int.from_bytes(hashlib.blake2b(key, digest_size=8, person=salt).digest(), "big"))
