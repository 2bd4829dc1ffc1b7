"""Eyes on a state folder's route table: every version of it that is seen, and whether each makes sense.

What this is: `routes.json`, looked at some 500 times a second. Who calls it: tests that kill things meanwhile.
What it must never do: take a table that it did not see for one that was right (`epochs` says how many there were).
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from mainspring.decide.routes import EndpointRoutes, RouteTable
from mainspring.testing.meanwhile import Meanwhile

LOOK = 0.002  # seconds
PARTS = 10_000

_decode = msgspec.json.Decoder(RouteTable).decode


class RoutesWatch(Meanwhile):
    """Use it as a context; `tables` has what was seen, oldest first."""

    def __init__(self, state: Path) -> None:
        """`state`: the folder `.mainspring`."""
        super().__init__()
        self._path = state / "routes.json"
        self.tables: list[RouteTable] = []
        self.torn = 0  # looks that found something that is no table

    def shares(self, endpoint: str) -> list[dict[str, float]]:
        """The share of each revision, from table to table, where it changed."""
        found: list[dict[str, float]] = []
        for table in list(self.tables):
            routes = table.endpoints.get(endpoint)
            if routes is not None:
                now = {r.name: r.weight / PARTS for r in routes.revisions if r.weight}
                if not found or found[-1] != now:
                    found.append(now)
        return found

    def problems(self) -> list[str]:
        """What no table may be: epochs that go back, shares that are not 100 % in all, nobody to answer them."""
        found = [f"{self.torn} looks found no table"] if self.torn else []
        last = 0
        for table in self.tables:
            if table.epoch <= last:
                found.append(f"epoch {table.epoch} came after {last}")
            last = table.epoch
            for name, routes in table.endpoints.items():
                found += [f"epoch {table.epoch}, {name}: {why}" for why in _wrong(routes)]
        return found

    def go_on(self) -> None:
        """Look, as often as can be."""
        seen: tuple[int, int] = (0, 0)
        while not self.over.wait(LOOK):
            try:
                stat = os.stat(self._path)
                if (stat.st_ino, stat.st_mtime_ns) == seen:
                    continue
                seen = (stat.st_ino, stat.st_mtime_ns)
                self.tables.append(_decode(self._path.read_bytes()))
            except FileNotFoundError:
                continue
            except (OSError, msgspec.MsgspecError):
                self.torn += 1


def _wrong(routes: EndpointRoutes) -> list[str]:
    if not routes.revisions:
        return []  # no version yet
    total = sum(r.weight for r in routes.revisions)
    return [f"the shares add up to {total} of {PARTS}"] if total != PARTS else []
