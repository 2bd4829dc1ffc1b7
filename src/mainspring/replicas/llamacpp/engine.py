"""llama.cpp, in its own words: the one module that imports xllamacpp.

What this is: options and settings made into the engine's parameters, and the engine started with them. Who calls it:
`__main__`. What it must never do: leave open what the gateway has no use for (pages of its own, writing and loading
files, changing properties, answering other sites' scripts), or be imported twice into one process's life: the engine
has no stop call, so its process ends by `os._exit`.

The engine listens by itself; no request passes through Python.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mainspring.artefacts.settings import Settings
from mainspring.errors import ArtefactError, EnvironmentError_
from mainspring.replicas.llamacpp.options import Options

SPIN = "1000"
"""Rounds that a thread of OpenMP spins before it sleeps. Its default spins on, and with anything else at work on the
machine's cores every token waits for it: 10 to 30 times slower."""

BATCH = 512
"""Tokens in one pass at most. A pass holds up all streams, so that more would make gaps in them longer."""

LONGEST = 8_192
"""Tokens of one input to embed at most: it goes through in one pass, whose buffers are made beforehand."""

BEFORE = """{%- if not messages or messages[0]['role'] not in ['system', 'developer'] -%}\
{%- set messages = [{'role': 'system', 'content': SYSTEM}] + messages -%}{%- endif -%}"""
"""Put before a model's own chat template: a system message for requests that bring none."""

CLOSED: dict[str, object] = {
    "ui": False,
    "endpoint_props": False,  # changing properties; reading them stays
    "slot_save_path": "",  # files of its caches
    "media_path": "",
    "cors_origins": "",  # no page of another site
    "cors_origins_explicit": True,
    "cors_credentials": False,
    "timeout_read": 60,  # seconds for a request to arrive
    "timeout_write": 600,  # seconds that a reader may stop reading
}
"""What the engine could do besides, and must not; and how long a slow client may hold it."""

SAMPLING = {
    "temperature": ("temp", "TEMP"),
    "top_p": ("top_p", "TOP_P"),
    "top_k": ("top_k", "TOP_K"),
    "min_p": ("min_p", "MIN_P"),
    "repeat_penalty": ("penalty_repeat", "PENALTY_REPEAT"),
    "seed": ("seed", ""),
}
"""Our settings: the engine's field, and the flag that keeps defaults written in the weights from overruling it."""

_RUNNING: list[Any] = []
"""Engines of this process, kept until it ends: letting go of one waits for open streams, and may wait for ever."""


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers."""

    address: str  # "host:port"
    port: int
    said: Mapping[str, object]  # the parameters that differ from its own defaults


def with_system(template: str, system: str) -> str:
    """A chat template that opens with `system` where a request brings no system message."""
    return BEFORE.replace("SYSTEM", json.dumps(system, ensure_ascii=False)) + template


def start(options: Options, settings: Settings, weights: Path, template: str) -> Engine:
    """Load `weights` and listen; returns when requests are answered.

    `template` is the chat template that the weights carry. Raises EnvironmentError_ when the engine is not installed or
    does not start, ArtefactError when the settings have a system text and the weights no template to put it in.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when libgomp is loaded, which is by the import
    os.environ.pop("AIP_MODE", None)  # would have the engine listen on a port of a cloud's choice
    x = _module()
    said = {
        **_place(options),
        **_work(x, options),
        **CLOSED,
        **_template(settings, template),
        "n_predict": settings.max_tokens if settings.max_tokens is not None else -1,
    }
    parameters = x.CommonParams()
    parameters.model.path = str(weights)
    for name, value in said.items():
        setattr(parameters, name, value)
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = options.threads
    chosen = _sample(x, parameters.sampling, settings)
    guessed = _speculate(x, parameters.speculative, options.draft)
    try:
        server = x.Server(parameters)
    except RuntimeError as error:
        raise EnvironmentError_(
            "engine-failed",
            f"llama.cpp did not start with `{weights}` on `{options.host}:{options.port}`",
            "its own words are in this process's log, above",
        ) from error
    _RUNNING.append(server)
    port = int(server.listening_address.rpartition(":")[2])
    host = f"[{options.host}]" if ":" in options.host else options.host
    shown = {name: value for name, value in said.items() if name not in {"api_keys", "chat_template"}}
    return Engine(f"{host}:{port}", port, shown | chosen | guessed | {"threads": options.threads})


def _module() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        if "libgomp" in str(error):
            raise EnvironmentError_(
                "no-libgomp", "llama.cpp needs `libgomp.so.1`, which this machine has not", "apt install libgomp1"
            ) from error
        raise EnvironmentError_(
            "no-llamacpp", f"`xllamacpp` cannot be imported: {error}", "pip install 'mainspring[llamacpp]'"
        ) from error
    return xllamacpp


def _place(options: Options) -> dict[str, object]:
    """Who it is, where it listens, and whom it answers."""
    return {
        "model_alias": {options.model},
        "hostnames": [options.host],
        "port": options.port,
        "api_keys": [options.key] if options.key else [],
        "endpoint_metrics": True,
        "endpoint_slots": True,
        "verbosity": 1,  # errors; the next levels write lines for each request
        "offline": True,
    }


def _work(x: Any, options: Options) -> dict[str, object]:
    """Slots, the KV cache and what is kept of it, batches."""
    longest = min(max(options.context, BATCH), LONGEST) if options.embeddings else BATCH
    kind = getattr(x.ggml_type, f"GGML_TYPE_{options.kv.upper()}")
    return {
        "n_parallel": options.slots,
        "n_ctx": options.slots * options.context,
        # One buffer for all slots, each held to its own share. In buffers of their own, texts of unlike length that
        # are embedded at once are read in parts, and the mean is that of the last part only.
        "kv_unified": True,
        "kv_unified_per_slot": options.context,
        "cache_idle_slots": False,  # would move an idle slot's prompt out at each new request
        "cont_batching": True,
        "cache_type_k": kind,
        "cache_type_v": kind,
        "cache_prompt": options.prefix,
        "cache_ram_mib": options.kept if options.prefix else 0,  # its own default is 8 GiB
        "fit_params": False,  # or it would shrink the context to what it thinks fits, unasked
        "n_batch": longest,
        "n_ubatch": longest,
        # Answering with embeddings too costs nothing measurable, so that it is always on.
        "embedding": True,
        "pooling_type": x.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN,
    }


def _template(settings: Settings, template: str) -> dict[str, object]:
    if not settings.system:
        return {}
    if not template:
        raise ArtefactError(
            "no-template",
            "the setting `system` has no place: `model.gguf` carries no chat template",
            "leave `system` out of the pipeline's `settings`, or take weights of a chat model",
        )
    return {"chat_template": with_system(template, settings.system)}


def _sample(x: Any, sampling: Any, settings: Settings) -> dict[str, object]:
    """Set the defaults of drawing tokens; returns those that are set."""
    made: dict[str, object] = {}
    for name, (field, flag) in SAMPLING.items():
        value = getattr(settings, name)
        if value is None:
            continue
        setattr(sampling, field, value)
        made[field] = value
        if flag:
            sampling.user_sampling_config |= int(
                getattr(x.common_params_sampling_config, f"COMMON_PARAMS_SAMPLING_CONFIG_{flag}")
            )
    return made


def _speculate(x: Any, speculative: Any, draft: int) -> dict[str, object]:
    """Guess `draft` tokens at a time from what the text has had already: no second model is needed.

    A guess is made where the last `size_n` tokens have been there before; half of what is guessed is long enough that
    a guess is mostly right, and the engine checks all of a guess in one pass, so that answers stay what they were.
    """
    if not draft:
        return {}
    speculative.types = [x.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_MAP_K]
    speculative.ngram_map_k.size_m = draft
    speculative.ngram_map_k.size_n = max(4, draft // 2)
    speculative.ngram_map_k.min_hits = 1
    return {"speculative": "ngram-map-k", "size_n": speculative.ngram_map_k.size_n, "size_m": draft}
