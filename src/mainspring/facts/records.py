"""What the gateway writes down of each request, of those on their way, and of each truth that comes back.

One JSON object a line, in segment files `<folder>/<worker>-<boot>-<number>.jsonl` that only grow;
a line counts when its newline is there. The gateway writes, monitoring reads; both by these types.
A record counts once by (endpoint, id, role, revision): a request sent again under its id is a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FIRST_EDGES: tuple[float, ...] = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
"""Upper edges of the buckets that times to the first token are counted in, seconds: those of vLLM's own
`vllm:time_to_first_token_seconds`."""


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """One answer (or failure) of one revision to one request of one row or more."""

    endpoint: str
    id: str  # the client's `id`, or one that the gateway made
    at: float  # event time, POSIX seconds
    revision: str  # RevisionRoute.name
    version: str
    role: str  # "live": the user saw it; "mirror": nobody did
    status: int  # HTTP status of the answer; 0 when no answer came
    seconds: float  # from the request's arrival to its answer, waiting included
    upstream: float  # seconds of the last try at the replica alone
    compute: float  # seconds of compute that the replica charges to this request
    tries: int  # 1 unless it was sent to a second replica
    first: float = 0.0  # seconds from the request's arrival to the first byte of a streamed answer; 0: not streamed
    prompt_tokens: int = 0  # of a language model: what its answer says of itself
    output_tokens: int = 0
    cached_tokens: int = 0  # prompt tokens that the replica's prefix cache had
    drafted: int = 0  # tokens guessed ahead by speculation
    accepted: int = 0  # of them, those that were right
    end: str = ""  # of a stream: "done" | "gone" the client left | "cut" the replica ended | "late" too slow
    inputs: Any = None  # the request's `inputs`, as they came (Open Inference Protocol)
    outputs: Any = None  # the answer's `outputs`; None on failure
    n: int = 0  # counts a worker's language requests since its boot: what a `BegunRecord` is matched by
    tenant: str = ""  # whom it is charged to; "" for nobody
    key: str = ""  # the id of the key that was shown; "" for none
    prefill: float = 0.0  # seconds that a replica read its prompt, of a language model
    decode: float = 0.0  # seconds that it wrote the answer
    estimated: bool = False  # the tokens are counted by the gateway, since the answer broke off before it said them
    real: float = 0.0  # POSIX seconds of its end where `at` is a replay's time; 0: `at` is real
    replica: str = ""  # the process that answered, or had it last ("chat-3-0")
    region: str = ""  # where the request came from; "" where regions are not told apart
    unit: str = ""  # stands for the user or session that the revision is chosen by, 12 hexadecimal digits
    asked: int = 0  # tokens that its prompt was reckoned to have when it came: the same whatever answers
    failed: str = ""  # the first revision of which a replica failed it, though another try may have been answered
    owes: str = ""  # a mirror revision whose copy of this request must still be logged
    error: str = ""
    k: str = "p"


@dataclass(frozen=True, slots=True)
class BegunRecord:
    """A language request that is on its way; without an end it died with its gateway worker.

    Written for what lasts longer than some 50 ms. The worker and its boot are in the segment's name; `n` is the
    `PredictionRecord`'s. What died is charged `prompt_tokens`, no output and no seconds, and told apart: what it had
    sent by then nobody can show.
    """

    endpoint: str
    n: int
    at: float  # real time, POSIX seconds
    revision: str
    tenant: str = ""
    key: str = ""
    prompt_tokens: int = 0  # estimated
    k: str = "b"


@dataclass(frozen=True, slots=True)
class WrittenRecord:
    """The word of a worker: what came to it of an endpoint's live requests before `at` has ended, and is written down.

    Written now and then while the endpoint has more than one revision: only then it matters which requests are still
    on their way.
    """

    endpoint: str
    at: float  # POSIX seconds
    copies: float = 0.0  # the same of the copies of those that came: they have been answered, or given up; 0: not known
    k: str = "w"


@dataclass(frozen=True, slots=True)
class TruthRecord:
    """The outcome of one prediction, and feedback on it, by field; the latest by `at` wins."""

    endpoint: str
    id: str
    at: float  # when it became known, POSIX seconds
    truth: dict[str, float] = field(default_factory=dict)  # {"late": 1}; what counts is from 0 to 1
    k: str = "t"
