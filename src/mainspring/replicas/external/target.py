"""Where requests go: the one host, and the paths that may be asked there.

What this is: pure. A path is matched as a whole against what its protocol has, and made anew, so nothing that a client
wrote (`..`, another host, a query, a fragment) reaches the server. Who calls it: the forwarder.
What it must never do: give a path that was not one of the protocol's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

from mainspring.artefacts.external import External
from mainspring.errors import InputError

_ONE = r"[A-Za-z0-9._~%@+-]{1,300}"  # a name in a path
_V2 = rf"/v2/models/{_ONE}(?:/versions/{_ONE})?"
_V1 = rf"/v1/models/{_ONE}(?:/versions/{_ONE})?"

_LISTED = {
    "openai": (
        ("POST", "/v1/(chat/completions|completions|embeddings)", r"/v1/\1"),
        ("GET", "/v1/(models)", r"/v1/\1"),
    ),
    "oip": (
        ("POST", f"{_V2}/(infer)", r"/v2/models/{model}/\1"),
        ("GET", f"{_V2}(|/ready)", r"/v2/models/{model}\1"),
        ("GET", "/v2/health/(live|ready)", r"/v2/health/\1"),
    ),
    "oip1": (("POST", f"{_V1}:(predict)", r"/v1/models/{model}:\1"), ("GET", f"{_V1}()", r"/v1/models/{model}\1")),
    "torchserve": (
        ("POST", f"/(predictions)/{_ONE}(?:/{_ONE})?", r"/\1/{model}"),
        ("GET", "/(ping)", r"/\1"),
    ),
}
_LISTED["tfserving"] = _LISTED["oip1"]
_ALIVE = {
    "openai": "/v1/models", "oip": "/v2/health/ready", "oip1": "/v1/models/{model}", "tfserving": "/v1/models/{model}",
    "torchserve": "/ping",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A server elsewhere."""

    tls: bool
    host: str  # a name or an address, without brackets
    port: int
    authority: str  # what the `Host` header says
    prefix: str  # of each path; "" or "/some/where"
    protocol: str
    model: str  # its name there
    health: str  # the whole path that says whether it is well

    def path(self, method: str, asked: str) -> str | None:
        """The path there for one that was asked here; None for what the protocol does not have."""
        for listed, pattern, made in _LISTED[self.protocol]:
            found = re.fullmatch(pattern, asked) if listed == method else None
            if found is not None:
                return self.under(found.expand(made).replace("{model}", quote(self.model, safe="")))
        return None

    def under(self, path: str) -> str:
        """A path below the prefix, which may end with the protocol's own first part (`https://HOST/v1`)."""
        version = path[:3]
        again = version in ("/v1", "/v2") and self.prefix.endswith(version)
        return self.prefix + (path[3:] if again else path)


def target_of(found: External, name: str) -> Target:
    """The server of a version's settings; `name` is what it calls the model where they don't say.

    Raises `InputError` for a host that is no name.
    """
    parts = urlsplit(found.url)
    tls = parts.scheme == "https"
    try:
        host = (parts.hostname or "").encode("idna").decode() if ":" not in (parts.hostname or "") else parts.hostname
        port = parts.port
    except (UnicodeError, ValueError) as error:
        raise InputError("bad-external", f"`{found.url}` has no host that can be asked: {error}") from error
    assert host is not None
    if found.protocol not in _LISTED:
        raise InputError("bad-external", f"`protocol: {found.protocol}` can't be forwarded")
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port is None or port == (443 if tls else 80) else f"{shown}:{port}"
    prefix = quote(parts.path.rstrip("/"), safe="/%~:@!$&'()*+,;=")
    bare = Target(
        tls, host, port or (443 if tls else 80), authority, prefix, found.protocol, found.model or name, found.health
    )
    alive = bare.under(_ALIVE[found.protocol].replace("{model}", quote(bare.model, safe="")))
    return bare if found.health else replace(bare, health=alive)
