"""`python -m mainspring.replicas.adapters.triton_control load|unload NAME ADDRESS`: a shared Triton is told.

Who calls it: the keeper of a model in a shared server, inside Triton's environment (it has the client for gRPC), in
the server's folder: ADDRESS is a relative path of a socket. Exit status: 0 when the model is loaded, or has answered
all that it was asked and is gone; 2 with the reason on stderr.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Sequence
from typing import Any

PATIENCE = 120.0
"""Seconds for a model to be loaded, or to leave."""


def tell(client: Any, what: str, name: str) -> None:
    """Load or unload; returns when it is done. Raises what the client raises, `TimeoutError`."""
    if what == "load":
        client.load_model(name, client_timeout=PATIENCE)
        return
    client.unload_model(name, client_timeout=PATIENCE)
    until = time.monotonic() + PATIENCE
    while _state(client, name) not in ("", "UNAVAILABLE"):  # it answers at once, and waits for requests after that
        if time.monotonic() > until:
            raise TimeoutError(f"`{name}` was not unloaded within {PATIENCE:g} s")
        time.sleep(0.05)


def _state(client: Any, name: str) -> str:
    index = client.get_model_repository_index(client_timeout=10.0).models
    return next((one.state for one in index if one.name == name), "")


def main(words: Sequence[str]) -> int:
    """Run; returns the exit status."""
    what, name, address = words
    grpc = importlib.import_module("tritonclient.grpc")
    client = grpc.InferenceServerClient(address)
    try:
        tell(client, what, name)
    except (importlib.import_module("tritonclient.utils").InferenceServerException, TimeoutError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
