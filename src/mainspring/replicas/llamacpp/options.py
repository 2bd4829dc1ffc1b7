"""What a replica of llama.cpp is told on its command line.

What this is: words to checked values. Who calls it: `__main__`. What it must never do: import the engine, so that a
wrong word is refused before anything is loaded.
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

KV = ("f16", "q8_0", "q4_0")
"""Types that the KV cache is kept in."""

SLOTS, CONTEXT, DRAFT, DRAIN = 512, 1 << 20, 64, 3_600.0
"""Most slots, tokens of a slot, drafted tokens of one guess, and seconds of drain."""


@dataclass(frozen=True, slots=True)
class Options:
    """A replica's command line."""

    artefact: Path
    name: str
    model: str  # what requests call it: the endpoint's name
    version: str
    announce: Path
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    threads: int = 1
    slots: int = 4
    context: int = 2_048  # tokens of one slot, prompt and answer together
    kv: str = "f16"
    draft: int = 0  # tokens that one guess from the text so far has; 0: no speculation
    prefix: bool = True  # keep the KV cache of past prompts
    kept: int = 512  # MiB of past prompts kept beside the slots
    embeddings: bool = False  # take inputs as long as the context, not only 512 tokens
    key: str = ""  # what requests must bring; "": nothing
    digest: str = ""  # of the version that was chosen; "": whatever is there
    drain: float = 10.0  # seconds that running requests get after SIGTERM


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError("bad-option", message.replace("\n", " "))


def read_options(words: Sequence[str]) -> Options:
    """The options of a command line; InputError for a wrong one, EnvironmentError_ for a key that can't be read."""
    parser = _Parser(prog="mainspring.replicas.llamacpp", allow_abbrev=False)
    for name in ("--artefact", "--announce"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--name", "--model", "--version"):
        parser.add_argument(name, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    for name, value in (("--port", 0), ("--threads", 1), ("--slots", 4), ("--context", 2_048), ("--kept", 512)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--kv", choices=KV, default="f16")
    parser.add_argument("--speculate", default="")
    parser.add_argument("--no-prefix-cache", dest="prefix", action="store_false")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--digest", default="")
    parser.add_argument("--drain", type=float, default=10.0)
    # Words that every replica is told: code snapshots and batches are of other runtimes; here slots take their place.
    parser.add_argument("--code", type=Path)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--batch-wait", type=float)
    given = vars(parser.parse_args(words))
    given["draft"] = _draft(given.pop("speculate"))
    given["key"] = read_key(given.pop("key_file"))
    known = {field.name for field in dataclasses.fields(Options)}
    options = Options(**{name: value for name, value in given.items() if name in known})
    _check(options)
    return options


def _check(options: Options) -> None:
    ranges: dict[str, tuple[float, float, float]] = {
        "port": (options.port, 0, 65_535),
        "threads": (options.threads, 1, 1_024),
        "slots": (options.slots, 1, SLOTS),
        "context": (options.context, 32, CONTEXT),
        "kept": (options.kept, 0, 1 << 20),
        "drain": (options.drain, 0, DRAIN),
    }
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise InputError("bad-option", f"`--{name} {value}` is not between {low:,} and {high:,}")
    if not options.model.strip() or options.model.startswith("-"):
        raise InputError("bad-option", f"`--model {options.model}` is no name")


def _draft(said: str) -> int:
    """Tokens of one guess, of `ngram:TOKENS`."""
    if not said:
        return 0
    way, _, count = said.partition(":")
    if way != "ngram" or not (count.isascii() and count.isdigit()) or not 1 <= int(count) <= DRAFT:
        raise InputError(
            "bad-option", f"`--speculate {said}` is not known: it is `ngram:TOKENS`, with 1 to {DRAFT} tokens"
        )
    return int(count)
