"""What decisions remember from one cycle to the next: one frozen value, stored whole.

Only what cannot be seen in the world belongs here. An unknown `schema` means hold: a newer Mainspring wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from pydantic import TypeAdapter

from mainspring.decide.scale import Scaling
from mainspring.loop.snapshot import Now

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """A registered model: `champion` is an output, so what it should be is remembered here."""

    champion: str = ""
    previous: str = ""


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """A supervised process: its starts, for restarts with backoff."""

    generation: int = 0
    starts: tuple[float, ...] = ()  # Now.mono of the latest starts, oldest first
    failures: int = 0  # ends in a row that were not asked for
    ready: int = 0  # the generation that was seen ready, and told of
    settings: str = ""  # digest of what it was started with; "" when that is not known
    asked: bool = False  # the loop stopped it itself, to start it with other settings
    leaving: bool = False  # it is taken out of the routes, to be stopped when nobody is routed to it any more


@dataclass(frozen=True, slots=True)
class StagePinned:
    """A stage of a rollout, as the stack file said when the rollout began."""

    kind: str  # "mirror" | "canary" | "all"
    share: float
    seconds: float


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
    aborted: tuple[str, ...] = ()  # "model/number" of versions whose rollout was given up


@cache
def _adapter() -> TypeAdapter[Memory]:
    return TypeAdapter(Memory)


def to_json(memory: Memory) -> bytes:
    """Write a memory as JSON."""
    return _adapter().dump_json(memory)


def from_json(text: bytes) -> Memory:
    """Read a memory; raises `ValueError` when it is not one."""
    return _adapter().validate_json(text)
