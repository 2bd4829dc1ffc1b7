"""vLLM's descriptor by example: what is run for a model, on cores and on GPUs; no server."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Command, Model, Place, Wishes, words
from mainspring.runtimes.vllm import IMAGE, VLLM, container

MODEL = Model("chat-3.2", "chat", "3", "gguf", "/state/artefacts/chat/3", "sha256:" + "ab" * 32)
PLACE = Place(
    "/state/work", "/envs/vllm", "/envs/vllm/bin/python", "/envs/vllm/lib/site-packages", "/src", {"http": 18_200},
    threads=2, key="sesame", cache="/cache/converted",
)  # fmt: skip


def command(**more: Any) -> Command:
    """What is run, with other words."""
    assert VLLM.server is not None
    return VLLM.server.command(MODEL, replace(PLACE, **more))


def pairs(argv: tuple[str, ...]) -> dict[str, str]:
    """Words and what follows them; the last one counts, as it does for vLLM."""
    return dict(itertools.pairwise(argv))


def test_it_is_in_the_catalog() -> None:
    """A server that is kept, in an environment of its own, that speaks OpenAI's API."""
    found = runtimes()["vllm"]
    assert found is VLLM
    assert (found.runs, found.environment, found.protocol) == (True, "vllm", "openai")
    assert set(found.formats) == {"safetensors", "gguf"}


def test_the_command_on_cores() -> None:
    """It listens on loopback only, answers by the endpoint's name, and compiles nothing."""
    said = pairs(command().argv)
    assert command().argv[0] == PLACE.python
    assert (said["--host"], said["--port"]) == ("127.0.0.1", "18200")
    assert said["--model"] == "/state/work/model"
    assert said["--served-model-name"] == "chat"
    assert (said["--dtype"], said["--max-num-seqs"], said["--kv-cache-memory-bytes"]) == ("bfloat16", "8", str(1 << 30))
    assert said["--max-model-len"] == "auto"
    assert "--enforce-eager" in command().argv
    assert "--disable-fastapi-docs" in command().argv


def test_a_key_is_never_on_the_command_line() -> None:
    """Everybody on the machine sees that; the environment only its own user."""
    made = command()
    assert not any("sesame" in one for one in made.argv)
    assert made.env["VLLM_API_KEY"] == "sesame"
    assert "VLLM_API_KEY" not in command(key="").env


def test_its_surroundings() -> None:
    """As many threads as it was given, on no cores of its own; nothing is fetched, and nothing told to anybody."""
    env = command().env
    assert (env["OMP_NUM_THREADS"], env["VLLM_CPU_OMP_THREADS_BIND"]) == ("2", "nobind")
    assert env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == env["HF_HUB_OFFLINE"] == "1"


def test_all_its_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """Or an engine outlives a server that was killed: Python imports this file in each of them."""
    assert VLLM.server is not None
    [(name, content)] = VLLM.server.files(MODEL, PLACE).items()
    assert command().env["PYTHONPATH"] == f"{PLACE.work}/{Path(name).parent}"
    (tmp_path / Path(name).name).write_bytes(content)
    told = "import ctypes; told = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(told)); print(told.value)"
    for code, number in ((told, "9"), (f"{told}  # resource_tracker", "0")):
        words, env = [sys.executable, "-c", code], {"PYTHONPATH": str(tmp_path)}
        assert subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout.strip() == number


def test_what_is_said_wins_over_what_is_usual() -> None:
    """No word twice: also when it is said with an equals sign."""
    argv = command(words=("--max-num-seqs", "2", "--kv-cache-memory-bytes=1000", "--max-model-len", "512")).argv
    assert argv.count("--max-num-seqs") == 1
    assert argv.count("--max-model-len") == 1
    assert "--kv-cache-memory-bytes" not in argv
    assert pairs(argv)["--max-num-seqs"] == "2"


def test_the_model_folder_is_made_first() -> None:
    """In the server's environment, from Mainspring's source; weights of a GGUF in the dtype that is served."""
    assert VLLM.server is not None
    made = VLLM.server.before(MODEL, PLACE)
    assert made is not None
    said = pairs(made.argv)
    assert made.env == {"PYTHONPATH": "/src"}
    assert said["-m"] == "mainspring.replicas.adapters.vllm_model"
    assert (said["--artefact"], said["--into"]) == (MODEL.artefact, pairs(command().argv)["--model"])
    assert (said["--cache"], said["--dtype"]) == ("/cache/converted", "bfloat16")
    for word, dtype in (("float32", "float32"), ("auto", "bfloat16")):
        other = VLLM.server.before(MODEL, replace(PLACE, words=("--dtype", word)))
        assert other is not None
        assert pairs(other.argv)["--dtype"] == dtype


def test_words_on_cores() -> None:
    """Slots are said, so that the gateway knows them; the KV cache only where the file says it."""
    assert words(VLLM, Wishes()) == ("--max-num-seqs", "8", "--enable-prefix-caching")
    said = pairs(words(VLLM, Wishes(slots=4, context=2_048, kv_bytes=1e9, precision="fp32")))
    assert (said["--max-num-seqs"], said["--max-model-len"]) == ("4", "2048")
    assert (said["--kv-cache-memory-bytes"], said["--dtype"]) == ("1000000000", "float32")


def test_words_on_h100s() -> None:
    """Four GPUs a replica: each layer over all of them, weights in eight bits, vLLM's own number of slots."""
    said = pairs(words(VLLM, Wishes(gpus=4, tensor=4, precision="fp8", kv="fp8")))
    assert said["--tensor-parallel-size"] == "4"
    assert said["--gpu-memory-utilization"] == "0.9"
    assert (said["--quantization"], said["--kv-cache-dtype"]) == ("fp8", "fp8")
    assert "--max-num-seqs" not in said
    assert "--enforce-eager" not in said
    sized = pairs(words(VLLM, Wishes(gpus=1, kv_bytes=8 * 2.0**30)))
    assert "--gpu-memory-utilization" not in sized, "the KV cache's size is said already"
    assert "--tensor-parallel-size" not in sized


def test_a_container_on_h100s() -> None:
    """The arguments of the project's own image, whose entry point is `vllm serve`."""
    said = container(MODEL, words(VLLM, Wishes(gpus=8, tensor=8, slots=256, context=32_768)))
    assert said == (
        "/model", "--served-model-name", "chat", "--port", "8000", "--disable-fastapi-docs",
        "--disable-uvicorn-access-log", "--shutdown-timeout", "5", "--max-num-seqs", "256", "--max-model-len", "32768",
        "--gpu-memory-utilization", "0.9", "--tensor-parallel-size", "8", "--enable-prefix-caching",
    )  # fmt: skip
    assert IMAGE.startswith("vllm/vllm-openai:v")


def test_guesses_ahead() -> None:
    """By what the text has had already, or by a small model."""
    by_text = json.loads(pairs(words(VLLM, Wishes(speculate="ngram", tokens=4)))["--speculative-config"])
    assert by_text == {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}


def test_where_its_queue_is_read() -> None:
    """Its own names, which `loads.py` makes a signal of."""
    assert VLLM.server is not None
    told = VLLM.server.metrics
    assert told is not None
    assert (told.waiting, told.running) == ("vllm:num_requests_waiting", "vllm:num_requests_running")
