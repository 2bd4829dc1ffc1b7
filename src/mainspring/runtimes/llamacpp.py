"""llama.cpp, started by Mainspring's own process; the engine listens by itself.

The replica takes what "llama-server" takes, by shorter names.
"""

from __future__ import annotations

from mainspring.runtimes.descriptor import Runtime, Wishes

SLOTS = 4
"""Requests that a llama.cpp replica works on at once, unless the file says otherwise."""
CONTEXT = 2048
"""Tokens of one conversation on llama.cpp, unless the file says otherwise."""


def _words(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    said = ["--slots", str(wishes.slots or SLOTS), "--context", str(wishes.context or CONTEXT)]
    said += ["--kv", runtime.kv[wishes.kv]]
    if wishes.speculate:
        said += ["--speculate", f"{wishes.speculate}:{wishes.tokens}"]
    return (*said, *(() if wishes.prefix else ("--no-prefix-cache",)))


LLAMACPP = Runtime(
    "llamacpp", "llama.cpp", "language", runs=True, formats=("gguf",), weights="gguf",
    module="mainspring.replicas.llamacpp", protocol="openai", words=_words,
    kv={"fp16": "f16", "int8": "q8_0", "int4": "q4_0"}, speculation=("ngram",), prefix=True, keep_alive=False,
    context=CONTEXT, slots=SLOTS,
)  # fmt: skip
