"""Reading a Hugging Face config.json that somebody else wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts.config_json import from_config
from mainspring.facts.shapes import ModelShape

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
LATENT = {
    "model_type": "deepseek_v3",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}


def read(base: dict, **changes: object) -> ModelShape:
    """The shape of a config with some keys changed."""
    return from_config(json.dumps({**base, **changes}), "tiny")


def test_a_small_llama_counted_by_hand():
    """Table and head, four matrices of attention, three of the feed-forward part, norms."""
    shape = read(LLAMA)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128 + 2 * 64
    assert shape.parameters == 2 * 1000 * 64 + 2 * layer + 64
    assert shape.active == shape.parameters
    assert shape.lookup == 64_000
    assert (shape.native, shape.family, shape.confidence, shape.width) == ("bf16", "llama", "read", 128)
    assert read(LLAMA, tie_word_embeddings=True).parameters == shape.parameters - 64_000


def test_a_small_latent_mixture_counted_by_hand():
    """DeepSeek's attention and experts, matrix by matrix."""
    shape = read(LATENT)
    attention = 64 * 24 + 24 + 24 * 4 * 24 + 64 * 24 + 16 + 16 * 4 * 32 + 4 * 16 * 64
    dense = 3 * 64 * 128
    expert = 3 * 64 * 32
    sparse = 9 * expert + 64 * 8 + 8
    assert shape.parameters == 2 * 64_000 + 4 * (attention + 128) + 64 + dense + 3 * sparse
    assert shape.active == shape.parameters - 3 * 6 * expert
    assert shape.kv_bytes_per_token() == 4 * 24 * 2
    assert shape.experts is not None
    assert (shape.experts.layers, shape.experts.shared) == (3, 1)


def test_an_unknown_type_is_read_by_its_usual_keys_and_says_so():
    """A new family with the usual keys gives a shape that is labelled as derived."""
    shape = read(LLAMA, model_type="brand_new")
    assert (shape.family, shape.confidence) == ("other", "derived")
    assert "brand_new" in shape.source
    assert shape.parameters == read(LLAMA).parameters


def test_a_model_that_sees_too_is_read_by_its_text_part():
    """The keys of `text_config` are the language model's; the wrapper's precision still counts."""
    wrapped = {"model_type": "kimi_k25", "text_config": LATENT, "quantization_config": {"quant_method": "fp8"}}
    shape = from_config(json.dumps(wrapped), "tiny")
    assert (shape.family, shape.native) == ("kimi", "fp8")
    assert shape.parameters == read(LATENT).parameters


@pytest.mark.parametrize(
    ("spec", "native"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"a": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4, "type": "int"}}}},
            "int4",
        ),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"format": "mxfp4-pack-quantized"}}}, "mxfp4"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {}}, "fp4"),
    ],
)
def test_the_native_precision_is_that_of_the_quantiser(spec, native):
    """Each quantiser in use is known by its own keys."""
    assert read(LLAMA, quantization_config=spec).native == native


def test_attention_that_is_left_alone_keeps_two_bytes():
    """A quantiser that skips attention leaves more bytes than one that doesn't."""
    plain = read(LATENT, quantization_config={"quant_method": "mxfp4"})
    spared = read(LATENT, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["model.self_attn"]})
    assert spared.weight_bytes("mxfp4") > plain.weight_bytes("mxfp4")
    assert spared.parameters == plain.parameters


def test_small_groups_have_more_scales():
    """INT4 in groups of 32 takes more bytes than in groups of 128, as published."""

    def sized(group: int) -> float:
        weights = {"num_bits": 4, "type": "int", "group_size": group}
        spec = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": weights}}}
        return read(LLAMA, quantization_config=spec).weight_bytes("int4")

    assert sized(32) > sized(128) > 0


def test_windows_are_counted_by_layer():
    """A list of layer types, a pattern, or a flag says which layers keep a window."""
    types = ["sliding_attention", "full_attention"]
    assert [part.kind for part in read(LLAMA, sliding_window=16, layer_types=types).attention] == ["full", "window"]
    assert [part.kind for part in read(LLAMA, sliding_window=16).attention] == ["window"]
    assert [part.kind for part in read(LLAMA, sliding_window=16, use_sliding_window=False).attention] == ["full"]
    assert [part.kind for part in read(LLAMA, sliding_window=None).attention] == ["full"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: 1000000000000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0"),
        ({"hidden_size": -64}, "hidden_size: -64"),
        ({"hidden_size": "64"}, "hidden_size: '64'"),
        ({"hidden_size": True}, "hidden_size: True"),
        ({"hidden_size": 64.5}, "hidden_size: 64.5"),
        ({"vocab_size": None}, "vocab_size"),
        ({"vocab_size": [1000]}, r"vocab_size: \[1000\]"),
        ({"num_attention_heads": 5}, "num_attention_heads: 5"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"sliding_window": 16, "layer_types": ["sliding_attention"] * 9}, "layer_types"),
        ({"layer_types": {"a": 1}, "sliding_window": 4}, "layer_types"),
        ({"num_experts": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 8}, "num_experts_per_tok: 8"),
        ({"num_experts": 4}, "num_experts_per_tok"),
        ({"quantization_config": {"quant_method": "magic"}}, "magic"),
        ({"quantization_config": []}, "quantization_config"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3 bits"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: 'yes'"),
        ({"text_config": 3}, "text_config: 3"),
        ({"model_type": 3}, "model_type: 3"),
    ],
)
def test_a_wrong_value_is_named(changes, told):
    """The message names the key and the value."""
    with pytest.raises(InputError, match=told) as raised:
        read(LLAMA, **changes)
    assert raised.value.code == "bad-model-config"
    assert "tiny" in raised.value.message
    assert len(raised.value.message) < 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"hidden_size": NaN}',
        '{"hidden_size": Infinity}',
        "[" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"hidden_size": ' + "9" * 5_000 + "}",
        "\x00\x01\x02",
        " " * (17 * 1024 * 1024),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_what_is_no_config_is_refused(text):
    """Junk, deep nesting, huge numbers and huge files end in an error for people."""
    with pytest.raises(InputError) as raised:
        from_config(text, "tiny")
    assert raised.value.code == "bad-model-config"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from([LLAMA, LATENT]),
    st.dictionaries(
        st.sampled_from(
            [
                *LLAMA,
                *LATENT,
                "head_dim",
                "layer_types",
                "sliding_window",
                "quantization_config",
                "text_config",
                "linear_num_value_heads",
            ]
        ),
        JUNK,
        max_size=3,
    ),
)
def test_any_values_give_a_shape_or_an_error_for_people(base, changes):
    """Whatever the values are, there is a shape with positive sizes or an InputError, and nothing else."""
    try:
        shape = read(base, **changes)
    except InputError:
        return
    assert shape.parameters >= shape.active > 0
    assert shape.kv_bytes(100) >= 0
    assert 0 < shape.high <= shape.parameters
