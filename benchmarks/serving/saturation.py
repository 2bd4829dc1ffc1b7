"""Requests per second at saturation, with wrk in a closed loop.

Who calls it: `make bench-gateway`. What it must never do: count an answer that was an error, or that no stub was asked.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving.contenders import PATH, Bench, Contender, pinned
from serving.noise import cpu

HERE = Path(__file__).resolve().parent
CONNECTIONS = 32


@dataclass(frozen=True)
class Saturated:
    """What one run of wrk saw; seconds."""

    rate: float
    p50: float
    p99: float
    cpu: float  # of the contender, for one request
    busy: float  # share of the contender's core that it used
    wrong: int  # answers that were errors, connections that broke, and answers that no stub was asked for

    @property
    def per_core(self) -> float:
        """Requests per second of the core's time that the contender had: `rate` itself on a quiet machine."""
        return self.rate / self.busy


def saturate(bench: Bench, way: Contender, bodies: Path, seconds: int) -> Saturated:
    """Let wrk ask for `chat` as fast as it is answered."""
    before, used = bench.stub_requests(), cpu(way.pid) if way.pid else 0.0
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "30s", "-s", str(HERE / "load.lua"),
               f"http://{way.addresses['chat']}{PATH}", "--", str(bodies), way.token or "none"]  # fmt: skip
    said = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=pinned(bench.load_core))
    told = json.loads(said.stdout.rpartition("\n{")[2].join(("{", "")))
    used = (cpu(way.pid) if way.pid else 0.0) - used
    unasked = max(told["requests"] - (bench.stub_requests() - before), 0)
    short = told["requests"] > 0 and told["bytes"] / told["requests"] < len(bench.answer)
    wrong = told["wrong"] + told["lost"] + unasked + (told["requests"] if short and way.name != "litellm" else 0)
    rate = told["requests"] / told["seconds"]
    per = used / max(told["requests"], 1)
    return Saturated(rate, told["p50"], told["p99"], per, used / told["seconds"], wrong)
