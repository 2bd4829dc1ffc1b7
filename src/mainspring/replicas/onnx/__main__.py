"""`python -m mainspring.replicas.onnx`: one process that serves one packaged model.

Who calls it: the world (through a shim). Exit status: 0 after SIGTERM, 2 when the artefact or the
machine does not allow it to serve, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from mainspring.artefacts.score import Scorer
from mainspring.replicas.onnx.batcher import Batcher
from mainspring.replicas.onnx.server import Replica, warm_up
from mainspring.wire import process
from mainspring.wire.http1 import Server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mainspring.replicas.onnx", description=__doc__)
    parser.add_argument("--artefact", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--announce", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--batch-wait", type=float, default=0.002)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    return parser.parse_args()


async def serve(arguments: argparse.Namespace) -> None:
    """Load, warm up, announce; serve until told to stop; drain."""
    told = process.until_told()
    scorer = Scorer(arguments.artefact, arguments.code, arguments.threads)
    warm_up(scorer)
    batcher = Batcher(scorer.score, arguments.batch_size, arguments.batch_wait)
    replica = Replica(scorer, batcher, arguments.model, arguments.version)
    server = Server(replica.handle)
    sock = process.bind(arguments.host, arguments.port)
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)
    # The model thread holds the interpreter; with the default of 5 ms the event loop would starve.
    sys.setswitchinterval(0.0005)
    process.settle_memory()
    watch = asyncio.create_task(server.watch())
    process.announce(arguments.announce, process.address_of(sock))
    try:
        await told.wait()
    finally:
        process.withdraw(arguments.announce)
        listener.close()
        await server.drain(10.0)
        await batcher.drain()
        watch.cancel()


def main() -> int:
    """Run; returns the exit status."""
    arguments = _arguments()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {arguments.name} %(message)s")
    return process.run(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
