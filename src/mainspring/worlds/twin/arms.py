"""What the two arms of a rollout would have done, as the twin believes.

What this is: requests, one by one, drawn from `Beliefs` along the routes that were in force. The n-th request of a
revision since a moment is always the same one, so a later look shows the earlier slices unchanged. Who calls it:
`TwinSource`. What it must never do: depend on how often it was asked, or let one revision's luck shift another's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mainspring.decide.arms import AMOUNTS, EDGES, Arms, Counts, Histogram, Slice, Sums, Units
from mainspring.decide.routes import EndpointRoutes, RouteTable
from mainspring.loop.readings import ArmsQuery, Unknown
from mainspring.worlds.twin.beliefs import DAY, Beliefs, noise
from mainspring.worlds.twin.world import TwinWorld

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_EDGES, _AMOUNTS = np.asarray(EDGES), np.asarray(AMOUNTS)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Requests of one revision, in the order of their arrival; arrays of shape [requests]."""

    at: Floats  # event time
    slice: Ints
    stratum: Ints
    failed: Bools
    refused: Bools
    left: Bools  # the client did not wait for the answer
    bucket: Ints  # of the time, by `EDGES`
    first: Ints | None  # of the time to the first token, likewise; None: nothing is streamed
    tokens: Floats
    compute: Floats  # seconds
    told: Bools  # there is feedback
    liked: Bools  # which is 1, else 0

    @property
    def answered(self) -> Bools:
        return ~(self.failed | self.refused | self.left)

    def users(self, visits: int) -> Ints:
        """Number whose request each is; users come for `visits` requests each, one user after the other."""
        return np.arange(len(self.at)) // max(visits, 1)


_KEPT = 512
_known: dict[tuple[object, ...], Arms | Unknown] = {}


def arms(world: TwinWorld, query: ArmsQuery) -> Arms | Unknown:
    """Answer an `ArmsQuery` from what was routed; unknown before the first request.

    Lives that are lived again up to a moment (a fork, a crash in each place) ask the same again, so answers are kept:
    they are a function of what is in their key.
    """
    key = (query, min(query.until, world.wall), world.seed, repr(world.beliefs), _routes_of(world, query.endpoint))
    found = _known.get(key)
    if found is None:
        if len(_known) >= _KEPT:
            _known.pop(next(iter(_known)), None)
        found = _known[key] = _drawn(world, query)
    return found


def _routes_of(world: TwinWorld, endpoint: str) -> tuple[object, ...]:
    """All of the routes that `share_of` reads."""
    told: list[object] = []
    for began, _, table in world.routed:
        routes = table.endpoints.get(endpoint)
        if routes is None:
            told.append(began)
            continue
        rows = tuple((row.name, row.weight, tuple(sorted(row.regional.items()))) for row in routes.revisions)
        told.append((began, rows, routes.mirror, routes.mirror_share, routes.mirror_region, tuple(table.near)))
    return tuple(told)


def _drawn(world: TwinWorld, query: ArmsQuery) -> Arms | Unknown:
    whole = max(math.floor((min(query.until, world.wall) - query.since) / query.width + 1e-9), 0)
    edges = query.since + query.width * np.arange(whole + 1, dtype=np.float64)
    candidate = _requests(world, query, query.candidate, edges)
    control = {name: _requests(world, query, name, edges) for name in query.control}
    mirrored, copies, copied = _mirrored(world, query)
    if not (len(candidate.at) or mirrored.requests or any(len(one.at) for one in control.values())):
        return Unknown("no requests yet")
    timed = {name: one for name, one in control.items() if query.fresh in ("", name)}
    old = list(control.values())
    return Arms(
        slices=_slices(world, query, candidate, old, list(timed.values())),
        candidate=_sums(world, query, [candidate]),
        control=_sums(world, query, old),
        candidate_units=_units(world.beliefs, [candidate]) if query.sticky else None,
        control_units=_units(world.beliefs, old) if query.sticky else None,
        routed=_routed(query, candidate, old),
        mirrored=mirrored,
        mirrored_slices=copies,
        untold=_untold(query, candidate) if query.score or query.metric else 0,
        whole=whole * query.width,
        mirrored_whole=copied,
    )


def share_of(table: RouteTable, routes: EndpointRoutes, revision: str, role: str, region: str = "") -> float:
    """The part of an endpoint's requests that come from `region` (all: "") and go to a revision; regions are alike."""
    regions = tuple(table.near) or ("",)
    asked = [one for one in regions if region in ("", one)]
    if role == "mirror":
        copied = [one for one in asked if routes.mirror_region in ("", one)] if routes.mirror == revision else []
        return routes.mirror_share / 10_000 * len(copied) / len(regions)
    rows = [one for one in routes.revisions if one.name == revision]
    return sum(row.weight_in(one) for row in rows for one in asked) / 10_000 / len(regions)


def _arrived(world: TwinWorld, query: ArmsQuery, revision: str, edges: Floats, role: str, region: str) -> Ints:
    """How many requests a revision had got by each of `edges`, since the first of them."""
    starts, shares = [-math.inf], [0.0]
    for began, _, table in world.routed:
        routes = table.endpoints.get(query.endpoint)
        starts.append(began)
        shares.append(0.0 if routes is None else share_of(table, routes, revision, role, region))
    cuts = np.clip(np.asarray([*starts, math.inf]), edges[0], edges[-1])
    reached = np.concatenate([[0.0], np.cumsum(np.asarray(shares) * np.diff(cuts))])
    rate = world.beliefs.requests_per_day / DAY
    arrived: Ints = np.floor(np.interp(edges, cuts, reached) * rate + 1e-6).astype(np.int64)
    return arrived


def _requests(
    world: TwinWorld, query: ArmsQuery, revision: str, edges: Floats, role: str = "live", region: str | None = None
) -> Drawn:
    if region is None:
        region = query.region if role == "live" else ""
    arrived = _arrived(world, query, revision, edges, role, region)
    counts = np.diff(arrived)
    number = int(arrived[-1])
    place = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(number) - np.repeat(arrived[:-1], counts)
    width = np.repeat(np.diff(edges), counts)
    at = np.repeat(edges[:-1], counts) + width * (nth + 0.5) / np.maximum(np.repeat(counts, counts), 1)
    beliefs, conduct = world.beliefs, world.beliefs.of(revision)

    def luck(what: str) -> np.random.Generator:
        return noise(world.seed, "arms", what, role, query.endpoint, revision, float(edges[0]))

    stratum = np.searchsorted(np.cumsum(beliefs.prompts)[:-1], luck("prompt").random(number), side="right")
    slower = np.ones(max(len(beliefs.prompts), len(conduct.slower)))
    slower[: len(conduct.slower)] = conduct.slower
    median = beliefs.latency if conduct.latency is None else conduct.latency
    seconds = median * slower[stratum] * np.exp(beliefs.spread * luck("time").standard_normal(number))
    errors = beliefs.error_rate if conduct.error_rate is None else conduct.error_rate
    score = beliefs.score if conduct.score is None else conduct.score
    failed = luck("errors").random(number) < errors
    refused = ~failed & (luck("refused").random(number) < conduct.refuse_rate)
    return Drawn(
        at,
        place,
        stratum.astype(np.int64),
        failed,
        refused,
        ~(failed | refused) & (luck("left").random(number) < conduct.leave_rate),
        np.searchsorted(_EDGES, seconds).astype(np.int64),
        np.searchsorted(_EDGES, seconds * beliefs.first).astype(np.int64) if beliefs.first else None,
        beliefs.output_tokens * conduct.tokens * luck("tokens").exponential(size=number),
        seconds * conduct.compute,
        luck("told").random(number) < beliefs.feedback,
        luck("score").random(number) < score,
    )


def _timed(world: TwinWorld, query: ArmsQuery, drawn: Drawn, role: str = "live") -> Bools:
    """Whose time counts: no replica was warming up; where users are told apart, the first of each in the stage."""
    counts = drawn.answered | drawn.left
    for since, until in query.skip:
        counts = counts & ~((drawn.at >= since) & (drawn.at < until))
    if not query.sticky or role != "live":
        return counts
    counts = counts & (drawn.at >= query.stage_since)
    place = np.flatnonzero(counts)
    firsts = np.zeros(len(counts), dtype=np.bool_)
    firsts[place[np.unique(drawn.users(world.beliefs.visits)[place], return_index=True)[1]]] = True
    return firsts


def histogram(buckets: Ints) -> Histogram:
    """Count buckets; those without any are left out."""
    found, counts = np.unique(buckets, return_counts=True)
    return tuple(zip(found.tolist(), counts.tolist(), strict=True))


Cell = tuple[int, int]
"""A slice and a stratum."""


def _counts(asked: list[Drawn], timed: list[tuple[Drawn, Bools]]) -> dict[Cell, Counts]:
    found: dict[Cell, list[int]] = {}
    for one in asked:
        keys, place = np.unique(one.slice * 16 + one.stratum, return_inverse=True)
        masks = (None, one.failed, one.refused, one.left)
        numbers = np.stack([np.bincount(place, mask, len(keys)) for mask in masks], axis=1)
        for key, counts in zip(keys.tolist(), numbers.astype(np.int64).tolist(), strict=True):
            sums = found.setdefault((key >> 4, key & 15), [0, 0, 0, 0])
            sums[:] = [a + b for a, b in zip(sums, counts, strict=True)]
    times = _histograms([(one, warm & ~one.left, one.bucket) for one, warm in timed])
    firsts = _histograms([(one, warm & ~one.left, one.first) for one, warm in timed if one.first is not None])
    waited = _histograms([(one, warm & one.left, one.bucket) for one, warm in timed])
    return {
        cell: Counts(requests, errors, times.get(cell, ()), firsts.get(cell, ()), refused, left, waited.get(cell, ()))
        for cell, (requests, errors, refused, left) in found.items()
    }


def _histograms(of: list[tuple[Drawn, Bools, Ints]]) -> dict[Cell, Histogram]:
    found: dict[Cell, dict[int, int]] = {}
    for one, warm, buckets in of:
        cells = np.stack([one.slice[warm], one.stratum[warm], buckets[warm]], axis=1)
        cells, counts = np.unique(cells, axis=0, return_counts=True)
        for (at, stratum, bucket), number in zip(cells.tolist(), counts.tolist(), strict=True):
            cell = found.setdefault((at, stratum), {})
            cell[bucket] = cell.get(bucket, 0) + number
    return {cell: tuple(sorted(buckets.items())) for cell, buckets in found.items()}


def _slices(
    world: TwinWorld, query: ArmsQuery, candidate: Drawn, old: list[Drawn], timed: list[Drawn]
) -> tuple[Slice, ...]:
    mine = _counts([candidate], [(candidate, _timed(world, query, candidate))])
    theirs = _counts(old, [(one, _timed(world, query, one)) for one in timed])
    nothing = Counts()
    return tuple(
        Slice(at, stratum, mine.get((at, stratum), nothing), theirs.get((at, stratum), nothing), query.weight(at))
        for at, stratum in sorted({*mine, *theirs})
    )


def _routed(query: ArmsQuery, candidate: Drawn, old: list[Drawn]) -> tuple[tuple[float, int, int], ...]:
    found: dict[float, list[int]] = {}
    ends = [since for since, _ in query.shares[1:]] + [math.inf] * bool(query.shares)
    for (since, share), until in zip(query.shares, ends, strict=True):
        if 0.0 < share < 1.0:
            counts = found.setdefault(share, [0, 0])
            for arm, drawn in ((0, [candidate]), (1, old)):
                counts[arm] += sum(int(((one.at >= since) & (one.at < until)).sum()) for one in drawn)
    return tuple((share, mine, theirs) for share, (mine, theirs) in found.items())


def _sums(world: TwinWorld, query: ArmsQuery, drawn: list[Drawn]) -> Sums:
    kept = [(one, one.answered & (one.at >= query.stage_since)) for one in drawn]
    visits = world.beliefs.visits if query.sticky else 1

    def each(values: Floats | Bools, one: Drawn, mask: Bools) -> Floats:
        """One value of each user: the mean."""
        whose = one.users(visits)[mask]
        _, place, times = np.unique(whose, return_inverse=True, return_counts=True)
        means: Floats = np.bincount(place, values[mask], len(times)) / times
        return means

    tokens = np.concatenate([each(one.tokens, one, mask) for one, mask in kept])
    compute = np.concatenate([each(one.compute, one, mask) for one, mask in kept])
    liked = np.concatenate([each(one.liked, one, mask & one.told) for one, mask in kept]).round(3)
    scores = tuple((float(value), int(n)) for value, n in zip(*np.unique(liked, return_counts=True), strict=True))
    return Sums(
        histogram(np.searchsorted(_AMOUNTS, tokens)) if (tokens > 0).any() else (),
        histogram(np.searchsorted(_AMOUNTS, compute)),
        scores if query.score else (),
        scores if query.metric else (),
    )


def _untold(query: ArmsQuery, drawn: Drawn) -> int:
    return int((drawn.answered & ~drawn.told & (drawn.at >= query.stage_since)).sum())


def _units(beliefs: Beliefs, drawn: list[Drawn]) -> Units:
    numbers = [0, 0, 0, 0]
    for one in drawn:
        users = one.users(beliefs.visits)
        for number, mask in enumerate((np.ones(len(users), dtype=np.bool_), one.failed, one.refused, one.left)):
            numbers[number] += len(np.unique(users[mask]))
    return Units(*numbers)


def _mirrored(world: TwinWorld, query: ArmsQuery) -> tuple[Counts, tuple[Slice, ...], float]:
    """The copies in all; by slices, beside the control; and the seconds of whole slices."""
    since, width, until = query.mirror_since, query.mirror_width or query.width, min(query.until, world.wall)
    whole = 0 if since is None else max(math.floor((until - since) / width + 1e-9), 0)
    if since is None or not whole:
        return Counts(), (), 0.0
    edges = since + width * np.arange(whole + 1, dtype=np.float64)
    drawn = _requests(world, query, query.candidate, edges, "mirror")
    warm, nothing = _timed(world, query, drawn, "mirror"), Counts()
    waited, first = histogram(drawn.bucket[warm & drawn.left]), warm & ~drawn.left
    firsts = histogram(drawn.first[first]) if drawn.first is not None else ()
    errors, refused, left = (int(mask.sum()) for mask in (drawn.failed, drawn.refused, drawn.left))
    total = Counts(len(drawn.at), errors, histogram(drawn.bucket[first]), firsts, refused, left, waited)
    copied = {at: query.copied(at) for at in range(whole)}
    mine, theirs = _alike(world, query, [drawn]), {}
    for region in sorted({region for share, region in copied.values() if share > 0.0}):
        control = [_requests(world, query, name, edges, "live", region) for name in query.control]
        theirs[region] = _alike(world, query, control)
    slices = []
    for at, (share, region) in copied.items():
        arms = (mine.get((at, 0), nothing), theirs.get(region, {}).get((at, 0), nothing))
        if share > 0.0 and any(arm.requests for arm in arms):
            slices.append(Slice(at, 0, *arms, share / (1.0 + share)))
    return total, tuple(slices), whole * width


def _alike(world: TwinWorld, query: ArmsQuery, drawn: list[Drawn]) -> dict[Cell, Counts]:
    """Count by slices alone, since both arms have the same requests."""
    same = [replace(one, stratum=np.zeros_like(one.stratum)) for one in drawn]
    return _counts(same, [(one, _timed(world, query, one, "mirror")) for one in same])
