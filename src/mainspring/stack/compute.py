"""Section 1, `compute`: what there is."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from mainspring.stack.base import Name, Section
from mainspring.stack.fleet_units import Bandwidth, Bought, Count, Gpus, Part, Throughput, Watts
from mainspring.stack.units import Size, price

_NAME = re.compile(r"^[a-z][a-z0-9-]{0,39}$")


def rate(value: object) -> tuple[float, str]:
    """Parse `$4/h per gpu` to dollars an hour, and of what: "gpu", or "" for the whole machine."""
    if isinstance(value, tuple):
        return value
    text = value.strip() if isinstance(value, str) and len(value) <= 64 else ""
    for per in ("gpu", "core"):
        if text.endswith(f" per {per}"):
            return price(text.removesuffix(f" per {per}")), per
    return price(value), ""


PoolPrice = Annotated[
    tuple[float, str], BeforeValidator(rate), WithJsonSchema({"type": "string", "examples": ["$4/h per gpu"]})
]


class Buy(Section):
    """How the GPUs of a pool are bought; the parts add up to 100 %, or one of them is `rest`."""

    reserved: Bought | None = None
    """The part that is committed to for a year, such as `60% at 35% off`."""
    spot: Bought | None = None
    """The part that may be taken away at any time, such as `20% at 70% off`."""
    on_demand: Bought | None = None
    """The part at the full price, such as `rest`."""

    @model_validator(mode="after")
    def _whole(self) -> Buy:
        parts = [one for one in (self.reserved, self.spot, self.on_demand) if one is not None]
        rests = sum(one.share is None for one in parts)
        total = sum(one.share or 0.0 for one in parts)
        if rests > 1 or total > 1 + 1e-9 or (rests == 0 and abs(total - 1) > 1e-9):
            raise ValueError(f"the parts add up to {total:.4g} of 1: say `rest` for one of them")
        if self.on_demand is not None and self.on_demand.off:
            raise ValueError("`on_demand` is the full price: a discount belongs to `reserved` or `spot`")
        return self

    def shares(self) -> dict[str, tuple[float, float | None]]:
        """Share and discount by mode: `{"reserved": (0.6, 0.35), "on_demand": (0.4, None)}`."""
        named: dict[str, Part | None] = {"reserved": self.reserved, "spot": self.spot, "on_demand": self.on_demand}
        known = sum(one.share or 0.0 for one in named.values() if one)
        found = {}
        for mode, one in named.items():
            if one is not None:
                found[mode] = (max(0.0, 1.0 - known) if one.share is None else one.share, one.off)
        return found


class Pool(Section):
    """A pool of machines to run on: exactly one of `machine`, `gpus` and `cores`.

    Beside `machine: this`, `cores` and `memory` say how much of it replicas may use.
    """

    machine: Literal["this"] | None = None
    """`this` machine, which `up` runs everything on: `{machine: this}`, or `{machine: this, cores: 6, memory: 12GB}`
    where replicas may use only so much of it."""
    gpus: Gpus | None = None
    """The GPUs of one node, such as `8 x H100-80GB` (`mainspring catalog gpus` lists the types)."""
    cores: int | None = Field(default=None, ge=1, le=1024)
    """The cores of one node of CPU servers; beside `machine: this` those that replicas may use. Default there: no
    limit."""
    memory: Size | None = None
    """The main memory of one node; beside `machine: this` what replicas that say their `memory` may use.
    Default: what nodes of this kind have (`mainspring catalog gpus NAME`); of this machine: no limit."""
    nodes: Count | None = None
    """How many nodes there are, such as `8 per region`. Default: as many as are wanted."""
    regions: tuple[Name, ...] = ()
    """The regions of `compute.regions` that have it. Default: all."""
    price: PoolPrice | None = None
    """What it costs while it is there: `$4/h per gpu`, `$0.05/h per core`, or `$32/h` for a whole node or machine.

    Default: the price list's (`mainspring catalog prices`); `machine: this` is free."""
    buy: Buy | None = None
    """How it is bought. Default: all on demand."""

    @model_validator(mode="after")
    def _one_kind(self) -> Pool:
        kinds = [name for name in ("machine", "gpus", "cores") if getattr(self, name) is not None]
        if kinds != ["machine", "cores"] and len(kinds) != 1:
            raise ValueError("a pool has exactly one of `machine`, `gpus` and `cores`")
        if self.gpus is not None and self.gpus.slice:
            raise ValueError(f"`{self.gpus}` is a MIG slice: a pool is of whole GPUs, and an endpoint takes slices")
        if self.gpus is not None and self.gpus.count > 72:
            raise ValueError(f"`{self.gpus}` is not a node: at most 72 GPUs share one NVLink domain")
        unit = self.price[1] if self.price else ""
        if unit and {"gpu": "gpus", "core": "cores"}[unit] != kinds[-1]:
            raise ValueError(f"a price `per {unit}` is of a pool of `{'gpus' if unit == 'gpu' else 'cores'}`")
        return self

    @property
    def per_hour(self) -> float:
        """Dollars an hour of one machine or node, by the file alone; 0.0 where the file does not say."""
        if self.price is None:
            return 0.0
        each = {"gpu": self.gpus.count if self.gpus else 1, "core": self.cores or 1}
        return self.price[0] * each.get(self.price[1], 1)


class GpuType(Section):
    """A type of GPU that the catalogue does not have, with its dense numbers."""

    memory: Size
    """Memory, such as `80GB`."""
    bandwidth: Bandwidth
    """Memory bandwidth, such as `2TB/s`."""
    fp16: Throughput
    """Dense throughput at FP16, such as `300 TFLOPS`."""
    fp8: Throughput | None = None
    """Dense throughput at FP8; left out when it has no such units."""
    int8: Throughput | None = None
    """Dense throughput at INT8; left out when it has no such units."""
    fp4: Throughput | None = None
    """Dense throughput at FP4; left out when it has no such units."""
    link: Bandwidth | None = None
    """To another GPU of the node, one way. Default: PCIe 4 x16, 32GB/s."""
    power: Watts | None = None
    """The most that it draws, such as `700W`."""
    mig: str = ""
    """The type of the catalogue that it splits like. Default: it can't be split."""


class Compute(Section):
    """What there is: pools of machines by name, beside the keys below."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Pool] = Field(init=False)

    regions: tuple[Name, ...] = ()
    """Where machines are, such as `[us-east-1, eu-west-1]`. Default: one region, `here`."""
    nearest: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    """For requests of a region, the others, nearest first: `{us-east-1: [us-west-2, eu-west-1]}`. Default: the order
    of `regions`."""
    types: dict[str, GpuType] = Field(default_factory=dict, max_length=100)
    """Types of GPU of your own, by name."""
    prices: str | None = None
    """A price feed: a CSV file beside this one (`mainspring catalog prices` shows the columns)."""

    @model_validator(mode="after")
    def _named(self) -> Compute:
        for name in self.pools:
            if not _NAME.match(name):
                raise ValueError(f"`{name[:60]}` is not a name: lower-case letters, digits and hyphens, a letter first")
        if not self.pools:
            raise ValueError("there is no pool: write `laptop: {machine: this}`")
        return self

    @property
    def pools(self) -> dict[str, Pool]:
        """The pools, in the file's order."""
        return dict(self.__pydantic_extra__ or {})

    def __getitem__(self, name: str) -> Pool:
        return self.pools[name]

    def __contains__(self, name: object) -> bool:
        return name in self.pools


ENTRIES: dict[type[Any], type[Section]] = {Compute: Pool}
"""Sections whose other keys are names: what stands under each."""
