"""The route table as the gateway holds it: read from a file, kept when the file is broken, acknowledged.

Who calls it: the gateway's server (choices for each request) and its `__main__` (the watch).
What it must never do: raise because of the file, or forget the last good table.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from mainspring.decide.routes import EndpointRoutes, RouteTable
from mainspring.gateway.routing import Beliefs, Endpoint, Revision, Traffic
from mainspring.gateway.upstream import MAX_CONNECTIONS, Upstream
from mainspring.wire.process import write_whole

log = logging.getLogger(__name__)

STREAMS = 4_096  # connections to one replica of a language model; each is one stream
_decode = msgspec.json.Decoder(RouteTable).decode


class Table:
    """The last good route table, ready for use."""

    def __init__(self, routes: Path, ack: Path, boot: str) -> None:
        self._path, self._ack_path, self._boot = routes, ack, boot
        self._seen: tuple[int, ...] | None = None
        self._acked: int | None = None
        # By address and name: replicas that share a server have one address, and each its own health.
        self._upstreams: dict[tuple[str, str], Upstream] = {}
        self.epoch: int | None = None  # None: there has been no table yet
        self.clock = "wall"
        self.endpoints: dict[str, Endpoint] = {}
        self.traffic: dict[str, Traffic] = {}
        self.beliefs = Beliefs()
        self.regions: dict[bytes, int] = {}
        self.home = -1
        self._names: list[str] = []  # of the regions, in the order of their numbers
        self.orders: list[list[int]] = []  # for each region, all regions, nearest first
        self.on_change: Callable[[], None] = lambda: None  # a new table, or a replica that answers again

    async def watch(self, every: float = 0.05) -> None:
        """Look at the file every so often, for as long as it runs."""
        while True:
            self.look()
            await asyncio.sleep(every)

    def look(self) -> None:
        """Take over the file if it is new and good; acknowledge what was taken over."""
        try:
            stat = os.stat(self._path)
            seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if seen != self._seen:
                table = _decode(self._path.read_bytes())
                self._take(table)
                self._seen = seen
        except FileNotFoundError:
            pass
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            if seen != self._seen:
                log.warning("`%s` is not a route table, the last good one stays: %s", self._path, error)
                self._seen = seen
        if self.epoch is not None and self._acked != self.epoch:
            self._ack(self.epoch)

    def _take(self, table: RouteTable) -> None:
        names = list(dict.fromkeys([*table.near, *(n for order in table.near.values() for n in order)]))
        numbers = {name: number for number, name in enumerate(names)}
        upstreams: dict[tuple[str, str], Upstream] = {}
        endpoints = {name: self._endpoint(name, routes, numbers, upstreams) for name, routes in table.endpoints.items()}
        self.endpoints = endpoints
        self._names = names
        self.regions = {name.encode("utf-8", "surrogatepass"): number for name, number in numbers.items()}
        self.orders = [[numbers[n] for n in (table.near.get(name) or (name,))] for name in names]
        self.home = numbers.get(table.home, -1)
        for key, upstream in self._upstreams.items():
            if key not in upstreams:
                upstream.close()
                self.beliefs.prefixes.forget(upstream.address)
        self._upstreams = upstreams
        self.epoch, self.clock = table.epoch, table.clock
        self.on_change()

    def _endpoint(
        self, name: str, routes: EndpointRoutes, numbers: dict[str, int], upstreams: dict[tuple[str, str], Upstream]
    ) -> Endpoint:
        revisions = []
        for route in routes.revisions:
            found = []
            for i, address in enumerate(route.replicas):
                key = address, route.names[i] if i < len(route.names) else ""
                upstream = upstreams.get(key) or self._upstreams.get(key) or Upstream(address, self._revived)
                region = numbers.get(route.regions[i], -1) if i < len(route.regions) else -1
                upstream.setup(
                    keep_alive=routes.keep_alive if route.keep_alive is None else route.keep_alive,
                    connect=routes.connect_s,
                    limit=STREAMS if routes.kind == "language" else MAX_CONNECTIONS,
                    name=key[1],
                    region=region,
                )
                upstreams[key] = upstream
                found.append(upstream)
            revisions.append(Revision(route, found, routes, self.beliefs, name))
        return Endpoint(name, routes, revisions, self.traffic.setdefault(name, Traffic()), numbers)

    def _revived(self) -> None:
        self.on_change()

    def region(self, header: bytes | None) -> int:
        """The number of the region that a request comes from; -1 where regions are not told apart."""
        if header is None:
            return self.home
        return self.regions.get(header, self.home)

    def name_of(self, region: int) -> str:
        """The name of a region by its number; "" where regions are not told apart."""
        return self._names[region] if 0 <= region < len(self._names) else ""

    def _ack(self, epoch: int) -> None:
        content = json.dumps({"epoch": epoch, "pid": os.getpid(), "boot": self._boot}).encode()
        try:
            self._ack_path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._ack_path, content)
            self._acked = epoch
        except OSError as error:  # tried again at the next look
            log.debug("`%s` cannot be written: %s", self._ack_path, error)
