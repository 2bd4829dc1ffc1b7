"""The life of a replica that scores in its own process: load, warm up, announce, serve, drain.

What this is: the command line that the world starts every such replica with, and what is done with it. Who calls it:
the `__main__` of a runtime, with the function that loads its scorer. What it must never do: know a runtime.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mainspring.artefacts.load import load_chosen
from mainspring.artefacts.manifest import Manifest
from mainspring.replicas.oip.batcher import Batcher
from mainspring.replicas.oip.server import Replica, warm_up
from mainspring.wire import process
from mainspring.wire.http1 import Server

DRAIN = 10.0
"""Seconds that requests which have begun get after SIGTERM, unless the command line says otherwise."""


class Scores(Protocol):
    """Whatever gives a number for each row."""

    @property
    def manifest(self) -> Manifest:
        """What requests carry."""

    def score(self, columns: Mapping[str, list[Any]], /) -> npt.NDArray[np.float64]:
        """A number for each row, shape (n,), of columns of n values each; whatever it raises fails those rows only."""


Load = Callable[[argparse.Namespace], Scores]


def parser(module: str, told: str | None) -> argparse.ArgumentParser:
    """The words that every replica is told; `told` is what `--help` says of it."""
    made = argparse.ArgumentParser(prog=f"mainspring.replicas.{module}", description=told)
    for name in ("--artefact", "--code"):
        made.add_argument(name, type=Path, required=True)
    for name in ("--name", "--model", "--version"):
        made.add_argument(name, required=True)
    made.add_argument("--announce", type=Path)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--batch-wait", type=float, default=0.002)
    made.add_argument("--drain", type=float, default=DRAIN)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=0)
    made.add_argument("--key-file", type=Path, help="of what requests must bring; a replica that scores asks for none")
    made.add_argument("--digest", default="", help="of the version that was chosen; another one is refused")
    return made


def check_digest(arguments: argparse.Namespace) -> None:
    """See that the artefact is the version that was chosen, before any of it is loaded. Raises `ArtefactError`."""
    load_chosen(arguments.artefact, arguments.digest)


async def serve(arguments: argparse.Namespace, load: Load, program: str, platform: str) -> None:
    """Load, warm up, announce (where a file for it is named); serve until told to stop; drain.

    SIGTERM while it loads ends the process at once. Raises what `load` raises.
    """
    check_digest(arguments)
    scorer = load(arguments)
    warm_up(scorer)
    told = process.until_told()
    batcher = Batcher(scorer.score, arguments.batch_size, arguments.batch_wait)
    replica = Replica(scorer.manifest, batcher, arguments.model, arguments.version, program=program, platform=platform)
    server = Server(replica.handle)
    sock = process.bind(arguments.host, arguments.port)
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)
    # The model thread holds the interpreter; with the default of 5 ms the event loop would starve.
    sys.setswitchinterval(0.0005)
    process.settle_memory()
    watch = asyncio.create_task(server.watch())
    if arguments.announce:
        process.announce(arguments.announce, process.address_of(sock))
    try:
        await told.wait()
    finally:
        if arguments.announce:
            process.withdraw(arguments.announce)
        listener.close()
        await server.drain(arguments.drain)
        await batcher.drain()
        watch.cancel()


def run(words: argparse.ArgumentParser, load: Load, program: str, platform: str, given: Sequence[str] | None = None,
        ) -> int:  # fmt: skip
    """Read the command line and serve; returns the exit status: 0 after SIGTERM, 2 when it can't serve."""
    arguments = words.parse_args(given)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {arguments.name} %(message)s")
    return process.run(serve(arguments, load, program, platform))
