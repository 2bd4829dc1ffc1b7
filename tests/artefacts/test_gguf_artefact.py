"""A language model's artefact: its file is the one that was promised, its header makes sense, settings are known."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.artefacts.load import WEIGHTS, digest_of, load_manifest, load_model, load_weights, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.settings import NAMES, TEXT, Value, read_settings
from mainspring.artefacts.weights import chat_template, digest_of_file
from mainspring.errors import ArtefactError, InputError
from mainspring.stack.pipelines import ModelSettings
from mainspring.testing.artefacts import tiny_artefact

TEMPLATE = "{% for m in messages %}" + "{{ m['content'] }}é" * 200 + "{% endfor %}"


def text(value: str) -> bytes:
    """A string as the format writes it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf(template: str = TEMPLATE) -> bytes:
    """A small GGUF file of one layer: its header, and as many bytes of tensors as that lists."""
    numbers = {
        "block_count": 1, "embedding_length": 64, "context_length": 128, "feed_forward_length": 128,
        "attention.head_count": 2, "attention.head_count_kv": 1, "vocab_size": 32,
    }  # fmt: skip
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    keys += [text(f"llama.{name}") + struct.pack("<II", 4, value) for name, value in numbers.items()]
    keys += [text("tokenizer.chat_template") + struct.pack("<I", 8) + text(template)] if template else []
    tensors = [("token_embd.weight", 64, 32), ("blk.0.attn_q.weight", 64, 64), ("output_norm.weight", 64, 1)]
    listed = [text(name) + struct.pack("<IQQIQ", 2, a, b, 0, 0) for name, a, b in tensors]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys + listed)
    return head + bytes(4 * sum(a * b for _, a, b in tensors) + 64)


FILE = gguf()


def artefact(folder: Path, content: bytes = FILE, digest: str = "", **changed: object) -> Path:
    """An artefact folder; the digest is the file's own unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(content)
    fields = {"model": "chat", "run": "chat-1", "format": "gguf", "digest": digest or digest_of(content),
              "inputs": (), "output": ""} | changed  # fmt: skip
    save_manifest(folder, Manifest(**fields))  # type: ignore[arg-type]
    return folder


def test_the_file_that_was_promised_is_handed_out(tmp_path: Path) -> None:
    """A whole file with the manifest's digest gives its path; the manifest keeps its settings."""
    folder = artefact(tmp_path / "a", settings={"system": "Be brief.", "temperature": 0, "max_tokens": 9})
    manifest = load_manifest(folder)
    assert load_weights(folder, manifest) == folder / WEIGHTS
    assert manifest.settings == {"system": "Be brief.", "temperature": 0, "max_tokens": 9}
    assert digest_of_file(folder / WEIGHTS) == digest_of(FILE)


@given(at=st.integers(0, len(FILE) - 1), bit=st.integers(0, 7))
def test_one_changed_bit_is_refused(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    """Whichever bit differs from what the manifest promised, in the header or in a tensor, the file is refused."""
    changed = bytearray(FILE)
    changed[at] ^= 1 << bit
    folder = artefact(tmp_path_factory.getbasetemp() / "bit", bytes(changed), digest_of(FILE))
    with pytest.raises(ArtefactError):
        load_weights(folder, load_manifest(folder))


@given(
    at=st.integers(0, len(FILE) - 9),
    put=st.sampled_from([0, 1, 255, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1),
    size=st.sampled_from(["<B", "<I", "<Q"]),
)
def test_a_header_of_nonsense_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: int, size: str
) -> None:
    """With a digest that fits, a header with any number anywhere is accepted or refused as an artefact, never worse."""
    width = struct.calcsize(size)
    changed = FILE[:at] + struct.pack(size, put % (1 << 8 * width)) + FILE[at + width :]
    folder = artefact(tmp_path_factory.getbasetemp() / "nonsense", changed)
    try:
        path = load_weights(folder, load_manifest(folder))
    except ArtefactError as error:
        assert error.code == "artefact-broken"
    else:
        assert isinstance(chat_template(path), str)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ends after"), (b"GGML" + FILE[4:], "no GGUF file"), (FILE[:200], "ends after"),
        (FILE[:-5_000], "lists tensors of"), (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "at most"),
        (FILE[:4] + struct.pack("<I", 9) + FILE[8:], "version"),
    ],
)  # fmt: skip
def test_what_is_no_whole_gguf_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """Empty, cut off, of another format or with counts beyond all bounds: refused before a digest is taken."""
    folder = artefact(tmp_path / "a", content)
    with pytest.raises(ArtefactError, match=said):
        load_weights(folder, load_manifest(folder))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """An artefact whose file is gone says so."""
    folder = artefact(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ArtefactError, match="cannot be read"):
        load_weights(folder, load_manifest(folder))


def test_each_runtime_takes_its_own_format(tmp_path: Path) -> None:
    """A language model is no predictive one, nor the other way round."""
    folder = artefact(tmp_path / "a")
    with pytest.raises(ArtefactError, match="language model"):
        load_model(folder, load_manifest(folder))
    tiny_artefact(tmp_path / "b", tmp_path / "code")
    with pytest.raises(ArtefactError, match="not a language model"):
        load_weights(tmp_path / "b", load_manifest(tmp_path / "b"))


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": (Field("x", "FP64"),)}, {"columns": ("x",)}, {"features": "a:b"}, {"format": "pickle"},
        {"settings": {"temprature": 1}}, {"settings": {"top_p": 0}}, {"settings": {"seed": -1}},
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    """Inputs, features, an unknown format or a wrong setting: the manifest is not usable."""
    folder = artefact(tmp_path / "a", **changed)
    with pytest.raises(ArtefactError, match="is not usable"):
        load_manifest(folder)


WRONG: list[dict[str, Value]] = [
    {"temperature": -0.1}, {"temperature": 5.1}, {"temperature": True}, {"temperature": "hot"}, {"top_p": 1.01},
    {"temperature": float("nan")}, {"min_p": -1}, {"top_k": 1.5}, {"top_k": -1}, {"max_tokens": 0},
    {"max_tokens": True}, {"seed": 2**32 - 1}, {"repeat_penalty": 0}, {"system": ""}, {"system": 3},
    {"system": "x" * (TEXT + 1)}, {"system": "a\x00b"}, {"system": "a\ud800"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_have_ranges(wrong: dict[str, Value]) -> None:
    """A value out of its range or of another type is named."""
    with pytest.raises(InputError, match=f"setting `{next(iter(wrong))}"):
        read_settings(wrong)


def test_a_wrong_name_is_guessed() -> None:
    """A setting with a slip in its name is refused, and the right name said."""
    with pytest.raises(InputError) as caught:
        read_settings({"temprature": 1.0})
    assert caught.value.hint == "did you mean `temperature`?"


GOOD = st.fixed_dictionaries(
    {},
    optional={
        "system": st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=50),
        "temperature": st.floats(0, 5), "top_p": st.floats(0, 1, exclude_min=True), "min_p": st.floats(0, 1),
        "top_k": st.integers(0, 1_000_000), "repeat_penalty": st.floats(0, 10, exclude_min=True),
        "max_tokens": st.integers(1, 1_000_000), "seed": st.integers(0, 2**32 - 2),
    },
)  # fmt: skip


@given(GOOD)
def test_what_the_stack_file_takes_a_manifest_takes(settings: dict[str, Value]) -> None:
    """All that a stack file may say of a model's settings is read back as it was said."""
    said = ModelSettings(**settings).given  # type: ignore[arg-type]
    read = read_settings(said)
    assert {name: getattr(read, name) for name in said} == said
    assert set(NAMES) == set(ModelSettings.model_fields)


def test_the_chat_template_is_read_whole(tmp_path: Path) -> None:
    """However long the template is, it is read as it was written; a file without one has none."""
    folder = artefact(tmp_path / "a")
    assert chat_template(folder / WEIGHTS) == TEMPLATE
    bare = artefact(tmp_path / "b", gguf(""))
    assert chat_template(bare / WEIGHTS) == ""
