"""Measurements of engines under constant load, as they come in a CSV.

What this is: one row checked and turned into a setup and a load; pure (text in, values out). Who calls it:
`calibrate.py`, `mainspring calibrate`, benchmarks. What it must never do: guess where a row contradicts itself.

A row is a closed loop with `batch_size` requests in flight (of each copy of the attention part), prompts of `isl` and
outputs of `osl` tokens, and the time to the first token and for each further one, in milliseconds.

The parallel columns mean GPUs of a layer (`tp_size`), copies of the attention part (`attention_dp_size`), and for the
experts ways to cut each (`moe_tp_size`) and to spread them (`moe_ep_size`). Public sets write two layouts with the
number of GPUs squared, which twins of the same run show: `tp` GPUs with spread experts as `tp x ep` (16 = 4 x 4, 64 =
8 x 8), and copies as `tp = dp` with `ep = tp x dp`. Both are read as what they are.

InferenceMAX draws each length between 0.8 and 1 of the nominal one (its README: `RANDOM_RANGE_RATIO` 0.8), so the mean
is 0.9 of what the row says; and it counts ten times as many requests as it keeps in flight, of which the first tenth
come at once. Its three pairs of lengths are read so unless columns `drawn` and `burst` say otherwise.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mainspring.errors import InputError
from mainspring.facts import gpus, models
from mainspring.facts.gpus import Gpu
from mainspring.facts.shapes import BYTES, ModelShape
from mainspring.forecast.levels import UNSTATED, engine, group
from mainspring.forecast.setup import Setup

HINT = "mainspring calibrate --help"

ALSO: dict[str, str] = {
    "engine": "backend", "version": "backend_version", "model": "model_path", "gpu": "system", "prompt": "isl",
    "output": "osl", "concurrency": "batch_size", "tp": "tp_size", "ttft_ms": "silicon_ttft_ms",
    "tpot_ms": "silicon_tpot_ms",
}  # fmt: skip
"""Shorter names of columns that are understood."""

NEEDED = (
    "backend", "model_path", "system", "isl", "osl", "batch_size", "tp_size", "silicon_ttft_ms", "silicon_tpot_ms",
)  # fmt: skip

NAMED = re.compile(r"_c(\d+)_")
"""Requests in flight in the name of a row, where there is a column `id`: some rows have them as their batch already."""

PUBLIC = {(1024.0, 1024.0), (1024.0, 8192.0), (8192.0, 1024.0)}
"""InferenceMAX's pairs of lengths."""

NODE = 8
"""GPUs of a node: a group beyond it is one rack-wide engine with a copy of the attention part on each GPU."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One point."""

    setup: Setup
    prompt: float  # tokens, nominal
    output: float
    concurrency: float  # of all copies together
    ttft: float  # s
    tpot: float  # s
    drawn: float = 1.0  # mean length over the nominal one
    burst: float = 0.0  # share of the requests that came at once at the start

    @property
    def mean_prompt(self) -> float:
        """Tokens of a prompt, on average."""
        return self.prompt * self.drawn

    @property
    def mean_output(self) -> float:
        """Tokens of an output, on average."""
        return self.output * self.drawn

    @property
    def group(self) -> str:
        """Model, GPU, engine and precision."""
        return group(self.setup)

    @property
    def end_to_end(self) -> float:
        """Seconds of a whole request of nominal length."""
        return self.ttft + (self.output - 1.0) * self.tpot

    @property
    def key(self) -> tuple[object, ...]:
        """Two measurements with the same key are the same run."""
        setup = self.setup
        layout = (setup.tp, setup.attention_dp, setup.expert_parallel, setup.version)
        return (self.group, layout, self.prompt, self.output, self.concurrency, self.ttft, self.tpot)


def read(text: str, name: str, complaints: list[InputError] | None = None, *, once: bool = True) -> list[Measurement]:
    """All rows of a CSV, in order, each run `once` however often it is listed.

    Raises `InputError` ("bad-measurements") with file and line.

    With `complaints`, rows that can't be read are told there and left out.
    """
    table = csv.DictReader(io.StringIO(text))
    columns = [ALSO.get(column.strip(), column.strip()) for column in table.fieldnames or ()]
    table.fieldnames = columns
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        listed = ", ".join(f"`{column}`" for column in missing)
        raise InputError("bad-measurements", f"`{name}` has no column {listed}", HINT)
    found: dict[tuple[object, ...], Measurement] = {}
    for row in table:
        try:
            one = _measurement(row, f"`{name}` line {table.line_num}")
        except InputError as error:
            if complaints is None:
                raise
            complaints.append(error)
        else:
            found.setdefault(one.key if once else (table.line_num,), one)
    if not found:
        raise InputError("bad-measurements", f"`{name}` has no rows", HINT)
    return list(found.values())


def _measurement(row: Mapping[str, str], where: str) -> Measurement:
    if None in row or None in row.values():
        raise InputError("bad-measurements", f"{where} has more or fewer fields than the header", HINT)
    try:
        shape, gpu = models.find(row["model_path"]), gpus.find(row["system"])
    except InputError as error:
        raise InputError(error.code, f"{where}: {error.message}", error.hint) from error
    tp, copies, spread = _layout(row, shape, where)
    weights = _precision(row, shape, where)
    run = engine(row["backend"])
    if not run:
        raise InputError("bad-measurements", f"{where}: `backend` is empty", HINT)
    setup = Setup(
        shape=shape,
        gpu=gpu,
        tp=tp,
        precision=weights,
        kv=row.get("kv_precision") or cache_precision(run, gpu, weights),
        engine=run,
        version=row.get("backend_version") or UNSTATED,
        attention_dp=copies,
        expert_parallel=spread,
    )
    return Measurement(
        setup=setup,
        prompt=_number(row, "isl", where),
        output=_number(row, "osl", where),
        concurrency=_load(row, where),
        ttft=_number(row, "silicon_ttft_ms", where) / 1e3,
        tpot=_number(row, "silicon_tpot_ms", where) / 1e3,
        drawn=_share(row, "drawn", where, 0.9, 1.0),
        burst=_share(row, "burst", where, 0.1, 0.0),
    )


def _share(row: Mapping[str, str], column: str, where: str, public: float, own: float) -> float:
    """A share that a column may say; else that of InferenceMAX's runs for its pairs of lengths, or of other runs."""
    if row.get(column):
        value = _number(row, column, where)
        if value > 1:
            raise InputError("bad-measurements", f"{where}: `{column}` is `{row[column][:40]}`, not a share", HINT)
        return value
    return public if (_number(row, "isl", where), _number(row, "osl", where)) in PUBLIC else own


def _load(row: Mapping[str, str], where: str) -> float:
    """Requests in flight of all copies: the batch of each times their number, unless the row's name says otherwise."""
    batch, copies = _number(row, "batch_size", where), max(_count(row, "attention_dp_size", where), 1)
    named = NAMED.search(row.get("id") or "")
    return batch if named and float(named[1]) == batch else batch * copies


def _number(row: Mapping[str, str], column: str, where: str) -> float:
    text = row[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError("bad-measurements", f"{where}: `{column}` is `{text[:40]}`, not a number above zero", HINT)
    return value


def _count(row: Mapping[str, str], column: str, where: str) -> int:
    """A count that may be left out: 0."""
    text = row.get(column) or "0"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) and text.lower() == "nan":
        return 0
    if not (math.isfinite(value) and value >= 0 and value == int(value)):
        raise InputError("bad-measurements", f"{where}: `{column}` is `{text[:40]}`, not a count", HINT)
    return int(value)


def _precision(row: Mapping[str, str], shape: ModelShape, where: str) -> str:
    said = (row.get("precision") or "").strip().lower()
    if said == "fp4" and shape.native == "mxfp4":
        said = "mxfp4"
    if not said:
        said = shape.native
    if said not in BYTES:
        raise InputError("bad-measurements", f"{where}: `precision` is `{said[:40]}`; known: {', '.join(BYTES)}", HINT)
    return said


def _layout(row: Mapping[str, str], shape: ModelShape, where: str) -> tuple[int, int, int]:
    """GPUs of a copy of the attention part, copies, and parts that the experts are spread over."""
    tp, said = _count(row, "tp_size", where), _count(row, "attention_dp_size", where)
    if tp < 1:
        raise InputError("bad-measurements", f"{where}: `tp_size` is `{row['tp_size'][:40]}`, not 1 or more", HINT)
    cut, spread = max(_count(row, "moe_tp_size", where), 1), max(_count(row, "moe_ep_size", where), 1)
    if shape.dense:
        return tp, max(said, 1), 1
    if said == 0:  # not said: what the experts need beyond `tp` are copies
        total = max(tp, cut * spread)
        return (tp, total // tp, spread) if total % tp == 0 else (total, 1, spread)
    if cut == spread > 1 and tp * said == cut * spread:  # squared: `tp x ep`
        return (1, cut, spread) if said > 1 else (cut, 1, spread)
    if tp == said > 1 and spread == tp * said:  # squared: `tp x dp`
        return 1, tp, tp
    if tp * said > NODE:
        return 1, tp * said, tp * said
    return tp, said, spread


def cache_precision(run: str, gpu: Gpu, weights: str) -> str:
    """The precision of the cache where a row doesn't say it (assumed).

    TensorRT-LLM's quantised checkpoints quantise the cache too; on Blackwell the published recipes do for all engines;
    elsewhere it stays at 16 bits. The points where memory binds agree: vLLM with Llama-3.1-70B on 2 H100 runs 29
    sequences of 8192 + 1024 tokens, which is the room at 16 bits; MiniMax-M2.5 on 2 B200 runs 105, the room at 8.
    """
    if BYTES[weights] >= 2:
        return "fp16"
    return "fp8" if run == "trtllm" or gpu.arch.startswith("Blackwell") else "fp16"


def names(measurements: list[Measurement]) -> dict[str, str]:
    """A readable name of each group."""
    return {
        one.group: f"{one.setup.shape.name} {one.setup.gpu.name} {one.setup.engine} {one.setup.precision}"
        for one in measurements
    }
