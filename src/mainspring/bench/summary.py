"""A run in plain numbers.

What this is: `Result`, and how it is made of the samples. Who calls it: `load.py` makes it; the command line, the page
and the latency gate read it. What it must never do: leave a failure out, or give a figure that was not measured.

What counts: requests that were due after the warm-up. Percentiles are of those that were answered, and of those that
timed out, which count as longer than any. Other failures have no latency; they are counted by their kind.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mainspring.bench import own
from mainspring.bench.arrivals import Floats
from mainspring.bench.objective import Objective, verdict, wilson
from mainspring.bench.own import Generator
from mainspring.bench.plan import Plan
from mainspring.bench.quantiles import Quantiles, quantiles
from mainspring.bench.samples import DONE, OPEN, Samples
from mainspring.bench.target import Target

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Run:
    """What a load leaves behind."""

    target: Target
    plan: Plan
    concurrency: int  # 0: an open loop
    samples: Samples
    generator: Generator
    elapsed: float
    stopped: bool
    said: Mapping[str, str]
    resent: int
    uncounted: int


@dataclass(frozen=True, slots=True)
class Kept:
    """One limit of the objective, and how many requests kept it."""

    limit: str
    kept: int
    share: float
    low: float  # the 95 % interval of the share
    high: float
    verdict: str  # "met" | "missed" | "unsure"


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that kept all limits; those that failed kept none."""

    good: int
    of: int
    share: float
    low: float
    high: float
    per_second: float
    limits: tuple[Kept, ...]

    @property
    def verdict(self) -> str:
        """`missed` when a limit is, else `unsure` when one is, else `met`."""
        found = {kept.verdict for kept in self.limits}
        return next((word for word in ("missed", "unsure") if word in found), "met")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of the answered requests."""

    prompt: int
    output: int
    cached: int  # of the prompt's, those that a prefix cache had
    prompt_per_second: float
    output_per_second: float
    counted_by: str  # "usage" | "pieces": the engine says nothing, so each piece counts as one


@dataclass(frozen=True, slots=True)
class Result:
    """A run in plain numbers: seconds, requests, shares of one."""

    loop: str  # "open" | "closed"
    concurrency: int  # of a closed loop
    url: str
    api: str
    model: str
    arrivals: str  # what they are, in words
    planned: int  # requests due after the warm-up; in a closed loop as many as were sent
    sent: int
    answered: int
    failed: int
    abandoned: int  # in flight when the run was stopped
    warmup: int  # requests before, not counted anywhere here
    seconds: float  # from the end of the warm-up to the last answer
    planned_per_second: float
    answered_per_second: float
    latency: Quantiles  # from when a request should have been sent to the end of its answer
    service: Quantiles  # from when it was sent
    ttft: Quantiles | None  # from when it should have been sent to its first piece; None: nothing was streamed
    ttft_service: Quantiles | None
    gap: Quantiles | None  # between two pieces
    tpot: Quantiles | None  # per request: seconds for each token after the first piece, tokens as `usage` has them
    overhead: Quantiles | None  # inside the gateway, as its header says
    tokens: Tokens | None
    goodput: Goodput | None
    errors: Mapping[str, int]  # by kind, most first
    said: Mapping[str, str]  # the first message of each kind
    resent: int
    generator: Generator
    stopped: bool
    samples: Samples = field(repr=False, compare=False)
    timeout: float = 60.0

    @property
    def limited_by_generator(self) -> bool:
        """Whether the figures are the generator's own rather than the server's."""
        return bool(self.generator.reasons)

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it, without the samples. What is not known is None."""
        told: dict[str, Any] = {
            one.name: _plain(getattr(self, one.name)) for one in dataclasses.fields(self) if one.name != "samples"
        }
        if self.goodput is not None:
            told["goodput"]["verdict"] = self.goodput.verdict
        return {"limited_by_generator": self.limited_by_generator} | told


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summarise(run: Run) -> Result:
    """Make the numbers of a run."""
    samples, plan = run.samples, run.plan
    counted = samples.due >= plan.warmup
    well, open_ = counted & (samples.kind == DONE), counted & (samples.kind == OPEN)
    bad = counted & ~well & ~open_
    late = bad & _of_kind(samples, "timeout")
    seconds = _seconds(run, counted & ~open_)
    timeouts, sent = int(late.sum()), int(counted.sum())
    planned = sent if run.concurrency else int((plan.arrivals[: plan.most] >= plan.warmup).sum())
    latency = quantiles((samples.end - samples.due)[well], timeouts, plan.timeout)
    service = quantiles((samples.end - samples.sent)[well], timeouts, plan.timeout)
    streamed = run.target.stream
    return Result(
        loop="closed" if run.concurrency else "open",
        concurrency=run.concurrency,
        url=run.target.url,
        api=run.target.api,
        model=run.target.model,
        arrivals=plan.says,
        planned=planned,
        sent=sent,
        answered=int(well.sum()),
        failed=int(bad.sum()),
        abandoned=int(open_.sum()),
        warmup=int((~counted).sum()),
        seconds=seconds,
        planned_per_second=planned / (plan.seconds - plan.warmup),
        answered_per_second=int(well.sum()) / seconds,
        latency=latency,
        service=service,
        ttft=_first(samples, samples.due, well, late, plan.timeout) if streamed else None,
        ttft_service=_first(samples, samples.sent, well, late, plan.timeout) if streamed else None,
        gap=quantiles(samples.gaps) if streamed else None,
        tpot=quantiles(_tpot(samples)[well & (samples.output > 1)]) if streamed else None,
        overhead=_known(samples.overhead[well]),
        tokens=_tokens(run, well, seconds),
        goodput=_goodput(plan.objective, samples, well, sent - int(open_.sum()), seconds),
        errors=_errors(samples, bad),
        said=dict(run.said),
        resent=run.resent,
        generator=_judged(run, service, sent),
        stopped=run.stopped,
        samples=samples,
        timeout=plan.timeout,
    )


def _of_kind(samples: Samples, kind: str) -> Bools:
    number = samples.kinds.index(kind) if kind in samples.kinds else -1
    found: Bools = samples.kind == number
    return found


def _seconds(run: Run, ended: Bools) -> float:
    """From the end of the warm-up to the last answer; at least what was planned, unless the run was stopped."""
    last = float(run.samples.end[ended].max()) if ended.any() else 0.0
    until = run.elapsed if run.stopped else max(last, min(run.plan.seconds, run.elapsed))
    return max(1e-9, until - run.plan.warmup)


def _first(samples: Samples, since: Floats, well: Bools, late: Bools, timeout: float) -> Quantiles:
    """Times to the first piece. A request that timed out without one counts as longer than any."""
    times = samples.first - since
    seen = np.isfinite(times)
    return quantiles(times[(well | late) & seen], int((late & ~seen).sum()), timeout)


def _tpot(samples: Samples) -> Floats:
    """Seconds for each token after the first; nan where only one came, or nothing was streamed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        times: Floats = (samples.last - samples.first) / (samples.output - 1)
    return times


def _known(times: Floats) -> Quantiles | None:
    times = times[np.isfinite(times)]
    return quantiles(times) if len(times) else None


def _tokens(run: Run, well: Bools, seconds: float) -> Tokens | None:
    if run.target.api == "infer":
        return None
    prompt, output, cached = (
        int(column[well].sum()) for column in (run.samples.prompt, run.samples.output, run.samples.cached)
    )
    by = "pieces" if run.uncounted else "usage"
    return Tokens(prompt, output, cached, prompt / seconds, output / seconds, by)


def _goodput(objective: Objective | None, samples: Samples, well: Bools, of: int, seconds: float) -> Goodput | None:
    """Of all requests that ended, those that kept each limit, and all limits."""
    if objective is None:
        return None
    tpot = np.where(samples.output > 1, _tpot(samples), 0.0)
    times = {"latency": samples.end - samples.due, "ttft": samples.first - samples.due, "tpot": tpot}
    good, limits = well.copy(), []
    for limit in objective.limits:
        keeps = well & (times[limit.of] <= limit.seconds)  # nan keeps nothing
        good &= keeps
        kept = int(keeps.sum())
        limits.append(Kept(str(limit), kept, kept / max(1, of), *wilson(kept, of), verdict(kept, of, limit.share)))
    all_ = int(good.sum())
    return Goodput(all_, of, all_ / max(1, of), *wilson(all_, of), all_ / seconds, tuple(limits))


def _errors(samples: Samples, bad: Bools) -> dict[str, int]:
    counts = np.bincount(samples.kind[bad], minlength=len(samples.kinds)).tolist()
    found = [(count, name) for count, name in zip(counts, samples.kinds, strict=True) if count]
    return {name: count for count, name in sorted(found, key=lambda one: (-one[0], one[1]))}


def _judged(run: Run, service: Quantiles, sent: int) -> Generator:
    """The generator, with why it limits the figures."""
    median = service.p50.value if service.p50.value is not None else service.mean
    said = own.reasons(run.generator, median, service.p99.value, sent, run.target.connections)
    return dataclasses.replace(run.generator, reasons=said)
