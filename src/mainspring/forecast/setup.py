"""What is forecast, and what a forecast is.

What this is: the frozen values that forecasts take and give; pure. Who calls it: everything in `forecast/`, `sizing/`,
the twin. What it must never do: hold a coefficient.

Units: seconds, tokens, requests/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mainspring.facts.gpus import Gpu
from mainspring.facts.shapes import ModelShape

Basis = Literal["measured", "fitted", "extrapolated", "assumed"]
"""How a number came to be: `measured` as it is, `fitted` to measurements of this very group (model, GPU, engine,
precision), `extrapolated` from other groups, `assumed` without any measurement. In that order of trust."""

ORDER: tuple[Basis, ...] = ("measured", "fitted", "extrapolated", "assumed")


@dataclass(frozen=True, slots=True)
class Rests:
    """One thing a forecast rests on."""

    what: str  # "decode bandwidth"
    value: float
    basis: Basis
    source: str  # "41 points of Llama-3.1-70B on H100-SXM, vllm, fp8"


@dataclass(frozen=True, slots=True)
class Setup:
    """One replica of a language model: what runs on what."""

    shape: ModelShape
    gpu: Gpu
    tp: int = 1  # GPUs that share each layer of the attention part
    precision: str = "fp16"  # of the weights
    kv: str = "fp16"  # of the cache
    engine: str = "vllm"
    version: str = ""  # of the engine; "" is the newest that coefficients are known for
    attention_dp: int = 1  # copies of the attention part, each on `tp` GPUs
    expert_parallel: int = 1  # parts that the experts are spread over (else each expert is cut `gpus` ways)
    share: float = 1.0  # of one GPU that a MIG slice is, in compute and in bandwidth; 1 for whole GPUs
    chunk: int = 8192  # tokens of prefill in one step (`max_num_batched_tokens`)
    draft: tuple[int, float, float] | None = None  # speculative decoding: tokens guessed, acceptance, cost of a guess

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.tp * self.attention_dp


@dataclass(frozen=True, slots=True)
class Steady:
    """A replica with a constant number of requests in flight (a closed loop): means."""

    ttft: float  # s, from arrival to first token, waiting for memory included
    tpot: float  # s per output token after the first
    running: float  # sequences in the batch; below `concurrency` when memory binds
    requests: float  # requests/s
    binds: Literal["bandwidth", "compute", "communication", "overhead", "memory"]
    spread: float  # standard deviation of log(measured / forecast) of groups with this basis, for tpot
    spread_ttft: float
    rests: tuple[Rests, ...]

    @property
    def basis(self) -> Basis:
        """The weakest of what it rests on."""
        return max((one.basis for one in self.rests), key=ORDER.index, default="assumed")

    def end_to_end(self, output: float) -> float:
        """Seconds from arrival to the last of `output` tokens."""
        return self.ttft + max(output - 1.0, 0.0) * self.tpot


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompts and outputs of requests, as a list of cases with weights that sum to one."""

    prompt: tuple[float, ...]  # tokens
    output: tuple[float, ...]
    weight: tuple[float, ...]
    cached: float = 0.0  # share of prompt tokens found in the prefix cache

    def mean(self) -> tuple[float, float]:
        """Mean prompt and mean output."""
        total = sum(self.weight)
        return (
            sum(p * w for p, w in zip(self.prompt, self.weight, strict=True)) / total,
            sum(o * w for o, w in zip(self.output, self.weight, strict=True)) / total,
        )


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests as they come to one replica."""

    rate: float  # requests/s
    variability: float = 1.0  # squared coefficient of variation of the gaps; 1 is Poisson


@dataclass(frozen=True, slots=True)
class Interval:
    """A forecast with the interval that it admits."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Response:
    """What users of one replica see under open arrivals."""

    p50: Interval  # s, whole request
    p95: Interval
    p99: Interval
    ttft: Interval  # s, 95th percentile
    tpot: Interval  # s, mean
    running: float  # mean number of sequences in the batch
    waiting: float  # mean seconds in the queue
    utilisation: float  # share of the replica's largest request rate; 1 or more is unstable
    stable: bool
    rests: tuple[Rests, ...]

    @property
    def basis(self) -> Basis:
        """The weakest of what it rests on."""
        return max((one.basis for one in self.rests), key=ORDER.index, default="assumed")
