"""How long a replica takes from being asked for to its first answer.

What this is: reading of weights at the speed of the slowest part, and the start of the engine; pure arithmetic.
Who calls it: sizing (time to repair), `scale.ahead: load time`, the twin, `plan`. What it must never do: call an
assumed constant anything better.

Anchors (read): vLLM 0.9 with a 3 B model, weights in the page cache: 3.4 GiB in 0.7 s, compiled graphs from the cache
in 16 s, CUDA graphs captured in 17 s, 34 s of engine start, first answer after 59 s (github.com/vllm-project/vllm issue
20264). Llama-3-8B (16 GB) from a cloud SSD of 1 GB/s: 48 s with the usual loader, 14 s with a streaming one; 7.5 s from
one of 4 GB/s (NVIDIA Run:ai Model Streamer benchmark, 2024). Kimi-K2.5 (620 GB) on eight GPUs: 35 to 45 s
(github.com/run-ai/runai-model-streamer issue 135). vLLM's start is bound by the CPU (arXiv 2606.07362).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mainspring.errors import InputError
from mainspring.facts.shapes import GraphShape
from mainspring.forecast.setup import Basis, Rests, Setup

Place = Literal["memory", "node", "network"]
"""Where weights lie: in the node's page cache, on its NVMe disks, or in an object store."""

PLACES: tuple[Place, ...] = ("memory", "node", "network")


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes/s of each way to a GPU; the defaults are assumed, and low rather than high."""

    memory: float = 40e9  # of a node's main memory, for all that load at once
    node: float = 12e9  # of a node's NVMe disks together (four of 3 GB/s and more)
    network: float = 2.5e9  # of a node's way to an object store (25 Gbit/s, four fifths of it)
    loader: float = 2.5e9  # of one GPU's loading process: reading, casting, sharding, copying

    def of(self, place: Place) -> float:
        """Bytes/s of the source, for a whole node."""
        return {"memory": self.memory, "node": self.node, "network": self.network}[place]


@dataclass(frozen=True, slots=True)
class Start:
    """An engine's start, weights left out: seconds, and seconds a layer."""

    process: float  # imports, workers, communicators
    compiled: float  # of a layer, graphs compiled before
    fresh: float  # of a layer, compiled for the first time
    capture: float  # of a layer, CUDA graphs
    basis: Basis
    source: str


_VLLM = "vLLM issue 20264: 59 s to the first answer with 28 layers, of which compiled graphs 16 s and capture 17 s"

ENGINES: dict[str, Start] = {
    "vllm": Start(25.0, 0.55, 1.5, 0.4, "extrapolated", _VLLM),
    "sglang": Start(25.0, 0.0, 0.0, 0.5, "assumed", "as vllm without compiling"),
    "trtllm": Start(30.0, 0.1, 0.1, 0.2, "assumed", "as vllm; kernels come compiled"),
    "llamacpp": Start(2.0, 0.02, 0.02, 0.0, "assumed", "reads its file and serves"),
    "onnx": Start(1.5, 0.0, 0.0, 0.0, "assumed", "a Python process and a session"),
    "triton": Start(8.0, 0.0, 0.0, 0.0, "assumed", "a container's process and a session a model"),
}
"""Starts by engine; the time of a layer stops growing at `LAYERS`."""

LAYERS = 60
"""Layers beyond which compiling and capture take no longer: repeated layers share their graphs (assumed)."""

NODE = 240.0
"""Seconds until the cloud has a fresh GPU node up and in the cluster (assumed; 3 to 10 minutes are usual)."""

IMAGE = 10e9
"""Bytes of an engine's container image (vllm/vllm-openai is about that)."""

UNPACK = 0.25e9
"""Bytes/s at which an image is fetched and unpacked (assumed)."""

REPAIR = 60.0
"""Seconds until a failed replica is seen and another is asked for (assumed: probes, eviction, scheduling)."""


@dataclass(frozen=True, slots=True)
class Loading:
    """From being asked for to the first answer."""

    node: float  # s, of a fresh node with its image; 0 on a node that is there
    read: float  # s, of weights
    start: float  # s, of the engine
    rests: tuple[Rests, ...]

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.node + self.read + self.start


def load(
    setup: Setup,
    place: Place = "node",
    *,
    together: int = 1,
    fresh: bool = False,
    compiled: bool = True,
    speeds: Speeds | None = None,
) -> Loading:
    """Time for one replica of a language model; `together` replicas load on the same node at once.

    `fresh`: the node itself, its image and, for `place` "node", the weights must be fetched first. `compiled`: the
    engine finds its compiled graphs. Raises `InputError` (`bad-place`, `bad-count`).
    """
    speeds = speeds or Speeds()
    size = setup.shape.weight_bytes(setup.precision)
    read, rests = _read(size, setup.gpus, place, together, fresh=fresh, speeds=speeds)
    engine = ENGINES.get(setup.engine, ENGINES["vllm"])
    layers = min(setup.shape.layers, LAYERS)
    start = engine.process + layers * ((engine.compiled if compiled else engine.fresh) + engine.capture)
    found = (*rests, Rests(f"start of {setup.engine}, s", start, engine.basis, engine.source))
    return Loading(_node(fresh=fresh), read, start, found)


def load_graph(
    shape: GraphShape,
    engine: str = "onnx",
    place: Place = "node",
    *,
    together: int = 1,
    fresh: bool = False,
    speeds: Speeds | None = None,
) -> Loading:
    """Time for one replica of any other model, on one GPU or on CPU cores."""
    speeds = speeds or Speeds()
    read, rests = _read(shape.weight_bytes, 1, place, together, fresh=fresh, speeds=speeds)
    start = ENGINES.get(engine, ENGINES["triton"])
    found = (*rests, Rests(f"start of {engine}, s", start.process, start.basis, start.source))
    return Loading(_node(fresh=fresh), read, start.process, found)


def repair(loading: Loading) -> float:
    """Mean seconds to repair a replica whose process or node failed: noticed, then loaded anew."""
    return REPAIR + loading.seconds


def _node(*, fresh: bool) -> float:
    return NODE + IMAGE / UNPACK if fresh else 0.0


def _read(
    size: float, gpus: int, place: Place, together: int, *, fresh: bool, speeds: Speeds
) -> tuple[float, tuple[Rests, ...]]:
    """Seconds to read weights: the source is shared by all that load at once, the loaders are one a GPU."""
    if place not in PLACES:
        raise InputError("bad-place", f"weights lie in `memory`, on the `node` or on the `network`, not `{place}`")
    if not 1 <= together <= 1000:
        raise InputError("bad-count", f"`{together}` replicas that load at once is not between 1 and 1,000")
    # A fresh node has nothing yet, wherever its weights will lie later.
    source = "network" if fresh else place
    # GPUs beyond eight sit in other nodes, which read at the same time.
    nodes = max(-(-gpus // 8), 1)
    speed = min(nodes * speeds.of(source) / together, gpus * speeds.loader)
    rests = (Rests(f"bytes/s of weights from {source}", speed, "assumed", "see Speeds in forecast/loading.py"),)
    return size / speed, rests
