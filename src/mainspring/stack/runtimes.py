"""Model servers: what each one is, what it can do, and its own words for what the stack file asks.

What this is: one frozen descriptor a runtime, and `words`, which turns wishes into a command line's words; pure. It is
in the stack's own layer, so that a file is checked against it with line and column. Who calls it: the stack's checks,
the loop (it starts `onnx` and `llamacpp`), `plan` (it shows the words).
What it must never do: start anything, or drop a wish in silence: what a runtime can't do is in `complaints`.

The words are from each project's own documentation: vLLM "Engine Arguments", SGLang "Server Arguments", TensorRT-LLM
"trtllm-serve" and "LLM API arguments" (where only its YAML has a key, `--extra_llm_api_options` takes the file and
the words here are its lines), llama.cpp "llama-server" (the replica takes the same things by shorter names).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["predictive", "language"]


SLOTS = 4
"""Requests that a llama.cpp replica works on at once, unless the file says otherwise."""
CONTEXT = 2048
"""Tokens of one conversation on llama.cpp, unless the file says otherwise."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One model server."""

    name: str
    title: str
    kind: Kind
    runs: bool = False  # this version starts it; the others are planned
    weights: str = "safetensors"  # what a version's weights come as
    kv: dict[str, str] = field(default_factory=dict)  # KV cache precision: the runtime's own word
    speculation: tuple[str, ...] = ()  # of "ngram", "draft"
    prefix: bool = False  # it has a prefix cache
    sized: bool = False  # the KV cache's size can be said in bytes
    parallel: tuple[str, ...] = ()  # of "tensor", "pipeline"
    keep_alive: bool = True  # its connections may be used again
    context: int = 0  # tokens of one conversation, where the stack file does not say; 0: the model's
    salt: str = ""  # the field of a request that keeps its prompt's cache apart from others'; "": it has none


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


RUNTIMES: dict[str, Runtime] = {
    one.name: one
    for one in (
        Runtime("onnx", "ONNX Runtime", "predictive", runs=True, weights="onnx"),
        Runtime(
            "llamacpp", "llama.cpp", "language", runs=True, weights="gguf",
            kv={"fp16": "f16", "int8": "q8_0", "int4": "q4_0"}, speculation=("ngram",), prefix=True, keep_alive=False,
            context=CONTEXT,
        ),
        Runtime(
            "vllm", "vLLM", "language", kv={"fp16": "auto", "fp8": "fp8"}, speculation=("ngram", "draft"), prefix=True,
            sized=True, parallel=("tensor", "pipeline"), salt="cache_salt",
        ),
        Runtime(
            "sglang", "SGLang", "language", kv={"fp16": "auto", "fp8": "fp8_e4m3"}, speculation=("ngram", "draft"),
            prefix=True, parallel=("tensor", "pipeline"),
        ),
        Runtime(
            "trtllm", "TensorRT-LLM", "language", kv={"fp16": "auto", "fp8": "fp8"}, speculation=("ngram", "draft"),
            prefix=True, sized=True, parallel=("tensor", "pipeline"),
        ),
    )
}  # fmt: skip


def complaints(runtime: Runtime, wishes: Wishes) -> list[tuple[str, str]]:
    """What a runtime can't do of what is wished, as (key of the endpoint, sentence)."""
    found = []
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
    return _WORDS[runtime.name](runtime, wishes)


def _onnx(_: Runtime, __: Wishes) -> tuple[str, ...]:
    return ()


def _llamacpp(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = ["--slots", str(wishes.slots or SLOTS), "--context", str(wishes.context or CONTEXT)]
    said += ["--kv", runtime.kv[wishes.kv]]
    if wishes.speculate:
        said += ["--speculate", f"{wishes.speculate}:{wishes.tokens}"]
    return (*said, *(() if wishes.prefix else ("--no-prefix-cache",)))


def _given(pairs: list[tuple[str, object | None]]) -> list[str]:
    return [part for name, value in pairs if value is not None for part in (name, str(value))]


def _vllm(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = _given(
        [
            ("--max-num-seqs", wishes.slots),
            ("--max-model-len", wishes.context),
            ("--kv-cache-dtype", runtime.kv[wishes.kv] if wishes.kv != "fp16" else None),
            ("--kv-cache-memory-bytes", None if wishes.kv_bytes is None else int(wishes.kv_bytes)),
            ("--tensor-parallel-size", wishes.tensor if wishes.tensor > 1 else None),
            ("--pipeline-parallel-size", wishes.pipeline if wishes.pipeline > 1 else None),
        ]
    )
    said.append("--enable-prefix-caching" if wishes.prefix else "--no-enable-prefix-caching")
    if wishes.speculate:
        config: dict[str, object] = {"num_speculative_tokens": wishes.tokens}
        if wishes.speculate == "ngram":
            config |= {"method": "ngram", "prompt_lookup_max": 4}
        else:
            config["model"] = wishes.draft
        said += ["--speculative-config", json.dumps(config, sort_keys=True)]
    return tuple(said)


def _sglang(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = _given(
        [
            ("--max-running-requests", wishes.slots),
            ("--context-length", wishes.context),
            ("--kv-cache-dtype", runtime.kv[wishes.kv] if wishes.kv != "fp16" else None),
            ("--tp-size", wishes.tensor if wishes.tensor > 1 else None),
            ("--pp-size", wishes.pipeline if wishes.pipeline > 1 else None),
        ]
    )
    if not wishes.prefix:
        said.append("--disable-radix-cache")
    if wishes.speculate:
        algorithm = {"ngram": "NGRAM", "draft": "STANDALONE"}[wishes.speculate]
        said += ["--speculative-algorithm", algorithm, "--speculative-num-draft-tokens", str(wishes.tokens)]
        said += ["--speculative-draft-model-path", wishes.draft] if wishes.draft else []
    return tuple(said)


def _trtllm(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = _given(
        [
            ("--max_batch_size", wishes.slots),
            ("--max_seq_len", wishes.context),
            ("--tp_size", wishes.tensor if wishes.tensor > 1 else None),
            ("--pp_size", wishes.pipeline if wishes.pipeline > 1 else None),
        ]
    )
    cache = [f"enable_block_reuse: {'true' if wishes.prefix else 'false'}"]
    cache += [f"dtype: {runtime.kv[wishes.kv]}"] if wishes.kv != "fp16" else []
    cache += [f"max_gpu_total_bytes: {int(wishes.kv_bytes)}"] if wishes.kv_bytes is not None else []
    said += ["--extra_llm_api_options", f"kv_cache_config: {{{', '.join(cache)}}}"]
    if wishes.speculate:
        kind = {"ngram": "NGram", "draft": "DraftTarget"}[wishes.speculate]
        spec = [f"decoding_type: {kind}", f"max_draft_len: {wishes.tokens}"]
        spec += [f"speculative_model: {json.dumps(wishes.draft)}"] if wishes.draft else []
        said[-1] += f"\nspeculative_config: {{{', '.join(spec)}}}"
    return tuple(said)


_WORDS = {"onnx": _onnx, "llamacpp": _llamacpp, "vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}
