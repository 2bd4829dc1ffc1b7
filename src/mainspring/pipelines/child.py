"""A step's process: forked from the host, watched, and stopped in time.

The host forks, so that a step begins with the heavy libraries loaded. What the step says goes to its log by file
descriptor; how it ended comes back in a report file. Who calls it: the run. What it must never do: leave a process
behind, or take a step for finished that did not say so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mainspring.errors import EnvironmentError_, MainspringError, UserCodeError
from mainspring.pipelines.files import read_json, write_json

_PR_SET_PDEATHSIG = 1
_FULL = {errno.ENOSPC, errno.EDQUOT}
_SPACE = "free some space, then run again"
_NO_SPACE = 75  # exit status of a step that could not even report


class Stopped(Exception):
    """The host was asked to stop."""


class Signals:
    """SIGTERM and SIGINT as something that can be waited for together with a child."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.stopped = False

    def install(self) -> None:
        """From now on, SIGTERM and SIGINT ask to stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, *_: object) -> None:
        self.stopped = True
        os.write(self._writer, b"x")

    def check(self) -> None:
        """Raise `Stopped` when it was asked for."""
        if self.stopped:
            raise Stopped


@dataclass(frozen=True, slots=True)
class Ended:
    """How a step's process ended."""

    ok: bool
    seconds: float  # CPU
    result: Any = None  # what the work returned: plain values
    code: str = ""
    message: str = ""
    hint: str = ""
    kind: str = ""  # "user" | "machine" | "signal" | "timeout"


def run(
    step: str, work: Callable[[], Any], *, log: Path, report: Path, code_root: Path, timeout: float, signals: Signals
) -> Ended:
    """Do `work` in a forked process and wait for its end, `timeout` seconds (of a monotonic clock) at most."""
    report.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    host = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(step, work, log, report, code_root, host)
    with contextlib.suppress(OSError):  # it did so itself, or has ended
        os.setpgid(pid, pid)
    try:
        timed_out = not _wait(pid, timeout, signals)
    finally:
        _kill_group(pid)  # the step, when it must go, and whatever it started
        _, status, usage = os.wait4(pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    if timed_out:
        return Ended(False, seconds, code="step-timeout", message=_timeout_message(step, timeout), kind="timeout")
    return _ending(step, status, seconds, report)


def _timeout_message(step: str, timeout: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if timeout >= size and timeout % size == 0:
            return f"step `{step}` timed out after `{timeout / size:g}{unit}`"
    return f"step `{step}` timed out after `{timeout:g}s`"


def _wait(pid: int, timeout: float, signals: Signals) -> bool:
    """Wait until the child has ended (it is not yet reaped); False when its time is up."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(signals.reader, select.POLLIN)
        until = time.monotonic() + timeout
        while True:
            signals.check()
            left = until - time.monotonic()
            if left <= 0:
                return False
            for ready, _ in poll.poll(min(left, 3600) * 1000 + 1):
                if ready == descriptor:
                    return True
    finally:
        os.close(descriptor)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):  # nobody is left
        os.killpg(pid, signal.SIGKILL)


def _ending(step: str, status: int, seconds: float, report: Path) -> Ended:
    told = read_json(report)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        hint = "the machine may be out of memory: look at the step's log" if number == signal.SIGKILL else ""
        return Ended(
            False,
            seconds,
            code="step-killed",
            message=f"step `{step}` was killed by `{name}`",
            hint=hint,
            kind="signal",
        )
    if not isinstance(told, dict) or "ok" not in told:
        code = os.WEXITSTATUS(status)
        if code == _NO_SPACE:
            message = f"step `{step}` filled the disk"
            return Ended(False, seconds, code="disk-full", message=message, hint=_SPACE, kind="machine")
        message = f"step `{step}` ended with exit status `{code}` and without a result"
        return Ended(
            False, seconds, code="step-exit", message=message, hint="a step returns; it does not exit", kind="user"
        )
    if told["ok"]:
        return Ended(True, seconds, result=told["result"])
    return Ended(False, seconds, code=told["code"], message=told["message"], hint=told["hint"], kind=told["kind"])


# --- in the child ------------------------------------------------------------------------------------


def _child(step: str, work: Callable[[], Any], log: Path, report: Path, code_root: Path, host: int) -> NoReturn:
    """Run the work, report, and leave without the host's clean-up."""
    status = 1
    try:
        _settle(log, host)
        told = _attempt(step, work, code_root)
        sys.stdout.flush()
        sys.stderr.flush()
        write_json(report, json.loads(json.dumps(told, default=str)))
        status = 0 if told["ok"] else 1
    except BaseException as error:  # nothing may unwind into the host's code
        if isinstance(error, OSError) and error.errno in _FULL:
            status = _NO_SPACE  # there is no room for the report that would say so
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        os._exit(status)


def _settle(log: Path, host: int) -> None:
    """Be a process group of one's own that dies with the host, and speak into the log."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # the host was faster
        os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:
        os._exit(1)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)


def _attempt(step: str, work: Callable[[], Any], code_root: Path) -> dict[str, Any]:
    try:
        return {"ok": True, "result": work()}
    except MemoryError:
        traceback.print_exc()
        return _failed("memory", f"step `{step}` ran out of memory", "use less data, or a larger machine", "machine")
    except UserCodeError as error:
        traceback.print_exc()
        return _failed(error.code, error.message, error.hint, "user")
    except EnvironmentError_ as error:
        traceback.print_exc()
        return _failed(error.code, error.message, error.hint, "machine")
    except MainspringError as error:
        traceback.print_exc()
        return _failed(error.code, error.message, error.hint, "user")
    except BaseException as error:
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in _FULL:
            return _failed("disk-full", f"step `{step}` filled the disk", _SPACE, "machine")
        return _failed(
            "step-raised", raised(step, error, code_root), "the whole traceback is in the step's log", "user"
        )


def _failed(code: str, message: str, hint: str, kind: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "message": message, "hint": hint, "kind": kind}


def raised(step: str, error: BaseException, code_root: Path) -> str:
    """Say what a step raised and where in the user's own module, in one line."""
    return f"step `{step}` {what_raised(error, code_root)}"


def what_raised(error: BaseException, code_root: Path) -> str:
    """The same without the step's name: "raised `ValueError: no` at `evals.py:20`"."""
    last = traceback.format_exception_only(error)[-1].strip().splitlines()[0]
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(code_root):
            inside = Path(*path.relative_to(code_root).parts[1:])
            where = f" at `{inside}:{frame.lineno}`"
    return f"raised `{last[:500]}`{where}"
