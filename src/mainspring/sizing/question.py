"""The question that sizing answers: what must be carried, what may be bought, what must be survived.

What this is: frozen values, pure. Who calls it: the resolver of the stack file writes a `Question`; everything in
`sizing/` reads it. What it must never do: know the stack file's syntax, or choose anything.

Units: requests/s, dollars, hours. A *device* is what is bought by the hour: a GPU, or a CPU server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mainspring.facts.shapes import GraphShape, ModelShape
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Lengths, Response

HOURS = 730.0
"""Hours of a month: 8,760 / 12."""

MARKET = "market:"
"""How the names of pools begin that the file does not have."""

Mode = Literal["on_demand", "reserved", "spot"]
MODES: tuple[Mode, ...] = ("reserved", "on_demand", "spot")


def is_market(pool: str) -> bool:
    """Whether a pool is one that the file does not have."""
    return pool.startswith(MARKET)


class Device(Protocol):
    """What is bought by the hour: `facts.gpus.Gpu`, or a CPU server."""

    @property
    def name(self) -> str:
        """What people call it."""


@dataclass(frozen=True, slots=True)
class Tariff:
    """Dollars per device-hour in one region; None: not sold so."""

    on_demand: float | None = None
    reserved: float | None = None
    spot: float | None = None

    def at(self, mode: Mode) -> float | None:
        """The price of one mode, dollars per device-hour."""
        return {"on_demand": self.on_demand, "reserved": self.reserved, "spot": self.spot}[mode]

    def of(self, mix: Mix) -> float | None:
        """The mean price of a device-hour bought in this mix; None when a mode of it isn't sold."""
        prices = [(share, self.at(mode)) for mode, share in mix.parts if share > 0]
        known = [(share, price) for share, price in prices if price is not None]
        return sum(share * price for share, price in known) if len(known) == len(prices) else None

    def times(self, factor: float) -> Tariff:
        """The same with every price multiplied."""
        ends = [None if price is None else price * factor for price in (self.on_demand, self.reserved, self.spot)]
        return Tariff(*ends)


@dataclass(frozen=True, slots=True)
class Mix:
    """How the devices of a fleet are bought: shares by mode, which sum to one."""

    name: str
    parts: tuple[tuple[Mode, float], ...]

    def share(self, mode: Mode) -> float:
        """The part that is bought in this mode."""
        return sum(part for each, part in self.parts if each == mode)


ON_DEMAND = Mix("on demand", (("on_demand", 1.0),))
RESERVED = Mix("reserved", (("reserved", 1.0),))
SPOT = Mix("spot", (("spot", 1.0),))


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes of one kind that may be used."""

    name: str  # as the stack file calls it
    device: Device
    per_node: int  # devices of a node; of one NVLink domain at least
    nodes: dict[str, int | None] = field(hash=False)  # by region; None: as many as wanted; absent: none
    tariffs: dict[str, Tariff] = field(hash=False)  # by region
    mix: Mix = ON_DEMAND  # as the file has it
    billed: Literal["device", "node"] = "device"  # "node": a whole node is paid for when any of it is used

    def price(self, region: str, mix: Mix | None = None) -> float | None:
        """Dollars per device-hour there; None when it isn't sold so."""
        tariff = self.tariffs.get(region)
        return None if tariff is None else tariff.of(mix or self.mix)


@dataclass(frozen=True, slots=True)
class Demand:
    """What users ask of one endpoint."""

    endpoint: str
    rate: float  # mean requests/s, all regions together
    peak: float = 3.0  # busiest moment over the mean
    shares: dict[str, float] = field(default_factory=dict, hash=False)  # of the traffic, by region of origin
    variability: float = 1.0  # squared coefficient of variation of the gaps between arrivals
    lengths: Lengths | None = None  # of a language model's prompts and outputs
    rows: float = 1.0  # of one request, for other models
    batch: int = 64  # rows that a server answers at once at most, for other models
    curve: tuple[float, ...] = ()  # rate of each hour of a day or a week over the mean; (): unknown
    spread: Literal["share", "capacity"] = "capacity"  # where the traffic of a lost region goes

    @property
    def at_peak(self) -> float:
        """Requests/s at the busiest moment, all regions together."""
        return self.rate * self.peak


@dataclass(frozen=True, slots=True)
class Survive:
    """What may be lost, at the peak, with the promise still kept."""

    regions: int = 0  # any so many of them, at once
    nodes_per_region: int = 0  # any so many in each region, at once
    together: bool = False  # both at once; else one or the other


@dataclass(frozen=True, slots=True)
class Limits:
    """Replicas that the user allows in each region."""

    least: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a replica."""

    pool: str
    device: str  # its name
    gpus: int = 1  # devices of a replica (1 for a slice)
    precision: str = "fp16"
    kv: str = "fp16"
    slice: str = ""  # MIG profile; "": whole devices
    slots: int = 1  # replicas that one device holds as slices of this profile, or by their cores; 1 for whole devices
    mix: Mix = ON_DEMAND
    accept: tuple[str, ...] = ()  # what the user has to accept: "quality at fp8"
    unit: Literal["GPU", "server"] = "GPU"  # what a device is
    cores: float = 0.0  # of a server that a replica takes; 0: all, and of GPUs

    @property
    def billed(self) -> float:
        """Devices that one replica is billed."""
        return self.gpus / self.slots

    @property
    def engine_key(self) -> tuple[str, str, int, str, str, str, float]:
        """What its speed depends on: all but how it is bought."""
        return (self.pool, self.device, self.gpus, self.precision, self.kv, self.slice, self.cores)

    def per_node(self, devices: int) -> int:
        """Replicas that a node with so many devices holds."""
        return devices * self.slots if self.slice or self.cores else devices // self.gpus

    def __str__(self) -> str:
        """`4 x H100-SXM at FP16`, `1g.10gb of H100-SXM at FP8 with a FP8 cache`, `4 cores of cpu-16 at INT8`."""
        what = f"{self.slice} of {self.device}" if self.slice else f"{self.gpus} x {self.device}"
        if self.cores:
            what = f"{self.cores:g} {'core' if self.cores == 1 else 'cores'} of {self.device}"
        cache = "" if self.kv in {"fp16", "bf16", ""} else f" with a {self.kv.upper()} cache"
        return f"{what} at {self.precision.upper()}{cache}"


@dataclass(frozen=True, slots=True)
class Nearest:
    """A promise close by that could be kept."""

    what: str  # "p95", "output", "ttft", "tpot"
    value: float  # s, or tokens
    says: str  # one sentence


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica carries with the promise kept."""

    rate: float  # requests/s; 0: it can't keep the promise at any rate
    response: Response | None = None  # what its users see at that rate
    binds: str = ""  # what stops it from more: "p95", "ttft", "memory", "throughput"
    reason: str = ""  # one sentence with the number, when `rate` is 0
    concurrency: float = 0.0  # mean requests in flight at that rate


@dataclass(frozen=True, slots=True)
class Site:
    """Replicas in one region."""

    region: str
    replicas: int
    nodes: int  # that they are spread over, evenly
    left: int  # replicas that are left after the loss of the nodes that must be survived


@dataclass(frozen=True, slots=True)
class Written:
    """The fleet as the file has it."""

    way: Way
    replicas: dict[str, tuple[int, int]] = field(hash=False)  # least and most, by region
    nodes: dict[str, int] = field(default_factory=dict, hash=False)  # bought, by region; empty: those in use


NearestOf = Callable[[Way, Demand, Promise], tuple[Nearest, ...]]
"""What a way could keep in place of a promise that it can't."""

CeilingOf = Callable[[Way, Demand], float]
"""Requests/s that a replica could carry at the most, without any promise; 0 where it can't run."""

CapacityOf = Callable[[Way, Demand, Promise], Capacity]
"""What one replica carries; the real one is in `sizing/forecasts.py`."""

AvailabilityOf = Callable[[Way, tuple[Site, ...], int, tuple[int, ...]], float]
"""Share of the time in which `sites` carry the peak: way, sites, replicas needed in all, and in each region for its own
share. It never falls when a site gets more replicas or more nodes."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that the search for one endpoint's fleet depends on."""

    demand: Demand
    promise: Promise
    model: ModelShape | GraphShape
    pools: tuple[Pool, ...]
    regions: tuple[str, ...]  # where it may run (residency)
    survive: Survive = Survive()
    limits: Limits = Limits()
    precision: str = "fp16"  # of the file
    kv: str = "fp16"
    precisions: tuple[str, ...] = ()  # others that may be proposed, for the user to accept
    accepted: tuple[str, ...] = ()  # those of them that the user has accepted already
    caches: tuple[str, ...] = ()  # other precisions of the KV cache that may be proposed
    engine: str = "vllm"
    version: str = ""
    written: Written | None = None
    weights_cached: bool = False  # whether each node keeps a copy of the weights on its own disks
    shared: bool = False  # whether what a slice leaves of its device goes to other endpoints, and is theirs to pay

    def pool(self, name: str) -> Pool:
        """The pool of that name."""
        return next(pool for pool in self.pools if pool.name == name)

    def shares(self) -> dict[str, float]:
        """The part of the traffic that each region serves when all are there: even when the file doesn't say; that
        of regions where it may not run goes to the others, by their shares.
        """
        given = {region: max(self.demand.shares.get(region, 0.0), 0.0) for region in self.regions}
        total = sum(given.values())
        if total <= 0:
            return {region: 1.0 / len(self.regions) for region in self.regions}
        return {region: share / total for region, share in given.items()}
