"""SGLang: its words are from its documentation, "Server Arguments". Planned: this version doesn't start it."""

from __future__ import annotations

from mainspring.runtimes.descriptor import Runtime, Wishes, given


def _words(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = given(
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


SGLANG = Runtime(
    "sglang", "SGLang", "language", formats=("safetensors",), protocol="openai", words=_words,
    kv={"fp16": "auto", "fp8": "fp8_e4m3"}, speculation=("ngram", "draft"), prefix=True,
    parallel=("tensor", "pipeline"),
)  # fmt: skip
