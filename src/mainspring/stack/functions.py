"""The user's functions, looked up by their text: is the module there, the function in it, can its parameters be filled.

What this is: `module:function` checked against the modules beside the stack file, from their syntax trees. Who calls
it: `resolve.py`. What it must never do: import or run anything of the user's.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.stack.problems import did_you_mean, say

FIRST_CONTEXT = ("window", "seed")
"""What the first step may ask for by name, besides sources and its `with`."""
CONTEXT = ("rows", "truth", "window", "seed")
"""What a later step may ask for by name, besides earlier steps, sources and its `with`."""
CHECK_CONTEXT = ("model", "rows", "predictions", "champion_predictions")
"""What a check of the user's own may ask for by name."""

Complaint = tuple[str, str, str]
"""The key of `with` that is meant ("" for the function itself), a code, a message."""


@dataclass(frozen=True, slots=True)
class Module:
    """What a module's text defines at its top."""

    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imported: frozenset[str] = frozenset()  # `from x import name`: taken on trust
    others: frozenset[str] = frozenset()  # bound to something else: a class, a value, an `async def`
    error: str = ""


class Modules:
    """The modules of one folder, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Module | None] = {}

    def complaints(
        self, path: str, offered: Collection[str], fixed: Mapping[str, Any], *, one_table: bool = False
    ) -> Iterator[Complaint]:
        """What is wrong with the function `path`, whose parameters are filled from `offered` and `fixed`.

        `one_table`: it takes the rows and nothing else, as `features` does, since a request brings only those.
        """
        name, _, function = path.partition(":")
        module = self._module(name)
        if module is None:
            yield "", "missing-module", f"there is no module `{name}` beside this file{self._near(name)}"
        elif module.error:
            yield "", "broken-module", f"`{name}` is not Python: {module.error}"
        elif function in module.functions:
            node = module.functions[function]
            yield from _table_only(node, fixed) if one_table else _parameters(node, offered, fixed)
        elif function in module.others:
            message = f"`{function}` in `{name}` is not a plain function: write `def {function}(…)` at the module's top"
            yield "", "not-a-function", message
        elif function not in module.imported:
            known = [one for one in module.functions if not one.startswith("_")]
            yield "", "missing-function", f"`{name}` has no function `{function}`{did_you_mean(function, known)}"

    def _module(self, name: str) -> Module | None:
        if name not in self._read:
            base = self._folder.joinpath(*name.split("."))
            file = next(
                (one for one in (base.with_name(base.name + ".py"), base / "__init__.py") if one.is_file()), None
            )
            self._read[name] = _look(file) if file else None
        return self._read[name]

    def _near(self, name: str) -> str:
        try:
            return did_you_mean(name, [one.stem for one in self._folder.glob("*.py")][:1000])
        except OSError:
            return ""


def _look(file: Path) -> Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's escapes are theirs to mend
            tree = ast.parse(file.read_bytes(), str(file))
    except SyntaxError as error:
        return Module(error=f"line {error.lineno}: {error.msg}")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        return Module(error=say(error, 120))
    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    imports = [one for one in tree.body if isinstance(one, ast.ImportFrom)]
    imported = frozenset(alias.asname or alias.name for one in imports for alias in one.names)
    return Module(functions, imported, frozenset(_bound(tree.body)))


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Names at the top of a module that stand for something else than a function."""
    for statement in body:
        if isinstance(statement, (ast.ClassDef, ast.AsyncFunctionDef)):
            yield statement.name
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def _required(node: ast.FunctionDef) -> list[str]:
    positional = [*node.args.posonlyargs, *node.args.args]
    free = positional[: len(positional) - len(node.args.defaults)]
    free += [one for one, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if default is None]
    return [one.arg for one in free]


def _table_only(node: ast.FunctionDef, fixed: Mapping[str, Any]) -> Iterator[Complaint]:
    if len(_required(node)) != 1:
        message = f"`{node.name}` takes one table and nothing else, since a request brings only its raw fields"
        yield "", "bad-features", f"{message}: write `def {node.name}(rows)`"
    for key in fixed:
        yield (
            key,
            "bad-features",
            f"`{node.name}` takes nothing from `with`: put {say(key)} into the module as a constant",
        )


def _parameters(node: ast.FunctionDef, offered: Collection[str], fixed: Mapping[str, Any]) -> Iterator[Complaint]:
    names = {*offered, *fixed}
    for parameter in _required(node):
        if parameter not in names:
            message = f"nothing fills the parameter `{parameter}` of `{node.name}`{did_you_mean(parameter, names)}"
            yield "", "unfilled-parameter", message
    taken = {one.arg for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
    for key in fixed:
        if key not in taken and node.args.kwarg is None:
            yield key, "unknown-parameter", f"`{node.name}` has no parameter {say(key)}{did_you_mean(key, taken)}"
