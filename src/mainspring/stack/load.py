"""A stack file's bytes to a frozen `Stack`, or all that is wrong with them at once.

What this is: the two passes put together: `yaml12` (text to nodes), the models (nodes to values), then the checks
across sections (`resolve`). Who calls it: the CLI, the app, the pipeline host. What it must never do: import the
user's modules, build anything from a YAML tag, or raise anything but `StackError` for a bad file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mainspring.errors import Problem, StackError
from mainspring.stack import fields, resolve
from mainspring.stack.compute import Compute
from mainspring.stack.cost import Cost
from mainspring.stack.model import Stack
from mainspring.stack.monitoring import Monitoring
from mainspring.stack.orchestration import Orchestration
from mainspring.stack.pipelines import PipelineSpec
from mainspring.stack.problems import Places, in_order, of_validation, say
from mainspring.stack.serving import Endpoint
from mainspring.stack.yaml12 import MAX_BYTES, compose

FORMAT = 1
"""The version of the file's format that this Mainspring reads."""
NAME = "mainspring.yaml"
"""What a stack file is called unless somebody says otherwise."""


@dataclass(frozen=True, slots=True)
class Document:
    """A stack file that was read: its model, and where each thing in it stands."""

    stack: Stack
    places: Places


def parse(text: bytes, name: str) -> Stack:
    """Read the bytes of a stack file called `name`. Pure. Raises `StackError` with every problem, in file order."""
    return read(text, name).stack


def load(path: Path) -> Stack:
    """Read the stack file at `path`. Raises `StackError`; functions beside it are not looked at (see `check`)."""
    return parse(fetch(path), str(path))


def check(path: Path) -> Document:
    """Read the stack file at `path`, and see that the functions it names are there (nothing is imported)."""
    return read(fetch(path), str(path), path.resolve().parent)


def fetch(path: Path) -> bytes:
    """The file's bytes, `MAX_BYTES` + 1 at most; a file that can't be read is a `StackError` too."""
    hint = "mainspring init"
    try:
        if path.is_dir():
            raise _whole(
                path, "stack-missing", f"`{path}` is a folder: name the file in it, such as `{path / NAME}`", hint
            )
        if not path.exists():
            raise _whole(path, "stack-missing", f"there is no file `{path}`", hint)
        if not path.is_file():
            raise _whole(path, "stack-unreadable", f"`{path}` is not a regular file", hint)
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise _whole(path, "stack-unreadable", f"{say(path, 200)} can't be read: {said}", "") from error


def _whole(path: Path, code: str, message: str, hint: str) -> StackError:
    return StackError((Problem(code, message, "", str(path), 0, 1, hint),))


def read(text: bytes, name: str, folder: Path | None = None) -> Document:
    """Read a stack file's bytes; with `folder`, the functions it names are looked for there. Raises `StackError`."""
    root, flaws = compose(text)
    places = Places(name, root)
    hint = "mainspring explain" if root else "mainspring init"
    problems = [Problem(f.code, f.message, f.path, name, f.line, max(f.column, 1), hint) for f in flaws]
    if root is None:
        raise StackError(in_order(problems))
    if root.kind != "map":
        message = "a stack file is a mapping: its first line says `mainspring: 1`"
        problems.append(Problem("not-a-mapping", message, "", name, root.line, root.column, "mainspring init"))
        raise StackError(in_order(problems))
    data = root.data()
    _same_version(data, places)
    stack, whole = None, list[Problem]()
    try:
        stack = Stack.model_validate(data)
        parts = resolve.Parts.of(stack)
    except ValidationError as error:
        told = {(flaw.line, flaw.column) for flaw in flaws}  # a tag, a number without end: said already
        found = [one for one in of_validation(error, places) if (one.line, one.column) not in told]
        problems += [one for one in found if one.path]
        whole = [one for one in found if not one.path]
        parts = _salvage(data)
    problems += resolve.cross_checks(parts, places)
    problems = problems or whole  # what a model says of the file as a whole, `cross_checks` says where it stands
    if folder is not None:
        problems += resolve.missing_functions(parts, folder, places)
    if problems or stack is None:
        raise StackError(in_order(problems))
    return Document(stack, places)


def _same_version(data: dict[str, Any], places: Places) -> None:
    """A file of another version is told so, and nothing else: its keys may mean something else."""
    version = data.get("mainspring", FORMAT)
    if isinstance(version, int) and not isinstance(version, bool) and version == FORMAT:
        return
    message = f"this file is version {say(version)}; this Mainspring reads {FORMAT}"
    if version is None or version == str(FORMAT):
        message = f"the version is a plain number: write `mainspring: {FORMAT}`"
    raise StackError((places.problem(("mainspring",), "unknown-version", message, hint="mainspring --version"),))


def _salvage(data: dict[str, Any]) -> resolve.Parts:
    """The parts of a wrong file that are right, so that checks across sections can speak in the same breath."""
    return resolve.Parts(
        compute=frozenset(str(name) for name in _mapping(data.get("compute"))) - fields.keys(Compute).keys(),
        machines=_try(Compute, data.get("compute")),
        orchestration=_try(Orchestration, data.get("orchestration")),
        serving=_each(Endpoint, data.get("serving")),
        pipelines=_each(PipelineSpec, data.get("pipelines")),
        monitoring=_try(Monitoring, data.get("monitoring", {})),
        cost=_try(Cost, data.get("cost", {})),
        complete=False,
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _each(model: type[Any], value: object) -> dict[str, Any]:
    made = {name: _try(model, entry) for name, entry in _mapping(value).items()}
    return {name: entry for name, entry in made.items() if entry is not None}


def _try(model: type[Any], value: object) -> Any:
    """The value as a model, without its wrong leaves if need be; None when that is not enough."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        pruned = value
        for item in error.errors(include_url=False, include_context=False)[:1000]:
            pruned = _without(pruned, item["loc"])
    try:
        return model.model_validate(pruned)
    except ValidationError:
        return None


def _without(value: Any, loc: tuple[str | int, ...]) -> Any:
    """A copy of a value without the key at `loc`; the value itself where there is none."""
    if not loc or not isinstance(value, dict) or loc[0] not in value:
        return value
    rest = {key: entry for key, entry in value.items() if key != loc[0]}
    deeper = _without(value[loc[0]], loc[1:])
    return rest if len(loc) == 1 or deeper is value[loc[0]] else {**value, loc[0]: deeper}
