"""Something that goes on in a thread of its own while a test does what it does: a context that ends it and waits.

Who calls it: whatever watches, asks or kills meanwhile. What it must never do: outlive the test.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self


class Meanwhile:
    """`go_on` runs from the beginning of the context; it returns soon after `over` is set."""

    patience: float | None = None
    """Seconds that are waited for its end; None: as long as it takes."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self._thread = threading.Thread(target=self.go_on, daemon=True)

    def go_on(self) -> None:
        """What is done, until `over` is set."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()

    def leave(self) -> None:
        """End it, and wait until it has ended."""
        self.over.set()
        self._thread.join(self.patience)
