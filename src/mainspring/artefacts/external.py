"""A model that is served elsewhere: its version is where it is, and how it may be asked.

What this is: the settings of a manifest in the format `external`, with names and ranges checked. Who calls it: whoever
reads a manifest, `models add`, and the replica that stands for the server.
What it must never do: hold a key; `key` names the variable of the environment that has it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from urllib.parse import urlsplit

from mainspring.errors import InputError

Value = str | int | float | bool

PROTOCOLS = ("openai", "oip", "oip1", "tfserving", "torchserve")
_HINT = "mainspring models add NAME external --url https://HOST --protocol oip --served-as MODEL"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_RATE = re.compile(r"([1-9][0-9]{0,8}|0?\.[0-9]{1,6})/(s|min|h)")
_KINDS = {"at_once": "whole number", "timeout": "number"}
_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class External:
    """Where a model is served, and its limits."""

    url: str  # "https://models.example.com": no path of the protocol's own, no user, no query
    protocol: str  # one of `PROTOCOLS`
    model: str = ""  # its name in the server; "": the endpoint's
    health: str = ""  # a path that answers 200 while it can be asked; "": the protocol's own
    key: str = ""  # "env:NAME": the variable that holds the bearer token
    at_once: int = 0  # requests on their way together; 0: as many as come
    rate: str = ""  # "10/s", "600/min": requests that it may be sent; "": as many as come
    timeout: float = 0.0  # seconds that it may be silent; 0: 60

    @property
    def language(self) -> bool:
        """Whether it is a language model."""
        return self.protocol == "openai"

    @property
    def per_second(self) -> float | None:
        """The rate in requests a second; None for no limit."""
        match = _RATE.fullmatch(self.rate)
        return None if match is None else float(match[1]) / _SECONDS[match[2]]

    def settings(self) -> dict[str, Value]:
        """As a manifest has them: what is not its default."""
        return {name: value for name, value in asdict(self).items() if value not in ("", 0)}


def read_external(given: Mapping[str, Value]) -> External:
    """The settings of a manifest; InputError `bad-external` for an unknown name or a value that makes no sense."""
    known = {field.name: field.type for field in fields(External)}
    for name, value in given.items():
        if name not in known:
            _refuse(f"there is no setting `{name:.60}`; there are: {', '.join(f'`{one}`' for one in known)}")
        kind = _KINDS.get(name, "text")
        if type(value) not in {"text": (str,), "whole number": (int,), "number": (int, float)}[kind]:
            _refuse(f"the setting `{name}: {str(value)[:60]}` is no {kind}")
    for name in ("url", "protocol"):
        if not given.get(name):
            _refuse(f"the setting `{name}` is missing")
    found = External(**given)  # type: ignore[arg-type]  # each was checked by its name
    _check(found)
    return found


def digest_of_external(given: Mapping[str, Value]) -> str:
    """The digest of a version that is elsewhere: of its settings, since its weights are not at hand."""
    text = json.dumps(dict(given), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _check(found: External) -> None:
    parts = urlsplit(found.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not found.url.isprintable() or " " in found.url:
        _refuse(f"`url: {parts.scheme}://{parts.hostname or ''}` is not `http://HOST` or `https://HOST`")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        _refuse("`url` carries a user, a password, a query or a fragment: a key goes into a variable, `key: env:NAME`")
    try:
        _ = parts.port
    except ValueError:
        _refuse(f"`url` has a port that is none: `{parts.netloc.rpartition(':')[2]:.20}`")
    if found.protocol not in PROTOCOLS:
        _refuse(f"`protocol: {found.protocol:.40}` is not known; there are: {', '.join(f'`{p}`' for p in PROTOCOLS)}")
    if found.key and not (found.key.startswith("env:") and _NAME.fullmatch(found.key[4:])):
        _refuse("`key` must be `env:NAME`, the variable of the environment that holds it, and never the key itself")
    if found.health and not re.fullmatch(r"/[\x21-\x7e]{0,200}", found.health):
        _refuse(f"`health: {found.health[:60]}` is no path such as `/health`")
    if found.model and (len(found.model) > 200 or not found.model.isprintable()):
        _refuse(f"`model: {found.model[:60]}` is no name of at most 200 printable characters")
    if not 0 <= found.at_once <= 100_000:
        _refuse(f"`at_once: {found.at_once}` is not between 1 and 100,000")
    if not 0 <= found.timeout <= 3600:
        _refuse(f"`timeout: {found.timeout}` is not between 0 and 3600 seconds")
    if found.rate and found.per_second is None:
        _refuse(f"`rate: {found.rate[:40]}` is no rate such as `10/s` or `600/min`")


def _refuse(message: str) -> None:
    raise InputError("bad-external", message, _HINT)
