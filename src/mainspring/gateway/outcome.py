"""What came of a request: an answer of a replica's, or why there is none.

Who calls it: exchanges make it; doors and the mirror read it. What it must never do: hold more than one request's.
"""

from __future__ import annotations


class Outcome:
    """What came of a request."""

    __slots__ = (
        "body", "code", "compute", "error", "header", "is_answer", "revision", "status", "tries", "upstream",
        "version", "wait",
    )  # fmt: skip

    def __init__(self, status: int, body: bytes, tries: int = 1, error: str = "") -> None:
        self.status = status
        self.body = body
        self.revision = self.version = ""
        self.header = b""  # the revision's name, for a header
        self.tries = tries
        self.upstream = 0.0  # seconds of the last try
        self.compute = 0.0  # seconds that the replica charges
        self.error = error
        self.code = ""  # of the error, where its status does not say it
        self.is_answer = False  # a replica's own answer, whatever its status
        self.wait = b""  # the replica's `Retry-After`
