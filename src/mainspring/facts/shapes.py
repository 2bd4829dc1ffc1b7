"""The shape of a model: what memory and time depend on, without its weights.

What this is: frozen values and the arithmetic of bytes; pure. Who calls it: `facts/models.py` (built-in names),
`facts/config_json.py`, `facts/gguf.py`, `facts/onnx_graph.py` (readers), `decide/fit.py`, `forecast/`.
What it must never do: read a file.

Units: sizes are bytes, widths are elements, `parameters` is a count. "Precision" is one of `BYTES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BYTES: dict[str, float] = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5 + 1 / 16,  # NVFP4: one FP8 scale for 16 elements (OCP MX / NVIDIA NVFP4)
    "mxfp4": 0.5 + 1 / 32,  # one E8M0 scale for 32 elements (OCP MX v1.0, section 5.2)
    "int4": 0.5 + 2 / 128,  # one FP16 scale for 128 elements (GPTQ and AWQ, group size 128)
}
"""Bytes of one weight at each precision, scales included."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Some layers that attend in the same way."""

    kind: Literal["full", "window", "latent", "linear"]
    layers: int
    heads: int  # query heads
    kv_heads: int  # 0 for "latent" and "linear"
    head_dim: int  # of a key; of a query head that meets the latent key, for "latent" (rank + rotary)
    value_dim: int = 0  # of a value; 0: as head_dim
    window: int = 0  # tokens that are kept, for "window"
    latent: int = 0  # elements kept per token and layer, for "latent" (kv_lora_rank + qk_rope_head_dim)
    state: int = 0  # two-byte elements kept per sequence and layer, for "linear" (an FP32 state counts twice)
    reach: int = 0  # tokens of those kept that one query attends to at most (sparse attention); 0: all of them

    def kept(self, tokens: float) -> float:
        """Elements kept for one sequence of `tokens` tokens, over these layers."""
        if self.kind == "linear":
            return float(self.layers * self.state)
        if self.kind == "latent":
            return self.layers * self.latent * tokens
        seen = min(tokens, self.window) if self.kind == "window" else tokens
        return self.layers * self.kv_heads * (self.head_dim + (self.value_dim or self.head_dim)) * seen


@dataclass(frozen=True, slots=True)
class Experts:
    """The feed-forward part of mixture-of-experts layers."""

    layers: int  # layers that have experts
    count: int  # routed experts of a layer
    active: int  # routed experts that a token meets
    width: int  # of one routed expert's hidden layer
    shared: int = 0  # experts that every token meets

    def met(self, tokens: float) -> float:
        """Distinct routed experts of a layer that `tokens` tokens meet, expected under even routing."""
        return self.count * (1.0 - float((1.0 - self.active / self.count) ** tokens))


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A language model (decoder-only transformer)."""

    name: str  # "llama-3.3-70b"
    family: str  # "llama", "qwen", "mistral", "deepseek", "gpt-oss", "minimax", "kimi", "glm", "other"
    parameters: int  # all of them, embeddings included
    active: int  # that one token meets; `parameters` for a dense model
    layers: int
    hidden: int
    vocab: int
    attention: tuple[Attention, ...]
    experts: Experts | None = None
    context: int = 0  # the longest sequence, tokens; 0: unknown
    native: str = "bf16"  # precision of the published weights
    high: int = 0  # parameters that stay at two bytes when the rest is quantised (embeddings, head, norms, routers)
    draft_layers: int = 0  # multi-token-prediction layers that come with it (not among `layers` and `parameters`)
    width: int = 0  # of the hidden layer of a dense feed-forward part; 0: unknown, or no layer has one
    lookup: int = 0  # parameters of the input table when it isn't the head too: a token reads one row of it
    stored: float = 0.0  # bytes of the weights as published, at `native`; 0: as `weight_bytes` has it
    source: str = ""
    confidence: Literal["read", "derived", "memory", "low"] = "memory"

    @property
    def dense(self) -> bool:
        """Whether every token meets every parameter."""
        return self.experts is None

    @property
    def routed(self) -> int:
        """Parameters of the routed experts of all layers together."""
        one = self.experts
        return one.layers * one.count * 3 * self.hidden * one.width if one else 0

    def weight_bytes(self, precision: str) -> float:
        """Bytes of all weights, with `high` parameters left at two bytes below 16 bits."""
        if self.stored and precision == self.native:
            return self.stored
        each = BYTES[precision]
        kept = self.high if each < 2 else 0
        return (self.parameters - kept) * each + kept * 2.0

    def kv_bytes(self, tokens: float, precision: str = "fp16") -> float:
        """Bytes kept for one sequence of `tokens` tokens (prompt and output together)."""
        each = BYTES[precision]
        # The state of linear attention is summed over the whole sequence: engines never quantise it.
        return sum((2.0 if part.kind == "linear" else each) * part.kept(tokens) for part in self.attention)

    def kv_bytes_per_token(self, precision: str = "fp16") -> float:
        """Bytes that one more token keeps, in a sequence short of any window."""
        return self.kv_bytes(2.0, precision) - self.kv_bytes(1.0, precision)


@dataclass(frozen=True, slots=True)
class GraphShape:
    """Any other model (ranker, vision, tabular): a graph that answers a row at once."""

    name: str
    parameters: int
    weight_bytes: float  # as stored
    flops: float  # of one row, multiply and add counted apart
    activation_bytes: float  # read and written for one row, all layers together, at four bytes an element
    kernels: int = 0  # operators that each start a kernel; 0: unknown
    visits: float = 0.0  # tree nodes that one row visits, one after another: bound by latency, not by `flops`
    source: str = ""
    confidence: Literal["read", "derived", "memory", "low"] = "derived"
