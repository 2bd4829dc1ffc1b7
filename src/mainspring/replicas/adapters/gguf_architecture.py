"""How a model's tensors and sizes are called in GGUF, and how in a Hugging Face folder.

What this is: tables for the architectures that are known, and pure functions over them. Who calls it:
`gguf_to_safetensors.py`. What it must never do: guess. A tensor or a way of turning positions that has no entry here
is an error, since weights that are left out make a model that answers, and answers nonsense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from mainspring.errors import ArtefactError

Facts = Mapping[str, Any]
"""The key-value pairs of a GGUF file."""

_INSTEAD = "serve it with `runtime: llamacpp`, or register the model's own safetensors folder: `mainspring models add`"

_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_BIASES = {f"attn_{one}.bias": f"self_attn.{one}_proj.bias" for one in "qkv"}
_NORMS = {f"attn_{one}_norm.weight": f"self_attn.{one}_norm.weight" for one in "qk"}
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture: its name in a Hugging Face config, and what its blocks hold."""

    model_type: str
    class_name: str
    block: Mapping[str, str]
    turned: bool = False  # llama.cpp stores the rows of q and k in another order


KNOWN: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", _BLOCK, turned=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _BLOCK | _BIASES),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _BLOCK | _NORMS),
}


def architecture_of(facts: Facts) -> Architecture:
    """The architecture of a file; raises `ArtefactError` `gguf-unknown` for one that is not known here."""
    name = str(facts.get("general.architecture", ""))
    found = KNOWN.get(name)
    if found is None:
        there = ", ".join(f"`{one}`" for one in KNOWN)
        raise unknown(f"its architecture is `{name}`, and safetensors are made of {there}")
    if (turning := str(facts.get(f"{name}.rope.scaling.type", "none"))) != "none":
        raise unknown(f"its positions are scaled by `{turning}`")
    return found


def hf_name(architecture: Architecture, name: str) -> str:
    """What a tensor is called in a Hugging Face folder; raises `ArtefactError` for one that has no place there.

    >>> hf_name(KNOWN["llama"], "blk.7.ffn_up.weight")
    'model.layers.7.mlp.up_proj.weight'
    """
    if name in _WHOLE:
        return _WHOLE[name]
    block, _, rest = name.partition(".")[2].partition(".")
    if name.startswith("blk.") and block.isdecimal() and rest in architecture.block:
        return f"model.layers.{block}.{architecture.block[rest]}"
    raise unknown(f"its tensor `{name}` has no place in `{architecture.class_name}`")


def config(facts: Facts, architecture: Architecture, *, vocabulary: int, tied: bool, dtype: str) -> dict[str, Any]:
    """`config.json`. `vocabulary`: rows of the embeddings; `tied`: there are no weights of an output of its own."""
    heads, keys = heads_of(facts)
    return {
        "architectures": [architecture.class_name],
        "model_type": architecture.model_type,
        "vocab_size": vocabulary,
        "hidden_size": _size(facts, "embedding_length"),
        "intermediate_size": _size(facts, "feed_forward_length"),
        "num_hidden_layers": _size(facts, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "head_dim": head_of(facts),
        "hidden_act": "silu",
        "max_position_embeddings": _size(facts, "context_length"),
        "rms_norm_eps": float(_fact(facts, "attention.layer_norm_rms_epsilon")),
        "rope_theta": float(_fact(facts, "rope.freq_base", 10_000.0)),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": facts.get("tokenizer.ggml.eos_token_id"),
        "torch_dtype": dtype,
    }


def heads_of(facts: Facts) -> tuple[int, int]:
    """Heads of queries, and of keys and values."""
    heads = _size(facts, "attention.head_count")
    return heads, int(_fact(facts, "attention.head_count_kv", heads))


def head_of(facts: Facts) -> int:
    """Numbers in one head."""
    whole = _size(facts, "embedding_length") // heads_of(facts)[0]
    return int(_fact(facts, "attention.key_length", _fact(facts, "rope.dimension_count", whole)))


def turned_back(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """The rows of q or k in the order that a Hugging Face folder has them: each head's halves, not its pairs.

    `rows` is [heads * head, width]; llama.cpp lays the two numbers that a position turns together side by side.

    >>> import numpy as np
    >>> turned_back(np.arange(8).reshape(8, 1), 2).ravel().tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _size(facts: Facts, key: str) -> int:
    return int(_fact(facts, key))


def _fact(facts: Facts, key: str, instead: Any = None) -> Any:
    """A fact of the model's own architecture; raises `ArtefactError` when it is not there and nothing stands for it."""
    whole = f"{facts.get('general.architecture', '')}.{key}"
    value = facts.get(whole, instead)
    if value is None or isinstance(value, list | str):
        raise unknown(f"`{whole}` is no number in it")
    return value


def unknown(why: str) -> ArtefactError:
    """The error for weights that safetensors can't be made of; `why` is the end of a sentence."""
    return ArtefactError("gguf-unknown", f"no safetensors can be made of `model.gguf`: {why}", _INSTEAD)
