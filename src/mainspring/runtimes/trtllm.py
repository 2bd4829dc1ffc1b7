"""TensorRT-LLM: its words are from its documentation, "trtllm-serve" and "LLM API arguments".

Where only its YAML has a key, `--extra_llm_api_options` takes the file, and the words here are its lines. Planned:
this version doesn't start it.
"""

from __future__ import annotations

import json

from mainspring.runtimes.descriptor import Runtime, Wishes, given


def _words(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = given(
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


TRTLLM = Runtime(
    "trtllm", "TensorRT-LLM", "language", formats=("safetensors",), protocol="openai", words=_words,
    kv={"fp16": "auto", "fp8": "fp8"}, speculation=("ngram", "draft"), prefix=True, sized=True,
    parallel=("tensor", "pipeline"),
)  # fmt: skip
