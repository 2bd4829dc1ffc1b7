"""Real gateways and replicas for tests: processes on free ports, their files in one folder.

Who calls it: tests and benchmarks. What it must never do: leave a process behind (use it as a context).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from mainspring.facts.records import BegunRecord, PredictionRecord


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def infer_body(
    values: Mapping[str, Any], id: str = "", datatypes: Mapping[str, str] | None = None, **more: Any
) -> bytes:
    """A request of one row of the Open Inference Protocol; FP64 unless `datatypes` says otherwise."""
    inputs = [
        {"name": name, "shape": [1], "datatype": (datatypes or {}).get(name, "FP64"), "data": [value]}
        for name, value in values.items()
    ]
    return json.dumps(({"id": id} if id else {}) | more | {"inputs": inputs}).encode()


def call(address: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
         timeout: float = 20.0) -> Reply:  # fmt: skip
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class Client:
    """A keep-alive client, as thin as can be: for load, and for counting what is lost."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, more: Mapping[str, str] | None = None) -> Reply:
        """Send a request; raises `OSError` or `EOFError` when the connection ends before the answer."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        try:
            extra = "".join(f"{name}: {value}\r\n" for name, value in (more or {}).items()).encode()
            writer.write(
                b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b"
                % (path.encode(), extra, len(body), body)
            )
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            content = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return Reply(int(lines[0].split()[1]), headers, content)

    async def post_until(self, path: str, body: bytes, seconds: float = 20.0) -> Reply:
        """Send until there is an answer other than 5xx, as a careful client does."""
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, EOFError):
                reply = await self.post(path, body)
                if reply.status < 500 or time.monotonic() > until:
                    return reply
            if time.monotonic() > until:
                raise TimeoutError(path)
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Close the connection; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def post_all(
    address: Callable[[], str], path: str, bodies: Iterable[bytes], *, at_once: int = 8, retry: bool = False,
    replies: dict[int, Reply] | None = None,
) -> list[Reply]:  # fmt: skip
    """Send all bodies, `at_once` in flight; the answers in order of the bodies.

    `replies`, where given, is filled as they come, by number of the body. `retry` resends on 5xx and lost connections.
    """
    todo = list(enumerate(bodies))[::-1]
    replies = {} if replies is None else replies

    async def work() -> None:
        client, at = Client(address()), address()
        while todo:
            number, body = todo.pop()
            if address() != at:
                client.close()
                client, at = Client(address()), address()
            replies[number] = await (client.post_until(path, body) if retry else client.post(path, body))
        client.close()

    await asyncio.gather(*(work() for _ in range(at_once)))
    return [replies[number] for number in sorted(replies)]


@dataclass
class Process:
    """A process of Mainspring's that announces an address."""

    name: str
    command: list[str]
    announce: Path
    log: Path
    popen: subprocess.Popen[bytes]
    address: str = ""

    def wait_ready(self, seconds: float = 30.0) -> str:
        """Wait for the announcement; returns the address."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.popen.returncode}: {self.log.read_text()}")
            with contextlib.suppress(OSError, ValueError):
                said = json.loads(self.announce.read_text())
                if said["pid"] == self.popen.pid:
                    self.address = said["address"]
                    return self.address
            time.sleep(0.01)
        raise TimeoutError(self.name)

    def kill(self) -> None:
        """Kill it (-9), and wait."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """SIGTERM, and wait; returns the exit status."""
        self.popen.terminate()
        return self.popen.wait(20)


def _note_exit(popen: subprocess.Popen[bytes], path: Path) -> None:
    """Write down how a process ended, as the shim of a supervised one does."""
    status = popen.wait()
    with contextlib.suppress(OSError):  # the test's folder may be gone
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"status": status}))
        fresh.replace(path)


def _revision(name: str, weight: int, replicas: Sequence[str | Process], regions: Mapping[str, str]) -> dict[str, Any]:
    addresses = [replica.address if isinstance(replica, Process) else replica for replica in replicas]
    row: dict[str, Any] = {
        "name": name, "version": name.rpartition("-")[2], "weight": weight, "replicas": addresses
    }  # fmt: skip
    if addresses and all(isinstance(replica, Process) for replica in replicas):
        row["names"] = [replica.name for replica in replicas if isinstance(replica, Process)]
    if regions:
        row["regions"] = [regions[address] for address in addresses]
    return row


@dataclass
class Site:
    """A folder like a state folder, with a gateway and replicas in it."""

    folder: Path
    processes: list[Process] = field(default_factory=list)
    epoch: int = 0

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
            process.popen.wait()

    def start(
        self, name: str, command: Sequence[str], before: Callable[[], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:  # fmt: skip
        """Start `python -m ...`; its announcement and log are in the folder, and its exit status when it has ended."""
        announce = self.folder / "processes" / name / "address.json"
        announce.parent.mkdir(parents=True, exist_ok=True)
        (announce.parent / "exit.json").unlink(missing_ok=True)
        log = self.folder / f"{name}.log"
        whole = {**os.environ, **(env or {})}
        full = [sys.executable, "-m", *command, "--announce", str(announce)]
        out: IO[bytes]
        with log.open("ab") as out:
            popen = subprocess.Popen(full, stdout=out, stderr=out, preexec_fn=before, env=whole)  # noqa: PLW1509
        threading.Thread(target=_note_exit, args=(popen, announce.parent / "exit.json"), daemon=True).start()
        process = Process(name, full, announce, log, popen)
        self.processes.append(process)
        return process

    def replica(self, artefact: Path, name: str = "delay-1-0", version: str = "1", *more: str) -> Process:
        """Start a replica of `artefact` (code snapshots in `<folder>/code`)."""
        return self.start(
            name,
            ["mainspring.replicas.onnx", "--artefact", str(artefact), "--name", name, "--model", "delay",
             "--version", version, "--code", str(self.folder / "code"), *more],
        )  # fmt: skip

    def language(self, name: str = "chat-1-0", *options: str) -> Process:
        """Start a fake language server (options of `mainspring.testing.language`)."""
        return self.start(name, ["mainspring.testing.language", "--name", name, *options])

    def llama(self, artefact: Path, name: str = "chat-1-0", *options: str, model: str = "chat") -> Process:
        """Start a replica of llama.cpp; the version is the name's, `chat-VERSION-NUMBER`."""
        version = name.split("-")[-2]
        words = ["mainspring.replicas.llamacpp", "--artefact", str(artefact), "--name", name, "--model", model,
                 "--version", version, "--code", str(self.folder / "code"), *options]  # fmt: skip
        return self.start(name, words, env={"GOMP_SPINCOUNT": "1000"})

    def keys(
        self, tokens: Mapping[str, Sequence[str]], expires: float | None = None,
        more: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[str]:  # fmt: skip
        """Write the keys file: {token: endpoints}; the gateway's words for it. Call it again to change the keys.

        `more`: what else the file says of a token's key: `id`, `tenant`, `limits`, `context`, `role`.
        """
        pepper = hashlib.sha256(str(self.folder).encode()).digest()
        (self.folder / "pepper").write_text(pepper.hex())
        rows = [
            {"id": f"k{number}", "hash": hmac.new(pepper, token.encode(), "sha256").hexdigest(),
             "endpoints": list(endpoints), "name": f"person {number}", "expires": expires,
             **(more or {}).get(token, {})}
            for number, (token, endpoints) in enumerate(tokens.items())
        ]  # fmt: skip
        fresh = self.folder / "keys.json.new"
        fresh.write_text(json.dumps({"keys": rows}))
        fresh.replace(self.folder / "keys.json")
        return ["--keys", str(self.folder / "keys.json"), "--pepper", str(self.folder / "pepper")]

    def upstream_key(self, key: str) -> Path:
        """Write the file with the key that replicas ask the gateway for."""
        path = self.folder / "upstream.key"
        path.write_text(key)
        return path

    @property
    def exits(self) -> list[str]:
        """The gateway's words for where it finds how replicas ended."""
        return ["--processes", str(self.folder / "processes")]

    def gateway(self, name: str = "gateway-0", *more: str, before: Callable[[], None] | None = None) -> Process:
        """Start a gateway worker on a free port."""
        command = ["mainspring.gateway", "--name", name, "--port", "0"]
        for folder in ("acks", "segments"):
            command += [f"--{folder}", str(self.folder / folder)]
        return self.start(name, [*command, "--routes", str(self.folder / "routes.json"), *more], before)

    def route(self, revisions: Sequence[tuple[str, int, Sequence[str | Process]]], endpoint: str = "delay",
              clock: str = "wall", wait: Sequence[str] = (), *, home: str = "",
              near: Mapping[str, Sequence[str]] | None = None, regions: Mapping[str, str] | None = None,
              beside: Mapping[str, Any] | None = None, regional: Mapping[str, Mapping[str, int]] | None = None,
              spoken: Mapping[str, Mapping[str, Any]] | None = None, **more: Any) -> None:  # fmt: skip
        """Write routes: (revision `name-version`, weight, replicas); wait until the named workers have them.

        A replica is an address, or a `Process`, which is then known by name too. `regions`: the region of each by its
        address. `beside`: other endpoints, as they are written in the file. `regional`: weights of a revision for the
        requests of single regions. `spoken`: what else a revision's row says, such as `protocol`. `more`: fields of
        this endpoint.
        """
        self.epoch += 1
        rows = [_revision(name, weight, replicas, regions or {}) for name, weight, replicas in revisions]
        for row in rows:
            row.update((spoken or {}).get(row["name"], {}))
            if row["name"] in (regional or {}):
                row["regional"] = dict((regional or {})[row["name"]])
        table = {"epoch": self.epoch, "clock": clock, "home": home, "near": dict(near or {}),
                 "endpoints": {endpoint: {"revisions": rows} | more} | dict(beside or {})}  # fmt: skip
        fresh = self.folder / "routes.json.new"
        fresh.write_text(json.dumps(table))
        fresh.replace(self.folder / "routes.json")
        until = time.monotonic() + 10
        while not all(self.acked(worker) == self.epoch for worker in wait):
            if time.monotonic() > until:
                raise TimeoutError(f"epoch {self.epoch} is not acknowledged")
            time.sleep(0.01)

    def acked(self, worker: str) -> int:
        """The epoch that a worker has acknowledged; 0 for none."""
        try:
            return int(json.loads((self.folder / "acks" / f"{worker}.json").read_text())["epoch"])
        except (OSError, ValueError):
            return 0

    def records(self, kind: str = "p") -> list[dict[str, Any]]:
        """All whole records in the segments, in order of files, with the defaults that are not written."""
        found = []
        of = {"p": PredictionRecord, "b": BegunRecord}.get(kind)
        unsaid = {f.name: f.default for f in fields(of) if f.default is not MISSING} if of is not None else {}
        for path in sorted((self.folder / "segments").glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n")[:-1]:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if record.get("k", "p") == kind:
                        found.append(unsaid | record)
        return found
