"""Gateway workers with tenants before fake language servers: made, changed while they run, asked, and added up.

What this is: one endpoint `chat` that asks for tokens, a ledger that all workers share, tenants that come and go. Who
calls it: tests of limits, fairness and metering. What it must never do: show a token of one tenant to another.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.decide.limits import Limit
from mainspring.gateway.ledger import Ledger
from mainspring.testing.serving import Process, Site, call
from mainspring.testing.stage import stats
from mainspring.testing.streaming import CHAT, Told, ask, ask_now, chat

ENDPOINT = "chat"
OPERATOR = "operator"
"""The id of the key with a role, which sees the tenants' figures."""


def token_of(key: str) -> str:
    """The token of a key, by its id: the same each time."""
    return "ms_" + hashlib.sha256(key.encode()).hexdigest()[:43]


def bearer(key: str) -> dict[str, str]:
    """The header that shows a key's token."""
    return {"authorization": f"Bearer {token_of(key)}"}


def limit(text: str) -> dict[str, Any]:
    """A limit as files write it: `60 requests/min`, `3 at_once`, `$0.5/month` in dollars."""
    if text.startswith("$"):
        dollars, _, per = text[1:].partition("/")
        return {"what": "dollars", "amount": round(float(dollars) * 1e9), "per": per}
    amount, _, rest = text.partition(" ")
    what, _, per = rest.partition("/")
    return {"what": what, "amount": int(amount), "per": per}


def as_limit(text: str) -> Limit:
    """The same as the ledger is asked for it."""
    return Limit(**limit(text))


def limited(told: Told, status: int, code: str) -> int:
    """Check a refusal in OpenAI's words; returns its `Retry-After`, 0 where it has none. Raises `AssertionError`."""
    error = told.json()["error"]
    assert (told.status, error["code"]) == (status, code), told
    assert error["type"] == {400: "invalid_request_error", 429: "rate_limit_error"}[status]
    return int(told.headers.get("retry-after", 0))


@dataclass
class Tenancy:
    """Tenants by name, each with a key of its own name; routes and keys are written anew with each change."""

    site: Site
    fakes: list[Process] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)  # of the endpoint
    beside: dict[str, Any] = field(default_factory=dict)  # other endpoints
    workers: list[Process] = field(default_factory=list)
    tenants: dict[str, dict[str, Any]] = field(default_factory=dict)  # as the routes have them
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id, as the keys file has them

    def __post_init__(self) -> None:
        """The key that may see everybody's figures."""
        self.keys[OPERATOR] = {"endpoints": [], "role": "viewer"}

    @property
    def ledger(self) -> str:
        """Where limits are counted."""
        return str(self.site.folder / "ledger")

    @property
    def address(self) -> str:
        """The first worker's."""
        return self.workers[0].address

    def start_fakes(self, count: int, *options: str) -> None:
        """Start replicas."""
        first = len(self.site.processes)
        fresh = [self.site.language(f"chat-1-{first + i}", *options) for i in range(count)]
        for one in fresh:
            one.wait_ready()
        self.fakes += fresh

    def worker(self, name: str = "", *more: str) -> Process:
        """Start one more worker; it has read routes and keys when this returns."""
        [found] = self.start_workers(name or f"gateway-{len(self.workers)}", more=more)
        return found

    def start_workers(self, *names: str, more: Sequence[str] = ()) -> list[Process]:
        """Start several at once."""
        words = [*self._write_keys(), *self.site.exits, "--ledger", self.ledger, *more]
        found = [self.site.gateway(name, *words) for name in names]
        for one in found:
            one.wait_ready()
        self.workers += found
        self.route()
        return found

    def restart(self, number: int) -> None:
        """Start a worker that has ended once more, under its name."""
        name = self.workers.pop(number).name
        self.workers.insert(number, self.worker(name))
        del self.workers[-1]

    def tenant(self, name: str, *limits: str, keys: Mapping[str, Sequence[str]] | None = None, context: int = 0,
               key_context: int = 0, **more: Any) -> str:  # fmt: skip
        """Add or change a tenant, with limits such as `60 requests/min`; it may ask when this returns.

        `keys`: their ids, each with limits of its own; one of the tenant's own name where it is left out. `more`:
        `share`, `priority`. Returns the name.
        """
        self.tenants[name] = {"limits": [limit(one) for one in limits], "context": context, **more}
        self.key_of(name, keys or {name: ()}, key_context)
        self.route()
        self.wait_for_keys(*(keys or (name,)))
        return name

    def key_of(self, tenant: str, keys: Mapping[str, Sequence[str]], context: int = 0) -> None:
        """Add or change keys of a tenant ("": of none)."""
        for id, limits in keys.items():
            self.keys[id] = {"endpoints": [ENDPOINT, *self.beside], "tenant": tenant, "context": context,
                             "limits": [limit(one) for one in limits]}  # fmt: skip
        self._write_keys()

    def revoke(self, *ids: str) -> None:
        """Take keys out of the file."""
        for id in ids:
            del self.keys[id]
        self._write_keys()

    def remove(self, *tenants: str) -> None:
        """Take tenants out of the routes; their keys stay."""
        for name in tenants:
            del self.tenants[name]
        self.route()

    def _write_keys(self) -> list[str]:
        more = {token_of(id): {"id": id, **row} for id, row in self.keys.items()}
        return self.site.keys({token_of(id): row["endpoints"] for id, row in self.keys.items()}, None, more)

    def route(self, **fields: Any) -> None:
        """Write the routes; returns when the workers that live have them. `fields`: of the endpoint, from now on."""
        self.fields |= fields
        usual: dict[str, Any] = {"kind": "language", "auth": True, "timeout_s": 20.0, "first_s": 10.0, "idle_s": 10.0}
        living = [worker.name for worker in self.workers if worker.popen.poll() is None]
        self.site.route([("chat-1", 10_000, self.fakes)], ENDPOINT, wait=living, beside=self.beside,
                        tenants=self.tenants, **(usual | self.fields))  # fmt: skip

    def wait_for_keys(self, *ids: str, seconds: float = 5.0) -> None:
        """Wait until every living worker knows these keys."""
        until = time.monotonic() + seconds
        for worker in self.workers:
            for id in ids:
                while worker.popen.poll() is None and not _knows(worker.address, id):
                    if time.monotonic() > until:
                        raise TimeoutError(f"`{worker.name}` does not know the key `{id}`")
                    time.sleep(0.01)

    def learn(self) -> str:
        """Let the gateway see prompts of all lengths, so that it knows how many tokens they have; returns who asked."""
        name = self.tenant("first")
        for power in range(2, 12):
            assert self.ask(name, "x" * 2**power, tokens=1).status == 200
        return name

    # --- asking

    def ask(self, key: str, prompt: str = "hello", *, stream: bool = False, tokens: int | None = None, id: str = "",
            **more: Any) -> Told:  # fmt: skip
        """One chat request with a key; `tokens` is its `max_tokens`, `more` are fields of the body."""
        return ask_now(self.address, _body(prompt, stream, tokens, more), CHAT, _headers(key, id))

    async def asking(self, key: str, prompt: str = "hello", *, at: str = "", stream: bool = True,
                     tokens: int | None = None, id: str = "", leave: Any = None, **more: Any) -> Told:  # fmt: skip
        """The same beside others, of any worker; `leave` as in `streaming.ask`."""
        body = _body(prompt, stream, tokens, more)
        return await ask(at or self.address, body, CHAT, _headers(key, id), leave=leave)

    # --- adding up

    def counted(self, what: str) -> int:
        """A counter of the fakes, added up over those that live."""
        return sum(int(stats(fake)[what]) for fake in self.fakes if fake.popen.poll() is None)

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric over all living workers and all series that have these labels."""
        total = 0.0
        for worker in self.workers:
            if worker.popen.poll() is None:
                text = call(worker.address, "GET", "/metrics", headers=bearer(OPERATOR)).body.decode()
                lines = [line for line in text.splitlines() if line.partition(" ")[0].partition("{")[0] == name]
                total += sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in labels))
        return total

    def used(self, account: str, text: str) -> int:
        """What the ledger has counted of a limit (`tenant/chat/acme`, `key/k1`), blocks in workers' hands included."""
        ledger = Ledger(Path(self.ledger))
        try:
            return ledger.used(account, as_limit(text))[0]
        finally:
            ledger.close()

    def last(self) -> str:
        """The body that the only fake got last."""
        [fake] = self.fakes
        return str(json.loads(call(fake.address, "GET", "/last").body)["body"])


def _headers(key: str, id: str) -> dict[str, str]:
    return (bearer(key) if key else {}) | ({"x-request-id": id} if id else {})


def _body(prompt: str, stream: bool, tokens: int | None, more: Mapping[str, Any]) -> dict[str, Any]:
    return chat(prompt, stream=stream) | ({} if tokens is None else {"max_tokens": tokens}) | dict(more)


def _knows(address: str, id: str) -> bool:
    reply = call(address, "GET", "/v1/models", headers=bearer(id))
    return reply.status == 200 and ENDPOINT in [one["id"] for one in reply.json()["data"]]
