"""Heavy libraries, loaded once in the host, so that each step's process begins with them.

Only libraries that start no threads when imported (`host.environment` sees to that), and of those only what the
user's own modules import at their top; these modules themselves are imported in the steps' processes alone.
Who calls it: the run, before it forks. What it must never do: compute anything, or fail.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from pathlib import Path

from mainspring.pipelines.job import Job

_SAFE = frozenset({"numpy", "pandas", "pyarrow", "scipy", "sklearn"})
_ALWAYS = ("numpy", "pandas", "pyarrow", "pyarrow.parquet")
_done: set[str] = set()


def preload(job: Job, step: str) -> None:
    """Import what a step, and those after it, will need."""
    if step == "data" or job.pipeline.weights is not None:
        return  # mostly there is nothing to read anew; a language model's steps need none of these
    if step.startswith("package"):
        with contextlib.suppress(Exception):
            importlib.import_module("skl2onnx")
    for module in {step.run.partition(":")[0] for step in job.pipeline.steps.values()}:
        if module in _done:
            continue
        _done.add(module)
        path = job.stack_folder.joinpath(*module.split(".")).with_suffix(".py")
        for name in (*_ALWAYS, *_imports(path)):
            if name not in sys.modules and name.partition(".")[0] in _SAFE:
                with contextlib.suppress(Exception):  # the step tells what is wrong with it
                    importlib.import_module(name)


def _imports(path: Path) -> list[str]:
    """Modules that a source file imports at its top."""
    found: list[str] = []
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.append(node.module)
    return found
