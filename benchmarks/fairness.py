"""What a noisy tenant costs the others: their p95 with it and without, and what sharing fairly costs in all.

Run: `make bench-fairness` (some 20 minutes; `ARGS=--quick` 9; `ARGS="--parts equal"` those parts only). Prints a
table, and writes the figures to `benchmarks/results/fairness.json`. A real gateway before two fake replicas of four
slots, whose costs are known: 40 ms to the first token, 20 ms for each token of an answer of 4 to 80 (log-normal, median
20), so half a second.

Each round has the same arrivals both ways (Poisson, seeded by part and round): calm, every tenant at 75 % of its share
of what the replicas can do; and noisy, one of them at ten times its share. Latency is from the moment that a request
was due to its last byte, over the quiet tenants' requests that were due in the window. Parts:

- `equal`: four tenants of equal shares; once more noisy with all in one queue, first come first served (keys without a
  tenant), for what fairness costs in throughput.
- `shares`: shares of 1, 2 and 4, and a noisy one of 1. `priority`: one quiet tenant of high priority.
- `long`: the noisy one has few but long requests: prompts of 4,000 tokens and answers of 80, each 2 s of a slot.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from figures import Figure, figure, table, write
from serving.client import Call, Client, request
from serving.intervals import median, quantile, spread
from serving.noise import Watch

from mainspring.testing.serving import Site
from mainspring.testing.tenants import Tenancy, token_of
from mainspring.wire.process import allow_files

PATH = "/v1/chat/completions"
REPLICAS, SLOTS = 2, 4
FIRST_MS, GAP_MS, PROMPT_US = 40.0, 20.0, 100.0
QUEUE = 128
LOAD = 0.75  # of its share, of a quiet tenant
NOISE = 10.0  # of its share
WARM = 5.0  # seconds before each window
NOISY = "noisy"
LONG_PROMPT, LONG_ANSWER = 4_000, 80  # tokens
PARTS = ("equal", "shares", "priority", "long")
WAYS = {"equal": ("calm", "noisy", "fifo"), "shares": ("calm", "noisy"), "priority": ("calm", "noisy"),
        "long": ("calm", "noisy")}  # fmt: skip
TENANTS: dict[str, dict[str, dict[str, object]]] = {
    "equal": {"a": {}, "b": {}, "c": {}, NOISY: {}},
    "shares": {"a": {}, "b": {"share": 2.0}, "c": {"share": 4.0}, NOISY: {}},
    "priority": {"a": {"priority": 0}, "b": {}, "c": {}, NOISY: {}},
    "long": {"a": {}, "b": {}, "c": {}, NOISY: {}},
}


def answer(rng: random.Random) -> int:
    """Tokens of an answer."""
    return min(max(round(math.exp(rng.gauss(math.log(20), 0.5))), 4), 80)


_DRAWN = random.Random(1)
MEAN = FIRST_MS / 1e3 + GAP_MS / 1e3 * (sum(answer(_DRAWN) for _ in range(20_000)) / 20_000 - 1)
"""Seconds of a slot that a usual request takes: its prompt's are some 2 ms."""
CAPACITY = REPLICAS * SLOTS / MEAN
LONG = FIRST_MS / 1e3 + PROMPT_US * LONG_PROMPT / 1e6 + GAP_MS / 1e3 * (LONG_ANSWER - 1)


def usual(rng: random.Random) -> bytes:
    """A request of the usual kind; none begins like another."""
    words = f"fake:tokens={answer(rng)} {rng.random()} " + "some words " * 4
    return json.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": words}]}).encode()


def long(rng: random.Random) -> bytes:
    """A request with a long prompt and a long answer."""
    words = f"fake:tokens={LONG_ANSWER} {rng.random()} " + "x" * (4 * LONG_PROMPT)
    return json.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": words}]}).encode()


@dataclass
class Asked:
    """One request of a tenant."""

    tenant: str
    at: float  # seconds from the start
    call: Call


@dataclass
class Seen:
    """What one way of one round did, in its window."""

    p95: dict[str, float]  # seconds, by tenant
    all_p95: float  # of the quiet tenants together
    half: float
    rate: float  # output tokens a second of all answers that ended
    lost: int  # of the quiet tenants, requests without an answer
    refused: int  # of the noisy one
    late: float  # p99 of the client's own lateness


@dataclass
class Bench:
    """The gateway, its replicas, and how long each way of a round is."""

    shop: Tenancy
    seconds: float
    warm: float
    rounds: int
    found: dict[str, list[dict[str, Seen]]] = field(default_factory=dict)

    def set_up(self, part: str) -> None:
        """Tenants and keys of a part; for each tenant one key of none, for the queue that knows no tenants."""
        self.shop.tenants.clear()
        for name, more in TENANTS[part].items():
            self.shop.tenant(name, **more)  # type: ignore[arg-type]

    def measure(self, part: str) -> None:
        """All rounds of a part, their ways in an order that is drawn."""
        self.set_up(part)
        for number in range(self.rounds):
            ways = list(WAYS[part])
            random.Random(f"{part} {number}").shuffle(ways)
            one: dict[str, Seen] = {}
            for way in ways:
                print(f"  {part}, round {number + 1} of {self.rounds}: {way} ...", file=sys.stderr, flush=True)
                one[way] = self.run(part, way, f"{part} {number}")
            self.found.setdefault(part, []).append(one)

    def run(self, part: str, way: str, seed: str) -> Seen:
        """One way of a round."""
        fifo = way == "fifo"
        for name in TENANTS[part]:
            self.shop.key_of("" if fifo else name, {name: ()})
        saved = dict(self.shop.tenants)
        if fifo:
            self.shop.tenants.clear()
        self.shop.route()
        self.shop.wait_for_keys(*TENANTS[part])
        asked = self.arrivals(part, way != "calm", seed)
        with Client(self.shop.address, warm=8) as client:
            client.open_loop([one.call for one in asked], _whole, 30.0)
        self.shop.tenants.update(saved)
        return self.judge(asked)

    def arrivals(self, part: str, noisy: bool, seed: str) -> list[Asked]:
        """All requests of one way, in the order that they are due; a quiet tenant's are the same both ways."""
        shares = {name: float(more.get("share", 1.0)) for name, more in TENANTS[part].items()}  # type: ignore[arg-type]
        found = []
        for name, share in shares.items():
            rng = random.Random(f"{seed} {name} {noisy and name == NOISY}")
            is_long = part == "long" and name == NOISY
            cost, make = (LONG, long) if is_long else (MEAN, usual)
            load = NOISE if noisy and name == NOISY else LOAD
            rate = load * share / sum(shares.values()) * REPLICAS * SLOTS / cost
            due = rng.expovariate(rate)
            while due < self.warm + self.seconds:
                found.append(Asked(name, due, Call(due, request(PATH, make(rng), token_of(name)))))
                due += rng.expovariate(rate)
        return sorted(found, key=lambda one: one.at)

    def judge(self, asked: Sequence[Asked]) -> Seen:
        """What came of the requests that were due in the window."""
        start = asked[0].call.due - asked[0].at + self.warm
        end = start + self.seconds
        window = [one for one in asked if self.warm <= one.at < self.warm + self.seconds]
        good = [one for one in window if one.call.right]
        quiet = [one.call.seconds for one in good if one.tenant != NOISY]
        done = [one.call for one in asked if one.call.right and start <= one.call.done < end]
        names = dict.fromkeys(one.tenant for one in asked)
        return Seen(
            {name: quantile([one.call.seconds for one in good if one.tenant == name], 0.95) for name in names},
            quantile(quiet, 0.95),
            quantile(quiet, 0.5),
            sum(len(call.events) - 3 for call in done) / self.seconds,  # without role, end and [DONE]
            sum(not one.call.right for one in window if one.tenant != NOISY),
            sum(not one.call.right for one in window if one.tenant == NOISY),
            quantile([one.call.late for one in asked], 0.99),
        )


def _whole(status: int, body: bytes) -> bool:
    return status == 200 and b"data: [DONE]" in body[-32:]


def figures_of(part: str, rounds: Sequence[dict[str, Seen]]) -> list[Figure]:
    """The quiet tenants' p95 with the noisy one over that without, and the rest of a part."""
    calm, noisy = [one["calm"] for one in rounds], [one["noisy"] for one in rounds]
    rise = [(n.all_p95 / c.all_p95 - 1) * 100 for c, n in zip(calm, noisy, strict=True)]
    text = f"rounds {spread(rise)} %; p95 calm {median([c.all_p95 for c in calm]):.3f} s, noisy "
    text += f"{median([n.all_p95 for n in noisy]):.3f} s; lost {sum(n.lost for n in noisy)}, client late by "
    text += f"{max(one.late for one in (*calm, *noisy)) * 1e3:.0f} ms at p99"
    made = [figure(f"{part}: the others' p95, rise", median(rise), "%", text, at_most=10.0)]
    half = [(n.half / c.half - 1) * 100 for c, n in zip(calm, noisy, strict=True)]
    made.append(figure(f"{part}: their median, rise", median(half), "%", f"rounds {spread(half)} %"))
    for name in TENANTS[part]:
        if name != NOISY and part in ("shares", "priority"):
            each = [(n.p95[name] / c.p95[name] - 1) * 100 for c, n in zip(calm, noisy, strict=True)]
            made.append(figure(f"{part}: p95 of `{name}`, rise", median(each), "%", f"rounds {spread(each)} %"))
    if "fifo" in rounds[0]:
        kept = [(one["noisy"].rate / one["fifo"].rate - 1) * -100 for one in rounds]
        text = f"first come first served, {median([one['fifo'].rate for one in rounds]):.0f} tokens/s; "
        text += f"rounds {spread(kept)} %"
        made.append(figure(f"{part}: throughput lost", median(kept), "%", text, at_most=5.0))
        there = [(one["fifo"].all_p95 / one["calm"].all_p95 - 1) * 100 for one in rounds]
        made.append(figure(f"{part}: p95 rise without tenants", median(there), "%", f"rounds {spread(there)} %"))
    return made


def show(found: dict[str, list[dict[str, Seen]]]) -> None:
    """Each round, one a line."""
    print(
        f"{'part':9} {'way':6} | {'p50 s':>6} {'p95 s':>6} {'noisy p95':>9} | {'tok/s':>6} {'lost':>5} {'refused':>7}"
    )
    for part, rounds in found.items():
        for one in rounds:
            for way, seen in one.items():
                print(f"{part:9} {way:6} | {seen.half:6.3f} {seen.all_p95:6.3f} {seen.p95[NOISY]:9.3f} | "
                      f"{seen.rate:6.0f} {seen.lost:5} {seen.refused:7}")  # fmt: skip


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description="A noisy tenant and its neighbours.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each way's window")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 15 s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others are left out")
    arguments = parser.parse_args()
    rounds, seconds = (3, 15.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    allow_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory(prefix="bench-fairness-") as folder, Site(Path(folder)) as site:
        shop = Tenancy(site, fields={"slots": SLOTS, "queue": QUEUE, "timeout_s": 60.0, "first_s": 60.0})
        costs = [f"--first-ms={FIRST_MS}", f"--gap-ms={GAP_MS}", f"--prompt-us-per-token={PROMPT_US}"]
        shop.start_fakes(REPLICAS, "--slots", str(SLOTS), *costs)
        shop.worker()
        bench = Bench(shop, seconds, WARM, rounds)
        watch = Watch([one.popen.pid for one in site.processes])
        for part in arguments.parts:
            bench.measure(part)
        others, stolen = watch.read()
    print(f"{REPLICAS} replicas of {SLOTS} slots, answers of {MEAN:.2f} s: {CAPACITY:.1f} requests/s; queue {QUEUE}\n")
    show(bench.found)
    made = [one for part, rounds in bench.found.items() for one in figures_of(part, rounds)]
    made.append(figure("cores used by others", others, "cores", f"stolen by the host: {stolen:.2f}"))
    print(f"\n{table(made)}\n\nfigures: {write('fairness', made)}")


if __name__ == "__main__":
    main()
