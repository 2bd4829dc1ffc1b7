"""The words of `mainspring bench` made into a target and a plan.

What this is: reading options and files; each mistake is told with its value and the next step. Who calls it:
`bench.py`. What it must never do: show a token, or read a file without bound.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mainspring.cli.output import Options, talk
from mainspring.cli.reading import first_bytes
from mainspring.errors import EnvironmentError_, InputError

if TYPE_CHECKING:
    from mainspring.bench.plan import Plan
    from mainspring.bench.prompts import Prompts
    from mainspring.bench.target import Target

MOST = 256 * 2**20
"""Bytes of a file of prompts, bodies or arrivals that are read at most, decompressed."""
HELP = "mainspring bench --help"
_LENGTH = re.compile(r"(\d+)(?:\s*tokens?)?")
Read = TypeVar("Read")
Said = Mapping[str, Any]


def target_of(options: Options, where: str, said: Said) -> Target:
    """What is asked: an address, or an endpoint of the stack that is up here. Raises `MainspringError`."""
    from mainspring.bench.target import Target

    path = urlsplit(where if "://" in where else f"http://{where}").path
    api = said["api"] or ("infer" if said["body"] is not None and "/v1" not in path else "")
    model = said["model"]
    if not any(char in where for char in ":/"):
        model, where = model or where, _gateway(options, where)
    return Target.of(
        where,
        model=model,
        api=api,
        stream=not said["no_stream"],
        ignore_eos=said["ignore_eos"],
        more=dict(_field(one) for one in said["more"]),
        token=_token(said["token"]),
        connections=said["connections"],
    )


def _gateway(options: Options, endpoint: str) -> str:
    """The address of the gateway that serves an endpoint of this folder's stack. Raises `MainspringError`."""
    from mainspring.cli.client import Client

    told = Client(options.state).get("/v1/status")
    names = [one["name"] for one in told["endpoints"]]
    if endpoint not in names:
        there = ", ".join(f"`{name}`" for name in names) or "none"
        raise InputError("no-such-endpoint", f"no endpoint `{endpoint}`: there are {there}", "mainspring status")
    address = told["gateway"]["address"]
    if not address:
        raise EnvironmentError_("gateway-away", "no gateway is ready", "mainspring status")
    return f"http://{address}"


def _token(text: str | None) -> str:
    """The secret in a variable. Raises `InputError`, which never shows what was given."""
    if text is None:
        return ""
    name = text.removeprefix("env:")
    if name == text or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InputError("bad-token", "a token is given by the name of its variable, `env:NAME`", HELP)
    found = os.environ.get(name, "").strip()
    if not found:
        raise InputError("no-token", f"the variable `{name}` is not set", f"export {name}=...")
    return found


def _field(text: str) -> tuple[str, object]:
    """A field of the body: JSON, or text where it is no JSON."""
    import json

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError("bad-field", f"`{text[:60]}` is no field", "as in: --set temperature=0")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def plan_of(said: Said) -> Plan:
    """What is sent, and when. Raises `InputError`."""
    from mainspring.bench.objective import Objective
    from mainspring.bench.plan import Plan
    from mainspring.stack.units import rate

    more: dict[str, Any] = {"timeout": _seconds(said["timeout"]), "warmup": _seconds(said["warmup"] or "0s")}
    if said["objective"]:
        more["objective"] = Objective.parse(said["objective"])
    if said["requests"] is not None:
        if said["requests"] < 1:
            raise InputError("bad-requests", f"`{said['requests']}` requests are none", HELP)
        more["most"] = said["requests"]
    if said["length"] < 0:
        raise InputError("bad-output", f"`{said['length']}` tokens are none", HELP)
    if said["trace"] is not None:
        return _traced(said, more)
    more |= {"prompts": _prompts(said), "output": said["length"]}
    span = _seconds(said["span"] or "30s")
    if said["concurrency"] is not None:
        return Plan.lasting(span, **more)
    each = _unit(rate, said["rate"]).per_second
    if said["even"]:
        return Plan.constant(each, span, **more)
    return Plan.poisson(each, span, seed=said["seed"], **more)


def _traced(said: Said, more: dict[str, Any]) -> Plan:
    from mainspring.bench.plan import Plan
    from mainspring.facts.traces import parse

    path: Path = said["trace"]
    trace = parse(_text(path).splitlines(), path.name)
    for complaint in trace.complaints:
        talk(f"note: {complaint}")
    if said["prompts"] is not None or said["body"] is not None:
        more |= {"prompts": _prompts(said)}
    span = _seconds(said["span"]) if said["span"] else 0.0
    return Plan.trace(trace, seconds=span, speed=said["speed"], seed=said["seed"], **more)


def _prompts(said: Said) -> Prompts:
    from mainspring.bench.prompts import Words, read_bodies, read_texts

    if said["body"] is not None:
        return read_bodies(_bytes(said["body"]), said["body"].name)
    if said["prompts"] is not None:
        return read_texts(_text(said["prompts"]), said["prompts"].name)
    match = _LENGTH.fullmatch(said["prompt"].strip())
    if match is None or not 1 <= int(match[1]) <= 1_000_000:
        raise InputError("bad-prompt", f"`{said['prompt'][:40]}` is no length of a prompt", "--prompt '200 tokens'")
    if not 0 <= said["shared_prefix"] <= 1:
        raise InputError("bad-share", f"`{said['shared_prefix']:g}` is no share", "--shared-prefix 0.5")
    return Words(int(match[1]), said["shared_prefix"], said["seed"])


def _seconds(text: str) -> float:
    from mainspring.stack.units import seconds

    return _unit(seconds, text)


def _unit(reads: Callable[[object], Read], text: str) -> Read:
    try:
        return reads(text)
    except ValueError as error:
        raise InputError("bad-unit", str(error), HELP) from error


def _bytes(path: Path) -> bytes:
    packed = path.name.endswith(".gz")
    data = first_bytes(path, MOST + 1, shown=str(path), code="unreadable", hint=HELP, unpack=packed)
    if len(data) > MOST:
        raise InputError("too-large", f"`{path}` is larger than {MOST >> 20} MiB", "take a part of it")
    return data


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("unreadable", f"`{path}` can't be read: it is not UTF-8 text", HELP) from error
