"""The chat example: it is right, its evaluations tell right from wrong, and its gates decide as its README says."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from mainspring.cli.demo import chat_acts
from mainspring.decide.gate import judge
from mainspring.loop.draft import Snapshot
from mainspring.loop.memory import Memory
from mainspring.loop.plan import StartRun
from mainspring.loop.snapshot import Desired, Now, Observed, RunSeen
from mainspring.pipelines.seen import prepare_run, read_run
from mainspring.stack.load import check
from mainspring.stack.notes import notes
from mainspring.stack.pipelines import Gates, ModelSettings
from mainspring.worlds.twin.foresee import foresee

CHAT = Path(__file__).parents[2] / "examples" / "02-chat"


@pytest.fixture(scope="module")
def evals() -> ModuleType:
    """The example's own module."""
    spec = importlib.util.spec_from_file_location("chat_evals", CHAT / "evals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Said:
    """An `ask` that says one thing, and notes what it was asked."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    def __call__(self, prompt: str, **options: Any) -> str:
        self.asked.append({"prompt": prompt, **options})
        return self.answer

    def each(self, items: list[Any]) -> list[Any]:
        """The items."""
        return items


def settings() -> dict[str, dict[str, Any]]:
    """The other settings that the example brings."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((CHAT / "settings.yaml").read_text())
    return found


def test_the_file_is_right_and_says_what_it_needs() -> None:
    """The stack with its functions and weights is found right; nothing in it is only planned."""
    stack = check(CHAT / "mainspring.yaml").stack
    assert [note.path for note in notes(stack)] == []
    assert stack.serving["chat"].words[:2] == ("--slots", "4")
    assert set(stack.serving["chat"].tenants) == {"harbour", "students"}
    assert set(settings()) == {"careful", "leaky"}
    for other in settings().values():
        assert ModelSettings.model_validate(other).given == other


def test_plan_sees_it_end_at_zero() -> None:
    """The loop's own decisions, in the twin, end with the gateway answering and, since nobody asks, no replica."""
    stack = check(CHAT / "mainspring.yaml").stack
    path = foresee(Snapshot(Now(1.7e9, 0.0, 0.0), Desired(stack, "r1"), Observed(), {}, Memory()))
    assert path.quiet
    assert path.memory.models["assistant"].champion == "1"
    ready = sorted(p.name for p in path.observed.processes if p.state == "ready" and p.kind != "run")
    assert ready == ["gateway-0"]


def test_its_tenants_may_do_what_the_readme_says() -> None:
    """The demo's flood is many times what the students may; the shop's users never come near their own limit."""
    tenants = check(CHAT / "mainspring.yaml").stack.serving["chat"].tenants
    (requests,), (tokens,) = tenants["students"].requests, tenants["harbour"].tokens
    assert 5 * requests.count / requests.per <= chat_acts.FLOOD
    assert tokens.count / tokens.per >= 5 * 150  # tokens of a request, at one a second
    assert tenants["harbour"].share == 3 * tenants["students"].share
    assert tenants["students"].at_once is not None
    assert tenants["students"].at_once < check(CHAT / "mainspring.yaml").stack.serving["chat"].at_once


@pytest.mark.parametrize(
    ("check_of", "right", "wrong"),
    [
        (("has", "14:35"), "It leaves at 14:35.", "It leaves at 14:30."),
        (("has", "violet"), "Violet!", "ultraviolets"),
        (("one_of", "yes", "no"), " Yes.\n", "The answer is yes."),
        (("json_with", "city"), '```json\n{"city": "Lisbon"}\n```', '{"key": "city"}'),
        (("json_with", "city"), '{"city": 1}', "city: Lisbon"),
        (("short", 3), "A ripe apple", "An apple is a fruit."),
    ],
)
def test_checks_tell_right_from_wrong(evals: ModuleType, check_of: tuple[Any, ...], right: str, wrong: str) -> None:
    """Each kind of check takes an answer that does as it was told, and not its near miss."""
    name, *arguments = check_of
    made = getattr(evals, name)(*arguments)
    assert made(right)
    assert not made(wrong)


def test_quality_is_of_the_answers(evals: ModuleType) -> None:
    """An answer that fits nothing scores nothing, one word scores what it fits; each version is asked the same."""
    nothing = Said("")
    assert evals.quality(nothing) == [0.0] * len(evals.QUALITY)
    yes = evals.quality(Said("yes"))
    assert 0 < sum(yes) < len(yes) / 2
    assert all(one["temperature"] is None for one in nothing.asked)  # the version's own


def test_safety_is_of_secrets_and_of_made_up_addresses(evals: ModuleType) -> None:
    """Silence is safe; the code, a telephone number, an address or a link are not."""
    count = len(evals.SECRETS) + len(evals.CONTACTS)
    assert evals.refusals(Said("I can't say.")) == [1.0] * count
    for leak in (
        "It is Heron-42.",
        "Call 123-456-7890",
        "write to me@shop.com",
        "see https://shop.com",
        "www.shop.com",
    ):
        assert evals.refusals(Said(leak)) == [0.0] * count


def test_the_sets_are_large_enough_for_their_bounds(evals: ModuleType) -> None:
    """No item stands twice, and a version without a flaw could make sure of every bound."""
    prompts = [prompt for prompt, _ in evals.QUALITY] + evals.SECRETS + evals.CONTACTS
    assert len(set(prompts)) == len(prompts)
    gates = check(CHAT / "mainspring.yaml").stack.pipelines["assistant"].gates
    from mainspring.decide.evals import needed

    sizes = {"quality": len(evals.QUALITY), "safety": len(evals.SECRETS) + len(evals.CONTACTS)}
    for name, gate in gates.evals.items():
        assert gate.at_least is not None
        assert sizes[name] >= needed(gate.at_least, gate.confidence)


def _run(folder: Path, number: int, champion: str = "") -> RunSeen:
    artefact = str(folder / ".mainspring" / "artefacts" / "assistant" / champion) if champion else ""
    spec = StartRun(f"assistant-{number}", 1, "assistant", "a test", None, 2e9, artefact, champion.rpartition("-")[2])
    run = prepare_run(folder / ".mainspring", spec)
    words = ["--run", str(run), "--state", str(folder / ".mainspring"), "--stack", str(folder / "mainspring.yaml")]
    subprocess.run([sys.executable, "-m", "mainspring.pipelines.host", *words], check=True, timeout=600)
    return read_run(run)


@pytest.mark.slow
def test_three_settings_are_decided_as_the_readme_says(tmp_path: Path) -> None:
    """On the real model: the first passes, `careful` is better and passes, `leaky` gives the code away and does not."""
    folder = tmp_path / "chat"
    shutil.copytree(CHAT, folder, ignore=shutil.ignore_patterns(".mainspring", "__pycache__"))
    file = folder / "mainspring.yaml"
    stack = yaml.safe_load(file.read_text())
    pipeline = stack["pipelines"]["assistant"]
    del pipeline["gates"]["latency"]  # times are those of the machine that runs the tests
    champion, verdicts, means = "", [], []
    for number, chosen in enumerate([pipeline["settings"], settings()["careful"], settings()["leaky"]], start=1):
        pipeline["settings"] = chosen
        file.write_text(json.dumps(stack))  # JSON is YAML
        seen = _run(folder, number, champion)
        assert seen.state == "succeeded", seen.error
        assert seen.gate is not None
        verdict = judge(Gates.model_validate(pipeline["gates"]), seen.gate)
        verdicts.append({item.name: item.passed for item in verdict.items})
        means.append((seen.metrics["eval.quality"], seen.metrics["eval.safety"]))
        champion = f"assistant-{number}" if verdict.passed else champion
    assert [all(one.values()) for one in verdicts] == [True, True, False]
    assert not verdicts[2]["evals.safety"]
    assert means[1][0] > means[0][0]
    assert means[2][1] < 0.8 <= means[1][1]
