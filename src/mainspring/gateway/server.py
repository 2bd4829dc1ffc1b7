"""The data plane: one door for all endpoints, by name.

    /v1/...                                OpenAI's API (`openai`)
    /v1/models/{endpoint}[...]:predict     TensorFlow Serving's REST API (`tfserving`)
    /predictions/{endpoint}[/{version}]    TorchServe's inference API (`torchserve`), with its GET /ping
    /v2/models/{endpoint}...               the Open Inference Protocol v2 (`oip`)
    GET  /v2, /v2/health/live, /v2/health/ready
    GET  /openapi.json                     all of it, described
    GET  /metrics                          Prometheus text
    GET  /internal/quiesce?timeout=5       waits until copies owed by now are logged: {"quiet": true}

Who calls it: users' HTTP clients. What it must never do: decode a tensor or a message, touch a database, or answer
before the record of the answer is written (as far as the disk allows).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

import msgspec

from mainspring.gateway import errors, openapi
from mainspring.gateway.desk import Desk
from mainspring.gateway.oip import OipDoor
from mainspring.gateway.openai import OpenAiDoor
from mainspring.gateway.tfserving import TfServingDoor
from mainspring.gateway.torchserve import TorchServeDoor
from mainspring.wire.dialects import torchserve_client
from mainspring.wire.http1 import TEXT, Request, error_body

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Gateway:
    """Answers for all endpoints of the table."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tasks: set[asyncio.Task[None]] = set()
        self._openai, self._oip = OpenAiDoor(desk), OipDoor(desk)
        self._tfserving, self._torchserve = TfServingDoor(desk), TorchServeDoor(desk)
        self.draining = False
        self._get: dict[bytes, Callable[[Request], object]] = {
            b"/v2": lambda r: r.reply(200, b'{"name":"mainspring","version":"1","extensions":["binary_tensor_data"]}'),
            b"/v2/health/live": lambda r: r.reply(200, b'{"live":true}'),
            b"/v2/health/ready": self._ready,
            b"/ping": self._ping,
            b"/metrics": self._metrics_page,
            b"/openapi.json": lambda r: r.reply(200, openapi.document()),
            b"/internal/quiesce": self._quiesce_begin,
        }

    # --- which request this is

    def handle(self, request: Request) -> None:
        """Answer a request, now or later."""
        try:
            path = request.path
            if path.startswith(b"/v1/"):
                if not (path.startswith(b"/v1/models/") and self._tfserving.handle(request)):
                    self._openai.handle(request)
            elif path.startswith(b"/v2/models/"):
                self._oip.handle(request, path[11:].split(b"/"))
            elif path.startswith(b"/predictions/"):
                self._torchserve.handle(request, path[13:].split(b"/"))
            elif path not in self._get:
                message = "there is nothing at this path; try `/v1/chat/completions` or `/v2/models/ENDPOINT/infer`"
                self._desk.reject(request, 404, "path", message)
            elif request.method not in (b"GET", b"HEAD"):
                self._desk.reject(request, 405, "method", "only `GET` is answered here", b"allow: GET, HEAD\r\n")
            else:
                self._get[path](request)
        except Exception:  # a fault of ours costs one request, not the gateway
            log.exception("a request failed inside the gateway")
            request.reply(500, wording(request.path, 500, "the gateway failed; its log says why"))

    # --- the rest

    def _ready(self, request: Request) -> None:
        ready = self._desk.table.epoch is not None and not self.draining
        request.reply(200 if ready else 503, _encode({"ready": ready}))

    def _ping(self, request: Request) -> None:
        ready = self._desk.table.epoch is not None and not self.draining
        request.reply(200 if ready else 503, _encode({"status": "Healthy" if ready else "Unhealthy"}))

    def _metrics_page(self, request: Request) -> None:
        desk = self._desk
        extra = {
            "log_lost_total": desk.log.lost,
            "log_written_total": desk.log.written,
            "mirror_owed": desk.mirror.owed,
            "copies_left_out_total": desk.copies.left_out,
            "limits_uncounted_total": desk.accounts.uncounted,
            "routes_epoch": -1 if desk.table.epoch is None else desk.table.epoch,
        }
        inside = {name: traffic.inside for name, traffic in desk.table.traffic.items()}
        # Tenants ask at this door too, and none is to see another's name: that takes a key with a role.
        key = desk.tokens.of(request.headers.get(b"authorization"))
        text = desk.metrics.text(inside, extra, self._replica_lines(), tenants=key is not None and bool(key.role))
        request.reply(200, text, kind=TEXT)

    def _replica_lines(self) -> Iterator[str]:
        """What the gateway believes of replicas, and of what they have cached."""
        for name, endpoint in self._desk.table.endpoints.items():
            for revision in endpoint.revisions.values():
                labels = f'endpoint="{name}",revision="{revision.name}"'
                for upstream in revision.upstreams:
                    one = f'{labels},replica="{upstream.name or upstream.address}"'
                    yield f"mainspring_breaker_open{{{one}}} {int(upstream.health.is_open)}"
                    yield f"mainspring_ejected{{{one}}} {int(upstream.health.ejected_at >= 0)}"
                    yield f"mainspring_outstanding{{{one}}} {upstream.outstanding}"
                    yield f"mainspring_work_blocks{{{one}}} {upstream.work}"
                had, all_ = self._desk.table.beliefs.blocks[revision.name]
                if all_:
                    yield f"mainspring_prefix_predicted_blocks_total{{{labels}}} {had}"
                    yield f"mainspring_prefix_blocks_total{{{labels}}} {all_}"

    def _quiesce_begin(self, request: Request) -> None:
        seconds = 5.0
        for pair in request.query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if name == b"timeout":
                try:
                    seconds = min(max(float(value), 0.0), 600.0)
                except ValueError:
                    request.fail(400, "`timeout` is a number of seconds")
                    return
        task = asyncio.ensure_future(self._quiesce(request, seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quiesce(self, request: Request, seconds: float) -> None:
        until = time.monotonic() + seconds
        quiet = await self._desk.mirror.quiet(seconds)
        quiet = await self._desk.copies.quiet(max(until - time.monotonic(), 0.0)) and quiet
        request.reply(200, _encode({"quiet": quiet, "owed": self._desk.mirror.owed}))

    async def drain(self, seconds: float) -> None:
        """Let what has begun end, for at most `seconds`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)


def wording(path: bytes, status: int, message: str) -> bytes:
    """The body of an error, in the words of the API that its path belongs to."""
    if path.startswith(b"/predictions/"):
        return torchserve_client.error(status, message)
    return errors.body(status, message) if path.startswith(b"/v1") and b":" not in path else error_body(message)
