"""Starting and stopping the controller process, and the checks that say at once why it cannot start.

What this is: the process side of `up` and `down`. Who calls it: `up`, `down`, `Control`. What it must never do: keep
the controller tied to this terminal, or leave a person to find the reason in a log.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mainspring.cli.client import Away, Client, NotUp
from mainspring.errors import EnvironmentError_, InputError, MainspringError

PATIENCE = 60.0  # seconds until a controller that starts must answer


def start(stack: Path, *, clock: float | None = None, patience: float = PATIENCE) -> int:
    """Start a controller that outlives this process, on the stack file as it is now; gives its process id.

    Returns when it answers. Raises `EnvironmentError_` with its own words when it ends instead.
    """
    state = stack.parent / ".mainspring"
    writable(state)
    log = state / "logs" / "controller.log"
    argv = [sys.executable, "-m", "mainspring.app", "--stack", str(stack), "--apply", digest(stack)]
    if clock is not None:
        argv += ["--clock", datetime.fromtimestamp(clock, timezone.utc).isoformat()]
    with log.open("ab") as out:
        begin = out.tell()
        process = subprocess.Popen(
            argv, cwd=stack.parent, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        return _answers(process, state, log, begin, patience)
    finally:
        process.returncode = process.returncode or 0  # it outlives us on purpose: nobody waits for it


def _answers(process: subprocess.Popen[bytes], state: Path, log: Path, begin: int, patience: float) -> int:
    client, until = Client(state, own=True), time.monotonic() + patience
    while time.monotonic() < until:
        if process.poll() is not None:
            raise _ended(log, begin, process.returncode)
        if told(state).get("pid") == process.pid:
            try:
                client.get("/v1/status", counts="false")
            except NotUp:
                pass
            except EnvironmentError_ as error:
                if error.code != "no-look-yet":
                    return process.pid  # it answers, and `status` shows what is in its way
            else:
                return process.pid
        time.sleep(0.02)
    message = f"the controller did not answer in {patience:.0f} s; it goes on (process `{process.pid}`)"
    raise EnvironmentError_("controller-silent", message, "mainspring logs controller")


def stop(state: Path, patience: float = 60.0, say: Any = None) -> bool:
    """Have everything stopped and wait until the controller has ended; False when none was up."""
    client = Client(state)
    pid = None if client.door else told(state).get("pid")
    try:
        client.post("/v1/down")
    except NotUp:
        return False
    until, shown = time.monotonic() + patience, ""
    while time.monotonic() < until:
        try:
            waiting = client.get("/v1/status", counts="false")["waiting"]
        except (NotUp, Away):
            if not _runs(pid):
                return True
            time.sleep(0.02)
            continue
        except MainspringError:
            waiting = []
        text = ", ".join(f"{w['what']} {w['why']}" for w in waiting[:3])
        if say is not None and text and text != shown:
            say(text)
            shown = text
        time.sleep(0.05)
    raise EnvironmentError_("still-up", f"not everything has stopped in {patience:.0f} s", "mainspring status")


def leftover(state: Path) -> bool:
    """Whether anything runs that a controller of this folder started: the shim of each holds a lock."""
    for lock in state.glob("processes/*/lock"):
        try:
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue
    return False


def told(state: Path) -> dict[str, Any]:
    """What the controller says of itself: boot, pid, socket, tcp; empty when there is none."""
    try:
        value = json.loads((state / "controller.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def digest(stack: Path) -> str:
    """The SHA-256 of a stack file: the controller applies the file only as it was when a person said yes."""
    try:
        return hashlib.sha256(stack.read_bytes()).hexdigest()
    except OSError as error:
        message = f"`{stack}` cannot be read: {error.strerror}"
        raise InputError("stack-unreadable", message, "mainspring init") from error


def writable(state: Path) -> None:
    """Make the state folder, and see that it can be written. Raises `EnvironmentError_`."""
    try:
        (state / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = state / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space is left for the state folder `{state}`"
            raise EnvironmentError_("disk-full", message, f"free some space (`du -sh {state}/*`)") from error
        message = f"the state folder `{state}` cannot be written: {error.strerror}"
        raise EnvironmentError_("folder-read-only", message, f"make `{state.parent}` writable, then again") from error


def port_free(port: int) -> None:
    """See that the gateway's port can be taken. Raises `EnvironmentError_`."""
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except PermissionError as error:
            message = f"port `{port}` may not be taken by this user"
            raise EnvironmentError_("port-refused", message, "set `orchestration.gateway.port`") from error
        except OSError as error:
            message = f"port `{port}` is in use by another program"
            hint = "set another `orchestration.gateway.port` (`0` takes a free one), or stop that program"
            raise EnvironmentError_("port-in-use", message, hint) from error


def _ended(log: Path, begin: int, status: int) -> EnvironmentError_:
    """What a controller that ended at once had to say."""
    if status < 0:  # its log has only what it said before
        message = f"the controller was killed by signal `{-status}` while it started"
        return EnvironmentError_("controller-killed", message, "the same command again")
    try:
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read(65536).decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    message = next((x.removeprefix("error: ") for x in lines if x.startswith("error: ")), "")
    hint = next((x.removeprefix("hint: ") for x in lines if x.startswith("hint: ")), "mainspring logs controller")
    if not message:
        last = next((x.strip() for x in reversed(lines) if x.strip()), f"exit status {status}")
        message = f"the controller ended at once: {last[:300]}"
    return EnvironmentError_("controller-ended", message, hint)


def _runs(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
