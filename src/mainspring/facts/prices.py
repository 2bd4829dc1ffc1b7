"""What GPUs cost by the hour: the defaults of `data/prices.csv`, and price feeds that users bring as CSV.

What this is: `Price`, the defaults, and the reader of feeds; pure but for reading that file, which is part of the
package. Who calls it: sizing, `plan`, `catalog prices`. What it must never do: ask a provider, or change a price.

Units: dollars per GPU-hour.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mainspring.errors import InputError
from mainspring.facts.gpus import Gpu, find
from mainspring.facts.price_rules import Complaint, Doubt, apart, number, spot

Mode = Literal["on_demand", "spot", "reserved"]
SPOT_OFF = (0.60, 0.70, 0.80)
"""Spot off the on-demand price: low, default, high. (AWS, autumn 2025: H100 59 to 73 % off, B200 in us-east-1 83 %.)"""
RESERVED_OFF = (0.30, 0.35, 0.40)
"""A one-year commitment off the on-demand price: low, default, high."""
REQUIRED = ("provider", "gpu", "region", "on_demand_per_gpu_hour")
"""Columns that a feed must have."""
OPTIONAL = (
    "instance", "gpu_count", "spot_per_gpu_hour_min", "spot_per_gpu_hour_max", "reserved_per_gpu_hour", "source",
)  # fmt: skip
"""Columns that a feed may have; any others are passed over."""
BYTES, ROWS = 5_000_000, 50_000
"""The largest feed that is read."""
HINT = "mainspring catalog prices"


@dataclass(frozen=True, slots=True)
class Price:
    """What one GPU costs in one place; None where there is no such offer."""

    gpu: str  # the catalogue's name
    region: str  # "" anywhere
    provider: str
    on_demand: float | None
    spot: float | None  # the dearest zone's: what has to be reckoned with
    reserved: float | None  # committed to for a year
    source: str
    instance: str = ""  # "p5.48xlarge"
    count: int = 1  # GPUs of the instance; the prices are of one
    confidence: Literal["given", "read", "memory", "user"] = "user"
    derived: tuple[Mode, ...] = ()  # not quoted, but taken off on-demand by the default discount
    suspect: bool = False  # a rule doubts it: see the complaints
    line: int = 0  # of the feed; 0: no feed

    def at(self, mode: Mode) -> float:
        """Dollars per GPU-hour when bought so; raises `InputError` ("no-price") when it is not on offer so."""
        value = {"on_demand": self.on_demand, "spot": self.spot, "reserved": self.reserved}[mode]
        if value is None:
            where = f" in `{self.region}`" if self.region else ""
            raise InputError("no-price", f"there is no {mode.replace('_', '-')} price of `{self.gpu}`{where}", HINT)
        return value

    def has(self, mode: Mode) -> bool:
        """Whether it can be bought so."""
        return {"on_demand": self.on_demand, "spot": self.spot, "reserved": self.reserved}[mode] is not None


@dataclass(frozen=True, slots=True)
class Feed:
    """A price feed as far as it is usable, and what is wrong with the rest."""

    name: str
    prices: tuple[Price, ...]
    complaints: tuple[Complaint, ...]


def default(gpu: Gpu | str) -> Price | None:
    """The default price of a type; None for a type that the list doesn't have (a user's own)."""
    return defaults().get(gpu if isinstance(gpu, str) else gpu.name)


def defaults() -> dict[str, Price]:
    """The default price of each type of the catalogue, in any region, by the catalogue's name."""
    return dict(_defaults())


def cheapest(prices: Iterable[Price], gpu: str, region: str = "", mode: Mode = "on_demand") -> Price | None:
    """The cheapest offer of a type in a region (`""`: in any) that no rule doubts; None when there is none."""
    fit = [one for one in prices if one.gpu == gpu and one.has(mode) and not one.suspect]
    here = [one for one in fit if not region or one.region in ("", region)]
    return min(here, key=lambda one: (one.at(mode), one.provider, one.region, one.line), default=None)


def read_feed(text: str | bytes, name: str, own: Iterable[Gpu] = ()) -> Feed:
    """Read a price feed; rows that break a rule are left out or doubted, each with a complaint.

    `name` is the file's, for messages; `own` are the user's types of GPU. Raises `InputError` for a feed that can't
    be read at all: too large, not UTF-8, not CSV, or without the columns of `REQUIRED`.
    """
    told: list[Complaint] = []
    mine = tuple(own)

    def complain(line: int, doubt: Doubt) -> None:
        # Cells come from outside: none of them may reach a terminal as more than text.
        value, said = ("".join(char if char.isprintable() else "\ufffd" for char in part) for part in doubt[1:])
        told.append(Complaint(doubt[0], name, line, value, said))

    rows = [row for line, cells in _rows(_text(text, name), name) if (row := _price(cells, line, mine, complain))]
    if not rows and not told:
        complain(1, ("empty", "", "there is no price below the header"))
    kept = _apart(_once(rows, complain), complain)
    return Feed(name, tuple(kept), tuple(sorted(told, key=lambda one: one.line)))


Complain = Callable[[int, Doubt], None]


@functools.cache
def _defaults() -> dict[str, Price]:
    text = importlib.resources.files("mainspring.facts").joinpath("data/prices.csv").read_text(encoding="utf-8")
    return {row["gpu"]: _default(row) for row in csv.DictReader(text.splitlines())}


def _default(row: dict[str, str]) -> Price:
    price = float(row["on_demand"])
    trust = row["confidence"]
    assert trust in ("given", "read", "memory")
    return Price(
        gpu=row["gpu"],
        region="",
        provider="default",
        on_demand=price,
        spot=round(price * (1 - SPOT_OFF[1]), 4),
        reserved=round(price * (1 - RESERVED_OFF[1]), 4),
        source=row["source"],
        confidence=trust,  # type: ignore[arg-type]
        derived=("spot", "reserved"),
    )


def _text(text: str | bytes, name: str) -> str:
    if len(text) > BYTES:
        raise InputError("price-feed-size", f"`{name}` is larger than {BYTES:,} bytes", HINT)
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"`{name}` is not UTF-8 text: byte {error.start} is `0x{text[error.start]:02x}`"
        raise InputError("price-feed-encoding", message, "save it as CSV in UTF-8") from None


def _rows(text: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row as cells by column, with its line; blank lines are passed over."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        missing = [column for column in REQUIRED if column not in header]
        if missing:
            said = ", ".join(f"`{column}`" for column in missing)
            raise InputError("price-feed-columns", f"`{name}` lacks {said}: its header names the columns", HINT)
        twice = [column for column in (*REQUIRED, *OPTIONAL) if header.count(column) > 1]
        if twice:
            raise InputError("price-feed-columns", f"`{name}` has the column `{twice[0]}` twice", HINT)
        for count, cells in enumerate(reader):
            if count >= ROWS:
                raise InputError("price-feed-size", f"`{name}` has more than {ROWS:,} rows", HINT)
            if any(cell.strip() for cell in cells):
                padded = cells + [""] * (len(header) - len(cells))
                row = dict(zip(header, padded, strict=False))
                yield reader.line_num, row | {"": str(len(cells) - len(header))}
    except csv.Error as error:
        raise InputError("price-feed-csv", f"`{name}:{reader.line_num}` is not CSV: {error}", HINT) from None


def _price(row: dict[str, str], line: int, own: tuple[Gpu, ...], complain: Complain) -> Price | None:
    """One row as a price; None when it holds none that can be used."""
    over = int(row[""])
    if over:
        kind = "more" if over > 0 else "fewer"
        complain(line, ("ragged", str(over), f"the row has `{abs(over)}` {kind} cells than the header; it is left out"))
        return None
    gpu = _gpu(row["gpu"], line, own, complain)
    on_demand, doubt = number(row["on_demand_per_gpu_hour"], "on-demand")
    if doubt:
        complain(line, (*doubt[:2], f"{doubt[2]}; the row is left out"))
    if gpu is None or doubt:
        return None
    if on_demand is None:
        complain(line, ("no-on-demand", "", "there is no on-demand price: it can't be bought so"))
    low, doubted = _spot(row, on_demand, line, complain)
    reserved, off = number(row.get("reserved_per_gpu_hour", ""), "reserved")
    if off:
        complain(line, off)
    if on_demand is None and low is None and reserved is None:
        complain(line, ("no-price", "", "the row holds no price that can be used; it is left out"))
        return None
    derived: tuple[Mode, ...] = ()
    if reserved is None and on_demand is not None and not off:
        reserved, derived = round(on_demand * (1 - RESERVED_OFF[1]), 6), ("reserved",)
    return Price(
        gpu=gpu,
        region=row["region"].strip(),
        provider=row["provider"].strip(),
        on_demand=on_demand,
        spot=low,
        reserved=reserved,
        source=row.get("source", "").strip(),
        instance=row.get("instance", "").strip(),
        count=_count(row.get("gpu_count", ""), line, complain),
        derived=derived,
        suspect=doubted,
        line=line,
    )


def _gpu(text: str, line: int, own: tuple[Gpu, ...], complain: Complain) -> str | None:
    try:
        return find(text.strip(), own).name
    except InputError as error:
        complain(line, (error.code, text.strip()[:60], f"{error.message}; the row is left out"))
        return None


def _spot(row: dict[str, str], on_demand: float | None, line: int, complain: Complain) -> tuple[float | None, bool]:
    """The dearest zone's spot price that is one, and whether the row is to be doubted."""
    good, doubted, said = [], False, set()
    for column in ("spot_per_gpu_hour_min", "spot_per_gpu_hour_max"):
        value, doubt = number(row.get(column, ""), "spot")
        doubt = doubt or (spot(value, on_demand) if value is not None else None)
        if doubt is None:
            good += [value] if value is not None else []
        elif doubt[:2] not in said:  # one zone, in both columns, is told of once
            said.add(doubt[:2])
            complain(line, doubt)
            doubted = doubted or doubt[0] == "spot-above-on-demand"
    return max(good, default=None), doubted


def _count(text: str, line: int, complain: Complain) -> int:
    said = text.strip()
    if not said:
        return 1
    if said.isascii() and said.isdigit() and 1 <= int(said[:6]) <= 1024:
        return int(said)
    complain(line, ("bad-count", said[:40], f"gpu_count is `{said[:40]}`, of 1 to 1024; 1 is taken"))
    return 1


def _once(rows: list[Price], complain: Complain) -> list[Price]:
    """Each offer once: a row that says the same again is left out; of two that differ the first stands, doubted."""
    seen: dict[tuple[str, str, str, str], int] = {}
    kept: list[Price] = []
    for row in rows:
        key = (row.provider.lower(), row.instance.lower(), row.gpu, row.region.lower())
        if key not in seen:
            seen[key] = len(kept)
            kept.append(row)
            continue
        first = kept[seen[key]]
        same = (row.on_demand, row.spot, row.reserved) == (first.on_demand, first.spot, first.reserved)
        shown = row.instance or row.gpu
        if same:
            complain(row.line, ("duplicate", shown, f"`{shown}` is on line {first.line} already; it is left out"))
        else:
            kept[seen[key]] = replace(first, suspect=True)
            said = f"`{shown}` is on line {first.line} at another price; that line stands, and is doubted"
            complain(row.line, ("contradicts", shown, said))
    return kept


def _apart(rows: list[Price], complain: Complain) -> list[Price]:
    """Doubt rows of one instance whose on-demand prices lie too far apart between regions."""
    kept = list(rows)
    groups: dict[tuple[str, str, str], list[int]] = {}
    for at, row in enumerate(rows):
        if row.on_demand is not None and row.instance:
            groups.setdefault((row.provider.lower(), row.instance.lower(), row.gpu), []).append(at)
    for members in groups.values():
        flags = apart([rows[at].at("on_demand") for at in members])
        if not any(flags):
            continue
        for at, flag in zip(members, flags, strict=True):
            kept[at] = replace(kept[at], suspect=kept[at].suspect or flag)
        low, high = (pick(members, key=lambda at: rows[at].at("on_demand")) for pick in (min, max))
        one, other = rows[low], rows[high]
        said = (
            f"`{one.instance}` is {one.on_demand:g} in {one.region or 'any region'} and {other.on_demand:g} in "
            f"{other.region or 'any region'} (line {other.line}): two products, it seems; both are doubted"
        )
        complain(one.line, ("regions-apart", f"{one.on_demand:g}", said))
    return kept
