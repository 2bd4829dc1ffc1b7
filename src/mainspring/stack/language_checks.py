"""What is wrong with pipelines of language models, across sections: gates of the wrong kind, a server that can't.

What this is: checks of `pipelines` that have `weights`, and of those that have `steps` and borrow from them; pure but
for looking whether the weights are there. Who calls it: `resolve.py`. What it must never do: read weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from mainspring.errors import Problem
from mainspring.stack.functions import Modules
from mainspring.stack.pipelines import PipelineSpec
from mainspring.stack.problems import Places, say
from mainspring.stack.safety import banned_lines
from mainspring.stack.serving import Endpoint
from mainspring.stack.weights import NotThereError, is_remote, locate

EVAL_CONTEXT = ("ask",)
"""What an evaluation of the user's own may ask for by name."""

_OF_ROWS = ("brier", "auc", "groups", "checks", "inputs", "predictions")
_OF_ANSWERS = ("evals", "safety")


def language_checks(
    pipelines: Mapping[str, PipelineSpec], serving: Mapping[str, Endpoint], places: Places
) -> Iterator[Problem]:
    """All that can be told without looking at other files."""
    for name, pipeline in pipelines.items():
        yield from _gates(name, pipeline, places)
        for at, endpoint in serving.items():
            if endpoint.model_name == pipeline.produces:
                yield from _server(at, endpoint, pipeline, places)


def _gates(name: str, pipeline: PipelineSpec, places: Places) -> Iterator[Problem]:
    gates = pipeline.gates
    alien: tuple[str, ...] = _OF_ROWS if pipeline.weights else _OF_ANSWERS
    for key in alien:
        if getattr(gates, key):
            what = "held-out rows, and `weights` bring none" if pipeline.weights else "language models' answers"
            loc = ("pipelines", name, "gates", key)
            yield places.problem(loc, "gate-of-another-kind", f"`{key}` judges {what}", key=True)
    timed = ("pipelines", name, "gates", "latency")
    asked = gates.evals or (gates.safety is not None and gates.safety.sets)
    if pipeline.weights and gates.latency is not None and not asked:
        message = "what is timed are the prompts of `evals` or of the sets of `safety`, and there are none"
        yield places.problem(timed, "no-prompts", message, key=True)
    if not pipeline.weights and gates.latency is not None and gates.latency.at is not None:
        message = "`at` is of language models: rows are timed one by one"
        yield places.problem((*timed, "at"), "gate-of-another-kind", message)


def _server(at: str, endpoint: Endpoint, pipeline: PipelineSpec, places: Places) -> Iterator[Problem]:
    comes = "gguf" if pipeline.weights else "onnx"
    takes = endpoint.server.formats
    if endpoint.server.runs and comes not in takes:
        can = "llamacpp" if comes == "gguf" else "onnx"
        wants = " or ".join(one.upper() for one in takes) or "no file of a model"
        message = f"{say(endpoint.runtime)} runs {wants}, and `{pipeline.produces}` comes as {comes.upper()}"
        yield places.problem(("serving", at, "runtime"), "not-of-this-runtime", f"{message}: write `runtime: {can}`")


def missing_weights(pipelines: Mapping[str, PipelineSpec], folder: Path, places: Places) -> Iterator[Problem]:
    """Weights that are not where the file says, or are no GGUF file."""
    for name, pipeline in pipelines.items():
        if pipeline.weights is None or is_remote(pipeline.weights):
            continue
        try:
            locate(pipeline.weights, folder)
        except NotThereError as error:
            yield places.problem(("pipelines", name, "weights"), error.code, error.message, hint=error.hint)


def missing_banned(pipelines: Mapping[str, PipelineSpec], folder: Path, places: Places) -> Iterator[Problem]:
    """A file of banned words that is not there, or has something in it that is no word."""
    for name, pipeline in pipelines.items():
        gate = pipeline.gates.safety
        if gate is None or not isinstance(gate.banned, str):
            continue
        loc = ("pipelines", name, "gates", "safety", "banned")
        try:
            banned_lines((folder / gate.banned).read_text("utf-8"))
        except OSError as error:
            message = f"{say(gate.banned)} can't be read: {error.strerror}"
            yield places.problem(loc, "banned-unreadable", message, hint="a list of words may stand here instead")
        except ValueError as error:
            yield places.problem(loc, "banned-unfit", f"{say(gate.banned)}: {error}")


def missing_evals(pipelines: Mapping[str, PipelineSpec], modules: Modules, places: Places) -> Iterator[Problem]:
    """Evaluations whose function is not there, or asks for what nobody gives."""
    for name, pipeline in pipelines.items():
        for one, gate in pipeline.gates.evals.items():
            for _, code, message in modules.complaints(gate.run, EVAL_CONTEXT, {}):
                yield places.problem(("pipelines", name, "gates", "evals", one, "run"), code, message)
