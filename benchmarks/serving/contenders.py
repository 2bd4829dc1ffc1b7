"""The ways to a model server that are compared, each a process on a core of its own: nginx, Mainspring, LiteLLM.

What this is: `Bench` starts the stubs (on the load's core) and the contenders (each on the contenders' core) and ends
all of them. Who calls it: `make bench-gateway`. What it must never do: give one contender what another has not: all
have one worker, the same stubs behind them, keep-alive connections to them, and no access log.

Three models are behind each: `chat` answers at once from nginx's memory, with the very bytes of the fake's answer;
`large` is the same, but reads the whole body first; `talk` is the fake, which streams.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mainspring.testing.serving import Site, call

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LITELLM = ROOT / ".bench" / "litellm" / "bin" / "litellm"
NGINX = "/usr/sbin/nginx"
PATH = "/v1/chat/completions"
MODELS = ("chat", "large", "talk")
SIZE = 1024  # bytes of a chat request
_TEXT = (
    "the gateway keeps a stream open while a model thinks about what comes next and a client waits for each word of an "
    "answer that was asked for a moment ago by someone who would rather have it now"
)
_WORDS = _TEXT.split()


def pinned(core: int) -> Callable[[], None]:
    """What a child does before it begins: stay on one core, as `taskset -c` has it."""

    def before() -> None:
        os.sched_setaffinity(0, {core})

    return before


def cores() -> tuple[int, int]:
    """The contenders' core, and that of the load and the stubs. Raises `SystemExit` on a machine of one core."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("error: this compares programs on a core of their own, and there is one core")
    return allowed[0], allowed[1]


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return found


def chat_bodies(count: int, model: str = "chat", size: int = SIZE) -> list[bytes]:
    """Chat requests of `size` bytes each: one system message for all, and questions that differ."""
    system = "You answer briefly. " + " ".join(_WORDS[:24])
    made = []
    for number in range(count):
        question = f"Question {number:04d}: {_WORDS[number % len(_WORDS)]}?"
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        body = {"model": model, "messages": messages, "max_tokens": 64, "temperature": 0.7, "stream": False}
        short = size - len(json.dumps(body))
        words = " ".join(_WORDS[(number + at) % len(_WORDS)] for at in range(short // 3 + 1))
        messages[1]["content"] = question + words[:short].ljust(short, ".")
        made.append(json.dumps(body).encode())
    return made


@dataclass
class Contender:
    """One way: where each model is reached, and the process that is on the way (0: none)."""

    name: str
    pid: int
    addresses: dict[str, str]  # by model
    token: str = ""


@dataclass
class Bench:
    """The stubs and what is in front of them; a context that ends all it began."""

    folder: Path
    answer: bytes = b""  # of `chat` and `large`
    stubs: dict[str, list[str]] = field(default_factory=dict)  # addresses by model
    ways: dict[str, Contender] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    also: list[Site] = field(default_factory=list)
    token: str = field(default_factory=lambda: f"ms_{secrets.token_urlsafe(32)}")

    def __enter__(self) -> Self:
        self.contender_core, self.load_core = cores()
        os.sched_setaffinity(0, {self.load_core})
        self._site = Site(self.folder / "site").__enter__()
        self._start_stubs()
        direct = {model: addresses[0] for model, addresses in self.stubs.items()}
        self.ways["direct"] = Contender("direct", 0, direct)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for popen in self.started:
            popen.terminate()
        for popen in self.started:
            try:
                popen.wait(10)
            except subprocess.TimeoutExpired:
                popen.kill()
                popen.wait()
        for site in (*self.also, self._site):
            site.__exit__(kind, error, at)

    @property
    def pids(self) -> list[int]:
        """All processes that belong to the measurement, but this one."""
        return [popen.pid for popen in self.started] + [
            one.popen.pid for site in (self._site, *self.also) for one in site.processes
        ]

    def _start(self, name: str, command: Sequence[str], core: int, env: Mapping[str, str] | None = None) -> int:
        with (self.folder / f"{name}.log").open("ab") as out:
            full = {**os.environ, **(env or {})}
            popen = subprocess.Popen(command, stdout=out, stderr=out, env=full, preexec_fn=pinned(core))  # noqa: PLW1509
        self.started.append(popen)
        return popen.pid

    def _nginx(self, name: str, template: str, core: int, ready: str, /, **values: object) -> int:
        text = (HERE / template).read_text()
        for key, value in {"FOLDER": self.folder, **values}.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.folder / f"{name}.conf"
        path.write_text(text)
        pid = self._start(name, [NGINX, "-c", str(path), "-e", "stderr"], core)
        self._wait(name, ready)
        return pid

    def _wait(self, name: str, address: str, path: str = "/", seconds: float = 90.0) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                call(address, "GET", path, timeout=5)
                return
            except OSError:
                ended = any(popen.poll() is not None for popen in self.started)
                if ended or time.monotonic() > until:
                    log = (self.folder / f"{name}.log").read_text()[-2000:]
                    raise RuntimeError(f"`{name}` does not answer at {address}: {log}") from None
                time.sleep(0.1)

    def _start_stubs(self) -> None:
        fake = self._site.start("fake", ["mainspring.testing.language"], pinned(self.load_core))
        talk = fake.wait_ready()
        self.answer = call(talk, "POST", PATH, chat_bodies(1)[0], {"content-type": "application/json"}).body
        chat, chat2, large, large2 = free_ports(4)
        quoted = self.answer.decode().replace("\\", "\\\\").replace("'", "\\'")
        ports = {"CHAT": chat, "CHAT2": chat2, "LARGE": large, "LARGE2": large2}
        self._nginx("stub", "nginx-stub.conf", self.load_core, f"127.0.0.1:{chat}", ANSWER=quoted, **ports)
        self.stubs = {
            "chat": [f"127.0.0.1:{chat}", f"127.0.0.1:{chat2}"],
            "large": [f"127.0.0.1:{large}", f"127.0.0.1:{large2}"],
            "talk": [talk],
        }

    def start_nginx(self) -> None:
        """`proxy_pass` with one worker, keep-alive connections, and no buffering of streams."""
        ports = dict(zip(MODELS, free_ports(len(MODELS)), strict=True))
        servers = []
        for model, port in ports.items():
            peers = " ".join(f"server {address};" for address in self.stubs[model])
            off = "proxy_buffering off; " if model == "talk" else ""
            servers.append(
                f"    upstream {model} {{ {peers} keepalive 512; keepalive_requests 100000000; }}\n"
                f"    server {{ listen 127.0.0.1:{port} backlog=4096;"
                f" location / {{ {off}proxy_pass http://{model}; }} }}"
            )
        first = f"127.0.0.1:{ports['chat']}"
        pid = self._nginx("nginx", "nginx-proxy.conf", self.contender_core, first, SERVERS="\n".join(servers))
        self.ways["nginx"] = Contender("nginx", pid, {model: f"127.0.0.1:{port}" for model, port in ports.items()})

    def start_gateways(self) -> None:
        """Mainspring's gateway, one worker: token check, prefix affinity, metrics and the prediction log are on.

        Two more have limits that this load stays a little below: `usual` the three that a tenant mostly has, `limits`
        eight of every kind, of a key and of its tenant.
        """
        self._start_gateway("gateway", self._site, {}, {})
        three = [_limit("requests", "min"), _limit("tokens", "min"), _limit("at_once", "")]
        own = [*three[:2], _limit("tokens", "day")]
        many = [*own, _limit("at_once", ""), _limit("dollars", "month")]
        prices = {"slot_cores": 0.25, "core_price": 1e-5, "context": 8192}
        for name, of_key, of_tenant in (("usual", [], three), ("limits", own, many)):
            site = Site(self.folder / name).__enter__()
            self.also.append(site)
            route = {"tenants": {"acme": {"limits": of_tenant, "share": 2.0}}, **prices}
            self._start_gateway(name, site, {"tenant": "acme", "limits": of_key}, route)

    def _start_gateway(self, name: str, site: Site, of_key: dict[str, Any], of_route: dict[str, Any]) -> None:
        pepper = secrets.token_bytes(32)
        hashed = hmac.new(pepper, self.token.encode(), hashlib.sha256).hexdigest()
        key = {"id": "k1", "hash": hashed, "endpoints": list(MODELS), "name": "bench", "expires": None} | of_key
        (site.folder / "pepper").write_text(pepper.hex())
        (site.folder / "keys.json").write_text(json.dumps({"keys": [key]}))
        endpoints = {model: _endpoint(model, self.stubs[model]) | of_route for model in MODELS}
        (site.folder / "routes.json").write_text(json.dumps({"epoch": 1, "clock": "wall", "endpoints": endpoints}))
        keys = ["--keys", str(site.folder / "keys.json"), "--pepper", str(site.folder / "pepper")]
        keys += ["--ledger", str(site.folder / "meter" / "ledger"), "--loads", str(site.folder / "loads")]
        gateway = site.gateway("gateway-0", *keys, before=pinned(self.contender_core))
        address = gateway.wait_ready()
        self.ways[name] = Contender(name, gateway.popen.pid, dict.fromkeys(MODELS, address), self.token)

    def start_litellm(self) -> None:
        """LiteLLM's proxy, one worker, its master key asked for; no database, no telemetry, no look at the network."""
        if not LITELLM.exists():
            raise SystemExit("error: LiteLLM is not installed\n\nhint: make bench-gateway, or ARGS=--quick without it")
        token, (port,) = f"sk-{secrets.token_hex(16)}", free_ports(1)
        rows = [
            f"  - {{model_name: {model}, litellm_params: {{model: openai/{model}, api_base: '{at}', api_key: x}}}}"
            for model in MODELS
            for at in (f"http://{address}/v1" for address in self.stubs[model])
        ]
        text = (HERE / "litellm.yaml").read_text().replace("@MODELS@", "\n".join(rows)).replace("@TOKEN@", token)
        path = self.folder / "litellm.yaml"
        path.write_text(text)
        env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR",
               "LITELLM_TELEMETRY": "False", "PYTHONPATH": ""}  # fmt: skip
        command = [str(LITELLM), "--config", str(path), "--host", "127.0.0.1", "--port", str(port),
                   "--num_workers", "1", "--telemetry", "False"]  # fmt: skip
        pid = self._start("litellm", command, self.contender_core, env)
        address = f"127.0.0.1:{port}"
        self._wait("litellm", address, "/health/liveliness")
        self.ways["litellm"] = Contender("litellm", pid, dict.fromkeys(MODELS, address), token)

    def stub_requests(self) -> int:
        """Requests that the stub of `chat` and `large` has had."""
        return int(call(self.stubs["chat"][0], "GET", "/status").body.split()[9])


def _endpoint(model: str, replicas: Sequence[str]) -> dict[str, object]:
    names = [f"{model}-1-{number}" for number in range(len(replicas))]
    revision = {"name": f"{model}-1", "version": "1", "weight": 10_000, "replicas": list(replicas), "names": names}
    return {"revisions": [revision], "kind": "language", "auth": True, "prefix": True, "slots": 4_000,
            "queue": 4_000, "timeout_s": 600.0, "first_s": 60.0, "idle_s": 60.0}  # fmt: skip


_AMOUNTS = {"requests": 2_000_000, "tokens": 2_000_000_000, "at_once": 10_000, "dollars": 10**15}


def _limit(what: str, per: str) -> dict[str, object]:
    """A limit that is not reached: some twice of what one worker answers in a minute, in a day a thousand times it."""
    return {"what": what, "amount": _AMOUNTS[what] * (1_000 if per == "day" else 1), "per": per}


def versions() -> str:
    """What is compared, by version."""
    nginx = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr.strip().rpartition("/")[2]
    return f"Python {sys.version.split()[0]}, nginx {nginx}"
