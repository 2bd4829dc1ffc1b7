"""What the layers of a described transformer hold and keep: parameters, attention parts, experts.

What this is: the arithmetic of one layer of each kind, from a config.json's keys; pure. Who calls it:
`facts/config_json.py`. What it must never do: know a model by its name.

The counts follow the modules of Hugging Face transformers (modeling_llama, qwen3_moe, qwen3_next, deepseek_v3,
gpt_oss, minimax_m2, glm4_moe, glm_moe_dsa), linear layer by linear layer; tests hold them to the published totals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mainspring.facts.config_keys import Keys, refuse
from mainspring.facts.shapes import Attention, Experts

LAYERS, HIDDEN, HEADS, VOCAB, WIDTH, EXPERTS, TOKENS = 2_000, 1_000_000, 10_000, 10_000_000, 10_000_000, 65_536, 10**9
"""The largest that is believed of each."""

PLAIN_MLP = frozenset({"gptj", "gpt2", "gpt_neox", "bloom", "opt", "falcon", "phi", "starcoder2", "gpt_bigcode", "mpt"})
"""Families whose feed-forward part has two matrices; all others have three (gate, up, down)."""

BIASED = frozenset({"qwen2", "qwen2_moe"})
"""Families whose query, key and value always have a bias."""

NORMED = frozenset({"qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"})
"""Families that normalise each head of query and key."""


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of layer part: how many layers have it, and the parameters of each."""

    layers: int
    big: int  # matrices: what quantising touches
    small: int = 0  # norms, biases, routers: what it leaves alone


def attention(keys: Keys, kind: str, layers: int, hidden: int) -> tuple[tuple[Attention, ...], tuple[Part, ...]]:
    """What the attention of all layers keeps, and its parameters; in the order full, window, linear."""
    if keys.first(("kv_lora_rank",))[0]:
        part, count = _latent(keys, layers, hidden)
        return (part,), (count,)
    linear = _linear_layers(keys, layers)
    window, windowed = _windowed(keys, kind, layers)
    full, count = _full(keys, kind, hidden)
    wide = layers - linear - windowed
    if wide < 0:
        refuse(keys.name, f"`layer_types` names {linear + windowed} layers of {layers}")
    kept: list[Attention] = []
    if wide:
        kept.append(replace(full, layers=wide))
    if windowed:
        kept.append(replace(full, kind="window", layers=windowed, window=window))
    counts = [replace(count, layers=wide + windowed)] if wide + windowed else []
    if linear:
        part, gated = _linear(keys, linear, hidden)
        kept.append(part)
        counts.append(gated)
    return tuple(kept), tuple(counts)


def _heads(keys: Keys, hidden: int) -> tuple[int, int, int]:
    """Query heads, key heads, width of one."""
    heads = keys.whole("num_attention_heads", "n_head", "num_heads", most=HEADS)
    shared = heads if not keys.flag("multi_query", default=False) else 1
    kv_heads = keys.whole("num_key_value_heads", "num_kv_heads", "n_head_kv", most=HEADS, default=shared)
    if kv_heads > heads or heads % kv_heads:
        refuse(keys.name, f"`num_attention_heads: {heads}` is no multiple of `num_key_value_heads: {kv_heads}`")
    if not keys.first(("head_dim",))[0] and hidden % heads:
        refuse(keys.name, f"`hidden_size: {hidden}` is no multiple of `num_attention_heads: {heads}`")
    return heads, kv_heads, keys.whole("head_dim", most=HIDDEN, default=max(hidden // heads, 1))


def _full(keys: Keys, kind: str, hidden: int) -> tuple[Attention, Part]:
    heads, kv_heads, width = _heads(keys, hidden)
    value = keys.whole("v_head_dim", most=HIDDEN, default=width)
    gated = 2 if keys.flag("attn_output_gate", default=kind == "qwen3_next") else 1
    big = hidden * (heads * width * gated + kv_heads * (width + value)) + heads * value * hidden
    small = 0
    if keys.flag("attention_bias", "qkv_bias", default=kind in BIASED):
        small += heads * width + kv_heads * (width + value)
    if kind == "gpt_oss":
        small += hidden + heads  # a bias on the output, and one sink a head
    if keys.word("qk_norm_type") == "per_layer" or kind == "minimax_m2":
        small += (heads + kv_heads) * width
    elif keys.flag("use_qk_norm", default=kind in NORMED):
        small += 2 * width
    same = 0 if value == width else value
    return Attention("full", 1, heads, kv_heads, width, value_dim=same), Part(1, big, small)


def _latent(keys: Keys, layers: int, hidden: int) -> tuple[Attention, Part]:
    """Multi-head latent attention (DeepSeek-V2); an indexer, if there is one, is that of DeepSeek-V3.2."""
    heads = keys.whole("num_attention_heads", most=HEADS)
    rank = keys.whole("kv_lora_rank", most=HIDDEN)
    rotary = keys.whole("qk_rope_head_dim", most=HIDDEN)
    plain = keys.whole("qk_nope_head_dim", most=HIDDEN)
    value = keys.whole("v_head_dim", most=HIDDEN)
    query = keys.whole("q_lora_rank", least=0, most=HIDDEN, default=0)
    wide = heads * (plain + rotary)
    big = hidden * query + query * wide if query else hidden * wide
    big += hidden * (rank + rotary) + rank * heads * (plain + value) + heads * value * hidden
    small = query + rank
    index = keys.whole("index_head_dim", most=HIDDEN, default=0)
    if index:
        indexers = keys.whole("index_n_heads", most=HEADS)
        big += query * indexers * index + hidden * index
        small += 2 * index + hidden * indexers
    part = Attention(
        "latent",
        layers,
        heads,
        0,
        rank + rotary,
        value_dim=rank,
        latent=rank + rotary + index,
        reach=keys.whole("index_topk", most=TOKENS, default=0),
    )
    return part, Part(layers, big, small)


def _linear(keys: Keys, layers: int, hidden: int) -> tuple[Attention, Part]:
    """Gated delta net (Qwen3-Next): one state per value head, and the tail of a short convolution."""
    keyed = keys.whole("linear_num_key_heads", most=HEADS)
    valued = keys.whole("linear_num_value_heads", most=HEADS)
    key = keys.whole("linear_key_head_dim", most=HIDDEN)
    value = keys.whole("linear_value_head_dim", most=HIDDEN)
    taps = keys.whole("linear_conv_kernel_dim", most=10_000, default=4)
    mixed = 2 * keyed * key + valued * value
    big = hidden * (mixed + valued * value) + valued * value * hidden
    small = hidden * 2 * valued + mixed * taps + 2 * valued + value
    doubled = 2 if keys.word("mamba_ssm_dtype") == "float32" else 1
    state = doubled * valued * key * value + (taps - 1) * mixed
    return Attention("linear", layers, valued, 0, key, value_dim=value, state=state), Part(layers, big, small)


def _linear_layers(keys: Keys, layers: int) -> int:
    if not keys.first(("linear_num_value_heads",))[0]:
        return 0
    types = keys.listed("layer_types", str, LAYERS)
    if types:
        return types.count("linear_attention")
    every = keys.whole("full_attention_interval", most=LAYERS, default=4)
    return layers - layers // every


def _windowed(keys: Keys, kind: str, layers: int) -> tuple[int, int]:
    """The window in tokens, and how many layers have it."""
    window = keys.whole("sliding_window", least=0, most=TOKENS, default=0)
    if not window or not keys.flag("use_sliding_window", default=True):
        return 0, 0
    types = keys.listed("layer_types", str, LAYERS)
    if types:
        return window, types.count("sliding_attention")
    if kind == "gpt_oss":
        return window, (layers + 1) // 2  # every other one, from the first
    every = keys.whole("sliding_window_pattern", most=LAYERS, default=0)
    return window, layers - layers // every if every else layers


def feed_forward(keys: Keys, kind: str, layers: int, hidden: int) -> tuple[Experts | None, int, tuple[Part, ...]]:
    """The experts, the width of dense layers (0 without any), and parameters: of dense layers, then of the rest.

    Routed experts are not among the parts: see `routed`.
    """
    matrices = 2 if kind in PLAIN_MLP else 3
    width = keys.whole(
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "ffn_hidden_size",
        most=WIDTH,
        default=4 * hidden if matrices == 2 else 0,
    )
    experts = _experts(keys, layers, width)
    dense = layers - (experts.layers if experts else 0)
    if dense and not width:
        refuse(keys.name, "has no `intermediate_size`")
    # A plain multilayer perceptron nearly always has biases, and its attention too.
    small = width + hidden if matrices == 2 else 0
    parts = [Part(dense, matrices * hidden * width, small)] if dense else []
    if experts:
        shared = keys.whole("shared_expert_intermediate_size", least=0, most=WIDTH, default=0)
        wide = shared or experts.shared * experts.width
        router = hidden * experts.count + experts.count + (hidden if shared else 0)
        parts.append(Part(experts.layers, 3 * hidden * wide, router))
    return experts, width if dense else 0, tuple(parts)


def _experts(keys: Keys, layers: int, width: int) -> Experts | None:
    names = ("n_routed_experts", "num_experts", "num_local_experts")
    count = keys.whole(*names, least=0, most=EXPERTS, default=0)
    if count <= 1:
        return None
    active = keys.whole("num_experts_per_tok", "experts_per_token", "moe_top_k", "num_experts_per_token", most=EXPERTS)
    if active > count:
        refuse(keys.name, f"`num_experts_per_tok: {active}` is more than the {count} experts that there are")
    one = keys.whole("moe_intermediate_size", "moe_ffn_hidden_size", most=WIDTH, default=width)
    if not one:
        refuse(keys.name, "has no `moe_intermediate_size`")
    plain = set(keys.listed("mlp_only_layers", int, LAYERS))
    dense = keys.whole("first_k_dense_replace", least=0, most=LAYERS, default=0)
    every = keys.whole("decoder_sparse_step", "moe_layer_freq", most=LAYERS, default=1)
    sparse = sum(1 for layer in range(layers) if layer >= dense and layer not in plain and (layer + 1) % every == 0)
    if not sparse:
        return None
    shared = keys.whole("shared_expert_intermediate_size", least=0, most=WIDTH, default=0)
    same = (
        -(-shared // one)
        if shared
        else keys.whole("n_shared_experts", "num_shared_experts", least=0, most=1000, default=0)
    )
    return Experts(sparse, count, active, one, shared=same)


def routed(kind: str, experts: Experts | None, hidden: int) -> Part:
    """One routed expert of each layer, as a part whose `layers` counts experts."""
    if experts is None:
        return Part(0, 0)
    biases = 2 * experts.width + hidden if kind == "gpt_oss" else 0
    return Part(experts.layers * experts.count, 3 * hidden * experts.width, biases)
