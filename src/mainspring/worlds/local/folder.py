"""The state folder: made, checked, and locked for one controller.

What this is: the door to `.mainspring/`. Who calls it: `app`, before anything else touches the folder.
What it must never do: change a folder that another controller holds, or that a newer Mainspring wrote.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from mainspring.errors import EnvironmentError_, MainspringError
from mainspring.worlds.local.shim import write_whole

VERSION = 1
FOLDERS = ("artefacts", "runs", "cache", "code", "processes", "logs", "acks", "segments", "meter", "secrets")
NETWORK = frozenset(
    (
        *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "drvfs", "afs", "ceph", "fuse.ceph"),
        *("sshfs", "fuse.sshfs", "glusterfs", "fuse.glusterfs", "lustre", "gpfs", "beegfs", "ocfs2", "gfs2"),
        *("davfs", "fuse.davfs2", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse"),
    )
)


class LocalFolder:
    """A state folder that this process holds until `close`, or until it dies."""

    def __init__(self, path: Path) -> None:
        """Open and lock the folder, making it when there is none; raises `EnvironmentError_`."""
        self.path = Path(os.path.abspath(path))
        self._lock = -1
        try:
            self._make()
            _refuse_network(self.path)
            self._lock = _lock(self.path)
            self._check_version()
        except OSError as error:
            self.close()
            raise unusable(self.path, error) from error
        except MainspringError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def clean_stale(self) -> None:
        """Remove what a killed controller left half-done: temporary files, a dead socket, acks of no one."""
        for folder in (self.path, self.path / "acks", *_folders(self.path / "processes")):
            for entry in _files(folder):
                if ".tmp-" in entry.name:
                    entry.unlink(missing_ok=True)
        (self.path / "control.sock").unlink(missing_ok=True)  # ours is not there yet, and no other can be
        for ack in _files(self.path / "acks"):
            if ack.suffix == ".json" and not (self.path / "processes" / ack.stem).is_dir():
                ack.unlink(missing_ok=True)

    def _make(self) -> None:
        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if made or os.stat(self.path).st_mode & 0o077:
            os.chmod(self.path, 0o700)
        for name in FOLDERS:
            (self.path / name).mkdir(exist_ok=True, mode=0o700)

    def _check_version(self) -> None:
        file = self.path / "version"
        try:
            text = file.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            write_whole(str(file), f"{VERSION}\n".encode())
            return
        if text != str(VERSION):
            raise EnvironmentError_(
                "state-newer",
                f"the state folder `{self.path}` has version `{text[:20]}`; this Mainspring knows `{VERSION}`",
                "upgrade Mainspring, or choose another folder with `--state DIR`",
            )


def _lock(path: Path) -> int:
    fd = os.open(path / "controller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "?"
        os.close(fd)
        raise EnvironmentError_(
            "already-up",
            f"another controller (process `{pid}`) holds the state folder `{path}`",
            "see it with `mainspring status`, or stop it with `mainspring down`",
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def holder(path: Path) -> int:
    """Give the process id of the controller that holds a state folder; 0 for none."""
    try:
        fd = os.open(Path(path) / "controller.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return 0
    except BlockingIOError:
        text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)


def file_system(path: Path, mounts: str = "/proc/self/mounts") -> str:
    """Give the type of the file system that a folder lies on; "" where the system does not tell."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        parts = line.split(" ")
        if len(parts) < 3:
            continue
        point = parts[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind


def _refuse_network(path: Path, mounts: str = "/proc/self/mounts") -> None:
    kind = file_system(path, mounts)
    if kind in NETWORK:
        raise EnvironmentError_(
            "network-file-system",
            f"the state folder `{path}` is on a network file system (`{kind}`), where locks and SQLite are not safe",
            "choose a folder on a local disk with `--state DIR`",
        )


def unusable(path: Path, error: OSError) -> EnvironmentError_:
    """Say what is wrong with the folder, in a person's words."""
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return EnvironmentError_(
            "folder-read-only",
            f"the state folder `{path}` cannot be written: {error.strerror}",
            f"make it writable (`chmod u+rwx {path}`), or choose another with `--state DIR`",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentError_(
            "disk-full",
            f"no space is left for the state folder `{path}`",
            f"see what takes it with `du -sh {path}/*`, free some, then `mainspring up` again",
        )
    return EnvironmentError_(
        "folder-unusable", f"the state folder `{path}` cannot be used: {error}", "`mainspring doctor`"
    )


def _files(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_file()]
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return []
