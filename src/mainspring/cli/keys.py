"""`mainspring keys`: the tokens that requests to an endpoint show, and those that people show the control API.

What this is: making, listing, rotating and revoking, straight in the state folder: it works with and without a
controller. Who calls it: `cli/main.py`. What it must never do: show a token a second time.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from mainspring.cli.output import Options, emit, pass_options, talk
from mainspring.cli.status import moment
from mainspring.errors import InputError
from mainspring.facts.changes import ROLES
from mainspring.worlds.local import tokens


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke tokens: of endpoints with `auth: token`, and of the control API."""


@keys.command()
@click.argument("endpoints", nargs=-1)
@click.option("--name", default="", help="Whose it is, such as `anna`.")
@click.option("--expires", metavar="30d", help="How long it is good for.  [default: until it is revoked]")
@click.option("--tenant", default="", metavar="NAME", help="Which of the endpoints' `tenants` it belongs to.")
@click.option("--requests", multiple=True, metavar="60/min", help="Requests that it may send; once for each period.")
@click.option("--tokens", "tokens_", multiple=True, metavar="2M/day", help="Tokens of prompts and answers together.")
@click.option("--at-once", type=click.IntRange(1, 100_000), metavar="4", help="Requests on their way together.")
@click.option("--context", metavar="4k", help="Tokens of one request, its answer included.")
@click.option("--budget", metavar="$20/month", help="Dollars of a calendar month.")
@click.option("--role", type=click.Choice(ROLES), help="For the control API, not for endpoints: what it may do there.")
@pass_options
def create(
    options: Options, endpoints: tuple[str, ...], name: str, expires: str | None, tenant: str,
    requests: tuple[str, ...], tokens_: tuple[str, ...], at_once: int | None, context: str | None,
    budget: str | None, role: str | None,
) -> None:  # fmt: skip
    """Make a token for ENDPOINTS, or with --role for the control API, and print it, once: only its hash is kept.

    A tenant's limits hold for all its keys together; those given here are the key's own, over all its endpoints.
    """
    from mainspring.cli import key_limits

    now, endpoints = time.time(), tuple(dict.fromkeys(endpoints))
    if len(name) > 100 or not name.isprintable():
        raise InputError("bad-name", f"`{name[:40]}` is no name: at most 100 printable characters")
    more: dict[str, Any] = {
        "tenant": tenant,
        "limits": key_limits.limits(requests, tokens_, at_once, budget),
        "context": key_limits.context(context),
    }
    if role is None:
        _known(options, endpoints, tenant)
    else:
        _of_control(options, endpoints, role, limited=any(more.values()))
        more = {"role": role}
    _show_once(options, *tokens.create(options.state, endpoints, name, now, _end(now, expires), **more))


def _show_once(options: Options, key: tokens.Key, token: str) -> None:
    if options.output != "table":
        emit({**_shown(key), "token": token}, options.output)
        return
    what = f"the control API, role {key.role}" if key.role else ", ".join(key.endpoints)
    talk(f"key {key.id} for {what}; the token is shown this once:")
    click.echo(token)
    if key.role:
        from mainspring.cli.starting import told

        address = told(options.state).get("tcp") or "127.0.0.1:PORT"
        talk(f"it is used as: MAINSPRING_CONTROL=http://{address} MAINSPRING_TOKEN=… mainspring status")


@keys.command(name="list")
@pass_options
def list_(options: Options) -> None:
    """List the tokens that exist, without the tokens."""
    found = tokens.listed(options.state)
    if options.output != "table":
        emit([_shown(key) for key in found], options.output)
        return
    if not found:
        talk("no keys yet: `mainspring keys create ENDPOINT`")
    rows = [row for key in found for row in _rows(key)]
    emit(rows, "table", ["id", "name", "for", "tenant", "limits", "expires"])


def _rows(key: tokens.Key) -> list[dict[str, str]]:
    """A key in the list: a line, and one more for each further limit."""
    from mainspring.cli.key_limits import shown

    lines = shown(key.limits, key.context) or ["none" if key.endpoints else " "]
    first = {
        "id": key.id,
        "name": key.name or "<none>",
        "for": ", ".join(key.endpoints) or f"control: {key.role}",
        "tenant": key.tenant or " ",
        "limits": lines[0],
        "expires": moment(key.expires) if key.expires else "never",
    }
    return [first, *({**dict.fromkeys(first, " "), "limits": line} for line in lines[1:])]


@keys.command()
@click.argument("key")
@pass_options
def revoke(options: Options, key: str) -> None:
    """Take the token with id KEY back; every gateway worker, and the control API, refuses it within a second."""
    gone = tokens.revoke(options.state, key)
    talk(f"key {gone.id}{f' of {gone.name}' if gone.name else ''} is revoked")


@keys.command()
@click.argument("key")
@click.option(
    "--overlap", metavar="1h", default="1h", show_default=True, help="How long the old one stays good; 0s: not at all."
)
@pass_options
def rotate(options: Options, key: str, overlap: str) -> None:
    """Make a token in place of the one with id KEY, which may do the same until the same end. It is printed once."""
    left = _seconds(overlap, "rotate KEY --overlap 1h")
    _show_once(options, *tokens.rotate(options.state, key, time.time(), left))
    talk(f"key {key} ends in {overlap}, if not before" if left else f"key {key} is revoked")


def _shown(key: tokens.Key) -> dict[str, Any]:
    return {name: value for name, value in asdict(key).items() if name != "hash"}


def _end(now: float, expires: str | None) -> float | None:
    return None if expires is None else now + _seconds(expires, "create ENDPOINT --expires 30d")


def _seconds(text: str, example: str) -> float:
    from mainspring.stack.units import seconds

    try:
        return seconds(text)
    except ValueError as error:
        raise InputError("bad-time", str(error), f"mainspring keys {example}") from error


def _of_control(options: Options, endpoints: tuple[str, ...], role: str, *, limited: bool) -> None:
    """Refuse a key of the control API that is one of endpoints too, or has what only those have."""
    example = f"mainspring keys create --role {role} --name NAME"
    if endpoints:
        message = (
            f"a key is for endpoints (`{endpoints[0][:40]}`) or for the control API (`--role {role}`), not for both"
        )
        raise InputError("two-kinds", message, f"{example}, and another one for the endpoint")
    if limited:
        raise InputError("two-kinds", "tenants and limits are of keys for endpoints, not of the control API", example)
    if not options.state.exists() and not options.file.exists():
        raise InputError("no-such-file", f"there is no stack file `{options.file}`", "mainspring init")


def _known(options: Options, endpoints: tuple[str, ...], tenant: str) -> None:
    """Refuse an endpoint or a tenant that the stack file does not have."""
    from mainspring.cli.key_limits import tenant_of
    from mainspring.stack.load import load
    from mainspring.stack.problems import did_you_mean

    if not endpoints:
        message = "a key is for some endpoints, or with `--role` for the control API; nothing was said"
        raise InputError("key-for-nothing", message, "mainspring keys create --help")
    stack = load(options.file)
    for name in endpoints:
        if name not in stack.serving:
            message = f"`serving` has no endpoint called `{name[:40]}`{did_you_mean(name, stack.serving)}"
            raise InputError("unknown-endpoint", message, "mainspring explain serving")
        if stack.serving[name].auth != "token":
            talk(f"note: `serving.{name}.auth` is `none`: its requests need no token yet")
    tenant_of(tenant, stack.serving, endpoints)
