"""What a rollout is judged by, and what the judgement says.

What this is: frozen values. Who calls it: both, and through `decide/rollout.py` everybody else.
What it must never do: decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mainspring.decide.arms import Arms


@dataclass(frozen=True, slots=True)
class Bound:
    """More than this gives a rollout up."""

    value: float  # a share of answers, seconds; or, where `over`, the fraction over the control: 0.2 for 20 %
    over: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What a rollout was begun with: bounds, promises, and how sure it has to be. Pinned."""

    errors: tuple[Bound, ...] = (Bound(0.0, over=True),)
    p95: tuple[Bound, ...] = ()
    ttft: tuple[Bound, ...] = ()
    tokens: float | None = None  # fraction over the control
    cost: float | None = None
    score: float | None = None  # how much lower the mean of feedback (0 to 1) may be
    margin: float | None = None  # how much higher the mean Brier loss on paired rows may be; None: nothing is paired
    promised_errors: float | None = None  # 1 - availability
    promised_p95: float | None = None  # seconds
    promised_ttft: float | None = None
    alpha: float = 0.05  # chance of a false abort, over the whole rollout
    beta: float = 0.05  # chance of a wrong promotion
    confidence: float = 0.95  # of paired rows
    stages: int = 1  # that users see, waves one by one: sums (tokens, cost, feedback) begin anew in each
    tests: int = 1  # A/B tests among them: the metric begins anew in each


@dataclass(frozen=True, slots=True)
class Looked:
    """The stage that is judged, and how long it was watched."""

    kind: str  # "mirror" | "canary" | "ab" | "waves" | "all"
    share: float
    elapsed: float  # watched seconds
    length: float  # of `for`, or of one wave
    otherwise: str = "wait"  # "wait" | "proceed" | "abort"
    metric: str = ""  # the field that an `ab` stage is about
    per_second: float = 0.0  # the candidate's requests/s of late, to say how long still; 0: not known
    requests: int | None = None  # the candidate's in this stage (of a mirror: copies); None: not told
    covered: float | None = None  # seconds of the stage of which all is known, to a slice; None: not told


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of both arms."""

    arms: Arms | None  # None: unknown
    days: tuple[tuple[int, float], ...] = ()  # paired rows by day: rows, sum of (candidate loss - control loss)
    differences: tuple[tuple[float, int], ...] = ()  # paired rows: loss difference to 1/1000, how many
    told: bool = True  # outcomes come back, so that answers can be right or wrong; not so of language models
    unknown: str = ""  # why `arms` is None


Kind = Literal["hold", "advance", "abort"]
State = Literal["bad", "certain", "open", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is looked at, and what is known of it."""

    name: str
    state: State  # "open": neither surely bad nor (where something was promised) surely kept
    message: str  # one sentence with its numbers
    evidence: float = 1.0  # e-value against "it is within its bound"
    threshold: float = 0.0  # at which it gives the rollout up (of "split": holds it up); 0: it has no bound
    certainty: float = 1.0  # e-value for what was promised
    wanted: float = 0.0  # of `certainty`, 1/beta; 0: nothing was promised about it
    requests_left: int | None = None  # about so many more, at what was seen, until certain; None: not known, or never
    numbers: dict[str, float] = field(default_factory=dict)
    risk: str = ""  # what is taken by going on without the certainty; "": nothing was promised, or it is kept


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """The verdict, in a sentence and in numbers."""

    kind: Kind
    message: str
    checks: tuple[Check, ...] = ()
    risk: str = ""  # what is not certain, with its number, when it proceeds all the same
    numbers: dict[str, float] = field(default_factory=dict)  # flat, for records
