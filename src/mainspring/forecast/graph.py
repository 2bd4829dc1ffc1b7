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
from mainspring.facts.shapes import BYTES, GraphShape
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

CONTEXT = 0.5e9
"""Bytes that a GPU process holds before any model (CUDA context and libraries; assumed)."""

LIVE = 0.25
"""Share of a row's activations that is in memory at once (assumed; half of them written, half of those in use)."""

CACHE, CACHED = 4e6, 10.0
"""Bytes of weights a core that stay in its caches between calls, and how much faster they are read (assumed)."""

WIRE = 20e-6
"""Seconds of a core that a request takes besides the model: reading it, checking it, writing the answer (assumed)."""

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

    requests: float  # rows/s of the device; 0 when even one row alone is too slow
    batch: float  # rows of a batch at that rate, mean
    largest: int  # rows of a batch that the server should be set to
    p95: float  # s at that rate; of one row alone when `requests` is 0
    utilisation: float  # of the rate at which the queue grows without end
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


def memory(shape: GraphShape, device: Device, precision: str, batch: float) -> float:
    """Bytes that one server of the model needs: weights, what is in use of a batch, and on a GPU the context."""
    live = LIVE * shape.activation_bytes * _element(device, precision) / 4.0 * batch
    return _stored(shape, device, precision) + live + (CONTEXT if isinstance(device, Gpu) else 0.1e9)


def capacity(
    shape: GraphShape,
    device: Device,
    precision: str,
    latency_limit: float,
    batch_max: int = 64,
    share: float = 1.0,
    full: float = FULL,
) -> Capacity:
    """The largest rate of Poisson requests of one row each whose 95th percentile of latency is within the limit, in s.

    The server takes all that waits, up to `batch_max` rows, whenever it is free. Largest batches of powers of two up to
    `batch_max` are tried, none beyond `full` of its rate of full batches. Monotone in the limit. On a CPU a request
    costs `WIRE` besides the model; on a GPU that work is done meanwhile. Approximation: see `_p95`.
    """
    if not latency_limit > 0:
        raise InputError("bad-limit", f"a latency limit of `{latency_limit:g}` s is not above 0", "mainspring plan")
    if not 1 <= batch_max <= 65_536:
        raise InputError("bad-batch", f"`{batch_max}` rows is not between 1 and 65,536", "mainspring plan")
    if not 0 < full < 1:
        raise InputError("bad-share", f"`{full:g}` of full load is not between 0 and 1", "mainspring plan")
    costs = _served(shape, device, precision, share)
    sizes = sorted({min(1 << power, batch_max) for power in range(17)})
    rate, largest = max((_largest_rate(costs, size, latency_limit, full), -size) for size in sizes)
    size = -largest
    p95 = _p95(costs, rate, size) if rate else costs.seconds(1)
    return Capacity(
        requests=rate * costs.servers,
        batch=min(max(costs.settled(rate), 1.0), float(size)),
        largest=size,
        p95=p95,
        utilisation=rate * costs.seconds(size) / size,
        rests=_rests(device),
    )


def p95(shape: GraphShape, device: Device, precision: str, rate: float, largest: int, share: float = 1.0) -> float:
    """95th percentile of latency in s at `rate` rows/s of the device; infinite where the queue grows without end."""
    costs = _served(shape, device, precision, share)
    return _p95(costs, max(rate, 0.0) / costs.servers, largest)


def _served(shape: GraphShape, device: Device, precision: str, share: float) -> _Costs:
    """Costs of a batch with the requests that bring it."""
    costs = _costs(shape, device, precision, share)
    if isinstance(device, Gpu):
        return costs
    return replace(costs, visits=costs.visits + WIRE / min(costs.cores, 1.0))


def _largest_rate(costs: _Costs, size: int, limit: float, full: float) -> float:
    """Bisection: `_p95` grows with the rate."""
    if costs.seconds(1) > limit:
        return 0.0
    low, high = 0.0, full * size / costs.seconds(size)
    if _p95(costs, high, size) <= limit:
        return high
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if _p95(costs, middle, size) <= limit else (low, middle)
    return low


def _p95(costs: _Costs, rate: float, size: int) -> float:
    """95th percentile of latency of a server that takes what waits, up to `size` rows, whenever it is free.

    An approximation in three parts, held against a simulation by a test: the rest of the batch under way (uniform, with
    deterministic batch times), the own batch (the self-filling size of Inoue, "Queueing analysis of GPU-based inference
    servers with dynamic batching", arXiv 1912.06322, and its spread), and the batches in between when more than
    `size` rows wait (heavy traffic of a bulk-service queue: an exponential tail of rho / (2 (1 - rho)) rows, as for
    M/D/1 when `size` is 1).
    """
    most = costs.seconds(size)
    load = rate * most / size
    if load >= 1:
        return float("inf")
    batch = min(max(costs.settled(rate), 1.0), float(size))
    current = costs.seconds(batch)
    busy = min(rate * current / batch, 1.0)
    rest = current * max(1.0 - 0.05 / busy, 0.0) if busy > 0 else 0.0
    # A large batch takes longer, so that the next is large too: an autoregression, whose variance grows by this.
    row = (most - current) / (size - batch) if size > batch else 0.0
    wander = 1.0 - min(rate * row, 0.99) ** 2
    spread = 1.645 * math.sqrt(batch * busy / wander) if size > 1 else 0.0
    own = costs.seconds(min(batch + spread, float(size)))
    over = 3.0 * load / (2.0 * (1.0 - load)) * most / size  # ln 20 is 3.0
    # The three are not at their worst together: the parts that vary add by their squares.
    return own + math.hypot(rest, over)


def _element(device: Device, precision: str) -> float:
    """Bytes of an activation: those of the weights, but no fewer than two on a GPU and four on a CPU, INT8 aside."""
    if precision not in BYTES:
        raise InputError("unknown-precision", f"no precision is known as `{precision}`", "mainspring catalog gpus")
    if precision == "int8":
        return 1.0
    return max(BYTES[precision], 2.0 if isinstance(device, Gpu) else 4.0)


def _stored(shape: GraphShape, device: Device, precision: str) -> float:
    """Bytes of the weights at a precision; trees stay as they are, and a CPU computes FP16 in FP32."""
    if shape.visits or (isinstance(device, Cpu) and precision != "int8"):
        return shape.weight_bytes
    return min(shape.weight_bytes, shape.parameters * BYTES[precision])


@lru_cache(maxsize=4096)
def _costs(shape: GraphShape, device: Device, precision: str, share: float) -> _Costs:
    if not 0 < share <= 1:
        raise InputError("bad-share", f"a share of `{share:g}` is not above 0 and at most 1", "mainspring plan")
    each = _element(device, precision)
    stored = _stored(shape, device, precision)
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
