"""Whether a conversion of a model's weights was worth it: smaller or faster, and not slower.

What this is: one pure function over what serving each of two versions takes, measured side by side in one run. Whether
the answers are still good enough is for the gates that compare quality; a conversion that changes nothing for the
better is refused here, because a new version in traffic is a risk that must be for something. Who calls it:
`decide/gate.py`, for a candidate whose weights were converted. What it must never do: take noise for a gain.

The bounds are conventions of this module, not of the literature: a tenth of the bytes is about what one can plan with;
5 % is what two measurements on a shared machine can tell apart at all; and a speed that is lost by more than a tenth
eats what the smaller size saves. Differences of speed count only beyond the spread of both measurements.
"""

from __future__ import annotations

import math
from typing import Protocol

from mainspring.decide.verdict import MINUS, Item, item

SMALLER = 0.10  # of size or memory
FASTER = 0.05  # of p95 or throughput, beyond the spread
SLOWER = 0.10  # of p95 or throughput, beyond the spread
LEAST_MEMORY = 1 << 20  # bytes: below this a process's own pages move as much
LEAST_TIME = 100e-6  # seconds of p95: below this it is lost in what a request takes on its way


class Footprint(Protocol):
    """What serving one version takes: `loop.snapshot.Footprint`, which lies above this package."""

    @property
    def size(self) -> int: ...
    @property
    def memory(self) -> float: ...
    @property
    def latency_p95(self) -> float: ...
    @property
    def throughput(self) -> float: ...
    @property
    def latency_spread(self) -> float: ...
    @property
    def throughput_spread(self) -> float: ...


def worth(converted: str, own: Footprint | None, other: Footprint | None) -> Item:
    """Judge a candidate whose weights were `converted` to that precision against the champion.

    Without a measurement of its own it is refused, as when only the champion's speed could be measured; without a
    champion there is nothing to be smaller than, and it passes. The item's numbers are ratios, the candidate's to the
    champion's; nan where one is not known.
    """
    name = converted.upper()
    if own is None:
        return item("worth", False, f"What serving {name} takes was not measured", {})
    if other is None:
        sentence = f"{name} takes {own.size / 1e6:,.3g} MB; there is no champion to compare with"
        return item("worth", True, sentence, {"size": float(own.size)})
    if math.isfinite(other.throughput) and not math.isfinite(own.throughput):
        return item("worth", False, f"How fast {name} answers was not measured", {"size": float(own.size)})
    noise = {
        "p95": _spread(own.latency_spread, other.latency_spread),
        "throughput": _spread(own.throughput_spread, other.throughput_spread),
    }
    ratios = {
        "size": _ratio(own.size, other.size),
        "memory": _ratio(own.memory, other.memory),
        "p95": _ratio(own.latency_p95, other.latency_p95),
        "throughput": _ratio(own.throughput, other.throughput),
    }
    gains, losses = _gains(own, other, ratios, noise), _losses(own, other, ratios, noise)
    known = [what for what, ratio in ratios.items() if math.isfinite(ratio)]
    told = ", ".join(f"{what} {_signed(ratios[what])}{_within(noise.get(what, 0.0))}" for what in known)
    sentence = f"{name} against the champion: {told}"
    if losses:
        sentence += f"; {' and '.join(losses)} {'is' if len(losses) == 1 else 'are'} worse by more than {SLOWER:.0%}"
    elif not gains:
        sentence += f"; neither {SMALLER:.0%} smaller nor {FASTER:.0%} faster beyond the spread"
    numbers = ratios | {f"{what}.spread": one for what, one in noise.items()}
    return item("worth", bool(gains) and not losses, sentence, numbers)


def _gains(own: Footprint, other: Footprint, ratios: dict[str, float], noise: dict[str, float]) -> list[str]:
    """What became better by enough."""
    found = []
    if ratios["size"] <= 1 - SMALLER:
        found.append("size")
    if ratios["memory"] <= 1 - SMALLER and other.memory - own.memory >= LEAST_MEMORY:
        found.append("memory")
    if ratios["p95"] <= 1 - FASTER - noise["p95"] and other.latency_p95 - own.latency_p95 >= LEAST_TIME:
        found.append("p95")
    if ratios["throughput"] >= 1 + FASTER + noise["throughput"]:
        found.append("throughput")
    return found


def _losses(own: Footprint, other: Footprint, ratios: dict[str, float], noise: dict[str, float]) -> list[str]:
    """Which speed became worse by too much."""
    found = []
    if ratios["p95"] > 1 + SLOWER + noise["p95"] and own.latency_p95 - other.latency_p95 >= LEAST_TIME:
        found.append("p95")
    if ratios["throughput"] < 1 - SLOWER - noise["throughput"]:
        found.append("throughput")
    return found


def _ratio(own: float, other: float) -> float:
    """Own as a multiple of the other; nan, with which no bound is met, when one is not known."""
    return own / other if math.isfinite(own) and math.isfinite(other) and other > 0 else math.nan


def _spread(own: float, other: float) -> float:
    """The spread of a ratio of two measurements that do not hang together (first order).

    Without end when one is not known: then the speeds decide nothing.
    """
    both = math.hypot(own, other)
    return math.inf if math.isnan(both) else both


def _signed(ratio: float) -> str:
    return f"{ratio - 1:+.0%}".replace("-", MINUS)


def _within(spread: float) -> str:
    if spread < 0.005:
        return ""
    return f" \N{PLUS-MINUS SIGN}{spread:.0%}" if math.isfinite(spread) else " give or take anything"
