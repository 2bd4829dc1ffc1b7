"""Reading the header of a GGUF file that somebody else wrote."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import InputError
from mainspring.facts.gguf import from_header

KINDS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}


def text(value: str) -> bytes:
    """A string as the format has it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def item(value: object) -> bytes:
    """A typed value: string, bool, whole number, float, or a list of one of these."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    assert isinstance(value, list)
    inner = item(value[0])[:4]
    return struct.pack("<I", 9) + inner + struct.pack("<Q", len(value)) + b"".join(item(one)[4:] for one in value)


def gguf(keys: dict[str, object], tensors: list[tuple[str, tuple[int, ...], str]], version: int = 3) -> bytes:
    """A header with those keys and tensors."""
    out = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(keys))]
    out += [text(key) + item(value) for key, value in keys.items()]
    for name, sizes, kind in tensors:
        out += [text(name), struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, KINDS[kind][0], 0)]
    return b"".join(out)


KEYS: dict[str, object] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "llama.block_count": 2,
    "llama.embedding_length": 256,
    "llama.feed_forward_length": 512,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 4096,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": [f"token{n}" for n in range(1000)],
    "tokenizer.ggml.scores": [0.0] * 1000,
}


def layer(number: int, kind: str = "Q4_K") -> list[tuple[str, tuple[int, ...], str]]:
    """The tensors of one dense layer."""
    return [
        (f"blk.{number}.attn_q.weight", (256, 256), kind),
        (f"blk.{number}.attn_k.weight", (256, 64), kind),
        (f"blk.{number}.attn_v.weight", (256, 64), "Q6_K"),
        (f"blk.{number}.attn_output.weight", (256, 256), kind),
        (f"blk.{number}.ffn_gate.weight", (256, 512), kind),
        (f"blk.{number}.ffn_up.weight", (256, 512), kind),
        (f"blk.{number}.ffn_down.weight", (512, 256), kind),
        (f"blk.{number}.attn_norm.weight", (256,), "F32"),
    ]


TENSORS = [("token_embd.weight", (256, 1000), "Q4_K"), ("output.weight", (256, 1000), "Q6_K"), *layer(0), *layer(1)]
GOOD = gguf(KEYS, TENSORS)


def read(raw: bytes):
    """The shape and precision of a header."""
    return from_header(io.BytesIO(raw))


def test_bytes_and_parameters_are_exact():
    """Every tensor counts with the size of its own type; the table is no work for a token."""
    shape, precision = read(GOOD)
    each = 2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 512 + 256
    assert shape.parameters == 2 * 256_000 + 2 * each
    k_quant = (256_000 + 2 * (2 * 256 * 256 + 256 * 64 + 3 * 256 * 512)) // 256 * 144
    six = (256_000 + 2 * 256 * 64) // 256 * 210
    assert shape.weight_bytes(precision) == k_quant + six + 2 * 256 * 4
    assert (precision, shape.native, shape.name, shape.family) == ("int4", "int4", "Tiny", "llama")
    assert (shape.layers, shape.hidden, shape.vocab, shape.context, shape.width) == (2, 256, 1000, 4096, 512)
    assert shape.lookup == 256_000
    assert shape.high == 512
    assert shape.kv_bytes_per_token() == 2 * 2 * 64 / 2 * 2 * 2


@pytest.mark.parametrize(("kind", "label"), [("F16", "fp16"), ("Q8_0", "int8"), ("Q6_K", "int8"), ("Q4_K", "int4")])
def test_the_precision_is_that_of_most_parameters(kind, label):
    """The label is the nearest of ours; the bytes stay exact."""
    assert read(gguf(KEYS, [*layer(0, kind), *layer(1, kind)], version=2))[1] == label


def test_experts_and_draft_layers():
    """Experts that a token does not meet are not active; a draft layer is left out of all counts."""
    keys = {
        **KEYS,
        "llama.block_count": 3,
        "llama.nextn_predict_layers": 1,
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
        "llama.expert_feed_forward_length": 64,
    }
    routed = [(f"blk.0.ffn_{part}_exps.weight", (256, 64, 8), "Q8_0") for part in ("gate", "up", "down")]
    shape, _ = read(gguf(keys, [*TENSORS, *routed, ("blk.2.extra.weight", (256, 64), "F32")]))
    assert shape.experts is not None
    assert (shape.experts.layers, shape.experts.count, shape.experts.active, shape.experts.width) == (1, 8, 2, 64)
    assert (shape.layers, shape.draft_layers) == (2, 1)
    assert shape.parameters - shape.active == shape.routed * 6 // 8 == 3 * 256 * 64 * 6
    assert shape.parameters == read(GOOD)[0].parameters + shape.routed


def test_latent_window_and_recurrent_layers():
    """What a sequence keeps follows the keys of each architecture."""
    latent = {**KEYS, "llama.attention.kv_lora_rank": 512, "llama.rope.dimension_count": 64}
    assert read(gguf(latent, TENSORS))[0].kv_bytes_per_token() == 2 * 576 * 2
    window = {**KEYS, "llama.attention.sliding_window": 16, "llama.attention.sliding_window_pattern": [True, False]}
    assert [(part.kind, part.layers) for part in read(gguf(window, TENSORS))[0].attention] == [
        ("full", 1),
        ("window", 1),
    ]
    ssm = {"inner_size": 512, "state_size": 16, "conv_kernel": 4, "group_count": 2, "time_step_rank": 8}
    hybrid = {
        **KEYS,
        "llama.attention.head_count_kv": [0, 2],
        **{f"llama.ssm.{key}": value for key, value in ssm.items()},
    }
    shape = read(gguf(hybrid, TENSORS))[0]
    assert [(part.kind, part.layers) for part in shape.attention] == [("full", 1), ("linear", 1)]
    assert shape.kv_bytes(0) == 4 * (512 * 16 + 3 * (512 + 64))


@pytest.mark.parametrize("end", [0, 3, 4, 7, 8, 20, 24, 40, 60, 200, 2000, len(GOOD) - 1])
def test_a_file_that_is_cut_off_says_what_is_missing(end):
    """Wherever the file ends, the message says after how many bytes and before the end of what."""
    with pytest.raises(InputError, match=rf"the file ends after {end:,} bytes, before the end of ") as raised:
        read(GOOD[:end])
    assert raised.value.code == "bad-gguf"


def without(key: str) -> bytes:
    """The good header less one key."""
    return gguf({one: value for one, value in KEYS.items() if one != key}, TENSORS)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"GGML" + GOOD[4:], "no GGUF file"),
        (b"PK\x03\x04" * 100, "no GGUF file"),
        (b"GGUF" + struct.pack("<I", 1) + GOOD[8:], "version `1`"),
        (b"GGUF" + struct.pack(">I", 3) + GOOD[8:], "big endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 63), "metadata keys"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 1 << 40), "string of `1,099,511,627,776` bytes"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 50), "array of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 3), "type `9`"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99), "type `99`"),
        (gguf(KEYS, []), "lists no tensors"),
        (without("general.architecture"), "general.architecture"),
        (without("llama.block_count"), "llama.block_count"),
        (without("llama.attention.head_count"), "llama.attention.head_count"),
        (gguf({**KEYS, "llama.block_count": 0}, TENSORS), "llama.block_count: 0"),
        (gguf({**KEYS, "llama.block_count": "two"}, TENSORS), "llama.block_count: two"),
        (gguf({**KEYS, "llama.expert_count": 8, "llama.expert_used_count": 2}, TENSORS), "no tensors of experts"),
        (gguf({**KEYS, "split.count": 4}, TENSORS), "one of `4` parts"),
        (gguf(KEYS, [("token_embd.weight", (255, 10), "Q4_K")]), "rows of `255` elements"),
        (gguf(KEYS, [("token_embd.weight", (256, 0), "Q4_K")]), "dimension of `0`"),
        (gguf(KEYS, [("t", (1 << 40, 1 << 40), "F32")]), "elements"),
    ],
)
def test_a_hostile_header_is_refused(raw, told):
    """Counts and lengths that can't be are named, and nothing is allocated for them."""
    with pytest.raises(InputError, match=told) as raised:
        read(raw)
    assert raised.value.code == "bad-gguf"
    assert len(raised.value.message) < 300


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_shape_or_an_error_for_people(changes):
    """Whatever bytes are changed, there is a shape with positive sizes or an InputError, and nothing else."""
    raw = bytearray(GOOD)
    for at, byte in changes:
        raw[at] = byte
    try:
        shape, precision = read(bytes(raw))
    except InputError:
        return
    assert shape.parameters >= shape.active > 0
    assert shape.weight_bytes(precision) > 0


@given(st.binary(max_size=200))
def test_any_bytes_after_the_magic_are_survived(tail):
    """Junk after a right beginning ends in an InputError."""
    with pytest.raises(InputError):
        read(b"GGUF" + struct.pack("<I", 3) + tail)
