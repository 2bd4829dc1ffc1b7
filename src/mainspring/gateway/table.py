"""The route table as the gateway holds it: read from a file, kept when the file is broken, acknowledged.

Who calls it: the gateway's server (choices for each request) and its `__main__` (the watch).
What it must never do: raise because of the file, or forget the last good table.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from pathlib import Path

import msgspec
import numpy as np

from mainspring.decide import pick
from mainspring.decide.routes import EndpointRoutes, RevisionRoute, RouteTable
from mainspring.gateway.upstream import Upstream
from mainspring.wire.process import write_whole

log = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(RouteTable).decode


class Pulse:
    """Wakes all who wait for a change."""

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def beat(self) -> None:
        """Wake them."""
        future, self._future = self._future, None
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait for the next beat, for at most `seconds`."""
        if self._future is None:
            self._future = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._future], timeout=seconds)


class Revision:
    """One version behind an endpoint, with its replicas."""

    def __init__(self, route: RevisionRoute, upstreams: list[Upstream]) -> None:
        self.name, self.version = route.name, route.version
        self.header = route.name.encode("ascii", "replace")
        self._upstreams = upstreams
        self._start = 0

    @property
    def is_empty(self) -> bool:
        """Whether no replica is ready."""
        return not self._upstreams

    def replica(self) -> Upstream | None:
        """The replica for the next request; None when none is there or all have just refused."""
        ready = [upstream for upstream in self._upstreams if upstream.usable()]
        if len(ready) < 2:
            return ready[0] if ready else None
        self._start = (self._start + 1) % len(ready)
        return ready[pick.replica(np.array([upstream.outstanding for upstream in ready]), self._start)]


class Endpoint:
    """One endpoint, with its revisions."""

    def __init__(self, name: str, routes: EndpointRoutes, revisions: list[Revision]) -> None:
        self.name = name
        self.timeout, self.queue = routes.timeout_s, routes.queue
        self.revisions = {revision.name: revision for revision in revisions}
        self._ordered = revisions
        self._weights = np.array([route.weight for route in routes.revisions], dtype=np.int64)
        self._mirror, self._mirror_share = routes.mirror, routes.mirror_share

    def choose(self, u: float) -> Revision | None:
        """The revision that `u` falls on; None when no revision has a weight."""
        if len(self._ordered) == 1:
            return self._ordered[0]
        index = pick.revision(u, self._weights)
        return self._ordered[index] if index >= 0 else None

    def mirror(self, id: str, live: str) -> str:
        """The name of the revision that gets a copy of this request; "" for none."""
        name = self._mirror
        if not name or name == live or name not in self.revisions:
            return ""
        return name if pick.mirrored(chance(self.name, id, b"mirror"), self._mirror_share) else ""


def chance(endpoint: str, id: str, salt: bytes = b"revision") -> float:
    """A number in [0, 1) of the request's own: the same for the same id, whichever worker asks."""
    key = f"{endpoint}\0{id}".encode("utf-8", "surrogatepass")
    return pick.unit(int.from_bytes(hashlib.blake2b(key, digest_size=8, person=salt).digest(), "big"))


class Table:
    """The last good route table, ready for use."""

    def __init__(self, routes: Path, ack: Path, boot: str) -> None:
        self._path, self._ack_path, self._boot = routes, ack, boot
        self._seen: tuple[int, ...] | None = None
        self._acked: int | None = None
        self._upstreams: dict[str, Upstream] = {}
        self.epoch: int | None = None  # None: there has been no table yet
        self.clock = "wall"
        self.endpoints: dict[str, Endpoint] = {}
        self.changed = Pulse()  # a new table, or a replica that answers again

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
        addresses = {a for e in table.endpoints.values() for r in e.revisions for a in r.replicas}
        upstreams = {a: self._upstreams.get(a) or Upstream(a, self.changed.beat) for a in addresses}
        self.endpoints = {
            name: Endpoint(name, routes, [Revision(r, [upstreams[a] for a in r.replicas]) for r in routes.revisions])
            for name, routes in table.endpoints.items()
        }
        for address, upstream in self._upstreams.items():
            if address not in upstreams:
                upstream.close()
        self._upstreams = upstreams
        self.epoch, self.clock = table.epoch, table.clock
        self.changed.beat()

    def _ack(self, epoch: int) -> None:
        content = json.dumps({"epoch": epoch, "pid": os.getpid(), "boot": self._boot}).encode()
        try:
            self._ack_path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._ack_path, content)
            self._acked = epoch
        except OSError as error:  # tried again at the next look
            log.debug("`%s` cannot be written: %s", self._ack_path, error)
