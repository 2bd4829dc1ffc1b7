"""The shape of a language model from its Hugging Face `config.json`.

What this is: a reader of untrusted text; pure. Who calls it: `facts/models.py` (built-in models are stored as such
texts), `plan` for a model's folder. What it must never do: load weights, follow a path, or trust a value.
"""

from __future__ import annotations

from typing import Any, Literal

from mainspring.facts.config_counts import HIDDEN, LAYERS, TOKENS, VOCAB, Part, attention, feed_forward, routed
from mainspring.facts.config_keys import Keys, parse, refuse, shown
from mainspring.facts.shapes import ModelShape

FAMILIES: dict[str, str] = {
    "llama": "llama",
    "qwen2": "qwen",
    "qwen2_moe": "qwen",
    "qwen3": "qwen",
    "qwen3_moe": "qwen",
    "qwen3_next": "qwen",
    "qwen3_5": "qwen",
    "qwen3_5_text": "qwen",
    "qwen3_5_moe": "qwen",
    "qwen3_5_moe_text": "qwen",
    "mistral": "mistral",
    "mixtral": "mistral",
    "deepseek_v2": "deepseek",
    "deepseek_v3": "deepseek",
    "deepseek_v32": "deepseek",
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax",
    "kimi_k2": "kimi",
    "kimi_k25": "kimi",
    "glm4_moe": "glm",
    "glm_moe_dsa": "glm",
}
"""Families whose parameters are counted module by module; any other `model_type` is read by its usual keys."""

DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float8_e4m3fn": "fp8"}

CORE = ("self_attn", "attention")
"""Words in a quantiser's list of modules left alone that mean attention."""


def from_config(text: str, name: str) -> ModelShape:
    """The shape that a config.json describes; InputError `bad-model-config` when it describes none."""
    return build(parse(text, name), name)


def build(
    values: dict[str, Any],
    name: str,
    source: str = "config.json",
    confidence: Literal["read", "derived", "memory", "low"] = "read",
) -> ModelShape:
    """The shape that a parsed config.json describes; `parameters` leave out a vision tower and draft layers."""
    outer = Keys(values, name)
    keys = _inner(outer)
    # A wrapper's own type names the family where the text model inside goes by an older one (Kimi-K2.5).
    wrapper, kind = outer.word("model_type"), keys.word("model_type")
    kind = kind if kind in FAMILIES or not wrapper else wrapper
    layers = keys.whole("num_hidden_layers", "n_layer", "num_layers", most=LAYERS)
    hidden = keys.whole("hidden_size", "n_embd", "d_model", most=HIDDEN)
    vocab = keys.whole("vocab_size", most=VOCAB)
    kept, attending = attention(keys, kind, layers, hidden)
    experts, width, feeding = feed_forward(keys, kind, layers, hidden)
    each = routed(kind, experts, hidden)
    tied = keys.flag("tie_word_embeddings", default=outer.flag("tie_word_embeddings", default=False))
    table = vocab * hidden
    norms = (2 * layers + 1) * hidden
    fixed = table * (1 if tied else 2) + norms
    total = fixed + sum(_all(part) for part in (*attending, *feeding, each))
    unmet = experts.layers * (experts.count - experts.active) * (each.big + each.small) if experts else 0
    native, spec = _native(outer, keys)
    high = fixed + sum(part.layers * part.small for part in (*attending, *feeding, each))
    high += _untouched(spec, attending, feeding)
    known = kind in FAMILIES
    return ModelShape(
        name=name,
        family=FAMILIES.get(wrapper) or FAMILIES.get(kind, "other"),
        parameters=total,
        active=total - unmet,
        layers=layers,
        hidden=hidden,
        vocab=vocab,
        attention=kept,
        experts=experts,
        context=keys.whole("max_position_embeddings", "n_positions", "seq_length", most=TOKENS, default=0),
        native=native,
        high=high,
        draft_layers=_drafts(keys),
        width=width,
        lookup=0 if tied else table,
        stored=_stored(spec, native, total, high),
        source=source if known else f"{source}, read by its usual keys (`model_type: {shown(kind)}` is not known)",
        confidence=confidence if known or confidence != "read" else "derived",
    )


def _all(part: Part) -> int:
    return part.layers * (part.big + part.small)


def _inner(outer: Keys) -> Keys:
    """The language model's own keys: those of `text_config` when the file describes a model that sees too."""
    if not outer.values:
        refuse(outer.name, "is an empty object")
    inner = outer.within("text_config")
    if not inner.values or not inner.first(("num_hidden_layers", "n_layer", "hidden_size"))[0]:
        return outer
    return inner


def _drafts(keys: Keys) -> int:
    """Multi-token-prediction layers."""
    return keys.whole(
        "num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", least=0, most=LAYERS, default=0
    )


def _native(outer: Keys, keys: Keys) -> tuple[str, Keys]:
    """Precision of the published weights, and what is said of their quantisation (empty: nothing)."""
    spec = outer.within("quantization_config")
    if not spec.values:
        spec = keys.within("quantization_config")
    if spec.values:
        return _quantised(spec), spec
    dtype = keys.word("torch_dtype", "dtype") or outer.word("torch_dtype", "dtype")
    return DTYPES.get(dtype.removeprefix("torch."), "bf16"), spec


def _quantised(spec: Keys) -> str:
    method = spec.word("quant_method").lower()
    algorithm = spec.word("quant_algo", "format", "fmt").lower()
    if method == "mxfp4" or "mxfp4" in algorithm:
        return "mxfp4"
    if "nvfp4" in method or "fp4" in algorithm:
        return "fp4"
    if method == "compressed-tensors" or spec.values.get("config_groups"):
        return _grouped(spec)
    if method == "fp8" or "fp8" in algorithm or "fp8" in method:
        return "fp8"
    if method in {"gptq", "awq", "auto-round", "autoround", "int4", "w4a16"}:
        return _bits(spec, spec.whole("bits", "w_bit", "wbits", most=16, default=4))
    if method == "bitsandbytes":
        return "int4" if spec.flag("load_in_4bit", "_load_in_4bit", default=False) else "int8"
    return refuse(spec.name, f"`quantization_config.quant_method: {shown(method)}` is not known")


def _grouped(spec: Keys) -> str:
    """Of compressed-tensors and ModelOpt: the coarsest group of weights."""
    found: list[str] = []
    for group in list(spec.within("config_groups").values.values())[:100]:
        weights = Keys(group, spec.name).within("weights") if isinstance(group, dict) else Keys({}, spec.name)
        if isinstance(group, dict) and "mxfp4" in Keys(group, spec.name).word("format"):
            return "mxfp4"
        bits = weights.whole("num_bits", most=16, default=8)
        found.append(_bits(spec, bits, weights.word("type", default="float" if bits == 8 else "int")))
    if not found:
        refuse(spec.name, "`quantization_config` has no `config_groups` with weights")
    return min(found, key=["fp4", "int4", "fp8", "int8", "bf16"].index)


def _bits(spec: Keys, bits: int, kind: str = "int") -> str:
    known = {(4, "int"): "int4", (8, "int"): "int8", (8, "float"): "fp8", (4, "float"): "fp4", (16, "float"): "bf16"}
    label = known.get((bits, kind))
    if label is None:
        refuse(spec.name, f"weights of {bits} bits ({shown(kind)}) are not known")
    return label


def _untouched(spec: Keys, attending: tuple[Part, ...], feeding: tuple[Part, ...]) -> int:
    """Matrices that stay at two bytes because the quantiser left attention or shared experts alone."""
    ignored = spec.first(("modules_to_not_convert", "ignore", "exclude_modules"))[1]
    words = [one for one in ignored if isinstance(one, str)] if isinstance(ignored, list) else []
    kept = 0
    if any(core in word for word in words for core in CORE):
        kept += sum(part.layers * part.big for part in attending)
    if any("shared_expert" in word for word in words):
        kept += sum(part.layers * part.big for part in feeding)
    return kept


def _stored(spec: Keys, native: str, total: int, high: int) -> float:
    """Bytes of four-bit weights with scales for groups of another size than `BYTES` takes; 0 when it is right."""
    groups = [group for group in list(spec.within("config_groups").values.values())[:100] if isinstance(group, dict)]
    sizes = [
        Keys(group, spec.name).within("weights").whole("group_size", most=100_000, default=128) for group in groups
    ]
    size = min([*sizes, spec.whole("group_size", least=-1, most=100_000, default=128)])
    if native != "int4" or size in (128, -1, 0):
        return 0.0
    return (total - high) * (0.5 + 2.0 / size) + high * 2.0
