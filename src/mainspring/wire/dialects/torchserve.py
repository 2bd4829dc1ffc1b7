"""TorchServe, as a server that is asked: it has no protocol of its own, so a thin adapter of ours takes columns.

Null stays null.
"""

from __future__ import annotations

from mainspring.wire.dialects.base import named, post, predictions
from mainspring.wire.dialects.canonical import Rows, Served, encode


class TorchServe:
    """`POST /predictions/MODEL` with an object of columns."""

    def line(self, served: Served) -> bytes:
        """The model by its name."""
        return post(f"/predictions/{named(served.model)}")

    def body(self, served: Served, rows: Rows) -> bytes:  # noqa: ARG002 - the dialect's shape
        """All columns, by name."""
        columns = b",".join(b"%b:%b" % (encode(one.name), one.raw) for one in rows.columns)
        return b'{"inputs":{%b}}' % columns

    def scores(self, served: Served, body: bytes, count: int) -> list[float]:
        """One number a row."""
        return predictions(served, body, count)
