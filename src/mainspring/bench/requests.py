"""The bytes of request number i, put together when it is sent.

What this is: heads and bodies of HTTP. Who calls it: `load.py`. What it must never do: encode JSON for each request:
what all have in common is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mainspring.bench.plan import Plan
from mainspring.bench.prompts import Bodies, Texts, Words
from mainspring.bench.target import HINT, Target
from mainspring.errors import InputError

Make = Callable[[int], bytes]
_FIELD = {"chat": b"messages", "completions": b"prompt", "embeddings": b"input"}


def maker(target: Target, plan: Plan) -> Make:
    """A function from a request's number to its bytes, head and body. Raises `InputError`."""
    body, head = _bodies(target, plan), _head(target)

    def make(number: int) -> bytes:
        content = body(number)
        return b"%b%d\r\n\r\n%b" % (head, len(content), content)

    return make


def _head(target: Target) -> bytes:
    """All of the head but the length of the body."""
    token = f"authorization: Bearer {target.token}\r\n" if target.token else ""
    accept = "text/event-stream" if target.stream else "application/json"
    return (
        f"POST {target.path} HTTP/1.1\r\nhost: {target.address}\r\nuser-agent: mainspring-bench\r\naccept: {accept}\r\n"
        f"{token}content-type: application/json\r\ncontent-length: "
    ).encode()


def _bodies(target: Target, plan: Plan) -> Make:
    prompts = plan.prompts
    if isinstance(prompts, Bodies):
        bodies = prompts.items
        return lambda number: bodies[number % len(bodies)]
    if target.api == "infer":
        message = "the Open Inference Protocol has no prompts: each model has inputs of its own"
        raise InputError("no-body", message, f"{HINT.split(' --', maxsplit=1)[0]} --body FILE.json")
    said, tails = _said(target, prompts), _Tails(target, plan)
    begin = b'{"model":%b,"%b":' % (msgspec.json.encode(target.model), _FIELD[target.api])
    return lambda number: b"%b%b%b" % (begin, said(number), tails(number))


def _said(target: Target, prompts: Words | Texts) -> Make:
    """The value of `messages`, `prompt` or `input`."""
    chat = target.api == "chat"
    before, after = (b'[{"role":"user","content":', b"}]") if chat else (b"", b"")
    if isinstance(prompts, Words):
        text = prompts.text
        return lambda number: b'%b"%b"%b' % (before, text(number), after)
    items = prompts.items
    if not chat and any(item.startswith(b"[") for item in items):
        raise InputError("bad-prompts", f"messages are of chat, not of {target.api}", "--api chat")
    whole = tuple(item if item.startswith(b"[") else before + item + after for item in items)
    return lambda number: whole[number % len(whole)]


class _Tails:
    """What follows the prompt: how long the answer may be, and what is the same in all."""

    def __init__(self, target: Target, plan: Plan) -> None:
        rest = msgspec.json.encode(_settings(target))[1:]
        self._rest = b"," + rest if rest != b"}" else rest
        self._lengths = [plan.output] if isinstance(plan.output, int) else plan.output
        self._own = plan.prompts.outputs if isinstance(plan.prompts, Texts) else ()
        self._bounded = target.api != "embeddings"

    def __call__(self, number: int) -> bytes:
        length = int(self._lengths[number % len(self._lengths)])
        if self._own:
            length = self._own[number % len(self._own)] or length
        return b',"max_tokens":%d%b' % (length, self._rest) if self._bounded and length else self._rest


def _settings(target: Target) -> dict[str, object]:
    found: dict[str, object] = {}
    if target.stream:
        found |= {"stream": True, "stream_options": {"include_usage": True}}
    if target.ignore_eos and target.api != "embeddings":
        found["ignore_eos"] = True
    return found | dict(target.more)
