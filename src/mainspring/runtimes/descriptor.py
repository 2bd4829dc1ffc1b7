"""What a model server is to Mainspring: how it is installed, started, asked, watched and stopped.

What this is: frozen values and the shapes of pure functions; each runtime is one file beside this one that fills them
in. Who calls it: the stack's checks (what a runtime can do), the loop (what its replicas are started with), the keeper
(which starts a server of somebody else's), `plan` and `mainspring runtime` (they show it).
What it must never do: start anything, read a file, or drop a wish in silence: what a runtime can't do is in
`complaints`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

Kind = Literal["predictive", "language"]

KEPT = "mainspring.replicas.kept"
"""The process that keeps a server of somebody else's."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the stack file asks of a runtime; None and "" mean its own default."""

    slots: int | None = None  # requests worked on at once
    context: int | None = None  # tokens of one conversation, answer included
    kv: str = "fp16"
    kv_bytes: float | None = None
    prefix: bool = True
    speculate: str = ""  # "ngram" | "draft"
    tokens: int = 0  # guessed ahead at a time
    draft: str = ""  # the small model, for "draft"
    tensor: int = 1
    pipeline: int = 1
    instances: int = 1  # copies of a predictive model in one server
    precision: str = ""  # of the weights; "": as they come
    args: tuple[str, ...] = ()  # more of the server's own words, passed on as they are
    gpus: int = 0  # of one replica; 0: the server runs on cores
    protocol: str = ""  # what an external server speaks
    share: bool = False  # one server with other endpoints


@dataclass(frozen=True, slots=True)
class Input:
    """One raw field that a request carries."""

    name: str
    datatype: str  # Open Inference Protocol: BOOL, INT64, FP64, FP32, BYTES
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class Model:
    """The version that a replica serves."""

    name: str  # the revision's, such as "chat-3.2": what the model is called in the server
    endpoint: str  # what users call it: what a language model answers by
    version: str
    format: str  # of the artefact: "onnx", "gguf", "safetensors", "mlflow", "python", ...
    artefact: str  # its folder; read-only
    digest: str  # "sha256:..."
    inputs: tuple[Input, ...] = ()
    output: str = ""  # name of the tensor that requests get
    code: str = ""  # folder of code snapshots, for `features` and users' classes
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)  # of a language model's version


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server runs, and with what."""

    work: str  # a folder of its own, empty when files are written into it
    environment: str  # the root of its virtual environment; Mainspring's own where it has none
    python: str  # the interpreter in there
    packages: str  # the environment's site-packages
    source: str  # the folder that Mainspring is imported from: goes into PYTHONPATH
    ports: Mapping[str, int]  # free ports of loopback, by the names in `Server.ports`
    host: str = "127.0.0.1"
    threads: int = 1
    batch: int = 32  # rows in one batch at most
    wait: float = 0.002  # seconds that the first request of a batch waits for company
    instances: int = 1  # copies of the model in the server
    words: tuple[str, ...] = ()  # the server's own words: what `Words.rest` has
    key: str = ""  # what the gateway shows as a bearer token: never for a command line
    short: str = ""  # a short path to `work`, for sockets below it: a longer one than 107 bytes can't be listened on
    cache: str = ""  # a folder that outlives the replica, for what is made of an artefact, by digest


@dataclass(frozen=True, slots=True)
class Command:
    """What to run."""

    argv: tuple[str, ...]  # never a secret: it is seen by everybody on the machine
    env: Mapping[str, str] = field(default_factory=dict)  # added to the keeper's own environment


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that a server is sent while it is set up or taken down."""

    port: str  # a name of `Server.ports`
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    patience: float = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where a server's own metrics are, and what they are called there (Prometheus' text format).

    Counters and gauges of all labels are summed, except that `only` picks lines that have one of its words.
    """

    port: str = "http"
    path: str = "/metrics"
    waiting: str = ""  # requests that wait in the server's own queue; "": it doesn't say
    running: str = ""  # requests that it works on
    requests: str = ""  # answered, as a counter
    failed: str = ""  # failed, as a counter
    cache: str = ""  # the share of the KV cache that is used, 0 to 1
    batches: str = ""  # executions, as a counter: fewer than requests where it batches
    only: str = ""  # a label that a line must have, such as `model="chat"`


def _nothing(_: Model, __: Place) -> Command | None:
    return None


def _no_files(_: Model, __: Place) -> Mapping[str, bytes]:
    return {}


def _no_asks(_: Model, __: Place) -> tuple[Ask, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Sharing:
    """How one server holds the models of several endpoints; in a `Place` of the server's own, not of one model.

    `Server.files` of each model and `Server.before` are used as they are, below the server's folder.
    """

    command: Callable[[Place], Command]  # starts it, with no model in it
    load: Callable[[str, Place], Command]  # run to its end once the model's files are there; status 0: it is loaded
    unload: Callable[[str, Place], Command]  # run to its end; what the model was asked before is answered first
    folder: Callable[[str], str]  # what holds a model's files, below `Place.work`: removed when it has left


@dataclass(frozen=True, slots=True)
class Server:
    """A server of somebody else's: pure functions from a model and a place to what is done."""

    command: Callable[[Model, Place], Command]
    live: str  # a path on the port `http` that answers 200 as soon as the server listens
    ready: Callable[[Model], str]  # a path there that answers 200 once the model may be asked
    files: Callable[[Model, Place], Mapping[str, bytes]] = _no_files  # by path below `Place.work`; written before
    before: Callable[[Model, Place], Command | None] = _nothing  # run to its end before the server starts
    ports: tuple[str, ...] = ("http",)  # `http` is where requests go
    load: Callable[[Model, Place], tuple[Ask, ...]] = _no_asks  # between `live` and `ready`; each must answer 2xx
    metrics: Metrics | None = None
    patience: float = 120.0  # seconds from its start until it is ready
    grace: float = 10.0  # seconds from SIGTERM until it is killed
    warm: bool = True  # it is asked once before it is announced
    sharing: Sharing | None = None  # where `Runtime.shared`
    workers: Callable[[str], str] | None = None
    """What the command lines of the processes that hold a model have in them, by its name in the server. When one of
    them dies the server is unfit, though it may go on to say that it is ready."""


@dataclass(frozen=True, slots=True)
class Needed:
    """A program or a library that no environment brings."""

    name: str  # "java", "libpython3.11.so.1.0"
    kind: Literal["program", "library"]
    install: str  # the command that brings it
    why: str = ""


def plain_words(_: Runtime, wishes: Wishes) -> tuple[str, ...]:
    """The words of a server that has no more wishes than the keeper itself knows: see `Words`."""
    said = ("--instances", str(wishes.instances)) if wishes.instances > 1 else ()
    shared = ("--share",) if wishes.share else ()
    protocol = ("--protocol", wishes.protocol) if wishes.protocol else ()
    return (*said, *shared, *protocol, *wishes.args)


@dataclass(frozen=True, slots=True)
class Words:
    """What `plain_words` made, read again: what the keeper knows, and the rest, which is the server's own."""

    instances: int = 1
    share: bool = False
    protocol: str = ""
    rest: tuple[str, ...] = ()


def read_words(words: tuple[str, ...]) -> Words:
    """Read the beginning of a runtime's words.

    >>> read_words(("--instances", "2", "--share", "--log-verbose=1"))
    Words(instances=2, share=True, protocol='', rest=('--log-verbose=1',))
    """
    found, left = Words(), list(words)
    if left[:1] == ["--instances"]:
        found, left = replace(found, instances=int(left[1])), left[2:]
    if left[:1] == ["--share"]:
        found, left = replace(found, share=True), left[1:]
    if left[:1] == ["--protocol"]:
        found, left = replace(found, protocol=left[1]), left[2:]
    return replace(found, rest=tuple(left))


@dataclass(frozen=True, slots=True)
class Runtime:
    """One model server."""

    name: str
    title: str
    kind: Kind
    runs: bool = False  # this version starts it; the others are planned
    formats: tuple[str, ...] = ()  # of artefacts that it serves
    weights: str = "safetensors"  # what a version's weights come as
    module: str = KEPT  # the process that a replica is
    server: Server | None = None  # how the keeper runs it; None: Mainspring's own process serves
    environment: str = ""  # the requirement set, `data/NAME.txt`; "": Mainspring's own interpreter
    needed: tuple[Needed, ...] = ()
    protocol: str = "mainspring"  # the dialect that the gateway speaks to it: a file of `wire/dialects`
    image: str = ""  # container image, for a cluster
    batches: bool = False  # it answers requests together, by `batch`
    instances: bool = False  # it can hold several copies of a model
    shared: bool = False  # one server can hold the models of several endpoints
    foreign: bool = False  # a server that runs elsewhere; the stack file says what it speaks
    words: Callable[[Runtime, Wishes], tuple[str, ...]] = plain_words
    kv: dict[str, str] = field(default_factory=dict)  # KV cache precision: the runtime's own word
    speculation: tuple[str, ...] = ()  # of "ngram", "draft"
    prefix: bool = False  # it has a prefix cache
    sized: bool = False  # the KV cache's size can be said in bytes
    parallel: tuple[str, ...] = ()  # of "tensor", "pipeline"
    keep_alive: bool = True  # its connections may be used again
    context: int = 0  # tokens of one conversation, where the stack file does not say; 0: the model's
    slots: int = 0  # requests worked on at once, where the stack file does not say; 0: not known
    salt: str = ""  # the field of a request that keeps its prompt's cache apart from others'; "": it has none
    note: str = ""  # what a user should know, in a sentence


def complaints(runtime: Runtime, wishes: Wishes) -> list[tuple[str, str]]:
    """What a runtime can't do of what is wished, as (key of the endpoint, sentence)."""
    found = []
    if wishes.instances > 1 and not runtime.instances:
        found.append(("instances", f"{runtime.title} holds one copy of a model in a server: use `replicas`"))
    if wishes.share and not runtime.shared:
        found.append(("share", f"{runtime.title} holds the model of one endpoint only"))
    if bool(wishes.protocol) != runtime.foreign:
        said = "says itself what it speaks" if wishes.protocol else "may speak many things: write `protocol: oip`, say"
        found.append(("protocol", f"{runtime.title} {said}"))
    if wishes.args and runtime.server is None:
        found.append(("args", f"{runtime.title} takes no words of its own here"))
    if runtime.kind == "predictive":
        plain = Wishes()
        for key in ("slots", "context", "prefix", "speculate", "kv_bytes"):
            if getattr(wishes, key) != getattr(plain, key):
                shown = {"prefix": "kv", "kv_bytes": "kv"}.get(key, key)
                found.append((shown, f"`{shown}` is of language models, and {runtime.title} serves other ones"))
        return found
    if wishes.kv not in runtime.kv:
        can = ", ".join(f"`{name}`" for name in runtime.kv)
        found.append(("kv", f"{runtime.title} keeps no KV cache in `{wishes.kv}`; it can: {can}"))
    if wishes.kv_bytes is not None and not runtime.sized:
        instead = "its size follows `slots` times `context`" if runtime.name == "llamacpp" else "it takes what is left"
        found.append(("kv", f"{runtime.title} isn't told its KV cache's size: {instead}"))
    if wishes.speculate and wishes.speculate not in runtime.speculation:
        can = ", ".join(f"`{name}`" for name in runtime.speculation) or "none"
        found.append(("speculate", f"{runtime.title} doesn't speculate by `{wishes.speculate}` here; it can: {can}"))
    cut = [way for way in ("tensor", "pipeline") if getattr(wishes, way) > 1 and way not in runtime.parallel]
    return found + [
        ("parallel", f"{runtime.title} isn't cut `{way}` ways: it runs on one machine's cores") for way in cut
    ]


def words(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    """The runtime's own words for the wishes; those that are its default anyway are left out."""
    return runtime.words(runtime, wishes)


def given(pairs: list[tuple[str, object | None]]) -> list[str]:
    """Words of a command line: each name with its value, without those whose value is None."""
    return [part for name, value in pairs if value is not None for part in (name, str(value))]
