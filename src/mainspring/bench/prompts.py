"""What requests say: words made up, texts from a file, or whole bodies.

What this is: the text of request number i, made when it is sent, so that a million of them need no memory. Who calls
it: `requests.py`. What it must never do: count tokens: only the engine knows how many they are, and says so in `usage`.

Made-up prompts are common short English words, each about one token of the usual vocabularies. Each begins, after the
part that all share, with words that spell its number and the seed, so no prefix cache knows more than the shared part.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import numpy as np

from mainspring.errors import InputError

_TEXT = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but
not what all were we when your can said there use an each which she do how their if will up other about out
many then them these so some her would make like him into time has look two more write go see number no way
could people my than first water been call who oil its now find long down day did get come made may part over
new sound take only little work know place year live me back give most very after thing our just name good man
think say great where help through much before line right too mean old any same tell boy follow came want show
also around form three small set put end does another well large must big even such because turn here why ask
went men read need land home us move try kind hand picture again change off play spell air away animal house
point page letter mother answer found study still learn should world high every near add food between own
below country plant last school father keep tree never start city earth eye light thought head under story saw
left few while along might close something seem next hard open example begin life always those both paper
together got group often run important until children side feet car mile night walk white sea began
"""
WORDS = tuple(_TEXT.split())
"""Two hundred and fifty-six words: a byte each."""

BLOCK = 512  # tokens of a prefix block of a trace
_CORPUS = 1 << 15  # words that prompts are cut from
_TAG = 5


@lru_cache(maxsize=4)
def _corpus(seed: int) -> tuple[bytes, list[int]]:
    """Words in random order as one text, and where each begins (one more: where the last ends)."""
    draw = np.random.default_rng((seed, 7)).integers(0, 256, _CORPUS)
    words = [WORDS[i] for i in draw.tolist()]
    begins = [0, *itertools.accumulate(len(word) + 1 for word in words)]
    return (" ".join(words) + " ").encode(), begins


def _cut(seed: int, begin: int, count: int) -> Iterator[bytes]:
    """`count` words from word `begin` on, round and round."""
    text, begins = _corpus(seed)
    while count > 0:
        begin %= _CORPUS
        take = min(count, _CORPUS - begin)
        yield text[begins[begin] : begins[begin + take]]
        begin, count = 0, count - take


def _tag(number: int, seed: int) -> bytes:
    """Words that spell a number, the digit that differs most first, and the seed."""
    digits = (number & 255, number >> 8 & 255, number >> 16 & 255, seed & 255, seed >> 8 & 255)
    return b"".join(b"%b " % WORDS[digit].encode() for digit in digits)


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """Prompts of so many words, one length for all or one for each request (used in turn)."""

    tokens: int | Sequence[int] = 200
    shared: float = 0.0  # share of each prompt that is the same in all
    seed: int = 1
    blocks: Sequence[Sequence[int]] = ()  # prefix blocks of each request, as traces have them: alike where these are

    def text(self, number: int) -> bytes:
        """The prompt of request `number`: ASCII words, with nothing in it that JSON would have to escape."""
        length = self.tokens if isinstance(self.tokens, int) else int(self.tokens[number % len(self.tokens)])
        if self.blocks:
            return b"".join(self._blocks(self.blocks[number % len(self.blocks)], length)).rstrip()
        same = min(round(length * self.shared), length)
        rest = length - same
        tag = _tag(number, self.seed) if rest >= _TAG else b""
        own = _cut(self.seed, number * 2_654_435_761 + _TAG, rest - (_TAG if tag else 0))
        return b"".join([*_cut(self.seed, 0, same), tag, *own]).rstrip()

    def _blocks(self, blocks: Sequence[int], length: int) -> Iterator[bytes]:
        for block in blocks:
            take = min(BLOCK, length)
            if take <= 0:
                return
            if take > _TAG:
                yield _tag(block, self.seed)
            yield from _cut(self.seed, block * 2_654_435_761, take - (_TAG if take > _TAG else 0))
            length -= take
        yield from _cut(self.seed, 0, length)


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts that a person gave, in turn: each a JSON text (a string, or a list of chat messages)."""

    items: tuple[bytes, ...]
    outputs: tuple[int, ...] = ()  # `max_tokens` of each; 0 or none: the plan's


@dataclass(frozen=True, slots=True)
class Bodies:
    """Whole bodies, in turn, sent as they are."""

    items: tuple[bytes, ...]


Prompts = Words | Texts | Bodies


def read_texts(text: str, name: str) -> Texts:
    """Prompts of a file: a line each, plain or JSON with `prompt`, `messages` or `input` (and maybe `output`).

    Raises `InputError` with the number of a line that is not right.
    """
    items: list[bytes] = []
    outputs: list[int] = []
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    as_json = bool(lines) and lines[0][1].startswith("{")
    for number, line in lines:
        said, output = _json_line(line, number, name) if as_json else (line, 0)
        items.append(msgspec.json.encode(said))
        outputs.append(output)
    if not items:
        raise InputError("bad-prompts", f"`{name}` has no prompt in it", "a prompt a line, or JSON lines")
    return Texts(tuple(items), tuple(outputs) if any(outputs) else ())


def _json_line(line: str, number: int, name: str) -> tuple[object, int]:
    hint = 'each line as {"prompt": "..."} or {"messages": [...]}, and maybe "output": 64'
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError("bad-prompts", f"{name}:{number}: `{line[:60]}` is not JSON: {error}", hint) from error
    said = next((found[key] for key in ("messages", "prompt", "input") if found.get(key)), None)
    output = found.get("output", found.get("max_tokens", 0))
    if not isinstance(said, (str, list)):
        raise InputError("bad-prompts", f"{name}:{number}: `{line[:60]}` has no prompt", hint)
    if not isinstance(output, int) or output < 0:
        raise InputError("bad-prompts", f"{name}:{number}: an output of `{str(output)[:20]}`", hint)
    return said, output


def read_bodies(data: bytes, name: str) -> Bodies:
    """Bodies of a file: one JSON value, or one a line. Raises `InputError`."""
    hint = 'as in {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]}'
    if _is_json(data.strip()):
        return Bodies((data.strip(),))
    lines = [(number, line.strip()) for number, line in enumerate(data.splitlines(), start=1) if line.strip()]
    for number, line in lines:
        if not _is_json(line):
            shown = line[:60].decode("utf-8", "replace")
            raise InputError("bad-body", f"{name}:{number}: `{shown}` is not JSON", hint)
    if not lines:
        raise InputError("bad-body", f"`{name}` has no body in it", hint)
    return Bodies(tuple(line for _, line in lines))


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True
