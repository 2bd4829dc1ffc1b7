"""How sizing writes numbers in its sentences.

What this is: formatting, pure. Who calls it: whatever in `sizing/` says why. What it must never do: decide anything.
"""

from __future__ import annotations

from mainspring.sizing.question import MARKET


def dollars(value: float) -> str:
    """`$280,320`, `$4.00`, `$0.0042`: whole dollars from a hundred up."""
    if abs(value) >= 100:
        return f"${value:,.0f}"
    return f"${value:,.2f}" if abs(value) >= 0.1 or value == 0 else f"${value:.3g}"


def seconds(value: float) -> str:
    """`3 s`, `2.31 s`, `15 ms`, `0.8 ms`."""
    if value >= 0.9995:
        return f"{value:,.0f} s" if value >= 999.5 else f"{value:.3g} s"
    return f"{value * 1000:.3g} ms"


def rate(value: float) -> str:
    """`17.4/s`: requests a second with three digits."""
    return f"{value:,.0f}/s" if value >= 999.5 else f"{value:.3g}/s"


def share(value: float) -> str:
    """`99.9 %`, `35 %`, `0.5 %`: as many digits as tell it from 100 %."""
    percent = value * 100
    if 99.9999 <= percent < 100:
        return "over 99.999 %"
    if 99 < percent < 100:
        return f"{percent:.6g} %"
    return f"{percent:.3g} %" if percent < 99.5 else f"{percent:.0f} %"


def count(number: float, what: str) -> str:
    """`1 replica`, `12 replicas`, `1,920 GPUs`."""
    shown = f"{number:,.0f}" if abs(number - round(number)) < 1e-6 else f"{number:,.2f}"
    return f"{shown} {what}" if shown == "1" else f"{shown} {what}s"


def verb(number: float, plural: str) -> str:
    """`carries` of one, `carry` of others."""
    if number != 1:
        return plural
    return {"are": "is", "carry": "carries", "need": "needs", "hold": "holds", "have": "has", "fit": "fits"}[plural]


def amount(number: float) -> str:
    """`12`, `100,000`, `2.35 million`, `1.2 billion`: how many, as one says it."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"


def pool(name: str) -> str:
    """A pool's name for people: the type alone where it is one of the price list and not of the file."""
    return name.removeprefix(MARKET)
