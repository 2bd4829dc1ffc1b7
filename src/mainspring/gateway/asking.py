"""What the gateway reads of a request to a language model, checks, and changes: by splicing, never by encoding anew.

Who calls it: the OpenAI door. What it must never do: decode a message, or let a field through that reaches into the
engine (whose slot, whose cache, which template).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

MAX_CHOICES = 8
MAX_GRAMMAR = 16 * 1024  # bytes
MAX_BIAS = 1_000
MAX_USER = 256
_MOST_TOKENS = 2**31 - 1
_DIGITS = frozenset(b"%d" % digit for digit in range(10)) | {b"-"}
_RAW = msgspec.Raw()
_NULL = msgspec.Raw(b"null")

ENGINE_FIELDS = (
    "id_slot", "slot_id", "cache_prompt", "n_predict", "n_keep", "n_cache_reuse", "lora", "chat_template",
    "chat_template_kwargs", "prompt_embeds", "add_generation_prompt", "continue_final_message", "documents",
    "cache_salt", "kv_transfer_params", "vllm_xargs", "logits_processors", "mm_processor_kwargs", "data_parallel_rank",
    "t_max_predict_ms", "post_sampling_probs", "return_tokens", "timings_per_token",
)  # fmt: skip
"""Fields of llama.cpp's and vLLM's own that a request may not have."""


class Refused(Exception):
    """The request is refused: status 400, a message and the parameter at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class Asking(msgspec.Struct, gc=False):
    """A request's fields that the gateway looks at; everything else is forwarded as it came."""

    model: str
    stream: bool | None = None
    stream_options: msgspec.Raw = _NULL
    user: str | None = None
    n: int | None = None
    best_of: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    messages: msgspec.Raw = _RAW
    prompt: msgspec.Raw = _RAW
    input: msgspec.Raw = _RAW
    logit_bias: msgspec.Raw = _NULL
    grammar: msgspec.Raw = _NULL


_Whole: Any = msgspec.defstruct(
    "_Whole", [(name, msgspec.Raw, _NULL) for name in ENGINE_FIELDS], bases=(Asking,), gc=False
)
_asking: Callable[[bytes], Asking] = msgspec.json.Decoder(_Whole).decode
_engine_fields = attrgetter(*ENGINE_FIELDS)
_NONE_GIVEN = (_NULL,) * len(ENGINE_FIELDS)
_object = msgspec.json.Decoder(dict[str, Any]).decode
_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def read(body: bytes, wanted: str) -> Asking:
    """Read and check a request that has to have the field `wanted`. Raises `Refused`."""
    try:
        if not body.isascii():
            body.decode()  # the engine is not to see what is not text
        asking = _asking(body)
        asking.model.encode()
        if asking.user is not None:
            asking.user.encode()
    except msgspec.ValidationError as error:
        raise Refused(str(error), _named(str(error))) from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}") from None
    _check(asking, wanted)
    given = _engine_fields(asking)
    if given != _NONE_GIVEN:  # they are the very same objects where nothing is given, so this costs nothing
        _refuse_engine_fields(given)
    return asking


def _check(asking: Asking, wanted: str) -> None:
    content = memoryview(getattr(asking, wanted))
    if not content:
        raise Refused(f"`{wanted}` is missing", wanted)
    first = content[0]
    if wanted == "messages":
        if first != 0x5B or bytes(content[1:64]).lstrip()[:1] == b"]":
            raise Refused("`messages` is a list of at least one message", "messages")
    elif first not in b'"[':
        raise Refused(f"`{wanted}` is a text or a list", wanted)
    if asking.user is not None and len(asking.user) > MAX_USER:
        raise Refused(f"`user` has more than {MAX_USER} characters", "user")
    if asking.stream and wanted == "input":
        raise Refused("embeddings are not streamed", "stream")
    if asking.n is not None:
        _within("n", asking.n, 1, MAX_CHOICES)
    if asking.best_of is not None:
        _within("best_of", asking.best_of, 1, MAX_CHOICES)
    if asking.max_tokens is not None:
        _within("max_tokens", asking.max_tokens, 0, _MOST_TOKENS)
    if asking.max_completion_tokens is not None:
        # 0 is "not said" to some engines, and then as much as there is room for.
        _within("max_completion_tokens", asking.max_completion_tokens, 1, _MOST_TOKENS)
    if asking.grammar is not _NULL and len(bytes(asking.grammar)) > MAX_GRAMMAR:
        raise Refused(f"`grammar` has more than {MAX_GRAMMAR} bytes", "grammar")
    if asking.logit_bias is not _NULL:
        _check_bias(bytes(asking.logit_bias))


def _check_bias(bias: bytes) -> None:
    if bias == b"null":
        return
    try:
        found = msgspec.json.decode(bias)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        found = None
    if not isinstance(found, (dict, list)):
        raise Refused("`logit_bias` is an object of tokens and numbers", "logit_bias")
    if len(found) > MAX_BIAS:
        raise Refused(f"`logit_bias` has more than {MAX_BIAS} entries", "logit_bias")


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise Refused(f"`{name}` is from {least} to {most}, not `{value!s:.40}`", name)


def _refuse_engine_fields(given: tuple[msgspec.Raw, ...]) -> None:
    for name, value in zip(ENGINE_FIELDS, given, strict=True):
        if bytes(value) != b"null":
            raise Refused(f"`{name}` is the server's to set", name)


def _named(error: str) -> str | None:
    """The field that a validation error names, as in "... - at `$.n`"."""
    _, _, at = error.rpartition("`$.")
    return at.rstrip("`") or None if at else None


def with_usage(body: bytes, asking: Asking) -> tuple[bytes, bool]:
    """The body of a streamed request that asks for its usage, and whether the client had not asked for it."""
    if asking.stream_options is _NULL:
        return body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}', True
    try:
        said = _object(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Refused(f"the body is not JSON: {error}") from None
    given = said.get("stream_options")
    if given is not None and not isinstance(given, dict):
        raise Refused("`stream_options` is an object", "stream_options")
    if given is not None and given.get("include_usage") is True:
        return body, False
    said["stream_options"] = {**(given or {}), "include_usage": True}
    return _encode(said), True


def most_output(asking: Asking) -> int:
    """Tokens that all its answers may have together, as the request says; -1 where it does not."""
    if asking.max_tokens is None and asking.max_completion_tokens is None:
        return -1
    most = max(asking.max_tokens or 0, asking.max_completion_tokens or 0)
    if asking.n is None and asking.best_of is None and asking.prompt is _RAW:
        return most
    return most * answers(asking)


def answers(asking: Asking) -> int:
    """How many answers it asks for, seen or unseen: to each of its prompts."""
    return max(asking.n or 1, asking.best_of or 1) * _prompts(asking.prompt)


def _prompts(prompt: msgspec.Raw) -> int:
    """A text is one prompt, and so is a list of tokens; a list of texts, or of such lists, is several."""
    if bytes(memoryview(prompt)[:1]) != b"[":
        return 1
    try:
        found = _list(prompt)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return 1  # the engine will refuse it
    return 1 if not found or bytes(found[0])[:1] in _DIGITS else len(found)


def with_most(body: bytes, tokens: int) -> bytes:
    """The body of a request that says no `max_tokens`, with one."""
    return b'%b,"max_tokens":%d}' % (body.rstrip()[:-1], tokens)


def with_salt(body: bytes, word: str, salt: str) -> bytes:
    """The body with a field that keeps what its prompt leaves in a cache apart from others' prompts."""
    return b'%b,"%b":"%b"}' % (body.rstrip()[:-1], word.encode(), salt.encode())


def unstreamed(body: bytes) -> bytes:
    """The same request with its answer whole, for a copy. Raises `MsgspecError`."""
    said = _object(body)
    said.pop("stream_options", None)
    said["stream"] = False
    return _encode(said)
