"""The folder that vLLM is started with: the version's files, and its settings as the model's own defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from mainspring.artefacts.folders import digest_of_folder
from mainspring.artefacts.load import save_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.replicas.adapters import vllm_model
from mainspring.replicas.llamacpp.engine import with_system
from mainspring.testing.artefacts import chat_artefact

TEMPLATE = "{% for one in messages %}{{ one.content }}{% endfor %}"


def version(folder: Path, settings: Mapping[str, str | float | int], **files: str) -> Path:
    """An artefact in the format safetensors, with these files (`__` for a dot)."""
    model = folder / "model"
    model.mkdir(parents=True)
    given = {"config__json": "{}", "model__safetensors": "weights"} | files
    for name, text in given.items():
        (model / name.replace("__", ".")).write_text(text, encoding="utf-8")
    save_manifest(
        folder, Manifest("chat", "r", "safetensors", digest_of_folder(model), (), "", settings=dict(settings))
    )
    return folder


def laid_out(tmp_path: Path, settings: Mapping[str, str | float | int], **files: str) -> Path:
    """The folder that is made of it."""
    vllm_model.lay_out(version(tmp_path / "a", settings, **files), tmp_path / "m", tmp_path / "c", "bfloat16")
    return tmp_path / "m"


def test_files_are_links_and_the_artefact_stays_as_it_is(tmp_path: Path) -> None:
    """Weights are not copied; what is written is written beside."""
    made = laid_out(tmp_path, {"temperature": 0.5}, generation_config__json='{"top_k": 7}')
    assert (made / "model.safetensors").readlink() == tmp_path / "a" / "model" / "model.safetensors"
    assert json.loads((tmp_path / "a" / "model" / "generation_config.json").read_text()) == {"top_k": 7}


def test_settings_are_the_models_own_defaults(tmp_path: Path) -> None:
    """By the names that vLLM reads; what the model brings stays where no setting says otherwise."""
    settings = {"temperature": 0.0, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repeat_penalty": 1.1, "max_tokens": 64}
    made = laid_out(tmp_path, settings, generation_config__json='{"top_k": 7, "eos_token_id": [2]}')
    assert json.loads((made / "generation_config.json").read_text()) == {
        "top_k": 20, "eos_token_id": [2], "temperature": 0.0, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1,
        "max_new_tokens": 64,
    }  # fmt: skip


@pytest.mark.parametrize(
    "files",
    [
        {"chat_template__jinja": TEMPLATE},
        {"tokenizer_config__json": json.dumps({"chat_template": TEMPLATE})},
        {"tokenizer_config__json": json.dumps({"chat_template": [{"name": "default", "template": TEMPLATE}]})},
    ],
    ids=["a file", "a key", "several"],
)
def test_the_system_text_goes_into_the_template(tmp_path: Path, files: dict[str, str]) -> None:
    """For requests that bring none: as a replica of llama.cpp does it."""
    made = laid_out(tmp_path, {"system": 'Say "yes".\n'}, **files)
    assert (made / "chat_template.jinja").read_text() == with_system(TEMPLATE, 'Say "yes".\n')


def test_a_system_text_without_a_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said with what to do, and the server is not started."""
    artefact = version(tmp_path / "a", {"system": "Be brief."})
    words = ["--artefact", str(artefact), "--into", str(tmp_path / "m"), "--cache", str(tmp_path / "c")]
    assert vllm_model.main(words) == 2
    told = capsys.readouterr().err
    assert "error: the setting `system` has no place" in told
    assert "hint: leave `system` out" in told


@pytest.mark.parametrize(("temperature", "told"), [(0.7, True), (0.0, False)])
def test_a_seed_that_is_not_kept_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], temperature: float, told: bool
) -> None:
    """VLLM has none for requests that bring none; where nothing is drawn, nothing is lost."""
    laid_out(tmp_path, {"seed": 1, "temperature": temperature})
    assert ("`seed` is not kept" in capsys.readouterr().err) is told


def test_the_real_weights(tmp_path: Path) -> None:
    """SmolLM2 of its GGUF: a folder with all that a server needs, and the settings in it."""
    artefact = chat_artefact(tmp_path / "a", {"system": "Be brief.", "temperature": 0.0})
    vllm_model.lay_out(artefact, tmp_path / "m", tmp_path / "c", "bfloat16")
    made = tmp_path / "m"
    assert (made / "model.safetensors").stat().st_size > 260_000_000
    assert json.loads((made / "config.json").read_text())["num_hidden_layers"] == 30
    assert '"Be brief."' in (made / "chat_template.jinja").read_text()
    assert "<|im_start|>" in (made / "chat_template.jinja").read_text()
    assert json.loads((made / "generation_config.json").read_text())["temperature"] == 0.0
