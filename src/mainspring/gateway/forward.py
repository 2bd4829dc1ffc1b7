"""Getting one request answered by a replica: hold while none is ready, try again once when one dies.

Who calls it: the gateway's server (live requests) and the mirror (copies).
What it must never do: send a request to a third replica after it was with two that died: the request
may be what kills them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mainspring.gateway.table import Endpoint, Revision, Table
from mainspring.gateway.upstream import Died, Late, Refused
from mainspring.wire.http1 import error_body

LINE = b"POST /v2/models/-/infer HTTP/1.1\r\n"
_POLL = 0.02  # seconds between looks at a replica that refuses

Choose = Callable[[Endpoint], "Revision | None"]


@dataclass(slots=True)
class Outcome:
    """What came of a request."""

    status: int
    body: bytes
    revision: str = ""
    version: str = ""
    header: bytes = b""  # the revision's name, for a header
    tries: int = 1
    upstream: float = 0.0  # seconds of the last try
    compute: float = 0.0  # seconds that the replica charges
    error: str = ""
    is_answer: bool = False  # a replica's own answer, whatever its status


async def forward(
    table: Table, endpoint: str, choose: Choose, headers: bytes, body: bytes, timeout: float,
    *, tries: int = 2, hold_unknown: bool = True,
) -> Outcome:  # fmt: skip
    """Send a request to a replica of the revision that `choose` names, within `timeout` seconds.

    Returns the replica's answer, or an error of ours: 404 (the endpoint or revision is gone), 502
    (`tries` replicas died of it), 503 (no replica in time), 504 (no answer in time). While `choose`
    names none, the request waits; without `hold_unknown` that is a 404.
    """
    until = time.monotonic() + timeout
    revision: Revision | None = None
    done = 0
    while True:
        left = until - time.monotonic()
        known = table.endpoints.get(endpoint)
        revision = choose(known) if known is not None else None
        if known is None or (revision is None and not hold_unknown):
            return _failed(404, f"what should answer for `{endpoint}` is not there any more", revision, done)
        upstream = revision.replica() if revision is not None else None
        if upstream is None or revision is None:
            if left <= 0:
                return _failed(503, _why(endpoint, revision, timeout), revision, done)
            polled = revision is not None and not revision.is_empty
            await table.changed.wait(min(left, _POLL) if polled else left)
            continue
        started = time.perf_counter()
        try:
            answer, took = await upstream.send(LINE, headers, body, max(left, 0.001), fresh=done > 0)
        except Refused:
            if left <= 0:
                return _failed(503, _why(endpoint, revision, timeout), revision, done)
        except Late:
            message = f"the replica of `{revision.name}` did not answer within {timeout:g} s"
            return _failed(504, message, revision, done + 1, time.perf_counter() - started)
        except Died as error:
            done += 1
            if done >= tries:
                message = f"{done} replicas of `{revision.name}` ended while they had this request: {error}"
                return _failed(502, message, revision, done, time.perf_counter() - started)
        else:
            failure = "" if answer.status < 500 else answer.body[:500].decode(errors="replace")
            return Outcome(
                answer.status, answer.body, revision.name, revision.version, revision.header, done + 1, took,
                answer.compute, failure, is_answer=True,
            )  # fmt: skip


def _why(endpoint: str, revision: Revision | None, timeout: float) -> str:
    if revision is None:
        return f"no version of `{endpoint}` takes traffic; waited {timeout:g} s"
    if revision.is_empty:
        return f"no replica of `{revision.name}` is ready; waited {timeout:g} s"
    return f"the replicas of `{revision.name}` refuse connections; waited {timeout:g} s"


def _failed(status: int, message: str, revision: Revision | None, done: int, upstream: float = 0.0) -> Outcome:
    outcome = Outcome(status, error_body(message), tries=max(done, 1), upstream=upstream, error=message)
    if revision is not None:
        outcome.revision, outcome.version, outcome.header = revision.name, revision.version, revision.header
    return outcome
