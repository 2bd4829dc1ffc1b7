"""GGUF made into safetensors: the same numbers under the other names, once, and never half of it."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from mainspring.errors import ArtefactError, EnvironmentError_, InputError
from mainspring.replicas.adapters.gguf_architecture import turned_back
from mainspring.replicas.adapters.gguf_to_safetensors import as_bytes, converted

WIDTH, HEADS, KEYS, HEAD, INNER, WORDS = 64, 4, 2, 16, 96, 40
DIGEST = "sha256:" + "ab" * 32


def rows(number: int, *shape: int) -> npt.NDArray[np.float32]:
    """Numbers that every dtype has exactly, other ones for each tensor."""
    return ((np.arange(np.prod(shape)) * (number + 1) % 251 - 125) / 64).astype(np.float32).reshape(shape)


def turned(weights: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """What llama.cpp's own converter makes of q and k of a Hugging Face folder (`LlamaModel.permute`)."""
    return (
        weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def plain(architecture: str) -> dict[str, npt.NDArray[np.float32]]:
    """A model of one block, by the names of a Hugging Face folder."""
    block = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, WIDTH),
        "model.norm.weight": (WIDTH,),
        f"{block}input_layernorm.weight": (WIDTH,),
        f"{block}self_attn.q_proj.weight": (HEADS * HEAD, WIDTH),
        f"{block}self_attn.k_proj.weight": (KEYS * HEAD, WIDTH),
        f"{block}self_attn.v_proj.weight": (KEYS * HEAD, WIDTH),
        f"{block}self_attn.o_proj.weight": (WIDTH, HEADS * HEAD),
        f"{block}post_attention_layernorm.weight": (WIDTH,),
        f"{block}mlp.gate_proj.weight": (INNER, WIDTH),
        f"{block}mlp.up_proj.weight": (INNER, WIDTH),
        f"{block}mlp.down_proj.weight": (WIDTH, INNER),
    }
    if architecture == "qwen2":
        shapes |= {f"{block}self_attn.{one}_proj.bias": ((HEADS if one == "q" else KEYS) * HEAD,) for one in "qkv"}
        shapes["lm_head.weight"] = (WORDS, WIDTH)
    return {name: rows(i, *shape) for i, (name, shape) in enumerate(shapes.items())}


GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight", "model.layers.0.": "blk.0.", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def write(path: Path, architecture: str = "llama", kind: Any = gguf.GGMLQuantizationType.F32, **more: Any) -> Path:
    """A GGUF file of `plain`, by llama.cpp's own library; `more`: pairs in place of those here, by their last name."""
    out = gguf.GGUFWriter(path, more.get("named", architecture))
    out.add_context_length(128)
    out.add_embedding_length(WIDTH)
    out.add_block_count(1)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(KEYS)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(50_000.0)
    out.add_tokenizer_model(more.get("tokenizer", "gpt2"))
    out.add_tokenizer_pre(more.get("pre", "qwen2" if architecture == "qwen2" else "smollm"))
    out.add_token_list([f"t{i}" for i in range(WORDS - 2)] + ["<s>", "</s>"])
    out.add_token_types([1] * (WORDS - 2) + [3, 3])
    out.add_token_merges(["t 1", "t 2"])
    out.add_bos_token_id(WORDS - 2)
    out.add_eos_token_id(WORDS - 1)
    out.add_add_bos_token(bool(more.get("bos", False)))
    out.add_chat_template("{{ messages }}")
    if "scaling" in more:
        out.add_rope_scaling_type(more["scaling"])
    for name, weights in plain(architecture).items():
        theirs = name
        for hf, short in GGUF_NAMES.items():
            theirs = theirs.replace(hf, short)
        heads = {".q_proj": HEADS, ".k_proj": KEYS}.get(name[-14:-7]) if architecture == "llama" else None
        numbers = turned(weights, heads) if heads else weights
        quantized = kind if numbers.ndim > 1 else gguf.GGMLQuantizationType.F32
        out.add_tensor(theirs, gguf.quants.quantize(numbers, quantized), raw_dtype=quantized)
    for name in more.get("extra", ()):
        out.add_tensor(name, rows(1, 4))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def read(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """A file of safetensors, read as its format says: nothing of ours."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    found = {}
    for name, said in json.loads(raw[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = said["data_offsets"]
            part = raw[8 + length + begin : 8 + length + end]
            if said["dtype"] == "BF16":
                numbers = (np.frombuffer(part, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                numbers = np.frombuffer(part, {"F16": "<f2", "F32": "<f4"}[said["dtype"]]).astype(np.float32)
            found[name] = numbers.reshape(said["shape"])
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_the_same_numbers_under_the_other_names(tmp_path: Path, architecture: str, dtype: str) -> None:
    """All tensors of the folder that the file was once made of, q and k in their own order again."""
    made = converted(write(tmp_path / "m.gguf", architecture), DIGEST, tmp_path / "cache", dtype, print)
    found, wanted = read(made / "model.safetensors"), plain(architecture)
    assert set(found) == set(wanted)
    for name, numbers in wanted.items():
        np.testing.assert_array_equal(found[name], numbers, err_msg=name)
    config = json.loads((made / "config.json").read_text())
    assert config["model_type"] == architecture
    assert config["tie_word_embeddings"] is (architecture == "llama")
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (HEADS, KEYS, HEAD)
    assert (config["vocab_size"], config["rope_theta"], config["torch_dtype"]) == (WORDS, 50_000.0, dtype)


def test_quantised_weights_are_brought_back(tmp_path: Path) -> None:
    """To within a step of their quantisation."""
    kind = gguf.GGMLQuantizationType.Q8_0
    made = converted(write(tmp_path / "m.gguf", kind=kind), DIGEST, tmp_path / "cache", "float32", print)
    found = read(made / "model.safetensors")
    for name, numbers in plain("llama").items():
        np.testing.assert_allclose(found[name], numbers, atol=2.0 / 127, err_msg=name)


def test_the_tokenizer_and_the_template_come_along(tmp_path: Path) -> None:
    """Tokens of the protocol are never cut; a text begins as the file says."""
    made = converted(write(tmp_path / "m.gguf", bos=True), DIGEST, tmp_path / "cache", "bfloat16", print)
    told = json.loads((made / "tokenizer.json").read_text())
    assert [(one["id"], one["content"], one["special"]) for one in told["added_tokens"]] == [
        (WORDS - 2, "<s>", True), (WORDS - 1, "</s>", True),
    ]  # fmt: skip
    assert told["model"]["vocab"]["t7"] == 7
    assert told["model"]["merges"] == [["t", "1"], ["t", "2"]]
    assert told["post_processor"]["single"][0] == {"SpecialToken": {"id": "<s>", "type_id": 0}}
    assert (made / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((made / "generation_config.json").read_text())["eos_token_id"] == [WORDS - 1]
    assert json.loads((made / "tokenizer_config.json").read_text())["eos_token"] == "</s>"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"named": "falcon"}, "its architecture is `falcon`"),
        ({"tokenizer": "llama"}, "its tokenizer is `llama`"),
        ({"pre": "viking"}, "cuts by `viking`"),
        ({"extra": ["rope_freqs.weight"]}, "its tensor `rope_freqs.weight` has no place"),
        ({"extra": ["blk.0.ffn_gate_exps.weight"]}, "its tensor `blk.0.ffn_gate_exps.weight` has no place"),
        ({"scaling": gguf.RopeScalingType.YARN}, "its positions are scaled by `yarn`"),
    ],
)
def test_what_is_not_known_is_refused_and_leaves_nothing(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    """A model that would answer nonsense is never made; the next runtime is named."""
    with pytest.raises(ArtefactError, match=why) as told:
        converted(write(tmp_path / "m.gguf", **more), DIGEST, tmp_path / "cache", "bfloat16", print)
    assert told.value.code == "gguf-unknown"
    assert "runtime: llamacpp" in told.value.hint
    assert [one.suffix for one in (tmp_path / "cache").iterdir()] == [".lock"]


def test_it_is_made_once_for_each_file_and_dtype(tmp_path: Path) -> None:
    """Another digest or another dtype is another folder."""
    lines: list[str] = []
    path, cache = write(tmp_path / "m.gguf"), tmp_path / "cache"
    first = converted(path, DIGEST, cache, "bfloat16", lines.append)
    told = len(lines)
    assert converted(path, DIGEST, cache, "bfloat16", lines.append) == first
    assert len(lines) == told, "nothing was made again"
    others = {converted(path, DIGEST, cache, "float32", lines.append),
              converted(path, "sha256:" + "cd" * 32, cache, "bfloat16", lines.append)}  # fmt: skip
    assert len(others | {first}) == 3


def test_rubble_of_one_that_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    """Half a folder has another name, so that it never counts."""
    path, cache = write(tmp_path / "m.gguf"), tmp_path / "cache"
    name = converted(path, DIGEST, cache, "bfloat16", print).name
    (cache / name).rename(cache / f"{name}.half")
    (cache / f"{name}.half" / "model.safetensors").write_bytes(b"half")
    made = converted(path, DIGEST, cache, "bfloat16", print)
    assert set(read(made / "model.safetensors")) == set(plain("llama"))


CHILD = """
import sys, time
from pathlib import Path
from mainspring.replicas.adapters import gguf_to_safetensors as made
slow = made.as_bytes
def slowly(*given):
    time.sleep(0.1)
    return slow(*given)
made.as_bytes = slowly
given = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
print(made.converted(*given, "bfloat16", lambda line: print(line, flush=True)))
"""


def child(path: Path, cache: Path) -> subprocess.Popen[str]:
    """A process that converts, a tenth of a second for each tensor."""
    words = [sys.executable, "-c", CHILD, str(path), DIGEST, str(cache)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_replicas_at_once_make_it_once(tmp_path: Path) -> None:
    """One converts; the other says that it waits, and uses the same folder."""
    path, cache = write(tmp_path / "m.gguf"), tmp_path / "cache"
    both = [child(path, cache), child(path, cache)]
    told = [one.communicate(timeout=60)[0].splitlines() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert told[0][-1] == told[1][-1]
    assert sum(any(line.startswith("converted") for line in lines) for lines in told) == 1
    assert sum(any("waiting for it" in line for line in lines) for lines in told) <= 1


def test_a_kill_in_the_middle_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """The next one begins anew, and is not kept waiting by the lock of the dead."""
    path, cache = write(tmp_path / "m.gguf"), tmp_path / "cache"
    cut = child(path, cache)
    until = time.monotonic() + 30
    while not list(cache.glob("*.half/model.safetensors")) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGKILL)
    cut.communicate(timeout=10)
    assert not [one for one in cache.glob("gguf-*") if one.is_dir() and one.suffix != ".half"]
    made = converted(path, DIGEST, cache, "bfloat16", print)
    assert set(read(made / "model.safetensors")) == set(plain("llama"))
    assert not list(cache.glob("*.half"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the cache should be: said with its path and what to do."""
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(EnvironmentError_, match="cannot be written") as told:
        converted(write(tmp_path / "m.gguf"), DIGEST, tmp_path / "cache", "bfloat16", print)
    assert "XDG_CACHE_HOME" in told.value.hint


def test_a_dtype_that_is_none(tmp_path: Path) -> None:
    """It is said which there are."""
    with pytest.raises(InputError, match="`int3` is none of: `bfloat16`"):
        converted(tmp_path / "m.gguf", DIGEST, tmp_path / "cache", "int3", print)


def test_bfloat16_is_rounded_to_the_nearest() -> None:
    """Half of all roundings up, half down: as `torch` does, and not cut off."""
    numbers = np.random.default_rng(3).normal(size=4_096).astype(np.float32)
    back = (np.frombuffer(as_bytes(numbers, "bfloat16"), "<u2").astype(np.uint32) << 16).view(np.float32)
    assert np.max(np.abs(back - numbers) / np.abs(numbers)) <= 2.0**-8
    assert abs(float(np.mean(np.abs(back) - np.abs(numbers)))) < 1e-4


def test_turning_back_undoes_what_llama_cpp_does() -> None:
    """For q and for k, of any heads."""
    for heads in (1, 2, 4):
        numbers = rows(heads, heads * HEAD, 8)
        np.testing.assert_array_equal(turned_back(turned(numbers, heads), heads), numbers)
