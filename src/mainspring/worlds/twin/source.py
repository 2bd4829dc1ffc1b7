"""Samples of the twin: what its traffic would have left behind, believed at the time when it would be known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mainspring.loop.labels import version_number
from mainspring.loop.readings import (
    LATENCY_EDGES,
    ArmsQuery,
    DayPairs,
    Drift,
    DriftQuery,
    FeatureDrift,
    Pairs,
    PairsQuery,
    Quality,
    QualityQuery,
    Query,
    Reading,
    Readings,
    Spend,
    SpendQuery,
    Traffic,
    TrafficQuery,
    Unknown,
)
from mainspring.worlds.twin.arms import arms, share_of
from mainspring.worlds.twin.beliefs import DAY, mean_loss, noise, strangeness
from mainspring.worlds.twin.world import TwinWorld

BINS = 10
ROWS_APART = 0.05  # how far the losses of two models are apart on one row, beside their means


@dataclass(slots=True)
class TwinSource:
    """Answers queries from the twin's own history."""

    world: TwinWorld

    def samples(self, wanted: Iterable[Query]) -> Readings:
        """Answer each query."""
        return {query: self._answer(query) for query in wanted}

    def _answer(self, query: Query) -> Reading | Unknown:
        if isinstance(query, TrafficQuery):
            return self._traffic(query)
        if isinstance(query, ArmsQuery):
            return arms(self.world, query)
        if isinstance(query, PairsQuery):
            return self._pairs(query)
        if isinstance(query, QualityQuery):
            return self._quality(query)
        if isinstance(query, DriftQuery):
            return self._drift(query)
        assert isinstance(query, SpendQuery)
        return Spend(0.0)

    def _rows(self, endpoint: str, revision: str, role: str, since: float, until: float) -> int:
        """Requests that a revision got: the rate, times its share, times how long it was routed so."""
        history = self.world.routed
        rows = 0.0
        for index, (began, _, table) in enumerate(history):
            ended = history[index + 1][0] if index + 1 < len(history) else self.world.wall
            length = min(ended, until) - max(began, since)
            routes = table.endpoints.get(endpoint)
            if length <= 0 or routes is None:
                continue
            rows += share_of(table, routes, revision, role) * length
        return math.floor(rows / DAY * self.world.beliefs.requests_per_day + 1e-6)

    def _traffic(self, query: TrafficQuery) -> Traffic | Unknown:
        rows = self._rows(query.endpoint, query.revision, query.role, query.since, query.until)
        if rows == 0:
            return Unknown("no requests yet")
        beliefs = self.world.beliefs
        errors = int(
            noise(self.world.seed, "errors", query.revision, query.since, rows).binomial(rows, beliefs.error_rate)
        )
        latency = [0] * (len(LATENCY_EDGES) + 1)
        latency[int(np.searchsorted(LATENCY_EDGES, beliefs.latency))] = rows - errors
        return Traffic(rows, errors, tuple(latency), rows * beliefs.latency)

    def _trained(self, revision: str) -> tuple[str, tuple[float, float]] | None:
        number = version_number(revision.rsplit("-", 1)[1])
        for version in self.world.versions:
            if version.number == number and version.artefact in self.world.trained:
                return version.artefact, self.world.trained[version.artefact]
        return None

    def _days(self, since: float, until: float) -> list[tuple[int, float, float]]:
        """Whole or part days of a window: day, from, until."""
        first, last = int(since // DAY), math.ceil(until / DAY)
        return [(d, max(since, d * DAY), min(until, (d + 1) * DAY)) for d in range(first, last)]

    def _pairs(self, query: PairsQuery) -> Pairs | Unknown:
        candidate, control = (self._trained(r) for r in (query.candidate, query.control))
        if candidate is None or control is None:
            return Unknown("a version is not known")
        beliefs, seed = self.world.beliefs, self.world.seed
        days, untold = [], 0
        differences: Counter[float] = Counter()
        for day, begins, ends in self._days(query.since, query.until):
            rows = self._rows(query.endpoint, query.candidate, "mirror", begins, ends)
            if rows == 0:
                continue
            if ends + beliefs.truth_after > self.world.wall:
                untold += rows
                continue
            losses = [mean_loss(beliefs, seed, day, *t, a) * rows for a, t in (candidate, control)]
            days.append(DayPairs(day, rows, losses[0], losses[1], round(rows * beliefs.positive_rate)))
            about = noise(seed, "rows", query.endpoint, query.candidate, query.control, day)
            each = about.normal((losses[0] - losses[1]) / rows, ROWS_APART, rows)
            differences.update(np.round(np.clip(each, -1.0, 1.0), 3).tolist())
        return Pairs(tuple(days), untold, tuple(sorted(differences.items())))

    def _live(self, endpoint: str, wall: float) -> str:
        """The revision that took most of the traffic at a moment."""
        name = ""
        for began, _, table in self.world.routed:
            routes = table.endpoints.get(endpoint)
            if began <= wall and routes and routes.revisions:
                name = max(routes.revisions, key=lambda r: r.weight).name
        return name

    def _quality(self, query: QualityQuery) -> Quality | Unknown:
        beliefs, seed = self.world.beliefs, self.world.seed
        rows, loss = 0, 0.0
        for day, begins, ends in self._days(query.since, query.until):
            live = self._live(query.endpoint, begins)
            trained = self._trained(live) if live else None
            if trained is None or ends + beliefs.truth_after > self.world.wall:
                continue
            count = round((ends - begins) / DAY * beliefs.requests_per_day)
            rows += count
            loss += count * mean_loss(beliefs, seed, day, *trained[1], trained[0])
        if rows == 0:
            return Unknown("no outcome is known yet")
        positives = round(rows * beliefs.positive_rate)
        flat = tuple([0] * 1000)
        return Quality(rows, positives, loss, rows * beliefs.positive_rate, flat, flat, 0)

    def _drift(self, query: DriftQuery) -> Drift | Unknown:
        trained = self._trained(f"{query.endpoint}-{query.version}")
        if trained is None:
            return Unknown("the version has no reference")
        rows = round((query.until - query.since) / DAY * self.world.beliefs.requests_per_day)
        middle = (query.since + query.until) / 2
        away = strangeness(self.world.beliefs, middle, *trained[1])
        tilt = np.exp(3.0 * away * np.linspace(-1, 1, BINS))
        jitter = noise(self.world.seed, "drift", query.until).normal(0, 0.02, BINS)
        shares = tilt / tilt.sum() * np.exp(jitter)
        counts = (*tuple(int(c) for c in np.round(shares / shares.sum() * rows)), 0)
        reference = (*tuple([1 / BINS] * BINS), 0.0)
        inside = tuple(sorted(float(x) for x in noise(self.world.seed, "inside").lognormal(-3.5, 0.5, 40)))
        features = tuple(FeatureDrift(name, reference, counts, inside) for name in query.features)
        return Drift(rows, features)
