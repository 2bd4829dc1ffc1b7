"""What is seen: the facts of one moment, as frozen values. Nothing here knows how they were found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from mainspring.decide.probes import SafetyNumbers
from mainspring.decide.ranges import InputNumbers
from mainspring.decide.routes import RouteTable
from mainspring.decide.scale import Load
from mainspring.stack.model import Stack


@dataclass(frozen=True, slots=True)
class Now:
    """The moment, by two clocks."""

    wall: float  # event time, POSIX seconds; may jump
    mono: float  # seconds that never go back, for restarts and time-outs; continues over controller boots
    watched: float  # seconds of wall time that were truly watched, gaps capped; for soaks


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A supervised process."""

    name: str  # "delay-3-0", "gateway-0", "run-delay-7"
    kind: str  # "replica" | "gateway" | "run"
    generation: int  # counts its starts; given by StartProcess
    state: str  # "starting" | "ready" | "stopping" | "exited" | "lost"
    address: str = ""  # "127.0.0.1:4123" once ready
    pid: int = 0
    exit_status: int | None = None  # of an exited one; minus the signal's number when a signal ended it
    reason: str = ""  # the last line of its error output, when it failed
    since: float = 0.0  # Now.mono when it was started


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """A model version in the registry."""

    model: str
    number: str
    run: str  # Mainspring's run that made it; "" when somebody else registered it
    digest: str
    artefact: str  # folder of the packaged model
    verdict: str = ""  # "" not judged | "passed" | "refused"
    note: str = ""  # the verdict in a sentence
    created: float = 0.0
    servable: bool = True  # a packaged artefact that the runtime can load, and may
    trusted: bool = False  # somebody marked this digest as trusted: only asked of formats that run code when loaded
    format: str = ""  # of the artefact: "onnx", "gguf", "safetensors", "mlflow", "python", "external"; "" not known
    inputs: tuple[tuple[str, str], ...] = ()  # (name, datatype) of each raw field, in the manifest's order
    output: str = ""  # name of the tensor that requests get


@dataclass(frozen=True, slots=True)
class StepSeen:
    """One step of a run."""

    name: str
    state: str  # "waiting" | "running" | "cached" | "succeeded" | "failed"
    attempt: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class DayLoss:
    """One day of the rows held out for the gates: the same rows for both models."""

    day: int
    rows: int
    candidate: float  # sum of squared errors
    champion: float  # nan without a champion
    squares: float = math.nan  # sum of the squared differences between the two, row by row; nan: not known


@dataclass(frozen=True, slots=True)
class GroupNumbers:
    """One group of a bias check."""

    check: str
    group: str
    rows: int
    value: float
    error: float = math.nan  # standard error of the value, with days as blocks
    days: int = 0  # with rows of the group


@dataclass(frozen=True, slots=True)
class CheckNumbers:
    """What a check of the user's own said."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class EvalNumbers:
    """What an evaluation of the user's own gave for each of its items, in the same order for both versions."""

    name: str
    candidate: tuple[float, ...]  # score of each item, 0 to 1
    champion: tuple[float, ...] = ()  # empty without a champion


@dataclass(frozen=True, slots=True)
class Footprint:
    """What serving one version takes, measured in the same run on the same machine."""

    size: int  # bytes of its weights
    memory: float  # bytes resident while it answers; nan when not known
    latency_p95: float  # seconds of one request alone
    throughput: float  # rows/s, or output tokens/s of a language model, with requests side by side
    latency_spread: float = 0.0  # relative: how far repeated measurements of it lie apart
    throughput_spread: float = 0.0


@dataclass(frozen=True, slots=True)
class GateNumbers:
    """What the gate step measured; `decide/gate.py` judges it."""

    rows: int
    days: tuple[DayLoss, ...]
    auc: float  # candidate's, on the held-out rows; nan when one class is missing
    champion_auc: float  # nan without a champion
    latency_p95: float  # seconds for a single row, or for an answer, of a real replica
    groups: tuple[GroupNumbers, ...] = ()
    checks: tuple[CheckNumbers, ...] = ()
    champion: str = ""  # the version compared with; "" for none
    evals: tuple[EvalNumbers, ...] = ()
    converted: str = ""  # the precision that the candidate's weights were converted to; "" when they were not
    own: Footprint | None = None
    other: Footprint | None = None  # the champion's
    auc_errors: tuple[float, float] = (math.nan, math.nan)  # standard errors of the difference: by days, by rows
    safety: SafetyNumbers | None = None  # of a language model whose gates ask for it
    inputs: InputNumbers | None = None  # of a tabular model whose gates ask for it
    predicted: tuple[float, float] = (math.nan, math.nan)  # the lowest and the highest on the held-out rows
    memory: float = math.nan  # bytes that a real replica held after all was asked


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run of a pipeline."""

    id: str  # "delay-7"
    pipeline: str
    attempt: int  # counts StartRun of the same id
    state: str  # "running" | "succeeded" | "failed" | "lost"
    steps: tuple[StepSeen, ...] = ()
    artefact: str = ""  # folder of the packaged model, of a run that succeeded
    digest: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    gate: GateNumbers | None = None
    error: str = ""
    retryable: bool = False  # it was killed, or the machine was in the way: worth another attempt
    seconds: float = 0.0  # compute seconds of its steps


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything seen in one look."""

    processes: tuple[ProcessSeen, ...] = ()
    versions: tuple[VersionSeen, ...] = ()
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)  # model: {alias: number}
    runs: tuple[RunSeen, ...] = ()
    routes: RouteTable | None = None  # as last written
    acked: dict[str, int] = field(default_factory=dict)  # live gateway worker: epoch it routes by
    registry: bool = True  # False: the registry did not answer; versions and aliases are the last seen
    free_disk: int | None = None  # bytes in the state folder's file system
    cores: int = 0  # of the machine that everything runs on; 0: not known
    loads: dict[str, Load] = field(default_factory=dict)  # endpoint: what gateway workers say; missing: unknown


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted: a resolved stack file."""

    stack: Stack
    revision: str  # digest of the stack's content
    down: bool = False  # `mainspring down`: nothing is wanted any more
    clock: str = "wall"  # "wall", or "request": a replay, whose requests carry their own event time


@dataclass(frozen=True, slots=True)
class Request:
    """Something that a person asked for by command."""

    id: str
    verb: str  # "run" | "promote" | "abort" | "pause" | "resume" | "undo" | "approve" | "gate" | "quantize"
    target: str  # a pipeline, an endpoint, or a plan's id
    at: float
    who: str = ""
    args: dict[str, Any] = field(default_factory=dict)
