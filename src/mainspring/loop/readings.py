"""What decisions want to know from samples, and the answers: counts, sums and histograms.

All are additive and independent of the order of arrival, so that the same records give the same
decision, whatever was killed in between. An answer that cannot be given is `Unknown`, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mainspring.decide.arms import Arms


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows: the source is away, or there are no samples. Never zero."""

    why: str


@dataclass(frozen=True, slots=True)
class TrafficQuery:
    """Requests of one revision with event time in [since, until)."""

    endpoint: str
    revision: str
    role: str  # "live" | "mirror"
    since: float
    until: float


# Upper edges of the latency buckets, seconds; one more bucket is above the last.
LATENCY_EDGES: tuple[float, ...] = tuple(round(0.0005 * 2 ** (i / 2), 9) for i in range(32))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counts of distinct requests (by id)."""

    requests: int
    errors: int  # status 0 or >= 500
    latency: tuple[int, ...]  # upstream seconds of undisturbed answers (one try), by LATENCY_EDGES
    compute: float  # seconds


@dataclass(frozen=True, slots=True)
class ArmsQuery:
    """What both arms of a rollout did in [since, until), event time."""

    endpoint: str
    candidate: str  # revision name
    control: tuple[str, ...]  # revision names of the old version, its fresh replicas' too
    fresh: str  # the one whose times are compared; "": all of `control`
    since: float  # when the candidate first answered users; slices are counted from here
    until: float
    width: float  # seconds of a slice
    stage_since: float  # when the present stage began: sums are of this stage
    mirror_since: float | None = None  # when its unseen answers began
    shares: tuple[tuple[float, float], ...] = ()  # (event time, share that the routes gave the candidate from then on)
    skip: tuple[tuple[float, float], ...] = ()  # [from, to): replicas were warming up, times don't count
    sticky: bool = False  # the split is by user or session: they are counted too
    region: str = ""  # only requests from there; "": all
    score: str = ""  # a field of feedback; "": none
    metric: str = ""
    lag: float = 600.0  # seconds after which a request has ended in any case: the endpoint's time limit
    mirror_width: float = 0.0  # seconds of a slice of copies; 0: `width`
    mirrors: tuple[tuple[float, float, str], ...] = ()
    """(event time, share of the requests that were copied from then on, region that they came from; "": all); share 0:
    none, or not known."""

    def copied(self, at: int) -> tuple[float, str]:
        """Give share and region of the requests that were copied in slice `at` of copies; 0 where that is not known."""
        width = self.mirror_width or self.width
        begins = (self.mirror_since or 0.0) + at * width
        found = (0.0, "")
        for since, share, region in self.mirrors:
            if since <= begins:
                found = (share, region)
            elif since < begins + width:
                return (0.0, "")
        return found

    def weight(self, at: int) -> float:
        """Give the candidate's share by design in slice `at`; 0 where it changed inside, or is not known."""
        begins, ends = self.since + at * self.width, self.since + (at + 1) * self.width
        share = 0.0
        for since, given in self.shares:
            if since <= begins:
                share = given
            elif since < ends:
                return 0.0
        return share


@dataclass(frozen=True, slots=True)
class PairsQuery:
    """Rows that both revisions answered (one of them as mirror) and whose truth is known."""

    endpoint: str
    candidate: str  # revision name
    control: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class DayPairs:
    """One day of paired rows; losses are squared errors of the probability (Brier)."""

    day: int  # days since 1970-01-01, UTC
    rows: int
    loss_candidate: float  # sum over rows
    loss_control: float
    positives: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """Paired rows by day, in order; `untold` pairs still wait for their truth."""

    days: tuple[DayPairs, ...]
    untold: int
    differences: tuple[tuple[float, int], ...] = ()  # loss of candidate - control, rounded to 1/1000: value, rows


@dataclass(frozen=True, slots=True)
class QualityQuery:
    """Live answers, whatever the revision, with event time in [since, until)."""

    endpoint: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How good the live answers were, on rows whose truth is known."""

    rows: int
    positives: int
    loss: float  # sum of squared errors
    score: float  # sum of predicted probabilities
    histogram_positive: tuple[int, ...]  # scores of positives in 1,000 equal bins: for AUC
    histogram_negative: tuple[int, ...]
    untold: int  # answers without a truth yet


@dataclass(frozen=True, slots=True)
class DriftQuery:
    """Inputs (or the score, as feature `""`) of live answers in [since, until) against a version's reference."""

    endpoint: str
    model: str
    version: str
    features: tuple[str, ...]
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature: counts on the reference's own bins (the last bin is 'missing'), and its calibration."""

    feature: str  # "" is the predicted score
    reference: tuple[float, ...]  # shares of the reference rows, by bin
    counts: tuple[int, ...]  # rows of the window, by bin
    inside: tuple[float, ...]  # the statistic on windows of the same length inside the reference, sorted


@dataclass(frozen=True, slots=True)
class Drift:
    """All features that were asked for."""

    rows: int
    features: tuple[FeatureDrift, ...]


@dataclass(frozen=True, slots=True)
class SpendQuery:
    """Dollars spent by the whole stack in the budget's present period."""

    period: float  # seconds


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent."""

    dollars: float


Query = TrafficQuery | ArmsQuery | PairsQuery | QualityQuery | DriftQuery | SpendQuery
Reading = Traffic | Arms | Pairs | Quality | Drift | Spend
Readings = Mapping[Query, Reading | Unknown]
