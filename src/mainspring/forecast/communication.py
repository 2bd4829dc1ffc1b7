"""What the GPUs of a replica say to each other in one step.

What this is: counts of exchanges and seconds at the sheet's speed of a link; pure. Who calls it: `forecast/terms.py`.
What it must never do: hold a coefficient, or know a batch.

Tensor parallelism sums every layer's output twice (after attention and after the feed-forward part; Megatron-LM,
Shoeybi et al. 2019). A ring moves `2 (T-1)/T` of a vector over each link; a tree needs `log2 T` exchanges.
"""

from __future__ import annotations

import math

from mainspring.forecast.setup import Setup

WIRE = 2.0
"""Bytes of one element on its way (activations go as BF16)."""

DISPATCH = 1.5
"""Bytes of one element on its way to an expert and back, on average: FP8 there, BF16 back (DeepEP's defaults)."""


def hops(setup: Setup) -> float:
    """Exchanges of one step that wait for each other."""
    return 2.0 * setup.shape.layers * math.log2(setup.tp) if setup.tp > 1 else 0.0


def reduce_seconds(setup: Setup) -> float:
    """Seconds on a link for one token of a copy of the attention part, all layers, at the sheet's speed."""
    if setup.tp == 1:
        return 0.0
    moved = 2.0 * (setup.tp - 1) / setup.tp * setup.shape.hidden * WIRE
    return 2.0 * setup.shape.layers * moved / setup.gpu.link


def dispatch_seconds(setup: Setup) -> float:
    """Seconds on a link to bring one token to its experts and back, all layers, where experts are spread."""
    experts, gpus = setup.shape.experts, setup.gpus
    if experts is None or setup.expert_parallel == 1 or setup.attention_dp == 1:
        return 0.0  # without copies of the attention part, every GPU has every token already
    moved = 2.0 * experts.active * setup.shape.hidden * DISPATCH * (gpus - 1) / gpus
    return experts.layers * moved / setup.attention_dp / setup.gpu.link
