"""The performance model: how sheet numbers and coefficients become the time of a step, of a prompt, and a closed loop.

What this is: one set of equations over arrays, used both to fit and to forecast; pure. Who calls it: `steps.py`,
`steady.py`, `calibrate.py`. What it must never do: know a name of a GPU, a model or an engine.

The batch `B` is what is in flight, or what memory has room for. A decode step reads weights or reckons (the cube root
of the sum of cubes: the larger of the two, rounded where they meet), reads the cache of each sequence, exchanges, and
has fixed costs for each layer, each sequence and itself. While a request makes its output, each of the other `B - 1`
is replaced once, so it waits `B - 1` prompts in its time: the time per token has a part `interleave (B-1) prompt /
output`. The first token waits for its own prompt, half a step, and part of the others' prompts (half of all of them for
requests that came in a burst); and where memory binds, for one of the `B` to end: `(C/B - 1)` times a whole request.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mainspring.forecast.terms import Floats, Terms

NAMES: tuple[str, ...] = (
    "weights", "compute", "cache", "hop", "link", "layer", "step", "sequence", "prompt", "attention", "interleave",
    "first", "queue", "chunk", "memory",
)  # fmt: skip

START: dict[str, float] = {
    "weights": float(np.log(1 / 0.75)),  # seconds over the sheet's seconds: 0.75 of the bandwidth is reached
    "compute": float(np.log(1 / 0.5)),
    "cache": float(np.log(1 / 0.6)),
    "hop": float(np.log(4e-6)),  # s
    "link": float(np.log(1 / 0.6)),
    "layer": float(np.log(20e-6)),  # s
    "step": float(np.log(1e-3)),  # s
    "sequence": float(np.log(5e-6)),  # s
    "prompt": float(np.log(1 / 0.5)),
    "attention": float(np.log(2.0)),
    "interleave": float(np.log(0.8)),
    "first": float(np.log(0.03)),  # s
    "queue": float(np.log(0.1)),  # share of the others' prompts that a first token waits for
    "chunk": 0.0,  # a step of prefill has the fixed costs of a step of decoding
    "memory": 0.0,  # share of memory that the engine takes over what `memory.py` says, times ten (not a logarithm)
}
"""Where a fit starts, and what holds without any measurement: efficiencies as planners assume them."""

SAID: dict[str, str] = {
    "weights": "decode bandwidth, share of the sheet's",
    "compute": "decode compute, share of the sheet's",
    "cache": "cache reads, share of the sheet's bandwidth",
    "hop": "one exchange between GPUs, s",
    "link": "link bandwidth, share of the sheet's",
    "layer": "fixed cost of a layer, s",
    "step": "fixed cost of a step, s",
    "sequence": "cost of a sequence in a step, s",
    "prompt": "prefill compute, share of the sheet's",
    "attention": "prefill attention, share of the sheet's",
    "interleave": "prefill of others, share that decoding waits for",
    "first": "fixed time to a first token, s",
    "queue": "prefill of others, share that a first token waits for",
    "chunk": "fixed cost of a step of prefill, in steps of decoding",
    "memory": "memory over the engine's default, share",
}

SHARES = ("weights", "compute", "cache", "link", "prompt", "attention")
"""Coefficients that are told as a share of the sheet's figure."""

KNEE = 32.0
"""How sharply memory binds: lengths differ, so a full cache is felt a little before it is full."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, and sequences."""

    running: Floats  # the batch, of all copies together
    room: Floats  # sequences that memory has room for
    bandwidth: Floats  # of a step: weights and cache
    compute: Floats  # of a step: products, where they take longer than the weights
    communication: Floats  # of a step
    overhead: Floats  # of a step
    stolen: Floats  # of a token's time: prompts of others
    tpot: Floats
    ttft: Floats  # waiting for memory included
    prompt: Floats  # one prompt alone


def values(log: dict[str, Floats]) -> dict[str, Floats]:
    """Coefficients as they are used, from their logarithms."""
    got = {name: np.exp(np.clip(log[name], -30.0, 12.0)) for name in NAMES if name != "memory"}
    got["memory"] = np.clip(0.1 * log["memory"], -0.3, 0.3)
    return got


def running(t: Terms, concurrency: Floats, c: dict[str, Floats]) -> tuple[Floats, Floats]:
    """The batch that memory allows, and how many there is room for."""
    space = np.maximum(t.room + c["memory"] * t.memory, 0.04 * t.memory)
    fits = np.maximum(space / t.sequence, 1.0)
    return (concurrency**-KNEE + fits**-KNEE) ** (-1.0 / KNEE), fits


def step(t: Terms, batch: Floats, c: dict[str, Floats]) -> tuple[Floats, Floats, Floats, Floats]:
    """One decode step of `batch` sequences: bandwidth, compute, communication and overhead, in seconds."""
    tokens = batch * t.tried
    each = batch / t.copies
    met = 1.0 - (1.0 - t.chosen) ** tokens
    read = (t.weights + t.experts * met) * c["weights"]
    products = t.compute * tokens * c["compute"]
    roof = (read**3 + products**3) ** (1.0 / 3.0)
    bound = products > read
    cache = t.cache * each * c["cache"]
    talk = t.hops * c["hop"] + (t.reduce * each + t.dispatch * batch) * t.tried * c["link"]
    fixed = t.layers * c["layer"] + c["step"] + batch * c["sequence"]
    guess = 1.0 + t.guess
    return (
        (np.where(bound, 0.0, roof) + cache) * guess,
        np.where(bound, roof, 0.0) * guess,
        talk * guess,
        fixed * guess,
    )


def prompt(t: Terms, c: dict[str, Floats]) -> tuple[Floats, Floats]:
    """One prompt: seconds that grow with its tokens, and all seconds until its first token is there."""
    grows = t.prefill * c["prompt"] + t.attention * c["attention"] + t.prefill_link * c["link"]
    read = (t.weights + t.experts) * c["weights"]
    fixed = (t.layers * c["layer"] + c["step"]) * c["chunk"] + t.hops * c["hop"]
    return grows, (grows**3 + read**3) ** (1.0 / 3.0) + fixed * t.chunks


def loop(t: Terms, concurrency: Floats, log: dict[str, Floats]) -> Times:
    """A closed loop with `concurrency` requests in flight."""
    c = values(log)
    batch, fits = running(t, concurrency, c)
    parts = step(t, batch, c)
    grows, alone = prompt(t, c)
    others = np.maximum(batch - 1.0, 0.0) * grows
    stolen = c["interleave"] * others / np.maximum(t.output, 1.0)
    tpot = (parts[0] + parts[1] + parts[2] + parts[3]) / t.gained + stolen
    own = c["first"] + alone + 0.5 * tpot + (c["queue"] + 0.5 * t.burst) * others
    wait = np.maximum(concurrency / batch - 1.0, 0.0) * (own + t.output * tpot)
    return Times(batch, fits, *parts, stolen, tpot, own + wait, alone)
