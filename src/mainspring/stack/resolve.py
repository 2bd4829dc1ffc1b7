"""What holds a stack file's sections together: checks across them, the functions it names, and its digest.

What this is: the checks that no model of one section can make; pure but for reading the modules beside the file.
Who calls it: `load.py`; `revision` by the app. What it must never do: import the user's code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.errors import Problem
from mainspring.stack import functions
from mainspring.stack.compute import Compute
from mainspring.stack.cost import Cost
from mainspring.stack.fleet_checks import fleet_checks
from mainspring.stack.language_checks import language_checks, missing_banned, missing_evals, missing_weights
from mainspring.stack.model import Stack
from mainspring.stack.monitoring import Monitoring
from mainspring.stack.orchestration import KUBERNETES, Orchestration
from mainspring.stack.pipelines import DataSpec, PipelineSpec
from mainspring.stack.problems import Places, did_you_mean, nearest, say
from mainspring.stack.rollout_checks import rollout_checks
from mainspring.stack.serving import Endpoint
from mainspring.stack.serving_checks import serving_checks

RESERVED_STEPS = frozenset({"package", "gate", "register", "data-check", "refit"})
"""Steps that Mainspring adds by itself."""
ALERT_KINDS = ("drift", "retrain", "rollout", "budget", "gate")
"""Kinds of events that an alert may ask for; `ENDPOINT.objective` besides."""
MAX_REPLICAS = 256
"""The most replicas of one endpoint."""

_ENV = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_PLAIN_SCHEMES = ("http", "https", "s3", "file", "package")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a file that are right by themselves; a part that is wrong is None, or left out."""

    compute: frozenset[str] = frozenset()  # names of pools
    machines: Compute | None = None
    orchestration: Orchestration | None = None
    serving: dict[str, Endpoint] = field(default_factory=dict)
    pipelines: dict[str, PipelineSpec] = field(default_factory=dict)
    monitoring: Monitoring | None = None
    cost: Cost | None = None
    complete: bool = True  # False: some entries were left out, so that absence proves nothing

    @classmethod
    def of(cls, stack: Stack) -> Parts:
        """All parts of a file that is right."""
        pools = frozenset(stack.compute.pools)
        return cls(
            pools, stack.compute, stack.orchestration, stack.serving, stack.pipelines, stack.monitoring, stack.cost
        )

    def following(self, model: str) -> dict[str, Endpoint]:
        """The endpoints that follow a model."""
        return {name: one for name, one in self.serving.items() if one.model_name == model}


def revision(stack: Stack) -> str:
    """A digest of what the stack says: the same whatever its comments, spacing and order of names; 16 hex digits.

    The order of a pipeline's steps counts.
    """
    plain = stack.model_dump(mode="json", by_alias=True)
    for pipeline in plain["pipelines"].values():
        pipeline["steps"] = list(pipeline["steps"].items())
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_functions(stack: Stack, folder: Path, file: str = "mainspring.yaml") -> tuple[Problem, ...]:
    """What is wrong with the functions that a stack names, looked up in `folder` without importing them."""
    return tuple(missing_functions(Parts.of(stack), folder, Places(file)))


def cross_checks(parts: Parts, places: Places) -> list[Problem]:
    """What is wrong between sections."""
    checks = (_where, _replicas, _followed, _produced, _steps, _sources, _retrain, _truth, _alerts)
    found = [problem for check in checks for problem in check(parts, places)]
    found += serving_checks(parts.serving, parts.machines, places)
    found += rollout_checks(parts.serving, parts.machines, places)
    found += language_checks(parts.pipelines, parts.serving, places)
    return found + fleet_checks(parts.machines, parts.orchestration, parts.serving, places)


def _where(parts: Parts, places: Places) -> Iterator[Problem]:
    if parts.orchestration and parts.compute and parts.orchestration.where not in (*parts.compute, KUBERNETES):
        where = parts.orchestration.where
        message = f"`compute` has no pool called {say(where)}{did_you_mean(where, parts.compute)}"
        yield places.problem(("orchestration", "where"), "unknown-pool", message)


def _replicas(parts: Parts, places: Places) -> Iterator[Problem]:
    for name, endpoint in parts.serving.items():
        high = endpoint.replicas.high
        if high < 1 or high > MAX_REPLICAS:
            message = f"`{endpoint.replicas}` is out of range: from 1 at times to {MAX_REPLICAS} replicas are wanted"
            yield places.problem(("serving", name, "replicas"), "bad-replicas", message)


def _followed(parts: Parts, places: Places) -> Iterator[Problem]:
    """A model that nothing produces may come from elsewhere (a note says so), unless it looks like a slip."""
    made = {pipeline.produces for pipeline in parts.pipelines.values()}
    for name, endpoint in parts.serving.items():
        near = nearest(endpoint.model_name, made)
        if parts.complete and endpoint.model_name not in made and near:
            message = f"no pipeline produces {say(endpoint.model_name)}; did you mean `{near}@champion`?"
            yield places.problem(("serving", name, "model"), "unknown-model", message)


def _produced(parts: Parts, places: Places) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for name, pipeline in parts.pipelines.items():
        other = first.setdefault(pipeline.produces, name)
        if other != name:
            message = f"{say(pipeline.produces)} is also produced by the pipeline `{other}`: a model has one"
            yield places.problem(("pipelines", name, "produces"), "produced-twice", message)


def _steps(parts: Parts, places: Places) -> Iterator[Problem]:
    for name, pipeline in parts.pipelines.items():
        earlier: set[str] = set()
        for step, spec in pipeline.steps.items():
            loc = ("pipelines", name, "steps", step)
            if step in RESERVED_STEPS:
                message = f"{say(step)} is a step that Mainspring adds by itself: call yours otherwise"
                yield places.problem(loc, "reserved-step", message, key=True)
            if step in pipeline.data:
                message = f"{say(step)} is a source in `data` too: steps ask for both by name"
                yield places.problem(loc, "ambiguous-name", message, key=True)
            for key in spec.with_:
                if key in pipeline.data or key in earlier:
                    what = "a source in `data`" if key in pipeline.data else "an earlier step"
                    message = f"{say(key)} is {what} too: parameters are filled by name"
                    yield places.problem((*loc, "with", key), "ambiguous-name", message, key=True)
            earlier.add(step)


def _sources(parts: Parts, places: Places) -> Iterator[Problem]:
    for name, pipeline in parts.pipelines.items():
        for source, spec in pipeline.data.items():
            loc = ("pipelines", name, "data", source)
            if not spec.url.strip():
                yield places.problem((*loc, "url"), "bad-source", "there is no address: write a path or a URL")
            elif _is_sql(spec) and spec.query is None:
                yield places.problem(
                    loc, "bad-source", f"{say(spec.url)} is a database: add `query: SELECT …`", key=True
                )
            elif not _is_sql(spec) and spec.query is not None:
                message = f"`query` is for databases, and {say(spec.url)} is none"
                yield places.problem((*loc, "query"), "bad-source", message, key=True)


def _is_sql(spec: DataSpec) -> bool:
    scheme, separator, _ = spec.url.partition("://")
    return bool(separator) and scheme not in _PLAIN_SCHEMES and (spec.query is not None or _known_database(scheme))


def _known_database(scheme: str) -> bool:
    return scheme.split("+", 1)[0] in {"sqlite", "postgresql", "postgres", "mysql", "mariadb", "oracle", "mssql"}


def _retrain(parts: Parts, places: Places) -> Iterator[Problem]:
    if parts.monitoring is None:
        return
    watches = [*parts.monitoring.drift, *parts.monitoring.quality]
    for twice in sorted(set(parts.monitoring.drift) & set(parts.monitoring.quality)):
        message = f"{say(twice)} is a watch in `drift` too: `retrain.when` could mean either"
        yield places.problem(("monitoring", "quality", twice), "ambiguous-name", message, key=True)
    for name, pipeline in parts.pipelines.items():
        for number, watch in enumerate(pipeline.retrain.when):
            if watch not in watches and (parts.complete or nearest(watch, watches)):
                message = f"`monitoring` has no watch called {say(watch)}{did_you_mean(watch, watches)}"
                yield places.problem(("pipelines", name, "retrain", "when", number), "unknown-watch", message)


def _truth(parts: Parts, places: Places) -> Iterator[Problem]:
    """Quality and its gates need to know which column is the outcome."""
    truths = [one.truth for one in parts.serving.values() if one.truth]
    if parts.complete and parts.monitoring and parts.monitoring.quality and not truths:
        message = "nothing says what the outcome is: add `truth: {field: …}` to an endpoint in `serving`"
        yield places.problem(("monitoring", "quality"), "no-truth", message, key=True)
    for name, pipeline in parts.pipelines.items():
        followers = parts.following(pipeline.produces)
        fields = {one.truth.field: at for at, one in followers.items() if one.truth}
        gates = pipeline.gates
        if parts.complete and not fields and (gates.brier or gates.auc or gates.groups):
            message = f"nothing says which column is the outcome of `{pipeline.produces}`: "
            message += "add `truth: {field: …}` to an endpoint that follows it"
            yield places.problem(("pipelines", name, "gates"), "no-truth", message, key=True)
        if len(fields) > 1:
            listed = ", ".join(f"`{one}`" for one in sorted(fields))
            message = f"endpoints that follow `{pipeline.produces}` disagree on the outcome's column: {listed}"
            yield places.problem(("serving", list(fields.values())[-1], "truth", "field"), "two-truths", message)


def _alerts(parts: Parts, places: Places) -> Iterator[Problem]:
    if parts.monitoring is None:
        return
    known = [*ALERT_KINDS, *(f"{name}.objective" for name in parts.serving)]
    for name, alert in parts.monitoring.alerts.items():
        loc: tuple[Any, ...] = ("monitoring", "alerts", name)
        for number, kind in enumerate(alert.when):
            if kind not in known and (parts.complete or nearest(kind, known)):
                message = f"{say(kind)} is not a kind of event{did_you_mean(kind, known)}"
                yield places.problem((*loc, "when", number), "unknown-event", message)
        if alert.to != "console" and not _ENV.fullmatch(alert.to):
            message = f"{say(alert.to)} is nobody that can be told: write `console` or `env:NAME`"
            yield places.problem((*loc, "to"), "bad-recipient", message)


def missing_functions(parts: Parts, folder: Path, places: Places) -> Iterator[Problem]:
    """What is wrong with the functions and the weights that the parts name."""
    modules = functions.Modules(folder)
    yield from missing_weights(parts.pipelines, folder, places)
    yield from missing_banned(parts.pipelines, folder, places)
    yield from missing_evals(parts.pipelines, modules, places)
    for name, pipeline in parts.pipelines.items():
        earlier: list[str] = []
        for step, spec in pipeline.steps.items():
            offered = [*earlier, *pipeline.data, *(functions.CONTEXT if earlier else functions.FIRST_CONTEXT)]
            loc = ("pipelines", name, "steps", step)
            at = (*loc, "run") if places.find((*loc, "run"))[1] == len(loc) + 1 else loc
            for key, code, message in modules.complaints(spec.run, offered, spec.with_, one_table=step == "features"):
                yield places.problem((*loc, "with", key) if key else at, code, message, key=bool(key))
            earlier.append(step)
        for check, gate in pipeline.gates.checks.items():
            for _, code, message in modules.complaints(gate.run, functions.CHECK_CONTEXT, {}):
                yield places.problem(("pipelines", name, "gates", "checks", check, "run"), code, message)
