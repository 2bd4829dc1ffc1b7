"""What `mainspring simulate` is asked: the command line's words made into arrivals, a fleet and times of service.

What this is: reading and checking. Who calls it: `simulate.py`. What it must never do: leave out what was assumed.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mainspring.cli.output import talk
from mainspring.cli.reading import first_bytes
from mainspring.decide.scale import Rules, rules_of
from mainspring.errors import InputError
from mainspring.facts.traces import parse
from mainspring.loop.room import regions_of
from mainspring.stack import units
from mainspring.stack.fleet_units import Spread
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint, Quantiles, Scale
from mainspring.worlds.twin.arrivals import SHAPES, Arrivals, Lengths, drawn, of_trace
from mainspring.worlds.twin.queueing import Fleet
from mainspring.worlds.twin.service import Service, measured

HELP = "mainspring simulate --help"
MOST_BYTES = 512 << 20
MOST_REQUESTS = 5_000_000
MOST_SECONDS = 14 * 86400.0
MONDAY = 1_767_571_200.0
"""A Monday, 00:00 UTC: where a day begins, for schedules."""

Said = dict[str, Any]
Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Asked:
    """Everything that a simulation takes."""

    name: str  # the endpoint's
    arrivals: Arrivals
    fleet: Fleet
    service: Service
    rules: Rules
    wait: float  # s that a request may wait for a slot, to be in time
    promised: bool  # whether the file promises that
    rests_on: tuple[str, ...]  # what was assumed or measured


def asked(stack: Stack, said: Said) -> Asked:
    """Read the words. Raises `InputError`."""
    name, endpoint = _endpoint(stack, said["endpoint"])
    rules, scale = rules_of(endpoint, regions=regions_of(stack, endpoint)), endpoint.scale or Scale()
    service = _service(said["bench"])
    arrivals = _arrivals(endpoint, said)
    loading, assumed = (
        (60.0, " (assumed: --load says it)") if said["load"] is None else (_unit(units.seconds, said["load"]), "")
    )
    slots = endpoint.at_once or max(1, math.ceil(scale.queue))
    price = _price(stack, endpoint, said["price"])
    fleet = Fleet(
        slots, loading, endpoint.queue, scale.hold, endpoint.deadline, begin=rules.least, wall=MONDAY, price=price
    )  # fmt: skip
    notes = [service.says, f"a replica takes {loading:g} s to load{assumed}"]
    if not endpoint.at_once:
        notes.append(f"a replica works on {slots} requests at once (assumed from `scale.queue`: `slots` says it)")
    wait = rules.objective
    if wait is None:
        wait = float((service.fixed + arrivals.prompt * service.prefill + arrivals.output * service.decode).mean())
        notes.append(f"in time is a wait of {wait:.3g} s, as long as a request takes: no objective is promised")
    return Asked(name, arrivals, fleet, service, rules, wait, rules.objective is not None, tuple(notes))


def _endpoint(stack: Stack, name: str | None) -> tuple[str, Endpoint]:
    known = list(stack.serving)
    if name is None and len(known) != 1:
        many = f"the stack has {len(known)} endpoints: {', '.join(known[:8])}" if known else "the stack has no endpoint"
        raise InputError("which-endpoint", many, f"mainspring simulate --endpoint {known[0]}" if known else HELP)
    name = name if name is not None else known[0]
    if name not in stack.serving:
        near = difflib.get_close_matches(name[:60], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"one of: {', '.join(known[:8])}"
        raise InputError("no-endpoint", f"there is no endpoint `{name[:60]}`", hint)
    endpoint = stack.serving[name]
    if endpoint.replicas.low == endpoint.replicas.high:
        message = f"`serving.{name}.replicas` is `{endpoint.replicas}`, not a range: there is nothing to scale"
        raise InputError("no-range", message, f"write `replicas: {_range(endpoint.replicas)}`")
    return name, endpoint


def _range(there: Spread) -> str:
    return f"{max(1, there.low)}..{2 * max(1, there.low)}"


def _arrivals(endpoint: Endpoint, said: Said) -> Arrivals:
    speed = said["speed_up"]
    if not (math.isfinite(speed) and speed > 0):
        raise InputError("bad-speed", f"`--speed-up {speed:g}` is not more than nothing", HELP)
    span = None if said["span"] is None else _unit(units.seconds, said["span"])
    if span is not None and not 1.0 <= span <= MOST_SECONDS:
        raise InputError("bad-time", f"`--for {said['span']}` is not between 1s and 14d", HELP)
    if said["trace"] is not None:
        if said["rate"] is not None or said["shape"] is not None:
            raise InputError("two-sources", "`--trace` and `--rate` both say what comes", "leave one out")
        return _trace(said["trace"], speed, span)
    rate = _rate(endpoint, said["rate"]) * speed
    seconds, shape = span or 86400.0, said["shape"] or "day"
    if rate * seconds > MOST_REQUESTS:
        message = f"`{rate * seconds:,.0f}` requests are more than {MOST_REQUESTS:,}"
        raise InputError("too-many", message, "--for a shorter time")
    return drawn(SHAPES[shape](rate, seconds, said["seed"]), _lengths(endpoint), said["seed"], f"{shape}, {rate:g}/s")


def _trace(path: Path, speed: float, span: float | None) -> Arrivals:
    raw = first_bytes(path, MOST_BYTES + 1, shown=str(path), code="bad-trace", hint=HELP, unpack=path.suffix == ".gz")
    if len(raw) > MOST_BYTES:
        raise InputError("too-large", f"`{path}` is larger than {MOST_BYTES >> 20} MiB", "take a part of it")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("bad-trace", f"`{path}` is no text: {error}", HELP) from error
    trace = parse(text.splitlines(), path.name)
    for complaint in trace.complaints:
        talk(f"note: {complaint}")
    found = of_trace(trace, speed, span)
    if found.seconds > MOST_SECONDS:
        raise InputError("bad-time", f"`{path}` goes on for {found.seconds / 86400:.0f} days", "--for 14d, at most")
    return found


def _rate(endpoint: Endpoint, said: str | None) -> float:
    if said is not None:
        found: float = _unit(units.rate, said).per_second
    elif endpoint.traffic is not None and endpoint.traffic.requests is not None:
        found = endpoint.traffic.requests.per_second
    else:
        raise InputError("no-arrivals", "nothing says what comes", "mainspring simulate --rate 5/s --shape day")
    if not 0 < found <= 10_000:
        raise InputError("bad-rate", f"`{said}` is not between none and 10,000 a second", HELP)
    return found


def _lengths(endpoint: Endpoint) -> Lengths:
    traffic, usual = endpoint.traffic, Lengths()
    if traffic is None:
        return usual

    def of(said: Quantiles | None, otherwise: tuple[float, float]) -> tuple[float, float]:
        return otherwise if said is None else (said.p50, said.p95 or said.p50)

    return Lengths(of(traffic.prompt, usual.prompt), of(traffic.output, usual.output))


def _service(paths: tuple[Path, ...]) -> Service:
    if not paths:
        return Service()
    results = []
    for path in paths:
        raw = first_bytes(path, MOST_BYTES, shown=str(path), code="bad-bench", hint="mainspring bench URL -o json")
        try:
            results.append(json.loads(raw))
        except ValueError as error:
            raise InputError("bad-bench", f"`{path}` is no JSON: {error}", "mainspring bench URL -o json") from error
    return measured(results, [path.name for path in paths])


def _price(stack: Stack, endpoint: Endpoint, said: str | None) -> float:
    """Dollars an hour of a replica; 0.0 where nobody says."""
    if said is not None:
        return _unit(units.price, said)
    if endpoint.gpus is None or endpoint.gpus.slice or endpoint.gpus.name not in stack.compute:
        return 0.0
    pool = stack.compute[endpoint.gpus.name]
    each = pool.gpus.count if pool.gpus is not None else 1
    return pool.per_hour / each * endpoint.gpus.count


def _unit(reads: Callable[[object], Read], text: str) -> Read:
    try:
        return reads(text)
    except ValueError as error:
        raise InputError("bad-unit", str(error), HELP) from error
