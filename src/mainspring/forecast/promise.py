"""What an endpoint promises its users.

What this is: a frozen value; pure. Who calls it: the resolver of the stack file, `forecast/queue.py`, `sizing/`.
What it must never do: know how it could be kept.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Promise:
    """Limits in seconds on percentiles of the whole request, on the first token and on each one after; None: none."""

    p95: float | None = None  # s, whole request
    p99: float | None = None  # s, whole request
    ttft: float | None = None  # s, 95th percentile of the time to first token
    tpot: float | None = None  # s, mean time per output token after the first
    availability: float | None = None  # share of time in which the capacity is there, 0.999

    @property
    def timed(self) -> dict[str, float]:
        """The limits on time that are set, by name."""
        pairs = (("p95", self.p95), ("p99", self.p99), ("ttft", self.ttft), ("tpot", self.tpot))
        return {name: limit for name, limit in pairs if limit is not None}
