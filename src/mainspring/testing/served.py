"""A small stack that is served: one endpoint, one given model, no pipeline.

Who calls it: tests of whoever runs a controller. What it must never do: train.
"""

from __future__ import annotations

from pathlib import Path

from mainspring.pipelines.registry import Registry
from mainspring.testing.artefacts import tiny_artefact

STACK = """\
mainspring: 1
stack: tiny
compute:
  here: {machine: this, price: $0.10/h}
orchestration:
  where: here
  gateway: {port: PORT}
serving:
  delay:
    model: delay@champion
    objective: {p95: 50ms}
"""


def served(folder: Path, port: int = 0) -> Path:
    """Write `mainspring.yaml` to `folder`, register a model with the alias `champion`; gives the file's path."""
    state = folder / ".mainspring"
    state.mkdir(parents=True, mode=0o700, exist_ok=True)
    tiny_artefact(state / "artefacts" / "delay" / "tiny-1", state / "code", model="delay", run="tiny-1")
    registry = Registry(state)
    registry.prepare()
    registry.set_alias("delay", "champion", registry.register("delay", "tiny-1"))
    registry.close()
    return stack_file(folder, port)


def stack_file(folder: Path, port: int = 0) -> Path:
    """Write only `mainspring.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mainspring.yaml"
    path.write_text(STACK.replace("PORT", str(port)), encoding="utf-8")
    return path
