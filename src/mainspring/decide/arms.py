"""What the two arms of a rollout did: the new version (candidate) and the old one (control), side by side in time.

What this is: frozen counts, additive and without order inside a slice, so that the same records give the same
decision. Who calls it: monitoring fills them in, `decide/rollout.py` judges them, benchmarks make them up.
What it must never do: hold what a single user said.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EDGES: tuple[float, ...] = tuple(0.0005 * 2 ** (i / 16) for i in range(16 * 18 + 1))
"""Upper edges of buckets of times, seconds: 0.5 ms to 131 s, each 4.4 % above the last; one more bucket is above."""

AMOUNTS: tuple[float, ...] = tuple(2 ** (i / 8) * 1e-4 for i in range(8 * 34 + 1))
"""Upper edges of buckets of amounts (tokens, seconds of compute): 1e-4 to 1.7e6, each 9 % above the last."""

STRATA: tuple[int, ...] = (128, 512, 2048, 8192)
"""Upper edges of the strata of prompt length, tokens; one more is above. A request that says none is in stratum 0."""

SLICES = 720  # of the first stage that users see
LEAST_WIDTH, MOST_WIDTH = 1.0, 3600.0  # seconds of a slice

Histogram = tuple[tuple[int, int], ...]
"""Buckets that something fell into, in order, each with its count; the others are zero."""


@dataclass(frozen=True, slots=True)
class Counts:
    """One arm in one slice of time and one stratum."""

    requests: int = 0
    errors: int = 0  # no answer, or one of the server's own faults (5xx)
    times: Histogram = ()  # seconds at the replica of undisturbed answers (one try), by `EDGES`; warm-up left out
    firsts: Histogram = ()  # seconds to the first token of streams, by `EDGES`; warm-up left out
    refused: int = 0  # answers of a replica with 4xx: the clients' own faults, as the version sees them
    left: int = 0  # whose client left before the answer began or ended: neither answered nor failed
    waited: Histogram = ()  # seconds at the replica until those left (0: none had it), by `EDGES`; warm-up left out


@dataclass(frozen=True, slots=True)
class Slice:
    """Both arms in one stretch of time, among requests of like length."""

    at: int  # number of the stretch, from 0: `ArmsQuery.width` seconds each
    stratum: int
    candidate: Counts
    control: Counts  # errors: of all old replicas; times: of the fresh ones, where there are such
    weight: float = 0.0  # the candidate's share by design, where all of it is known to be the same; 0: not known


@dataclass(frozen=True, slots=True)
class Sums:
    """What is judged by its mean: one arm over the present stage."""

    tokens: Histogram = ()  # output tokens of an answer, by `AMOUNTS`
    compute: Histogram = ()  # seconds charged to an answer, by `AMOUNTS`
    scores: tuple[tuple[float, int], ...] = ()  # feedback: distinct values in 0 to 1 (at most 1,001: rounded), counts
    metric: tuple[tuple[float, int], ...] = ()  # the field that an A/B test is about, likewise


@dataclass(frozen=True, slots=True)
class Units:
    """Whoever the split is made by (users, sessions), each once: those of one user are not independent.

    Where units are known, what is measured of answers is of the present stage alone (in a query that is over: of all
    of it), and one value of each unit, since those of one are alike: in `times`, `firsts` and `waited` of the slices
    its first, whichever arm it had, and in `Sums` its mean. In each stage this begins anew.
    """

    seen: int = 0
    failing: int = 0  # with at least one error
    refused: int = 0  # refused at least once
    left: int = 0  # who left at least once


@dataclass(frozen=True, slots=True)
class Arms:
    """Everything about a rollout's two arms since its first request."""

    slices: tuple[Slice, ...] = ()  # in order of (at, stratum); whole stretches only
    candidate: Sums = field(default_factory=Sums)
    control: Sums = field(default_factory=Sums)
    candidate_units: Units | None = None  # None: the split is made for each request
    control_units: Units | None = None
    routed: tuple[tuple[float, int, int], ...] = ()  # for each share that the routes gave: share, requests each arm got
    mirrored: Counts = field(default_factory=Counts)  # the candidate's answers that nobody saw
    mirrored_slices: tuple[Slice, ...] = ()  # candidate: copies; control: the live answers of the same time and region;
    # weight: s / (1 + s), where the share s was copied all the time; 0: not known. Slices are numbered from the
    # beginning of mirroring and are `ArmsQuery.mirror_width` long; their stratum is 0, since the requests are the same
    untold: int = 0  # requests whose feedback has not come
    earlier: tuple[tuple[Units, Units, float], ...] = ()  # of scopes that are over: units of both arms, largest share
    whole: float = 0.0  # seconds since the query's beginning that slices are whole for, whether anybody came or not
    mirrored_whole: float = 0.0  # the same of copies, since mirroring began


def width_of(seconds: float) -> float:
    """Seconds of a slice, by the length of the first stage that users see: a 720th of it, 1 s to 1 h."""
    return min(MOST_WIDTH, max(LEAST_WIDTH, seconds / SLICES))
