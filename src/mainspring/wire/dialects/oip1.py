"""The Open Inference Protocol's first version, as KServe and its kin have it, as a server that is asked.

Null stays null.
"""

from __future__ import annotations

from mainspring.wire.dialects.base import named, object_of, post, predictions
from mainspring.wire.dialects.canonical import Rows, Served


class Oip1:
    """The protocol's first version, as KServe and its kin have it: rows as objects, `instances` to `predictions`."""

    def line(self, served: Served) -> bytes:
        """The model by its name."""
        return post(f"/v1/models/{named(served.model)}:predict")

    def body(self, served: Served, rows: Rows) -> bytes:  # noqa: ARG002 - the dialect's shape
        """All rows, each by the names of its fields."""
        return b'{"instances":%b}' % rows.joined(object_of(rows))

    def scores(self, served: Served, body: bytes, count: int) -> list[float]:
        """One number a row."""
        return predictions(served, body, count)
