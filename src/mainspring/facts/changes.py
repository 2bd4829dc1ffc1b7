"""What people change, and who they are: the entries of the change log, wherever they are kept.

What this is: one value for each change, cleaned of secrets when it is made. Who calls it: the store (what was asked of
the controller), the keys' journal (what was done without one), the control API, the command line. What it must never
do: hold a token, or take what a caller says of itself for who it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "admin")
"""What a caller of the control API may do, each more than the one before."""
Outcome = Literal["", "accepted", "refused", "failed"]
_LONGEST = 300
# A token of Mainspring has a prefix; the controller's own has none, but a length, and letters of both kinds.
_TOKEN = re.compile(r"ms_[\w-]{16,}|(?<![\w-])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{43}(?![\w-])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as it was proven, and what it may do."""

    who: str  # "uid 1000 (socket)", "k3 (anna)", "owner (control.token)"
    role: Role | None = None  # None: nothing of the control API
    remark: str = ""  # what it says of itself; proves nothing


@dataclass(frozen=True, slots=True)
class Change:
    """Something that a person had changed, or wanted to."""

    id: str
    at: float  # real time, POSIX seconds
    who: str
    what: str  # "apply", "pause", "create key"
    target: str = ""
    detail: str = ""
    remark: str = ""
    outcome: Outcome = ""  # "": nobody has said; the process may have been killed in the middle
    message: str = ""


def change(id: str, at: float, by: Caller, what: str, target: str = "", detail: str = "") -> Change:
    """Make an entry, fit to be kept for ever: every text is short, printable and without tokens."""
    return Change(id, at, said(by.who), said(what), said(target), said(detail), said(by.remark))


def said(text: str, most: int = _LONGEST) -> str:
    """Fit a text into an entry: no control characters, no tokens, at most `most` characters."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * most])
    shown = _TOKEN.sub("<token>", shown)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
