"""A recorded run of vLLM against its forecast: request by request, and as steady traffic.

    python benchmarks/forecast/replay.py FILE.requests.jsonl FILE.meta.json --gpu "RTX PRO 6000"

What this is: requests with their stamps (arrival, queued, scheduled, first and last token) put through the curve of
`forecast/curve.py` at the moments at which they came. Who calls it: people. What it must never do: fit anything on it.

A recorded burst is no steady traffic, so what is compared is a replay of the very arrivals with the curve's speeds
(first come, first served; slots and memory as forecast), plus the steady forecast's own largest rate.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections import deque
from pathlib import Path

import numpy as np

from mainspring.facts import gpus, models
from mainspring.forecast.coefficients import builtin
from mainspring.forecast.curve import Curve
from mainspring.forecast.lengths import observed
from mainspring.forecast.queue import curve_of, solve
from mainspring.forecast.setup import Arrivals, Setup

PRECISIONS = {"bfloat16": "bf16", "float16": "fp16", "auto": "bf16", "fp8": "fp8"}


def replay(known: Curve, arrival: np.ndarray, prompt: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times to first and last token. All in the batch go at the speed of its size; prompts go one after the other."""
    count = len(arrival)
    first, last = np.zeros(count), np.zeros(count)
    per_token = known.prompt / float(np.mean(prompt))
    alone = float(known.alone @ np.array(known.lengths.weight))
    overhead = max(0.0, alone - known.prompt)
    waiting: deque[int] = deque()
    started: list[tuple[float, int]] = []  # first token, request
    going: list[tuple[float, int]] = []  # tokens on the common clock at which it ends, request
    now = tokens = free = 0.0
    come = batch = done = 0
    while done < count:
        speed = 1.0 / float(known.tpot[max(min(batch, known.slots), 1) - 1])
        ends = now + max(going[0][0] - tokens, 0.0) / speed if going else np.inf
        comes = arrival[come] if come < count else np.inf
        starts = started[0][0] if started else np.inf
        then = max(now, min(ends, comes, starts))
        tokens += (then - now) * speed
        now = then
        if now == ends:
            _, one = heapq.heappop(going)
            last[one] = now
            done, batch = done + 1, batch - 1
        elif now == starts:
            _, one = heapq.heappop(started)
            first[one] = now
            heapq.heappush(going, (tokens + output[one] - 1.0, one))
        else:
            waiting.append(come)
            come += 1
        while waiting and batch < known.slots:
            one = waiting.popleft()
            free = max(free, now) + per_token * prompt[one]
            heapq.heappush(started, (free + overhead, one))
            batch += 1
    return first - arrival, last - arrival


def table(rows: list[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Percentiles, measured and forecast."""
    print(f"{'':<16}{'':>6}{'measured':>12}{'forecast':>12}{'error':>9}")
    for name, seen, said in rows:
        for share in (0.5, 0.95):
            a, b = float(np.quantile(seen, share)), float(np.quantile(said, share))
            print(f"{name:<16}{f'p{share * 100:.0f}':>6}{a:>12.3f}{b:>12.3f}{b / a - 1:>+9.1%}")


def main() -> int:
    """Print the comparison."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("requests", type=Path)
    asked.add_argument("meta", type=Path)
    asked.add_argument("--gpu", required=True)
    asked = asked.parse_args()
    meta = json.loads(asked.meta.read_text())
    rows = [json.loads(line) for line in asked.requests.read_text().splitlines() if line.strip()]
    rows.sort(key=lambda row: row["queued_ts"])
    column = {name: np.array([row[name] for row in rows], dtype=float) for name in rows[0] if name != "request_id"}
    arrival = column["queued_ts"] - column["queued_ts"][0]
    engine = meta["engine_kwargs"]
    setup = Setup(
        models.find(meta["model"]),
        gpus.find(asked.gpu),
        tp=engine["tensor_parallel_size"],
        precision=PRECISIONS[engine["dtype"]],
        kv=PRECISIONS[engine["kv_cache_dtype"]],
        engine="vllm",
        version=meta["vllm_version"],
        chunk=engine["max_num_batched_tokens"],
    )
    prompt, output = column["input_toks"], column["output_toks"]
    known = curve_of(setup, observed(prompt.tolist(), output.tolist()), builtin(), slots=engine["max_num_seqs"])
    first, last = replay(known, arrival, prompt, output)
    seen_first, seen_last = (
        column["first_token_ts"] - column["queued_ts"],
        column["last_token_ts"] - column["queued_ts"],
    )
    tpot = (seen_last - seen_first) / np.maximum(output - 1, 1)
    said = (last - first) / np.maximum(output - 1, 1)
    table([("first token, s", seen_first, first), ("whole, s", seen_last, last), ("per token, s", tpot, said)])
    grid = np.sort(np.concatenate([seen_last, last]))
    apart = np.abs(
        np.searchsorted(np.sort(seen_last), grid, "right") - np.searchsorted(np.sort(last), grid, "right")
    ) / len(rows)
    rate = (len(rows) - 1) / float(np.ptp(arrival))
    steady = solve(known, Arrivals(rate))
    report = {
        "requests": len(rows),
        "slots": known.slots,
        "measured_most_in_batch": int(
            max(np.sum((column["scheduled_ts"] <= t) & (column["last_token_ts"] > t)) for t in column["scheduled_ts"])
        ),
        "forecast_largest_rate": round(float(known.rates[-1]), 3),
        "measured_rate_when_full": round(len(rows) / float(np.ptp(column["last_token_ts"])), 3),
        "arrivals_rate": round(rate, 2),
        "steady_is_stable": steady.stable,
        "whole_ks": round(float(apart.max()), 3),
        "basis": steady.basis,
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
