"""The shim: one small parent per supervised process, which outlives the controller.

    python -I -S .../shim.py DIR          (or: python -m mainspring.worlds.local.shim DIR)

What this is: it takes a lock on DIR/lock for its whole life, starts the program that DIR/spec.json names, forwards
signals to it, and leaves its exit status in DIR/exit.json. The controller knows a process by these files and the
lock alone, so it may be killed and adopt the process later. Who calls it: `processes.Processes.start`.
What it must never do: import anything outside the standard library (it is run by its path, isolated, so that it
starts in milliseconds), outlive its child, or leave its child behind when it is killed.

Files of DIR, each written whole and then renamed:
    spec.json     the controller: {name, kind, generation, token, argv, env, log, cwd, since}
    started.json  the shim: {shim, child, token, generation}      process ids
    address.json  the child: {address, pid}                       once it is ready to answer
    stop.json     the controller: {token, generation, grace, deadline, sent}
    exit.json     the shim: {token, generation, status, reason, cpu_seconds, max_rss, ended}
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, NoReturn

TOKEN = "MAINSPRING_TOKEN"  # noqa: S105  a variable's name; in the environment of the shim, its child, and all that they start
LOG_LIMIT = 20 * 1024 * 1024  # bytes; a longer log is put aside at the next start
LOCK_WAIT = 5.0  # seconds that a new shim waits for the last one to let go
RESERVED = 4096  # bytes kept on disk from the start, so that an exit status can be written on a full disk
PR_SET_PDEATHSIG = 1
REFUSED = 3  # exit status of the launcher when another shim holds the lock


def write_whole(path: str, data: bytes, *, durable: bool = True) -> None:
    """Replace a file in one step: readers see the old or the new content, never a part.

    Raises `OSError`, and then leaves neither a changed file nor a temporary one.
    """
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(os.path.dirname(path) or ".")
    except OSError:
        _unlink(temporary)
        raise


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def take_lock(path: str, wait: float) -> int | None:
    """Take the exclusive lock, waiting at most `wait` seconds; the file descriptor, or None."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(fd)
                return None
            time.sleep(0.005)


def bears(pid: int, token: str) -> bool:
    """Say whether a process is ours: it has the token in its environment."""
    if pid <= 1 or not token:
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{TOKEN}={token}".encode() in file.read().split(b"\0")
    except OSError:
        return not os.path.isdir("/proc/self")  # without /proc the held lock must do


def kill(pid: int, token: str) -> None:
    """Kill a process, if it has the token."""
    if bears(pid, token):
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def kill_bearers(token: str) -> None:
    """Kill every process that was started under a token, itself left out; what they fork meanwhile is killed too."""
    for _ in range(5):
        try:
            pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        except OSError:
            return
        found = [pid for pid in pids if pid != os.getpid() and bears(pid, token)]
        if not found:
            return
        for pid in found:
            kill(pid, token)
        time.sleep(0.005)


class Shim:
    """One life of one supervised process."""

    def __init__(self, folder: str, spec: dict[str, Any]) -> None:
        self._folder = folder
        self._spec = spec
        self._child = 0
        self._asked = 0  # the signal to forward, when it came before there was a child
        self._log_from = 0

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def live(self) -> None:
        """Start the child, wait for its end, write down how it ended."""
        for name in ("address.json", "exit.json", "started.json"):
            _unlink(self._path(name))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._forward)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, self._kill)
        self._reserve()
        try:
            self._start()
        except OSError as error:
            self._write_exit(127, f"cannot start it: {error.strerror or error}", 0.0, 0)
            return
        self._note_start()
        if self._asked:
            self._forward(self._asked, None)
        # Left unreaped for now: its process id cannot be taken by another while we clear up its group.
        os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
        self._kill(signal.SIGKILL, None)
        kill_bearers(self._spec["token"])  # a server's workers may have left its process group
        _, wait_status, usage = os.wait4(self._child, 0)
        status = os.waitstatus_to_exitcode(wait_status)
        reason = self._reason(status)
        self._write_exit(status, reason, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def _start(self) -> None:
        spec = self._spec
        log = self._open_log(spec["log"])
        environment = {**os.environ, **spec["env"], TOKEN: spec["token"]}
        prctl = _prctl()
        parent = os.getpid()
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                if prctl is not None:
                    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                    if os.getppid() != parent:
                        os._exit(127)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
                    signal.signal(number, signal.SIG_DFL)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.chdir(spec["cwd"])
                os.execvpe(spec["argv"][0], spec["argv"], environment)  # noqa: S606
            except OSError as error:
                os.write(write_end, str(error.errno or 1).encode())
            finally:
                os._exit(127)
        self._child = child
        os.close(write_end)
        os.close(log)
        failed = os.read(read_end, 16)  # closed by a successful exec
        os.close(read_end)
        if failed:
            os.waitpid(child, 0)
            self._child = 0
            code = int(failed)
            raise OSError(code, os.strerror(code))

    def _open_log(self, path: str) -> int:
        try:
            if os.path.getsize(path) > LOG_LIMIT:
                os.replace(path, path + ".1")
        except OSError:
            pass
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._log_from = os.fstat(log).st_size
        return log

    def _note_start(self) -> None:
        started = {
            "shim": os.getpid(),
            "child": self._child,
            "token": self._spec["token"],
            "generation": self._spec["generation"],
        }
        for _ in range(50):  # a full disk: better late than a process that nobody can name
            try:
                write_whole(self._path("started.json"), _json(started), durable=False)
                return
            except OSError:
                time.sleep(0.1)

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        if not self._child:
            self._asked = number
            return
        try:
            os.kill(self._child, number)
        except ProcessLookupError:
            return
        grace = self._grace()
        if grace is not None:
            signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001))

    def _grace(self) -> float | None:
        """Read how long the child may take, so that it is held to it even with the controller dead."""
        try:
            with open(self._path("stop.json"), "rb") as file:
                stop = json.load(file)
            return float(stop["grace"]) if stop["token"] == self._spec["token"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _kill(self, _number: int, _frame: FrameType | None) -> None:
        for kill in (os.killpg, os.kill):
            try:
                kill(self._child, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def _reason(self, status: int) -> str:
        if status == 0:
            return ""
        if status < 0:
            try:
                return f"killed by {signal.Signals(-status).name}"
            except ValueError:
                return f"killed by signal {-status}"
        try:
            with open(self._spec["log"], "rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(self._log_from, log.tell() - 16384))
                lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
        except OSError:
            lines = []
        last = next((line for line in reversed(lines) if line), "")
        return last[:500] or f"ended with status {status}"

    def _reserve(self) -> None:
        try:
            write_whole(self._path("exit.reserved"), b" " * RESERVED, durable=False)
        except OSError:
            pass

    def _write_exit(self, status: int, reason: str, cpu: float, rss: int) -> None:
        data = _json(
            {
                "token": self._spec["token"],
                "generation": self._spec["generation"],
                "status": status,
                "reason": reason,
                "cpu_seconds": round(cpu, 6),
                "max_rss": rss,
                "ended": time.time(),
            }
        )
        reserved = self._path("exit.reserved")
        for _ in range(100):
            try:
                # Not truncated first: writing over blocks that are there needs no space on most file systems.
                with open(os.open(reserved, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
                    file.write(data.ljust(RESERVED))
                    file.truncate()
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(reserved, self._path("exit.json"))
                return
            except OSError:
                time.sleep(0.1)


def _prctl() -> Any:
    """Load `prctl` before the fork; None where the system has none."""
    if sys.platform != "linux":
        return None
    return ctypes.CDLL(None, use_errno=True).prctl


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def main(arguments: list[str]) -> NoReturn:
    """Detach, hold the lock, live. Returns to the caller (by exit) once the lock is held, or cannot be.

    The lock is taken before the fork and inherited over it: when the launcher has ended, the lock is held.
    """
    folder = os.path.abspath(arguments[0])
    lock = take_lock(os.path.join(folder, "lock"), LOCK_WAIT)
    if lock is None:
        os._exit(REFUSED)
    with open(os.path.join(folder, "spec.json"), "rb") as file:
        spec = json.load(file)
    sys.stdout.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    try:
        Shim(folder, spec).live()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
