"""How stages and bounds of a rollout are written, and that the page about them says it right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mainspring.stack.load import load
from mainspring.stack.rollout import Abort, Over, Stage, Wave

PAGE = Path(__file__).parents[2] / "docs" / "rollouts.md"
REST = """\
mainspring: 1
stack: page
compute: {regions: [us-east-1, eu-west-1], here: {machine: this}}
orchestration: {where: here}
pipelines: {assistant: {produces: assistant, weights: model.gguf}}
"""


def test_the_page_s_stack_is_right(tmp_path: Path) -> None:
    """What docs/rollouts.md shows is a part of a stack file that nothing is wrong with."""
    shown = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    file = tmp_path / "mainspring.yaml"
    file.write_text(
        REST + shown[0].replace("model: assistant@champion", "model: assistant@champion\n    runtime: llamacpp")
    )
    endpoint = load(file).serving["chat"]
    assert [stage.kind for stage in endpoint.rollout] == ["mirror", "canary", "waves"]
    assert endpoint.abort.errors == (0.01, Over(0.5))


@pytest.mark.parametrize(
    ("text", "wave"),
    [
        ("1 replica", Wave(1)),
        ("2 replicas per region", Wave(2, per_region=True)),
        ("25%", Wave(share=0.25)),
    ],
)
def test_waves(text: str, wave: Wave) -> None:
    """A number of replicas, in all or in each region, or a share; as it is written it is shown again."""
    assert Stage.model_validate({"waves": text}).waves == wave
    assert str(wave) == text


@pytest.mark.parametrize("text", ["0 replicas", "one replica", "0%", "replica", "3", 3, "1 replica per zone"])
def test_what_is_no_wave(text: object) -> None:
    """It is told how a wave is written."""
    with pytest.raises(ValidationError, match="is not a wave: write `1 replica`"):
        Stage.model_validate({"waves": text})


@pytest.mark.parametrize(
    "stage",
    [
        {"canary": "5%", "all": "100%"},
        {"for": "1h"},
        {"ab": "50%", "for": "1h"},
        {"canary": "5%", "metric": "liked"},
        {"canary": "5%", "within": "6h"},
        {"canary": "5%", "otherwise": "hope"},
    ],
)
def test_what_is_no_stage(stage: dict[str, Any]) -> None:
    """Exactly one kind; `metric` is of `ab`, `within` of `waves`, and `otherwise` one of three words."""
    with pytest.raises(ValidationError):
        Stage.model_validate(stage)


def test_bounds() -> None:
    """One bound or a list; a number, or so much over the control; the least number is what absolute tests go by."""
    abort = Abort.model_validate({"errors": ["1%", "50% over control", "3%"], "p95": "20% over control", "ttft": "1s"})
    assert abort.errors == (0.01, Over(0.5), 0.03)
    assert (abort.least("errors"), abort.least("p95"), abort.least("ttft")) == (0.01, None, 1.0)
    assert Abort().errors == (Over(0.0),)
    for wrong in ({"errors": "150%"}, {"tokens": "20%"}, {"p95": "fast"}, {"false_aborts": "0%"}):
        with pytest.raises(ValidationError):
            Abort.model_validate(wrong)
    with pytest.raises(ValidationError, match="write `20% over control`, or a time such as `100ms`"):
        Abort.model_validate({"p95": "20%"})
