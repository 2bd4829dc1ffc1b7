"""`mainspring keys`: the tokens that requests to an endpoint show.

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
from mainspring.worlds.local import tokens


@click.group()
def keys() -> None:
    """Make, list, rotate and revoke the tokens of endpoints with `auth: token`."""


@keys.command()
@click.argument("endpoints", nargs=-1, required=True)
@click.option("--name", default="", help="Whose it is, such as `anna`.")
@click.option("--expires", metavar="30d", help="How long it is good for.  [default: until it is revoked]")
@pass_options
def create(options: Options, endpoints: tuple[str, ...], name: str, expires: str | None) -> None:
    """Make a token for ENDPOINTS and print it, once: only its hash is kept."""
    _known(options, endpoints)
    now = time.time()
    if len(name) > 100 or not name.isprintable():
        raise InputError("bad-name", f"`{name[:40]}` is no name: at most 100 printable characters")
    _show_once(options, *tokens.create(options.state, endpoints, name, now, _end(now, expires)))


def _show_once(options: Options, key: tokens.Key, token: str) -> None:
    if options.output == "table":
        talk(f"key {key.id} for {', '.join(key.endpoints)}; the token is shown this once:")
        click.echo(token)
    else:
        emit({**_shown(key), "token": token}, options.output)


@keys.command(name="list")
@pass_options
def list_(options: Options) -> None:
    """List the tokens that exist, without the tokens."""
    found = [_shown(key) for key in tokens.listed(options.state)]
    if options.output != "table":
        emit(found, options.output)
        return
    if not found:
        talk("no keys yet: `mainspring keys create ENDPOINT`")
    rows = [
        {**one, "endpoints": ", ".join(one["endpoints"]), "created": moment(one["created"]),
         "expires": moment(one["expires"]) if one["expires"] else "never"}
        for one in found
    ]  # fmt: skip
    emit(rows, "table", ["id", "name", "endpoints", "created", "expires"])


@keys.command()
@click.argument("key")
@pass_options
def revoke(options: Options, key: str) -> None:
    """Take the token with id KEY back; every gateway worker refuses it within a second."""
    gone = tokens.revoke(options.state, key)
    talk(f"key {gone.id}{f' of {gone.name}' if gone.name else ''} is revoked")


@keys.command()
@click.argument("key")
@click.option(
    "--overlap", metavar="1h", default="1h", show_default=True, help="How long the old one stays good; 0s: not at all."
)
@pass_options
def rotate(options: Options, key: str, overlap: str) -> None:
    """Make a token in place of the one with id KEY: the same endpoints, name and end. It is printed once."""
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


def _known(options: Options, endpoints: tuple[str, ...]) -> None:
    """Refuse an endpoint that the stack file does not have; without a file there is nothing to compare with."""
    from mainspring.stack.load import load
    from mainspring.stack.problems import did_you_mean

    stack = load(options.file)
    for name in endpoints:
        if name not in stack.serving:
            message = f"`serving` has no endpoint called `{name[:40]}`{did_you_mean(name, stack.serving)}"
            raise InputError("unknown-endpoint", message, "mainspring explain serving")
        if stack.serving[name].auth != "token":
            talk(f"note: `serving.{name}.auth` is `none`: its requests need no token yet")
