"""What of a replica's memory is weights, reserve and activations, and how many tokens the rest keeps.

What this is: the arithmetic of memory, once; pure. Who calls it: `forecast/steady.py` and `forecast/graph.py` (the
batch that memory allows), `decide/fit.py` (does it fit, and what is nearest). What it must never do: say whether that
is enough.

A pool of `T x M x 0.9 - weights - T x other`, as vLLM reckons its own (`gpu_memory_utilization` 0.9). `other` has three
parts, fitted to two readings: a recorded run of vLLM 0.19 with Llama-3.1-8B on one RTX 4090 (chunks of 2,048: 41,408
tokens of cache, so 1.58 GiB for the rest), and aiconfigurator's 3.5 GiB against a nominal 80 GiB for GPUs of a group.
Between versions and flags it moves by about 1 GiB a GPU either way (vLLM pull request 10511: 3.05 GiB at one H100, 4.84
at two), so a layout that fits by less than that may not.

Units: bytes, tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mainspring.errors import InputError
from mainspring.facts.cpus import Cpu
from mainspring.facts.gpus import Gpu
from mainspring.facts.shapes import BYTES, Attention, GraphShape
from mainspring.facts.visible import GIB, visible
from mainspring.forecast.setup import Setup

USED = 0.9
"""Share of a GPU's memory that an engine takes (vLLM's default)."""

CONTEXT = 0.74 * GIB
"""CUDA context, captured graphs and workspaces, of each GPU (fitted to the RTX 4090 run above)."""

LINKS = 0.96 * GIB
"""Buffers to talk to the other GPUs, of each GPU of a group (what is left of aiconfigurator's 3.5 GiB)."""

WIDTHS = 6.0
"""Vectors as wide as the model that one token of a chunk keeps at the peak (assumed)."""

SAMPLED = 256 * 4.0 * 6.0
"""Bytes for each word of the vocabulary: logits of 256 sequences in FP32, and the sampler's copies (assumed)."""

GRAPH_CONTEXT = 0.75 * GIB
"""CUDA context and workspaces of a server of other models (assumed)."""

GRAPH_PROCESS = 0.1e9
"""Bytes of such a server on a CPU (assumed)."""

LIVE = 0.25
"""Share of what a row reads and writes that is in memory at once: half of it is written, half of that is still in use
(assumed)."""

LENGTH = 4096.0
"""Tokens of a sequence that `cache_tokens` counts in, where a window or a fixed state makes the length matter."""


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of one replica, all its GPUs together; bytes."""

    total: float  # what the driver shows
    usable: float  # what the engine takes of it
    weights: float
    reserve: float  # context, graphs, buffers for the other GPUs
    activations: float
    cache: float  # the rest: below zero when it doesn't fit
    setup: Setup

    @property
    def cache_tokens(self) -> float:
        """Tokens that the cache keeps in sequences of `LENGTH`; 0 when it doesn't fit."""
        return self.tokens(LENGTH)

    def tokens(self, length: float) -> float:
        """Tokens that the cache keeps, in sequences of `length` tokens; infinite when none keeps anything."""
        each = sequence_bytes(self.setup, length)
        return max(self.cache, 0.0) / each * length if each else math.inf

    def sequences(self, length: float) -> float:
        """Sequences of `length` tokens (prompt and output) that the cache keeps at once, each whole."""
        each = sequence_bytes(self.setup, length)
        return max(self.cache, 0.0) / each if each else math.inf


def room(setup: Setup, memory: float | None = None) -> Room:
    """Share out the memory of a replica.

    `memory`: bytes of one GPU, where it isn't the whole that the driver shows (a MIG slice has its own figure); without
    it a `share` below one is taken of the whole.
    """
    each = visible(setup.gpu) * setup.share if memory is None else memory
    total = setup.gpus * each
    weights = weight_bytes(setup)
    reserve = setup.gpus * (CONTEXT + (LINKS if setup.gpus > 1 else 0.0))
    activations = setup.gpus * activation_bytes(setup)
    cache = total * USED - weights - reserve - activations
    return Room(total, total * USED, weights, reserve, activations, cache, setup)


def cache_tokens(setup: Setup) -> float:
    """Tokens of KV cache that a replica has room for (copies of the attention part together); 0: it doesn't fit."""
    return room(setup).cache_tokens


def weight_bytes(setup: Setup) -> float:
    """Bytes of weights on all GPUs: copies of the attention part each have their own, experts are there once."""
    shape = setup.shape
    whole = shape.weight_bytes(setup.precision)
    if setup.attention_dp == 1:
        return whole
    experts = min(shape.routed * BYTES[setup.precision], whole)
    return experts + setup.attention_dp * (whole - experts)


def sequence_bytes(setup: Setup, length: float) -> float:
    """Bytes that one sequence of `length` tokens keeps, over all GPUs of its copy."""
    total = 0.0
    for part in setup.shape.attention:
        # The state of linear attention is summed over the whole sequence: engines never quantise it.
        each = 2.0 if part.kind == "linear" else BYTES[setup.kv]
        total += each * part.kept(length) * copies(part, setup.tp)
    return total


def copies(part: Attention, tp: int) -> float:
    """How often a kept element is there: key heads repeat beyond their number, a latent is on every GPU."""
    if part.kind == "latent":
        return float(tp)
    if part.kind == "linear":
        return 1.0
    return max(1.0, tp / part.kv_heads) if part.kv_heads else 1.0


def activation_bytes(setup: Setup) -> float:
    """Bytes of one GPU at the peak of a step: a chunk of prompt on its way, and the sampler."""
    shape = setup.shape
    return 2.0 * setup.chunk * shape.hidden * WIDTHS + SAMPLED * shape.vocab


def graph_bytes(shape: GraphShape, device: Gpu | Cpu, precision: str, batch: float) -> float:
    """Bytes that a server of another model needs: weights, what is in use of a batch of so many rows, and the process.

    Raises `InputError` (`unknown-precision`).
    """
    live = LIVE * shape.activation_bytes * graph_element(device, precision) / 4.0 * batch
    process = GRAPH_CONTEXT if isinstance(device, Gpu) else GRAPH_PROCESS
    return graph_weights(shape, device, precision) + live + process


def graph_element(device: Gpu | Cpu, precision: str) -> float:
    """Bytes of an activation: those of the weights, but no fewer than two on a GPU and four on a CPU, INT8 aside."""
    if precision not in BYTES:
        raise InputError("unknown-precision", f"no precision is known as `{precision}`", "mainspring catalog gpus")
    if precision == "int8":
        return 1.0
    return max(BYTES[precision], 2.0 if isinstance(device, Gpu) else 4.0)


def graph_weights(shape: GraphShape, device: Gpu | Cpu, precision: str) -> float:
    """Bytes of the weights at a precision; trees stay as they are, and a CPU computes FP16 in FP32."""
    if shape.visits or (isinstance(device, Cpu) and precision != "int8"):
        return shape.weight_bytes
    return min(shape.weight_bytes, shape.parameters * BYTES[precision])
