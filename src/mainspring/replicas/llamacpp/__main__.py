"""`python -m mainspring.replicas.llamacpp`: one process that serves one language model.

Who calls it: the world (through a shim). Exit status: 0 after SIGTERM, 2 when the command line, the artefact or the
machine does not allow it to serve, with the reason on stderr. SIGTERM while it loads ends it at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence

from mainspring.artefacts.load import load_chosen, load_weights
from mainspring.artefacts.settings import read_settings
from mainspring.artefacts.weights import chat_template
from mainspring.errors import EnvironmentError_, MainspringError
from mainspring.replicas.asking import ask
from mainspring.replicas.llamacpp import engine
from mainspring.replicas.llamacpp.drain import drained
from mainspring.replicas.llamacpp.options import Options, read_options
from mainspring.wire import process

log = logging.getLogger("mainspring.replicas.llamacpp")

WARM_UP = b'{"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}'


def serve(options: Options) -> None:
    """Check, load, warm up, announce; wait until told to stop; drain."""
    manifest = load_chosen(options.artefact, options.digest)
    weights = load_weights(options.artefact, manifest)
    settings = read_settings(manifest.settings)
    running = engine.start(options, settings, weights, chat_template(weights) if settings.system else "")
    log.info("llama.cpp on %s: %s", running.address, " ".join(f"{k}={v}" for k, v in running.said.items()))
    _warm_up(running.address, options)
    told = process.told_pipe()
    process.announce(options.announce, running.address)
    os.read(told, 1)
    process.withdraw(options.announce)
    if not drained(running.address, running.port, options.key, options.drain):
        log.warning("requests were still running after %g s; they are cut off", options.drain)


def _warm_up(address: str, options: Options) -> None:
    """Answer once, so that the first request finds all loaded; and see that the slots are as large as asked."""
    try:
        ask(address, "POST", "/v1/completions", options.key, WARM_UP, timeout=120.0)
        slots = json.loads(ask(address, "GET", "/slots", options.key))
        given = min(slot["n_ctx"] for slot in slots)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EnvironmentError_("engine-failed", f"llama.cpp started and did not answer: {error}") from error
    if given < options.context:
        log.warning("a slot has %d tokens, not %d: the model was made for no more", given, options.context)


def main(words: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    process.allow_files()
    try:
        options = read_options(sys.argv[1:] if words is None else words)
        form = f"%(asctime)s {options.name} %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
        serve(options)
    except MainspringError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the engine's threads have no stop call
