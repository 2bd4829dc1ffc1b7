"""What a key may use: read from options, checked against the stack file, and shown in few words.

What this is: the words of `mainspring keys create` as limits, and back. Who calls it: `cli/keys.py`. What it must never
do: count anything, or parse a limit otherwise than the stack file does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from mainspring.decide.limits import NANO, Limit
from mainspring.errors import InputError
from mainspring.loop.limits import tenant_route
from mainspring.stack.fleet_units import tokens
from mainspring.stack.problems import did_you_mean
from mainspring.stack.serving import Endpoint
from mainspring.stack.tenants import PERIODS, Tenant, allowances
from mainspring.stack.units import Rate, budget

T = TypeVar("T")
U = TypeVar("U")
_EXAMPLE = "mainspring keys create ENDPOINT --requests 60/min --tokens 2M/day --budget $20/month"
_WORDS = {"requests": "requests", "tokens": "tokens", "at_once": "at once"}


def limits(
    requests: tuple[str, ...], tokens: tuple[str, ...], at_once: int | None, budget: str | None
) -> tuple[Limit, ...]:
    """The limits that options name; raises `InputError`: none of zero, and one for each period."""
    given = Tenant.model_construct(
        requests=_parsed("--requests", allowances, requests) if requests else (),
        tokens=_parsed("--tokens", allowances, tokens) if tokens else (),
        at_once=at_once,
        budget=None if budget is None else _parsed("--budget", _of_a_month, budget),
    )
    return tenant_route(given).limits


def _of_a_month(text: str) -> Rate:
    found = budget(text)
    if PERIODS.get(found.per) != "month":
        raise ValueError(f"`{text}` is not a budget of a calendar month: write it as `$20/month`")
    if not 1 <= found.count * NANO <= 10**18:
        raise ValueError(f"`{text}` is no budget: it lets nothing in, or everything")
    return found


def context(text: str | None) -> int:
    """Tokens that one request may have, its answer included; 0 when nothing is said. Raises `InputError`."""
    if text is None:
        return 0
    found = int(_parsed("--context", tokens, text))
    if found < 1:
        raise InputError("bad-limit", f"--context: `{text[:40]}` lets nothing in", _EXAMPLE)
    return found


def _parsed(option: str, parse: Callable[[T], U], value: T) -> U:
    try:
        return parse(value)
    except ValueError as error:
        raise InputError("bad-limit", f"{option}: {error}", _EXAMPLE) from error


def tenant_of(tenant: str, serving: dict[str, Endpoint], endpoints: Iterable[str]) -> None:
    """See that a key's tenant is one of each of its endpoints; raises `InputError` that names those that are."""
    for name in endpoints:
        known = serving[name].tenants
        shown = ", ".join(f"`{one}`" for one in list(known)[:10]) + (", …" if len(known) > 10 else "")
        if tenant and not known:
            message = f"`serving.{name}` has no tenants, so no key of it can belong to `{tenant[:40]}`"
            raise InputError("unknown-tenant", message, "mainspring explain serving.tenants")
        if known and not tenant:
            message = f"a key of `{name}` belongs to one of its tenants: {shown}"
            raise InputError("tenant-missing", message, f"mainspring keys create {name} --tenant {next(iter(known))}")
        if known and tenant not in known:
            message = (
                f"`serving.{name}` has no tenant called `{tenant[:40]}`{did_you_mean(tenant, known)}; it has {shown}"
            )
            raise InputError("unknown-tenant", message, "mainspring explain serving.tenants")


def shown(given: Iterable[Limit], context: int) -> list[str]:
    """Limits in few words, a line each: `60 requests/min`, `2M tokens/day`, `4 at once`, `$20/month`."""
    lines = []
    for limit in given:
        per = f"/{limit.per}" if limit.per else ""
        if limit.what == "dollars":
            lines.append(f"${limit.amount / NANO:,.9f}".rstrip("0").rstrip(".") + per)
        else:
            lines.append(f"{_short(limit.amount)} {_WORDS[limit.what]}{per}")
    return [*lines, f"{_short(context)} of context"] if context else lines


def _short(count: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if count and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)
