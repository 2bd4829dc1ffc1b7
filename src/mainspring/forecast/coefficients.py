"""The coefficients of the performance model, with where each is from.

What this is: the values that a fit found, read from and written to one JSON document; pure but for reading the one
that is part of the package. Who calls it: everything that forecasts, `mainspring calibrate`. What it must never do:
fit (that is `calibrate.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from mainspring.errors import InputError
from mainspring.forecast.equations import NAMES, SAID, SHARES, START
from mainspring.forecast.levels import UNSTATED, group, levels, newest
from mainspring.forecast.residual import Anchors
from mainspring.forecast.setup import Basis, Rests, Setup

FORM = 1
"""Of the document."""

ASSUMED = 1.5
"""How much wider a forecast for hardware or an engine that was never measured is than one for a group left out."""

TOLD = ("weights", "cache", "prompt", "layer", "queue", "memory")
"""Coefficients that a forecast tells; the others move it less."""

HINT = "mainspring calibrate --help"


@dataclass(frozen=True, eq=False)
class Coefficients:
    """All that a fit found."""

    source: str
    deltas: Mapping[str, tuple[float, ...]]  # by level: what it adds to each of `NAMES`
    points: Mapping[str, int]  # by level: how many measurements
    anchors: Mapping[str, Anchors]  # by group
    spreads: Mapping[str, tuple[float, float]]  # by basis, or `group:...`: of log tpot and log ttft
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def version(self, setup: Setup) -> str:
        """The engine version that a forecast uses: the one asked for, or the newest that its group was measured on."""
        if setup.version:
            return setup.version
        held = self.anchors.get(group(setup))
        return newest(sorted(set(held.version))) if held else UNSTATED

    def logs(self, setup: Setup) -> dict[str, float]:
        """Logarithms of the coefficients of a setup: the sum over its levels."""
        key = (setup, "logs")
        if key not in self._known:
            total = [START[name] for name in NAMES]
            for level in levels(setup, self.version(setup)):
                delta = self.deltas.get(level)
                if delta:
                    total = [a + b for a, b in zip(total, delta, strict=True)]
            self._known[key] = dict(zip(NAMES, total, strict=True))
        found: dict[str, float] = self._known[key]
        return found

    def basis(self, setup: Setup) -> Basis:
        """How well a setup is known: its own group, its GPU and engine elsewhere, or neither."""
        if self.points.get(f"group:{group(setup)}"):
            return "fitted"
        own = levels(setup, self.version(setup))
        seen = [self.points.get(level, 0) for level in own if level.startswith(("engine:", "gpu:", "precision:"))]
        return "extrapolated" if all(seen) else "assumed"

    def spread(self, setup: Setup) -> tuple[float, float]:
        """Standard deviations of log(measured / forecast), for tpot and ttft."""
        basis = self.basis(setup)
        wide = self.spreads.get("extrapolated", (0.35, 0.7))
        if basis == "fitted":
            return self.spreads.get(f"group:{group(setup)}", self.spreads.get("fitted", (0.15, 0.35)))
        return wide if basis == "extrapolated" else (wide[0] * ASSUMED, wide[1] * ASSUMED)

    def rests(self, setup: Setup) -> tuple[Rests, ...]:
        """What a forecast of this setup rests on, in words."""
        key = (setup, "rests")
        if key not in self._known:
            basis, source, logs = self.basis(setup), self._said(setup), self.logs(setup)
            told = [Rests(SAID[name], _told(name, logs[name]), basis, source) for name in TOLD]
            if setup.draft:
                told.append(Rests("speculative decoding, tokens accepted", setup.draft[1], "assumed", "as given"))
            if setup.share < 1:
                told.append(Rests("MIG slice, share of the GPU", setup.share, "assumed", "in proportion"))
            self._known[key] = tuple(told)
        found: tuple[Rests, ...] = self._known[key]
        return found

    def _said(self, setup: Setup) -> str:
        name = f"{setup.shape.name} on {setup.gpu.name}, {setup.engine}, {setup.precision}"
        count = self.points.get(f"group:{group(setup)}", 0)
        if count:
            held = self.anchors[group(setup)].version
            return f"{count} points of {name}" + (f" {setup.version}" if setup.version in held else "")
        levels_ = levels(setup, self.version(setup))
        near = {level.split(":")[0]: self.points.get(level, 0) for level in levels_}
        seen = [f"{near[kind]} of its {kind}" for kind in ("engine", "gpu", "precision", "model") if near[kind]]
        never = [kind for kind in ("engine", "gpu", "precision", "model") if not near[kind]]
        text = f"no points of {name}"
        if seen:
            text += "; " + ", ".join(seen)
        return text + (f"; its {' and '.join(never)} never measured" if never else "")

    def text(self) -> str:
        """As a JSON document."""
        document = {
            "form": FORM,
            "source": self.source,
            "names": NAMES,
            "levels": {key: [_short(x, 4) for x in self.deltas[key]] for key in sorted(self.deltas)},
            "points": dict(sorted(self.points.items())),
            "spreads": {key: [_short(x, 4) for x in pair] for key, pair in sorted(self.spreads.items())},
            "anchors": {key: _written(self.anchors[key]) for key in sorted(self.anchors)},
        }
        return json.dumps(document, separators=(",", ":")) + "\n"

    @classmethod
    def read(cls, text: str, name: str = "coefficients") -> Coefficients:
        """Read such a document. Raises `InputError` ("bad-coefficients")."""
        try:
            document = json.loads(text)
            if document["form"] != FORM or tuple(document["names"]) != NAMES:
                raise InputError(
                    "bad-coefficients", f"`{name}` is of another version of Mainspring; fit it again", HINT
                )
            return cls(
                source=str(document["source"]),
                deltas={key: _numbers(row, len(NAMES)) for key, row in document["levels"].items()},
                points={key: int(count) for key, count in document["points"].items()},
                anchors={key: _read(held) for key, held in document["anchors"].items()},
                spreads={key: _pair(row) for key, row in document["spreads"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise InputError("bad-coefficients", f"`{name}` is no document of coefficients ({error})", HINT) from error


@cache
def builtin() -> Coefficients:
    """The coefficients that come with Mainspring."""
    text = resources.files("mainspring.forecast").joinpath("data/coefficients.json").read_text(encoding="utf-8")
    return Coefficients.read(text, "coefficients.json")


def nothing() -> Coefficients:
    """No measurement at all: what planners assume."""
    return Coefficients("assumptions", {}, {}, {}, {})


def _told(name: str, log: float) -> float:
    if name == "memory":
        return 0.1 * log
    return math.exp(-log) if name in SHARES else math.exp(log)


def _short(value: float, digits: int) -> float | int:
    rounded = round(float(value), digits)
    return int(rounded) if rounded == int(rounded) else rounded


def _numbers(row: Any, count: int) -> tuple[float, ...]:
    got = tuple(float(x) for x in row)
    if len(got) != count or not all(math.isfinite(x) for x in got):
        raise ValueError("a row of the wrong length, or a number that is not finite")
    return got


def _pair(row: Any) -> tuple[float, float]:
    one, two = _numbers(row, 2)
    return one, two


def _written(held: Anchors) -> dict[str, Any]:
    versions = sorted(set(held.version))
    rows = [
        [*(round(2.0**x) for x in place), int(copies) + 2 * int(spread), versions.index(version), *weights]
        for place, copies, spread, version, weights in zip(
            held.place,
            held.copies,
            held.spread,
            held.version,
            [(_short(a, 4), _short(b, 4)) for a, b in zip(held.tpot, held.ttft, strict=True)],
            strict=True,
        )
    ]
    return {"versions": versions, "rows": rows}


def _read(document: Any) -> Anchors:
    rows = np.array([_numbers(row, 8) for row in document["rows"]])
    versions = [str(one) for one in document["versions"]]
    return Anchors(
        np.log2(rows[:, :4]),
        (rows[:, 4] % 2).astype(bool),
        (rows[:, 4] >= 2).astype(bool),
        tuple(versions[int(i)] for i in rows[:, 5]),
        rows[:, 6],
        rows[:, 7],
    )
