"""BentoML, as a server that is asked: an adapter of ours takes rows, since BentoML joins requests along a list's axis.

Null stays null.
"""

from __future__ import annotations

from mainspring.wire.dialects.base import list_of, post, predictions
from mainspring.wire.dialects.canonical import Rows, Served


class BentoMl:
    """`POST /predict` with a list of rows, each in the order of the model's inputs."""

    def line(self, served: Served) -> bytes:  # noqa: ARG002 - the dialect's shape
        """A service has one model."""
        return post("/predict")

    def body(self, served: Served, rows: Rows) -> bytes:  # noqa: ARG002 - the dialect's shape
        """All rows."""
        return b'{"rows":%b}' % rows.joined(list_of(rows))

    def scores(self, served: Served, body: bytes, count: int) -> list[float]:
        """One number a row; an object with `error` in place of one is the failure of this request alone."""
        return predictions(served, body, count)
