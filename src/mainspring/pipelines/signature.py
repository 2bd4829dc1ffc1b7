"""What a step's function asks for, read from its source: nothing is imported.

Parameters are filled by name: a source of data, an earlier step's output, a key of `with`, or what the run knows
(`rows`: the first step's table; `truth`: its outcome column; `window`; `seed`). Who calls it: the host before
anything runs, and `mainspring validate`. What it must never do: import the user's code.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mainspring.errors import UserCodeError
from mainspring.stack.pipelines import PipelineSpec

CONTEXT = ("rows", "truth", "window", "seed")
CHECK_CONTEXT = ("model", "rows", "predictions", "champion_predictions")
EVAL_CONTEXT = ("ask",)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a function."""

    name: str
    required: bool
    path: bool  # annotated as `Path`: it wants the file, not its content


@dataclass(frozen=True, slots=True)
class Signature:
    """All parameters of a function."""

    function: str
    parameters: tuple[Parameter, ...]
    open: bool  # has **kwargs, so it takes any key of `with`

    @property
    def names(self) -> frozenset[str]:
        """The names of the parameters."""
        return frozenset(p.name for p in self.parameters)


@dataclass(frozen=True, slots=True)
class Wrong:
    """A step that cannot be run as it is written."""

    step: str
    message: str
    hint: str = ""


def read(folder: Path, function: str) -> Signature:
    """Read the signature of `module:function` under `folder`; raises `UserCodeError` when there is none."""
    module, _, name = function.partition(":")
    for _ in range(5):  # follows `from other import name`
        node = _find(folder, module, name)
        if isinstance(node, ast.FunctionDef):
            return _signature(function, node)
        if not isinstance(node, ast.ImportFrom) or not node.module:
            break
        original = next(a.name for a in node.names if (a.asname or a.name) == name)
        base = module.split(".")[: -node.level] if node.level else []
        module, name = ".".join([*base, node.module]), original
    raise UserCodeError(
        "step-no-function",
        f"`{module}` has no function `{name}`",
        f"define it with `def {name}(...)` at the top level of the module",
    )


def _find(folder: Path, module: str, name: str) -> ast.stmt | None:
    base = folder.joinpath(*module.split("."))
    path = next((p for p in (base / "__init__.py", base.with_name(base.name + ".py")) if p.is_file()), None)
    if path is None:
        raise UserCodeError(
            "code-missing", f"there is no module `{module}` in `{folder}`", "check the name after `run:`"
        )
    try:
        body = ast.parse(path.read_bytes(), str(path)).body
    except (SyntaxError, ValueError) as error:
        raise UserCodeError("code-syntax", f"`{path}` does not parse: {error}") from error
    found: ast.stmt | None = None
    for node in body:
        names = {node.name} if isinstance(node, ast.FunctionDef) else set[str]()
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name for alias in node.names}
        if name in names:
            found = node
    if found is None:
        there = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        raise UserCodeError("step-no-function", f"`{module}` has no function `{name}`{_nearest(name, there)}")
    return found


def _signature(function: str, node: ast.FunctionDef) -> Signature:
    positional = [*node.args.posonlyargs, *node.args.args]
    optional = len(node.args.defaults)
    found = [
        Parameter(arg.arg, place < len(positional) - optional, _wants_path(arg.annotation))
        for place, arg in enumerate(positional)
    ]
    found += [
        Parameter(arg.arg, default is None, _wants_path(arg.annotation))
        for arg, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    ]
    return Signature(function, tuple(found), node.args.kwarg is not None)


def _wants_path(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value.rpartition(".")[2] == "Path"
    return (isinstance(annotation, ast.Name) and annotation.id == "Path") or (
        isinstance(annotation, ast.Attribute) and annotation.attr == "Path"
    )


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else ""


def check_signatures(folder: Path, spec: PipelineSpec) -> tuple[Wrong, ...]:
    """Find every step (and check of the gates) whose parameters cannot all be filled, without importing anything."""
    wrong: list[Wrong] = []
    earlier: list[str] = []
    for step, what in spec.steps.items():
        available = [*spec.data, *earlier, *(CONTEXT if earlier else ("window", "seed"))]
        if step == "features":
            wrong += _check_features(folder, what.run, bool(what.with_))
        else:
            wrong += _check(folder, step, what.run, available, what.with_)
        earlier.append(step)
    for name, check in spec.gates.checks.items():
        wrong += _check(folder, f"gates.checks.{name}", check.run, CHECK_CONTEXT, {})
    for name, gate in spec.gates.evals.items():
        wrong += _check(folder, f"gates.evals.{name}", gate.run, EVAL_CONTEXT, {})
    return tuple(wrong)


def _check(folder: Path, step: str, function: str, available: Iterable[str], fixed: dict[str, object]) -> list[Wrong]:
    try:
        signature = read(folder, function)
    except UserCodeError as error:
        return [Wrong(step, error.message, error.hint)]
    known = [*available, *fixed]
    found = [
        Wrong(
            step,
            f"`{function}` asks for `{p.name}`, which is neither a source, an earlier step, a key of `with`,"
            f" nor known to the run{_nearest(p.name, known)}",
            f"there are: {', '.join(known)}",
        )
        for p in signature.parameters
        if p.required and p.name not in known
    ]
    if not signature.open:
        found += [
            Wrong(
                step, f"`{function}` takes no parameter `{key}`, which `with` gives it{_nearest(key, signature.names)}"
            )
            for key in fixed
            if key not in signature.names
        ]
    return found


def _check_features(folder: Path, function: str, has_with: bool) -> list[Wrong]:
    """At serving, `features` gets the raw fields of a request and nothing else."""
    try:
        signature = read(folder, function)
    except UserCodeError as error:
        return [Wrong("features", error.message, error.hint)]
    required = [p for p in signature.parameters if p.required]
    if len(required) == 1 and required[0] == signature.parameters[0] and not has_with:
        return []
    return [
        Wrong(
            "features",
            f"`{function}` must take one table and nothing else: a request brings its raw fields only",
            "write `def features(rows)`, and put constants in the module",
        )
    ]
