"""The requirement sets of runtimes: found, named by their digest, read.

What this is: the text of `data/NAME.txt`, which `make lock-runtimes` writes: every package of an environment with its
version and its hashes. Who calls it: `environment.py`, `mainspring runtime`. What it must never do: resolve anything.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import re
from importlib.metadata import entry_points
from pathlib import Path

from mainspring.errors import InputError
from mainspring.runtimes.catalog import GROUP
from mainspring.runtimes.descriptor import Runtime

_SERVER = re.compile(r"^# server: *(\S+)$", re.MULTILINE)
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?==([^\s;\\]+)", re.MULTILINE)
_ENTRY = re.compile(r"^[^\s#].*(?:\n[ \t].*)*", re.MULTILINE)


def requirements(runtime: Runtime) -> str:
    """The text of a runtime's requirement set.

    A runtime that a package brings has it in the folder `data` beside its module. Raises `InputError` where there is
    none.
    """
    name = f"{runtime.environment}.txt"
    if runtime.environment:
        for folder in (_built_in(), *_brought(runtime.name)):
            if (path := folder / "data" / name).is_file():
                return path.read_text(encoding="utf-8")
    message = f"the runtime `{runtime.name}` has no requirement set" + (f" `{name}`" if runtime.environment else "")
    raise InputError("no-requirements", message, "mainspring runtime list")


def _built_in() -> Path:
    return Path(str(importlib.resources.files("mainspring.runtimes")))


def _brought(name: str) -> list[Path]:
    """The folders of the modules that bring a runtime of this name."""
    specs = [importlib.util.find_spec(point.module) for point in entry_points(group=GROUP, name=name)]
    return [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin]


def digest(text: str) -> str:
    """Twelve hex digits that name a requirement set."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pinned(text: str) -> dict[str, str]:
    r"""Version of every package in a requirement set, by its name.

    >>> pinned("numpy==2.4.6 ; python_version < '4'\n    --hash=sha256:0\n")
    {'numpy': '2.4.6'}
    """
    return dict(_PINNED.findall(text))


def server(text: str) -> tuple[str, str]:
    r"""Package and version of the server itself; "" for what the requirement set does not say.

    >>> server("# server: Mlserver\nmlserver==1.7.1\n")
    ('mlserver', '1.7.1')
    """
    found = _SERVER.search(text)
    name = re.sub(r"[-_.]+", "-", found[1]).lower() if found else ""
    return name, pinned(text).get(name, "")


def parted(text: str) -> tuple[str, str]:
    """A requirement set in two: builds with a local version (`torch==2.13.0+cpu`), and all others.

    The first are on no package index but their maker's.
    """
    builds: list[str] = []
    others: list[str] = []
    for entry in _ENTRY.findall(text):
        found = _PINNED.match(entry)
        (builds if found and "+" in found[2] else others).append(f"{entry}\n")
    return "".join(builds), "".join(others)
