"""`python -m mainspring.gateway`: one worker of the gateway.

Who calls it: the world (through a shim). Exit status: 0 after SIGTERM, 2 when the port or a folder
does not allow it to serve, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from pathlib import Path

from mainspring.gateway.log import SEGMENT_BYTES, Log
from mainspring.gateway.metrics import Metrics
from mainspring.gateway.mirror import Mirror, Settled
from mainspring.gateway.server import Gateway
from mainspring.gateway.table import Table
from mainspring.wire import process
from mainspring.wire.http1 import Server

_DRAIN = 10.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="mainspring.gateway", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--routes", type=Path, required=True)
    parser.add_argument("--acks", type=Path, required=True)
    parser.add_argument("--segments", type=Path, required=True)
    parser.add_argument("--announce", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--workers-share", action="store_true", help="share the port with other workers")
    parser.add_argument("--segment-bytes", type=int, default=SEGMENT_BYTES)
    return parser.parse_args()


async def serve(arguments: argparse.Namespace) -> None:
    """Take the port, read the routes, pay old debts; serve until told to stop; drain."""
    told = process.until_told()
    boot = f"{int(time.time() * 1000):012x}{os.urandom(2).hex()}"
    sock = process.bind(arguments.host, arguments.port, shared=arguments.workers_share)
    metrics = Metrics()
    records = Log(arguments.segments, arguments.name, boot, arguments.segment_bytes)
    table = Table(arguments.routes, arguments.acks / f"{arguments.name}.json", boot)
    mirror = Mirror(table, records, metrics, Settled(arguments.segments, arguments.name, boot))
    gateway = Gateway(table, records, mirror, metrics)
    server = Server(gateway.handle, idle=120.0)
    table.look()
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)
    tasks = [asyncio.create_task(work) for work in (table.watch(), server.watch(), _mirror(mirror))]
    process.settle_memory()
    process.announce(arguments.announce, process.address_of(sock))
    try:
        await told.wait()
    finally:
        process.withdraw(arguments.announce)
        listener.close()
        await server.drain(_DRAIN)
        await gateway.drain(0.5)
        await mirror.quiet(2.0)
        for task in tasks:
            task.cancel()
        records.flush()
        mirror.note()
        records.close()


async def _mirror(mirror: Mirror) -> None:
    recovered = await mirror.recover()
    if recovered:
        logging.getLogger(__name__).info("%d mirror copies of earlier boots are sent now", recovered)
    await mirror.keep()


def main() -> int:
    """Run; returns the exit status."""
    arguments = _arguments()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {arguments.name} %(message)s")
    return process.run(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
