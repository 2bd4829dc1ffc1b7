"""How long a request is with a replica, in the twin: from its tokens, and from how many others are there.

What this is: a line fitted to what `mainspring bench` measured, or assumed and labelled so; pure. Who calls it:
`worlds/twin/queueing.py`. What it must never do: pass an assumption for a measurement.

    seconds = fixed + prompt tokens x prefill + output tokens x (decode + crowd x (others in the replica))
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mainspring.errors import InputError


@dataclass(frozen=True, slots=True)
class Service:
    """Seconds of a request; the defaults are assumed (an 8B model on one data-centre GPU, roughly)."""

    fixed: float = 0.02
    prefill: float = 0.000_1  # for each token of the prompt
    decode: float = 0.012  # for each token of the answer, alone
    crowd: float = 0.000_4  # more, for each other request in the replica
    says: str = "assumed: 10,000 prompt tokens/s, 12 ms a token, 0.4 ms more for each other request"

    def seconds(self, prompt: float, output: float, running: int) -> float:
        """Of one request that begins as one of `running` in its replica."""
        return self.fixed + prompt * self.prefill + output * (self.decode + self.crowd * (running - 1))


def measured(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Service:
    """From what `mainspring bench -o json` printed, one result or several of different rates.

    The time to the first piece gives `prefill`. The rest of the mean time of a request is its output tokens': with
    several results, a line through it over the requests in flight gives `crowd`. So a full replica of the twin serves
    as many a second as the measured one did; a median of the gaps would leave out the stalls while others' prompts
    are read. `InputError` for one that holds no tokens or no streams.
    """
    points = [_point(result, name) for result, name in zip(results, names, strict=True)]
    if not points:
        raise InputError("no-bench", "no result of a bench was given", "mainspring bench URL -o json > bench.json")
    prefill = sum(one.first / one.prompt for one in points) / len(points)
    flight = np.array([one.flight for one in points])
    token = np.array([max(one.mean - one.prompt * prefill, 0.0) / one.output for one in points])
    crowd = 0.0
    if len(points) > 1 and float(np.ptp(flight)) > 0.5:
        crowd = max(0.0, float(np.polyfit(flight, token, 1)[0]))
    decode = max(1e-9, float((token - crowd * np.maximum(flight - 1.0, 0.0)).mean()))
    much = f"{crowd * 1e3:.3g} ms more for each other request" if crowd else f"as at {flight.mean():.3g} in flight"
    says = f"measured ({', '.join(names)}): {1 / prefill:,.0f} prompt tokens/s, {decode * 1e3:.3g} ms a token, {much}"
    return Service(0.0, prefill, decode, crowd, says)


class _Point(NamedTuple):
    prompt: float  # tokens that were read
    output: float
    flight: float  # requests
    first: float  # seconds to the first piece, median
    mean: float  # seconds of a request


def _point(result: Mapping[str, Any], name: str) -> _Point:
    try:
        tokens, answered = result["tokens"], float(result["answered"])
        mean = float(result["service"]["mean"])
        found = _Point(
            float(tokens["prompt"] - tokens["cached"]) / answered,
            float(tokens["output"]) / answered,
            float(result["answered_per_second"]) * mean,
            float(result["ttft_service"]["p50"]["value"]),
            mean,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        hint = "mainspring bench URL -o json > bench.json, against a language model, streamed"
        raise InputError("bad-bench", f"`{name}` holds no times of tokens", hint) from error
    if not all(math.isfinite(one) and one > 0 for one in found):
        raise InputError("bad-bench", f"`{name}` holds a time or a count of `0`", "measure for longer: --for 60s")
    return found
