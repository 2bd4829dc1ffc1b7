"""The demo's own copy of the chat example: shorter where waiting shows nothing, and its settings replaced.

Who calls it: `chat.py`. What it must never do: change a bound of an evaluation, or shorten without saying so.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from mainspring.errors import MainspringError
from mainspring.worlds.local.shim import write_whole

FILES = ("evals.py", "mainspring.yaml", "settings.yaml")
SHORTER = (
    (
        "{down: 1m, idle: 5m}",
        "{down: 20s, idle: 45s}",
        "a replica too many stops after 20 s, not after 1 minute; the last after 45 s without a request, not 5 minutes",
    ),
    ("{canary: 30%, for: 1m,", "{canary: 30%, for: 30s,", "the canary gets 30 % for 30 s, not for 1 minute"),
    (
        "{p95: 10s, at: 1/s per replica}",
        "{p95: 30s, at: 2/s per replica}",
        "the latency gate asks at 2/s and allows 30 s, not at 1/s with 10 s",
    ),
    ("  control: act\n", "  gateway: {port: 0}\n  control: act\n", ""),
)
"""What is there, what the demo has, and how that is said."""


def prepare(source: Path, place: Path) -> list[str]:
    """Copy the example; what is otherwise in it, in sentences."""
    for name in FILES:
        _write(place / name, (source / name).read_text(encoding="utf-8"))
    stack = place / "mainspring.yaml"
    text = stack.read_text(encoding="utf-8")
    for there, instead, _ in SHORTER:
        if text.count(there) != 1:
            message = f"the example no longer says `{there.strip()}` once"
            raise MainspringError("example-changed", message, "mainspring up, in the example's folder")
        text = text.replace(there, instead)
    _write(stack, text)
    return [said for _, _, said in SHORTER if said]


def set_to(stack: Path, name: str) -> None:
    """Put the settings `name` of settings.yaml in place of those in the stack file."""
    settings = yaml.safe_load((stack.parent / "settings.yaml").read_text(encoding="utf-8"))[name]
    lines = stack.read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith("settings:"))
    indent = len(lines[begin]) - len(lines[begin].lstrip())
    after = (i for i in range(begin + 1, len(lines)) if lines[i].strip() and _indent(lines[i]) <= indent)
    end = next(after, len(lines))
    dumped = yaml.safe_dump({"settings": settings}, sort_keys=False, allow_unicode=True, width=10_000).splitlines()
    lines[begin:end] = [" " * indent + line for line in dumped]
    _write(stack, "\n".join(lines) + "\n")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _write(path: Path, text: str) -> None:
    write_whole(str(path), text.encode())
