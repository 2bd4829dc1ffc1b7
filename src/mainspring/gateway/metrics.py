"""The gateway's own counts, as plain numbers, written out when asked.

Who calls it: the gateway's server. What it must never do: take a label from a request: names come from
the route table only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

EDGES: tuple[float, ...] = tuple(round(0.0005 * 2 ** (i / 2), 9) for i in range(32))
"""Upper edges of the latency buckets, seconds."""


class Counts:
    """Counts of one revision in one role."""

    __slots__ = ("buckets", "compute", "errors", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0  # no answer, or a status of 500 or more
        self.compute = 0.0
        self.seconds = 0.0
        self.buckets = [0] * (len(EDGES) + 1)

    def add(self, status: int, seconds: float, compute: float) -> None:
        """Count one answer."""
        self.requests += 1
        self.errors += status == 0 or status >= 500
        self.compute += compute
        self.seconds += seconds
        self.buckets[bisect_left(EDGES, seconds)] += 1


class Metrics:
    """All counts of this worker since its start."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], Counts] = {}
        self.inflight: dict[str, int] = {}
        self.rejected: dict[str, int] = {}  # refused before a revision was chosen, by reason
        self.feedback = 0
        self.gone = 0

    def of(self, endpoint: str, revision: str, role: str) -> Counts:
        """The counts of a revision; the names are of the route table."""
        key = (endpoint, revision, role)
        found = self.counts.get(key)
        if found is None:
            found = self.counts[key] = Counts()
        return found

    def reject(self, reason: str) -> None:
        """Count a request that got no further."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def text(self, extra: Mapping[str, float]) -> bytes:
        """All of it in Prometheus' text format; `extra` are single figures by name."""
        lines: list[str] = []
        for (endpoint, revision, role), counts in self.counts.items():
            labels = f'endpoint="{endpoint}",revision="{revision}",role="{role}"'
            lines.append(f"mainspring_requests_total{{{labels}}} {counts.requests}")
            lines.append(f"mainspring_errors_total{{{labels}}} {counts.errors}")
            lines.append(f"mainspring_compute_seconds_total{{{labels}}} {counts.compute:.6f}")
            below = 0
            for edge, count in zip((*EDGES, "+Inf"), counts.buckets, strict=True):
                below += count
                lines.append(f'mainspring_request_seconds_bucket{{{labels},le="{edge}"}} {below}')
            lines.append(f"mainspring_request_seconds_sum{{{labels}}} {counts.seconds:.6f}")
            lines.append(f"mainspring_request_seconds_count{{{labels}}} {counts.requests}")
        lines += [f'mainspring_inflight{{endpoint="{e}"}} {n}' for e, n in self.inflight.items()]
        lines += [f'mainspring_rejected_total{{reason="{r}"}} {n}' for r, n in self.rejected.items()]
        lines.append(f"mainspring_feedback_total {self.feedback}")
        lines.append(f"mainspring_clients_gone_total {self.gone}")
        lines += [f"mainspring_{name} {value:g}" for name, value in extra.items()]
        return "".join(f"{line}\n" for line in lines).encode()
