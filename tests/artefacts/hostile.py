"""A server of files on loopback that behaves as it is told: well, or as the worst ones do."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    """One file, and how it is served."""

    content: bytes
    tag: str | None = "by content"  # ETag; None: there is none
    ranges: str = "true"  # "true" | "ignored" | "other start" | "other bytes"
    cut: int = 0  # bytes of content after which the connection is cut, each time
    busy: int = 0  # answers 503 so many times first
    pause: float = 0.0  # seconds before each byte of the content
    head: float = 0.0  # seconds before each byte of the head
    framing: str = "length"  # "length" | "chunks" | "end" (of the connection) | "too long"
    packed: bool = False
    to: str = ""  # redirects there
    status: int = 200
    gate: threading.Event | None = None  # the second half waits for it


@dataclass
class Hostile:
    """The server, and what it was asked."""

    url: str
    files: dict[str, File] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # path, Range, Authorization
    sent: int = 0  # bytes of content

    def put(self, path: str, file: File) -> str:
        """Serve a file; gives its URL."""
        self.files[path] = file
        return self.url + path


@contextlib.contextmanager
def hostile() -> Iterator[Hostile]:
    """Run one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """Answer, or misbehave."""
            with contextlib.suppress(OSError):
                _answer(self, served)
            self.close_connection = True

        do_HEAD = do_GET  # noqa: N815 (the name that the standard library asks for)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = Hostile(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, served: Hostile) -> None:
    path = handler.path.partition("?")[0]
    file = served.files.get(path)
    asked = handler.headers.get("Range", "")
    served.asked.append((path, asked, handler.headers.get("Authorization", "")))
    if path.endswith("/") and file is None:
        _list(handler, served, path)
        return
    if file is None and any(one.startswith(f"{path}/") for one in served.files):
        _head(handler, 301, {"Location": f"{path}/", "Content-Length": "0"})
        return
    if file is None or file.status != 200:
        _head(handler, file.status if file else 404, {"Content-Length": "0"})
        return
    if file.to:
        _head(handler, 302, {"Location": file.to, "Content-Length": "0"})
        return
    if file.busy:
        file.busy -= 1
        _head(handler, 503, {"Content-Length": "0"})
        return
    _send(handler, served, file, asked)


def _send(handler: BaseHTTPRequestHandler, served: Hostile, file: File, asked: str) -> None:
    tag = f'"{hashlib.sha256(file.content).hexdigest()[:16]}"' if file.tag == "by content" else file.tag
    content, status, headers = file.content, 200, {}
    match = re.fullmatch(r"bytes=(\d+)-", asked)
    same = handler.headers.get("If-Range", tag) == tag
    if match and same and file.ranges != "ignored":
        start = int(match[1])
        if start >= len(content):
            _head(handler, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        told = start - 3 if file.ranges == "other start" else start
        headers["Content-Range"] = f"bytes {told}-{len(content) - 1}/{len(content)}"
        status, content = 206, content[told:]
        if file.ranges == "other bytes":
            content = bytes(255 - one for one in content)
    if tag is not None:
        headers["ETag"] = tag
    if file.packed:
        headers["Content-Encoding"] = "gzip"
    if file.framing == "chunks":
        headers["Transfer-Encoding"] = "chunked"
    elif file.framing != "end":
        headers["Content-Length"] = str(len(content) + (100 if file.framing == "too long" else 0))
    _head(handler, status, headers, file.head)
    if handler.command != "HEAD":
        _body(handler, served, file, content)


def _body(handler: BaseHTTPRequestHandler, served: Hostile, file: File, content: bytes) -> None:
    left = content[: file.cut] if file.cut else content
    if file.pause:
        for one in left:
            time.sleep(file.pause)
            handler.wfile.write(bytes([one]))
        return
    if file.gate is not None:
        half = len(left) // 2
        handler.wfile.write(left[:half])
        handler.wfile.flush()
        file.gate.wait(30)
        left = left[half:]
    if file.framing == "chunks":
        handler.wfile.write(f"{len(left):x}\r\n".encode() + left + b"\r\n" + (b"" if file.cut else b"0\r\n\r\n"))
    else:
        handler.wfile.write(left)
    served.sent += len(left)


def _head(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], pause: float = 0.0) -> None:
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "Connection: close"]
    raw = ("\r\n".join(lines) + "\r\n\r\n").encode()
    if not pause:
        handler.wfile.write(raw)
        return
    for one in raw:
        time.sleep(pause)
        handler.wfile.write(bytes([one]))


def _list(handler: BaseHTTPRequestHandler, served: Hostile, path: str) -> None:
    """A page of links, as web servers list a folder."""
    inside = sorted({p[len(path) :].partition("/")[0] + "/" * ("/" in p[len(path) :]) for p in served.files
                     if p.startswith(path)})  # fmt: skip
    if not inside:
        _head(handler, 404, {"Content-Length": "0"})
        return
    page = "".join(f'<a href="{name}">{name}</a>\n' for name in inside).encode()
    _head(handler, 200, {"Content-Type": "text/html", "Content-Length": str(len(page))})
    if handler.command != "HEAD":
        handler.wfile.write(page)
