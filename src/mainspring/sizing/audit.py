"""Quoted figures against the fleet's own arithmetic: what would have to be true for a quote to hold.

What this is: arithmetic, pure. Who calls it: `answer.py`, for figures that the stack file quotes. What it must never
do: know a figure: all come from the file, the prices and the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass

from mainspring.sizing import words
from mainspring.sizing.question import HOURS, Tariff

CLOSE = 0.005
"""A quote within half a percent of a figure is taken to be that figure, rounded."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What devices can be counted in: all that are bought, those that replicas hold, whole nodes of replicas."""

    what: str  # "all that are bought"
    devices: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that follows from a quote."""

    code: str  # "on-demand", "reserved", "spot", "discount", "mix", "count", "explains"
    value: float
    says: str


@dataclass(frozen=True, slots=True)
class Audited:
    """A quote and what follows."""

    what: str
    quoted: float  # dollars a month
    findings: tuple[Finding, ...]
    holds: bool  # whether it is what the fleet costs, as it is bought


def counted(replicas: int, gpus: float, per_node: int, bought: float) -> tuple[Counted, ...]:
    """The ways in which someone may have counted a fleet's devices."""
    whole = replicas * -(-gpus // per_node) * per_node
    return (
        Counted("all that are bought", bought),
        Counted(f"those that {words.count(replicas, 'replica')} of {gpus:g} hold", replicas * gpus),
        Counted(f"{words.count(replicas, 'replica')} on whole nodes of {per_node} of its own each", whole),
    )


def _mix_for(needed: float, reserved: float | None, spot: float | None) -> str:
    """How buying in two modes gives a mean discount, in words; both as shares off the price on demand."""
    pairs = [(name, off) for name, off in (("reserved", reserved), ("spot", spot)) if off]
    enough = [(name, off) for name, off in pairs if off >= needed]
    if not enough:
        return "no mix: nothing that is sold goes that low" if pairs else ""
    if reserved and spot and reserved < needed <= spot:
        part = (spot - needed) / (spot - reserved)
        return (
            f"{words.share(part)} reserved at {words.share(reserved)} off with "
            f"{words.share(1 - part)} spot at {words.share(spot)} off"
        )
    name, off = enough[0]
    return f"{words.share(needed / off)} {name} at {words.share(off)} off, the rest on demand"


def audit(
    quoted: float, tariff: Tariff, counts: tuple[Counted, ...], actual: float, device: str, per_node: int
) -> Audited:
    """What follows from a quote for devices, in dollars a month; the first of `counts` is what is paid for.

    `tariff` is in dollars per device-hour, `actual` what the fleet costs as it is bought.
    """
    whole = counts[0].devices
    if quoted <= 0 or whole <= 0:
        return Audited("devices", quoted, (), holds=quoted == actual)
    findings = []
    for mode, price in (("on-demand", tariff.on_demand), ("reserved", tariff.reserved), ("spot", tariff.spot)):
        if price is not None:
            cost = whole * price * HOURS
            each = f"{whole:,.0f} {device} x ${price:.2f} x {HOURS:.0f} h"
            says = f"{each}, {mode.replace('-', ' ')}, are {words.dollars(cost)}"
            findings.append(Finding(mode, cost, says))
    price = tariff.on_demand
    if price:
        findings += _follows(quoted, price, tariff, whole, device)
        findings += _counts(quoted, price, counts, per_node, device)
    return Audited("devices", quoted, tuple(findings), holds=abs(actual / quoted - 1) <= CLOSE)


def _counts(quoted: float, price: float, counts: tuple[Counted, ...], per_node: int, device: str) -> list[Finding]:
    """How many devices the quote buys on demand, and what there is just so many of."""

    def close(devices: float) -> bool:
        return devices > 0 and abs(devices * price * HOURS / quoted - 1) <= CLOSE

    found = []
    for each in counts:
        if close(each.devices):
            cost = words.dollars(each.devices * price * HOURS)
            says = f"the quote is {each.devices:,.0f} {device} on demand, {cost}: {each.what}"
            found.append(Finding("explains", each.devices, says))
    buys, whole = quoted / (price * HOURS), counts[0].devices
    nodes = round(buys / per_node)
    if not found and close(nodes * per_node):
        cost = words.dollars(nodes * per_node * price * HOURS)
        says = (
            f"the quote is {nodes * per_node:,} {device} on demand, {cost}: {words.count(nodes, 'node')} of {per_node}"
        )
        found.append(Finding("explains", nodes * per_node, says))
    says = f"on demand it buys {buys:,.1f} {device}, {words.share(buys / whole)} of {whole:,.0f}"
    return [*found, Finding("count", buys, says)]


def _follows(quoted: float, price: float, tariff: Tariff, whole: float, device: str) -> list[Finding]:
    """The price per hour and the mean discount that the quote supposes, and what would give it."""
    each = quoted / (whole * HOURS)
    off = 1 - each / price
    says = f"{words.dollars(quoted)} for {whole:,.0f} {device} is ${each:.2f} an hour each"
    if off <= 0:
        return [Finding("discount", off, f"{says}, above the {words.dollars(price)} on demand")]
    found = [Finding("discount", off, f"{says}: {words.share(off)} off on the mean")]
    reserved, spot = (None if other is None else 1 - other / price for other in (tariff.reserved, tariff.spot))
    mix = _mix_for(off, reserved, spot)
    if mix:
        found.append(Finding("mix", off, f"that takes {mix}"))
    return found
