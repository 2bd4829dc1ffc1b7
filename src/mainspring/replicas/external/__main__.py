"""`python -m mainspring.replicas.external`: one process that stands for a server elsewhere.

It listens on loopback, forwards what the gateway sends, and is announced only while that server is well. Who calls it:
the world (through a shim). Exit status: 0 after SIGTERM, 2 when the settings or the key do not allow it to serve, with
one line on stderr that says why.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from mainspring.artefacts.external import External, read_external
from mainspring.artefacts.load import load_manifest
from mainspring.errors import ArtefactError, EnvironmentError_, InputError
from mainspring.replicas.external import health
from mainspring.replicas.external.forward import Forwarder
from mainspring.replicas.external.limits import Limits
from mainspring.replicas.external.target import target_of
from mainspring.replicas.external.upstream import Upstream
from mainspring.replicas.keys import read_key
from mainspring.replicas.oip.serving import check_digest, parser
from mainspring.wire import process
from mainspring.wire.http1 import Server

log = logging.getLogger("mainspring.replicas.external")

HEALTH = 10.0
"""Seconds that the server may take to say that it is well."""


def settings_of(arguments: argparse.Namespace) -> External:
    """Where the server is. Raises `ArtefactError` for another kind of version, `InputError` for another protocol."""
    check_digest(arguments)
    manifest = load_manifest(arguments.artefact)
    if manifest.format != "external":
        message = f"`{arguments.artefact}` is a model in the format `{manifest.format}`, not a server elsewhere"
        raise ArtefactError("artefact-unfit", message)
    found = read_external(manifest.settings)
    if arguments.protocol and arguments.protocol != found.protocol:
        message = f"the stack file has `protocol: {arguments.protocol}`, and the version speaks `{found.protocol}`"
        raise InputError("external-protocol", message, f"write `protocol: {found.protocol}` in the stack file")
    return found


def key_of(found: External) -> str:
    """The key that the server is shown, from the environment; "" for none. Raises `EnvironmentError_`."""
    if not found.key:
        return ""
    name = found.key.removeprefix("env:")
    key = os.environ.get(name, "").strip()
    if not key:
        raise EnvironmentError_(
            "external-key", f"the variable `{name}` is not set", f"export {name}=... ; mainspring up"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise EnvironmentError_("external-key", f"the variable `{name}` holds no key: one word of printable ASCII")
    return key


async def serve(arguments: argparse.Namespace) -> None:
    """Listen; announce while the server elsewhere is well; forward until told to stop; drain."""
    found = settings_of(arguments)
    key, target = key_of(found), target_of(found, arguments.model)
    if key and not target.tls and target.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("the key goes to `%s` without TLS: everybody on the way can read it", target.authority)
    token = read_key(arguments.key_file)
    told = process.until_told()
    upstream = Upstream(target, float(found.timeout or arguments.timeout))
    forwarder = Forwarder(target, upstream, Limits(found.at_once, found.per_second), token, key)
    server = Server(forwarder.handle, wording=forwarder.wording)
    sock = process.bind(arguments.host, arguments.port)
    listener = await asyncio.get_running_loop().create_server(server, sock=sock)

    def is_well(well: bool, why: str) -> None:
        if well:
            log.info("`%s` is well", target.authority)
            process.announce(arguments.announce, process.address_of(sock))
        else:
            log.warning("`%s` is not well, and gets no requests: %s", target.authority, why)
            process.withdraw(arguments.announce)

    bearer = b"authorization: Bearer %b\r\n" % key.encode() if key else b""
    asked = Upstream(target, HEALTH)
    looks = asyncio.create_task(health.watch(asked, target.health, bearer, arguments.health_every, is_well))
    deadlines = asyncio.create_task(server.watch())
    stop = asyncio.create_task(told.wait())
    try:
        await asyncio.wait((looks, stop), return_when=asyncio.FIRST_COMPLETED)
        if looks.done():
            looks.result()  # what ended it
    finally:
        looks.cancel()
        process.withdraw(arguments.announce)
        listener.close()
        await server.drain(arguments.drain, forwarder.give_up)
        for one in (upstream, asked):
            one.close()
        deadlines.cancel()
        stop.cancel()


def main(given: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    words = parser("external", __doc__)
    words.add_argument("--protocol", default="", help="what the stack file says that it speaks")
    words.add_argument("--health-every", type=float, default=5.0, help="seconds between two looks")
    words.add_argument("--timeout", type=float, default=60.0, help="seconds that the server may say nothing")
    arguments = words.parse_args(given)
    if arguments.announce is None:
        words.error("the following arguments are required: --announce")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=f"%(asctime)s {arguments.name} %(message)s")
    return process.run(serve(arguments))


if __name__ == "__main__":
    sys.exit(main())
