"""`mainspring rollout soak`: what a rollout can find out at this traffic, before it begins. Who calls it: `rollout.py`.

What this is: the stack file's stages, or one that is asked about, put through `decide/soak.py`. What it must never do:
take traffic for known that nobody said or saw.
"""

from __future__ import annotations

import difflib
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import click

from mainspring.cli.client import Client
from mainspring.cli.output import WIDTH, Options, emit, plain, talk
from mainspring.cli.status import length
from mainspring.decide.soak import Canary, Soak, soak
from mainspring.decide.stages import canary_of, part_of, regions_there
from mainspring.decide.terms import Terms
from mainspring.errors import EnvironmentError_, InputError
from mainspring.loop.rollout_evidence import terms_of
from mainspring.stack import units
from mainspring.stack.load import check
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint

HELP = "mainspring rollout soak --help"
Said = Mapping[str, str | None]
Read = TypeVar("Read")


def show(options: Options, endpoint: str, said: Said) -> None:
    """Write what each stage can find out. Raises `InputError`, `StackError`."""
    stack = check(options.file).stack
    spec = _endpoint(stack, endpoint)
    rate, source = _rate(options, endpoint, spec, said)
    terms = _promised(terms_of(stack, spec), said)
    usual = _read("--errors", said["usual"], units.share)
    found = [soak(one, terms, usual=usual) for one in _stages(stack, endpoint, spec, said, rate)]
    if not found:
        message = f"the rollout of `{endpoint}` has no stage that could find anything out"
        raise InputError("no-soak", message, f"mainspring rollout soak {endpoint} --share 5% --for 2h")
    if options.output != "table":
        emit([told(one) for one in found], options.output)
        return
    talk(f"{rate * 86_400:,.0f} requests a day ({source})")
    click.echo("\n\n".join(text(one) for one in found))


def told(one: Soak) -> dict[str, object]:
    """A soak as data: the sentences, the fields of `Soak`, and what follows of them."""
    derived = {
        "says": list(one.says()),
        "per_second": one.canary.per_second,
        "certain": one.certain,
        "detects": one.detects,
        "notices": one.notices,
        "hours": one.hours,
        "hours_everywhere": one.hours_everywhere,
        "hours_mirrored": one.hours_mirrored,
        "share": one.share,
    }
    found: dict[str, object] = plain({**derived, **plain(one)})
    return found


def text(one: Soak) -> str:
    """Sentences, and a table of what is found how soon."""
    lines = ["\n  ".join(textwrap.wrap(f"- {line}", WIDTH - 2)) for line in one.says()]
    if one.requests and one.errors:
        lines.append("\n  IF THIS SHARE FAILS  IT IS GIVEN UP  HALF OF THE TIMES WITHIN")
        for sight in one.errors:
            if sight.chance >= 0.005:
                within = length(sight.median) if math.isfinite(sight.median) else "not in its time"
                lines.append(f"  {sight.size * 100:>16.3g} %  {_chance(sight.chance):>14}  {within:>24}")
    return "\n".join(lines)


def _chance(chance: float) -> str:
    return "over 99 %" if chance > 0.99 else f"{chance * 100:.0f} %"


def _endpoint(stack: Stack, name: str) -> Endpoint:
    spec = stack.serving.get(name)
    if spec is None:
        near = difflib.get_close_matches(name[:60], stack.serving, n=1)
        meant = f"; did you mean `{near[0]}`?" if near else ""
        raise InputError("no-such-endpoint", f"there is no endpoint `{name[:60]}`{meant}", "mainspring explain serving")
    return spec


def _rate(options: Options, name: str, spec: Endpoint, said: Said) -> tuple[float, str]:
    """Requests/s of the endpoint, and who says so: the person, the gateway of late, or the stack file."""
    given = _read("--rate", said["rate"], units.rate)
    if given is not None:
        if given.per_second <= 0:
            raise InputError("bad-word", "--rate: `0` requests find nothing out", HELP)
        return given.per_second, "as said"
    seen = _seen(options, name)
    if seen:
        return seen, "as seen of late"
    if spec.traffic is not None and spec.traffic.requests is not None:
        return spec.traffic.requests.per_second, "the stack file's traffic"
    message = f"nobody says how many requests `{name}` gets: the stack file has no traffic, and none was seen"
    raise InputError("no-traffic", message, f"mainspring rollout soak {name} --rate 500k/day")


def _seen(options: Options, name: str) -> float:
    """Requests/s of the last minute; 0 where no controller is up, or nothing was seen."""
    try:
        told = Client(options.state).get("/v1/status", counts="false")
    except EnvironmentError_:
        return 0.0
    load = next((e["load"] for e in told["endpoints"] if e["name"] == name), None)
    return float(load["slow"] or 0.0) if load else 0.0


def _promised(terms: Terms, said: Said) -> Terms:
    kept = _read("--objective", said["objective"], units.share)
    if kept is None:
        return terms
    if not 0 < kept < 1:
        raise InputError("bad-word", f"--objective: `{said['objective']}` is no promise", HELP)
    return replace(terms, promised_errors=1.0 - kept)


def _stages(stack: Stack, name: str, spec: Endpoint, said: Said, rate: float) -> list[Canary]:
    """The stages that watch a part of the requests, or the one that is asked about."""
    region = said["region"] or ""
    there = regions_there(stack, spec)
    if region and region not in there:
        known = ", ".join(f"`{one}`" for one in there) or "none"
        raise InputError("no-such-region", f"`{name}` is in no region `{region[:60]}`; there are: {known}", HELP)
    several = [canary_of(stack, spec, stage, rate) for stage in spec.rollout if stage.kind not in ("waves", "all")]
    if said["share"] is None and said["span"] is None and not region:
        return [one for one in several if one.seconds]
    first = next((one for one in several if not one.mirror and one.seconds), Canary(rate, 0.05, 7200.0))
    share = _read("--share", said["share"], units.share)
    span = _read("--for", said["span"], units.seconds)
    if share == 0 or span == 0:
        raise InputError("bad-word", "a canary of nothing, or for no time, finds nothing out", HELP)
    asked = replace(first, share=share or first.share, seconds=span or first.seconds)
    return [replace(asked, region=region, part=part_of(stack, spec, region)) if region else asked]


def _read(option: str, value: str | None, read: Callable[[object], Read]) -> Read | None:
    """A word of the command line as the stack file reads it; None when it was not said."""
    if value is None:
        return None
    try:
        return read(value)
    except ValueError as error:
        raise InputError("bad-word", f"{option}: {error}", HELP) from error
