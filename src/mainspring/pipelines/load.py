"""Timing a replica that is judged: at a rate that is kept whether it keeps up or not.

What this is: the gate's load, by the same generator as `mainspring bench`. Who calls it: the built-in step
`evaluate`, in its own process. What it must never do: wait for one answer before it asks for the next at a rate, or
leave a request out that failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mainspring.bench.load import run
from mainspring.bench.plan import Plan
from mainspring.bench.prompts import Bodies
from mainspring.bench.samples import DONE
from mainspring.bench.target import Target
from mainspring.pipelines.candidate import Served
from mainspring.stack.units import Rate

REQUESTS = 40  # from which a 95th percentile is taken, at the least
SECONDS = (2.0, 60.0)  # that asking at a rate takes: not less, and not more
TIMEOUT = 60.0
SEED = 1


def under_load(served: Served, bodies: Sequence[bytes], rate: Rate) -> float:
    """Seconds within which 95 of 100 answers are whole, counted from when each was due; inf when more than 5 failed."""
    seconds = min(max(REQUESTS / rate.per_second, SECONDS[0]), SECONDS[1])
    plan = Plan.poisson(rate.per_second, seconds, seed=SEED, prompts=Bodies(tuple(bodies)), timeout=TIMEOUT)
    result = run(target(served), plan)
    samples = result.samples
    took = np.where(samples.kind == DONE, samples.end - samples.due, math.inf)
    p95 = float(np.quantile(took, 0.95, method="higher"))
    told = f"{result.answered} of {result.planned} answers at {rate.per_second:g}/s over {seconds:.0f} s"
    print(f"latency: {served.name}: {told}: 95 of 100 within {p95:.2f} s", flush=True)
    for kind, message in result.said.items():
        print(f"latency: {result.errors.get(kind, 0)} x {kind}: {message}", flush=True)
    if result.limited_by_generator:
        print(f"latency: the generator itself was the limit: {'; '.join(result.generator.reasons)}", flush=True)
    return p95


def target(served: Served) -> Target:
    """The replica as the generator of `mainspring bench` asks it."""
    return Target.of(f"http://{served.address}/v1", model=served.model, stream=False, token=served.key, connections=256)
