"""The shape of a language model from the header of a GGUF file.

What this is: metadata keys and the list of tensors made into a `ModelShape`; the bytes are exact, since the header
lists every tensor's type. Who calls it: `plan` and `catalog` for a model file of llama.cpp.
What it must never do: touch tensor data.

Keys are those of docs/gguf.md (github.com/ggml-org/ggml); which layers have a window when the file doesn't say follows
llama.cpp's `set_swa_pattern` (the last of each period attends to all).
"""

from __future__ import annotations

import re
from typing import BinaryIO

from mainspring.facts.gguf_header import Header, Tensor, read_header, refuse
from mainspring.facts.shapes import Attention, Experts, ModelShape

FAMILIES: dict[str, str] = {
    "llama": "llama",
    "deepseek2": "deepseek",
    "gpt-oss": "gpt-oss",
    "minimax-m2": "minimax",
    "glm4moe": "glm",
    "glm-dsa": "glm",
    "mistral3": "mistral",
}

PERIODS: dict[str, int] = {"gpt-oss": 2, "gemma2": 2, "gemma3": 6, "cohere2": 4}
"""Layers of a period, of which all but the last have a window, where llama.cpp has it in code."""

WIDE = frozenset({"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"})
"""Tensor types that are no quantisation."""

EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down|gate_up)_exps\.(weight|bias)")
BLOCK = re.compile(r"blk\.(\d{1,6})\.")


def from_header(file: BinaryIO, name: str = "") -> tuple[ModelShape, str]:
    """The shape of the model in a GGUF file open at its start, and the nearest of our precisions.

    `weight_bytes(native)` of the shape is the exact size of its tensors. InputError `bad-gguf` for a file that is no
    GGUF, is cut off, or lacks a key that a shape needs.
    """
    header = read_header(file)
    keys = _Keys(header)
    if not header.tensors:
        refuse("the header lists no tensors")
    drafts = keys.whole("nextn_predict_layers", least=0, most=100, default=0)
    layers = keys.whole("block_count", most=2_000) - drafts
    if layers < 1:
        refuse(f"`{keys.arch}.nextn_predict_layers: {drafts}` leaves no layers")
    tensors = [one for one in header.tensors if _layer(one) < layers]
    total = sum(one.elements for one in tensors)
    routed = sum(one.elements for one in tensors if EXPERT.fullmatch(one.name))
    experts = _experts(keys, tensors)
    unmet = routed * (experts.count - experts.active) // experts.count if experts else 0
    native = _native(tensors)
    tables = {one.name: one.elements for one in tensors if one.name in ("token_embd.weight", "output.weight")}
    hidden = keys.whole("embedding_length", most=1_000_000)
    shape = ModelShape(
        name=name or str(header.values.get("general.name") or keys.arch)[:100],
        family=FAMILIES.get(keys.arch, "qwen" if keys.arch.startswith("qwen") else "other"),
        parameters=total,
        active=total - unmet,
        layers=layers,
        hidden=hidden,
        vocab=_vocab(keys, tables, hidden),
        attention=_attention(keys, layers, hidden),
        experts=experts,
        context=keys.whole("context_length", least=0, most=10**9, default=0),
        native=native,
        high=0 if native in ("fp32", "fp16", "bf16") else sum(one.elements for one in tensors if one.kind in WIDE),
        draft_layers=drafts,
        width=max(keys.numbers("feed_forward_length", most=10_000_000), default=0),
        lookup=tables.get("token_embd.weight", 0) if "output.weight" in tables else 0,
        stored=float(sum(one.size for one in tensors)),
        source=f"GGUF header, {len(header.tensors)} tensors",
        confidence="read",
    )
    return shape, native


class _Keys:
    """Metadata of the file's own architecture."""

    __slots__ = ("arch", "header")

    def __init__(self, header: Header) -> None:
        arch = header.values.get("general.architecture")
        if not isinstance(arch, str) or not arch:
            refuse("the header has no `general.architecture`")
        parts = header.values.get("split.count", 1)
        if isinstance(parts, int) and parts > 1:
            refuse(f"the file is one of `{parts}` parts; merge them first (llama-gguf-split --merge)")
        self.arch = arch[:100]
        self.header = header

    def there(self, key: str) -> bool:
        return f"{self.arch}.{key}" in self.header.values

    def numbers(self, key: str, *, most: int, least: int = 0) -> tuple[int, ...]:
        """A whole number, or one for each layer; () when it is not there."""
        found = self.header.values.get(f"{self.arch}.{key}")
        if found is None:
            return ()
        values = found if isinstance(found, tuple) else (found,)
        whole = tuple(int(one) for one in values if isinstance(one, int))
        if len(whole) != len(values) or not whole or any(not least <= one <= most for one in whole):
            shown = str(found)[:60]
            refuse(f"`{self.arch}.{key}: {shown}` is not a whole number between {least:,} and {most:,}")
        return whole

    def whole(self, key: str, *, most: int, least: int = 1, default: int | None = None) -> int:
        """A whole number; the largest, when there is one for each layer."""
        found = self.numbers(key, most=most, least=least if self._single(key) else 0)
        if found and max(found) >= least:
            return max(found)
        if default is None:
            refuse(f"the header has no `{self.arch}.{key}`")
        return default

    def _single(self, key: str) -> bool:
        return not isinstance(self.header.values.get(f"{self.arch}.{key}"), tuple)


def _layer(tensor: Tensor) -> int:
    """The layer that a tensor belongs to; -1 for none."""
    found = BLOCK.match(tensor.name)
    return int(found.group(1)) if found else -1


def _vocab(keys: _Keys, tables: dict[str, int], hidden: int) -> int:
    stated = keys.whole("vocab_size", least=0, most=10_000_000, default=0)
    listed = keys.header.lengths.get("tokenizer.ggml.tokens", 0)
    return stated or listed or max(tables.values(), default=0) // hidden


def _experts(keys: _Keys, tensors: list[Tensor]) -> Experts | None:
    count = keys.whole("expert_count", least=0, most=65_536, default=0)
    if count <= 1:
        return None
    active = keys.whole("expert_used_count", most=65_536)
    if active > count:
        refuse(f"`{keys.arch}.expert_used_count: {active}` is more than the {count} experts that there are")
    usual = max(keys.numbers("feed_forward_length", most=10_000_000), default=0)
    width = keys.whole("expert_feed_forward_length", most=10_000_000, default=usual)
    layers = {_layer(one) for one in tensors if EXPERT.fullmatch(one.name)}
    if not layers:
        refuse(f"`{keys.arch}.expert_count: {count}`, but the header lists no tensors of experts")
    shared = keys.whole("expert_shared_count", least=0, most=1_000, default=0)
    return Experts(len(layers), count, active, width, shared=shared)


def _attention(keys: _Keys, layers: int, hidden: int) -> tuple[Attention, ...]:
    heads = keys.whole("attention.head_count", most=10_000)
    if keys.there("attention.kv_lora_rank"):
        rank = keys.whole("attention.kv_lora_rank", most=1_000_000)
        rotary = keys.whole("rope.dimension_count", least=0, most=1_000_000, default=64)
        index = keys.whole("attention.indexer.key_length", least=0, most=1_000_000, default=0)
        reach = keys.whole("attention.indexer.top_k", least=0, most=10**9, default=0)
        kept = rank + rotary
        return (Attention("latent", layers, heads, 0, kept, value_dim=rank, latent=kept + index, reach=reach),)
    key = keys.whole("attention.key_length", most=1_000_000, default=max(hidden // heads, 1))
    value = keys.whole("attention.value_length", most=1_000_000, default=key)
    found: dict[tuple[str, int], int] = {}
    for one in _kinds(keys, layers, heads):
        found[one] = found.get(one, 0) + 1
    window = keys.whole("attention.sliding_window", least=0, most=10**9, default=0)
    same = 0 if value == key else value
    parts: list[Attention] = []
    for (kind, kv_heads), count in sorted(found.items()):
        if kind == "full":
            parts.append(Attention("full", count, heads, kv_heads, key, value_dim=same))
        elif kind == "window":
            parts.append(Attention("window", count, heads, kv_heads, key, value_dim=same, window=window))
        elif keys.there("ssm.inner_size"):
            parts.append(_linear(keys, count))
    return tuple(parts)


def _kinds(keys: _Keys, layers: int, heads: int) -> list[tuple[str, int]]:
    """Of each layer: how it attends, and with how many key heads."""
    each = keys.numbers("attention.head_count_kv", most=10_000) or (heads,)
    if len(each) not in (1, layers) and len(each) < layers:
        refuse(f"`{keys.arch}.attention.head_count_kv` has {len(each)} values for {layers} layers")
    every = keys.whole("full_attention_interval", least=0, most=2_000, default=0)
    if not every and keys.there("ssm.inner_size") and len(each) == 1:
        every = 4 if keys.arch.startswith("qwen3") else 0
    windows = _windows(keys, layers)
    kinds: list[tuple[str, int]] = []
    for layer in range(layers):
        kv_heads = each[layer] if len(each) > 1 else each[0]
        if kv_heads == 0 or (every and (layer + 1) % every):
            kinds.append(("linear", 0))
        else:
            kinds.append(("window" if windows[layer] else "full", kv_heads))
    return kinds


def _windows(keys: _Keys, layers: int) -> list[bool]:
    """Which layers have a window."""
    if not keys.whole("attention.sliding_window", least=0, most=10**9, default=0):
        return [False] * layers
    pattern = keys.numbers("attention.sliding_window_pattern", most=2_000)
    if len(pattern) > 1:
        if len(pattern) < layers:
            refuse(f"`{keys.arch}.attention.sliding_window_pattern` has {len(pattern)} values for {layers} layers")
        return [bool(one) for one in pattern[:layers]]
    period = pattern[0] if pattern else PERIODS.get(keys.arch, 1)
    return [period > 0 and layer % period < period - 1 for layer in range(layers)]


def _linear(keys: _Keys, layers: int) -> Attention:
    """A recurrent layer; llama.cpp keeps its state and the tail of its convolution in FP32."""
    inner = keys.whole("ssm.inner_size", most=10_000_000)
    state = keys.whole("ssm.state_size", most=1_000_000)
    groups = keys.whole("ssm.group_count", least=0, most=10_000, default=0)
    taps = keys.whole("ssm.conv_kernel", most=10_000, default=4)
    heads = keys.whole("ssm.time_step_rank", most=1_000_000, default=1)
    kept = inner * state + (taps - 1) * (inner + 2 * groups * state)
    return Attention("linear", layers, heads, 0, state, value_dim=max(inner // heads, 1), state=2 * kept)


def _native(tensors: list[Tensor]) -> str:
    """The precision that most parameters are nearest to: of quantised weights, by the bits that they take."""
    elements: dict[str, int] = {}
    for one in tensors:
        elements[one.kind] = elements.get(one.kind, 0) + one.elements
    kind = max(elements, key=lambda one: elements[one])
    exact = {"F32": "fp32", "F64": "fp32", "F16": "fp16", "BF16": "bf16", "MXFP4": "mxfp4", "NVFP4": "fp4"}
    if kind in exact:
        return exact[kind]
    bits = 8 * sum(one.size for one in tensors if one.kind == kind) / elements[kind]
    return "int4" if bits < 6 else "int8"
