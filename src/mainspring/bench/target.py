"""What is asked: an address, one of four interfaces, a model, and a secret that is never shown.

What this is: `Target`, and the reading of an address as a person writes it. Who calls it: `mainspring bench`, the
latency gate. What it must never do: show the token, or open a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from mainspring.errors import InputError

APIS: Mapping[str, str] = MappingProxyType(
    {"chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings", "infer": "/infer"}
)
"""Interfaces and how their paths end: three of OpenAI, and `infer` of the Open Inference Protocol."""
STREAMED = ("chat", "completions")
HINT = "mainspring bench http://127.0.0.1:8080/v1 --model chat --rate 5/s --for 30s"


@dataclass(frozen=True, slots=True)
class Target:
    """One interface of one server. Made by `Target.of`, which reads an address."""

    secure: bool
    host: str
    port: int
    path: str
    api: str  # a key of `APIS`
    model: str = ""
    stream: bool = True  # of chat and completions only
    ignore_eos: bool = False  # answers go on to `max_tokens`; engines that don't know the word may refuse it
    more: Mapping[str, Any] = field(default_factory=dict)  # further fields of the body, such as temperature
    token: str = field(default="", repr=False)  # sent as `Authorization: Bearer`
    connections: int = 1024  # open at once, at most

    @classmethod
    def of(
        cls, url: str, *, model: str = "", api: str = "", stream: bool = True, ignore_eos: bool = False,
        more: Mapping[str, Any] | None = None, token: str = "", connections: int = 1024,
    ) -> Self:  # fmt: skip
        """Read `http://HOST:PORT`, `.../v1`, or a whole path such as `.../v1/embeddings` or `.../v2/models/M/infer`.

        Raises `InputError` for what is no address, or a model that is missing.
        """
        secure, host, port, path = _address(url)
        api, path = _interface(path, api, model)
        if api == "infer":
            model = unquote(path.split("/models/", 1)[1].split("/", 1)[0]) if "/models/" in path else model
        elif not model:
            raise InputError("no-model", f"`{url}` serves models by name: which one is meant?", HINT)
        if any(char <= " " or char == "\x7f" for char in token):
            raise InputError("bad-token", "the token has a space or a control character in it", HINT)
        if connections < 1:
            raise InputError("bad-connections", f"`{connections}` connections are none", HINT)
        stream = stream and api in STREAMED
        return cls(secure, host, port, path, api, model, stream, ignore_eos, dict(more or {}), token, connections)

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole address, as it is shown."""
        return f"{'https' if self.secure else 'http'}://{self.address}{self.path}"


def _address(url: str) -> tuple[bool, str, int, str]:
    """Whether by TLS; host, port, path. Raises `InputError`."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or not url.isascii():
        raise InputError("bad-url", f"`{url[:100]}` is no address of HTTP", HINT)
    if any(char <= " " or char == "\x7f" for char in url):
        raise InputError("bad-url", f"`{url[:100]}` has a space in it", HINT)
    secure = parts.scheme == "https"
    return secure, host, port or (443 if secure else 80), parts.path.rstrip("/")


def _interface(path: str, api: str, model: str) -> tuple[str, str]:
    """The interface that a path means, and the whole path. Raises `InputError`."""
    if api and api not in APIS:
        raise InputError("bad-api", f"`{api[:40]}` is none of {', '.join(APIS)}", HINT)
    meant = next((name for name, end in APIS.items() if path.endswith(end)), "")
    if meant:
        if api and api != meant:
            raise InputError("bad-api", f"`{path[:100]}` is the path of {meant}, not of {api}", HINT)
        return meant, path
    api = api or "chat"
    if api != "infer":
        return api, (path if path.endswith("/v1") else f"{path}/v1") + APIS[api]
    if not path.endswith(f"/models/{model}"):
        if not model:
            raise InputError("no-model", "the Open Inference Protocol has the model in its path: which one?", HINT)
        path = f"{path.removesuffix('/v2')}/v2/models/{model}"
    return api, f"{path}/infer"
