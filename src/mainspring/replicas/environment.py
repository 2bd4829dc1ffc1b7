"""Environments of runtimes: a virtual environment for each requirement set, in a cache that all stacks share.

What this is: found, made under a lock, held while it is used, removed. An environment counts only when its marker is
there, and the marker is written last: whatever cuts an installation off, the next one begins anew. Who calls it: the
keeper of a server, `mainspring runtime`. What it must never do: report half an environment, or remove one in use.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mainspring.errors import EnvironmentError_, InputError
from mainspring.replicas import environment_install, environment_lock
from mainspring.replicas.environment_lock import requirements
from mainspring.runtimes.descriptor import Needed, Runtime

__all__ = [
    "Installed", "all_of", "cache", "find", "folder_of", "hold", "install", "missing", "of_own_interpreter", "remove",
    "requirements", "unused",
]  # fmt: skip

MARKER = "installed.json"
IN_USE = "in-use"
POLL = 0.2  # seconds between two tries for a lock
REMINDER = 10.0  # seconds between two lines about waiting
PYTHON = f"py{sys.version_info[0]}{sys.version_info[1]}"
_FOLDER = re.compile(r"^(?P<name>.+)-py\d+-[0-9a-f]{12}$")


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that is wholly there."""

    runtime: str
    root: Path
    python: Path  # its interpreter
    packages: Path  # its site-packages
    digest: str  # of its requirement set; "" for Mainspring's own interpreter
    made: float  # Unix seconds
    bytes: int  # on disk, files that it shares with the installer's cache included


def cache() -> Path:
    """Where environments are: `$MAINSPRING_RUNTIMES`, else `mainspring/runtimes` in the user's cache folder."""
    if said := os.environ.get("MAINSPRING_RUNTIMES"):
        return Path(said).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "mainspring" / "runtimes"


def folder_of(runtime: Runtime, root: Path | None = None) -> Path:
    """Where a runtime's environment is, or would be. Raises `InputError` when it has no requirement set."""
    found = environment_lock.digest(requirements(runtime))
    return (root or cache()) / f"{runtime.environment}-{PYTHON}-{found}"


def of_own_interpreter(runtime: Runtime) -> Installed:
    """Mainspring's own environment, which serves the runtimes that have none of their own."""
    packages = Path(sysconfig.get_path("purelib"))
    return Installed(runtime.name, Path(sys.prefix), Path(sys.executable), packages, "", 0.0, 0)


def find(runtime: Runtime, root: Path | None = None) -> Installed | None:
    """The environment of a runtime, or None when it is not, or not wholly, installed. Reads one small file."""
    if not runtime.environment:
        return of_own_interpreter(runtime)
    return _read(runtime.name, folder_of(runtime, root))


def install(
    runtime: Runtime,
    tell: Callable[[str], None],
    root: Path | None = None,
    stop: Callable[[], bool] | None = None,
) -> Installed:
    """Make a runtime's environment; one that is there is returned at once.

    `tell` gets lines of progress; `stop` is asked twice a second. While another process makes the same one, this
    waits for it. Raises `EnvironmentError_` when it can't be made, and `InputError` when it has no requirement set.
    """
    if (present := find(runtime, root)) is not None:
        return present
    root, stopped = root or cache(), stop or (lambda: False)
    text = requirements(runtime)
    try:
        with _making(runtime, root, tell, stopped) as lock:
            if (present := find(runtime, root)) is not None:
                tell(f"{runtime.environment}: installed by another process")
                return present
            return _make(runtime, text, folder_of(runtime, root), tell, stopped, lock)
    except OSError as error:
        raise _in_the_way(runtime.environment, root, error) from error


def _make(
    runtime: Runtime, text: str, folder: Path, tell: Callable[[str], None], stop: Callable[[], bool], lock: int
) -> Installed:
    began = time.monotonic()
    if folder.exists():
        tell(f"{runtime.environment}: removing what an installation that was cut off has left")
        shutil.rmtree(folder)
    try:
        by = environment_install.make(runtime.environment, text, folder, tell, stop, lock)
        (folder / IN_USE).touch()
        size, took = _size(folder), time.monotonic() - began
        _mark(folder, {"digest": environment_lock.digest(text), "made": time.time(), "bytes": size, "by": by})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    tell(f"{runtime.environment}: ready, {size / 1e6:.0f} MB in {took:.0f} s")
    made = _read(runtime.name, folder)
    assert made is not None, folder
    return made


def _mark(folder: Path, facts: dict[str, object]) -> None:
    """Write the marker, whole or not at all."""
    half = folder / f"{MARKER}.half"
    with half.open("w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    half.rename(folder / MARKER)


def _read(name: str, folder: Path) -> Installed | None:
    python = folder / "bin" / "python"
    try:
        facts = json.loads((folder / MARKER).read_bytes())
        if not python.exists():  # the interpreter that it was made with has gone
            return None
        base = {"base": str(folder), "platbase": str(folder)}
        packages = Path(sysconfig.get_path("purelib", "venv", base))
        return Installed(
            name, folder, python, packages, str(facts["digest"]), float(facts["made"]), int(facts["bytes"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _making(runtime: Runtime, root: Path, tell: Callable[[str], None], stop: Callable[[], bool]) -> Iterator[int]:
    """Hold the lock of a requirement set's name, waiting for it; gives its descriptor.

    The installer inherits it: should this process be killed, nobody begins before the installer has ended, too.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / f"{runtime.environment}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        reminded = -REMINDER
        while not _locked(descriptor, fcntl.LOCK_EX):
            if stop():
                message = f"nobody waits any more for the installation of `{runtime.environment}`"
                raise EnvironmentError_("stopped", message, f"mainspring runtime install {runtime.name}")
            if time.monotonic() - reminded >= REMINDER:
                reminded = time.monotonic()
                tell(f"{runtime.environment}: process {_pid(descriptor)} is installing it: waiting for that")
            time.sleep(POLL)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d" % os.getpid(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode("ascii", "replace") or "<unknown>"


def _in_the_way(name: str, root: Path, error: OSError) -> EnvironmentError_:
    full = error.errno in {28, 122, 27}  # ENOSPC, EDQUOT, EFBIG
    message = f"`{name}` can't be installed in `{root}`: {error.strerror or error}"
    hint = "mainspring runtime remove --unused, or " if full else ""
    return EnvironmentError_(
        "disk-full" if full else "runtime-cache", message, f"{hint}name another folder in MAINSPRING_RUNTIMES"
    )


@contextlib.contextmanager
def hold(installed: Installed) -> Iterator[None]:
    """Keep an environment from being removed, as long as this lasts or this process lives.

    Raises `EnvironmentError_` when it has been removed since it was found.
    """
    if not installed.digest:
        yield
        return
    descriptor = -1
    try:
        with contextlib.suppress(OSError):
            descriptor = os.open(installed.root / IN_USE, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        if descriptor < 0 or not (installed.root / MARKER).exists():
            raise EnvironmentError_(
                "environment-gone", f"the environment `{installed.root}` has been removed",
                f"mainspring runtime install {installed.runtime}",
            )  # fmt: skip
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def all_of(root: Path | None = None) -> list[Path]:
    """All folders of environments in the cache, whole or not."""
    root = root or cache()
    return sorted(path for path in root.iterdir() if _FOLDER.match(path.name)) if root.is_dir() else []


def unused(known: list[Runtime], root: Path | None = None) -> list[Path]:
    """The folders that no runtime of `known` would use."""
    wanted = {folder_of(runtime, root) for runtime in known if runtime.environment and _has_set(runtime)}
    return [path for path in all_of(root) if path not in wanted]


def _has_set(runtime: Runtime) -> bool:
    try:
        requirements(runtime)
    except InputError:
        return False
    return True


def remove(runtime: Runtime | Path, root: Path | None = None) -> int:
    """Remove all environments of a runtime, or one by its folder; returns the bytes that are free by that.

    Files that the installer's cache shares stay there, and are not counted. Raises `InputError` when there is none,
    while one is used, and while one is made.
    """
    if isinstance(runtime, Path):
        folders = [runtime] if _FOLDER.match(runtime.name) and runtime.is_dir() else []
        said = str(runtime)
    else:
        mine = [path for path in all_of(root) if _name(path) == runtime.environment]
        folders, said = mine, runtime.name
    if not folders:
        raise InputError("not-installed", f"`{said}` is not installed", "mainspring runtime list")
    return sum(_remove(folder) for folder in folders)


def _name(folder: Path) -> str:
    found = _FOLDER.match(folder.name)
    return found["name"] if found else ""


def _remove(folder: Path) -> int:
    with contextlib.ExitStack() as held:
        for path, why in (
            (folder.parent / f"{_name(folder)}.lock", "is being installed"), (folder / IN_USE, "is used by a replica")
        ):  # fmt: skip
            if not path.exists():  # an installation that was cut off has nothing to hold
                continue
            descriptor = os.open(path, os.O_RDWR)
            held.callback(os.close, descriptor)
            if not _locked(descriptor, fcntl.LOCK_EX):
                raise InputError("in-use", f"`{folder.name}` {why}: it is not removed", "mainspring status")
        freed = _size(folder, own=True)
        (folder / MARKER).unlink(missing_ok=True)  # from here on it does not count
        shutil.rmtree(folder)
    return freed


def _size(folder: Path, *, own: bool = False) -> int:
    """Bytes on disk; `own`: without files that something outside links to, too."""
    seen: dict[int, list[int]] = {}  # by inode: links in here, links in all, bytes
    for where, _, files in os.walk(folder):
        for name in files:
            entry = os.lstat(os.path.join(where, name))
            seen.setdefault(entry.st_ino, [0, entry.st_nlink, entry.st_blocks * 512])[0] += 1
    return sum(size for here, links, size in seen.values() if not own or here >= links)


def missing(runtime: Runtime) -> tuple[Needed, ...]:
    """What a runtime needs and this machine does not have."""
    return tuple(one for one in runtime.needed if not (_library if one.kind == "library" else shutil.which)(one.name))


def _library(name: str) -> bool:
    """Whether a shared library can be loaded; tried in a process of its own, so that nothing of it stays in here."""
    found = ctypes.util.find_library(name) or name
    code = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    tried = subprocess.run([sys.executable, "-I", "-S", "-c", code, found], capture_output=True, check=False)
    return tried.returncode == 0
