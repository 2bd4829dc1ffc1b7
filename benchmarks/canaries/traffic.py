"""Requests of a rollout, made up one by one: when, to whom, whether they failed, and how long they took.

What this is: many runs at once as flat arrays, counted into stretches of ten seconds; all from seeds. Who calls it:
`benchmarks/canary.py`, its tests. What it must never do: know a rule that is tried on it: all get the same requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

WIDTH = 10.0
"""Seconds of a stretch: what the loop's slices are for a stage of two hours."""
DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Users:
    """Whom requests come from. Some ask far more than others: the rate of a user is lognormal."""

    count: int = 5_000
    spread: float = 1.0  # standard deviation of the logarithm of a user's rate
    unlucky: float = 0.0  # share of the users who meet all errors; 0: all users do alike


@dataclass(frozen=True, slots=True)
class Retries:
    """What a user does after an error: asks again at once, which fails again more often than not."""

    again: float = 0.9  # chance to try once more after each failure
    fails: float = 0.8  # chance that it fails again, on either version
    most: int = 5


@dataclass(frozen=True, slots=True)
class World:
    """The traffic of a stage and what goes wrong in it, whatever the version."""

    per_day: float = 500_000.0  # of the endpoint
    part: float = 1 / 3  # of the traffic that the canary's region has
    share: float = 0.05  # of that, to the candidate
    seconds: float = 7200.0
    errors: float = 0.001  # of the control
    rise: float = 1.0  # traffic at the end over traffic at the beginning: a morning
    sticky: bool = False  # users keep their version
    users: Users | None = None
    retries: Retries | None = None
    incident: tuple[float, float, float] | None = None  # from, to (shares of the stage), share of errors on both
    bad: tuple[float, float] | None = None  # share of the control on one broken replica, and its errors
    deaths: tuple[float, int] | None = None  # replicas that die in an hour, and requests lost with each

    @property
    def rate(self) -> float:
        """Requests a second in the canary's region."""
        return self.per_day / DAY * self.part

    @property
    def slices(self) -> int:
        """Stretches in a stage."""
        return round(self.seconds / WIDTH)


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of many runs, in order of (run, stretch)."""

    world: World
    runs: int
    cell: Ints  # run x stretches + stretch
    candidate: Bools
    user: Ints  # of the run; -1: nobody in particular
    chance: Floats  # uniform: fails when it is below what its arm fails with
    shaken: Floats  # by what the share of errors of its arm is multiplied: 1, or what makes users unlucky
    broken: Bools  # by the control's bad replica

    @property
    def new(self) -> Bools:
        """Whether a request is the first of its user in the run; where there are no users none is."""
        found = np.zeros(len(self.cell), dtype=bool)
        if self.world.users is not None:
            whose = self.cell // self.world.slices * self.world.users.count + self.user
            found[np.unique(whose, return_index=True)[1]] = True
        return found


@dataclass(frozen=True, slots=True)
class Counts:
    """What a rule may see: requests and errors by (run, stretch), and users: their first failures, who was new."""

    candidate: Ints
    candidate_bad: Ints
    control: Ints
    control_bad: Ints
    candidate_first: Ints  # users whose first failure this was
    control_first: Ints
    candidate_new: Ints  # users whose first request this was

    def windows(self, length: int) -> Counts:
        """Sums over as many stretches as a rule's window has; an unfinished one at the end is left out."""
        return Counts(*(_windows(getattr(self, name), length) for name in self.__slots__))

    def some(self, run: int) -> Counts:
        """One of the runs."""
        return Counts(*(getattr(self, name)[run : run + 1] for name in self.__slots__))


def _windows(values: Ints, length: int) -> Ints:
    runs, slices = values.shape
    return values[:, : slices // length * length].reshape(runs, -1, length).sum(axis=2)


def draw(world: World, runs: int, seed: tuple[int, ...]) -> Requests:
    """Requests of so many runs. Those that fail are not known yet: that is the version's doing (`count`)."""
    random = np.random.default_rng(seed)
    slices = world.slices
    shape = np.linspace(1.0, world.rise, slices)
    number = random.poisson(world.rate * WIDTH * shape / shape.mean(), (runs, slices))
    cell = np.repeat(np.arange(runs * slices), number.ravel())
    count = len(cell)
    user = np.full(count, -1)
    shaken = np.ones(count)
    candidate = random.random(count, dtype=np.float32) < world.share
    if world.users is not None:
        user, by_user, shaken = _users(world, world.users, cell, runs, random)
        candidate = by_user if world.sticky else candidate
    broken = np.zeros(count, dtype=bool)
    if world.bad is not None:
        broken = (random.random(count, dtype=np.float32) < world.bad[0]) & ~candidate
    chance = random.random(count, dtype=np.float32).astype(np.float64)
    return Requests(world, runs, cell, candidate, user, chance, shaken, broken)


def _users(
    world: World, users: Users, cell: Ints, runs: int, random: np.random.Generator
) -> tuple[Ints, Bools, Floats]:
    """Who sent each request, whether that user has the candidate, and by how much more this one meets errors."""
    rates = np.cumsum(np.exp(users.spread * random.standard_normal(users.count)))
    user = np.minimum(np.searchsorted(rates / rates[-1], random.random(len(cell))), users.count - 1)
    run = cell // world.slices
    arms = random.random((runs, users.count)) < world.share
    shaken = np.ones(len(cell))
    if users.unlucky:
        shaken = (random.random((runs, users.count)) < users.unlucky)[run, user] / users.unlucky
    return user, arms[run, user], shaken


def count(requests: Requests, errors: float, seed: tuple[int, ...]) -> Counts:
    """What happens when the candidate fails with `errors` (a share). The same seed gives the same retries."""
    world, slices = requests.world, requests.world.slices
    rate = np.where(requests.candidate, errors, world.errors) * requests.shaken
    if world.bad is not None:
        rate = np.where(requests.broken, world.bad[1], rate)
    if world.incident is not None:
        at = requests.cell % slices / slices
        rate = np.where((at >= world.incident[0]) & (at < world.incident[1]), np.maximum(rate, world.incident[2]), rate)
    failed = requests.chance < rate
    cell, candidate, user, bad = requests.cell, requests.candidate, requests.user, failed
    if world.retries is not None:
        more = _again(requests, failed, world.retries, np.random.default_rng(seed))
        cell, candidate, user, bad = (
            np.concatenate(pair) for pair in zip((cell, candidate, user, bad), more, strict=True)
        )
    if world.deaths is not None:
        more = _lost(requests, world.deaths, np.random.default_rng((*seed, 1)))
        cell, candidate, user, bad = (
            np.concatenate(pair) for pair in zip((cell, candidate, user, bad), more, strict=True)
        )
    size, shape = requests.runs * slices, (requests.runs, slices)

    def tally(which: Bools) -> Ints:
        return np.bincount(cell[which], minlength=size).reshape(shape)

    firsts = [np.zeros(shape, dtype=np.int64)] * 3
    if world.users is not None:
        one = _first(cell, user, bad, slices, world.users.count)
        firsts = [np.bincount(cell[one[candidate[one] == arm]], minlength=size).reshape(shape) for arm in (True, False)]
        mine = requests.cell[requests.new & requests.candidate]
        firsts.append(np.bincount(mine, minlength=size).reshape(shape))
    return Counts(tally(candidate), tally(candidate & bad), tally(~candidate), tally(~candidate & bad), *firsts)


def _again(
    requests: Requests, failed: Bools, retries: Retries, random: np.random.Generator
) -> tuple[Ints, Bools, Ints, Bools]:
    """The retries: in the same stretch, by the same user, on the same version where users keep theirs."""
    now = np.flatnonzero(failed)
    found: list[tuple[Ints, Bools, Ints, Bools]] = []
    for _ in range(retries.most):
        now = now[random.random(len(now)) < retries.again]
        same = requests.candidate[now]
        arm = same if requests.world.sticky else random.random(len(now)) < requests.world.share
        bad = random.random(len(now)) < retries.fails
        found.append((requests.cell[now], arm, requests.user[now], bad))
        now = now[bad]
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _lost(
    requests: Requests, deaths: tuple[float, int], random: np.random.Generator
) -> tuple[Ints, Bools, Ints, Bools]:
    """Requests that were with a replica when it died. A version's replicas are as many as it has of the traffic."""
    world = requests.world
    number = random.poisson(deaths[0] * world.seconds / 3600.0 * requests.runs)
    cell = np.repeat(random.integers(0, requests.runs * world.slices, number), deaths[1])
    arm = np.repeat(random.random(number) < world.share, deaths[1])
    return cell, arm, np.full(len(cell), -1), np.ones(len(cell), dtype=bool)


def _first(cell: Ints, user: Ints, bad: Bools, slices: int, users: int) -> Ints:
    """Indices of each user's first failure in a run."""
    failing = np.flatnonzero(bad)
    failing = failing[np.argsort(cell[failing], kind="stable")]
    _, first = np.unique(cell[failing] // slices * users + user[failing], return_index=True)
    return failing[first]


def healthy(world: World, **changes: object) -> World:
    """The same world with something else in it."""
    return replace(world, **changes)  # type: ignore[arg-type]
