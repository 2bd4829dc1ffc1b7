"""What this machine has: its CPUs and memory from /proc, its GPUs from the driver (NVML).

What this is: one look, with a time limit. Who calls it: `catalog here`, and whoever places things on `machine: this`;
started by path, this file is also the child that speaks to the driver. What it must never do: raise because there is
no GPU, or wait for a driver that hangs: it is asked by a child process, since a thread stuck in the driver keeps its
process from ending. `pynvml` (extra `nvidia`) is imported in this file only, and only in that child.

Units: bytes, watts. A core is what the scheduler gives (a hardware thread, where the machine has two a core).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

LIMIT = 15.0
"""Seconds that the driver is given: with eight GPUs and no persistence mode it takes some ten to wake up."""
CHILD = (sys.executable, "-P", str(Path(__file__).resolve()))
"""Asks the driver, and writes JSON."""
FEATURES = {"avx2": "avx2", "avx512": "avx512f", "vnni": "avx512_vnni", "amx": "amx_int8", "neon": "asimd"}
"""What inference runs on, and the flag that tells of it."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, as the driver tells of it; None for what it doesn't tell."""

    index: int
    name: str  # "NVIDIA H100 80GB HBM3"
    uuid: str
    memory: int | None  # bytes
    power: float | None  # the limit that is set, watts
    mig: bool | None  # split, or set to be
    slices: tuple[str, ...] = ()  # "1g.10gb"
    type: str = ""  # the catalogue's name; "" for one that it doesn't have


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine, or as much of it as this process may use."""

    cpu: str  # "Intel(R) Xeon(R) Platinum 8480C"; the architecture where that isn't told
    cores: float  # that this process may use: affinity and cgroup quota count
    threads: int  # logical CPUs of the machine
    features: tuple[str, ...]  # keys of `FEATURES`
    memory: int | None  # bytes that this process may use: the cgroup's limit counts
    gpus: tuple[Device, ...]
    driver: str  # "570.133.20"; "" when there is none
    why: str  # a sentence, when GPUs may be missing from the list; "" when all is told


def machine(limit: float = LIMIT, root: Path = Path("/"), ask: Sequence[str] = CHILD) -> Machine:
    """What this machine has; takes at most some `limit` seconds, and never raises for what isn't there.

    `root` is where /proc and /sys are; `ask` is the command that lists the GPUs.
    """
    gpus, driver, why = devices(limit, root, ask)
    text = _read(root / "proc/cpuinfo")
    flags = set((_first(text, "flags") or _first(text, "Features")).split())
    logical = len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or os.cpu_count() or 1
    return Machine(
        cpu=_first(text, "model name") or platform.machine() or "unknown",
        cores=_cores(root),
        threads=logical,
        features=tuple(name for name, flag in FEATURES.items() if flag in flags),
        memory=_memory(root),
        gpus=gpus,
        driver=driver,
        why=why,
    )


def devices(
    limit: float = LIMIT, root: Path = Path("/"), ask: Sequence[str] = CHILD
) -> tuple[tuple[Device, ...], str, str]:
    """The GPUs, the driver's version, and why there may be more than that ("" when all is told)."""
    there = any((root / path).exists() for path in ("proc/driver/nvidia/version", "dev/nvidiactl", "dev/dxg"))
    if tuple(ask) == CHILD and importlib.util.find_spec("pynvml") is None:
        if there:
            return (), "", "an NVIDIA driver is here, but not its library for Python: pip install 'mainspring[nvidia]'"
        return (), "", "no NVIDIA driver was found"
    told, why = _ask(limit, ask)
    try:
        found = tuple(_device(one) for one in told.get("gpus", ()))
        return found, str(told.get("driver", "")), why or str(told.get("why", ""))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return (), "", f"the driver's answer could not be read ({type(error).__name__})"


def _ask(limit: float, ask: Sequence[str]) -> tuple[dict[str, Any], str]:
    try:
        child = subprocess.Popen(ask, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        return {}, f"the driver could not be asked: {error.strerror}"
    assert child.stdout is not None
    try:
        out, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        child.kill()
        # A child that is stuck inside the driver can't be reaped, and is not waited for.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
        child.stdout.close()
        return {}, f"the NVIDIA driver did not answer within {limit:g} s: `nvidia-smi` would hang too"
    if child.returncode:
        return {}, f"the driver's library failed (exit status {child.returncode})"
    try:
        told = json.loads(out)
    except ValueError:
        return {}, "the driver's answer could not be read"
    return (told, "") if isinstance(told, dict) else ({}, "the driver's answer could not be read")


def _device(told: dict[str, Any]) -> Device:
    device = Device(
        index=int(told["index"]),
        name=str(told["name"]),
        uuid=str(told["uuid"]),
        memory=None if told["memory"] is None else int(told["memory"]),
        power=None if told["power"] is None else float(told["power"]),
        mig=None if told["mig"] is None else bool(told["mig"]),
        slices=tuple(str(one) for one in told["slices"]),
    )
    return replace(device, type=_type(device.name))


def _type(name: str) -> str:
    # Imported here: the child runs this file without the rest of Mainspring on its path.
    from mainspring.errors import InputError
    from mainspring.facts.gpus import find

    try:
        return find(name).name
    except InputError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first(text: str, key: str) -> str:
    match = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _groups(root: Path) -> list[Path]:
    """The folders of this process's cgroups and all above them, in both versions of cgroups."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        kinds, _, path = rest.partition(":")
        base = root / "sys/fs/cgroup" / kinds if kinds else root / "sys/fs/cgroup"
        inside = base / path.strip("/")
        # In a container the path is often the host's, and only the top is there.
        found += [inside, *(up for up in inside.parents if up == base or base in up.parents)]
    return list(dict.fromkeys(found))


def _cores(root: Path) -> float:
    allowed = getattr(os, "sched_getaffinity", None)
    cores = float(len(allowed(0)) if allowed else os.cpu_count() or 1)
    for group in _groups(root):
        quota, _, period = _read(group / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (_read(group / f"cpu.cfs_{one}_us").strip() for one in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):
            cores = min(cores, int(quota) / int(period))
    return cores


def _memory(root: Path) -> int | None:
    match = re.match(r"(\d+) kB", _first(_read(root / "proc/meminfo"), "MemTotal"))
    sizes = [int(match[1]) * 1024] if match else []
    if not sizes:
        with contextlib.suppress(AttributeError, ValueError, OSError):  # not Linux
            sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for group in _groups(root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            said = _read(group / name).strip()
            if said.isdigit():  # version 1 says "no limit" by a number near 2^63
                sizes.append(int(said))
    return min(sizes, default=None)


def _list() -> dict[str, Any]:
    """Ask the driver: the child's part."""
    nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        missing = type(error).__name__ in ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded")
        return {"gpus": [], "why": "no NVIDIA driver was found" if missing else f"the NVIDIA driver says: {error}"}
    count = nvml.nvmlDeviceGetCount()
    gpus, lost = [], []
    for index in range(count):
        try:
            gpus.append(_told(nvml, index))
        except nvml.NVMLError as error:  # one GPU that fell off the bus hides no other
            lost.append(f"GPU {index}: {error}")
    why = "; ".join(lost) if lost else "" if count else "the NVIDIA driver has no GPU"
    return {"driver": _text(nvml.nvmlSystemGetDriverVersion()), "gpus": gpus, "why": why}


def _told(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(call: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, call)(*arguments)
        except (nvml.NVMLError, AttributeError):  # this type, or this version of the library, doesn't tell
            return None

    memory, power, mig = (
        ask(f"nvmlDeviceGet{what}", handle) for what in ("MemoryInfo", "EnforcedPowerLimit", "MigMode")
    )
    slices = []
    for at in range((ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0) if mig and mig[0] else 0):
        part = ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, at)
        name = _text(ask("nvmlDeviceGetName", part) or "") if part is not None else ""
        slices += [name.partition(" MIG ")[2]] if " MIG " in name else []
    return {
        "index": index,
        "name": _text(nvml.nvmlDeviceGetName(handle)),
        "uuid": _text(ask("nvmlDeviceGetUUID", handle) or ""),
        "memory": None if memory is None else int(memory.total),
        "power": None if power is None else power / 1000.0,
        "mig": None if mig is None else bool(mig[0] or mig[1]),
        "slices": slices,
    }


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    print(json.dumps(_list()))
