"""Built-in models: what they add up to, and which names find them."""

from __future__ import annotations

import math

import pytest

from mainspring.errors import InputError
from mainspring.facts import models
from mainspring.facts.shapes import BYTES

PUBLISHED = [
    # name, billions of parameters, billions active (0: dense), tolerance; from the makers' model cards
    ("llama-3.1-8b", 8.03, 0, 0.001),
    ("llama-3.1-70b", 70.55, 0, 0.001),
    ("llama-3.3-70b", 70.55, 0, 0.001),
    ("llama-3.1-405b", 405.9, 0, 0.001),
    ("llama-2-7b", 6.74, 0, 0.001),
    ("llama-2-70b", 68.98, 0, 0.001),
    ("qwen3-0.6b", 0.596, 0, 0.001),
    ("qwen3-8b", 8.19, 0, 0.001),
    ("qwen3-32b", 32.76, 0, 0.001),
    ("qwen3-30b-a3b", 30.53, 3.35, 0.01),
    ("qwen3-235b-a22b", 235.09, 22.0, 0.01),
    ("qwen3-coder-480b-a35b", 480.2, 35.0, 0.02),
    ("qwen3-next-80b-a3b", 79.67, 3.9, 0.01),
    ("qwen3.5-397b-a17b", 397.0, 17.0, 0.025),
    ("qwen2.5-7b", 7.62, 0, 0.001),
    ("qwen2.5-72b", 72.7, 0, 0.001),
    ("mistral-7b", 7.25, 0, 0.001),
    ("mistral-small-24b", 23.57, 0, 0.001),
    ("mixtral-8x7b", 46.7, 12.9, 0.01),
    ("mixtral-8x22b", 140.6, 39.1, 0.01),
    ("deepseek-v3", 671.0, 37.0, 0.02),
    ("gpt-oss-120b", 116.8, 0, 0.001),
    ("gpt-oss-20b", 20.9, 0, 0.001),
    ("minimax-m2", 229.0, 0, 0.01),
    ("kimi-k2", 1026.0, 32.0, 0.03),
    ("glm-4.5", 355.0, 32.0, 0.06),
    ("glm-4.5-air", 106.0, 0, 0.01),
    ("glm-5", 744.0, 40.0, 0.05),
]


@pytest.mark.parametrize(("name", "parameters", "active", "within"), PUBLISHED)
def test_parameters_add_up_to_the_published_count(name, parameters, active, within):
    """A shape computed from the config's keys has the parameters that the makers state."""
    shape = models.find(name)
    assert shape.parameters / 1e9 == pytest.approx(parameters, rel=min(within, 0.01))
    assert shape.dense == (shape.active == shape.parameters)
    if active:
        assert shape.active / 1e9 == pytest.approx(active, rel=within)


@pytest.mark.parametrize(("name", "active"), [("gpt-oss-120b", 5.13), ("gpt-oss-20b", 3.61)])
def test_active_without_the_table_is_what_openai_counts(name, active):
    """OpenAI leaves the input table, of which a token reads one row, out of the active parameters."""
    shape = models.find(name)
    assert (shape.active - shape.lookup) / 1e9 == pytest.approx(active, rel=0.002)


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [("gpt-oss-120b", 65.2), ("gpt-oss-20b", 13.8), ("kimi-k2.5", 594.0), ("llama-3.3-70b", 141.1)],
)
def test_native_weights_have_the_size_of_the_published_files(name, gigabytes):
    """What a quantiser leaves alone, and the scales, are in the bytes."""
    shape = models.find(name)
    assert shape.weight_bytes(shape.native) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(
    ("name", "kib"),
    [("llama-3.3-70b", 320), ("llama-3.1-8b", 128), ("deepseek-v3", 61 * 576 * 2 / 1024), ("qwen3-235b-a22b", 188)],
)
def test_kv_bytes_per_token(name, kib):
    """Grouped and latent attention keep what their papers say."""
    assert models.find(name).kv_bytes_per_token() == kib * 1024


def test_windows_and_linear_layers_stop_growing():
    """gpt-oss grows in half of its layers past the window; Qwen3.5 in a quarter of them, from a fixed state."""
    oss = models.find("gpt-oss-120b")
    assert oss.kv_bytes(8193) - oss.kv_bytes(8192) == oss.kv_bytes_per_token() / 2
    qwen = models.find("Qwen3.5-397B-A17B")
    assert [part.kind for part in qwen.attention] == ["full", "linear"]
    assert [part.layers for part in qwen.attention] == [15, 45]
    assert qwen.kv_bytes(0) == 45 * (64 * 128 * 128 * 4 + 3 * (2 * 16 + 64) * 128 * 2)  # FP32 state, two-byte tail
    assert qwen.kv_bytes(0, "fp8") == qwen.kv_bytes(0, "fp16")


@pytest.mark.parametrize(
    ("written", "name", "native"),
    [
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", "fp8"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1", "fp4"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3.1", "fp4"),
        ("zhipuai/GLM-5", "glm-5", "bf16"),
        ("MiniMaxAI/MiniMax-M2.5", "minimax-m2.5", "fp8"),
        ("moonshotai/Kimi-K2.5", "kimi-k2.5", "int4"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "mxfp4"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b", "bf16"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507-FP8", "qwen3-30b-a3b", "fp8"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b", "bf16"),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "llama-3.1-8b", "int4"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.3-70b", "bf16"),
        (" Llama-2-7b-chat-hf ", "llama-2-7b", "bf16"),
    ],
)
def test_names_of_hugging_face_are_found(written, name, native):
    """An owner, a precision and a date change nothing of the shape; the precision becomes the native one."""
    shape = models.find(written)
    assert (shape.name, shape.native) == (name, native)


def test_every_name_and_alias_finds_its_model():
    """The catalogue has no row that its own name does not find, and no shape that contradicts itself."""
    for name, shape in models.catalogue().items():
        assert models.find(name) is shape
        assert shape.source
        assert shape.native in BYTES
        assert sum(part.layers for part in shape.attention) == shape.layers
        assert 0 < shape.high < shape.parameters
        assert 0 < shape.active <= shape.parameters
        assert shape.routed < shape.parameters
        sizes = [shape.weight_bytes(one) for one in ("fp32", "bf16", "fp8", "fp4")]
        assert sizes == sorted(sizes, reverse=True)
        assert all(math.isfinite(size) for size in sizes)


@pytest.mark.parametrize(
    "written", ["llama-3.3-71b", "deepseek-r1-distill-llama-8c", "", "-", "fp8", "x" * 10_000, "a/b/c"]
)
def test_an_unknown_name_is_refused(written):
    """What merely looks alike is not taken for a model; the message stays short."""
    with pytest.raises(InputError) as raised:
        models.find(written)
    assert raised.value.code == "unknown-model"
    assert raised.value.hint == "mainspring catalog models"
    assert len(raised.value.message) < 300


def test_graphs_are_found_by_their_usual_names():
    """Rankers, vision, embedding and tabular models have a table of their own, with sizes that make sense."""
    assert models.find_graph("sentence-transformers/all-MiniLM-L6-v2").name == "minilm-l6"
    for name, shape in models.graphs().items():
        assert models.find_graph(name) is shape
        assert min(shape.parameters, shape.weight_bytes, shape.flops, shape.activation_bytes, shape.kernels) > 0
        assert shape.source
        assert shape.confidence in ("read", "derived", "memory", "low")
    with pytest.raises(InputError, match="did you mean `resnet-50`"):
        models.find_graph("resnet-51")


def test_a_near_miss_says_what_was_meant():
    """A slip of one letter names the model."""
    with pytest.raises(InputError, match=r"did you mean `llama-3\.3-70b`"):
        models.find("llama-3.3-71b")
