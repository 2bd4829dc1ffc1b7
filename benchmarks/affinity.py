"""What prefix affinity is worth on real prompts that share beginnings, and what it costs on prompts that share nothing.

Run: `make bench-affinity` (some half an hour; `ARGS=--quick` 14 minutes; `ARGS="--parts alone fake"` those parts only).
Prints a table, and writes the figures to `benchmarks/results/affinity.json`. Two real replicas of SmolLM2 behind the
gateway, asked by turns with the route's `prefix` on and off (plain least-outstanding); every round has system prompts
that no cache has seen, and both ways of a round have the same moments of arrival. The parts with shared beginnings:

- `one`: as many system prompts as one replica has slots: each replica can keep all, what differs is how often each is
  read. Poisson arrivals, half as many as plain least-outstanding can answer (measured at the start).
- `fleet`: as many as all replicas have slots together: all fit into the fleet, half of them into a replica. As often.
- `full`: the same with two requests for each replica always under way, which is all that the machine can do.

The last part repeats the prompts that share nothing on two fakes whose cost is known, where a loss of 2 % can be told
from noise.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from figures import Figure, figure, table, write
from serving.engine import MODEL, Engines, Streamed, chat, prose, streamed
from serving.intervals import quantile, ratio, spread
from serving.noise import Watch

from mainspring.wire.process import allow_files

REPLICAS, SLOTS = 2, 4
BEGINNINGS = {"one": SLOTS, "fleet": REPLICAS * SLOTS, "full": REPLICAS * SLOTS}  # system prompts of a round
LOAD = 0.5  # of what plain least-outstanding can answer
QUESTIONS = 6  # to each
SENTENCES = 40  # of a system prompt: some 600 tokens
TOKENS = 8
AT_ONCE = 2 * REPLICAS
ALONE = 16  # prompts of a round that share nothing
FAKE = ("--slots", "4", "--prompt-us-per-token", "100", "--gap-ms", "2", "--first-ms", "2")
FAKE_ALONE = 1_000
WORKER = "gateway-0"
WAYS = {"affinity": True, "plain": False}
PARTS = (*BEGINNINGS, "alone", "fake")
Rounds = list[dict[str, Streamed]]


def shared(rng: random.Random, count: int) -> list[bytes]:
    """Questions to several system prompts, shuffled."""
    systems = [prose(rng, SENTENCES) for _ in range(count)]
    made = [chat(system, f"{prose(rng, 1)} Why?", TOKENS) for system in systems for _ in range(QUESTIONS)]
    rng.shuffle(made)
    return made


def alone(rng: random.Random, count: int = ALONE) -> list[bytes]:
    """Prompts of some 100 tokens, none of which begins like another."""
    return [chat("", f"{prose(rng, 6)} Why?", TOKENS) for _ in range(count)]


def moments(rng: random.Random, count: int, rate: float) -> list[float]:
    """Poisson arrivals, in seconds from now."""
    return list(itertools.accumulate(rng.expovariate(rate) for _ in range(count)))


def in_turn(engines: Engines, address: str, rounds: int, bodies: Callable[[random.Random], list[bytes]], at_once: int,
            what: str, rate: float = 0.0) -> Rounds:  # fmt: skip
    """Each round both ways, in an order that is drawn; prompts of the same shape, other words.

    `rate`: requests for each second, at the same moments both ways; 0: `at_once` always under way.
    """
    rng, found = random.Random(what), []
    for number in range(rounds):
        print(f"  {what}, round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
        one: dict[str, Streamed] = {}
        seed = rng.random()
        for way in rng.sample(list(WAYS), 2):
            engines.route({MODEL: {"prefix": WAYS[way]}}, SLOTS, WORKER)
            asked = bodies(rng)
            due = moments(random.Random(seed), len(asked), rate) if rate else []
            one[way] = streamed(address, asked, at_once, due)
        found.append(one)
    return found


def measure(
    folder: Path, parts: Sequence[str], rounds: int, pairs: int
) -> tuple[dict[str, Rounds], tuple[float, float]]:
    """All rounds of the `parts`; cores that others used, and that were stolen."""
    found: dict[str, Rounds] = {}
    with Engines(folder) as engines:
        engines.start(REPLICAS, "--threads", "1", "--slots", str(SLOTS), "--context", "1024")
        gateway = engines.site.gateway(WORKER)
        address = gateway.wait_ready()
        rate = LOAD * capacity(engines, address) if {"one", "fleet"} & set(parts) else 0.0
        watch = Watch(engines.pids)
        for part, count in BEGINNINGS.items():
            if part in parts:
                found[part] = in_turn(engines, address, rounds, lambda rng, count=count: shared(rng, count), AT_ONCE,
                                      part, 0.0 if part == "full" else rate)  # fmt: skip
        if "alone" in parts:
            found["alone"] = in_turn(engines, address, pairs, alone, AT_ONCE, "nothing shared")
        noise = watch.read()
        if "fake" in parts:
            engines.start_fakes(REPLICAS, *FAKE)
            found["fake"] = in_turn(engines, address, pairs, lambda rng: alone(rng, FAKE_ALONE), 2 * SLOTS, "on fakes")
    return found, noise


def capacity(engines: Engines, address: str) -> float:
    """Requests a second that plain least-outstanding can answer, of the `fleet` part's prompts."""
    print("  what plain least-outstanding can answer ...", file=sys.stderr, flush=True)
    engines.route({MODEL: {"prefix": False}}, SLOTS, WORKER)
    bodies = shared(random.Random(0), BEGINNINGS["fleet"])
    return len(bodies) / streamed(address, bodies, AT_ONCE).seconds


def hit_rate(streams: Streamed) -> float:
    """Share of the prompts' tokens that a cache had, in per cent."""
    return 100 * streams.cached / streams.prompt


def shared_figures(rounds: Rounds, part: str) -> list[Figure]:
    """Hit rate and time to the first token on prompts that share beginnings."""
    hits = {way: [hit_rate(one[way]) for one in rounds] for way in WAYS}
    best = 100 * (1 - 1 / QUESTIONS)
    text = f"plain least-outstanding: {sum(hits['plain']) / len(rounds):.1f} % ({spread(hits['plain'])}); "
    text += f"rounds {spread(hits['affinity'])}; each beginning read once would be near {best:.0f} %"
    what = f"{part}, {BEGINNINGS[part]} beginnings"
    made = [figure(f"{what}: hit rate with affinity", sum(hits["affinity"]) / len(rounds), "%", text)]
    firsts = {way: [first for one in rounds for first in one[way].to_first] for way in WAYS}
    for share in (0.5, 0.95):
        mine, other = (quantile(firsts[way], share) * 1e3 for way in ("affinity", "plain"))
        pairs = [(quantile(o["affinity"].to_first, share), quantile(o["plain"].to_first, share)) for o in rounds]
        middle, low, high = ratio(pairs)
        text = f"plain: {other:.0f} ms; ratio by rounds {middle:.3f} ({low:.3f} to {high:.3f}, 95 %)"
        made.append(figure(f"{what}: TTFT p{share * 100:.0f} with affinity", mine, "ms", text))
    middle, low, high = ratio([(mean(one["affinity"].to_first), mean(one["plain"].to_first)) for one in rounds])
    text = f"by rounds {low:.3f} to {high:.3f} (95 %); the median jumps where half of the prompts are hits"
    made.append(figure(f"{what}: mean TTFT, affinity over plain", middle, "", text))
    if part != "full":
        return made
    middle, low, high = ratio([(one["affinity"].rate, one["plain"].rate) for one in rounds])
    made.append(figure(f"{what}: throughput, affinity over plain", middle, "", f"{low:.3f} to {high:.3f} (95 %)"))
    return made


def alone_figures(rounds: Rounds, where: str) -> list[Figure]:
    """What is lost on prompts that share nothing: at most 2 %."""
    made = []
    for name, pairs in (
        ("throughput", [(one["affinity"].rate, one["plain"].rate) for one in rounds]),
        ("mean TTFT", [(mean(one["plain"].to_first), mean(one["affinity"].to_first)) for one in rounds]),
    ):
        middle, low, high = ratio(pairs)
        text = f"plain least-outstanding; {low:.3f} to {high:.3f} (95 %), {len(rounds)} pairs; below 1 is a loss"
        made.append(figure(f"nothing shared, {where}: {name} kept", middle, "", text, at_least=0.98))
    return made


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def show(found: dict[str, Rounds]) -> None:
    """Each round, one a line."""
    print(f"{'part':8} {'way':8} | {'tok/s':>7} {'hit %':>6} {'TTFT p50 ms':>11} {'p95':>8}")
    for part, rounds in found.items():
        for one in rounds:
            for way in WAYS:
                half, most = (quantile(one[way].to_first, share) * 1e3 for share in (0.5, 0.95))
                print(f"{part:8} {way:8} | {one[way].rate:7.1f} {hit_rate(one[way]):6.1f} {half:11.0f} {most:8.0f}")


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description="Prefix affinity against plain least-outstanding.")
    parser.add_argument("--rounds", type=int, default=4, help="with shared beginnings")
    parser.add_argument("--pairs", type=int, default=8, help="with nothing shared")
    parser.add_argument("--quick", action="store_true", help="2 rounds, 3 pairs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the others are left out")
    arguments = parser.parse_args()
    rounds, pairs = (2, 3) if arguments.quick else (arguments.rounds, arguments.pairs)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    allow_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory(prefix="bench-affinity-") as folder:
        found, (others, stolen) = measure(Path(folder) / "site", arguments.parts, rounds, pairs)
    print(f"system prompts of some 600 tokens, {QUESTIONS} questions to each; two replicas of {SLOTS} slots\n")
    show(found)
    made = [one for part in BEGINNINGS if part in found for one in shared_figures(found[part], part)]
    for part, where in (("alone", "llama.cpp"), ("fake", "fakes")):
        made += alone_figures(found[part], where) if part in found else []
    made.append(figure("cores used by others", others, "cores", f"stolen by the host: {stolen:.2f}"))
    print(f"\n{table(made)}\n\nfigures: {write('affinity', made)}")


if __name__ == "__main__":
    main()
