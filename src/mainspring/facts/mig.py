"""MIG: into which slices a GPU can be split, and which sets of them its hardware takes.

What this is: profiles and legal placements by GPU, and the arithmetic of both; pure. Who calls it: `decide/fit.py`,
`decide/place.py`, `catalog gpus`, and what writes Kubernetes objects. What it must never do: change a GPU.

Sources: names and counts from NVIDIA/mig-parted `deployments/systemd/config-default.yaml` (commit 5ffc59fe) and the MIG
user guide, "Supported MIG Profiles"; placements from `nvidia-smi mig -lgipp` on A100, H100, H100 NVL and RTX PRO 6000;
memory and multiprocessors from `nvidia-smi mig -lgip` on those and (1g, 2g, 7g) on H200, as public listings show
them. What wasn't read is derived: H200's of 1g.35gb, 3g and 4g, and all
of B200, GB200, B300 and GB300 (names of GB300 from NVIDIA's DGX Station guide, of B300 from AWS's HyperPod client).
A driver may round a name otherwise (GB200's `1g.23gb` is `1g.24gb` in some): it is the sizes that decide.

Left out: profiles for graphics (`+gfx`), with all media engines (`+me.all`) or with none (`-me`) of RTX PRO 6000.

A GPU split in slices has no links to others: a slice never holds a part of a model that is spread over GPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mainspring.errors import InputError
from mainspring.facts.gpus import Gpu
from mainspring.facts.visible import GIB


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of slice of one type of GPU."""

    name: str  # "1g.10gb", "1g.10gb+me"
    compute: int  # compute slices, as in the name
    size: int  # units of memory that it takes (eighths of seven-slice GPUs)
    starts: tuple[int, ...]  # units at which it may begin
    memory: float  # bytes that a process sees
    share: float  # of the GPU's multiprocessors
    bandwidth: float  # share of the GPU's
    confidence: Literal["read", "derived"]

    @property
    def media(self) -> bool:
        """Whether it has the one set of media engines."""
        return self.name.endswith("+me")

    @property
    def resource(self) -> str:
        """Its name as a Kubernetes resource, under the `mixed` strategy of the device plugin."""
        return "nvidia.com/mig-" + self.name.replace("+", ".")


@dataclass(frozen=True, slots=True)
class Placed:
    """A slice where it is: `start` and `size` in units of memory, as `nvidia-smi mig -lgi` shows them."""

    profile: Profile
    start: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """How slices lie on a chip: `units` of memory, `slices` of compute."""

    units: int
    slices: int
    kinds: tuple[tuple[int, int, tuple[int, ...]], ...]  # compute, size, starts


_SEVEN = _Layout(
    8,
    7,
    (
        (1, 1, (0, 1, 2, 3, 4, 5, 6)),
        (1, 2, (0, 2, 4, 6)),
        (2, 2, (0, 2, 4)),
        (3, 4, (0, 4)),
        (4, 4, (0,)),
        (7, 8, (0,)),
    ),
)
_FOUR = _Layout(12, 4, ((1, 3, (0, 3, 6, 9)), (2, 6, (0, 6)), (4, 12, (0,))))


@dataclass(frozen=True, slots=True)
class _Chip:
    """One GPU's slices, in the order of its layout: gigabytes in the name, GiB seen, multiprocessors."""

    layout: _Layout
    named: tuple[int, ...]
    seen: tuple[float, ...]
    units: tuple[float, ...]  # multiprocessors of each profile
    whole: float  # multiprocessors of the GPU without MIG
    read: tuple[bool, ...]


_ALL = (True,) * 6
_NONE = (False,) * 6
_SM_GH100 = (16.0, 26.0, 32.0, 60.0, 64.0, 132.0)
_SM_GB100 = (18.0, 18.0, 36.0, 54.0, 72.0, 148.0)  # 18 read for B300's 1g, the others are multiples of it

_CHIPS: dict[str, _Chip] = {
    "A100-40GB-SXM": _Chip(
        _SEVEN, (5, 10, 10, 20, 20, 40), (4.75, 9.62, 9.62, 19.5, 19.5, 39.25), (14, 14, 28, 42, 56, 98), 108, _ALL
    ),
    "A100-80GB-SXM": _Chip(
        _SEVEN, (10, 20, 20, 40, 40, 80), (9.5, 19.5, 19.5, 39.25, 39.25, 79.0), (14, 14, 28, 42, 56, 98), 108, _ALL
    ),
    "H100-SXM": _Chip(_SEVEN, (10, 20, 20, 40, 40, 80), (9.75, 19.62, 19.62, 39.5, 39.5, 79.25), _SM_GH100, 132, _ALL),
    "H100-PCIe": _Chip(
        _SEVEN, (10, 20, 20, 40, 40, 80), (9.75, 19.62, 19.62, 39.5, 39.5, 79.25), (14, 14, 30, 46, 62, 114), 114, _ALL
    ),
    "H100-NVL": _Chip(_SEVEN, (12, 24, 24, 47, 47, 94), (10.75, 21.5, 21.5, 46.12, 46.12, 93.12), _SM_GH100, 132, _ALL),
    "H200-SXM": _Chip(
        _SEVEN,
        (18, 35, 35, 71, 71, 141),
        (16.0, 32.5, 32.5, 69.5, 69.5, 140.0),
        _SM_GH100,
        132,
        (True, False, True, False, False, True),
    ),
    "B200-SXM": _Chip(_SEVEN, (23, 45, 45, 90, 90, 180), (20.5, 42.5, 42.5, 87.5, 87.5, 178.0), _SM_GB100, 148, _NONE),
    "GB200": _Chip(_SEVEN, (23, 47, 47, 93, 93, 186), (21.5, 44.0, 44.0, 90.5, 90.5, 184.0), _SM_GB100, 152, _NONE),
    "B300-SXM": _Chip(
        _SEVEN, (34, 67, 67, 135, 135, 269), (31.5, 64.5, 64.5, 132.0, 132.0, 267.0), _SM_GB100, 148, _NONE
    ),
    "GB300": _Chip(_SEVEN, (35, 70, 70, 139, 139, 278), (32.5, 66.0, 66.0, 135.0, 135.0, 275.0), _SM_GB100, 152, _NONE),
    "RTX-PRO-6000": _Chip(_FOUR, (24, 48, 96), (23.62, 47.38, 95.0), (46, 94, 188), 188, (True, True, True)),
}


def keys() -> tuple[str, ...]:
    """The GPUs that can be split."""
    return tuple(_CHIPS)


@functools.cache
def profiles(key: str, *, media: bool = False) -> tuple[Profile, ...]:
    """The profiles of a GPU, smallest first; with `media`, also the one with the media engines, last.

    Raises InputError ("unknown-mig") when the GPU has none.
    """
    chip = _CHIPS.get(key)
    if chip is None:
        raise InputError("unknown-mig", f"`{key}` can't be split into MIG slices", "mainspring catalog gpus")
    found = []
    for at, (compute, size, starts) in enumerate(chip.layout.kinds):
        found.append(
            Profile(
                f"{compute}g.{chip.named[at]}gb",
                compute,
                size,
                starts,
                chip.seen[at] * GIB,
                chip.units[at] / chip.whole,
                size / chip.layout.units,
                "read" if chip.read[at] else "derived",
            )
        )
    if media:
        found.append(replace(found[0], name=found[0].name + "+me"))
    return tuple(found)


def profile(key: str, name: str) -> Profile:
    """One profile by its name, as NVIDIA writes it or as Kubernetes does ("1g.10gb+me", "nvidia.com/mig-1g.10gb.me").

    Raises InputError ("unknown-mig-profile").
    """
    plain = name.removeprefix("nvidia.com/").removeprefix("mig-").replace(".me", "+me")
    for one in profiles(key, media=True):
        if one.name == plain:
            return one
    known = ", ".join(one.name for one in profiles(key, media=True))
    raise InputError(
        "unknown-mig-profile", f"`{key}` has no profile `{name}`: it has {known}", "mainspring catalog gpus"
    )


def legal(key: str, names: Sequence[str]) -> tuple[Placed, ...] | None:
    """Where each slice of a set would lie, in the order of `names`; None when the hardware refuses the set.

    The order in which a driver is asked to make them matters to the driver: with these starts given, none does.
    """
    wanted = [profile(key, name) for name in names]
    if sum(one.media for one in wanted) > 1:
        return None
    order = sorted(range(len(wanted)), key=lambda at: (-wanted[at].size, -wanted[at].compute, wanted[at].name, at))
    kinds = tuple(_kind(key, wanted[at]) for at in order)
    starts = _pack(key, kinds)
    if starts is None:
        return None
    where = dict(zip(order, starts, strict=True))
    return tuple(Placed(one, where[at]) for at, one in enumerate(wanted))


def _kind(key: str, one: Profile) -> int:
    """The place of a profile in its layout; one with media engines lies as the one without."""
    plain = one.name.removesuffix("+me")
    return next(at for at, other in enumerate(profiles(key)) if other.name == plain)


def fits(key: str, kinds: tuple[int, ...]) -> bool:
    """Whether slices, as places in `profiles(key)` with the biggest first, go together on one GPU."""
    return _pack(key, kinds) is not None


@functools.cache
def _pack(key: str, kinds: tuple[int, ...]) -> tuple[int, ...] | None:
    """Starts of slices, biggest first, by search: high starts first, as those leave the most."""
    layout = _CHIPS[key].layout
    if sum(layout.kinds[kind][0] for kind in kinds) > layout.slices:
        return None
    return _search(layout, kinds, 0)


def _search(layout: _Layout, kinds: tuple[int, ...], taken: int) -> tuple[int, ...] | None:
    """Starts of the slices that are left, with the units of the bit set `taken` gone."""
    if not kinds:
        return ()
    _, size, starts = layout.kinds[kinds[0]]
    for start in reversed(starts):
        mask = ((1 << size) - 1) << start
        if not mask & taken:
            rest = _search(layout, kinds[1:], taken | mask)
            if rest is not None:
                return (start, *rest)
    return None


@functools.cache
def geometries(key: str) -> tuple[tuple[str, ...], ...]:
    """All sets of slices that the hardware takes and to which no slice can be added, biggest slices first."""
    names = [one.name for one in profiles(key)]
    return tuple(tuple(names[kind] for kind in kinds) for kinds in full(key))


@functools.cache
def full(key: str) -> tuple[tuple[int, ...], ...]:
    """`geometries`, as places in `profiles(key)`."""
    count = len(profiles(key))
    found: list[tuple[int, ...]] = []

    def grow(kinds: tuple[int, ...]) -> None:
        if not any(fits(key, _with(kinds, kind)) for kind in range(count)):
            found.append(kinds)
        for kind in range(kinds[-1] if kinds else count - 1, -1, -1):
            if fits(key, (*kinds, kind)):
                grow((*kinds, kind))

    grow(())
    return tuple(found)


def _with(kinds: tuple[int, ...], kind: int) -> tuple[int, ...]:
    return tuple(sorted((*kinds, kind), reverse=True))


def cut(gpu: Gpu, name: str) -> Gpu:
    """A slice as a GPU of its own: its memory, its share of bandwidth and compute, no link.

    Power is shared by compute. Raises InputError ("unknown-mig", "unknown-mig-profile").
    """
    one = profile(gpu.mig, name)
    return replace(
        gpu,
        name=f"{gpu.name}/{one.name}",
        memory=one.memory,
        bandwidth=gpu.bandwidth * one.bandwidth,
        flops={precision: rate * one.share for precision, rate in gpu.flops.items()},
        link=0.0,
        power=gpu.power * one.share,
        aliases=(),
        mig="",
    )
