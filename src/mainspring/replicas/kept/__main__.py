"""`python -m mainspring.replicas.kept`: one process that keeps a model server of somebody else's.

Who calls it: the world (through a shim). Exit status: 0 after SIGTERM; 1 when the server ended or had to be ended; 2
when the artefact, the environment or the machine does not allow it to serve. The reason is the last line on stderr.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from mainspring.errors import MainspringError
from mainspring.replicas import environment
from mainspring.replicas.kept import child, keeper, shared
from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.replicas.kept.options import Options, read_options
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import read_words
from mainspring.wire import process


def keep(options: Options) -> None:
    """Prepare, start, announce, watch; drain and end when told to."""
    told = process.told_pipe()
    if read_words(options.words).share:
        shared.keep(options, told)
        return
    child.adopt_orphans()
    kept = keeper.prepare(options)
    installed = environment.find(runtimes()[options.runtime])
    assert installed is not None
    with environment.hold(installed):
        keeper.before(kept, told)
        running = keeper.begin(kept, told)
        try:
            process.announce(options.announce, kept.address)
            keeper.watch(kept, running, told)
            process.withdraw(options.announce)
            if not keeper.drain(kept, running):
                keeper.log.warning("requests were still running after %g s; they are cut off", options.drain)
        finally:
            process.withdraw(options.announce)
            if not child.end(running, kept.server.grace):
                keeper.log.warning("%s did not end within %g s: killed", kept.runtime.title, kept.server.grace)


def main(words: Sequence[str] | None = None) -> int:
    """Run; returns the exit status."""
    process.allow_files()
    try:
        options = read_options(sys.argv[1:] if words is None else words)
        form = f"%(asctime)s {options.name} %(message)s"
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
        keep(options)
    except MainspringError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    except ServerEndedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    child.kill_all(os.getpid())
    os._exit(status)
