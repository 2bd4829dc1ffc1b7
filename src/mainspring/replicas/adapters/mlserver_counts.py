"""What the adapter counts in an MLServer, in a module of its own: MLServer reads the adapter's anew for each model.

Who calls it: `mlserver_model`. What it must never do: make a counter twice.
"""

from __future__ import annotations

import functools
from typing import Any

from prometheus_client import Counter  # type: ignore[import-not-found]  # is only there in the server's environment


@functools.cache
def batches() -> Any:
    """The count of batches by model, made when MLServer has chosen how processes share their metrics.

    It is in the registry of all of this process: with no parallel workers MLServer shows that one, not its own.
    """
    return Counter("mainspring_batches", "batches that were scored", ["model"])
