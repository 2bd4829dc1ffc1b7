"""Asking a version what it must withstand: the sets of `decide/probes.py`, and a look for banned output.

What this is: each item of each set that the gates name, asked of a real replica, and judged by the set's plain rule.
Who calls it: the built-in step `evaluate`, in its own process. What it must never do: judge a version (that is
`decide/safety.py`), or ask otherwise the second time.

The version answers as it will in use: its own system text, its own temperature; the seed is fixed. While attacks are
tried, the system text has one more paragraph, with the reference that must not be told.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mainspring.decide.probes import GUARD, PLAIN, SETS, BannedSeen, ProbeSeen, SafetyNumbers, safe
from mainspring.errors import InputError, UserCodeError
from mainspring.pipelines.asking import Ask
from mainspring.pipelines.candidate import Served
from mainspring.stack.safety import SafetyGate, banned_lines, banned_pattern

TOKENS = 64  # of an answer at most: whether it declines is said at its beginning
SAID = 160  # characters of an answer that are kept
AROUND = 40  # characters beside a banned word that are kept


@dataclass
class Answers:
    """What one version answered."""

    safe: dict[tuple[str, str], bool] = field(default_factory=dict)  # (set, item): as it should be
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    asks: list[Ask] = field(default_factory=list)


def digest() -> str:
    """Of what is asked and of the paragraph: another release may ask other things."""
    return hashlib.sha256(repr((SETS, GUARD, PLAIN, TOKENS)).encode()).hexdigest()[:16]


def banned_words(gate: SafetyGate | None, folder: Path) -> tuple[str, ...]:
    """The banned words and patterns of a gate, read from its file when it names one. Raises `InputError`."""
    if gate is None or not isinstance(gate.banned, str):
        return tuple(gate.banned) if gate is not None else ()
    path = folder / gate.banned
    try:
        return banned_lines(path.read_text("utf-8"))
    except OSError as error:
        message = f"`gates.safety.banned` names `{gate.banned}`, which can't be read: {error.strerror}"
        raise InputError("banned-unreadable", message, "write it beside the stack file, a word on each line") from error
    except ValueError as error:
        raise InputError("banned-unfit", f"`{gate.banned}`: {error}", "write a word on each line") from error


def ask_sets(gate: SafetyGate, names: Iterable[str], served: Served, system: str) -> Answers:
    """Ask every item of the named sets. Raises `UserCodeError` when it takes too long, or as asking does."""
    found = Answers()
    until = time.monotonic() + gate.timeout
    for name in names:
        ask = Ask(name, served, until, "safety")
        head = [{"role": "system", "content": f"{system or PLAIN}\n\n{GUARD}"}] if name == "injections" else []
        for probe in ask.each(SETS[name]):
            if time.monotonic() >= until:
                done = sum(len(one.replies) for one in (*found.asks, ask))
                message = f"`safety` took more than `{gate.timeout:g}s` for {served.name} ({done} answers)"
                raise UserCodeError("safety-timeout", message, "raise `gates.safety.timeout`")
            text = ask([*head, *probe.messages], temperature=None, max_tokens=TOKENS)
            found.texts[name, probe.name] = text
            found.safe[name, probe.name] = safe(name, probe, text)
        found.asks.append(ask)
        good = sum(value for (of, _), value in found.safe.items() if of == name)
        print(f"safety {name}: {served.name}: {good} of {len(SETS[name])} as they should be", flush=True)
    return found


def compared(gate: SafetyGate | None) -> tuple[str, ...]:
    """The sets that the champion is asked too."""
    if gate is None:
        return ()
    return tuple(name for name in gate.sets if getattr(gate, name).no_worse_by is not None)


def numbers_of(own: Answers, other: Answers | None, evals: dict[str, Ask], banned: Iterable[str]) -> SafetyNumbers:
    """What two versions' answers come to; `evals` are the candidate's, for banned output."""
    probes = []
    for (name, probe), good in own.safe.items():
        theirs = other.safe.get((name, probe)) if other else None
        said = "" if good else " ".join(own.texts[name, probe].split())[:SAID]
        probes.append(ProbeSeen(name, probe, good, theirs, said))
        if not good:
            print(f"safety {name}: {probe}: {said!r}", flush=True)
    texts = {f"{name}/{probe}": [text] for (name, probe), text in own.texts.items()}
    texts |= {f"evals/{name}": [reply.text for reply in ask.replies] for name, ask in evals.items()}
    found = [
        BannedSeen(word, where, excerpt(text, match))
        for word in banned
        for where, parts in texts.items()
        for text in parts
        if (match := banned_pattern(word).search(text))
    ]
    for one in found:
        print(f"safety banned: `{one.banned}` in {one.where}: {one.said!r}", flush=True)
    silent = sum(not text.strip() for text in own.texts.values())
    return SafetyNumbers(tuple(probes), tuple(found), sum(map(len, texts.values())), silent)


def excerpt(text: str, match: re.Match[str]) -> str:
    """What was found and what stands around it, on one line."""
    return " ".join(text[max(0, match.start() - AROUND) : match.end() + AROUND].split())[:SAID]
