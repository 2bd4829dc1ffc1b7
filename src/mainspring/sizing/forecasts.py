"""The forecasts that sizing is made with: fit, queueing, availability, for language models and for others.

What this is: `decide/fit.py`, `forecast/queue.py`, `forecast/graph.py` and `decide/availability.py` behind the three
functions that the search takes; pure. Who calls it: `answer.py`'s callers, once for a question. What it must never do:
hold a coefficient, or choose.

Each curve of a replica is worked out once and asked for many rates. How variable the arrivals are is said of all the
traffic; what comes to one of several replicas is smoother (`thinning.py`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from mainspring.decide import availability
from mainspring.decide.fit import Refusal, fit, fit_graph, graph_there
from mainspring.facts.cpus import Cpu
from mainspring.facts.gpus import Gpu
from mainspring.facts.mig import Profile, cut, profile
from mainspring.facts.shapes import GraphShape, ModelShape
from mainspring.forecast import graph, loading, queue
from mainspring.forecast.lengths import percentile
from mainspring.forecast.memory import graph_bytes
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Arrivals, Interval, Lengths, Response, Setup
from mainspring.sizing import words
from mainspring.sizing.answer import Forecasts
from mainspring.sizing.question import Capacity, Demand, Device, Nearest, Question, Site, Way
from mainspring.sizing.rank import Known
from mainspring.sizing.thinning import shared, thinned

if TYPE_CHECKING:
    from mainspring.forecast.coefficients import Coefficients
    from mainspring.forecast.curve import Curve

BATCHES = (1, 16)
"""Numbers in the batch at which the longest output is told."""

LOADED = 0.5
"""Of a replica's largest rate: the load at which a promise on tokens is proposed in place of one on requests."""

GRAPH_SPREAD = 2.0
"""Factor either way that a forecast for other models admits: all its efficiencies are assumed."""

REGION = availability.ASSUMED["region availability"].value
"""Share of the time that a region is up."""

SPOT = 0.9
"""Share of time that a spot node is there, where the file's own mix has some (assumed; as `SpotRules.there`)."""


class Forecaster:
    """The forecasts of one question."""

    def __init__(self, question: Question, coefficients: Coefficients | None) -> None:
        self._question = question
        self._coefficients = coefficients
        self._curves: dict[tuple[object, ...], Curve | str] = {}
        self._colds: dict[tuple[object, ...], float] = {}
        self._most: dict[tuple[object, ...], queue.Capacity] = {}
        self._batched: dict[tuple[object, ...], graph.Capacity] = {}

    def capacity(self, way: Way, demand: Demand, promise: Promise) -> Capacity:
        """What one replica carries; a rate of 0 brings the reason and what is nearest."""
        if isinstance(self._question.model, GraphShape):
            return self._graph(self._question.model, way, demand, promise)
        hopeless = self._hopeless(way, demand.lengths, promise)
        if hopeless:
            return Capacity(0.0, None, "p95", hopeless)
        known = self.curve(way, demand.lengths)
        if isinstance(known, str):
            return Capacity(0.0, None, "fit", known)

        def most(variability: float) -> queue.Capacity:
            key = (way.engine_key, demand.lengths, variability, *promise.timed.items())
            if key not in self._most:
                self._most[key] = queue.most(known, promise, variability=variability, seen=False)
            return self._most[key]

        rate, variability = shared(demand, lambda each: most(each).rate or 0.0)
        found = most(variability)
        if found.rate is None:
            return Capacity(0.0, None, found.binds, found.reason)
        seen = queue.solve(known, Arrivals(rate, thinned(demand, rate)))
        return Capacity(rate, seen, found.binds, concurrency=seen.running)

    def _hopeless(self, way: Way, lengths: Lengths | None, promise: Promise) -> str:
        """Why outputs longer than the question's can't keep a p95, where the curve that is there already tells.

        One in twenty requests has at least so many output tokens, and each takes at least as long as one of a lone
        request with the shorter outputs: caches only grow.
        """
        own = self._question.demand.lengths
        limit = promise.p95
        if lengths is None or own is None or limit is None or lengths == own or lengths.prompt != own.prompt:
            return ""
        longer = all(new >= old for new, old in zip(lengths.output, own.output, strict=True))
        known = self._curves.get((way.engine_key, own))
        if not longer or known is None or isinstance(known, str):
            return ""
        tokens = percentile(lengths, 0.95)
        floor = float(known.alone.min()) + (tokens - 1.0) * float(known.tpot[0])
        if floor <= limit:
            return ""
        least = f"{tokens:,.0f} output tokens take at least {words.seconds(floor)}"
        return f"{least}, over the limit of {words.seconds(limit)}"

    def response(self, way: Way, demand: Demand, rate: float) -> Response | None:
        """What users of one replica see at so many requests/s, of the demand's peak; None where it doesn't fit."""
        question = self._question
        if isinstance(question.model, GraphShape):
            # The batches are those of the fleet at its own peak, whatever part of it is asked for.
            sized = replace(demand, rate=question.demand.rate, peak=question.demand.peak)
            chosen = self._chosen(question.model, way, sized, question.promise)
            if chosen is not None and not chosen[0]:
                chosen = self._chosen(question.model, way, sized, Promise())
            return self._graph_response(question.model, way, demand, rate, chosen[1]) if chosen else None
        known = self.curve(way, demand.lengths)
        return None if isinstance(known, str) else queue.solve(known, Arrivals(rate, thinned(demand, rate)))

    def longest(self, way: Way, demand: Demand, promise: Promise) -> dict[int, float]:
        """Output tokens of a request that keep the promise on whole requests, by number in the batch."""
        if isinstance(self._question.model, GraphShape):
            return {}
        known = self.curve(way, demand.lengths)
        if isinstance(known, str):
            return {}
        pairs = [(name, limit) for name, limit in promise.timed.items() if name in {"p95", "p99"}]
        return {
            batch: min(queue.longest_output(known, name, limit, batch) for name, limit in pairs)
            for batch in BATCHES
            if pairs
        }

    def ceiling(self, way: Way, demand: Demand) -> float:
        """Requests/s of the largest batch: what no promise leaves more of."""
        if isinstance(self._question.model, GraphShape):
            return 0.0 if self._graph_refused(self._question.model, way) else math.inf
        known = self.curve(way, demand.lengths)
        return 0.0 if isinstance(known, str) else float(known.rates[-1])

    def nearest(self, way: Way, demand: Demand, promise: Promise) -> tuple[Nearest, ...]:
        """What could be kept in place of the promise; nothing where it doesn't fit, or where it is kept."""
        model = self._question.model
        if isinstance(model, GraphShape):
            chosen = self._chosen(model, way, demand, promise)
            if chosen is None or chosen[0]:
                return ()
            alone = chosen[1].p95
            return (Nearest("p95", alone, f"p95 {words.seconds(alone)}: no less can be kept on {way}"),)
        known = self.curve(way, demand.lengths)
        return () if isinstance(known, str) else _nearest(way, known, promise, demand)

    def available(self, way: Way, sites: tuple[Site, ...], total: int, alone: tuple[int, ...]) -> float:
        """The share of time in which the peak is carried, wherever the live replicas are."""
        del alone
        assumed = availability.ASSUMED
        node = availability.up(assumed["node mtbf"].value, assumed["node mttr"].value, self._cold(way))
        spot = way.mix.share("spot")
        node = node * (1 - spot) + min(node, SPOT) * spot
        replicas, nodes = tuple(site.replicas for site in sites), tuple(site.nodes for site in sites)
        return _available(replicas, nodes, total, node, REGION)

    def curve(self, way: Way, lengths: Lengths | None) -> Curve | str:
        """What a replica does with each number in its batch; why it can't run."""
        key = (way.engine_key, lengths)
        if key not in self._curves:
            self._curves[key] = self._curve(way, lengths)
        return self._curves[key]

    def _curve(self, way: Way, lengths: Lengths | None) -> Curve | str:
        device = self._device(way)
        if not isinstance(device, Gpu) or lengths is None or self._coefficients is None:
            return f"a language model doesn't run on {device.name}"
        whole = self.setup(way, device)
        longest = max(p + o for p, o in zip(lengths.prompt, lengths.output, strict=True))
        fits = fit(whole, longest, 1.0, _profile(device, way))
        if isinstance(fits, Refusal):
            return fits.sentence
        on = self.setup(way, cut(device, way.slice)) if way.slice else whole
        return queue.curve_of(on, lengths, self._coefficients)

    def setup(self, way: Way, gpu: Gpu) -> Setup:
        """A way as what is forecast."""
        question = self._question
        assert isinstance(question.model, ModelShape)
        return Setup(
            shape=question.model,
            gpu=gpu,
            tp=way.gpus,
            precision=way.precision,
            kv=way.kv,
            engine=question.engine,
            version=question.version,
        )

    def _device(self, way: Way) -> Device:
        return self._question.pool(way.pool).device

    def _cold(self, way: Way) -> float:
        """Hours until the replicas of a node that is back answer again: noticed, then loaded.

        Without weights on the nodes' own disks the node is taken to be a new one; with them, to be the same again.
        """
        if way.engine_key not in self._colds:
            self._colds[way.engine_key] = loading.repair(self._loading(way)) / 3600
        return self._colds[way.engine_key]

    def _loading(self, way: Way) -> loading.Loading:
        device, question = self._device(way), self._question
        cached = question.weights_cached
        place: loading.Place = "node" if cached else "network"
        if isinstance(question.model, GraphShape):
            return loading.load_graph(question.model, question.engine, place, fresh=not cached)
        assert isinstance(device, Gpu)
        return loading.load(self.setup(way, device), place, fresh=not cached)

    def _graph(self, shape: GraphShape, way: Way, demand: Demand, promise: Promise) -> Capacity:
        chosen = self._chosen(shape, way, demand, promise)
        if chosen is None:
            return Capacity(0.0, None, "fit", self._graph_refused(shape, way))
        rate, found = chosen
        if rate <= 0:
            rows = "one row" if demand.rows <= 1 else words.count(demand.rows, "row")
            split = f" in batches of {found.largest:,}" if demand.rows > found.largest else ""
            says = f"{shape.name} takes {words.seconds(found.p95)} for {rows}{split} on {way}"
            return Capacity(0.0, None, "p95", f"{says}, over the limit of {words.seconds(graph_limit(promise))}")
        binds = "throughput" if found.utilisation >= graph.FULL - 1e-6 else "p95"
        seen = self._graph_response(shape, way, demand, rate, found)
        return Capacity(rate, seen, binds, concurrency=rate * seen.p95.value)

    def _chosen(
        self, shape: GraphShape, way: Way, demand: Demand, promise: Promise
    ) -> tuple[float, graph.Capacity] | None:
        """Requests/s of one replica and the batches that they are answered in; None where it doesn't fit."""
        if self._graph_refused(shape, way):
            return None
        limit, rows = graph_limit(promise), max(demand.rows, 1.0)

        def batched(variability: float) -> graph.Capacity:
            key = (way.engine_key, rows, demand.batch, limit, variability)
            if key not in self._batched:
                self._batched[key] = graph.capacity(
                    shape,
                    self._served(way),
                    way.precision,
                    limit,
                    demand.batch,
                    self._part(way),
                    rows=rows,
                    variability=variability,
                    memory=self._graph_there(way),
                )
            return self._batched[key]

        rate, variability = shared(demand, lambda each: batched(each).requests)
        return rate, batched(variability)

    def _graph_there(self, way: Way) -> float:
        """Bytes that a replica may take."""
        device = self._device(way)
        if isinstance(device, Gpu):
            return graph_there(device, _profile(device, way))
        assert isinstance(device, Cpu)
        return device.memory * self._part(way)

    def _graph_refused(self, shape: GraphShape, way: Way) -> str:
        device = self._device(way)
        if isinstance(device, Gpu):
            fits = fit_graph(shape, device, slice_=_profile(device, way), precision=way.precision)
            return fits.sentence if isinstance(fits, Refusal) else ""
        assert isinstance(device, Cpu)
        needed, held = graph_bytes(shape, device, way.precision, 1.0), self._graph_there(way)
        there = words.count(held / 1e9, "GB").removesuffix("s")
        on = f"{way.cores:g} cores of {device.name}" if way.cores else device.name
        return "" if needed <= held else f"{needed / 1e9:.0f} GB don't fit in the {there} of {on}"

    def _part(self, way: Way) -> float:
        """The share of a CPU server that a replica has: its cores, and as much of the memory and its bandwidth."""
        device = self._device(way)
        return min(way.cores / device.cores, 1.0) if way.cores and isinstance(device, Cpu) else 1.0

    def _served(self, way: Way) -> Gpu | Cpu:
        device = self._device(way)
        assert isinstance(device, (Gpu, Cpu))
        return cut(device, way.slice) if way.slice and isinstance(device, Gpu) else device

    def _graph_response(
        self, shape: GraphShape, way: Way, demand: Demand, rate: float, found: graph.Capacity
    ) -> Response:
        """The 95th percentile is forecast; in the others what a lone request doesn't take is taken as exponential."""

        def tail_at(load: float) -> float:
            return graph.p95(
                shape,
                self._served(way),
                way.precision,
                load,
                found.largest,
                self._part(way),
                rows=max(demand.rows, 1.0),
                variability=thinned(demand, rate),
            )

        alone, tail = tail_at(0.0), tail_at(rate)
        full = found.full
        over = max(tail - alone, 0.0)

        def at(share: float) -> Interval:
            value = alone + over * math.log(1 / (1 - share)) / math.log(20)
            return Interval(value, value / GRAPH_SPREAD, value * GRAPH_SPREAD)

        nothing = Interval(0.0, 0.0, 0.0)
        return Response(
            p50=at(0.5),
            p95=at(0.95),
            p99=at(0.99),
            ttft=nothing,
            tpot=nothing,
            running=rate * at(0.5).value if math.isfinite(tail) else math.inf,
            waiting=max(at(0.5).value - alone, 0.0),
            utilisation=rate / full if full else math.inf,
            stable=math.isfinite(tail),
            rests=found.rests,
        )


def graph_limit(promise: Promise) -> float:
    """The limit in seconds on the 95th percentile that keeps a promise of another model (p99: ln 20 / ln 100 of it);
    infinite where nothing is promised.
    """
    limits = [promise.p95, None if promise.p99 is None else promise.p99 * math.log(20) / math.log(100)]
    return min((limit for limit in limits if limit is not None), default=math.inf)


class Available:
    """`Forecaster.available` with what the search wants to know of it."""

    region = REGION

    def __init__(self, forecaster: Forecaster) -> None:
        self._of = forecaster

    def __call__(self, way: Way, sites: tuple[Site, ...], total: int, alone: tuple[int, ...]) -> float:
        return self._of.available(way, sites, total, alone)


_available = functools.lru_cache(maxsize=65_536)(availability.available)


def _profile(device: Gpu, way: Way) -> Profile | None:
    return profile(device.mig, way.slice) if way.slice else None


def _nearest(way: Way, known: Curve, promise: Promise, demand: Demand) -> tuple[Nearest, ...]:
    """What could be kept in place of the promise: the same limit later, shorter outputs, limits on tokens."""
    found = []
    alone = queue.solve(known, Arrivals(queue.LEAST))
    for name, limit in promise.timed.items():
        seen = {"p95": alone.p95, "p99": alone.p99, "ttft": alone.ttft, "tpot": alone.tpot}[name].value
        if seen > limit:
            says = f"{name} {words.seconds(seen)} is the least for a lone request on {way}, with these lengths"
            found.append(Nearest(name, seen, says))
        if seen > limit and name in {"p95", "p99"}:
            longest = {batch: queue.longest_output(known, name, limit, batch) for batch in BATCHES}
            tokens = " or ".join(f"{count:,.0f} output tokens at batch {batch}" for batch, count in longest.items())
            says = f"{name} {words.seconds(limit)} allows at most about {tokens} on {way}"
            found.append(Nearest("output", longest[BATCHES[-1]], says))
    if any(each.what in {"p95", "p99"} for each in found):
        rate = float(known.rates[-1]) * LOADED
        half = queue.solve(known, Arrivals(rate, thinned(demand, rate)))
        if half.stable:
            says = (
                f"a first token within {words.seconds(half.ttft.value)} (p95) and {words.seconds(half.tpot.value)} "
                f"for each after it can be kept on {way} at half its largest rate"
            )
            found.append(Nearest("tokens", half.tpot.value, says))
    return tuple(found)


def forecasts(question: Question, coefficients: Coefficients | None) -> Forecasts:
    """The forecasts of a question, as `answer` takes them; `coefficients` may be None for models that aren't language
    models.
    """
    known = Forecaster(question, coefficients)
    ceiling = None if isinstance(question.model, GraphShape) else known.ceiling  # the others' forecasts are quick
    return Forecasts(Known(known.capacity), known.response, Available(known), known.longest, known.nearest, ceiling)
