"""Accelerators: what there is to buy, with the source of each number and how far it can be trusted.

What this is: `Gpu`, and the table in `data/gpus.csv`; pure but for reading that file, which is part of the package.
Who calls it: fit, place, forecasts, sizing, `catalog`. What it must never do: ask a driver (that is
`monitoring/devices.py`).

Units: bytes, bytes/s, floating-point (or integer) operations/s, watts. All throughput is dense.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib.resources
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from mainspring.errors import InputError

Confidence = Literal["read", "memory", "low", "user"]
"""`read` in the named source; from `memory`; `low`: sources conflict, or little of it was read; said by the `user`."""
LinkKind = Literal["nvlink", "pcie", "fabric"]
PRECISIONS = ("fp32", "fp16", "fp8", "int8", "fp4")
"""Precisions that the table has throughput for."""
PCIE4 = 32e9
"""Bytes/s of PCIe 4 x16, one way: the link of a type that doesn't say."""
HINT = "mainspring catalog gpus"

_MAKERS = re.compile(r"^(nvidia|amd|instinct|geforce|tesla)+")
_SAID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,59}$")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One type of accelerator."""

    name: str  # "H100-SXM"
    arch: str  # "Hopper"
    memory: float  # bytes, nominal (80 GB is 80e9)
    bandwidth: float  # bytes/s
    flops: dict[str, float] = field(hash=False)  # by precision of `PRECISIONS`, dense; absent: no units for it
    link: float  # bytes/s to one other GPU of the node, one way, all links together
    link_kind: LinkKind
    power: float  # watts; 0: unknown
    aliases: tuple[str, ...] = ()  # "H100", "H100-80GB"
    mig: str = ""  # key of the MIG table in `facts/mig.py`; "" when it can't be split
    source: str = ""
    confidence: Confidence = "read"

    def peak(self, precision: str) -> float:
        """Dense operations/s at a precision; a precision without units of its own runs at that of `fp16`."""
        if precision in ("mxfp4", "fp4") and "fp4" in self.flops:
            return self.flops["fp4"]
        return self.flops.get(precision, self.flops["fp16"])


def catalogue() -> dict[str, Gpu]:
    """All types that come with Mainspring, by name, in the table's order."""
    return {gpu.name: gpu for gpu in _table()}


def find(name: str, own: Iterable[Gpu] = ()) -> Gpu:
    """The type of that name: the user's `own` first, then the catalogue's names and aliases.

    Case, spaces, hyphens and the maker's name don't matter: `h100_sxm`, `NVIDIA H100 80GB HBM3` and `H100` are one.
    Raises `InputError` ("unknown-gpu"), naming the nearest.
    """
    key = _key(name)
    mine = tuple(own)
    for gpu in mine:
        if _key(gpu.name) == key:
            return gpu
    found = _names().get(key)
    if found is None:
        raise InputError("unknown-gpu", f"there is no GPU `{name[:60]}` in the catalogue{_meant(key, mine)}", HINT)
    return found


def own(
    name: str,
    *,
    memory: float,
    bandwidth: float,
    fp16: float,
    fp32: float | None = None,
    fp8: float | None = None,
    int8: float | None = None,
    fp4: float | None = None,
    link: float | None = None,
    power: float | None = None,
    mig: str = "",
) -> Gpu:
    """A type that the user describes: bytes, bytes/s, operations/s and watts; `mig` names a type that splits alike.

    Raises `InputError` ("bad-gpu-type") for a number that is not positive, not finite, or off by a unit.
    """
    if not _SAID.match(name):
        raise InputError("bad-gpu-type", f"`{name[:60]}` is no name of a GPU type: letters, digits, hyphens", HINT)
    flops = {"fp16": fp16, "fp32": fp32, "fp8": fp8, "int8": int8, "fp4": fp4}
    given = {key: value for key, value in flops.items() if value is not None}
    for key, value in given.items():
        _sane(name, key, value, 1e10, 1e18, "operations/s")
    _sane(name, "memory", memory, 1e8, 1e14, "bytes")
    _sane(name, "bandwidth", bandwidth, 1e9, 1e15, "bytes/s")
    _sane(name, "link", PCIE4 if link is None else link, 1e8, 1e14, "bytes/s")
    if power is not None:
        _sane(name, "power", power, 1.0, 1e5, "watts")
    return Gpu(
        name=name,
        arch="",
        memory=memory,
        bandwidth=bandwidth,
        flops=given,
        link=PCIE4 if link is None else link,
        # Nothing on PCIe 5 x16 does more than 64 GB/s one way; what does has a fabric of its own.
        link_kind="nvlink" if link is not None and link > 64e9 else "pcie",
        power=power or 0.0,
        mig=_splits(name, mig),
        source="the stack file",
        confidence="user",
    )


@functools.cache
def _table() -> tuple[Gpu, ...]:
    text = importlib.resources.files("mainspring.facts").joinpath("data/gpus.csv").read_text(encoding="utf-8")
    return tuple(_read(row) for row in csv.DictReader(text.splitlines()))


def _read(row: dict[str, str]) -> Gpu:
    kind, confidence = row["link_kind"], row["confidence"]
    assert kind in get_args(LinkKind)
    assert confidence in get_args(Confidence)
    return Gpu(
        name=row["name"],
        arch=row["arch"],
        memory=float(row["memory_gb"]) * 1e9,
        bandwidth=float(row["bandwidth_gbs"]) * 1e9,
        flops={key: float(row[key]) * 1e12 for key in PRECISIONS if row[key]},
        link=float(row["link_gbs"]) * 1e9,
        link_kind=kind,  # type: ignore[arg-type]
        power=float(row["power_w"]),
        aliases=tuple(row["aliases"].split("|")),
        mig=row["mig"],
        source=row["source"],
        confidence=confidence,  # type: ignore[arg-type]
    )


@functools.cache
def _names() -> dict[str, Gpu]:
    return {_key(name): gpu for gpu in _table() for name in (gpu.name, *gpu.aliases)}


def _key(name: str) -> str:
    """What of a name counts: lower-case letters and digits, without the maker."""
    return _MAKERS.sub("", re.sub(r"[^a-z0-9]", "", name[:200].lower()))


def _meant(key: str, mine: tuple[Gpu, ...]) -> str:
    shown = {_key(gpu.name): gpu.name for gpu in mine} | {one: gpu.name for one, gpu in _names().items()}
    near = difflib.get_close_matches(key[:60], shown, n=1)
    return f"; did you mean `{shown[near[0]]}`?" if near else ""


def _sane(name: str, key: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:
        message = f"`{key}` of the GPU type `{name}` is `{value:g}` {unit}: it must be within {low:g} to {high:g}"
        raise InputError("bad-gpu-type", message, HINT)


def _splits(name: str, mig: str) -> str:
    if not mig:
        return ""
    found = find(mig).mig
    if not found:
        raise InputError("bad-gpu-type", f"`mig` of the GPU type `{name}` is `{mig[:60]}`, which can't be split", HINT)
    return found
