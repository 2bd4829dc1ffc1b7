"""`python -m mainspring.testing.language`: a fake language server with known costs and faults on demand.

What this is: a server of OpenAI's API (models, chat, completions, embeddings; streamed and not) that computes
nothing: words from a list, times from options. The other side in the gateway's tests, the stub in its benchmark.
Who calls it: tests, `make bench-gateway`, and anyone who tests their own gateway. What it must never do: fail unasked.

Costs are options (`--first-ms`, `--gap-ms`, `--prompt-us-per-token`, `--slots`); a prompt may set its own with
`fake:first-ms=50 fake:gap-ms=10 fake:tokens=100`, and asks for a fault by name with `fake:NAME[=VALUE]`: see
`language_faults`. Beside the API: `GET /stats`, `GET /last` (the last request as it came), `POST /knobs` (options).
Exit status: 0 after SIGTERM (streams end first, 10 s at most), 2 when the port or a file does not allow it to serve.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from pathlib import Path

from mainspring.errors import EnvironmentError_, InputError
from mainspring.testing import language_faults as faults
from mainspring.testing.language_answers import Answers, PrefixCache
from mainspring.testing.language_server import Fake, Options
from mainspring.wire import process

_DRAIN = 10.0
_UNSENT = 64 * 1024  # bytes


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="mainspring.testing.language", description=__doc__.partition("\n")[0])
    defaults = Options()
    parser.add_argument("--announce", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="fake", help="of the process; only shown")
    parser.add_argument("--key-file", type=Path, help="its content is asked for as a bearer token")
    for name, value in vars(defaults).items():
        if name != "key":
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args(words)


def options_of(arguments: argparse.Namespace) -> Options:
    """The options that a command line names; raises `InputError` or `EnvironmentError_`."""
    options = Options(**{name: getattr(arguments, name) for name in vars(Options()) if name != "key"})
    try:
        faults.parse(options.fault)
    except ValueError as error:
        raise InputError("fault", str(error), "see `mainspring.testing.language_faults`") from error
    if arguments.key_file is not None:
        try:
            options.key = arguments.key_file.read_text().strip()
        except OSError as error:
            raise EnvironmentError_("key", f"`{arguments.key_file}` cannot be read: {error.strerror}") from error
    return options


async def serve(arguments: argparse.Namespace) -> None:
    """Announce; serve until told to stop; drain."""
    options = options_of(arguments)
    told = process.until_told()
    if options.fault == "blackhole":
        address, kept = faults.blackhole()
        process.announce(arguments.announce, address)
        await told.wait()
        for sock in kept:
            sock.close()
        return
    answers = Answers(options.model, options.tokens, PrefixCache(options.cache_blocks), options.speculate)
    fake = Fake(options, answers)
    sock = process.bind(arguments.host, arguments.port)
    # What a slow reader does not take stays here, not in megabytes of the kernel's; accepted connections inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    listener = await asyncio.get_running_loop().create_server(fake, sock=sock)
    process.settle_memory()
    process.announce(arguments.announce, process.address_of(sock))
    try:
        await told.wait()
    finally:
        process.withdraw(arguments.announce)
        listener.close()
        await fake.drain(_DRAIN)


def main() -> int:
    """Run; returns the exit status."""
    return process.run(serve(arguments_of()))


if __name__ == "__main__":
    sys.exit(main())
