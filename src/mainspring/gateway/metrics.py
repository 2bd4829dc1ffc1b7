"""The gateway's own counts, as plain numbers, written out when asked.

Who calls it: the gateway's doors and exchanges. What it must never do: take a label from a request: names come from
the route table only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from mainspring.facts.records import FIRST_EDGES

EDGES: tuple[float, ...] = tuple(round(0.0005 * 2 ** (i / 2), 9) for i in range(32))
"""Upper edges of the latency buckets, seconds."""

GAP_EDGES: tuple[float, ...] = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""Seconds between pieces: the edges of vLLM's `vllm:inter_token_latency_seconds`."""

ENDS = ("done", "gone", "cut", "late")


class Histogram:
    """Counts by bucket."""

    __slots__ = ("buckets", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.buckets = [0] * (len(edges) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.sum += seconds
        self.buckets[bisect_left(self.edges, seconds)] += 1

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """In Prometheus' text format."""
        below = 0
        for edge, count in zip((*self.edges, "+Inf"), self.buckets, strict=True):
            below += count
            yield f'{name}_bucket{{{labels},le="{edge}"}} {below}'
        yield f"{name}_sum{{{labels}}} {self.sum:.6f}"
        yield f"{name}_count{{{labels}}} {below}"


class Words:
    """What is counted of a language model beside its requests."""

    __slots__ = ("accepted", "cached", "drafted", "ends", "gaps", "open", "output", "prompt", "ttft")

    def __init__(self) -> None:
        self.ttft = Histogram(FIRST_EDGES)
        self.gaps = Histogram(GAP_EDGES)
        self.prompt = self.output = self.cached = self.drafted = self.accepted = 0
        self.open = 0  # streams
        self.ends = dict.fromkeys(ENDS, 0)

    def lines(self, labels: str) -> Iterable[str]:
        """In Prometheus' text format."""
        yield from self.ttft.lines("mainspring_ttft_seconds", labels)
        yield from self.gaps.lines("mainspring_inter_chunk_seconds", labels)
        for kind, count in (("prompt", self.prompt), ("output", self.output), ("cached", self.cached)):
            yield f'mainspring_tokens_total{{{labels},kind="{kind}"}} {count}'
        yield f"mainspring_speculation_drafted_total{{{labels}}} {self.drafted}"
        yield f"mainspring_speculation_accepted_total{{{labels}}} {self.accepted}"
        yield f"mainspring_streams{{{labels}}} {self.open}"
        for end, count in self.ends.items():
            yield f'mainspring_stream_ends_total{{{labels},end="{end}"}} {count}'


class Counts:
    """Counts of one revision in one role."""

    __slots__ = ("compute", "errors", "requests", "seconds", "words")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0  # no answer, or a status of 500 or more
        self.compute = 0.0
        self.seconds = Histogram(EDGES)
        self.words: Words | None = None

    def add(self, status: int, seconds: float, compute: float) -> None:
        """Count one answer."""
        self.requests += 1
        if status == 0 or status >= 500:
            self.errors += 1
        self.compute += compute
        self.seconds.add(seconds)

    def of_words(self) -> Words:
        """The counts of a language model."""
        if self.words is None:
            self.words = Words()
        return self.words


class OfTenant:
    """Counts of one tenant at one endpoint."""

    __slots__ = ("cached", "output", "prompt", "refused", "requests")

    def __init__(self) -> None:
        self.requests = self.prompt = self.output = self.cached = 0
        self.refused: dict[str, int] = {}  # by the limit

    def refuse(self, limit: str) -> None:
        """Count a request that a limit did not allow."""
        self.refused[limit] = self.refused.get(limit, 0) + 1

    def lines(self, labels: str) -> Iterable[str]:
        """In Prometheus' text format."""
        yield f"mainspring_tenant_requests_total{{{labels}}} {self.requests}"
        for kind, count in (("prompt", self.prompt), ("output", self.output), ("cached", self.cached)):
            yield f'mainspring_tenant_tokens_total{{{labels},kind="{kind}"}} {count}'
        for limit, count in self.refused.items():
            yield f'mainspring_tenant_refused_total{{{labels},limit="{limit}"}} {count}'


class Metrics:
    """All counts of this worker since its start."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], Counts] = {}
        self.tenants: dict[tuple[str, str], OfTenant] = {}
        self.rejected: dict[str, int] = {}  # refused before a revision was chosen, by reason
        self.retries: dict[str, int] = {}
        self.feedback = 0
        self.gone = 0

    def of(self, endpoint: str, revision: str, role: str) -> Counts:
        """The counts of a revision; the names are of the route table."""
        key = (endpoint, revision, role)
        found = self.counts.get(key)
        if found is None:
            found = self.counts[key] = Counts()
        return found

    def tenant(self, endpoint: str, tenant: str) -> OfTenant:
        """The counts of a tenant; the names are of the route table and of `keys.json`."""
        found = self.tenants.get((endpoint, tenant))
        if found is None:
            found = self.tenants[endpoint, tenant] = OfTenant()
        return found

    def reject(self, reason: str) -> None:
        """Count a request that got no further."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def retry(self, reason: str) -> None:
        """Count a request that was sent again."""
        self.retries[reason] = self.retries.get(reason, 0) + 1

    def text(
        self, inside: Mapping[str, int], extra: Mapping[str, float], more: Iterable[str] = (), *, tenants: bool = True
    ) -> bytes:
        """All of it in Prometheus' text format; `extra` are single figures by name, `more` are whole lines.

        `tenants`: with those by tenant, which are not for tenants' eyes.
        """
        lines: list[str] = []
        for (endpoint, revision, role), counts in self.counts.items():
            labels = f'endpoint="{endpoint}",revision="{revision}",role="{role}"'
            lines.append(f"mainspring_requests_total{{{labels}}} {counts.requests}")
            lines.append(f"mainspring_errors_total{{{labels}}} {counts.errors}")
            lines.append(f"mainspring_compute_seconds_total{{{labels}}} {counts.compute:.6f}")
            lines += counts.seconds.lines("mainspring_request_seconds", labels)
            if counts.words is not None:
                lines += counts.words.lines(labels)
        for (endpoint, tenant), of in self.tenants.items() if tenants else ():
            lines += of.lines(f'endpoint="{endpoint}",tenant="{tenant}"')
        lines += [f'mainspring_inflight{{endpoint="{e}"}} {n}' for e, n in inside.items()]
        lines += [f'mainspring_rejected_total{{reason="{r}"}} {n}' for r, n in self.rejected.items()]
        lines += [f'mainspring_retries_total{{reason="{r}"}} {n}' for r, n in self.retries.items()]
        lines.append(f"mainspring_feedback_total {self.feedback}")
        lines.append(f"mainspring_clients_gone_total {self.gone}")
        lines += [f"mainspring_{name} {value:g}" for name, value in extra.items()]
        lines += more
        return "".join(f"{line}\n" for line in lines).encode()
