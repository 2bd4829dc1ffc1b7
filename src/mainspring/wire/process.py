"""What every serving process does: take a port, say where it is, stop when told.

Who calls it: `python -m mainspring.gateway` and the replicas. What it must never do: decide anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from mainspring.errors import EnvironmentError_, MainspringError


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all, by rename in the same folder. Raises `OSError`."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as out:
            out.write(content)
            out.flush()
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def announce(path: Path, address: str) -> None:
    """Say that this process is ready, and where."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"address": address, "pid": os.getpid()}).encode())
    except OSError as error:
        raise EnvironmentError_("announce", f"`{path}` cannot be written: {error.strerror}") from error


def withdraw(path: Path) -> None:
    """Take the announcement back, if it is this process's own."""
    with contextlib.suppress(OSError, ValueError):
        if json.loads(path.read_bytes()).get("pid") == os.getpid():
            path.unlink()


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `shared` lets several workers take the same port.

    Raises `EnvironmentError_` when the port is in use, not allowed, or the host is not this machine's.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        sock.bind((host, port))
        sock.listen(1024)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise EnvironmentError_(
                "port-in-use",
                f"port `{port}` is in use by another program",
                "set another `orchestration.gateway.port` (`0` takes a free one), or stop that program",
            ) from error
        raise EnvironmentError_("port", f"`{host}:{port}` cannot be taken: {error.strerror}") from error
    return sock


def address_of(sock: socket.socket) -> str:
    """`host:port` of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def until_told() -> asyncio.Event:
    """An event that is set on SIGTERM and SIGINT."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


def told_pipe() -> int:
    """From now on SIGTERM and SIGINT end nothing: a byte comes out of the descriptor that is returned.

    No event of `threading`: threads of an engine may be the ones that get the signal, and a handler that comes while
    the main thread holds the event's lock would wait for itself.
    """
    out, into = os.pipe()
    os.set_blocking(into, False)
    signal.set_wakeup_fd(into)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return out


def settle_memory() -> None:
    """After start: what is there stays, so the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def allow_files() -> None:
    """As many open files as the machine lets this user have."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(main: Coroutine[Any, Any, None]) -> int:
    """Run a serving process to its end; returns its exit status. Errors become lines on stderr."""
    allow_files()
    try:
        try:
            import uvloop
        except ImportError:
            asyncio.run(main)
        else:
            uvloop.run(main)
    except MainspringError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    return 0
