"""The tokenizer that a GGUF file carries, as a Hugging Face folder has it.

What this is: `tokenizer.json` and its companions, from the file's key-value pairs; pure. Who calls it:
`gguf_to_safetensors.py`. What it must never do: cut a text in another way than llama.cpp does with the same file, so a
way of cutting that is not known here is an error.
"""

from __future__ import annotations

from typing import Any

from mainspring.replicas.adapters.gguf_architecture import Facts, unknown

CONTROL, OWN = 3, 4
"""Kinds of tokens that are never made of pieces: those of the protocol, and those that the model's makers added."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{NUMBER}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _split(pattern: str) -> list[dict[str, Any]]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [cut, _BYTES | {"use_regex": False}]


CUT: dict[str, list[dict[str, Any]]] = {
    "default": [_BYTES],
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": _split(_LLAMA3.replace("{NUMBER}", "{1,3}")),
    "qwen2": _split(_LLAMA3.replace("{NUMBER}", "")),
}
"""How a text is cut before pieces are joined, by `tokenizer.ggml.pre`."""


def files(facts: Facts) -> dict[str, Any]:
    """The tokenizer's files, by name: values to be written as JSON, and the chat template as a text."""
    made: dict[str, Any] = {"tokenizer.json": _tokenizer(facts), "tokenizer_config.json": _settings(facts)}
    ends = [facts.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    made["generation_config.json"] = {
        "bos_token_id": facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": sorted({int(one) for one in ends if one is not None}),
    }
    if template := facts.get("tokenizer.chat_template"):
        made["chat_template.jinja"] = str(template)
    return made


def _tokenizer(facts: Facts) -> dict[str, Any]:
    kind, cut = str(facts.get("tokenizer.ggml.model", "")), str(facts.get("tokenizer.ggml.pre", "default"))
    if kind != "gpt2" or cut not in CUT:
        there = ", ".join(f"`{one}`" for one in CUT)
        raise unknown(f"its tokenizer is `{kind}` that cuts by `{cut}`, and known is `gpt2` that cuts by {there}")
    tokens = [str(one) for one in facts["tokenizer.ggml.tokens"]]
    kinds = facts.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "special": kind == CONTROL, "normalized": False,
             "single_word": False, "lstrip": False, "rstrip": False}
            for i, kind in enumerate(kinds) if kind in (CONTROL, OWN)
        ],
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": CUT[cut]},
        "post_processor": _opening(facts, tokens),
        "decoder": _BYTES,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": cut == "llama-bpe",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [str(one).split(" ", 1) for one in facts["tokenizer.ggml.merges"]],
        },
    }  # fmt: skip


def _opening(facts: Facts, tokens: list[str]) -> dict[str, Any]:
    """What is put before a text: the token of its beginning, where the file says so."""
    if not facts.get("tokenizer.ggml.add_bos_token"):
        return _BYTES
    number = int(facts["tokenizer.ggml.bos_token_id"])
    first, text = {"SpecialToken": {"id": tokens[number], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}},
    }


def _settings(facts: Facts) -> dict[str, Any]:
    tokens = facts["tokenizer.ggml.tokens"]
    said = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: facts.get(f"tokenizer.ggml.{key}_token_id") for name, key in said.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(facts.get(f"{facts.get('general.architecture')}.context_length", 1 << 30)),
        **{name: str(tokens[int(number)]) for name, number in ids.items() if number is not None},
    }
