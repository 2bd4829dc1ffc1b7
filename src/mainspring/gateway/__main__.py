"""`python -m mainspring.gateway`: one worker of the gateway.

Who calls it: the world (through a shim). Exit status: 0 after SIGTERM, 2 when the port or a folder
does not allow it to serve, with one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import socket
import sys
import time
from pathlib import Path

from mainspring.errors import EnvironmentError_
from mainspring.gateway.accounts import Accounts
from mainspring.gateway.copies import Copies
from mainspring.gateway.desk import Desk
from mainspring.gateway.hub import Hub
from mainspring.gateway.ledger import LedgerError
from mainspring.gateway.loads import Loads
from mainspring.gateway.log import SEGMENT_BYTES, Log
from mainspring.gateway.metrics import Metrics
from mainspring.gateway.mirror import Mirror, Settled
from mainspring.gateway.server import Gateway, wording
from mainspring.gateway.table import Table
from mainspring.gateway.tokens import Tokens
from mainspring.wire import process
from mainspring.wire.http1 import Server

log = logging.getLogger(__name__)

_DRAIN = 10.0
_MOST_CLIENTS = 20_000
_KERNEL = 128 * 1024  # bytes that the kernel may hold for a client that does not read; connections inherit it
_EVERY = 0.05  # seconds between looks at the files


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
    parser.add_argument("--keys", type=Path, help="hashes of the tokens that callers may use")
    parser.add_argument("--pepper", type=Path, help="the key of those hashes")
    parser.add_argument("--ledger", type=Path, help="the file that all workers count limits in")
    parser.add_argument("--used", type=Path, help="what was metered by day and month, should the ledger be lost")
    parser.add_argument("--loads", type=Path, help="a folder to say in what this worker is doing")
    parser.add_argument("--upstream-key", type=Path, help="a file with the token that replicas ask for")
    parser.add_argument("--processes", type=Path, help="where replicas' processes leave their exit status")
    parser.add_argument("--drain", type=float, default=_DRAIN, help="seconds for requests to end after SIGTERM")
    return parser.parse_args()


def _upstream_key(path: Path | None) -> bytes:
    """The header that replicas are asked with."""
    if path is None:
        return b""
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeError) as error:
        raise EnvironmentError_("upstream-key", f"`{path}` cannot be read: {error}", "make it readable") from error
    if not key.isascii() or not key.isprintable():
        raise EnvironmentError_("upstream-key", f"`{path}` does not hold a token", "write one line of ASCII to it")
    return b"authorization: Bearer %b\r\n" % key.encode() if key else b""


def _most_clients() -> int:
    """Connections of clients: each may need one to a replica too."""
    return max(min(_MOST_CLIENTS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2), 16)


async def serve(arguments: argparse.Namespace) -> None:
    """Take the port, read the routes, pay old debts; serve until told to stop; drain."""
    told = process.until_told()
    boot = f"{int(time.time() * 1000):012x}{os.urandom(2).hex()}"
    upstream_key = _upstream_key(arguments.upstream_key)
    sock = process.bind(arguments.host, arguments.port, shared=arguments.workers_share)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL)
    records = Log(arguments.segments, arguments.name, boot, arguments.segment_bytes)
    table = Table(arguments.routes, arguments.acks / f"{arguments.name}.json", boot)
    hub = Hub(table, Metrics(), arguments.processes)
    mirror = Mirror(hub, records, Settled(arguments.segments, arguments.name, boot))
    tokens = Tokens(arguments.keys, arguments.pepper)
    accounts = Accounts(arguments.ledger, arguments.used, hub.metrics)
    desk = Desk(hub, records, mirror, Copies(hub, records), tokens, accounts, upstream_key)
    gateway = Gateway(desk)
    loads = Loads(arguments.loads / f"{arguments.name}.json" if arguments.loads else None, hub, boot)
    server = Server(gateway.handle, idle=120.0, max_connections=_most_clients(), wording=wording)
    table.look()
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)
    work = (_watch(desk, loads), server.watch(), hub.watch(), _mirror(mirror), _sync(accounts))
    tasks = [asyncio.create_task(one) for one in work]
    process.settle_memory()
    process.announce(arguments.announce, process.address_of(sock))
    try:
        await told.wait()
    finally:
        process.withdraw(arguments.announce)
        gateway.draining = True
        listener.close()
        await server.drain(arguments.drain, hub.stop)
        await gateway.drain(0.5)
        await mirror.quiet(2.0)
        for task in tasks:
            task.cancel()
        accounts.close()
        records.flush()
        mirror.note()
        records.close()


async def _watch(desk: Desk, loads: Loads) -> None:
    """Look at the files every so often, and write what is due, for as long as it runs."""
    counted = 0.0
    while True:
        now = time.monotonic()
        try:
            desk.tokens.look()
            desk.table.look()
            desk.write_begun()
            desk.write_ended()
            loads.tick(now)
            if now - counted >= 1.0:
                counted = now
                desk.accounts.tick(time.time())
        except Exception:  # the last good files stay in force, and the next look may find better ones
            log.exception("the files were not looked at, or not written")
        await asyncio.sleep(_EVERY)


async def _sync(accounts: Accounts) -> None:
    """Once a second: what was counted outlives a power cut, too."""
    while True:
        await asyncio.sleep(1.0)
        try:
            await asyncio.to_thread(accounts.sync)
        except (OSError, LedgerError) as error:
            log.warning("the ledger was not brought to the disk: %s", error)


async def _mirror(mirror: Mirror) -> None:
    recovered = await mirror.recover()
    if recovered:
        log.info("%d mirror copies of earlier boots are sent now", recovered)
    await mirror.keep()


def main() -> int:
    """Run; returns the exit status."""
    arguments = _arguments()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {arguments.name} %(message)s")
    return process.run(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
