"""Published results beside what is forecast for them: none of them is ever fitted to.

What this is: rows of a CSV of published results (source, model, precision, gpu, n_gpu, tp, input_tokens, output_tokens,
concurrency_or_rate, metric, value, unit, note) that can be compared, and how far the forecast is from each, by source.
Who calls it: `accuracy.py`. What it must never do: fit, or tune a reading of a row until it agrees.

How rows are read: a closed loop is one; a static batch is one prefill of all and decode steps; "max load" and MLPerf
Offline are the largest rate of the closed loops of 64 to 4,096 requests on the best split of the GPUs into replicas;
MLPerf's OpenOrca prompts are 294 tokens on average (from memory). Tails, Server runs and CPU rows are left out, and
models and GPUs that the catalogue lacks.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mainspring.errors import MainspringError
from mainspring.facts import gpus, models
from mainspring.facts.shapes import BYTES
from mainspring.forecast.coefficients import Coefficients
from mainspring.forecast.measurements import cache_precision
from mainspring.forecast.memory import room
from mainspring.forecast.setup import Setup
from mainspring.forecast.steady import steady
from mainspring.forecast.steps import decode_step, prefill

Row = Mapping[str, str]

SOURCES: tuple[tuple[str, str, str], ...] = (
    ("MLPerf", "MLPerf v4.1 Offline", "trtllm"),
    ("docs/source/performance.md", "TensorRT-LLM 0.6, static batch", "trtllm"),
    ("NVIDIA/TensorRT-LLM", "TensorRT-LLM, max load", "trtllm"),
    ("NVIDIA NIM", "NIM 1.8", "trtllm"),
    ("SplitwiseSim", "Splitwise (2023 engine)", "vllm"),
    ("vLLM performance", "vLLM CI", "vllm"),
    ("gpustack", "GPUStack lab", "vllm"),
    ("docs.vultr.com", "Vultr", "vllm"),
    ("nemo-framework", "NeMo", "trtllm"),
    ("LLMServingSim", "LLMServingSim's vLLM runs", "vllm"),
    ("AutoAWQ", "AutoAWQ (not a serving engine)", "vllm"),
)
"""A mark in `source`, the name of the table's row, and the engine that it is closest to."""

OPENORCA = 294.0
SHAREGPT = (230.0, 203.0)
ENGINE_LIMIT = 256
"""Sequences that vLLM runs at once by default."""


@dataclass(frozen=True, slots=True)
class Case:
    """A row with its numbers."""

    row: Row
    setup: Setup
    gpus: int
    prompt: float
    output: float
    load: str


def compare(path: Path, known: Coefficients) -> None:
    """Print how far forecasts are from the rows of `path`, by source and metric."""
    found: dict[tuple[str, str], list[float]] = {}
    left = 0
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name, told = _told(row, known)
            if told is None:
                left += 1
            else:
                found.setdefault((name, row["metric"]), []).append(told / float(row["value"]))
    line = "{:<36.36} {:<22.22} {:>4} {:>8} {:>7}"
    print(line.format("published", "metric", "rows", "ratio", "error"))
    for (name, metric), ratios in sorted(found.items()):
        middle = math.exp(sum(math.log(one) for one in ratios) / len(ratios))
        off = 100 * sum(abs(one - 1) for one in ratios) / len(ratios)
        print(line.format(name, metric, len(ratios), f"{middle:.2f}", f"{off:.0f} %"))
    print(f"{left} rows can't be compared; ratio: geometric mean of forecast / published\n")


def _told(row: Row, known: Coefficients) -> tuple[str, float | None]:
    """The source's name, and the forecast of the row's value; None when it can't be compared."""
    for mark, name, engine in SOURCES:
        if mark in row["source"]:
            reader = READERS.get(name)
            case = _case(row, engine)
            return name, (reader(case, known) if reader and case else None)
    return "", None


def _case(row: Row, engine: str) -> Case | None:
    try:
        shape = models.find(re.sub(r"\s*\(.*", "", row["model"]).replace("LLaMA-", "llama-2-"))
        gpu = gpus.find(row["gpu"])
    except MainspringError:
        return None
    said = row["precision"].lower()
    precision = next((one for one in BYTES if one in said), "fp16")
    if "MLPerf" in row["source"] and "NVIDIA" in row["gpu"]:
        precision = "fp8"  # what NVIDIA's and its partners' submissions run at; the log names the data's type
    if precision == "fp8" and gpu.arch == "Ampere":
        return None
    count = int(float(row["n_gpu"] or 0)) or 1
    tp = int(row["tp"]) if row["tp"].isdigit() else 1
    setup = Setup(shape, gpu, tp, precision, cache_precision(engine, gpu, precision), engine)
    prompt, output = _lengths(row)
    return Case(row, setup, count, prompt, output, row["concurrency_or_rate"])


def _lengths(row: Row) -> tuple[float, float]:
    if row["input_tokens"].startswith("ShareGPT"):
        return SHAREGPT
    prompt, output = (_tokens(row[name]) for name in ("input_tokens", "output_tokens"))
    return (OPENORCA if row["input_tokens"] == "OpenOrca" else prompt), output


def _tokens(text: str) -> float:
    return float(text) if re.fullmatch(r"[\d.]+", text) else math.nan


def _closed(case: Case, known: Coefficients) -> float | None:
    """A closed loop."""
    load = float(case.load) if case.load.isdigit() else None
    if load is None and "at once" in case.load:
        load = min(float(case.load.split()[0]), ENGINE_LIMIT)
    if load is None or math.isnan(case.prompt + case.output):
        return None
    told = steady(case.setup, case.prompt, case.output, load, known)
    answers: dict[str, float] = {
        "mean_ttft": told.ttft * 1e3,
        "mean_tpot": told.tpot * 1e3,
        "mean_itl": told.tpot * 1e3,
        "output_throughput": told.requests * case.output,
        "request_throughput": told.requests,
        "total_throughput_in_plus_out": told.requests * (case.prompt + case.output),
    }
    return answers.get(case.row["metric"])


def _batch(case: Case, known: Coefficients) -> float | None:
    """A static batch: all prompts, then all steps."""
    size = re.search(r"batch (\d+)", case.load)
    if size is None or math.isnan(case.prompt + case.output):
        return None
    count, steps = float(size[1]), max(case.output - 1.0, 0.0)
    first = prefill(case.setup, case.prompt, known) * count
    each = decode_step(case.setup, count, case.prompt + case.output / 2, known)
    whole = first + steps * each
    answers: dict[str, float] = {
        "ttft": first * 1e3,
        "tpot": each * 1e3,
        "e2e_latency_mean": whole * 1e3,
        "output_throughput": count * case.output / whole,
        "output_throughput_per_gpu": count * case.output / whole / case.setup.gpus,
        "decode_throughput": count / each,
        "prefill_throughput": count * case.prompt / first,
    }
    return answers.get(case.row["metric"])


def _most(case: Case, known: Coefficients) -> float | None:
    """The largest rate of all GPUs together."""
    metric = case.row["metric"]
    offline = "Offline" in case.load or "max load" in case.load
    if not offline or "throughput" not in metric or math.isnan(case.prompt + case.output):
        return None
    fixed = case.row["tp"].isdigit()
    best = 0.0
    for tp in (case.setup.tp,) if fixed else (1, 2, 4, 8):
        setup = Setup(case.setup.shape, case.setup.gpu, tp, case.setup.precision, case.setup.kv, case.setup.engine)
        if tp > case.gpus or room(setup).cache <= 0:
            continue
        for load in (64, 256, 1024, 4096):
            best = max(best, steady(setup, case.prompt, case.output, load, known).requests * case.gpus / tp)
    if not best:
        return None
    if metric.endswith("per_gpu"):
        best /= case.gpus
    return best if metric == "request_throughput" else best * case.output


READERS: dict[str, Callable[[Case, Coefficients], float | None]] = {
    "MLPerf v4.1 Offline": _most,
    "TensorRT-LLM, max load": _most,
    "TensorRT-LLM 0.6, static batch": _batch,
    "NIM 1.8": _closed,
    "Splitwise (2023 engine)": _batch,
    "vLLM CI": lambda case, known: _batch(case, known) or _closed(case, known),
    "GPUStack lab": _closed,
    "Vultr": _closed,
    "NeMo": _batch,
    "AutoAWQ (not a serving engine)": _batch,
}
"""LLMServingSim's runs are overloaded bursts: no steady load to compare with."""
