"""Servers of language models: OpenAI's API, which requests and answers are in already.

Only the model's name is another: some servers refuse any that they were not started with.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mainspring.wire.dialects.canonical import encode

_object = msgspec.json.Decoder(dict[str, Any]).decode
_MODEL = re.compile(rb'"model"\s*:\s*"[^"\\]*"')


def renamed(body: bytes, model: str) -> bytes:
    """The body of a request, which is an object, with another `model`; raises `MsgspecError` where it is not JSON."""
    word = b'"model":%b' % encode(model)
    if body.count(b'"model"') == 1:  # within a text the quotes would be escaped
        made, changed = _MODEL.subn(lambda _: word, body, count=1)
        if changed:
            return made
    said = _object(body)
    said["model"] = model
    return encode(said)
