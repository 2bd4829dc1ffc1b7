"""A dialect at work for one revision: a canonical request out, a canonical answer back.

Who calls it: the gateway, for each try; the keeper, for its warm-up. What it must never do: let an exception of a
foreign answer's shape escape as another than `Garbage`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from mainspring.wire.dialects import base, canonical
from mainspring.wire.dialects.base import EXPECTED, Dialect
from mainspring.wire.dialects.canonical import Failed, Garbage, NotAsked, Served
from mainspring.wire.dialects.openai import renamed


class Call(msgspec.Struct, gc=False):
    """A request in a server's own words."""

    line: bytes  # the request line, with its end; empty: as the request has it, and so its headers
    headers: bytes  # whole lines
    body: bytes
    id: str = ""
    rows: int = 0


class Speech(Protocol):
    """How requests to one revision are put, and its answers read."""

    def ask(self, body: bytes, id: str = "") -> Call:
        """Put a request; raises `NotAsked`."""

    def answer(self, call: Call, status: int, body: bytes) -> tuple[int, bytes]:
        """Read a whole answer; raises `Garbage`."""


class Renaming:
    """OpenAI's API, where only the model is called otherwise."""

    __slots__ = ("_model",)

    def __init__(self, model: str) -> None:
        self._model = model

    def ask(self, body: bytes, id: str = "") -> Call:  # noqa: ARG002 - as `Speech` has it
        """The request with the server's own name for the model; raises `NotAsked`."""
        try:
            return Call(b"", b"", renamed(body, self._model))
        except EXPECTED as error:
            raise NotAsked(f"the body is not JSON: {error}") from None

    def answer(self, call: Call, status: int, body: bytes) -> tuple[int, bytes]:  # noqa: ARG002 - as `Speech` has it
        """The answer as it came."""
        return status, body


class Spoken:
    """One revision's dialect."""

    __slots__ = ("_dialect", "_line", "protocol", "served")

    def __init__(self, protocol: str, dialect: Dialect | None, served: Served) -> None:
        self.protocol, self.served = protocol, served
        self._dialect = dialect
        self._line = dialect.line(served) if dialect is not None else b""

    def ask(self, body: bytes, id: str = "") -> Call:
        """Translate a canonical request, whose own id goes before `id`; raises `NotAsked`."""
        if self._dialect is None:
            raise NotAsked(f"nobody here speaks `{self.protocol}`, which the replica does", 502)
        rows = canonical.read(self.served, body)
        rows.id = rows.id or id
        return Call(self._line, base.JSON, self._dialect.body(self.served, rows), rows.id, rows.count)

    def answer(self, call: Call, status: int, body: bytes) -> tuple[int, bytes]:
        """The canonical answer to `call`, with its status; an error is `{"error": ...}`. Raises `Garbage`."""
        if status == 200 and self._dialect is not None:
            try:
                scores = self._dialect.scores(self.served, body, call.rows)
            except Failed as failed:
                return failed.status, canonical.encode({"error": failed.message})
            except RecursionError:
                raise Garbage("the replica's answer is nested too deeply") from None
            return 200, canonical.write(self.served, call.id, scores)
        if status < 400:
            raise Garbage(f"the replica answered with status {status}")
        status, message = base.error(status, body)
        return status, canonical.encode({"error": message})
