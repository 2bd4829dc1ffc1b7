"""The forwarder: one request in, the same to the server elsewhere with the user's key, its answer back.

Who calls it: `__main__`. What it must never do: serve anybody but the gateway (the key costs money), pass the gateway's
own token on, log a key, or go on for a client that has left.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from http import HTTPStatus

import msgspec

from mainspring.replicas.external.errors import worded
from mainspring.replicas.external.limits import Limits
from mainspring.replicas.external.target import Target
from mainspring.replicas.external.upstream import Answer, Failed, Upstream
from mainspring.wire.http1 import TEXT, Request

log = logging.getLogger(__name__)

_ON = (b"accept", b"traceparent", b"tracestate", b"x-request-id")
"""Headers of a request that are passed on; each other one ends here."""
_BACK = (b"retry-after", b"x-request-id")
_KNOWN = frozenset(status.value for status in HTTPStatus)


class Forwarder:
    """Answers the gateway's requests with what the server elsewhere answers.

    `token` is what the gateway shows, "" for no question; `key` is what the server is shown, "" for none.
    """

    def __init__(self, target: Target, upstream: Upstream, limits: Limits, token: str, key: str) -> None:
        self._target, self._upstream, self._limits = target, upstream, limits
        self._token = f"Bearer {token}".encode() if token else b""
        self._key = b"authorization: Bearer %b\r\n" % key.encode() if key else b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._counts = dict.fromkeys((200, 429, 502, 503, 504), 0)

    def handle(self, request: Request) -> None:
        """Answer a request, now or when the server has answered."""
        if self._token and not hmac.compare_digest(request.headers.get(b"authorization", b""), self._token):
            self._fail(request, 401, "only the gateway is served here", b"www-authenticate: Bearer\r\n")
            return
        method = request.method.decode("latin-1")
        if method == "GET" and request.path == b"/metrics":
            request.reply(200, self._metrics(), kind=TEXT)
            return
        path = self._target.path(method, request.path.decode("latin-1"))
        if path is None:
            self._fail(
                request, 404, f"there is nothing at this path for `{method}` in the protocol `{self._target.protocol}`"
            )
            return
        body = self._named(request.body) if method == "POST" and self._target.protocol == "openai" else request.body
        if body is None:
            self._fail(request, 400, "the body is not a JSON object")
            return
        wait = self._limits.enter(time.monotonic())
        if wait:
            self._count(429)
            self._fail(request, 429, "the limits of this server are reached", b"retry-after: %d\r\n" % wait)
            return
        self._begin(request, method, path, body)

    def _begin(self, request: Request, method: str, path: str, body: bytes) -> None:
        task = asyncio.ensure_future(self._forward(request, method, path, body))
        self._tasks.add(task)
        request.on_gone = task.cancel

        def over(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            self._limits.leave()
            if not ended.cancelled() and ended.exception() is not None:
                log.error("a request was not forwarded", exc_info=ended.exception())
                request.abort()

        task.add_done_callback(over)

    def _fail(self, request: Request, status: int, message: str, headers: bytes = b"") -> None:
        request.reply(status, self.wording(b"", status, message), headers)

    def wording(self, _: bytes, status: int, message: str) -> bytes:
        """The body of an error, whatever its path."""
        return worded(self._target.protocol, status, message)

    def give_up(self) -> None:
        """End all requests that are on their way: their clients see that the answer is not whole."""
        for task in list(self._tasks):
            task.cancel()

    def _named(self, body: bytes) -> bytes | None:
        """The body with the server's own name of the model: no client chooses another one for this key."""
        try:
            fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        fields["model"] = msgspec.Raw(msgspec.json.encode(self._target.model))
        return msgspec.json.encode(fields)

    def _headers(self, request: Request) -> bytes:
        lines = [b"%b: %b\r\n" % (name, request.headers[name]) for name in _ON if name in request.headers]
        if request.method == b"POST":
            lines.append(b"content-type: application/json\r\n")
        return b"".join(lines) + self._key

    async def _forward(self, request: Request, method: str, path: str, body: bytes) -> None:
        answer: Answer | None = None
        try:
            answer = await self._upstream.ask(method, path, self._headers(request), body)
            self._refuse(answer)
            kind = answer.headers.get(b"content-type", b"application/json")
            headers = b"".join(b"%b: %b\r\n" % (name, answer.headers[name]) for name in _BACK if name in answer.headers)
            if kind[:17].lower() == b"text/event-stream":
                await _streamed(request, answer, headers, kind)
            else:
                request.reply(answer.status, await answer.whole(), headers, kind)
            self._count(answer.status)
        except Failed as failure:
            self._failed(request, answer, failure)
        except asyncio.CancelledError:  # the client has left, or the process ends
            if answer is not None:
                answer.abort()
            raise

    def _failed(self, request: Request, answer: Answer | None, failure: Failed) -> None:
        if answer is not None:
            answer.abort()
        self._count(failure.status)
        log.warning("a request was not answered: %s", failure)
        if request.answered:
            request.abort()
        else:
            wait = b"retry-after: 1\r\n" if failure.status == 503 else b""
            self._fail(request, failure.status, failure.told, wait)

    def _refuse(self, answer: Answer) -> None:
        """Raise `Failed` for what is no answer for a client."""
        status = answer.status
        if 300 <= status < 400:
            raise Failed(
                f"the server answers with a redirect ({status}), which is not followed: give its final `--url`"
            )
        if status in (401, 403):
            raise Failed(f"the server refuses its key ({status}): see the variable that `--key` names")
        if status not in _KNOWN:
            raise Failed(f"the server answers with the status {status}")
        if answer.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Failed("the server compresses its answer, and was asked not to")

    def _count(self, status: int) -> None:
        self._counts[status] = self._counts.get(status, 0) + 1

    def _metrics(self) -> bytes:
        lines = [f'mainspring_replica_requests_total{{status="{k}"}} {v}' for k, v in sorted(self._counts.items())]
        lines.append(f"mainspring_replica_running {self._limits.running}")
        return "".join(f"{line}\n" for line in lines).encode()


async def _streamed(request: Request, answer: Answer, headers: bytes, kind: bytes) -> None:
    """Pass each piece on at once, and read no more while the reader is slow. Raises `Failed`."""
    flows = asyncio.Event()
    flows.set()

    def on_slow(slow: bool) -> None:
        if slow:
            flows.clear()
        else:
            flows.set()

    request.on_slow = on_slow
    request.begin(answer.status, headers, kind)
    async for piece in answer.pieces():
        request.send(piece)
        await flows.wait()
    request.end()
