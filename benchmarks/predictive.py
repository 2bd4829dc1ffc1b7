"""What the gateway adds to a predictive endpoint: the same requests sent to a replica directly and through the gateway.

Run: `make bench-predictive`. Prints a table, and writes the figures to `benchmarks/results/predictive.json`.
Client, gateway and replica share the machine's cores, so the load generator's own time is in the throughput.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import Figure, figure, table, write

from mainspring.artefacts.manifest import Field
from mainspring.testing.artefacts import tiny_artefact
from mainspring.testing.serving import Process, Site, infer_body

FIELDS = [Field(f"field_{i:02d}", "FP64") for i in range(20)]
PATH = "/v2/models/delay/infer"


class Raw(asyncio.Protocol):
    """A client on one connection: sends the next request when the answer to the last is there."""

    def __init__(self, request: bytes, until: float, times: list[float]) -> None:
        self._request, self._until, self._times = request, until, times
        self._got = bytearray()
        self._started = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        at = self._got.index(b"content-length: ") + 16
        length = int(self._got[at : self._got.index(b"\r", at)])
        if len(self._got) < end + 4 + length:
            return
        now = time.perf_counter()
        if not self._got.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(bytes(self._got))
        self._times.append(now - self._started)
        self._got.clear()
        if now < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)


async def drive(address: str, request: bytes, at_once: int, seconds: float) -> list[float]:
    """Latencies, in seconds, of closed-loop clients."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    times: list[float] = []
    until = time.perf_counter() + seconds
    made = [await loop.create_connection(lambda: Raw(request, until, times), host, int(port)) for _ in range(at_once)]
    await asyncio.gather(*(protocol.done for _, protocol in made))
    return times


def cpu(process: Process) -> float:
    """CPU seconds that a process has used."""
    parts = Path(f"/proc/{process.popen.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def percentile(times: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(times)[min(int(len(times) * share), len(times) - 1)] * 1000


def measure(seconds: float, rounds: int, run: Any) -> list[dict[str, Any]]:
    """Alternate direct and through the gateway, so that noise hits both; medians over rounds."""
    with tempfile.TemporaryDirectory() as folder, Site(Path(folder)) as site:
        tiny_artefact(site.folder / "a", site.folder / "code", fields=FIELDS)
        replica = site.replica(site.folder / "a")
        site.route([("delay-1", 10_000, [replica.wait_ready()])])
        gateway = site.gateway()
        gateway.wait_ready()
        body = infer_body({f.name: i * 0.37 for i, f in enumerate(FIELDS)}, pad="x" * 20)
        request = b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)
        rows = []
        for at_once in (1, 24):
            got: dict[str, list[dict[str, float]]] = {"direct": [], "gateway": []}
            for _ in range(rounds):
                for way, address in (("direct", replica.address), ("gateway", gateway.address)):
                    before = cpu(gateway), cpu(replica)
                    started = time.perf_counter()
                    times = run(drive(address, request, at_once, seconds))
                    took = time.perf_counter() - started
                    got[way].append(
                        {
                            "p50": percentile(times, 0.5),
                            "p99": percentile(times, 0.99),
                            "rate": len(times) / took,
                            "cpu_gateway": (cpu(gateway) - before[0]) / len(times) * 1e6,
                            "cpu_replica": (cpu(replica) - before[1]) / len(times) * 1e6,
                        }
                    )
            rows.append({"at_once": at_once, "bytes": len(body)} | got)
        return rows


def middle(samples: list[dict[str, float]], key: str) -> float:
    """The median over rounds."""
    return statistics.median(sample[key] for sample in samples)


def judged(rows: list[dict[str, Any]]) -> list[Figure]:
    """The figures of all rows, each beside the replica alone."""
    made = []
    for row in rows:
        direct, through, n = row["direct"], row["gateway"], row["at_once"]
        low = n == 1
        for key in ("p50", "p99"):
            peer = middle(direct, key)
            aim = 1.0 if low and key == "p50" else None
            name, beside = f"gateway adds {key} at {n} in flight", f"the replica asked directly: {peer:.3f} ms"
            made.append(figure(name, middle(through, key) - peer, "ms", beside, at_most=aim))
        rate, peer = middle(through, "rate"), middle(direct, "rate")
        beside = f"the replica asked directly: {peer:.0f} requests/s"
        made.append(
            figure(f"throughput at {n} in flight", rate, "requests/s", beside, at_least=None if low else 2000.0)
        )
        for part in ("gateway", "replica"):
            used, alone = middle(through, f"cpu_{part}"), middle(direct, f"cpu_{part}")
            beside = f"the replica asked directly: {alone:.0f} us" if part == "replica" else ""
            made.append(figure(f"CPU of the {part} at {n} in flight", used, "us/request", beside))
    return made


def runner() -> Any:
    """`uvloop.run`, or `asyncio.run` where there is none."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rows = measure(arguments.seconds, arguments.rounds, runner())
    print(
        f"bodies of {rows[0]['bytes']} bytes, 20 fields; {os.cpu_count()} cores; medians of {arguments.rounds} rounds"
    )
    print(f"{'in flight':>9} {'way':>8} {'p50 ms':>8} {'p99 ms':>8} {'req/s':>8} {'gateway us':>11} {'replica us':>11}")
    for row in rows:
        for way in ("direct", "gateway"):
            s = row[way]
            latency = f"{middle(s, 'p50'):8.3f} {middle(s, 'p99'):8.3f} {middle(s, 'rate'):8.0f}"
            used = f"{middle(s, 'cpu_gateway'):11.0f} {middle(s, 'cpu_replica'):11.0f}"
            print(f"{row['at_once']:>9} {way:>8} {latency} {used}")
    made = judged(rows)
    print(f"\n{table(made)}\n\nfigures: {write('predictive', made)}")


if __name__ == "__main__":
    main()
