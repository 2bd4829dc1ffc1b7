"""Language models in the stack file: words of runtimes, and what they can't do."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from mainspring.errors import StackError
from mainspring.stack.load import parse
from mainspring.stack.runnable import planned_only
from mainspring.stack.serving import Endpoint

BASE = """\
mainspring: 1
stack: chat
compute:
  regions: [east, west]
  here: {machine: this}
  h100: {gpus: 8 x H100-80GB}
orchestration: {where: here}
serving:
  chat:
    model: chat@champion
"""


def endpoint(**keys: Any) -> Endpoint:
    return Endpoint.model_validate({"model": "chat@champion", **keys})


def problems(*lines: str) -> dict[str, str]:
    """Code and message of each problem of an endpoint with these lines."""
    with pytest.raises(StackError) as caught:
        parse((BASE + "".join(f"    {line}\n" for line in lines)).encode(), "mainspring.yaml")
    return {problem.code: str(problem) for problem in caught.value.problems}


def test_llamacpp_gets_its_own_words() -> None:
    """Slots, context, cache and speculation become the replica's options; defaults are said too."""
    assert endpoint(runtime="llamacpp").words == ("--slots", "4", "--context", "2048", "--kv", "f16")
    said = endpoint(
        runtime="llamacpp", slots=2, context="4k", kv={"type": "int8", "prefix": False}, speculate="ngram"
    ).words
    assert said == (
        *("--slots", "2", "--context", "4000", "--kv", "q8_0"), *("--speculate", "ngram:8", "--no-prefix-cache"),
    )  # fmt: skip


def test_vllm_gets_its_own_words() -> None:
    """The same keys become vLLM's engine arguments."""
    said = endpoint(
        runtime="vllm", gpus="8 x h100", parallel={"tensor": 4, "pipeline": 2}, slots=64, context=8192,
        kv={"type": "fp8", "size": "8GiB"}, speculate={"by": "draft", "model": "small/model", "tokens": 5},
    ).words  # fmt: skip
    pairs = dict(itertools.pairwise(said))
    assert pairs["--max-num-seqs"] == "64"
    assert pairs["--max-model-len"] == "8192"
    assert pairs["--kv-cache-dtype"] == "fp8"
    assert pairs["--kv-cache-memory-bytes"] == str(8 * 2**30)
    assert pairs["--tensor-parallel-size"] == "4"
    assert pairs["--pipeline-parallel-size"] == "2"
    assert "--enable-prefix-caching" in said
    assert json.loads(pairs["--speculative-config"]) == {"model": "small/model", "num_speculative_tokens": 5}


def test_all_gpus_are_cut_over_unless_said() -> None:
    """Without `parallel`, every layer is over all the GPUs of the replica."""
    said = endpoint(runtime="sglang", gpus="4 x h100").words
    assert said == ("--tp-size", "4")
    assert endpoint(runtime="trtllm", gpus="2 x h100").words[:2] == ("--tp_size", "2")


def test_what_a_runtime_cannot_do_is_told_with_its_line() -> None:
    """Each wish that the runtime has no word for is an error at that key."""
    found = problems("runtime: llamacpp", "kv: fp8", "speculate: {by: draft, model: x}")
    assert "not-of-this-runtime" in found
    told = found["not-of-this-runtime"]
    assert "mainspring.yaml:1" in told
    assert "speculate" in told or "kv" in told
    assert "llama.cpp" in told


def test_an_onnx_endpoint_has_no_language_keys() -> None:
    """Keys of language models on ONNX are errors, not silently nothing."""
    assert "`slots` is of language models" in problems("runtime: onnx", "slots: 4")["not-of-this-runtime"]


def test_parallel_multiplies_to_the_gpus() -> None:
    """Tensor times pipeline is the number of GPUs."""
    told = problems("runtime: vllm", "gpus: 4 x h100", "parallel: {tensor: 4, pipeline: 2}")["bad-parallel"]
    assert "is 8, and `gpus` is 4" in told
    assert "no-gpus" in problems("runtime: vllm", "parallel: {tensor: 4}")


def test_draft_names_its_model() -> None:
    """A draft model is named; n-grams have none."""
    assert any("names its small model" in told for told in problems("runtime: vllm", "speculate: draft").values())


def test_language_endpoints_have_longer_patience() -> None:
    """Ten seconds are right for a table row, not for a conversation."""
    assert endpoint().deadline == 10
    assert endpoint(runtime="llamacpp").deadline == 600
    assert endpoint(runtime="llamacpp", timeout="30s").deadline == 30


def test_llamacpp_and_vllm_run_here_and_sglang_is_planned() -> None:
    """`up` takes llama.cpp and vLLM and refuses SGLang, by name."""
    text = BASE + "    runtime: RUNTIME\n"
    for runs in ("llamacpp", "vllm"):
        assert planned_only(parse(text.replace("RUNTIME", runs).encode(), "f")) == ()
    reasons = planned_only(parse(text.replace("RUNTIME", "sglang").encode(), "f"))
    assert len(reasons) == 1
    assert reasons[0].startswith("`serving.chat.runtime` is `sglang`, and this version runs: `onnx`, `llamacpp`, ")
    assert "`sglang`" not in reasons[0].split("runs:")[1]


def test_headers_are_named_plainly() -> None:
    """Sessions and splits are by headers that begin with x-; `user` is the body's field."""
    assert endpoint(runtime="llamacpp", route={"session": "x-session-id", "split": "user"}).route.split == "user"
    problems("route: {session: Cookie}")
    assert "a field of language models" in problems("route: {split: user}")["not-of-this-runtime"]
