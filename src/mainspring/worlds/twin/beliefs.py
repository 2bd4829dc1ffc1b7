"""What the twin takes for true of a world: times, traffic and how models age. Every number may be replaced.

These are assumptions until something measured them; a forecast that rests on them says so.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Assumed service times and behaviour; seconds, rows a day, shares of one."""

    gateway_start: float = 0.3
    replica_start: float = 1.5
    process_stop: float = 0.2
    run_seconds: float = 20.0
    ack_seconds: float = 0.1
    requests_per_day: int = 900
    error_rate: float = 0.0
    latency: float = 0.004
    version_size: float = 1e6  # bytes of weights
    converted_size: float = 0.5  # of those of the version that was converted
    truth_after: float = DAY  # when the outcome of a request becomes known
    positive_rate: float = 0.25
    base_loss: float = 0.160  # Brier of a model that knows the season
    season_loss: float = 0.060  # what a model loses in a season that it never saw
    noise: float = 0.004  # of a day's mean loss
    season_days: float = 365.0


def season(beliefs: Beliefs, wall: float) -> float:
    """The state of the world at a moment: between -1 and 1, once around in `season_days`."""
    return -math.cos(2 * math.pi * (wall / DAY - 15) / beliefs.season_days)


def strangeness(beliefs: Beliefs, wall: float, trained_from: float, trained_until: float) -> float:
    """How far the season at `wall` lies outside those that a model was trained on: 0 to 2."""
    days = np.arange(trained_from, max(trained_until, trained_from + DAY), DAY)
    seen = -np.cos(2 * math.pi * (days / DAY - 15) / beliefs.season_days)
    here = season(beliefs, wall)
    return max(0.0, here - float(seen.max()), float(seen.min()) - here)


def noise(seed: int, *about: object) -> np.random.Generator:
    """Randomness that depends on what it is about, never on how often somebody asked: crashes change nothing."""
    text = "|".join(str(part) for part in about)
    key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return np.random.default_rng([seed, key])


def mean_loss(beliefs: Beliefs, seed: int, day: int, trained_from: float, trained_until: float, who: str) -> float:
    """Mean squared error of a model on one day: rows of a day share the day's luck, models differ a little."""
    away = strangeness(beliefs, day * DAY, trained_from, trained_until)
    shared = noise(seed, "day", day).normal(0, 4 * beliefs.noise)
    own = noise(seed, "model", who, day).normal(0, beliefs.noise)
    return max(0.02, beliefs.base_loss + beliefs.season_loss * away + float(shared) + float(own))
