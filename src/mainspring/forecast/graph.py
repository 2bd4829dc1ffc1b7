"""How long a batch of rows takes on a GPU, a slice of one, or CPU cores; and how many requests/s meet a limit.

What this is: a roofline with a start-up cost per call and per operator, for models that answer a row at once (rankers,
vision, embedding, tabular); and the largest rate of a server that batches what waits. Pure arithmetic.
Who calls it: sizing, the twin, `plan`. What it must never do: hide that its efficiencies are assumed: each forecast
lists what it rests on.

Time of a batch of b rows: call + operators * start + max(operations / peak, bytes / bandwidth) + visits of trees.
The CPU's numbers were measured with onnxruntime 1.32 on one Sapphire Rapids core; see `CPU`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from mainspring.errors import InputError
from mainspring.facts.cpus import Cpu
from mainspring.facts.gpus import Gpu
from mainspring.facts.shapes import GraphShape
from mainspring.forecast.memory import graph_bytes, graph_element, graph_weights
from mainspring.forecast.setup import Basis, Rests

Device = Gpu | Cpu
Binds = Literal["compute", "bandwidth", "overhead"]


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What of the peaks is reached, and what each call costs besides."""

    compute: float
    bandwidth: float
    call: float  # s a call
    start: float  # s an operator
    visit: float  # s a tree node
    basis: Basis
    source: str


GPU = Efficiency(
    compute=0.4,
    bandwidth=0.7,
    call=50e-6,
    start=8e-6,
    visit=0.0,
    basis="assumed",
    source="TensorRT reaches 35 to 50 % of the dense peak on ResNet-50 in MLPerf (T4, L4, A100, H100; from memory); "
    "8 us an operator puts ResNet-50 at batch 1 near 1 ms on a T4",
)

CPU = Efficiency(
    compute=0.5,
    bandwidth=0.7,
    call=6e-6,
    start=2e-6,
    visit=3e-9,
    basis="assumed",
    source="onnxruntime 1.32 on one Sapphire Rapids core: ResNet-50 67 %, SqueezeNet 54 %, a MiniLM of 128 tokens 53 % "
    "of the FP32 peak; 7 us for a model of two operators; 3 ns a tree node (2.6 in batches of 32)",
)

GRAIN = 2e6
"""Operations of a row that are worth a core of its own: below it, cores answer different requests."""

CACHE, CACHED = 4e6, 10.0
"""Bytes of weights a core that stay in its caches between calls, and how much faster they are read (assumed)."""

WIRE = 20e-6
"""Seconds of a core that a row takes besides the model: reading it, checking it, writing the answer (assumed)."""

FULL = 0.85
"""Share of the rate of full batches that a server is planned for at most, however loose the limit is."""

SECTOR = 32.0
"""Bytes that a GPU reads for one tree node."""

ROUNDS = 60


@dataclass(frozen=True, slots=True)
class GraphForecast:
    """One batch on one server."""

    seconds: float
    binds: Binds
    cores: float  # that answer one batch; 0 on a GPU
    servers: int  # batches that the device answers side by side (CPU cores that one batch doesn't need)
    rests: tuple[Rests, ...]

    @property
    def basis(self) -> Basis:
        """Never better than assumed, until somebody measures."""
        return "assumed"


@dataclass(frozen=True, slots=True)
class Capacity:
    """The largest rate that meets a latency limit."""

    requests: float  # requests/s of the device; 0 when even a lone one is too slow
    batch: float  # rows of a batch at that rate, mean
    largest: int  # rows of a batch that the server should be set to
    p95: float  # s at that rate; of a lone request, in the batches that are best for it, when `requests` is 0
    utilisation: float  # of the rate at which the queue grows without end
    full: float  # requests/s at which it does
    rests: tuple[Rests, ...]


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds of a batch as the larger of two lines, `fixed + row * b` each."""

    call: float  # fixed on both lines
    compute: float  # a row
    weights: float  # fixed on the line of bandwidth
    moved: float  # a row
    visits: float  # a row, on both lines
    cores: float
    servers: int

    def seconds(self, batch: float) -> float:
        work = max(self.compute * batch, self.weights + self.moved * batch)
        return self.call + work + self.visits * batch

    def settled(self, rate: float) -> float:
        """The batch that fills itself: b = rate * seconds(b), the least of it; infinite where there is none."""
        lines = ((self.call, self.compute + self.visits), (self.call + self.weights, self.moved + self.visits))
        return max(rate * fixed / (1 - rate * row) if rate * row < 1 else float("inf") for fixed, row in lines)


def batch_seconds(shape: GraphShape, device: Device, precision: str, batch: float, share: float = 1.0) -> GraphForecast:
    """Seconds of a batch of `batch` rows at a precision, on a `share` of a device (a MIG slice, or some of the cores).

    Raises `InputError` (`bad-batch`, `bad-share`, `unknown-precision`).
    """
    if not 1 <= batch <= 1e6:
        raise InputError("bad-batch", f"a batch of `{batch:g}` rows is not between 1 and 1,000,000", "mainspring plan")
    costs = _costs(shape, device, precision, share)
    fixed, compute = costs.call, costs.compute * batch + costs.visits * batch
    moved = costs.weights + costs.moved * batch
    binds: Binds = "overhead" if fixed > max(compute, moved) else "compute" if compute > moved else "bandwidth"
    return GraphForecast(costs.seconds(batch), binds, costs.cores, costs.servers, _rests(device))


def capacity(
    shape: GraphShape,
    device: Device,
    precision: str,
    latency_limit: float,
    batch_max: int = 64,
    share: float = 1.0,
    full: float = FULL,
    *,
    rows: float = 1.0,
    variability: float = 1.0,
    memory: float = math.inf,
) -> Capacity:
    """The largest rate of requests of `rows` rows each whose 95th percentile of latency is within the limit, in s.

    The server takes all rows that wait, up to `batch_max`, whenever it is free; a request is answered with the last of
    its rows. Largest batches of powers of two, and of whole requests, up to `batch_max` are tried, those that need more
    than `memory` bytes aside, none beyond `full` of its rate of full batches. An infinite limit leaves only that.
    Monotone in the limit, never more for more rows. `variability` is that of the gaps between the device's requests,
    1 for Poisson. On a CPU a row costs `WIRE` besides the model; on a GPU that work is done meanwhile. Approximation:
    see `_p95`. Raises `InputError` (`bad-limit`, `bad-batch`, `bad-share`, `unknown-precision`).
    """
    if not latency_limit > 0:
        raise InputError("bad-limit", f"a latency limit of `{latency_limit:g}` s is not above 0", "mainspring plan")
    if not 1 <= batch_max <= 65_536:
        raise InputError("bad-batch", f"`{batch_max}` rows is not between 1 and 65,536", "mainspring plan")
    if not 0 < full < 1:
        raise InputError("bad-share", f"`{full:g}` of full load is not between 0 and 1", "mainspring plan")
    if not rows >= 1:
        raise InputError("bad-batch", f"a request of `{rows:g}` rows is not of 1 or more", "mainspring plan")
    costs = _served(shape, device, precision, share)
    each = _split(variability, costs.servers)
    sizes = [size for size in _sizes(batch_max, rows) if graph_bytes(shape, device, precision, size) <= memory] or [1]
    rate, largest = max((_largest_rate(costs, size, latency_limit, full, rows, each), -size) for size in sizes)
    size, alone = -largest, 0.0
    if not rate:
        alone, size = min((_alone(costs, rows, one), one) for one in sizes)
    return Capacity(
        requests=rate * costs.servers,
        batch=min(max(costs.settled(rate * rows), 1.0), float(size)),
        largest=size,
        p95=_p95(costs, rate, size, rows, each) if rate else alone,
        utilisation=rate * rows * costs.seconds(size) / size,
        full=size / costs.seconds(size) / rows * costs.servers,
        rests=_rests(device),
    )


def p95(
    shape: GraphShape,
    device: Device,
    precision: str,
    rate: float,
    largest: int,
    share: float = 1.0,
    *,
    rows: float = 1.0,
    variability: float = 1.0,
) -> float:
    """95th percentile of latency in s at `rate` requests/s of the device, of `rows` rows each; that of a lone request
    at 0, infinite where the queue grows without end.
    """
    costs = _served(shape, device, precision, share)
    return _p95(costs, max(rate, 0.0) / costs.servers, largest, rows, _split(variability, costs.servers))


def _split(variability: float, servers: int) -> float:
    """Variability of what comes to each of a device's servers (as `queue.thinned`)."""
    return 1.0 + (variability - 1.0) / servers


def _sizes(most: int, rows: float) -> list[int]:
    """Largest batches that are worth a try: powers of two, and the same of whole requests."""
    whole = math.ceil(rows)
    return sorted({min(unit << power, most) for power in range(17) for unit in (1, whole)})


def _served(shape: GraphShape, device: Device, precision: str, share: float) -> _Costs:
    """Costs of a batch with the requests that bring it."""
    costs = _costs(shape, device, precision, share)
    if isinstance(device, Gpu):
        return costs
    return replace(costs, visits=costs.visits + WIRE / min(costs.cores, 1.0))


def _largest_rate(costs: _Costs, size: int, limit: float, full: float, rows: float, variability: float) -> float:
    """Bisection: `_p95` grows with the rate."""
    if _alone(costs, rows, size) > limit:
        return 0.0
    low, high = 0.0, full * size / costs.seconds(size) / rows
    if _p95(costs, high, size, rows, variability) <= limit:
        return high
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if _p95(costs, middle, size, rows, variability) <= limit else (low, middle)
    return low


def _alone(costs: _Costs, rows: float, size: int) -> float:
    """Seconds of a lone request in batches of up to `size` rows: one, or as many full ones as it takes."""
    return costs.seconds(min(rows, float(size))) * math.ceil(rows / size)


def _p95(costs: _Costs, rate: float, size: int, rows: float = 1.0, variability: float = 1.0) -> float:
    """95th percentile of latency of a server that takes what waits, up to `size` rows, whenever it is free.

    An approximation in three parts, held against a simulation by a test: the rest of the batch under way (uniform, with
    deterministic batch times), the own batch (the self-filling size of Inoue, "Queueing analysis of GPU-based inference
    servers with dynamic batching", arXiv 1912.06322, and its spread), and the batches in between when more than
    `size` rows wait (heavy traffic of a bulk-service queue: an exponential tail of rho / (2 (1 - rho)) rows, as for
    M/D/1 when `size` is 1).

    Requests of several rows are arrivals in bulk: a batch under way is no smaller than a request, the number of rows
    that come meanwhile spreads by as much more as a sum of bulks does (its variance by `rows` times, and by
    `variability` times when the gaps are not Poisson's), and so does the queue. A request of more rows than a batch
    takes several full batches, one after another, and waits for those of the request before it. Against the simulation
    23 % below to 34 % above with Poisson gaps, and mostly too high with more variable ones.
    """
    most = costs.seconds(size)
    coming = rate * rows
    load = coming * most / size
    if load >= 1:
        return float("inf")
    batch = min(max(costs.settled(coming), rows), float(size))
    current = costs.seconds(batch)
    busy = min(coming * current / batch, 1.0)
    rest = current * max(rows / size, 1.0) * max(1.0 - 0.05 / busy, 0.0) if busy > 0 else 0.0
    # A large batch takes longer, so that the next is large too: an autoregression, whose variance grows by this.
    row = (most - current) / (size - batch) if size > batch else 0.0
    wander = 1.0 - min(coming * row, 0.99) ** 2
    bulk = rows * max(variability, 0.0)
    spread = 1.645 * math.sqrt(bulk * batch * busy / wander) if size > rows else 0.0
    own = costs.seconds(min(batch + spread, float(size))) * math.ceil(rows / size)
    over = 3.0 * load / (2.0 * (1.0 - load)) * most / size * bulk  # ln 20 is 3.0
    # The three are not at their worst together: the parts that vary add by their squares.
    return own + math.hypot(rest, over)


@lru_cache(maxsize=4096)
def _costs(shape: GraphShape, device: Device, precision: str, share: float) -> _Costs:
    if not 0 < share <= 1:
        raise InputError("bad-share", f"a share of `{share:g}` is not above 0 and at most 1", "mainspring plan")
    each = graph_element(device, precision)
    stored = graph_weights(shape, device, precision)
    # A table of embeddings is not read as a whole: a row touches no more weights than it has multiply-adds.
    width = stored / shape.parameters if shape.parameters else 0.0
    touched = stored if shape.visits else min(stored, shape.flops / 2 * width)
    moved = shape.activation_bytes * each / 4.0
    kernels = max(shape.kernels, 1)
    if isinstance(device, Gpu):
        peak, width_of_memory = _peak(device, precision) * share, device.bandwidth * share
        tree = shape.visits * SECTOR / (width_of_memory * GPU.bandwidth)
        return _Costs(
            call=GPU.call + kernels * GPU.start,
            compute=shape.flops / (peak * GPU.compute),
            weights=touched / (width_of_memory * GPU.bandwidth),
            moved=moved / (width_of_memory * GPU.bandwidth),
            visits=tree,
            cores=0.0,
            servers=1,
        )
    there = max(device.cores * share, 1e-3)
    used = min(max(min(shape.flops / GRAIN, there), 1.0), there)
    memory_speed = device.bandwidth / device.cores * used * CPU.bandwidth
    memory_speed *= CACHED if touched <= CACHE * used else 1.0
    slow = 1.0 / min(used, 1.0)  # less than a core: everything takes longer
    return _Costs(
        call=(CPU.call + kernels * CPU.start) * slow,
        compute=shape.flops / (device.peak(precision, used) * CPU.compute),
        weights=0.0 if shape.visits else touched / memory_speed,
        moved=moved / memory_speed,
        visits=shape.visits * CPU.visit * slow,
        cores=used,
        servers=max(int(there / used + 1e-9), 1),
    )


def _peak(gpu: Gpu, precision: str) -> float:
    """Operations/s: FP32 where it is known runs on its own units, elsewhere at an eighth of FP16 (as on a T4)."""
    if precision == "fp32":
        return gpu.flops.get("fp32", gpu.flops["fp16"] / 8)
    return gpu.peak(precision)


def _rests(device: Device) -> tuple[Rests, ...]:
    one = GPU if isinstance(device, Gpu) else CPU
    kind = "GPU" if isinstance(device, Gpu) else "CPU"
    return (
        Rests(f"share of the {kind}'s peak operations", one.compute, one.basis, one.source),
        Rests(f"share of the {kind}'s memory bandwidth", one.bandwidth, one.basis, one.source),
        Rests(f"seconds of an operator on a {kind}", one.start, one.basis, one.source),
    )
