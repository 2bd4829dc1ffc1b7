"""`python -m mainspring.replicas.kept.host`: the process that keeps a server for the models of several endpoints.

What this is: it starts the server with no model, says where it is, and lives as long as somebody uses it; models of
users that were killed are unloaded. Who calls it: `shared.py`, the keeper of the first model. It is nobody's child:
the keeper that started it may end, or be killed, and the others go on.
What it must never do: outlive its users, or let the server outlive it.

Exit status: 0 when nobody used it any more, 1 when the server ended, 2 when it could not be started; the reason is in
`ended.json`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mainspring.errors import EnvironmentError_, MainspringError
from mainspring.replicas import environment
from mainspring.replicas.asking import ask
from mainspring.replicas.environment import Installed
from mainspring.replicas.kept import child, keeper
from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.replicas.kept.hosting import Folder, Hosted
from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Command, Model, Place, Runtime, Server, Sharing
from mainspring.wire import process

log = logging.getLogger("mainspring.replicas.kept.host")

LOOK = 0.5
"""Seconds between two looks at the server and its users."""
ALONE = 3.0
"""Seconds without a user after which it ends: a replica that is replaced comes back to a server that is there."""
PREDECESSOR = 60.0
"""Seconds that the host before may take to end."""
COMMANDED = 130.0
"""Seconds for a model to be loaded, or to leave."""
NO_MODEL = Model(name="", endpoint="", version="", format="", artefact="", digest="")
"""A server that is shared is prepared before it has a model."""
NOT_PASSED_ON = "MAINSPRING_TOKEN"
"""By this, whoever supervises a replica finds all that it started; a host is not the replica's."""


class Host:
    """One life of one shared server."""

    def __init__(self, runtime: Runtime, folder: Folder, life: str, words: tuple[str, ...]) -> None:
        assert runtime.server is not None
        assert runtime.server.sharing is not None
        self._runtime, self._folder, self._life, self._words = runtime, folder, life, words
        self._server: Server = runtime.server
        self._sharing: Sharing = runtime.server.sharing

    def live(self, installed: Installed) -> None:
        """Start, be used, end. Raises `ServerEndedError`, `EnvironmentError_`."""
        place = self._prepare(installed)
        running = child.start(self._sharing.command(place), self._folder.work)
        try:
            self._wait(running, place)
            self._folder.say(
                Hosted(self._life, os.getpid(), running.pid, dict(place.ports), str(self._folder.work.absolute()))
            )
            log.info("%s is at %s:%d", self._runtime.title, place.host, place.ports["http"])
            self._serve(running, place)
        finally:
            self._folder.unsay()
            child.end(running, self._server.grace)

    def _prepare(self, installed: Installed) -> Place:
        work = self._folder.work
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, mode=0o700)
        place = place_of(installed, work, keeper.free_ports(self._server.ports), self._words)
        self._folder.unsay()
        first = self._server.before(NO_MODEL, place)
        if first is not None:
            run(first, work, COMMANDED)
        return place

    def _wait(self, running: subprocess.Popen[bytes], place: Place) -> None:
        until = time.monotonic() + self._server.patience
        while True:
            if running.poll() is not None:
                raise ServerEndedError(f"{self._runtime.title} {keeper.how(running.returncode)} as it started")
            try:
                ask(f"{place.host}:{place.ports['http']}", "GET", self._server.live, timeout=5.0)
            except OSError:
                if time.monotonic() > until:
                    raise ServerEndedError(f"{self._runtime.title} did not answer in time") from None
                time.sleep(LOOK / 5)
            else:
                return

    def _serve(self, running: subprocess.Popen[bytes], place: Place) -> None:
        used = time.monotonic()
        while True:
            if running.poll() is not None:
                raise ServerEndedError(f"{self._runtime.title} {keeper.how(running.returncode)}")
            child.reap(running)
            users = self._folder.models()
            if any(users.values()):
                used = time.monotonic()
                if not all(users.values()):
                    self._clear(place)
            if time.monotonic() - used > ALONE and self._may_end():
                return
            time.sleep(LOOK)

    def _clear(self, place: Place) -> None:
        """Unload the models of users that were killed."""
        with self._folder.gate():
            left = [model for model, lives in self._folder.models().items() if not lives]
            for model in left:
                log.warning("nobody uses the model `%s` any more, and nobody took it out: unloading it", model)
                take_out(self._sharing, model, place)
            self._folder.clear()

    def _may_end(self) -> bool:
        """Whether there is still no user; if so, none will find this server from here on."""
        with self._folder.gate():
            if any(self._folder.models().values()):
                return False
            self._folder.unsay()
            return True


def place_of(installed: Installed, work: Path, ports: dict[str, int], words: tuple[str, ...]) -> Place:
    """Where the shared server runs; raises `OSError`."""
    return Place(
        work=str(work.absolute()), environment=str(installed.root), python=str(installed.python),
        packages=str(installed.packages), source=str(keeper.source(work)), ports=ports, words=words,
    )  # fmt: skip


def take_out(sharing: Sharing, model: str, place: Place) -> None:
    """Unload a model and remove its files; that it can't be unloaded is logged."""
    try:
        run(sharing.unload(model, place), Path(place.work), COMMANDED)
    except (EnvironmentError_, OSError) as error:
        log.warning("the model `%s` could not be unloaded: %s", model, error)
    shutil.rmtree(Path(place.work) / sharing.folder(model), ignore_errors=True)


def run(command: Command, folder: Path, patience: float) -> None:
    """Run a command to its end. Raises `EnvironmentError_` with its last words when it fails, `OSError`."""
    passed = child.environment_of(command, os.environ)
    try:
        done = subprocess.run(
            command.argv, cwd=folder, env=passed, stdin=subprocess.DEVNULL, capture_output=True, timeout=patience,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EnvironmentError_("command-late", f"`{command.argv[0]}` took more than {patience:g} s") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = said[-1].removeprefix("error: ") if said else keeper.how(done.returncode)
        raise EnvironmentError_("command-failed", last)


def start(runtime: str, folder: Folder, life: str, words: tuple[str, ...]) -> None:
    """Start a host that is nobody's child. Raises `OSError`."""
    argv = [sys.executable, "-m", "mainspring.replicas.kept.host", "--runtime", runtime]
    argv += ["--folder", str(folder.root.absolute()), "--life", life, "--", *words]
    passed = {name: value for name, value in os.environ.items() if name != NOT_PASSED_ON}
    with folder.log.open("ab") as out:
        subprocess.run(argv, env=passed, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", check=True)


def _detach() -> None:
    """Go on in a session of its own, as a child of nobody."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)


def _host(runtime: Runtime, folder: Folder, life: str, words: tuple[str, ...]) -> int:
    if folder.own(PREDECESSOR) is None:
        folder.end(life, "the host before it does not end")
        return 2
    child.adopt_orphans()
    try:
        installed = environment.install(runtime, lambda line: log.info("%s", line))
        with environment.hold(installed):
            Host(runtime, folder, life, words).live(installed)
    except (ServerEndedError, MainspringError, OSError) as error:
        log.error("error: %s", error)  # noqa: TRY400  # people read it: no traceback
        folder.end(life, str(error))
        return 1 if isinstance(error, ServerEndedError) else 2
    except Exception as error:
        log.exception("this is a bug of Mainspring's")
        folder.end(life, f"{type(error).__name__}: {error}")
        return 2
    return 0


def main(words: Sequence[str]) -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mainspring.replicas.kept.host", description=__doc__)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--life", required=True)
    given = list(words)
    at = given.index("--") if "--" in given else len(given)
    said = parser.parse_args(given[:at])
    _detach()
    process.allow_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s host %(message)s")
    return _host(runtimes()[said.runtime], Folder(said.folder), said.life, tuple(given[at + 1 :]))


if __name__ == "__main__":
    status = 1
    try:
        status = main(sys.argv[1:])
    finally:
        sys.stderr.flush()
        child.kill_all(os.getpid())
        os._exit(status)
