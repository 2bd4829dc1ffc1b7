"""When requests come: drawn beforehand, so that nothing that happens in the run can move them.

What this is: arrays of seconds after the start; pure but for its seed. Who calls it: `plan.py`. What it must never
do: look at a clock.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mainspring.errors import InputError

Floats = NDArray[np.float64]

MOST = 1_000_000
"""Requests of one run, at most."""


def poisson(rate: float, seconds: float, seed: int) -> Floats:
    """Independent arrivals at `rate` a second: as many as a Poisson count says, each at any moment alike."""
    _sane(rate, seconds)
    draw = np.random.default_rng(seed)
    count = min(int(draw.poisson(rate * seconds)), MOST)
    return np.sort(draw.uniform(0.0, seconds, count))


def constant(rate: float, seconds: float) -> Floats:
    """One arrival each 1/`rate` seconds, the first at once."""
    _sane(rate, seconds)
    return np.arange(max(1, math.ceil(rate * seconds - 1e-9))) / rate


def _sane(rate: float, seconds: float) -> None:
    if not (math.isfinite(rate) and rate > 0 and math.isfinite(seconds) and seconds > 0):
        raise InputError("bad-rate", f"`{rate:g}/s` for `{seconds:g}s` is no load", "as in: --rate 5/s --for 30s")
    if rate * seconds > MOST:
        message = f"`{rate:g}/s` for `{seconds:g}s` are more than {MOST:,} requests"
        raise InputError("too-many-requests", message, "a shorter `--for`, or a lower `--rate`")
