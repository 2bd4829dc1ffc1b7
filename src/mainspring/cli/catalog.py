"""`mainspring catalog`: the GPUs, prices and models that are known, and what this machine has.

What this is: tables of `facts/`, and one look at this machine. Who calls it: `cli/main.py`. What it must never do:
leave out where a number is from.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mainspring.cli.output import WIDTH, Column, Options, cell, emit, pass_options, table, talk
from mainspring.errors import InputError
from mainspring.facts import cpus, mig, models, nodes, prices
from mainspring.facts import gpus as accelerators
from mainspring.facts.gpus import PRECISIONS, Gpu
from mainspring.facts.prices import Price
from mainspring.facts.shapes import ModelShape
from mainspring.facts.visible import visible


@click.group()
def catalog() -> None:
    """Show the GPUs, prices and models that are known, and what this machine has."""


@catalog.command("gpus")
@click.argument("name", required=False)
@pass_options
def gpus_(options: Options, name: str | None) -> None:
    """List types of GPU and CPU servers, or show all about the one called NAME."""
    known, servers = accelerators.catalogue(), cpus.catalogue()
    if name is not None and name.lower() in servers:
        _server(servers[name.lower()], options.output)
    elif name is not None and options.output == "table":
        _show(accelerators.find(name))
    elif name is not None:
        emit(_whole(accelerators.find(name)), options.output)
    elif options.output == "table":
        _list(known.values(), servers.values())
    else:
        found = {"gpus": [_whole(gpu) for gpu in known.values()], "cpus": [asdict(one) for one in servers.values()]}
        emit(found, options.output)


@catalog.command("prices")
@click.argument("gpu", required=False)
@click.option(
    "--prices", "feed", type=click.Path(path_type=Path), metavar="FILE.csv", help="Read and check a price feed."
)
@pass_options
def prices_(options: Options, gpu: str | None, feed: Path | None) -> None:
    """List the default prices, or those of a feed, of all types or of one GPU: dollars per GPU-hour.

    A feed is a CSV file. Its header has provider, gpu, region, on_demand_per_gpu_hour; and may have instance,
    gpu_count, spot_per_gpu_hour_min, spot_per_gpu_hour_max, reserved_per_gpu_hour, source.
    """
    wanted = accelerators.find(gpu).name if gpu else ""
    if feed is not None:
        _feed(options, feed, wanted)
        return
    known = [one for one in prices.defaults().values() if wanted in ("", one.gpu)]
    if options.output != "table":
        emit({"prices": [asdict(one) for one in known], "core": cpus.PRICE}, options.output)
        return
    emit([_cost(one) for one in known], "table", ["gpu", "on demand", "spot", "reserved", "trust", "source"])
    low, usual, high = (f"{100 * off:.0f}" for off in prices.SPOT_OFF)
    less, common, more = (f"{100 * off:.0f}" for off in prices.RESERVED_OFF)
    said = (
        f"Dollars per GPU-hour. Spot is taken as {usual} % off (seen: {low} to {high}), reserved for a year as "
        f"{common} % off ({less} to {more}). CPU servers: ${cpus.PRICE:g} per core-hour. Your own: "
        f"--prices FILE.csv, or `prices: FILE.csv` under `compute`; its columns: {', '.join(prices.REQUIRED)}, and, "
        f"where known, {', '.join(prices.OPTIONAL)}."
    )
    click.echo(textwrap.fill(said, WIDTH, break_long_words=False, break_on_hyphens=False))


@catalog.command("models")
@click.argument("name", required=False)
@pass_options
def models_(options: Options, name: str | None) -> None:
    """List the models whose shape is known, or show all about the one called NAME."""
    if name is not None:
        shape = models.find(name)
        if options.output == "table":
            _lines(_about(shape))
        else:
            emit(_shape(shape), options.output)
        return
    known = models.catalogue().values()
    if options.output != "table":
        emit([_shape(one) for one in known], options.output)
        return
    columns: list[Column] = [
        "name", ("params", "parameters"), "active", "layers", ("fp8 GB", "fp8"), ("kv KiB", "kv"), "context", "trust",
    ]  # fmt: skip
    emit([_model(one) for one in known], "table", columns)
    click.echo("fp8 GB: all weights at FP8. kv KiB: of the cache, for one more token, at FP16.")


@catalog.command("here")
@pass_options
def here(options: Options) -> None:
    """Show this machine's CPUs, memory and GPUs."""
    from mainspring.monitoring import devices

    found = devices.machine()
    if options.output != "table":
        emit(found, options.output)
        return
    _lines(
        {
            "cpu": found.cpu,
            "cores": f"{found.cores:g} for this process, of {found.threads}",
            "features": ", ".join(found.features),
            "memory": f"{found.memory / 2**30:.1f} GiB for this process" if found.memory else "unknown",
            "driver": found.driver,
        }
    )
    if found.gpus:
        rows = [
            {
                "gpu": one.index,
                "type": one.type or "not in the catalogue",
                "name": one.name,
                "gib": f"{one.memory / 2**30:.1f}" if one.memory else "",
                "w": f"{one.power:.0f}" if one.power else "",
                "slices": one.slices or ("split, no slice" if one.mig else "whole"),
            }
            for one in found.gpus
        ]
        emit(rows)
    if found.why:
        click.echo(f"GPUs: {found.why}")


def _feed(options: Options, path: Path, wanted: str) -> None:
    """A feed's offers; its complaints go to the person, beside the data."""
    try:
        with path.open("rb") as file:
            data = file.read(prices.BYTES + 1)
    except OSError as error:
        hint = "mainspring catalog prices"
        raise InputError("no-price-feed", f"`{path}` can't be read: {error.strerror}", hint) from None
    feed = prices.read_feed(data, str(path))
    shown = [one for one in feed.prices if wanted in ("", one.gpu)]
    if options.output != "table":
        found = {"prices": [asdict(one) for one in shown], "complaints": [asdict(one) for one in feed.complaints]}
        emit(found, options.output)
    else:
        columns: list[Column] = [
            "line", "provider", "instance", "gpu", "region", ("$/h", "on demand"), "spot", "note",
        ]  # fmt: skip
        emit([_cost(one) for one in shown], "table", columns)
    for complaint in feed.complaints:
        talk(f"{complaint} [{complaint.code}]")


def _list(known: Iterable[Gpu], servers: Iterable[cpus.Cpu]) -> None:
    columns: list[Column] = [
        "name", "gb", "tb/s", "fp16", "fp8", "int8", "fp4", "link", ("w", "power"), ("$/h", "price"), "trust",
    ]  # fmt: skip
    emit([_row(gpu) for gpu in known], "table", columns)
    click.echo("fp16 to fp4: dense TFLOPS. link: GB/s to other GPUs, one way. $/h: on demand.\n")
    emit(
        [
            {
                "name": one.name,
                "cores": one.cores,
                "gib": f"{one.memory / 2**30:.0f}",
                "gb/s": f"{one.bandwidth / 1e9:.0f}",
                "fp32": f"{one.peak('fp32') / 1e12:.1f}",
                "int8": f"{one.peak('int8') / 1e12:.1f}",
                "$/h": f"{one.price:.2f}",
                "trust": one.confidence,
            }
            for one in servers
        ]
    )
    click.echo("All about one, with its sources: mainspring catalog gpus NAME")


def _server(one: cpus.Cpu, output: str) -> None:
    if output != "table":
        emit(asdict(one), output)
        return
    _lines(
        {
            "name": one.name,
            "cores": f"{one.cores}",
            "memory": f"{one.memory / 2**30:g} GiB, {one.bandwidth / 1e9:g} GB/s",
            "peak": f"{one.fp32 / 1e9:g} GFLOPS FP32 and {one.int8 / 1e9:g} GOPS INT8 a core",
            "price": f"${one.price:.2f}/h",
            "trust": one.source,
        }
    )


def _row(gpu: Gpu) -> dict[str, Any]:
    price = prices.default(gpu)
    return {
        "name": gpu.name,
        "gb": f"{gpu.memory / 1e9:g}",
        "tb/s": f"{gpu.bandwidth / 1e12:.3g}",
        **{key: f"{gpu.flops[key] / 1e12:.0f}" if key in gpu.flops else "-" for key in PRECISIONS},
        "link": f"{gpu.link / 1e9:g}",
        "power": f"{gpu.power:g}",
        "price": f"{price.at('on_demand'):.2f}" if price else "-",
        "trust": gpu.confidence,
    }


def _whole(gpu: Gpu) -> dict[str, Any]:
    """All about a type, as data."""
    price = prices.default(gpu)
    return {
        **asdict(gpu),
        "visible": visible(gpu),
        "price": asdict(price) if price else None,
        "nodes": [asdict(one) for one in nodes.shapes(gpu)],
        "profiles": [
            {**asdict(one), "most": _most(gpu.mig, one.name)}
            for one in (mig.profiles(gpu.mig, media=True) if gpu.mig else ())
        ],
    }


def _show(gpu: Gpu) -> None:
    """All about a type, for a person."""
    price = prices.default(gpu)
    seen = f"; a driver shows {visible(gpu) / 2**30:.1f} GiB" if visible(gpu) != gpu.memory else ""
    link = {"nvlink": "NVLink", "pcie": "PCIe", "fabric": "Infinity Fabric or alike"}[gpu.link_kind]
    _lines(
        {
            "name": gpu.name,
            "also": ", ".join(one for one in gpu.aliases if one),
            "architecture": gpu.arch,
            "memory": f"{gpu.memory / 1e9:g} GB as sold" + seen,
            "bandwidth": f"{gpu.bandwidth / 1e12:g} TB/s",
            "dense": ", ".join(f"{key} {value / 1e12:g}" for key, value in gpu.flops.items()) + " TFLOPS (int8: TOPS)",
            "link": f"{link}, {gpu.link / 1e9:g} GB/s one way",
            "power": f"{gpu.power:g} W",
            "price": _said(price) if price else "none: give one in the stack file",
            "trust": f"{_trust(gpu.confidence)}: {gpu.source}",
        }
    )
    shapes = nodes.shapes(gpu)
    if shapes:
        click.echo("\nNodes (ram in GiB, nvme in TB, read, net in GB/s; domain: GPUs on a fast link)")
        click.echo(table([_node(one) for one in shapes], _NODE))
        for one in shapes:
            _lines({one.name: f"{_trust(one.confidence)}: {one.source}"})
    if gpu.mig:
        click.echo("\nMIG slices (what else a GPU takes beside one: it depends on where they lie)")
        emit([_slice(gpu, one) for one in mig.profiles(gpu.mig, media=True)])
    else:
        click.echo("\nNo MIG slices are known for it.")


_NODE: list[Column] = [
    "name", "gpus", "cores", "ram", "nvme", "read", "net", "network", "domain",
]  # fmt: skip


def _trust(confidence: str) -> str:
    """A confidence in words that can't be taken for the memory of a machine."""
    return {"memory": "from memory", "low": "low trust"}.get(confidence, confidence)


def _node(one: nodes.Node) -> dict[str, Any]:
    return {
        "name": one.name,
        "gpus": one.gpus,
        "cores": one.cores,
        "ram": f"{one.memory / 2**30:.0f}",
        "nvme": f"{one.nvme / 1e12:.3g}",
        "read": f"{one.nvme_read / 1e9:g}",
        "net": f"{one.network / 1e9:.3g}",
        "network": one.network_kind,
        "domain": one.domain,
    }


def _slice(gpu: Gpu, one: mig.Profile) -> dict[str, Any]:
    return {
        "slice": one.name,
        "most": _most(gpu.mig, one.name),
        "gib": f"{one.memory / 2**30:.4g}",
        "compute": f"{100 * one.share:.0f} %",
        "bandwidth": f"{100 * one.bandwidth:.0f} %",
        "starts": one.starts,
        "trust": one.confidence,
    }


def _most(key: str, name: str) -> int:
    """How many slices of one kind a GPU takes."""
    return max(count for count in range(8) if mig.legal(key, [name] * count) is not None)


def _said(price: Price) -> str:
    ways = ", ".join(f"{mode.replace('_', '-')} ${price.at(mode):.2f}" for mode in ("on_demand", "spot", "reserved"))
    return f"{ways} per GPU-hour; {price.source}"


def _cost(one: Price) -> dict[str, Any]:
    notes = ["doubted"] if one.suspect else []
    return {
        "line": one.line,
        "gpu": one.gpu,
        "provider": one.provider,
        "instance": one.instance or "-",
        "region": one.region or "any",
        "on demand": _dollars(one.on_demand),
        "spot": _dollars(one.spot),
        "reserved": _dollars(one.reserved),
        "trust": one.confidence,
        "source": one.source,
        "note": notes or "-",
    }


def _dollars(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _model(one: ModelShape) -> dict[str, Any]:
    return {
        "name": one.name,
        "parameters": _count(one.parameters),
        "active": _count(one.active),
        "layers": one.layers,
        "fp8": f"{one.weight_bytes('fp8') / 1e9:.4g}",
        "kv": f"{one.kv_bytes_per_token('fp16') / 1024:.4g}",
        "context": one.context or "-",
        "trust": one.confidence,
    }


def _about(one: ModelShape) -> dict[str, str]:
    """All about a model, for a person."""
    experts, keys = one.experts, ("fp16", "fp8", "fp4", "int4")
    kept = {key: one.kv_bytes_per_token(key) / 1024 for key in ("fp16", "fp8")}
    layers = [f"{part.layers} {part.kind}" + (f" of {part.window}" * bool(part.window)) for part in one.attention]
    return {
        "name": one.name,
        "parameters": f"{_count(one.parameters)}, of which a token meets {_count(one.active)}",
        "layers": f"{one.layers}; attention: {', '.join(layers)}; hidden {one.hidden}",
        "experts": f"{experts.active} of {experts.count} in {experts.layers} layers" if experts else "",
        "weights": ", ".join(f"{key} {one.weight_bytes(key) / 1e9:.4g} GB" for key in keys),
        "published": f"{one.native}, {one.weight_bytes(one.native) / 1e9:.4g} GB",
        "kv cache": f"{kept['fp16']:.4g} KiB for one more token at FP16, {kept['fp8']:.4g} at FP8",
        "context": f"{one.context} tokens" if one.context else "unknown",
        "trust": f"{_trust(one.confidence)}: {one.source}",
    }


def _shape(one: ModelShape) -> dict[str, Any]:
    """A model's shape, and what follows from it, as data."""
    return {
        **asdict(one),
        "weight_bytes": {key: one.weight_bytes(key) for key in ("fp16", "fp8", "fp4", "int4")},
        "kv_bytes_per_token": {key: one.kv_bytes_per_token(key) for key in ("fp16", "fp8")},
    }


def _count(value: int) -> str:
    return f"{value / 1e9:.3g}B" if value < 999.5e9 else f"{value / 1e12:.3g}T"


def _lines(pairs: Mapping[str, str]) -> None:
    """Names and values, the values wrapped."""
    size = max(12, *(len(name) for name in pairs))
    for name, value in pairs.items():
        if value:
            lead = f"{name.ljust(size)}  "
            click.echo(
                textwrap.fill(
                    cell(value), WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False
                )
            )
