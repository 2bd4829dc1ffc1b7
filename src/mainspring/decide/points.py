"""What the search behind `place` looks at: pools of boxes, units to place, moves, and points on the way.

What this is: values; pure. Who calls it: `decide/ways.py`, `decide/pack.py`, `decide/place.py`. What it must never do:
choose, or know names.
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.decide.bound import Ask
from mainspring.decide.shelf import FREE, Need, Shelf

Domain = tuple[int, ...]
Node = tuple[tuple[int, ...], tuple[Domain, ...]]  # items that keep apart and are here; domains
Box = tuple[Node, ...]
Flat = tuple[tuple[int, ...], int, int]  # partly filled GPUs; free ones (by node: of used nodes); unused nodes


@dataclass(frozen=True, slots=True)
class Pool:
    """Boxes of one kind: `boxes` of `nodes` nodes of `domains` domains of `size` GPUs."""

    shelf: Shelf
    price: float  # of one GPU
    boxes: int
    nodes: int
    domains: int
    size: int
    by_node: bool = False  # whether a node is paid for as a whole

    @property
    def per_node(self) -> int:
        """GPUs of a node."""
        return self.domains * self.size

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.boxes * self.nodes * self.per_node

    def empty(self) -> Box:
        """A box with nothing in it."""
        return (((), ((FREE,) * self.size,) * self.domains),) * self.nodes


@dataclass(frozen=True, slots=True)
class Unit:
    """One replica: a small model, or a gang of `gang` GPUs."""

    item: int
    gang: int
    needs: tuple[Need | None, ...]  # by pool
    apart: bool = False
    across: bool = False
    job: bool = False

    @property
    def ask(self) -> Ask:
        """What the bound sees."""
        return (self.gang, self.needs)

    @property
    def placed_by_box(self) -> bool:
        """Whether it matters for this unit which GPUs are in one box."""
        return self.apart or (self.gang > 0 and not self.across)


@dataclass(frozen=True, slots=True)
class Move:
    """Where a unit goes, by values: `box` None is an empty one, or (phase two) any; no `state` is a gang."""

    pool: int
    state: int = FREE  # of the GPU before
    box: Box | None = None
    node: int = 0
    domain: int = 0
    flat: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One move (None: the unit waits) and those before it."""

    move: Move | None
    before: Step | None


@dataclass(slots=True)
class At:
    """A point of the search."""

    depth: int
    boxes: tuple[tuple[int, Box], ...]
    left: tuple[int, ...]  # boxes of each pool that are untouched
    flat: tuple[Flat, ...]  # phase two; () before
    dollars: float
    credit: float  # weight that still goes into what is paid for, less what its scarcity was counted for
    waits: tuple[int, int]  # replicas that serve, jobs
    path: Step | None = None
