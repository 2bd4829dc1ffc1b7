"""A package index on loopback that breaks off, or hangs, in the middle of a wheel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal


@contextmanager
def serving(wheels: Path, how: Literal["whole", "cut", "hang"]) -> Iterator[tuple[str, threading.Event]]:
    """Serve a folder of wheels; gives the index's address, and what is set when a wheel is asked for."""
    asked, over = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        """Pages of PEP 503, and files."""

        def do_HEAD(self) -> None:
            """Answer without a body."""
            self.do_GET()

        def do_GET(self) -> None:
            """Answer a page or a file."""
            path = wheels / self.path.rpartition("/")[2]
            if self.path.endswith("/"):
                name = self.path.rstrip("/").rpartition("/")[2].replace("-", "_")
                links = "".join(f'<a href="/files/{p.name}">{p.name}</a>' for p in wheels.glob(f"{name}-*.whl"))
                self._send(200, "text/html", links.encode())
            elif path.is_file():
                self._send(200, "application/octet-stream", path.read_bytes(), cut=how != "whole")
            else:
                self._send(404, "text/plain", b"")

        def _send(self, code: int, kind: str, body: bytes, *, cut: bool = False) -> None:
            self.send_response(code)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.wfile.flush()
            if cut:
                asked.set()
                if how == "hang":
                    over.wait(60.0)
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/", asked
    finally:
        over.set()
        server.shutdown()
        server.server_close()
