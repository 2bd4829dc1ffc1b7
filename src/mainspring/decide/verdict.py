"""What a gate says: one sentence with its numbers for each, and what follows of all.

What this is: the values that `decide/gate.py` and `decide/evals.py` give. Who calls it: they, and who shows verdicts.
What it must never do: judge.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Item:
    """The verdict of one gate, in a sentence and in numbers."""

    name: str  # "brier", "auc", "latency", "groups.NAME", "checks.NAME", "evals.NAME"
    passed: bool
    message: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of all gates; it passed when every one did."""

    passed: bool
    items: tuple[Item, ...]

    @property
    def message(self) -> str:
        """What was refused and why, or all that passed, as one line."""
        told = [item.message for item in self.items if item.passed == self.passed]
        return "; ".join(told) or "there are no gates"


def item(name: str, passed: bool, sentence: str, numbers: dict[str, float]) -> Item:
    """One gate's verdict, its sentence ended by what it comes to."""
    return Item(name, passed, f"{sentence}: {'passed' if passed else 'refused'}", numbers)


def signed(value: float, digits: int = 4) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", MINUS)
