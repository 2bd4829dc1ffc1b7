"""What a fleet costs in a month, and for a million tokens.

What this is: arithmetic on dollars, pure. Who calls it: `answer.py`, `levers.py`, `audit.py`. What it must never do:
invent a price, or leave out what has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mainspring.errors import InputError
from mainspring.sizing.question import HOURS, MODES, Demand, Mix, Mode, Pool

SECONDS = HOURS * 3600


@dataclass(frozen=True, slots=True)
class Line:
    """One part of the bill."""

    kind: str  # "reserved", "on_demand", "spot" (devices by how they are bought), or "fixed"
    what: str  # "H100-SXM in us-east-1", "networking"
    quantity: float  # devices; 1 for fixed
    each: float  # dollars per device-hour; dollars a month for fixed
    dollars: float  # a month


@dataclass(frozen=True, slots=True)
class Bill:
    """A month."""

    lines: tuple[Line, ...]

    @property
    def devices(self) -> float:
        """Dollars for devices."""
        return sum(line.dollars for line in self.lines if line.kind != "fixed")

    @property
    def fixed(self) -> float:
        """Dollars for what doesn't depend on the fleet."""
        return sum(line.dollars for line in self.lines if line.kind == "fixed")

    @property
    def total(self) -> float:
        """All of it."""
        return self.devices + self.fixed


@dataclass(frozen=True, slots=True)
class Unit:
    """What one thing costs, in dollars; None where there is none of it."""

    per_million_tokens: float | None  # prompt and output together
    per_million_output: float | None
    per_thousand_requests: float | None


def bill(
    pool: Pool, devices: Mapping[str, float], mix: Mix | None = None, fixed: Mapping[str, float] | None = None
) -> Bill:
    """The bill of so many devices of a pool by region, for a whole month; `fixed` is in dollars a month.

    Raises `InputError` for devices that aren't sold there so.
    """
    mix = mix or pool.mix
    lines = []
    for region, count in devices.items():
        for mode in MODES:
            share = mix.share(mode)
            tariff = pool.tariffs.get(region)
            price = tariff.at(mode) if tariff else None
            if count and share:
                if price is None:
                    raise unsold(pool, region, mode)
                what = f"{pool.device.name} in {region}"
                lines.append(Line(mode, what, count * share, price, count * share * price * HOURS))
    lines += [Line("fixed", what, 1, amount, amount) for what, amount in (fixed or {}).items()]
    return Bill(tuple(lines))


def unsold(pool: Pool, region: str, mode: Mode) -> InputError:
    """What is wrong where devices are bought in a way for which there is no price."""
    how = mode.replace("_", " ")
    message = f"nothing says what `{pool.device.name}` costs in `{region}` {how}: add `price: $4/h per gpu`"
    return InputError("no-price", message, "mainspring catalog prices")


def unit(dollars: float, demand: Demand) -> Unit:
    """What a month's dollars are for each token and each request of the mean traffic."""
    requests = demand.rate * SECONDS
    if requests <= 0:
        return Unit(None, None, None)
    per_thousand = dollars / requests * 1000
    if demand.lengths is None:
        return Unit(None, None, per_thousand)
    prompt, output = demand.lengths.mean()
    each = dollars / requests * 1e6
    return Unit(each / (prompt + output) if prompt + output else None, each / output if output else None, per_thousand)
