"""What decisions remember from one cycle to the next: one frozen value, stored whole.

Only what cannot be seen in the world belongs here. An unknown `schema` means hold: a newer Mainspring wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from pydantic import TypeAdapter

from mainspring.decide.scale import Scaling
from mainspring.decide.terms import Terms
from mainspring.loop.snapshot import Now

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """A registered model: `champion` is an output, so what it should be is remembered here."""

    champion: str = ""
    previous: str = ""
    floor: str = ""  # the highest version that had passed at the last `undo`: only a higher one is tried by itself
    undone: str = ""  # the champion until the last `undo`, as long as its alias may still be on the way


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """A supervised process: its starts, for restarts with backoff."""

    generation: int = 0
    starts: tuple[float, ...] = ()  # Now.mono of the latest starts, oldest first
    failures: int = 0  # ends in a row that were not asked for, and starts that were not begun
    ready: int = 0  # the generation that was seen ready, and told of
    settings: str = ""  # digest of what it was started with; "" when that is not known
    asked: bool = False  # the loop stopped it itself, to start it with other settings
    leaving: bool = False  # it is taken out of the routes, to be stopped when nobody is routed to it any more
    unbegun: int = 0  # of `failures`: starts that the world refused, or that the controller did not live to begin


@dataclass(frozen=True, slots=True)
class StagePinned:
    """A stage of a rollout, as the stack file said when the rollout began."""

    kind: str  # "mirror" | "canary" | "ab" | "waves" | "all"
    share: float
    seconds: float  # of waves: for each of them
    region: str = ""  # the one whose requests it touches; "": all
    otherwise: str = "proceed"  # "wait" | "proceed" | "abort"; what an older Mainspring began goes on as it did
    metric: str = ""  # the field of feedback of an A/B test
    step: int = 0  # replicas of a wave, in all or in each region; 0: `step_share`
    step_share: float = 0.0
    per_region: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """What the replicas of an endpoint are started with, beside the version: a change of it is rolled out too."""

    runtime: str = "onnx"
    threads: int = 1
    batch_size: int = 32
    batch_wait: float = 0.002  # seconds
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointMemory:
    """The settings that an endpoint's live replicas run with, which may be older than the stack file's."""

    generation: int = 1  # counts settings; 1 is left out of revision names
    launch: Launch | None = None
    refused: tuple[Launch, ...] = ()  # settings whose rollout was given up
    begun: int = 1  # the last generation that a rollout was begun with, so that none is given out twice
    cut: str = ""  # label of the revision that was given up last: it leaves the routes at once


@dataclass(frozen=True, slots=True)
class Scope:
    """From when on evidence is taken of which requests; a test goes over all scopes, one behind the other."""

    since: float  # event time
    region: str = ""  # only requests from there; "": all
    fresh: bool = False  # times are compared with those of fresh control replicas
    until: float | None = None  # event time of its end, where that isn't the next one's beginning


@dataclass(frozen=True, slots=True)
class RolloutMemory:
    """A rollout under way; its parameters are pinned when it begins."""

    endpoint: str
    model: str
    candidate: str  # version number
    control: str
    stages: tuple[StagePinned, ...]
    abort_errors: float | None
    abort_p95: float | None
    margin: float  # how much worse (Brier) the candidate may be on paired rows
    confidence: float
    began: float  # event time
    stage: int = 0
    stage_began: float = 0.0  # event time
    stage_watched: float = 0.0  # Now.watched when the stage began
    mirror_since: float | None = None  # event time of the mirror stage, kept for the later stages' evidence
    paused: bool = False
    ready: bool = False  # the candidate's replicas answered, so the stage's clock runs
    terms: Terms | None = None  # the bounds and promises, pinned; None: of an older Mainspring, see `abort_errors`
    launch: Launch | None = None  # the candidate's settings; None: those that the endpoint has
    generation: int = 0  # of `launch`; 0: the endpoint's
    live_since: float | None = None  # event time of the candidate's first stage that users see
    shares: tuple[tuple[float, float], ...] = ()  # (event time, the candidate's share from then on), in live stages
    skip: tuple[tuple[float, float], ...] = ()  # event times in which replicas warmed up
    wave: int = 0  # of a stage of waves: how many are begun
    fresh: int = 0  # fresh replicas of the old version that are wanted as control; 0: there is no room for any
    sticky: bool = False  # the split is by user or session
    scopes: tuple[Scope, ...] = ()  # of the stages that users see, oldest first
    feedback: str = ""  # the field of feedback that `terms.score` is about
    lag: float = 600.0  # seconds after which a request has ended in any case: the endpoint's time limit
    mirrors: tuple[tuple[float, float, str], ...] = ()  # as `ArmsQuery.mirrors`
    done: bool = False  # all stages went well; the rollouts of the same version behind other endpoints are waited for
    noted: float | None = None  # event time of the last record of how it gets on
    states: tuple[str, ...] = ()  # of the checks, in that record
    newest: str = ""  # the highest version that had passed when it began: a higher one takes its place
    skipped: int = 0  # stages that were left out, since there was no room for them
    ended: int = 0  # stages and waves that a person ended


@dataclass(frozen=True, slots=True)
class RunMemory:
    """A run that was started and is not dealt with yet."""

    id: str
    pipeline: str
    cause: str
    attempt: int
    since: float | None
    until: float
    champion: str  # artefact folder
    champion_version: str
    candidate: str  # artefact folder of a version that is only judged
    candidate_version: str
    first: bool
    asked: int = 0  # times that the registry was asked to take in what it made
    ask_at: float = 0.0  # Now.mono from which it is asked again
    convert: str = ""  # a precision: `source` is converted, and nothing is trained
    source: str = ""  # artefact folder that is converted
    alone: bool = False  # asked by `mainspring gate`: its verdict is written down, and starts nothing
    anew: bool = False  # of a version whose rollout was given up: when it passes, it may be tried again


@dataclass(frozen=True, slots=True)
class PipelineMemory:
    """A pipeline: how many runs it had, and when."""

    count: int = 0
    starts: tuple[float, ...] = ()  # event times of triggered runs, oldest first
    failed: int = 0  # failures in a row
    scheduled: float = 0.0  # event time up to which the schedule was looked at
    wants: str = ""  # cause of a run that is wanted and waits for its turn
    content: str = ""  # what the last run packaged, where nothing is trained: `PipelineSpec.content`
    contents: tuple[tuple[str, str], ...] = ()  # the same of late runs, by their ids, oldest first


@dataclass(frozen=True, slots=True)
class Memory:
    """Everything that decisions remember."""

    schema: int = SCHEMA
    began: float | None = None  # event time of the first cycle
    last: Now | None = None
    watched: float = 0.0
    desired: str = ""  # revision of the desired state last decided on
    epoch: int = 0  # of the last route table
    looked: float | None = None  # event time of the last look by monitoring
    models: dict[str, ModelMemory] = field(default_factory=dict)
    processes: dict[str, ProcessMemory] = field(default_factory=dict)
    rollouts: dict[str, RolloutMemory] = field(default_factory=dict)  # by endpoint
    runs: dict[str, RunMemory] = field(default_factory=dict)  # by id
    pipelines: dict[str, PipelineMemory] = field(default_factory=dict)
    scales: dict[str, Scaling] = field(default_factory=dict)  # by endpoint whose number of replicas follows its load
    endpoints: dict[str, EndpointMemory] = field(default_factory=dict)  # by name
    aborted: tuple[str, ...] = ()  # "model/number/digest" of versions whose rollout was given up; once without digest
    alone: tuple[str, ...] = ()  # "model/number" of versions that passed by `gate` alone: not rolled out by themselves


@cache
def _adapter() -> TypeAdapter[Memory]:
    return TypeAdapter(Memory)


def to_json(memory: Memory) -> bytes:
    """Write a memory as JSON."""
    return _adapter().dump_json(memory)


def from_json(text: bytes) -> Memory:
    """Read a memory; raises `ValueError` when it is not one."""
    return _adapter().validate_json(text)
