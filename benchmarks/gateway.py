"""What the gateway costs in front of a language model: beside no gateway, nginx's `proxy_pass`, and LiteLLM's proxy.

Run: `make bench-gateway` (some 8 minutes), `make bench-gateway ARGS=--quick` (1.5 minutes, without LiteLLM). Prints a
table, and writes the figures to `benchmarks/results/gateway.json`. Each figure is a difference or a ratio of one run:
contenders on one core, load and stubs on another, rounds in turn, medians over rounds with their least and most.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from figures import Figure, figure, table, write
from serving.client import Call, Client, request
from serving.contenders import PATH, SIZE, Bench, Contender, chat_bodies, versions
from serving.intervals import median, quantile, spread
from serving.noise import Watch, awake, cpu, pss
from serving.saturation import CONNECTIONS, Saturated, saturate

from mainspring.wire.process import allow_files

RATE = 500.0  # unary requests a second
STREAMS = 200  # at once
TOKENS, GAP_MS, FIRST_MS = 50, 20, 20  # of a stream: it lasts about a second
OPEN = 2_000  # streams, for the memory
LARGE, LARGE_RATE = 400_000, 20.0  # bytes of a long prompt, and such requests a second
SLOW_RATE, SLOW_LARGE, SLOW_STREAMS, SLOW_OPEN = 10.0, 2.0, 4, 100  # what LiteLLM is asked for instead
FAST = ("direct", "nginx", "gateway")
MS = 1e3


@dataclass(frozen=True)
class Size:
    """How long and how often everything is measured; seconds."""

    rounds: int
    saturation: int
    unary: float
    streams: float
    large: float
    hold: float
    litellm: bool


FULL = Size(rounds=5, saturation=3, unary=5.0, streams=4.0, large=3.0, hold=3.0, litellm=True)
QUICK = Size(rounds=3, saturation=2, unary=2.0, streams=2.0, large=2.0, hold=2.0, litellm=False)


@dataclass(frozen=True)
class Timed:
    """One round of one way; milliseconds. `first` and `gaps` are of streams."""

    latency: tuple[float, float]  # p50, p99, from the moment that a request was due
    late: tuple[float, float]  # of it, what the client itself was late
    first: tuple[float, float] = (0.0, 0.0)
    gap: tuple[float, float] = (0.0, 0.0)
    wrong: int = 0
    cpu: float = 0.0  # of the contender, microseconds for one request, or for one event of a stream


@dataclass
class Seen:
    """All that was measured, by way, in order of rounds."""

    saturated: dict[str, list[Saturated]] = field(default_factory=dict)
    limits: dict[str, list[Saturated]] = field(default_factory=dict)  # none, three and eight, in turn
    awake: dict[str, list[Saturated]] = field(default_factory=dict)  # the same while idle cores do not sleep
    unary: dict[str, list[Timed]] = field(default_factory=dict)
    streams: dict[str, list[Timed]] = field(default_factory=dict)
    large: dict[str, list[Timed]] = field(default_factory=dict)
    memory: dict[str, tuple[float, float, int]] = field(default_factory=dict)  # idle and open MiB, streams open
    noise: list[tuple[str, float, float]] = field(default_factory=list)  # what was measured, others' cores, stolen


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """Moments of a Poisson process; the same for all ways of a round."""
    rng, at, made = random.Random(seed), 0.0, []
    while (at := at + rng.expovariate(rate)) < seconds:
        made.append(at)
    return made


def both(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    return quantile(values, 0.5) * MS, quantile(values, 0.99) * MS


def timed(calls: Sequence[Call], used: float) -> Timed:
    """One round's figures; requests without a right answer are counted and left out. `used`: CPU of the contender."""
    good = [call for call in calls if call.right]
    if not good:
        raise SystemExit(f"error: no right answer of {len(calls)}: {calls[0].status} {calls[0].body[:300]!r}")
    gaps = [gap for call in good for gap in call.gaps]
    return Timed(
        both([call.seconds for call in good]),
        both([call.late for call in good]),
        both([call.to_first for call in good]),
        both(gaps) if gaps else (0.0, 0.0),
        len(calls) - len(good),
        used / max(sum(len(call.events) for call in calls) if gaps else len(calls), 1) * 1e6,
    )


def is_answer(answer: bytes, way: str) -> Callable[[int, bytes], bool]:
    """The stub's bytes, unchanged; LiteLLM writes them anew, so of it the words are asked for."""
    words = answer.partition(b'"content":"')[2].partition(b'"')[0]
    return lambda status, body: status == 200 and (body == answer or (way == "litellm" and words in body))


def is_stream(status: int, body: bytes) -> bool:
    """A stream that ended as it should."""
    return status == 200 and body.endswith(b"data: [DONE]\n\n") and body.count(b"data: [DONE]") == 1


def unary_round(bench: Bench, way: Contender, number: int, *, rate: float, seconds: float, bodies: list[bytes],
                model: str = "chat") -> Timed:  # fmt: skip
    """Requests at a rate, whatever becomes of them."""
    requests = [request(PATH, body, way.token) for body in bodies]
    moments = arrivals(rate, seconds, number)
    calls = [Call(at, requests[i % len(requests)]) for i, at in enumerate(moments)]
    with Client(way.addresses[model], warm=8) as client:
        warm = [Call(i * 0.02, requests[i % len(requests)]) for i in range(8)]
        right = is_answer(bench.answer, way.name)
        client.open_loop(warm, right)
        before = used(way)
        return timed(client.open_loop(calls, right), used(way) - before)


def used(way: Contender) -> float:
    """CPU seconds of a contender up to now."""
    return cpu(way.pid) if way.pid else 0.0


def stream_body(number: int, tokens: int, gap_ms: float, first_ms: float) -> bytes:
    """A chat request whose stream takes the times that it asks for."""
    body = chat_bodies(1, "talk")[0].replace(b'"stream": false', b'"stream": true')
    asks = f"fake:first-ms={first_ms} fake:gap-ms={gap_ms} fake:tokens={tokens} number {number}".encode()
    return body.replace(b"Question 0000: the?", asks).replace(b'"max_tokens": 64, ', b"")


def stream_round(_bench: Bench, way: Contender, number: int, *, streams: int, seconds: float) -> Timed:
    """New streams at the rate that keeps `streams` open on average."""
    requests = [request(PATH, stream_body(i, TOKENS, GAP_MS, FIRST_MS), way.token) for i in range(64)]
    lasts = (FIRST_MS + GAP_MS * (TOKENS - 1)) / MS
    calls = [Call(at, requests[i % 64]) for i, at in enumerate(arrivals(streams / lasts, seconds + lasts, number))]
    with Client(way.addresses["talk"], warm=max(streams // 2, 4)) as client:
        before = used(way)
        client.open_loop(calls, is_stream)
        whole = timed(calls, used(way) - before)
    late = [call for call in calls if call.due > calls[0].due + lasts]  # when as many are open as there should be
    return replace(timed(late or calls, 0.0), wrong=whole.wrong, cpu=whole.cpu)


def memory_round(bench: Bench, way: Contender, streams: int, seconds: float, rate: float) -> tuple[float, float, int]:
    """PSS of a contender before, and with that many streams open, MiB; and how many were."""
    del bench
    idle, most, over = pss(way.pid), 0.0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(0.5):
            most = max(most, pss(way.pid))

    one = request(PATH, stream_body(0, 1_000, 2_000, 0), way.token)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        with Client(way.addresses["talk"], warm=0) as client:
            opened = client.hold(one, streams, rate, streams / rate + seconds)
    finally:
        over.set()
        thread.join()
    return idle, most, opened


@contextmanager
def told(bench: Bench, seen: Seen, what: str) -> Any:
    """Say what is being measured, and note what else the machine did."""
    print(f"  {what} ...", file=sys.stderr, flush=True)
    watch = Watch(bench.pids)
    yield
    seen.noise.append((what, *watch.read()))


def in_turn(
    bench: Bench, ways: Sequence[str], rounds: int, into: dict[str, list[Any]], once: Callable[..., Any]
) -> None:
    """Measure all ways, round by round; who begins changes with the round."""
    for number in range(rounds):
        for turn in range(len(ways)):
            name = ways[(turn + number) % len(ways)]
            into.setdefault(name, []).append(once(bench, bench.ways[name], number))


def measure(bench: Bench, size: Size, seen: Seen) -> None:
    """Everything but LiteLLM."""
    ways = [name for name in FAST if name in bench.ways]
    bodies = chat_bodies(256)
    path = bench.folder / "bodies"
    path.write_bytes(b"\n".join(bodies) + b"\n")
    for name in ways:
        saturate(bench, bench.ways[name], path, 1)
    with told(bench, seen, "saturation"):
        in_turn(bench, ways, size.rounds, seen.saturated, lambda b, w, _: saturate(b, w, path, size.saturation))
    with told(bench, seen, "saturation, cores awake"), awake() as allowed:
        if allowed:
            in_turn(bench, ways[1:], 3, seen.awake, lambda b, w, _: saturate(b, w, path, size.saturation))
    once: Callable[..., Any] = functools.partial(unary_round, rate=RATE, seconds=size.unary, bodies=bodies)
    if "limits" in bench.ways:
        with told(bench, seen, "saturation, with and without limits"):
            rounds = 2 * size.rounds
            three = ["gateway", "usual", "limits"]
            in_turn(bench, three, rounds, seen.limits, lambda b, w, _: saturate(b, w, path, 2))
    with told(bench, seen, f"unary, {RATE:.0f} requests/s"):
        in_turn(bench, ways, size.rounds, seen.unary, once)
    with told(bench, seen, f"{STREAMS} streams"):
        once = functools.partial(stream_round, streams=STREAMS, seconds=size.streams)
        in_turn(bench, ways, size.rounds, seen.streams, once)
    with told(bench, seen, "a prompt of 400 KB"):
        long = chat_bodies(4, "large", LARGE)
        once = functools.partial(unary_round, rate=LARGE_RATE, seconds=size.large, bodies=long, model="large")
        in_turn(bench, ways, size.rounds, seen.large, once)
    with told(bench, seen, f"{OPEN} open streams"):
        for name in ways[1:]:
            seen.memory[name] = memory_round(bench, bench.ways[name], OPEN, size.hold, 1_000.0)


def measure_litellm(bench: Bench, size: Size, seen: Seen) -> dict[str, list[Saturated]]:
    """LiteLLM, in turn with the gateway where it is a ratio; asked for less where it cannot do what the others do."""
    print("  LiteLLM starts ...", file=sys.stderr, flush=True)
    bench.start_litellm()
    bodies, path = chat_bodies(256), bench.folder / "bodies"
    slow = bench.ways["litellm"]
    saturate(bench, slow, path, 3)
    pairs: dict[str, list[Saturated]] = {}
    ways = [name for name in ("litellm", "gateway") if name in bench.ways]
    with told(bench, seen, "LiteLLM, saturation"):
        in_turn(bench, ways, 3, pairs, lambda b, w, _: saturate(b, w, path, 6 if w is slow else size.saturation))
    with told(bench, seen, "LiteLLM, latency"):
        once: Callable[..., Any] = functools.partial(unary_round, rate=SLOW_RATE, seconds=8.0, bodies=bodies)
        in_turn(bench, ["litellm"], 2, seen.unary, once)
        once = functools.partial(stream_round, streams=SLOW_STREAMS, seconds=6.0)
        in_turn(bench, ["litellm"], 2, seen.streams, once)
        long = chat_bodies(4, "large", LARGE)
        once = functools.partial(unary_round, rate=SLOW_LARGE, seconds=6.0, bodies=long, model="large")
        in_turn(bench, ["litellm"], 2, seen.large, once)
        seen.memory["litellm"] = memory_round(bench, slow, SLOW_OPEN, size.hold, 10.0)
    return pairs


# --- figures


def added(rounds: dict[str, list[Timed]], way: str, what: str, which: int) -> list[float]:
    """What a way adds to no gateway, round by round, ms."""
    pairs = zip(rounds[way], rounds["direct"], strict=False)
    return [getattr(a, what)[which] - getattr(b, what)[which] for a, b in pairs]


def beside(rounds: dict[str, list[Timed]], way: str, what: str, which: int, peers: Sequence[str], own: str) -> str:
    """What an added time is compared with: the direct one, what peers add, the least and the most of the rounds."""
    direct = median([getattr(one, what)[which] for one in rounds["direct"]])
    parts = [f"asked directly: {direct:.3f} ms"]
    if "nginx" in peers and way != "nginx":
        parts.append(f"nginx adds {median(added(rounds, 'nginx', what, which)):.3f}")
    if "litellm" in peers and "litellm" in rounds:
        slow = median([getattr(one, what)[which] for one in rounds["litellm"]]) - direct
        parts.append(f"LiteLLM adds {slow:.1f} {own}")
    return "; ".join([*parts, f"rounds {spread(added(rounds, way, what, which))}"])


def latency_figures(name: str, rounds: dict[str, list[Timed]], what: str, own: str, aims: Sequence[float | None],
                    ) -> list[Figure]:  # fmt: skip
    """Added p50 and p99. `aims`: at most so many ms; for p99 also twice what nginx adds in this run."""
    made = []
    for which, (share, aim) in enumerate(zip(("p50", "p99"), aims, strict=True)):
        twice = 2 * median(added(rounds, "nginx", what, which)) if which else 0.0
        value = median(added(rounds, "gateway", what, which))
        peers = beside(rounds, "gateway", what, which, ("nginx", "litellm"), own)
        made.append(figure(f"{name}, added {share}", value, "ms", peers, at_most=aim and max(aim, twice)))
    return made


def saturation_figures(seen: Seen, pairs: dict[str, list[Saturated]]) -> list[Figure]:
    """Requests per second, and the ratios."""
    by = {name: median([one.rate for one in rounds]) for name, rounds in seen.saturated.items()}
    cpu = {name: median([one.cpu for one in rounds]) * 1e6 for name, rounds in seen.saturated.items()}
    own = [one.rate for one in seen.saturated["gateway"]]
    text = f"nginx: {by['nginx']:.0f}; asked directly: {by['direct']:.0f}; rounds {spread(own, 5)}"
    made = [figure("saturation on one worker", by["gateway"], "requests/s", text)]
    made.append(ratio_figure("nginx", seen.saturated, 0.25))
    if "gateway" in seen.awake:
        made.append(ratio_figure("nginx", seen.awake, 0.25, ", cores awake"))
    if seen.limits:
        made += [limits_figure(seen.limits, *one) for one in (("usual", "three limits"), ("limits", "eight limits"))]
    made.append(figure("CPU of one request", cpu["gateway"], "us", f"nginx: {cpu['nginx']:.1f} us"))
    if "litellm" in pairs and "gateway" in pairs:
        made.append(ratio_figure("litellm", pairs, 100))
    return made


def limits_figure(rounds: dict[str, list[Saturated]], way: str, words: str) -> Figure:
    """Throughput with limits on a key and its tenant, over the same gateway's without."""
    pairs = list(zip(rounds[way], rounds["gateway"], strict=True))
    ratios = [a.per_core / b.per_core for a, b in pairs]
    each = [median([one.cpu for one in side]) * 1e6 for side in (rounds[way], rounds["gateway"])]
    text = f"CPU of one request {each[0]:.1f} us with, {each[1]:.1f} us without; rounds {spread(ratios)}"
    return figure(f"saturation with {words}, ratio to without", median(ratios), "", text, at_least=0.85)


def ratio_figure(peer: str, rounds: dict[str, list[Saturated]], aim: float, how: str = "") -> Figure:
    """The gateway's throughput over a peer's, for the share of the core that each had: others may have had the rest."""
    pairs = list(zip(rounds["gateway"], rounds[peer], strict=True))
    ratios = [a.per_core / b.per_core for a, b in pairs]
    plain = median([a.rate / b.rate for a, b in pairs])
    text = f"{peer}: {median([b.per_core for _, b in pairs]):.0f} requests/s of a whole core, "
    text += f"gateway {median([a.per_core for a, _ in pairs]):.0f}; rounds {spread(ratios)}; "
    text += (
        f"{plain:.3g} with {median([a.busy for a, _ in pairs]):.2f} and {median([b.busy for _, b in pairs]):.2f} cores"
    )
    return figure(f"saturation, ratio to {peer}{how}", median(ratios), "", text, at_least=aim)


def memory_figures(seen: Seen) -> list[Figure]:
    """PSS with streams open, and of one stream."""
    made = []
    idle, most, opened = seen.memory["gateway"]
    nginx = seen.memory["nginx"]
    text = f"idle: {idle:.1f} MiB; nginx: {nginx[0]:.1f} idle, {nginx[1]:.1f} with {nginx[2]}"
    if "litellm" in seen.memory:
        one = seen.memory["litellm"]
        text += f"; LiteLLM: {one[0]:.0f} idle, {one[1]:.0f} with {one[2]}"
    made.append(figure(f"PSS with {opened} open streams", most, "MiB", text))
    each = {name: (one[1] - one[0]) / max(one[2], 1) * 1024 for name, one in seen.memory.items()}
    text = "; ".join(f"{name}: {value:.1f} KiB" for name, value in each.items() if name != "gateway")
    made.append(figure("memory of one open stream", each["gateway"], "KiB", text))
    made.append(figure(f"of {OPEN} streams, not open", OPEN - opened, "", f"nginx: {OPEN - nginx[2]}", at_most=0))
    return made


def figures(seen: Seen, pairs: dict[str, list[Saturated]]) -> list[Figure]:
    """All figures."""
    made = saturation_figures(seen, pairs)
    own = f"at {SLOW_RATE:.0f} requests/s"
    made += latency_figures(f"{RATE:.0f} requests/s of 1 KB", seen.unary, "latency", own, (0.3, 2.0))
    own = f"with {SLOW_STREAMS} streams"
    made += latency_figures(f"{STREAMS} streams, first token", seen.streams, "first", own, (None, None))
    made += latency_figures(f"{STREAMS} streams, between tokens", seen.streams, "gap", own, (0.3, 2.0))
    each = {name: median([one.cpu for one in rounds]) for name, rounds in seen.streams.items() if name != "direct"}
    text = "; ".join(f"{name}: {value:.1f} us" for name, value in each.items() if name != "gateway")
    made.append(figure("CPU of one event of a stream", each["gateway"], "us", text))
    made += memory_figures(seen)
    own = f"at {SLOW_LARGE:.0f} requests/s"
    made += latency_figures(
        f"prompt of {LARGE // 1000} KB, {LARGE_RATE:.0f}/s", seen.large, "latency", own, (None, None)
    )
    return made + trust_figures(seen, pairs)


def trust_figures(seen: Seen, pairs: dict[str, list[Saturated]]) -> list[Figure]:
    """What says how far to trust the others: wrong answers, the client's own lateness, other load."""
    runs = [one for rounds in (seen.unary, seen.streams, seen.large) for r in rounds.values() for one in r]
    wrk = [one for rounds in (seen.saturated, pairs) for r in rounds.values() for one in r]
    wrong = {name: sum(one.wrong for part in (seen.saturated, seen.unary, seen.streams, seen.large, pairs)
                       for one in part.get(name, ())) for name in (*FAST, "litellm")}  # fmt: skip
    text = "; ".join(f"{name}: {count}" for name, count in wrong.items() if name != "gateway" and count)
    made = [figure("answers of the gateway, wrong or lost", wrong.get("gateway", 0), "", text, at_most=0)]
    late = median([one.late[1] for one in seen.unary["direct"]])
    text = f"its median: {median([one.late[0] for one in seen.unary['direct']]):.3f} ms; it is in all latencies alike"
    made.append(figure("the client's own lateness, p99", late, "ms", text))
    others, stolen = (max(one[i] for one in seen.noise) for i in (1, 2))
    text = f"stolen by the host: {stolen:.2f} cores at most; {len(runs) + len(wrk)} rounds in all"
    made.append(figure("cores used by others, at most", others, "cores", text))
    return made


def show(seen: Seen) -> None:
    """The rounds' medians, one way a line."""
    print(f"{'way':8} {'req/s':>8} {'us CPU':>7} | {'p50 ms':>7} {'p99':>7} | {'TTFT p50':>8} {'p99':>7}"
          f" {'gap p50':>8} {'p99':>7} | {'400KB p50':>9} {'p99':>7}")  # fmt: skip
    for name in (*FAST, "litellm"):
        if name not in seen.unary:
            continue
        wrk = seen.saturated.get(name)
        rate, cpu = (median([o.rate for o in wrk]), median([o.cpu for o in wrk]) * 1e6) if wrk else (0.0, 0.0)
        parts = [f"{name:8} {rate:8.0f} {cpu:7.1f} |"]
        for rounds, what in ((seen.unary, "latency"), (seen.streams, "first"), (seen.streams, "gap"),
                             (seen.large, "latency")):  # fmt: skip
            parts += [f"{median([getattr(o, what)[i] for o in rounds[name]]):8.3f}" for i in (0, 1)]
        print(" ".join(parts))
    worst = max(seen.noise, key=lambda one: one[1] + one[2])
    if worst[1] + worst[2] > 0.1:
        print(
            f"\nOTHER LOAD: {worst[1]:.2f} cores were used by others and {worst[2]:.2f} stolen during `{worst[0]}`;\n"
            f"load average {os.getloadavg()[0]:.1f}. Latencies' p99 and absolute rates are not to be trusted."
        )


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description="What the gateway costs in front of a language model.")
    parser.add_argument("--quick", action="store_true", help="shorter rounds, and no LiteLLM")
    parser.add_argument("--without-gateway", action="store_true", help="try the harness alone; writes nothing")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    allow_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    seen, pairs = Seen(), {}
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder, Bench(Path(folder)) as bench:
        bench.start_nginx()
        if not arguments.without_gateway:
            bench.start_gateways()
        measure(bench, size, seen)
        if size.litellm:
            pairs = measure_litellm(bench, size, seen)
            seen.saturated["litellm"] = pairs["litellm"]
    print(f"requests of {SIZE} bytes, {CONNECTIONS} connections at saturation; contenders on one core, load and "
          f"stubs on another; {versions()}; medians of {size.rounds} rounds\n")  # fmt: skip
    show(seen)
    if not arguments.without_gateway:
        made = figures(seen, pairs)
        print(f"\n{table(made)}\n\nfigures: {write('gateway', made)}")


if __name__ == "__main__":
    main()
