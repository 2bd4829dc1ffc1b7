"""The stack file's words about hardware and models, looked up in the catalogue; complaints point into the file.

What this is: pools, prices and shapes from a document; pure, files come as bytes from the caller. Who calls it:
`ask.py`. What it must never do: open a file, or size anything.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mainspring.errors import InputError, Problem, StackError
from mainspring.facts import cpus, gpus, models, nodes, prices
from mainspring.facts.config_json import from_config
from mainspring.facts.gguf import from_header
from mainspring.facts.gpus import Gpu
from mainspring.facts.onnx_graph import from_onnx
from mainspring.facts.prices import Feed
from mainspring.facts.shapes import BYTES, GraphShape, ModelShape
from mainspring.sizing.bill import unsold
from mainspring.sizing.question import MARKET, ON_DEMAND, Mix, Mode, Pool, Tariff
from mainspring.stack.compute import Buy
from mainspring.stack.compute import Pool as Written
from mainspring.stack.fleet_checks import regions_of
from mainspring.stack.load import Document
from mainspring.stack.problems import in_order
from mainspring.stack.serving import Endpoint

COMPARED = ("T4", "L4", "L40S", "A100-80GB-SXM", "H100-SXM", "H200-SXM", "B200-SXM")
"""Types that are compared with the file's own, at the default prices."""
SERVERS = 8
"""Cores of the CPU servers that are compared."""
NEAR = 0.15
"""A built-in model may stand in for one of which only the weights' size is known when it is this near."""

Read = Callable[[str], bytes]
"""A file beside the stack file, by its name there; raises `InputError`."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Catches an `InputError` and notes it as a problem of the file."""

    given: Given
    loc: tuple[str | int, ...]

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, InputError):
            return False
        places = self.given.document.places
        told = places.problem(self.loc, error.code, error.message, hint=error.hint)
        if told not in self.given.problems:  # several endpoints may use one pool
            self.given.problems.append(told)
        return True


@dataclass(slots=True)
class Given:
    """A document with its catalogue look-ups; complaints gather until `settle`."""

    document: Document
    read: Read
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    own: tuple[Gpu, ...] = ()
    feed: Feed | None = None

    def at(self, *loc: str | int) -> _Place:
        """Turn an `InputError` into a problem at this place of the file."""
        return _Place(self, loc)

    def settle(self) -> None:
        """Raise `StackError` with all that was wrong, if anything was."""
        if self.problems:
            raise StackError(in_order(self.problems))


def look_up(document: Document, read: Read) -> Given:
    """Own GPU types and the price feed, read and checked."""
    given = Given(document, read)
    compute = document.stack.compute
    found = []
    for name, kind in compute.types.items():
        with given.at("compute", "types", name):
            plain: dict[str, Any] = {key: value for key, value in kind.model_dump().items() if value is not None}
            found.append(gpus.own(name, **plain))
    given.own = tuple(found)
    if compute.prices is not None:
        with given.at("compute", "prices"):
            given.feed = prices.read_feed(read(compute.prices), compute.prices, given.own)
            given.notes += [str(complaint) for complaint in given.feed.complaints]
    return given


def pools(given: Given) -> tuple[Pool, ...]:
    """The pools of the file that have GPUs or cores, in the file's order."""
    found = []
    for name, written in given.document.stack.compute.pools.items():
        if written.machine is None:
            with given.at("compute", name, "gpus" if written.gpus else "cores"):
                found.append(_pool(given, name, written))
    return tuple(found)


def _pool(given: Given, name: str, written: Written) -> Pool:
    regions = regions_of(given.document.stack.compute, name)
    device: Gpu | cpus.Cpu
    if written.gpus is not None:
        device, per_node = gpus.find(written.gpus.name, given.own), written.gpus.count
    else:
        device, per_node = cpus.server(written.cores or 1, float(written.memory or 0)), 1
    per_device = None if written.price is None else written.per_hour / per_node
    tariffs = {region: _tariff(given, device, region, per_device, written.buy) for region in regions}
    if all(tariff.on_demand is None for tariff in tariffs.values()):
        message = f"nothing says what `{device.name}` costs: add `price: $4/h per gpu`"
        raise InputError("no-price", message, "mainspring catalog prices")
    billed = _billed(given, name, written, per_node)
    return Pool(name, device, per_node, node_counts(written, regions), tariffs, _mix(written.buy), billed)


def _billed(given: Given, name: str, written: Written, per_node: int) -> Literal["device", "node"]:
    """What is paid for: whole nodes where the price is of a node, unless endpoints share it and each pays its part."""
    if written.gpus is None or written.price is None or written.price[1] or per_node == 1:
        return "device"
    if sum(one.traffic is not None for one in given.document.stack.serving.values()) > 1:
        given.notes.append(f"compute.{name}: the price is of whole nodes, and each endpoint pays for its part of one")
        return "device"
    return "node"


def check_sold(given: Given, pool: Pool, regions: Iterable[str]) -> None:
    """Complain at the pool's line about what the file uses and nobody sells: regions, and ways to buy of its mix."""
    for region in regions:
        tariff = pool.tariffs.get(region, Tariff())
        for mode, share in pool.mix.parts:
            if share and tariff.at(mode) is None:
                with given.at("compute", pool.name):
                    raise unsold(pool, region, mode)


def node_counts(written: Written, regions: tuple[str, ...]) -> dict[str, int | None]:
    """Nodes by region: None is as many as are wanted; a number in all is dealt out evenly."""
    if written.nodes is None:
        return dict.fromkeys(regions, None)
    if written.nodes.per_region:
        return dict.fromkeys(regions, written.nodes.high)
    each, more = divmod(written.nodes.high, len(regions))
    return {region: each + (number < more) for number, region in enumerate(regions)}


def _tariff(given: Given, device: Gpu | cpus.Cpu, region: str, per_device: float | None, buy: Buy | None) -> Tariff:
    """Dollars per device-hour: the file's price first, then the feed's cheapest, then the defaults."""
    offs = {mode: off for mode, (_, off) in (buy.shares() if buy else {}).items() if off is not None}
    if per_device is None and isinstance(device, Gpu):
        listed = (given.feed and prices.cheapest(given.feed.prices, device.name, region)) or prices.default(device)
        found = Tariff() if listed is None else Tariff(listed.on_demand, listed.reserved, listed.spot)
    else:
        each = device.price if per_device is None and isinstance(device, cpus.Cpu) else per_device
        found = discounted(each or 0.0)
    full = found.on_demand
    if full is None:
        return found
    reserved = full * (1 - offs["reserved"]) if "reserved" in offs else found.reserved
    spot = full * (1 - offs["spot"]) if "spot" in offs else found.spot
    return Tariff(full, reserved, spot)


def discounted(price: float) -> Tariff:
    """A price on demand, with the default discounts of the other ways to buy."""
    return Tariff(price, price * (1 - prices.RESERVED_OFF[1]), price * (1 - prices.SPOT_OFF[1]))


def _mix(buy: Buy | None) -> Mix:
    if buy is None:
        return ON_DEMAND
    parts: list[tuple[Mode, float]] = []
    for mode, (share, _) in buy.shares().items():
        if mode in ("reserved", "spot", "on_demand") and share > 0:
            parts.append((mode, share))  # type: ignore[arg-type]
    return Mix(" + ".join(f"{share:.0%} {mode.replace('_', ' ')}" for mode, share in parts), tuple(parts))


def market(mine: tuple[Pool, ...], regions: tuple[str, ...], mix: Mix, *, servers: bool) -> tuple[Pool, ...]:
    """Pools that the file does not have, at the default prices, as many nodes as are wanted: for comparison.

    They are bought in the same mix as the endpoint's own, so that like is held against like.
    """
    have = {pool.device.name for pool in mine}
    found = []
    for name in COMPARED:
        gpu, price = gpus.find(name), prices.default(name)
        if gpu.name not in have and price is not None:
            tariff = Tariff(price.on_demand, price.reserved, price.spot)
            here, tariffs = dict.fromkeys(regions), dict.fromkeys(regions, tariff)
            found.append(Pool(_market_name(gpu.name), gpu, nodes.default_for(gpu).gpus, here, tariffs, mix))
    if servers and not any(isinstance(pool.device, cpus.Cpu) for pool in mine):
        cpu = cpus.server(SERVERS)
        tariff = discounted(cpu.price)
        found.append(Pool(_market_name(cpu.name), cpu, 1, dict.fromkeys(regions), dict.fromkeys(regions, tariff)))
    return tuple(found)


def _market_name(device: str) -> str:
    return f"{MARKET}{device}"


def shape_of(given: Given, name: str, endpoint: Endpoint) -> ModelShape | GraphShape | None:
    """The shape of an endpoint's model; None when a complaint was made instead."""
    loc = ("serving", name, "shape")
    with given.at(*loc):
        if endpoint.shape is None:
            return _by_size(given, name, endpoint)
        ending = endpoint.shape.rsplit(".", 1)[-1].lower() if "." in endpoint.shape else ""
        if ending == "json":
            return from_config(given.read(endpoint.shape).decode("utf-8", "replace"), endpoint.shape)
        if ending == "gguf":
            return from_header(io.BytesIO(given.read(endpoint.shape)))[0]
        if ending == "onnx":
            return from_onnx(given.read(endpoint.shape), endpoint.shape)
        return _named(endpoint.shape)
    return None


def _named(name: str) -> ModelShape | GraphShape:
    with contextlib.suppress(InputError):
        return models.find_graph(name)
    return models.find(name)


def _by_size(given: Given, name: str, endpoint: Endpoint) -> ModelShape:
    size = endpoint.weights.size
    if size is None:
        message = (
            f"nothing says what `{endpoint.model_name}` is like: add `shape: llama-3.3-70b`, or a path to its config"
        )
        raise InputError("no-shape", message, "mainspring catalog models")
    if size <= 0:
        message = f"no model has weights of `{size:g}` bytes: say how large they are, or add `shape:`"
        raise InputError("no-shape", message, "mainspring catalog models")
    count = size / BYTES[endpoint.precision or "fp16"]
    dense = [shape for shape in models.catalogue().values() if shape.dense]
    near = min(dense, key=lambda shape: (abs(shape.parameters / count - 1), shape.name))
    if abs(near.parameters / count - 1) > NEAR:
        message = f"{size / 1e9:.0f} GB of weights are like no built-in model's: add `shape:`"
        raise InputError("no-shape", message, "mainspring catalog models")
    given.notes.append(f"serving.{name}: assumed to be like {near.name}, by the size of its weights: add `shape:`")
    return replace(near, confidence="low")
