"""A file on the web, read by Python's own HTTP client: ranges, redirects, and servers that play for time.

What this is: one GET as a `Stream`. fsspec's HTTP files can't say "only if it is the same content still", which makes
the difference between going on and patching two files together. Who calls it: `download.py`.
What it must never do: send a token to another host than the one that was named, leave HTTPS for HTTP, or wait longer
than `Limits` says.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from mainspring import __version__
from mainspring.artefacts.sources.limits import Broken, Limits, Lying, Stream
from mainspring.errors import EnvironmentError_, InputError

TOKEN = "MAINSPRING_MODELS_TOKEN"  # noqa: S105 (the variable's name)
"""The variable with a bearer token for sources on the web."""

_PIECE = 1 << 18
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class WebFile:
    """A file at a URL."""

    def __init__(self, url: str, shown: str, limits: Limits) -> None:
        self.url, self.shown, self._limits = url, shown, limits

    @contextlib.contextmanager
    def open(self, start: int, tag: str) -> Iterator[Stream]:
        """Ask for the content from `start` on; see `Remote.open`."""
        request = self._request("GET")
        if start:
            request.add_header("Range", f"bytes={start}-")
            if tag:
                request.add_header("If-Range", tag)
        response = self._answer(request)
        with contextlib.closing(response):
            yield self._stream(response, start, tag)

    def tag(self) -> str:
        """What the server calls its content now; "" when it has no name for it. Raises as `open` does."""
        with contextlib.closing(self._answer(self._request("HEAD"))) as response:
            return _strong(response.headers)

    def _request(self, method: str) -> urllib.request.Request:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"mainspring/{__version__}"}
        request = urllib.request.Request(self.url, headers=headers, method=method)  # noqa: S310 (HTTP: `read_source`)
        token = os.environ.get(TOKEN, "")
        if token and _private(self.url):
            request.add_unredirected_header("Authorization", f"Bearer {token}")
        return request

    def _answer(self, request: urllib.request.Request) -> Any:
        watch = _Watch(self._limits.answer)
        try:
            with watch:
                response = _opener(watch, self._limits).open(request, timeout=self._limits.silent)
            if watch.cut:  # what came by then may look like a whole head
                response.close()
                raise TimeoutError
            return response
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                raise self._refused(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if watch.cut:
                message = f"`{self.shown}` did not answer within {self._limits.answer:g} s"
                raise Broken(message) from None
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                message = f"`{self.shown}`: its certificate is not good: {cause.verify_message}"
                raise EnvironmentError_(
                    "source-untrusted", message, "SSL_CERT_FILE names your own authorities"
                ) from None
            raise Broken(f"`{self.shown}` cannot be read: {_line(cause)}") from None

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """What an answer that is none means."""
        if error.code == 416:  # nothing from there on: what is here is of something longer
            return Lying(f"`{self.shown}` has nothing more to send")
        if error.code in _LATER:
            return Broken(f"`{self.shown}` answers {error.code}")
        if error.code in {301, 302, 303, 307, 308}:
            message = f"`{self.shown}` sends us round in circles, or away from HTTPS ({error.code})"
            return EnvironmentError_("source-redirects", message)
        if error.code in {401, 403}:
            return EnvironmentError_("source-closed", f"`{self.shown}` answers {error.code}", f"set {TOKEN}")
        return InputError("source-missing", f"`{self.shown}` answers {error.code}", "look at the address")

    def _stream(self, response: Any, start: int, tag: str) -> Stream:
        headers = response.headers
        if (headers.get("Content-Encoding") or "identity").lower() != "identity":
            message = f"`{self.shown}` is sent packed as `{headers['Content-Encoding'][:20]}`, though nobody asked"
            raise EnvironmentError_("source-odd", message)
        now = _strong(headers)
        length = response.length  # None when it is sent in chunks, or until the connection ends
        pieces = self._pieces(response)
        if response.status != 206:
            if response.status != 200:
                raise InputError("source-odd", f"`{self.shown}` answers {response.status}")
            return Stream(0, length, now, length is not None or bool(response.chunked), pieces)
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        whole = None if match is None or match[3] == "*" else int(match[3])
        sound = match is not None and int(match[1]) == start > 0 and whole is not None and int(match[2]) + 1 == whole
        if not sound or (length is not None and whole is not None and start + length != whole) or (tag and now != tag):
            raise Lying(f"`{self.shown}` was asked for bytes from {start:,} on, and sends others")
        return Stream(start, whole, now, framed=True, pieces=pieces)

    def _pieces(self, response: Any) -> Iterator[bytes]:
        """The content; raises `Broken` when it is cut, stalls, or trickles."""
        since, came = time.monotonic(), 0
        while True:
            try:
                piece = response.read1(_PIECE)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Broken(f"`{self.shown}` broke off: {_line(error)}") from None
            if not piece:
                return
            came += len(piece)
            passed = time.monotonic() - since
            if passed > self._limits.over:
                if came < self._limits.least * passed:
                    raise Broken(f"`{self.shown}` sends {came / passed:,.0f} bytes/s, which would take for ever")
                since, came = time.monotonic(), 0
            yield piece


def _strong(headers: Any) -> str:
    """An answer's ETag; "" for none, and for a weak one, which names no bytes."""
    etag = headers.get("ETag", "") or ""
    return etag if re.fullmatch(r'"[\x21\x23-\x7e]{1,300}"', etag) else ""


def _line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _private(url: str) -> bool:
    """Whether nobody else sees what is sent there."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in {"127.0.0.1", "localhost", "::1"}


class _Watch:
    """Ends a connection whose answer takes too long, however busily it trickles in."""

    def __init__(self, seconds: float) -> None:
        self.cut = False
        self.connection: http.client.HTTPConnection | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self.cut = True
        sock = self.connection.sock if self.connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _opener(watch: _Watch, limits: Limits) -> urllib.request.OpenerDirector:
    """An opener of HTTP and HTTPS alone, by the environment's proxies."""

    def watched(kind: type[http.client.HTTPConnection]) -> Any:
        def make(host: str, **given: Any) -> http.client.HTTPConnection:
            watch.connection = kind(host, **given)
            return watch.connection

        return make

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(watched(http.client.HTTPConnection), req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            secure = ssl.create_default_context()
            return self.do_open(watched(http.client.HTTPSConnection), req, context=secure)

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections, max_repeats = limits.redirects, 2

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            parts = urlsplit(newurl)
            downgraded = req.type == "https" and parts.scheme != "https"
            if watch.cut or downgraded or parts.scheme not in {"http", "https"} or parts.username is not None:
                raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), Http(), Https(), Redirects(), urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener
