"""Snapshots of the user's own code: what a version was made with is what it is served with.

What this is: a module and all that it imports from beside the stack file, copied to `<root>/<digest>/`
and imported from there, checked. Who calls it: the pipeline (steps, packaging), the replica, the gate.
What it must never do: import anything but the copy, or trust a file that does not match the digest.

Two snapshots may hold modules of the same name (the champion's `flights` and the candidate's), so each
snapshot has its own set of modules; the one used last is also the one seen in `sys.modules`.
Imports are found by reading the source, so a module imported by a computed name is not taken along,
nor is a data file that lies beside the code.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mainspring.errors import ArtefactError, EnvironmentError_, UserCodeError

_LOCK = threading.RLock()


def snapshot(folder: Path, module: str, root: Path) -> str:
    """Copy `module` and what it imports under `folder` to `root/<digest>/`; return the digest.

    Idempotent, and atomic: the folder is there whole or not at all. Raises `UserCodeError` when the
    module is missing or does not parse, `EnvironmentError_` when the copy cannot be written.
    """
    files = _closure(folder, module)
    digest = _digest(files)
    try:
        _keep(files, digest, root)
    except OSError as error:
        raise EnvironmentError_(
            "code-not-kept", f"the copy of the code `{module}` cannot be written to `{root}`: {error.strerror}"
        ) from error
    return digest


def load(root: Path, digest: str, function: str) -> Callable[..., Any]:
    """Import `function` (`module:function`) from the snapshot `digest`, after checking it.

    Raises `ArtefactError` when the snapshot is missing or changed, `UserCodeError` when the module
    fails to import or has no such function.
    """
    module, _, name = function.partition(":")
    with _LOCK:
        held = _SNAPSHOTS.get((str(root), digest))
        if held is None:
            held = _Snapshot(root / digest, _read_verified(root, digest))
            _SNAPSHOTS[str(root), digest] = held
        try:
            found = getattr(held.import_module(module), name, None)
        except Exception as error:
            raise UserCodeError(
                "code-import", f"`{module}` cannot be imported: {type(error).__name__}: {error}"
            ) from error
    if not callable(found):
        raise UserCodeError("code-no-function", f"`{module}` has no function `{name}`")
    return found  # type: ignore[no-any-return]


# --- finding what belongs together -----------------------------------------------------------------


def _closure(folder: Path, module: str) -> dict[str, bytes]:
    """All source files (by path relative to `folder`) that `module` needs from under `folder`."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise UserCodeError(
            "code-name-taken", f"`{module}` has the name of a module of Python itself", "rename the file"
        )
    files: dict[str, bytes] = {}
    todo, seen = [module], set[str]()
    while todo:
        name = todo.pop()
        if name in seen or name.partition(".")[0] in sys.stdlib_module_names:
            continue
        seen.add(name)
        path = _find(folder, name)
        if path is None:
            if name == module:
                raise UserCodeError("code-missing", f"there is no module `{module}` in `{folder}`")
            continue
        if "." in name:
            todo.append(name.rpartition(".")[0])
        source = path.read_bytes()
        files[path.relative_to(folder).as_posix()] = source
        todo.extend(_imports(name, path, source))
    return files


def _find(folder: Path, name: str) -> Path | None:
    base = folder.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_name(base.name + ".py")):
        if path.is_file():
            return path
    return None


def _imports(name: str, path: Path, source: bytes) -> Iterator[str]:
    """Names of modules that the source may import; those that are no files are dropped later."""
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise UserCodeError("code-syntax", f"`{path}` does not parse: {error}") from error
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _digest(files: Mapping[str, bytes]) -> str:
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path}\0{hashlib.sha256(files[path]).hexdigest()}\n".encode())
    return total.hexdigest()


# --- keeping ---------------------------------------------------------------------------------------


def _keep(files: Mapping[str, bytes], digest: str, root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    final = root / digest
    if final.is_dir():
        if _digest(_read(final)) == digest:
            return
        shutil.rmtree(final)  # somebody changed it; the true content is at hand
    fresh = Path(tempfile.mkdtemp(prefix=".tmp-", dir=root))
    try:
        for name, content in files.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as out:
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
        fresh.chmod(0o755)
        try:
            fresh.rename(final)
        except OSError:  # another process was faster: its copy has the same content
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*.py")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _read_verified(root: Path, digest: str) -> dict[str, bytes]:
    folder = root / digest
    if not digest or "/" in digest or digest.startswith(".") or not folder.is_dir():
        raise ArtefactError("code-lost", f"the code snapshot `{digest}` is not in `{root}`")
    files = _read(folder)
    if _digest(files) != digest:
        raise ArtefactError("code-changed", f"the code snapshot `{folder}` has been changed since it was taken")
    return files


# --- importing -------------------------------------------------------------------------------------


class _Snapshot:
    """The modules of one snapshot; they import each other, and nothing of another snapshot."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.folder = folder
        self.files = files
        self.tops = frozenset(path.partition("/")[0].removesuffix(".py") for path in files)
        self.modules: dict[str, ModuleType] = {}
        self.builtins = dict(builtins.__dict__, __import__=self._import)

    def import_module(self, name: str) -> ModuleType:
        with _LOCK:
            self._activate()
            return importlib.import_module(name)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        if level or name.partition(".")[0] in self.tops:
            with _LOCK:  # also for imports inside functions, long after loading
                self._activate()
                return builtins.__import__(name, globals, locals, fromlist, level)
        return builtins.__import__(name, globals, locals, fromlist, level)

    def _activate(self) -> None:
        if _FINDER.active is self:
            return
        if (before := _FINDER.active) is not None:
            before.modules = {name: module for name, module in sys.modules.items() if before.owns(name)}
        for name in [name for name in sys.modules if self.owns(name) or (before and before.owns(name))]:
            del sys.modules[name]
        sys.modules.update(self.modules)
        if _FINDER not in sys.meta_path:
            sys.meta_path.insert(0, _FINDER)
        _FINDER.active = self

    def owns(self, name: str) -> bool:
        return name.partition(".")[0] in self.tops

    def spec(self, name: str) -> importlib.machinery.ModuleSpec | None:
        base = name.replace(".", "/")
        for path, package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
            if path in self.files:
                where = self.folder / path
                return importlib.util.spec_from_file_location(
                    name,
                    where,
                    loader=_Loader(name, str(where), self.files[path], self.builtins),
                    submodule_search_locations=[str(where.parent)] if package else None,
                )
        if any(path.startswith(f"{base}/") for path in self.files):  # a folder without __init__.py
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(self.folder / base)]
            return spec
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    """Run the bytes that were verified, not what is on disk by now; no bytecode files."""

    def __init__(self, name: str, path: str, source: bytes, own_builtins: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._source, self._builtins = source, own_builtins

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the loader protocol
        return compile(self._source, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = self._builtins
        super().exec_module(module)


class _Finder:
    """Find modules in the snapshot that is active."""

    active: _Snapshot | None = None

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return self.active.spec(name) if self.active is not None and self.active.owns(name) else None


_FINDER: Any = _Finder()
_SNAPSHOTS: dict[tuple[str, str], _Snapshot] = {}
