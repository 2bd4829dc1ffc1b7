"""What else this machine did while something was measured: processor time that is not ours, and time that was stolen.

Who calls it: the benchmarks of serving. What it must never do: correct a figure; it only says how far to trust one.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024.0  # kB


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found, at = [pid], 0
    while at < len(found):
        for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
            try:
                found += [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # it ended between the two calls
        at += 1
    return found


def cpu(pid: int) -> float:
    """CPU seconds that a process and its living descendants have used."""
    total = 0.0
    for one in tree(pid):
        try:
            parts = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(parts[11]) + int(parts[12])) / _TICK
    return total


def pss(pid: int) -> float:
    """The proportional set size of a process and its descendants, MiB."""
    total = 0.0
    for one in tree(pid):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += next(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / MIB
    return total


def _machine() -> tuple[float, float]:
    """CPU seconds that all processes have used (without interrupts), and seconds stolen by the host."""
    user, nice, system, _idle, _wait, _irq, _soft, steal = (
        int(part) for part in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system) / _TICK, steal / _TICK


@contextmanager
def awake() -> Iterator[bool]:
    """Idle cores do not sleep while this lasts (the kernel's `pm_qos`); False where that is not allowed.

    To wake a core costs the one who sends, on a virtual machine several microseconds; a contender that keeps the
    load's core busy without a pause never pays it, so it makes a quick one look quicker still beside a slow one.
    """
    try:
        held = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError:
        yield False
        return
    try:
        os.write(held, struct.pack("i", 0))
        yield True
    finally:
        os.close(held)


class Watch:
    """Looks at the machine from its making to `read`; `ours` are the processes that belong to the measurement."""

    def __init__(self, ours: Iterable[int] = ()) -> None:
        self._ours = tuple(ours)
        self._began = time.perf_counter()
        self._start = (*_machine(), self._own())

    def _own(self) -> float:
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return own + sum(cpu(pid) for pid in self._ours)

    def read(self) -> tuple[float, float]:
        """Cores' worth of other processes, and of stolen time, on average since the start."""
        seconds = time.perf_counter() - self._began
        busy, stolen = _machine()
        others = (busy - self._start[0]) - (self._own() - self._start[2])
        return max(others, 0.0) / seconds, (stolen - self._start[1]) / seconds
