"""What the keeper of a server is told on its command line.

What this is: words to checked values. Who calls it: `__main__`. What it must never do: start or install anything.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mainspring.errors import InputError
from mainspring.replicas.keys import read_key
from mainspring.runtimes.catalog import runtimes


@dataclass(frozen=True, slots=True)
class Options:
    """A keeper's command line."""

    runtime: str
    artefact: Path
    name: str  # the replica's, such as "chat-3-0"
    model: str  # the endpoint's
    version: str
    announce: Path
    code: Path | None = None
    threads: int = 1
    batch_size: int = 32
    batch_wait: float = 0.002  # seconds
    key: str = ""  # what requests must bring
    drain: float = 10.0  # seconds that running requests get after SIGTERM
    digest: str = ""  # of the artefact that the loop chose; "": whatever its manifest says
    memory: float = 0.0  # bytes of the server and all that it starts; 0: no limit
    environments: Path | None = None  # where environments are; None: the shared cache
    words: tuple[str, ...] = ()  # the runtime's own

    @property
    def work(self) -> Path:
        """The server's own folder."""
        return self.announce.parent / "work"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError("bad-option", message.replace("\n", " "))


def read_options(words: Sequence[str]) -> Options:
    """The options of a command line; InputError for a wrong one, EnvironmentError_ for a key that can't be read."""
    given: list[str] = list(words)
    own: tuple[str, ...] = ()
    if "--" in given:
        at = given.index("--")
        given, own = given[:at], tuple(given[at + 1 :])
    parser = _Parser(prog="mainspring.replicas.kept", allow_abbrev=False)
    for name in ("--artefact", "--announce"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--runtime", "--name", "--model", "--version"):
        parser.add_argument(name, required=True)
    parser.add_argument("--digest", default="")
    for name in ("--code", "--environments", "--key-file"):
        parser.add_argument(name, type=Path)
    for name, number in (("--threads", 1), ("--batch-size", 32)):
        parser.add_argument(name, type=int, default=number)
    for name, seconds in (("--batch-wait", 0.002), ("--drain", 10.0), ("--memory", 0.0)):
        parser.add_argument(name, type=float, default=seconds)
    found = vars(parser.parse_args(given))
    found["key"] = read_key(found.pop("key_file"))
    known = {field.name for field in dataclasses.fields(Options)}
    options = Options(words=own, **{name: value for name, value in found.items() if name in known})
    _check(options)
    return options


def _check(options: Options) -> None:
    ranges: dict[str, tuple[float, float, float]] = {
        "threads": (options.threads, 1, 1_024),
        "batch-size": (options.batch_size, 1, 65_536),
        "batch-wait": (options.batch_wait, 0, 60),
        "drain": (options.drain, 0, 3_600),
        "memory": (options.memory, 0, 1e15),
    }
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise InputError("bad-option", f"`--{name} {value}` is not between {low:,} and {high:,.0f}")
    known = runtimes().get(options.runtime)
    if known is None or known.server is None:
        there = ", ".join(f"`{one.name}`" for one in runtimes().values() if one.server is not None)
        raise InputError("bad-option", f"`--runtime {options.runtime}` is no server that is kept; there is {there}")
