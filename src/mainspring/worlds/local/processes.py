"""Supervised processes on this machine: started, stopped and seen through their shims' folders.

What this is: the controller's side of `shim.py`. It keeps nothing in memory that matters: a new `Processes` on the
same folder sees and stops what an earlier one started. Who calls it: `LocalWorld`.
What it must never do: trust a bare process id, wait for a process, or raise while it observes.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mainspring.loop.snapshot import ProcessSeen
from mainspring.worlds.local import shim

ALIVE = frozenset({"starting", "ready", "stopping"})
PATIENCE = 2.0  # seconds after the grace in which the shim itself kills, before it is killed
LAUNCH_TIMEOUT = 15.0  # seconds; a launcher takes some 20 ms, and LOCK_WAIT at most for the last one's lock


@dataclass(frozen=True, slots=True)
class Command:
    """What to run."""

    argv: tuple[str, ...]  # never a secret: argv is seen by everybody on the machine
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)  # added to the controller's own environment


class JsonFiles:
    """Read small JSON objects again only when they have changed."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[tuple[int, int, int], dict[str, Any] | None]] = {}

    def read(self, path: str) -> dict[str, Any] | None:
        """Give the object in the file; None when there is none, or it is not one."""
        try:
            stat = os.stat(path)
            key = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            seen = self._seen.get(path)
            if seen is not None and seen[0] == key:
                return seen[1]
            with open(path, "rb") as file:
                value = json.loads(file.read(1 << 20))
        except FileNotFoundError:
            self._seen.pop(path, None)
            return None
        except (OSError, ValueError, RecursionError):
            return None
        found = value if isinstance(value, dict) else None
        self._seen[path] = (key, found)
        return found


class Processes:
    """All supervised processes of one state folder."""

    def __init__(self, folder: Path, logs: Path, python: str, mono: Callable[[], float]) -> None:
        self._folder = folder
        self._logs = logs
        self._python = python
        self._mono = mono
        self._files = JsonFiles()
        self._guard = threading.RLock()
        self._swept: set[str] = set()  # tokens of lost processes whose leftovers were looked for

    def start(self, name: str, kind: str, generation: int, command: Command) -> str:
        """Start a generation of a process, once: "" or why it is refused. Raises `OSError`."""
        with self._guard:
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            spec = self._spec(name)
            if spec is not None:
                if spec["generation"] > generation:
                    return f"generation {spec['generation']} of `{name}` is there already"
                if spec["generation"] == generation and self._was_launched(name, spec):
                    return ""
                if self._held(name) and self._of(name, "exit.json", spec) is None:
                    return f"generation {spec['generation']} of `{name}` still runs"
            elif self._held(name):
                self._kill_unknown(name)
                return f"a process that cannot be named holds `{name}`; it is being killed"
            self._launch(name, kind, generation, command)
            return ""

    def stop(self, name: str, generation: int, grace: float) -> str:
        """Ask a process to end, and have it killed after `grace` seconds: "" or why not. Raises `OSError`."""
        with self._guard:
            spec = self._spec(name)
            if spec is None or spec["generation"] != generation or not self._held(name):
                return ""  # it is not there any more: what was wanted
            if self._of(name, "stop.json", spec) is None:
                stop = {
                    "token": spec["token"],
                    "generation": generation,
                    "grace": grace,
                    "deadline": self._mono() + grace,
                    "sent": False,
                }
                self._write(name, "stop.json", stop)
            self._enforce(name, spec)
            return ""

    def observe(self) -> tuple[ProcessSeen, ...]:
        """See all processes, in order of their names; hold those that were asked to stop to their deadline."""
        try:
            names = sorted(
                entry.name for entry in os.scandir(self._folder) if entry.is_dir() and _was_begun(entry.path)
            )
        except OSError:
            return ()
        with self._guard:
            return tuple(self._see(name) for name in names)

    def child(self, name: str) -> int:
        """Give the process id of the program of a live process; 0 when there is none."""
        with self._guard:
            spec = self._spec(name)
            started = self._of(name, "started.json", spec) if spec and self._held(name) else None
            return int(started["child"]) if started else 0

    def usage(self, name: str) -> tuple[float, int]:
        """Give CPU seconds and the largest resident size in bytes of a process that has exited; zeros before."""
        spec = self._spec(name)
        ended = self._of(name, "exit.json", spec) if spec else None
        return (float(ended["cpu_seconds"]), int(ended["max_rss"])) if ended else (0.0, 0)

    def remove(self, name: str) -> bool:
        """Forget a process that has ended; False when it still runs."""
        with self._guard:
            if self._held(name):
                return False
            shutil.rmtree(self._folder / name, ignore_errors=True)
            return True

    def kill_all(self) -> None:
        """Kill every process at once, with what it started."""
        with self._guard:
            for seen in self.observe():
                if not self._held(seen.name):
                    continue
                started = self._files.read(self._path(seen.name, "started.json")) or {}
                spec = self._spec(seen.name) or started
                token = str(spec.get("token", ""))
                shim.kill(int(started.get("shim", 0)), token)
                shim.kill_bearers(token)

    # -- one process ---------------------------------------------------------------------------------------------

    def _path(self, name: str, file: str) -> str:
        return os.path.join(self._folder, name, file)

    def _write(self, name: str, file: str, value: dict[str, Any]) -> None:
        shim.write_whole(self._path(name, file), json.dumps(value, sort_keys=True).encode())

    def _spec(self, name: str) -> dict[str, Any] | None:
        spec = self._files.read(self._path(name, "spec.json"))
        if spec is None or not isinstance(spec.get("generation"), int) or not isinstance(spec.get("token"), str):
            return None
        return spec

    def _of(self, name: str, file: str, spec: dict[str, Any]) -> dict[str, Any] | None:
        """Read a file of the shim's folder when it belongs to this start."""
        value = self._files.read(self._path(name, file))
        return value if value is not None and value.get("token") == spec["token"] else None

    def _held(self, name: str) -> bool:
        """Say whether a shim is alive: its lock is held."""
        try:
            fd = os.open(self._path(name, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(fd)

    def _was_launched(self, name: str, spec: dict[str, Any]) -> bool:
        files = ("started.json", "exit.json")
        return self._held(name) or any(self._of(name, file, spec) is not None for file in files)

    def _launch(self, name: str, kind: str, generation: int, command: Command) -> None:
        token = secrets.token_hex(16)
        spec = {
            "name": name,
            "kind": kind,
            "generation": generation,
            "token": token,
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": command.cwd,
            "log": str(self._logs / f"{name}.log"),
            "since": self._mono(),
        }
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._write(name, "spec.json", spec)
        launcher = subprocess.run(
            [self._python, "-I", "-S", shim.__file__, str(self._folder / name)],
            env={**os.environ, shim.TOKEN: token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=True,
            timeout=LAUNCH_TIMEOUT,
            check=False,
        )
        if launcher.returncode:
            raise OSError(f"the launcher of `{name}` ended with status {launcher.returncode}")

    def _see(self, name: str) -> ProcessSeen:
        spec = self._spec(name)
        if spec is None:
            reason = "its spec.json is missing or unreadable"
            return ProcessSeen(name=name, kind=_kind(name), generation=0, state="lost", reason=reason)
        try:
            return self._see_spec(name, spec)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = f"its folder is damaged: {error}"
            return ProcessSeen(name, _kind(name), spec["generation"], "lost", reason=reason)

    def _see_spec(self, name: str, spec: dict[str, Any]) -> ProcessSeen:
        state, address, pid, status, reason = "starting", "", 0, None, ""
        held = self._held(name)
        # After the lock: a process that ends between the two looks has left its exit status by then.
        ended = self._of(name, "exit.json", spec)
        started = self._of(name, "started.json", spec)
        if started is not None:
            pid = int(started["child"])
        if ended is not None:
            state, pid, status, reason = "exited", 0, int(ended["status"]), str(ended["reason"])
        elif not held:
            state, pid = "lost", 0
            reason = "it vanished without an exit status: killed together with its shim, or the machine was restarted"
            self._sweep(spec["token"], started)
        else:
            stopping = self._enforce(name, spec)
            announced = self._files.read(self._path(name, "address.json"))
            if announced is not None and pid and announced.get("pid") == pid:
                state, address = "ready", str(announced.get("address", ""))
            state = "stopping" if stopping else state
        return ProcessSeen(
            name=name,
            kind=str(spec.get("kind", _kind(name))),
            generation=spec["generation"],
            state=state,
            address=address,
            pid=pid,
            exit_status=status,
            reason=reason,
            since=float(spec.get("since", 0.0)),
        )

    def _enforce(self, name: str, spec: dict[str, Any]) -> bool:
        """Deliver an asked-for stop, and kill after its deadline; says whether one was asked for."""
        stop = self._of(name, "stop.json", spec)
        if stop is None:
            return False
        started = self._of(name, "started.json", spec)
        if started is None:
            return True  # not started yet: asked again at the next look
        pid = int(started["shim"])
        overdue = self._mono() - float(stop["deadline"])
        if not stop["sent"]:
            if shim.bears(pid, spec["token"]):
                os.kill(pid, signal.SIGTERM)
                self._write(name, "stop.json", {**stop, "sent": True})
        elif overdue > PATIENCE:
            shim.kill(pid, spec["token"])  # its child dies with it
        elif overdue > 0:
            _kill_group(int(started["child"]), spec["token"])
        return True

    def _sweep(self, token: str, started: dict[str, Any] | None) -> None:
        """Kill what a lost process may have left behind: once, by the token in its environment."""
        if started is not None and token not in self._swept:
            shim.kill_bearers(token)
            self._swept.add(token)

    def _kill_unknown(self, name: str) -> None:
        started = self._files.read(self._path(name, "started.json"))
        if started is not None:
            shim.kill(int(started.get("shim", 0)), str(started.get("token", "")))


def _kind(name: str) -> str:
    """Guess the kind of a process whose spec cannot be read, by its name."""
    if name.startswith("gateway-"):
        return "gateway"
    return "run" if name.startswith("run-") else "replica"


def _was_begun(folder: str) -> bool:
    """Say whether a start got as far as writing something: a full disk may leave an empty folder."""
    return any(os.path.exists(os.path.join(folder, file)) for file in ("spec.json", "lock"))


def _kill_group(pid: int, token: str) -> None:
    if shim.bears(pid, token):
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            shim.kill(pid, token)
