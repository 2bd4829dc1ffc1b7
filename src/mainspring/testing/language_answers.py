"""What the fake language server says: answers, chunks and errors in OpenAI's shape, made once and sent often.

What this is: bodies read into plans, a prefix cache of blocks, deterministic text. No clock, no sockets.
Who calls it: `language_server`. What it must never do: depend on anything but the body, the options and the cache:
the same prompt gets the same words from each process, on each day.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

BYTES_PER_TOKEN = 4  # of a prompt; an answer's token is one word
BLOCK_TOKENS = 16  # the prefix cache knows whole blocks only, as vLLM's does
WORDS = (
    "the", "a", "of", "model", "bridge", "river", "stone", "light", "old", "new", "small", "quiet",
    "north", "answer", "road", "seven", "tree", "under", "and", "with",
)  # fmt: skip
DIMENSIONS = 32  # of an embedding
CREATED = 1_700_000_000  # fixed: the fake's answers do not depend on the day
_TOLD = re.compile(rb"fake:([a-z][a-z0-9-]*)(?:=([0-9]+(?:\.[0-9]+)?))?")


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _Chat(_Body):
    messages: list[_Message] = msgspec.field(default_factory=list)


class _Completion(_Body):
    prompt: str | list[str | int] = ""


class _Embedding(msgspec.Struct):
    input: str | list[str | int | list[int]]
    model: str = ""
    encoding_format: str | None = "float"


_chat = msgspec.json.Decoder(_Chat).decode
_completion = msgspec.json.Decoder(_Completion).decode
_embedding = msgspec.json.Decoder(_Embedding).decode
_json = msgspec.json.encode


class BadBody(Exception):
    """A body that is no request; the message is for its sender."""


@dataclass(slots=True)
class Plan:
    """What one body asks for, read once: the same body gets the same plan again."""

    kind: str  # "chat" | "completion"
    stream: bool
    usage: bool  # the stream's last chunk carries usage
    tokens: int  # of the answer
    finish: str  # "stop" | "length"
    prompt_tokens: int
    blocks: tuple[int, ...]  # hashes of the prompt's whole blocks, each with all before it
    seed: int
    told: dict[str, float] = field(default_factory=dict)  # magic words of the prompt: {"drip": 100.0, "tokens": 5.0}
    unary: dict[int, bytes] = field(default_factory=dict)  # whole answers with their head, by cached tokens


class PrefixCache:
    """The blocks that a replica still has, least recently used out first."""

    def __init__(self, blocks: int) -> None:
        """`blocks`: how many fit; 0 for no cache."""
        self.limit = blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def take(self, blocks: Sequence[int]) -> int:
        """How many leading blocks were there; from now on all of them are."""
        if not self.limit:
            return 0
        known = self._blocks
        hit = 0
        for block in blocks:
            if block not in known:
                break
            hit += 1
        for block in reversed(blocks):  # the first block is used by most, so it goes last
            known[block] = None
            known.move_to_end(block)
        while len(known) > self.limit:
            known.popitem(last=False)
        return hit

    def __len__(self) -> int:
        return len(self._blocks)


def chunked(piece: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % _json(value)


DONE = b"data: [DONE]\n\n"


def error(status: int, message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """An error as OpenAI words it (`status` is only the wire's; the body has no place for it)."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code or f"http_{status}"}}


class Answers:
    """All that one fake says, under one model name."""

    def __init__(self, model: str, tokens: int, cache: PrefixCache, speculate: float = 0.0) -> None:
        """`tokens`: of an answer unless asked for fewer; `speculate`: share of guessed tokens that are right."""
        self.model, self.tokens, self.cache, self.speculate = model, tokens, cache, speculate
        head = {"id": f"fake-{model}", "created": CREATED, "model": model}
        self._head = head
        self._chat = [self._chunk({"content": word}, None) for word in self._words()]
        self._text = [self._text_chunk(word, None) for word in self._words()]
        self.role_chunk = self._chunk({"role": "assistant", "content": ""}, None)
        self._ends = {
            ("chat", finish): self._chunk({}, finish) for finish in ("stop", "length")
        } | {("completion", finish): self._text_chunk("", finish) for finish in ("stop", "length")}  # fmt: skip
        self.models = _json(
            {"object": "list", "data": [{"id": model, "object": "model", "created": CREATED, "owned_by": "mainspring"}]}
        )

    @staticmethod
    def _words() -> list[str]:
        return [f"{word} " for word in WORDS]

    def _chunk(self, delta: dict[str, str], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return event({**self._head, "object": "chat.completion.chunk", "choices": [choice]})

    def _text_chunk(self, text: str, finish: str | None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return event({**self._head, "object": "text_completion", "choices": [choice]})

    # --- reading

    def plan(self, kind: str, body: bytes) -> Plan:
        """Read a body of `chat` or `completion`; raises `BadBody`."""
        prompt = self._prompt(kind, body)
        asked, text = prompt
        told = told_in(text)
        natural = int(told.get("tokens", self.tokens))
        limit = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
        if limit is not None and limit < 1:
            raise BadBody(f"`max_tokens` must be at least 1, not `{limit}`")
        tokens = natural if limit is None else min(natural, limit)
        return Plan(
            kind, bool(asked.stream), bool(asked.stream_options and asked.stream_options.include_usage), tokens,
            "stop" if tokens == natural else "length", max(1, -(-len(text) // BYTES_PER_TOKEN)),
            self._blocks_of(text) if self.cache.limit else (), zlib.crc32(text), told,
        )  # fmt: skip

    @staticmethod
    def _prompt(kind: str, body: bytes) -> tuple[_Body, bytes]:
        try:
            if kind == "completion":
                asked = _completion(body)
                given = asked.prompt
                whole = given if isinstance(given, str) else " ".join(map(str, given))
                return asked, whole.encode("utf-8", "replace")
            chat = _chat(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise BadBody(f"the body is not a request: {problem}") from problem
        if not chat.messages:
            raise BadBody("`messages` is missing or empty")
        lines = []
        for message in chat.messages:
            content = message.content
            if isinstance(content, list):
                content = "".join(part.text for part in content)
            lines.append(f"<{message.role}>{content or ''}")
        return chat, "".join(lines).encode("utf-8", "replace")

    @staticmethod
    def _blocks_of(text: bytes) -> tuple[int, ...]:
        size, chain, blocks = BLOCK_TOKENS * BYTES_PER_TOKEN, 0, []
        for at in range(0, len(text) - size + 1, size):
            chain = hash((chain, text[at : at + size]))
            blocks.append(chain)
        return tuple(blocks)

    # --- answering

    def usage(self, plan: Plan, cached: int, tokens: int | None = None) -> dict[str, Any]:
        """The usage of an answer: `cached` prompt tokens came from the prefix cache."""
        made = plan.tokens if tokens is None else tokens
        return {
            "prompt_tokens": plan.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": plan.prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def more(self, plan: Plan, cached: int) -> dict[str, Any]:
        """What llama.cpp adds beside the usage, where there is speculation."""
        if not self.speculate:
            return {}
        drafted = plan.tokens
        return {
            "timings": {
                "cache_n": cached,
                "prompt_n": plan.prompt_tokens - cached,
                "predicted_n": plan.tokens,
                "draft_n": drafted,
                "draft_n_accepted": int(drafted * self.speculate),
            }
        }

    def cached(self, plan: Plan) -> int:
        """Prompt tokens that the cache had; at least one token is always worked on. Takes the prompt in."""
        return min(self.cache.take(plan.blocks) * BLOCK_TOKENS, plan.prompt_tokens - 1)

    def text(self, plan: Plan) -> str:
        """The whole answer."""
        return "".join(f"{WORDS[self._word(plan, i)]} " for i in range(plan.tokens))

    @staticmethod
    def _word(plan: Plan, number: int) -> int:
        return ((plan.seed ^ (number * 2_654_435_761)) >> 7) % len(WORDS)

    def body(self, plan: Plan, cached: int) -> bytes:
        """A whole answer that is not streamed."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": plan.finish}
        if plan.kind == "chat":
            choice["message"] = {"role": "assistant", "content": self.text(plan)}
        else:
            choice["text"] = self.text(plan)
        kind = "chat.completion" if plan.kind == "chat" else "text_completion"
        answer = {**self._head, "object": kind, "choices": [choice], "usage": self.usage(plan, cached)}
        return _json(answer | self.more(plan, cached))

    def piece(self, plan: Plan, number: int) -> bytes:
        """The event of one token."""
        return (self._chat if plan.kind == "chat" else self._text)[self._word(plan, number)]

    def last(self, plan: Plan, cached: int) -> list[bytes]:
        """The events after the last token, without [DONE]."""
        events = [self._ends[plan.kind, plan.finish]]
        if plan.usage:
            kind = "chat.completion.chunk" if plan.kind == "chat" else "text_completion"
            usage = {**self._head, "object": kind, "choices": [], "usage": self.usage(plan, cached)}
            events.append(event(usage | self.more(plan, cached)))
        return events

    def embeddings(self, body: bytes) -> bytes:
        """The answer to a request for embeddings; raises `BadBody`."""
        try:
            asked = _embedding(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise BadBody(f"the body is not a request: {problem}") from problem
        given = asked.input
        inputs: list[Any] = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
        if not inputs:
            raise BadBody("`input` is empty")
        texts = [str(item).encode("utf-8", "replace") for item in inputs]
        data = []
        for number, text in enumerate(texts):
            vector = embedding_of(text)
            packed: Any = vector
            if asked.encoding_format == "base64":
                packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            data.append({"object": "embedding", "index": number, "embedding": packed})
        tokens = sum(max(1, -(-len(text) // BYTES_PER_TOKEN)) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return _json({"object": "list", "model": self.model, "data": data, "usage": usage})


def told_in(text: bytes) -> dict[str, float]:
    """The magic words of a prompt: `fake:drip=100 fake:tokens=5` is {"drip": 100.0, "tokens": 5.0}."""
    if b"fake:" not in text:
        return {}
    return {name.decode(): float(value or -1) for name, value in _TOLD.findall(text)}


def embedding_of(text: bytes) -> list[float]:
    """A vector of length 1 that counts the text's letters, so texts that are alike are near."""
    counts = [0.0] * DIMENSIONS
    for byte in text:
        counts[byte % DIMENSIONS] += 1.0
    length = sum(c * c for c in counts) ** 0.5 or 1.0
    return [c / length for c in counts]
