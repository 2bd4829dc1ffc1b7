"""Machines that GPUs come in: how many, what is beside them, and how many of them share a fast link.

What this is: `Node`, and the table in `data/nodes.csv`; pure but for reading that file, which is part of the package.
Who calls it: `plan`, sizing, place (node and NVLink boundaries), time to load weights, `catalog gpus NAME`.
What it must never do: know a price.

Units: bytes, bytes/s. A core is a physical one: half of the vCPUs that x86 clouds count.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from dataclasses import dataclass
from typing import Literal

from mainspring.errors import InputError
from mainspring.facts.gpus import Gpu

NetworkKind = Literal["infiniband", "efa", "ethernet"]
HINT = "mainspring catalog gpus NAME"


@dataclass(frozen=True, slots=True)
class Node:
    """One shape of machine."""

    name: str  # "p5.48xlarge"
    gpu: str  # the catalogue's name
    gpus: int
    cores: int
    memory: float  # main memory, bytes
    nvme: float  # local disks together, bytes
    nvme_read: float  # of them together, bytes/s
    network: float  # all ports together, one way, bytes/s
    network_kind: NetworkKind
    domain: int  # GPUs that reach each other by NVLink or fabric; 1: PCIe only; 72: a rack of such nodes
    source: str
    confidence: Literal["read", "memory", "assumed"]

    def together(self, gpus: int) -> bool:
        """Whether so many GPUs can share each layer of a model at the speed of the fast link."""
        return gpus <= self.domain


def catalogue() -> dict[str, Node]:
    """All shapes by name, in the table's order."""
    return {node.name: node for node in _table()}


def find(name: str) -> Node:
    """The shape of that name, whatever its case; raises `InputError` ("unknown-node")."""
    for node in _table():
        if node.name.casefold() == name.strip().casefold():
            return node
    raise InputError("unknown-node", f"there is no node shape `{name[:60]}`", HINT)


def shapes(gpu: Gpu | str) -> tuple[Node, ...]:
    """The shapes that a type of GPU comes in; none for a user's own type."""
    name = gpu if isinstance(gpu, str) else gpu.name
    return tuple(node for node in _table() if node.gpu == name)


def default_for(gpu: Gpu, gpus: int = 0) -> Node:
    """The shape to plan with: the one with `gpus` GPUs if there is one, else the largest.

    A type or a number that the table doesn't have gets a node made up for it, labelled assumed.
    """
    known = shapes(gpu)
    exact = [node for node in known if node.gpus == gpus]
    if exact:
        return exact[0]
    if known and not gpus:
        # The first of the largest: the table has a cloud's shape before a maker's.
        return max(known, key=lambda node: node.gpus)
    return _made_up(gpu, gpus or 8, known)


def _made_up(gpu: Gpu, gpus: int, known: tuple[Node, ...]) -> Node:
    """A node of `gpus` GPUs: what the largest known one has, by the GPU; 128 GB and 8 cores each for a new type."""
    like = max(known, key=lambda node: node.gpus, default=None)
    part = gpus / like.gpus if like else 0.0
    fast = gpu.link_kind != "pcie"
    return Node(
        name=f"{gpus} x {gpu.name}",
        gpu=gpu.name,
        gpus=gpus,
        cores=max(1, round(like.cores * part)) if like else 8 * gpus,
        memory=like.memory * part if like else 128e9 * gpus,
        nvme=like.nvme * part if like else 1.92e12 * gpus,
        nvme_read=like.nvme_read * part if like else 3e9 * gpus,
        network=like.network * part if like else 12.5e9 * gpus,
        network_kind=like.network_kind if like else "ethernet",
        domain=_domain(gpus, like, fast=fast),
        source=f"{like.name} ({like.source}), by the GPU" if like else "assumed: 8 cores, 128 GB and 100 Gbit/s a GPU",
        confidence="assumed",
    )


def _domain(gpus: int, like: Node | None, *, fast: bool) -> int:
    if like is None:
        return gpus if fast else 1
    # A bridge joins so many and no more; a switch joins all of the node.
    return like.domain if like.domain != like.gpus else gpus


@functools.cache
def _table() -> tuple[Node, ...]:
    text = importlib.resources.files("mainspring.facts").joinpath("data/nodes.csv").read_text(encoding="utf-8")
    return tuple(_read(row) for row in csv.DictReader(text.splitlines()))


def _read(row: dict[str, str]) -> Node:
    kind, confidence = row["network_kind"], row["confidence"]
    assert kind in ("infiniband", "efa", "ethernet")
    assert confidence in ("read", "memory", "assumed")
    return Node(
        name=row["name"],
        gpu=row["gpu"],
        gpus=int(row["gpus"]),
        cores=int(row["cores"]),
        # The sources count main memory in GiB.
        memory=float(row["memory_gib"]) * 2**30,
        nvme=float(row["nvme_tb"]) * 1e12,
        nvme_read=float(row["nvme_gbs"]) * 1e9,
        network=float(row["network_gbits"]) * 1e9 / 8,
        network_kind=kind,  # type: ignore[arg-type]
        domain=int(row["domain"]),
        source=row["source"],
        confidence=confidence,  # type: ignore[arg-type]
    )
