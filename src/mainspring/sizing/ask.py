"""A stack file as questions for sizing: one for each endpoint that says what its traffic is.

What this is: the stack's words turned into numbers; pure. Who calls it: `cli/fleet.py`, tests. What it must never
do: answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.decide.purchase import week
from mainspring.errors import InputError
from mainspring.facts import traces
from mainspring.facts.cpus import Cpu
from mainspring.facts.gpus import Gpu
from mainspring.facts.mig import profiles
from mainspring.facts.shapes import BYTES, GraphShape, ModelShape
from mainspring.forecast import lengths
from mainspring.forecast.promise import Promise
from mainspring.forecast.setup import Lengths
from mainspring.sizing.given import Given, Read, check_sold, look_up, market, pools, shape_of
from mainspring.sizing.question import ON_DEMAND, Demand, Limits, Pool, Question, Survive, Way, Written
from mainspring.stack.fleet_checks import HERE
from mainspring.stack.fleet_units import Spread, Times
from mainspring.stack.load import Document
from mainspring.stack.model import Stack
from mainspring.stack.serving import Endpoint, Quantiles, Traffic

LOWER = ("fp8", "int8", "fp4", "int4")
"""Precisions that are shown as options below the file's own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stack file asks: its questions, and what is worth knowing about them."""

    questions: tuple[Question, ...]
    notes: tuple[str, ...]


def ask(document: Document, read: Read) -> Asked:
    """The questions of a stack. Raises `StackError` with every problem: unknown GPUs and models, bad feeds, traces."""
    given = look_up(document, read)
    mine = pools(given)
    found = []
    for name, endpoint in document.stack.serving.items():
        if endpoint.traffic is not None:
            question = _question(given, name, endpoint, endpoint.traffic, mine)
            if question is not None:
                found.append(question)
    given.settle()
    return Asked(tuple(found), tuple(given.notes))


def _question(given: Given, name: str, endpoint: Endpoint, traffic: Traffic, mine: tuple[Pool, ...]) -> Question | None:
    stack = given.document.stack
    shape = shape_of(given, name, endpoint)
    _manners(given, name, endpoint, shape)
    demand = _demand(given, name, traffic, shape, endpoint.batch.size)
    written = _written(given, name, endpoint, mine)
    if shape is None or demand is None:
        return None
    several = sum(one.traffic is not None for one in stack.serving.values()) > 1
    regions = endpoint.regions or stack.compute.regions or (HERE,)
    mix = written.way.mix if written is not None else ON_DEMAND
    own: str = endpoint.precision or "fp16"
    lower = tuple(one for one in LOWER if BYTES[one] < BYTES[own])
    proposed = tuple(dict.fromkeys((*endpoint.allow, *lower)))
    return Question(
        demand=demand,
        promise=_promise(endpoint),
        model=shape,
        pools=mine + market(mine, regions, mix, servers=isinstance(shape, GraphShape)),
        regions=regions,
        survive=Survive(_lost(stack, "region"), _lost(stack, "node")),
        precision=own,
        kv=endpoint.kv.type,
        precisions=proposed,
        accepted=endpoint.allow,
        engine=endpoint.runtime,
        written=written,
        limits=Limits(),
        weights_cached=endpoint.weights.cache == "node",
        shared=several,
    )


MANNERS = ("slots", "context", "speculate", "parallel", "kv")
"""Keys that are passed on to the runtime in its own words."""


def _manners(given: Given, name: str, endpoint: Endpoint, shape: ModelShape | GraphShape | None) -> None:
    """Check how a replica is cut against the model's heads, and tell what is passed on and what isn't forecast."""
    cut = endpoint.wishes
    heads = [one.heads for one in shape.attention] if isinstance(shape, ModelShape) else []
    if endpoint.parallel is not None:
        with given.at("serving", name, "parallel"):
            uneven = [count for count in heads if count % cut.tensor]
            if uneven:
                message = f"`{cut.tensor}` GPUs can't share the {uneven[0]} attention heads of a layer evenly"
                raise InputError("bad-parallel", message, "mainspring explain serving.parallel")
    if endpoint.words and endpoint.model_fields_set & set(MANNERS):
        given.notes.append(f"serving.{name}: {endpoint.server.title} is started with `{' '.join(endpoint.words)}`")
    if cut.speculate or cut.pipeline > 1:
        what = "speculative decoding" if cut.speculate else "pipeline parallelism"
        given.notes.append(f"serving.{name}: {what} is passed on, and the forecast leaves it out")


def _lost(stack: Stack, what: str) -> int:
    return max((loss.count for loss in stack.orchestration.survive if loss.what == what), default=0)


def _promise(endpoint: Endpoint) -> Promise:
    said = endpoint.objective
    return Promise(said.p95, said.p99, said.ttft, said.tpot, said.availability)


def _demand(
    given: Given, name: str, traffic: Traffic, shape: ModelShape | GraphShape | None, batch: int
) -> Demand | None:
    trace = None
    if traffic.trace is not None:
        with given.at("serving", name, "traffic", "trace"):
            text = given.read(traffic.trace).decode("utf-8", "replace")
            trace = traces.parse(text.splitlines(), traffic.trace)
            given.notes += [f"{traffic.trace}: {complaint}" for complaint in trace.complaints]
        if trace is None:
            return None
    how_long = None
    if isinstance(shape, ModelShape):
        with given.at("serving", name, "traffic"):
            how_long = _lengths(traffic, trace)
        if how_long is None:
            return None
    rate = traffic.requests.per_second if traffic.requests is not None else trace.rate if trace is not None else 0.0
    known = trace.variability if trace is not None else 1.0
    return Demand(
        endpoint=name,
        rate=rate,
        peak=traffic.peak,
        shares=dict(traffic.regions),
        variability=known if traffic.variability is None else traffic.variability,
        lengths=how_long,
        rows=traffic.rows,
        batch=batch,
        curve=week(1.0, traffic.peak),
    )


def _lengths(traffic: Traffic, trace: traces.Trace | None) -> Lengths:
    if trace is not None and traffic.prompt is None and traffic.output is None:
        return lengths.observed(trace.prompt, trace.output, traffic.cached)
    if trace is None and (traffic.prompt is None or traffic.output is None):
        missing = "prompt" if traffic.prompt is None else "output"
        message = f"nothing says how long a {missing} is: add `{missing}: 1000 tokens`, or a `trace`"
        raise InputError("no-lengths", message, f"mainspring explain serving.traffic.{missing}")
    # Where the file says one of them itself, nothing is known of how it goes together with the trace's other.
    prompt = _spread(traffic.prompt) if traffic.prompt is not None else _seen(trace.prompt if trace is not None else ())
    output = _spread(traffic.output) if traffic.output is not None else _seen(trace.output if trace is not None else ())
    return lengths.lengths(prompt, output, traffic.cached)


def _seen(tokens: lengths.Tokens) -> lengths.Spread:
    """A trace's prompts, or its outputs, by themselves."""
    known = lengths.observed([1.0] * len(tokens), tokens)
    return lengths.Spread(known.output, known.weight)


def _spread(quantiles: Quantiles) -> lengths.Spread:
    if quantiles.p95 is None:
        return lengths.fixed(quantiles.p50)
    return lengths.through(quantiles.p50, quantiles.p95, quantiles.max)


def _written(given: Given, name: str, endpoint: Endpoint, mine: tuple[Pool, ...]) -> Written | None:
    """The fleet as the file has it; None when the file leaves it to the plan."""
    stack = given.document.stack
    pool = _chosen(endpoint, mine)
    if pool is None:
        return None
    wanted, slots, cores = endpoint.gpus, 1, 0.0
    if wanted is not None and wanted.slice:
        with given.at("serving", name, "gpus"):
            slots = _slots(pool, wanted.slice)
            _one_slice(wanted)
    if isinstance(pool.device, Cpu) and endpoint.cores is not None:
        with given.at("serving", name, "cores"):
            slots, cores = _cores(pool, pool.device, endpoint.cores)
    way = Way(
        pool=pool.name,
        device=pool.device.name,
        gpus=wanted.count if wanted is not None and not wanted.slice else 1,
        precision=_precision(endpoint, pool),
        kv=endpoint.kv.type,
        slice=wanted.slice if wanted is not None else "",
        slots=slots,
        mix=pool.mix,
        unit="GPU" if isinstance(pool.device, Gpu) else "server",
        cores=cores,
    )
    regions = tuple(region for region in pool.nodes if not endpoint.regions or region in endpoint.regions)
    if not regions:
        with given.at("serving", name, "regions"):
            where = " and ".join(f"`{region}`" for region in endpoint.regions)
            message = f"pool `{pool.name}` isn't in {where}: allow a region of the pool's, or add this one to it"
            raise InputError("residency", message, f"mainspring explain compute.{pool.name}.regions")
        return None
    only = len([one for one in stack.serving.values() if one.traffic is not None]) == 1
    bought = {region: count for region, count in pool.nodes.items() if count is not None} if only else {}
    dealt = _deal(endpoint.replicas, regions)
    check_sold(given, pool, [region for region in pool.nodes if pool.nodes[region] or dealt.get(region, (0, 0))[1]])
    return Written(way, dealt, bought)


def _chosen(endpoint: Endpoint, mine: tuple[Pool, ...]) -> Pool | None:
    if endpoint.gpus is not None:
        return next((pool for pool in mine if pool.name == endpoint.gpus.name), None)
    if endpoint.cores is None:
        return None
    servers = [pool for pool in mine if isinstance(pool.device, Cpu)]
    return next((pool for pool in servers if _cores_of(pool) >= endpoint.cores), servers[0] if servers else None)


def _cores_of(pool: Pool) -> int:
    return pool.device.cores if isinstance(pool.device, Cpu) else 0


def _precision(endpoint: Endpoint, pool: Pool) -> str:
    """What a replica computes in: a CPU in FP32, unless the weights are INT8."""
    said: str = endpoint.precision or "fp16"
    return said if isinstance(pool.device, Gpu) or said == "int8" else "fp32"


def _cores(pool: Pool, server: Cpu, wanted: float) -> tuple[int, float]:
    """Replicas of so many cores that one server holds, and the cores of each (0: a whole server)."""
    if wanted > server.cores:
        message = f"a replica wants `{wanted:g}` cores, and a server of `{pool.name}` has {server.cores}"
        raise InputError("too-many-cores", message, f"mainspring explain compute.{pool.name}.cores")
    slots = int(server.cores / wanted + 1e-9)
    return slots, wanted if wanted < server.cores else 0.0


def _one_slice(wanted: Times) -> None:
    if wanted.count != 1:
        message = f"`{wanted}`: a replica runs on one slice; write `1 x {wanted.slice} of {wanted.name}`, and as many "
        raise InputError("one-slice", f"{message}`replicas` as you want", "mainspring explain serving.gpus")


def _slots(pool: Pool, wanted: str) -> int:
    device = pool.device
    known = profiles(device.mig) if isinstance(device, Gpu) and device.mig else ()
    for one in known:
        if one.name == wanted:
            return len(one.starts)
    there = f": there are {', '.join(f'`{one.name}`' for one in known)}" if known else ": it can't be split"
    raise InputError(
        "unknown-slice", f"`{device.name}` has no slice `{wanted}`{there}", f"mainspring catalog gpus {device.name}"
    )


def _deal(replicas: Spread, regions: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Replicas by region, least and most; a number in all is dealt out evenly."""
    if replicas.per_region:
        return dict.fromkeys(regions, (replicas.low, replicas.high))
    if not regions:
        return {}
    ends = []
    for count in (replicas.low, replicas.high):
        each, more = divmod(count, len(regions))
        ends.append([each + (number < more) for number in range(len(regions))])
    return dict(zip(regions, zip(*ends, strict=True), strict=True))
