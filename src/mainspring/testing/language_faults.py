"""The ways in which the fake language server fails, by name.

Who calls it: `language_server` (it acts on them) and tests (they ask for them, in a prompt or as a process option).
What it must never do: fail in a way that its name does not say.

A prompt asks with `fake:NAME` or `fake:NAME=VALUE`; several may stand together. The process option is
`--fault NAME[=VALUE]`, and `POST /knobs {"fault": "NAME=VALUE"}` changes it while it runs (`""` ends it).
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct

BEFORE = {
    "never-answer": "reads the request and says nothing, for ever",
    "reset-before-first": "RST once the request is read",
    "close-before-first": "closes the connection once the request is read",
    "crash": "abort() once the request is read: exit by SIGABRT",
    "exit": "exit status VALUE (1) once the request is read",
    "killed": "SIGKILL to itself once the request is read: as if ended from outside",
    "garbage": "bytes that are not HTTP, and goes on with them",
    "endless-headers": "a status line and header lines without end",
    "ok-then-garbage": "200 and the head of a chunked body, then bytes that are no chunks",
    "short-body": "an answer cut in the middle of its body by a close",
    "error-500": "500 in OpenAI's shape",
    "error-503": "503 in llama.cpp's shape (still loading)",
    "error-429": "429 in OpenAI's shape, with Retry-After: 7",
    "vllm-error": "400 in vLLM's shape: type `BadRequestError`, code 400 as a number",
    "llama-error": "400 in llama.cpp's shape: the prompt is longer than the context",
    "html-error": "502 with an HTML page, as a proxy in between would",
}
"""Instead of an answer."""

MIDDLE = {
    "reset-mid-stream": "RST after VALUE (3) tokens",
    "close-mid-stream": "closes after VALUE (3) tokens, in the middle of the body",
    "truncated-chunk": "after VALUE (3) tokens a chunk whose size is larger than what follows, then closes",
    "garbage-mid-stream": "after VALUE (3) tokens bytes that are no chunk",
    "crash-mid-stream": "abort() after VALUE (3) tokens",
    "killed-mid-stream": "SIGKILL to itself after VALUE (3) tokens",
    "stall-mid-stream": "nothing more after VALUE (3) tokens; the connection stays",
    "error-mid-stream": "after VALUE (3) tokens an error event in vLLM's shape, then [DONE]",
    "die-after-last-token": "all tokens, then RST instead of [DONE]",
    "no-done": "all tokens and a whole body, but no [DONE]",
}
"""In the middle of a streamed answer."""

SHAPE = {
    "drip": "the bytes of the answer one by one, VALUE (1000) ms apart",
    "huge-chunk": "one more event of VALUE (1000) KB before the last",
    "split": "the stream's bytes in chunks of VALUE (7) bytes, whatever the events are",
    "joined": "the whole stream in one chunk",
    "comments": "comment lines (`: still here`) between the events",
    "crlf": "lines end with CR LF",
    "early-head": "the head of a stream at once, the first token when it is there",
    "unannounced-close": "closes after a whole answer, without having said so",
}
"""How a good answer comes; none of these is the gateway's client's concern."""

KNOBS = ("tokens", "first-ms", "gap-ms")
"""Not faults: what a prompt may set for itself."""

LISTENING = {
    "blackhole": "the port's queue is full: a connection is never made",
    "silent": "connections are accepted and never read",
    "reset-on-accept": "RST to each connection",
}
"""Process options only."""


def parse(word: str) -> tuple[str, float]:
    """`NAME=VALUE` or `NAME` as (name, value or -1); raises `ValueError` for a name that is none."""
    name, _, value = word.partition("=")
    if name and name not in {**BEFORE, **MIDDLE, **SHAPE, **LISTENING}:
        raise ValueError(f"there is no fault `{name}`")
    return name, float(value or -1)


def reset(sock: socket.socket) -> None:
    """Make the close of a connection an RST; `sock` may be another descriptor of it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def die(name: str, value: float) -> None:
    """End this process as `name` says, at once and without a core file."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if name.startswith("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "exit":
        os._exit(int(value) if value > 0 else 1)
    else:
        os.abort()


def blackhole() -> tuple[str, list[socket.socket]]:
    """A port whose accept queue is full: (its address, what to keep open). A connection to it waits for ever."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    kept = [listener]
    for _ in range(3):  # one is queued by the kernel's reckoning, the others make sure
        waiting = socket.socket()
        waiting.setblocking(False)
        waiting.connect_ex(listener.getsockname())
        kept.append(waiting)
    host, port = listener.getsockname()
    return f"{host}:{port}", kept
