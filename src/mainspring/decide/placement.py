"""What `place` is asked and what it answers.

What this is: values; pure. Who calls it: `decide/place.py` and everybody who asks it. What it must never do: choose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mainspring.facts.gpus import Gpu


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to place, `replicas` times."""

    name: str
    memory: float  # bytes that a small model needs, its runtime included; for a gang, of each GPU
    compute: float = 0.0  # share of one GPU that a small model needs
    gpus: int = 0  # whole GPUs of a replica; 0: a small model
    replicas: int = 1
    spread: bool = False  # each replica on another node
    job: bool = False  # training
    across: bool = False  # a gang that needs no link between its GPUs
    only: tuple[str, ...] = ()  # names of the GPUs that it runs on; (): any
    shares: tuple[tuple[str, float], ...] = ()  # `compute` on particular GPUs, by name


@dataclass(frozen=True, slots=True)
class Nodes:
    """Equal nodes."""

    name: str
    gpu: Gpu
    count: int
    price: float  # dollars an hour of one GPU
    gpus: int = 8  # of one node
    domain: int = 0  # GPUs that NVLink joins: fewer than a node has, or more (a rack); 0: those of the node
    split: bool = True  # whether MIG may be used
    share: bool = False  # whether small models may share a GPU in time, where there is no MIG
    billed: Literal["gpu", "node"] = "gpu"  # what is paid for when it is used


@dataclass(frozen=True, slots=True)
class Assignment:
    """One replica where it goes."""

    item: str
    replica: int
    nodes: str  # name of the nodes
    gpus: tuple[tuple[int, int], ...]  # (node, GPU), both counted from 0
    slice: str = ""  # MIG profile; "" for a whole GPU or a part in time
    start: int = -1  # of the slice, as `nvidia-smi mig -cgi PROFILE:START` takes it
    shared: bool = False
    preemptible: bool = False


@dataclass(frozen=True, slots=True)
class Geometry:
    """The slices of one GPU in MIG mode."""

    nodes: str
    node: int
    gpu: int
    slices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One replica that has no place, and why."""

    item: str
    replica: int
    why: str


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer."""

    assignments: tuple[Assignment, ...]
    geometries: tuple[Geometry, ...]
    dollars: float  # an hour
    bound: float  # no placement with as few waiting costs less
    exact: bool  # whether this is the best: least waiting, then least dollars
    waiting: tuple[Waiting, ...]
    used: tuple[tuple[str, int], ...]  # GPUs in use, by name of the nodes
    looked: int  # points that the search looked into

    @property
    def gap(self) -> float:
        """Share of the dollars that a better placement could save at most."""
        return max(0.0, 1.0 - self.bound / self.dollars) if self.dollars else 0.0
