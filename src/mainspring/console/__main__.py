"""The controller process: the loop in a thread, the control API around it.

    python -m mainspring.console --stack FILE [--clock 2013-03-01T00:00:00Z] [--apply DIGEST]

What this is: the process that `mainspring up` starts. Who calls it: `mainspring up`, the demo, a service manager
(also by `python -m mainspring.app`). What it must never do: take its children with it when it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import logging.handlers
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from mainspring.app import build
from mainspring.console.api import api
from mainspring.console.doors import ByToken, Door, Peered, Token, by_socket, tcp_door, unix_door
from mainspring.console.roles import Guard
from mainspring.controller import Controller
from mainspring.errors import InputError, MainspringError
from mainspring.gateway.tokens import Tokens
from mainspring.worlds.local import secrets
from mainspring.worlds.local.shim import write_whole

LOG = logging.getLogger("mainspring.console")
LOG_BYTES, LOG_FILES = 10 * 1024 * 1024, 3


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: there are two servers, and the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; gives the exit status."""
    options = _options(arguments)
    stack = Path(os.path.abspath(options.stack))
    try:
        controller = build(stack, clock_start=_moment(options.clock), apply_digest=options.apply)
    except MainspringError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        return error.exit_status
    _log_to(controller.state / "logs" / "controller.log")
    try:
        asyncio.run(_serve(controller))
    finally:
        controller.close()
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("mainspring.app", description="The controller of one stack, in the foreground.")
    parser.add_argument("--stack", required=True, help="the stack file")
    parser.add_argument("--clock", help="the event time at which a replay begins, as `2013-03-01T00:00:00Z`")
    parser.add_argument("--apply", default="", help="apply the stack file, if its SHA-256 is this one (hexadecimal)")
    return parser.parse_args(arguments)


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f"`{text}` is not a moment"
        error = InputError("bad-clock", message, "write it as `2013-03-01T00:00:00Z`")
        print(f"error: {error.message}\n\nhint: {error.hint}", file=sys.stderr)
        raise SystemExit(2) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _log_to(file: Path) -> None:
    """Log to a file that is rotated, and to a terminal if there is one. A full disk stops nobody."""
    logging.raiseExceptions = False
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handlers: list[logging.Handler] = []
    with contextlib.suppress(OSError):
        handlers.append(logging.handlers.RotatingFileHandler(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES))
    if sys.stderr.isatty():
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(form)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.getLogger("mainspring").setLevel(logging.INFO)


async def _serve(controller: Controller) -> None:
    """Open the doors, say where they are, run the loop, and end when it ends or when told."""
    state = controller.state
    unix, tcp = unix_door(state / "control.sock"), tcp_door(_last_port(state))
    port = int(tcp.getsockname()[1])
    made = api(controller)
    guard = Guard(made, made.routes)
    people = ByToken(Token(state / "control.token"), Tokens(secrets.keys(state), secrets.pepper(state)))
    servers = [_server(Door(guard, by_socket), Peered), _server(Door(guard, people, port))]
    serving = [asyncio.create_task(s.serve(sockets=[door])) for s, door in zip(servers, (unix, tcp), strict=True)]
    ended = asyncio.Event()
    here = asyncio.get_running_loop()

    def tell() -> None:
        here.call_soon_threadsafe(ended.set)

    controller.ended = tell
    for number in (signal.SIGTERM, signal.SIGINT):
        here.add_signal_handler(number, controller.stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    loop = threading.Thread(target=controller.run, name="loop")
    loop.start()
    while not all(s.started for s in servers) and not ended.is_set():
        await asyncio.sleep(0.005)
    _announce(controller, port)
    await ended.wait()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*serving, return_exceptions=True)
    await asyncio.to_thread(loop.join)
    for name in ("control.sock", "controller.json", "control.token"):
        with contextlib.suppress(OSError):
            (state / name).unlink()


def _announce(controller: Controller, port: int) -> None:
    state = controller.state
    told = {
        "boot": controller.boot,
        "pid": os.getpid(),
        "socket": str(state / "control.sock"),
        "tcp": f"127.0.0.1:{port}",
    }
    with contextlib.suppress(OSError):
        write_whole(str(state / "control.port"), f"{port}\n".encode(), durable=False)
        write_whole(str(state / "controller.json"), json.dumps(told, sort_keys=True).encode())
    LOG.info("the control API answers at %s and 127.0.0.1:%s", told["socket"], port)


def _last_port(state: Path) -> int:
    """The port of the last controller of this folder, so that people with keys need not ask anew; 0: none."""
    try:
        port = int((state / "control.port").read_bytes()[:16])
    except (OSError, ValueError):
        return 0
    return port if 1024 <= port <= 65535 else 0


def _server(app: Door, http: type[asyncio.Protocol] | str = "httptools") -> _Server:
    config = uvicorn.Config(
        app,
        http=http,
        proxy_headers=False,  # no header says who asks
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        limit_concurrency=128,
    )
    return _Server(config)


if __name__ == "__main__":
    sys.exit(main())
