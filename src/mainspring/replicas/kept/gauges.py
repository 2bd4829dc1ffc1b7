"""A server's own metrics, read by the names that its descriptor has for them.

What this is: Prometheus' text format to a few numbers; pure. Who calls it: the keeper. What it must never do: take a
number that is not there for zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from mainspring.runtimes.descriptor import Metrics

_NOT_NAMES = ("port", "path", "only")


@dataclass(frozen=True, slots=True)
class Gauges:
    """What a server says of itself; None where it does not say it."""

    waiting: float | None = None
    running: float | None = None
    requests: float | None = None
    failed: float | None = None
    cache: float | None = None
    batches: float | None = None

    @property
    def inside(self) -> float | None:
        """Requests that it has, waiting or worked on."""
        said = [one for one in (self.waiting, self.running) if one is not None]
        return math.fsum(said) if said else None


def read(text: str, metrics: Metrics) -> Gauges:
    r"""The numbers in `text`, each summed over its lines.

    >>> read('a_total{model="x"} 2\na_total{model="y"} 3\n', Metrics(requests="a_total", only='model="x"')).requests
    2.0
    """
    wanted = {getattr(metrics, one.name): one.name for one in fields(metrics) if one.name not in _NOT_NAMES}
    wanted.pop("", None)
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, labels, value = _parts(line)
        key = wanted.get(name)
        if key is not None and math.isfinite(value) and (not labels or not metrics.only or metrics.only in labels):
            sums[key] = sums.get(key, 0.0) + value
    return Gauges(**sums)


def _parts(line: str) -> tuple[str, str, float]:
    """Name, labels and value of a line; the value is NaN where the line makes no sense."""
    name, brace, rest = line.partition("{")
    if brace:
        labels, _, tail = rest.rpartition("}")
    else:
        name, _, tail = line.partition(" ")
        labels = ""
    words = tail.split()
    try:
        return name.strip(), labels, float(words[0])
    except (IndexError, ValueError):
        return name.strip(), labels, math.nan
