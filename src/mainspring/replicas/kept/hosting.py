"""What the host of a shared server and the keepers of its models have between them: a folder of files and locks.

    servers/NAME/
        gate            held while somebody comes or goes, or the host decides to end
        host.lock       held by the host for its whole life
        host.json       the host: where its server is; there as long as it may be used
        ended.json      the host: why its server ended
        users/REPLICA   held by a keeper for its whole life; says what its model is called
        work/           the server's own folder
        host.log

Locks are of the kernel (flock): a process that is killed holds none. Who calls it: `host.py`, `shared.py`.
What it must never do: wait without a limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mainspring.errors import EnvironmentError_
from mainspring.replicas.kept.ended import ServerEndedError
from mainspring.wire import process

POLL = 0.05
"""Seconds between two tries for a lock."""
LOOKED_AT = 2.0
"""Seconds for which a lock may be in the way that somebody took only to see whether it is held."""
PATIENCE = 300.0
"""Seconds that others may come and go before one who waits gives up."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """A shared server that runs."""

    life: str  # of this life of the host, so that the next one is not taken for it
    pid: int  # the host's
    server: int  # the server's
    ports: Mapping[str, int]
    work: str


class Folder:
    """The files of one shared server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self.users = root / "users"
        self.log = root / "host.log"

    def make(self) -> None:
        """Make it; raises `EnvironmentError_`."""
        try:
            self.users.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EnvironmentError_("servers-folder", f"`{self.root}` cannot be made: {error.strerror}") from error

    @contextlib.contextmanager
    def gate(self, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Come or go: one at a time. Raises `ServerEndedError` when `stop` says so, or after `PATIENCE`."""
        held = os.open(self.root / "gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + PATIENCE
        try:
            while not take(held):
                if stop() or time.monotonic() > until:
                    raise ServerEndedError("it was told to stop, or others took too long to come and go")
                time.sleep(POLL)
            yield
        finally:
            os.close(held)

    def own(self, patience: float) -> int | None:
        """The host's lock, for the life of the caller: its descriptor; None when another host has it."""
        held = os.open(self.root / "host.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + patience
        while not take(held):
            if time.monotonic() > until:
                os.close(held)
                return None
            time.sleep(POLL)
        return held

    def is_owned(self) -> bool:
        """Whether a host lives."""
        return is_held(self.root / "host.lock")

    def hosted(self) -> Hosted | None:
        """The server that runs; None when there is none."""
        try:
            found = Hosted(**json.loads((self.root / "host.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return found if self.is_owned() else None

    def say(self, hosted: Hosted) -> None:
        """The server may be used."""
        process.write_whole(self.root / "host.json", json.dumps(asdict(hosted)).encode())

    def unsay(self) -> None:
        """It may not, any more."""
        (self.root / "host.json").unlink(missing_ok=True)

    def end(self, life: str, reason: str) -> None:
        """Say why a server ended."""
        with contextlib.suppress(OSError):
            process.write_whole(self.root / "ended.json", json.dumps({"life": life, "reason": reason}).encode())

    def reason(self, life: str) -> str:
        """Why the server of this life ended; "" when it has not said."""
        try:
            said = json.loads((self.root / "ended.json").read_bytes())
            return str(said["reason"]) if said["life"] == life else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def use(self, replica: str, model: str) -> int:
        """Be a user for the life of the caller: the lock's descriptor. Raises `ServerEndedError` when the name is."""
        held = os.open(self.users / replica, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + LOOKED_AT
        while not take(held):
            if time.monotonic() > until:
                os.close(held)
                raise ServerEndedError(f"another process keeps the model as `{replica}`")
            time.sleep(POLL)
        os.ftruncate(held, 0)
        os.pwrite(held, model.encode(), 0)
        return held

    def leave(self, replica: str, held: int) -> None:
        """Be a user no longer."""
        (self.users / replica).unlink(missing_ok=True)
        os.close(held)

    def models(self, but: str = "") -> dict[str, bool]:
        """The models of all users except one: whether somebody lives who uses it."""
        found: dict[str, bool] = {}
        for path in self.users.iterdir():
            if path.name != but:
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    model = path.read_bytes().decode()
                    found[model] = found.get(model, False) or is_held(path)
        return found

    def clear(self) -> None:
        """Forget users that are dead."""
        for path in self.users.iterdir():
            if not is_held(path):
                path.unlink(missing_ok=True)


def take(descriptor: int) -> bool:
    """Take a lock now, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a process has the lock of a file."""
    try:
        tried = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(tried, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(tried)
    return False
