"""What the twin takes for true of a world: times, traffic and how models age. Every number may be replaced.

These are assumptions until something measured them; a forecast that rests on them says so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a version behaves where it is not like the others."""

    error_rate: float | None = None  # None: as `Beliefs` has it
    refuse_rate: float = 0.0  # answers with 4xx
    leave_rate: float = 0.0  # requests whose client leaves before the answer
    latency: float | None = None  # seconds, the median
    slower: tuple[float, ...] = ()  # times so long, by stratum of prompt length; those not named: 1
    tokens: float = 1.0  # times as many output tokens
    compute: float = 1.0  # times as many seconds charged
    score: float | None = None  # mean of the feedback on it


ORDINARY = Conduct()


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
    latency: float = 0.004  # the median
    spread: float = 0.2  # of the logarithm of times
    prompts: tuple[float, ...] = (1.0,)  # shares of requests by stratum of prompt length (`decide.arms.STRATA`)
    first: float = 0.0  # the part of an answer's time that its first token takes; 0: nothing is streamed
    output_tokens: float = 0.0  # of an answer, on average; 0: not a language model
    feedback: float = 0.0  # share of answers that users give feedback on
    score: float = 0.8  # the mean of it
    visits: int = 10  # requests of one user
    conduct: Mapping[str, Conduct] = field(default_factory=dict)
    """By revision (`chat-3.2`), else by its label (`3.2`), else by the version's number (`3`)."""
    version_size: float = 1e6  # bytes of weights
    converted_size: float = 0.5  # of those of the version that was converted
    truth_after: float = DAY  # when the outcome of a request becomes known
    positive_rate: float = 0.25
    base_loss: float = 0.160  # Brier of a model that knows the season
    season_loss: float = 0.060  # what a model loses in a season that it never saw
    noise: float = 0.004  # of a day's mean loss
    season_days: float = 365.0

    def of(self, revision: str) -> Conduct:
        """How a revision behaves, by its name."""
        label = revision.rsplit("-", 1)[-1]
        names = (revision, label, label.split(".")[0])
        return next((self.conduct[name] for name in names if name in self.conduct), ORDINARY)


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
