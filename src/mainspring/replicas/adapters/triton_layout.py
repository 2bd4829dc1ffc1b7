"""`python -m mainspring.replicas.adapters.triton_layout PACKAGES WORK PREFIX`: what Triton needs beside its models.

What this is: the Python backend as Triton looks for it, with the stub of this interpreter's version, as links to the
environment; and shared memory that an earlier server of this folder left when it was killed, removed. Who calls it:
the keeper, before it starts Triton. Exit status: 0, or 2 with the reason on stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

STUB = "triton_python_backend_stub"
MEMORY = Path("/dev/shm")  # noqa: S108  # where Triton's Python backend has its regions
FAMILY = "mainspring-"
AGE = 60.0
"""Seconds after which a region that nobody has in memory is taken for forgotten."""


def lay_out(packages: Path, work: Path, version: str) -> None:
    """Link the backend into `work/backends/python`; raises `OSError`, `LookupError`."""
    server = packages / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / version / STUB
    if not stub.is_file():
        there = ", ".join(sorted(one.name for one in (server / "python_backend_stubs").glob("*")))
        raise LookupError(f"Triton's Python backend has no stub for Python {version}; it has {there or 'none'}")
    into = work / "backends" / "python"
    for folder in (into, work / "models", work / "control"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for one in (*(server / "backends" / "python").iterdir(), stub):
        link = into / one.name
        link.unlink(missing_ok=True)
        link.symlink_to(one)


def clear(prefix: str, folder: Path = MEMORY, age: float = AGE) -> None:
    """Remove regions of shared memory whose server was killed.

    Those of this server's last life (`prefix`), and any of Mainspring's that are `age` seconds old and that no process
    has: a replica that was killed may never come back by its name.
    """
    found = list(folder.glob(f"{FAMILY}*")) if folder.is_dir() else []
    mapped = _mapped() if found else ""
    for one in found:
        with contextlib.suppress(OSError):
            is_old = time.time() - one.stat().st_mtime > age and str(one) not in mapped
            if one.stat().st_uid == os.getuid() and (one.name.startswith(prefix) or is_old):
                one.unlink()


def _mapped() -> str:
    """What all processes have in memory, one after another; those of other users can't be read, nor be ours."""
    parts = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parts.append((process / "maps").read_text(errors="replace"))
    return "\n".join(parts)


def main(words: Sequence[str]) -> int:
    """Run; returns the exit status."""
    packages, work, prefix = words
    try:
        clear(prefix)
        lay_out(Path(packages), Path(work), f"{sys.version_info[0]}.{sys.version_info[1]}")
    except (OSError, LookupError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
