"""Does llama.cpp keep its throughput and its time to the first token behind the gateway?

Run: `make bench-llamacpp` (some 4 minutes). Prints a table, and writes the figures to
`benchmarks/results/llamacpp.json`. A real replica of SmolLM2 streams 64 tokens a request, asked directly and through
the gateway in pairs: which of a pair goes first is drawn, no prompt is sent twice, and the ratio's interval is a
bootstrap over pairs.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from figures import Figure, figure, table, write
from serving.engine import MODEL, Engines, Streamed, chat, prose, streamed
from serving.intervals import median, quantile, ratio
from serving.noise import Watch

from mainspring.wire.process import allow_files

TOKENS = 64
SLOTS = 4
AT_ONCE = (1, SLOTS)
STREAMS = {1: 3, SLOTS: 8}  # of one half of a pair, by how many are open at once
WORKER = "gateway-0"
Pair = dict[str, Streamed]


def bodies(rng: random.Random, count: int) -> list[bytes]:
    """Chat requests of some 70 prompt tokens, none like another from its first words on."""
    return [chat("", f"{prose(rng, 3)} Tell a long story about that.", TOKENS) for _ in range(count)]


def measure(folder: Path, pairs: int, threads: int) -> tuple[dict[int, list[Pair]], tuple[float, float]]:
    """Pairs by how many streams are open at once; cores that others used, and that were stolen."""
    rng, found = random.Random(1), {at_once: [] for at_once in AT_ONCE}  # type: dict[int, list[Pair]]
    with Engines(folder) as engines:
        options = ["--threads", str(threads), "--slots", str(SLOTS), "--context", "1024"]
        (direct,) = engines.start(1, *options)
        gateway = engines.site.gateway(WORKER)
        ways = {"direct": direct, "gateway": gateway.wait_ready()}
        engines.route({MODEL: {"prefix": True}}, SLOTS, WORKER)
        for address in ways.values():
            streamed(address, bodies(rng, SLOTS), SLOTS)
        watch = Watch(engines.pids)
        for number in range(pairs):
            print(f"  pair {number + 1} of {pairs} ...", file=sys.stderr, flush=True)
            for at_once in AT_ONCE:
                order = rng.sample(list(ways), 2)
                found[at_once].append(
                    {name: streamed(ways[name], bodies(rng, STREAMS[at_once]), at_once) for name in order}
                )
        return found, watch.read()


def figures(found: dict[int, list[Pair]]) -> list[Figure]:
    """Ratios with their intervals; above 1 the gateway is the better half, which is noise."""
    made = []
    for at_once, pairs in found.items():
        rates = [(pair["gateway"].rate, pair["direct"].rate) for pair in pairs]
        firsts = [(median(pair["direct"].to_first), median(pair["gateway"].to_first)) for pair in pairs]
        alone = median([pair["direct"].rate for pair in pairs])
        first = median([median(pair["direct"].to_first) for pair in pairs]) * 1e3
        for name, values, text in (
            ("throughput", rates, f"asked directly: {alone:.1f} tokens/s"),
            ("TTFT", firsts, f"asked directly: {first:.1f} ms; direct over through, so that more is better"),
        ):
            middle, low, high = ratio(values)
            what = f"{name} kept, {at_once} at once"
            made.append(figure(what, middle, "", f"{text}; {len(pairs)} pairs", at_least=0.95))
            made.append(figure(f"{what}, lower bound", low, "", f"upper bound: {high:.3f} (95 %)", at_least=0.90))
    return made


def show(found: dict[int, list[Pair]]) -> None:
    """Each pair, one a line."""
    print(f"{'at once':>7} {'pair':>4} | {'direct tok/s':>12} {'gateway':>8} | {'direct TTFT ms':>14} {'gateway':>8}")
    for at_once, pairs in found.items():
        for number, pair in enumerate(pairs):
            a, b = pair["direct"], pair["gateway"]
            firsts = [quantile(one.to_first, 0.5) * 1e3 for one in (a, b)]
            print(f"{at_once:>7} {number:>4} | {a.rate:12.1f} {b.rate:8.1f} | {firsts[0]:14.1f} {firsts[1]:8.1f}")


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description="llama.cpp with and without the gateway.")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=min(os.cpu_count() or 1, 4), help="of the engine")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    allow_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    with tempfile.TemporaryDirectory(prefix="bench-llamacpp-") as folder:
        found, (others, stolen) = measure(Path(folder) / "site", arguments.pairs, arguments.threads)
    show(found)
    made = figures(found)
    made.append(figure("cores used by others", others, "cores", f"stolen by the host: {stolen:.2f}"))
    print(f"\n{table(made)}\n\nfigures: {write('llamacpp', made)}")


if __name__ == "__main__":
    main()
