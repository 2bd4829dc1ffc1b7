"""All runtimes: those that come with Mainspring, and those that installed packages bring.

What this is: a lookup by name. A package brings one by an entry point in the group `mainspring.runtimes` that names a
`Runtime`; it can't replace one that is built in. Who calls it: whoever has a runtime's name.
What it must never do: let a broken package keep the built-in ones from being found.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from mainspring.runtimes.bentoml import BENTOML
from mainspring.runtimes.descriptor import Runtime
from mainspring.runtimes.external import EXTERNAL
from mainspring.runtimes.llamacpp import LLAMACPP
from mainspring.runtimes.mlflow import MLFLOW
from mainspring.runtimes.mlserver import MLSERVER
from mainspring.runtimes.onnx import ONNX
from mainspring.runtimes.python import PYTHON
from mainspring.runtimes.sglang import SGLANG
from mainspring.runtimes.tfserving import TFSERVING
from mainspring.runtimes.torchserve import TORCHSERVE
from mainspring.runtimes.triton import TRITON
from mainspring.runtimes.trtllm import TRTLLM
from mainspring.runtimes.vllm import VLLM

GROUP = "mainspring.runtimes"
BUILT_IN: tuple[Runtime, ...] = (
    ONNX, LLAMACPP, VLLM, SGLANG, TRTLLM, EXTERNAL, MLFLOW, PYTHON, TFSERVING, TRITON, MLSERVER, TORCHSERVE, BENTOML,
)  # fmt: skip

log = logging.getLogger(__name__)


@functools.cache
def runtimes() -> Mapping[str, Runtime]:
    """All of them, by name."""
    found = {one.name: one for one in BUILT_IN}
    for point in entry_points(group=GROUP):
        try:
            brought = point.load()
        except Exception as error:  # whatever a package of somebody else's does when it is imported
            log.warning("the runtime `%s` of `%s` can't be loaded: %s", point.name, point.value, error)
            continue
        if not isinstance(brought, Runtime):
            log.warning("the entry point `%s` of `%s` is no `Runtime`", point.name, point.value)
        elif brought.name in found:
            log.warning("the runtime `%s` of `%s` has a name that is taken", brought.name, point.value)
        else:
            found[brought.name] = brought
    return MappingProxyType(found)
