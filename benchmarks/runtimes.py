"""One model under each model server: asked directly, in the server's own words, and through the gateway.

Run: `make bench-runtimes`. Prints two tables, and writes the figures to `benchmarks/results/runtimes.json`.
All servers are up at once and are measured in rounds whose order is drawn, so that a noisy minute is everybody's;
client, gateway and servers share the machine's cores. The model is tiny: what is measured is the server, not the model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import Figure, figure, table, write

from mainspring.artefacts.load import load_manifest
from mainspring.errors import MainspringError
from mainspring.replicas import environment
from mainspring.runtimes.catalog import runtimes
from mainspring.testing import runtime_artefacts as judge
from mainspring.testing.runtime_under_test import KEY, OWN, UnderTest
from mainspring.testing.serving import Site

NAMES = ("onnx", "triton", "mlserver", "torchserve", "bentoml")
CROWD = 8  # requests under way when throughput is measured
ROWS = {"x0": [1.5], "x1": [-2.25], "x2": [0.5]}


class Asking(asyncio.Protocol):
    """A client on one connection: it sends the next request when the answer to the last is there."""

    def __init__(self, request: bytes, until: float, times: list[float]) -> None:
        self._request, self._until, self._times = request, until, times
        self._got = bytearray()
        self._started = 0.0
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0 or not whole(bytes(self._got[:end]).lower(), self._got, end + 4):
            return
        now = time.perf_counter()
        if not self._got.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(bytes(self._got[:500])))
            return
        self._times.append(now - self._started)
        self._got.clear()
        if now < self._until:
            self._send()
        else:
            self.done.set_result(True)
            self._transport.close()


def whole(head: bytes, got: bytearray, begin: int) -> bool:
    """Whether an answer is all there, by its length or its last chunk."""
    at = head.find(b"content-length:")
    if at >= 0:
        return len(got) >= begin + int(head[at + 15 :].split(b"\r\n", 1)[0])
    return b"chunked" in head and got.endswith(b"0\r\n\r\n")


async def drive(address: str, request: bytes, at_once: int, seconds: float) -> list[float]:
    """Latencies, in seconds, of closed-loop clients."""
    host, _, port = address.rpartition(":")
    loop, times = asyncio.get_running_loop(), list[float]()
    until = time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda: Asking(request, until, times), host, int(port)) for _ in range(at_once)
    ]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return times


def post(line: bytes, body: bytes) -> bytes:
    """A request as it is on the wire."""
    head = b"host: x\r\ncontent-type: application/json\r\nauthorization: Bearer %b\r\n" % KEY.encode()
    return line + head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


@contextlib.contextmanager
def replicas(folder: Path, names: tuple[str, ...]) -> Iterator[dict[str, UnderTest]]:
    """A replica of each runtime, ready; one that can't be had here is named and left out."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name in names:
            runtime = runtimes()[name]
            try:
                lacks = environment.missing(runtime)
                if lacks:
                    print(f"left out: {name}: `{lacks[0].name}` is not here: {lacks[0].install}")
                    continue
                environment.install(runtime, print)
            except MainspringError as error:
                print(f"left out: {name}: {error.message}")
                continue
            state = folder / name
            judge.plain(state / "good", state / "code", model="plain")
            one = UnderTest(runtime, state, state / "good", state / "code", endpoint=f"by-{name}")
            found[name] = stack.enter_context(one)
            one.up()
        yield found


def route(site: Site, found: dict[str, UnderTest]) -> None:
    """Give the gateway an endpoint for each replica."""
    endpoints = {}
    for name, one in found.items():
        manifest = load_manifest(one.artefact)
        own = one.protocol == "mainspring"
        row = {
            "name": one.revision, "version": one.version, "weight": 10_000, "replicas": [one.look().address],
            "protocol": one.protocol, "model": "" if own else one.revision, "output": manifest.output,
            "inputs": [[field.name, field.datatype] for field in manifest.inputs],
        }  # fmt: skip
        endpoints[f"by-{name}"] = {"revisions": [row]}
    site.route([], "nobody", wait=["gateway-0"], beside=endpoints)


def requests(one: UnderTest, gateway: str) -> dict[str, tuple[str, bytes]]:
    """The two ways to ask a replica: address, and the request's bytes."""
    body = judge.request(ROWS, load_manifest(one.artefact).inputs)
    dialect = one.spoken
    if dialect is None:
        direct = post(f"POST {OWN} HTTP/1.1\r\n".encode(), body)
    else:
        sent = dialect.ask(body)
        direct = post(sent.line, sent.body)
    through = post(f"POST /v2/models/{one.endpoint}/infer HTTP/1.1\r\n".encode(), body)
    return {"directly": (one.look().address, direct), "through the gateway": (gateway, through)}


def measure(found: dict[str, UnderTest], gateway: str, rounds: int, seconds: float, seed: int) -> dict[Any, list[Any]]:
    """By (runtime, way, requests at once): what each round gave, as (p50, p99, requests a second)."""
    ways = {(name, way): asked for name, one in found.items() for way, asked in requests(one, gateway).items()}
    for address, request in ways.values():
        asyncio.run(drive(address, request, CROWD, 1.0))  # warm
    gave: dict[Any, list[Any]] = defaultdict(list)
    order = [(name, way, at_once) for name, way in ways for at_once in (1, CROWD)]
    drawn = random.Random(seed)
    for number in range(rounds):
        drawn.shuffle(order)
        for name, way, at_once in order:
            times = sorted(asyncio.run(drive(*ways[name, way], at_once, seconds)))
            p50, p99 = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))]
            gave[name, way, at_once].append((p50, p99, len(times) / seconds))
        print(f"round {number + 1} of {rounds}", flush=True)
    return gave


def middle(gave: list[Any], which: int) -> float:
    """The median over rounds."""
    return statistics.median(one[which] for one in gave)


def judged(gave: dict[Any, list[Any]], names: list[str]) -> list[Figure]:
    """Figures of all runtimes; the gateway's is beside the same server asked directly."""
    figures = []
    for name in names:
        direct, through = gave[name, "directly", 1], gave[name, "through the gateway", 1]
        crowd, behind = gave[name, "directly", CROWD], gave[name, "through the gateway", CROWD]
        p50, p50_through = middle(direct, 0), middle(through, 0)
        adds = statistics.median(b[0] - a[0] for a, b in zip(direct, through, strict=True))
        beside = f"{name} asked directly: {{:.4g}}"
        figures += [
            figure(f"{name}: p50", p50 * 1e3, "ms"),
            figure(f"{name}: p99", middle(direct, 1) * 1e3, "ms"),
            figure(f"{name}: p50 through the gateway", p50_through * 1e3, "ms", beside.format(p50 * 1e3)),
            figure(f"{name}: p99 through the gateway", middle(through, 1) * 1e3, "ms",
                   beside.format(middle(direct, 1) * 1e3)),
            figure(f"{name}: the gateway adds, p50", adds * 1e3, "ms"),
            figure(f"{name}: the gateway's share of p50", 100 * adds / p50_through, "%"),
            figure(f"{name}: {CROWD} at once", middle(crowd, 2), "requests/s"),
            figure(f"{name}: {CROWD} at once, through the gateway", middle(behind, 2), "requests/s",
                   beside.format(middle(crowd, 2))),
        ]  # fmt: skip
    return figures


def short(gave: dict[Any, list[Any]], names: list[str]) -> str:
    """One line a runtime."""
    lines = [
        f"{'SERVER':12} {'P50':>8} {'P99':>8} {'GATEWAY P50':>12} {'P99':>8} {'SHARE':>6} {'REQ/S':>8} {'GATEWAY':>8}"
    ]
    for name in names:
        a, b = gave[name, "directly", 1], gave[name, "through the gateway", 1]
        c, d = (middle(gave[name, way, CROWD], 2) for way in ("directly", "through the gateway"))
        adds = statistics.median(y[0] - x[0] for x, y in zip(a, b, strict=True))
        lines.append(
            f"{name:12} {middle(a, 0) * 1e3:8.2f} {middle(a, 1) * 1e3:8.2f} {middle(b, 0) * 1e3:12.2f} "
            f"{middle(b, 1) * 1e3:8.2f} {100 * adds / middle(b, 0):5.0f}% {c:8.0f} {d:8.0f}"
        )
    return "\n".join(lines) + f"\nms at one request at a time; requests a second at {CROWD}; medians over the rounds"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--only", default=",".join(NAMES), help="runtimes, with commas between them")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="three rounds of a second")
    given = parser.parse_args()
    rounds, seconds = (3, 1.0) if given.quick else (given.rounds, given.seconds)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = stack.enter_context(replicas(folder, tuple(given.only.split(","))))
        site = stack.enter_context(Site(folder / "site"))
        gateway = site.gateway("gateway-0")
        gateway.wait_ready()
        route(site, found)
        gave = measure(found, gateway.address, rounds, seconds, given.seed)
    figures = judged(gave, list(found))
    print(short(gave, list(found)), table(figures), f"written to {write('runtimes', figures)}", sep="\n\n")


if __name__ == "__main__":
    main()
