"""A runtime of a package of its own, with a requirement set of one small wheel: what environments are tested with."""

from __future__ import annotations

import base64
import hashlib
import importlib
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from mainspring.runtimes.catalog import runtimes
from mainspring.runtimes.descriptor import Runtime

MODULE = "tiny_brought"
FILES: Mapping[str, bytes] = {
    "tinyserver/__init__.py": b"ANSWER = 42\n",
    **{f"tinyserver/part{i}.py": b"X = 1\n" for i in range(150)},
}


def wheel(folder: Path, name: str, files: Mapping[str, bytes] = FILES, version: str = "1.0") -> str:
    """Write a wheel; returns its line of a requirement set."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    held = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(data)},{len(data)}\n" for path, data in held.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**held, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(member, data)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@contextmanager
def brought(folder: Path) -> Iterator[Path]:
    """A package in `folder` brings the runtime `tiny`; gives the file of its requirement set, to be written."""
    module, info = folder / MODULE, folder / f"{MODULE}-1.0.dist-info"
    (module / "data").mkdir(parents=True)
    info.mkdir()
    (module / "__init__.py").write_text(
        "from mainspring.runtimes.descriptor import Runtime\n"
        "TINY = Runtime('tiny', 'Tiny server', 'predictive', runs=True, formats=('onnx',), environment='tiny')\n"
    )
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mainspring.runtimes]\ntiny = {MODULE}:TINY\n")
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    runtimes.cache_clear()
    try:
        yield module / "data" / "tiny.txt"
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(MODULE, None)
        runtimes.cache_clear()


def own_index(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Have uv and pip take wheels from a folder only, and keep nothing; gives the folder of wheels."""
    wheels = folder / "wheels"
    for name, value in {
        "UV_FIND_LINKS": wheels, "PIP_FIND_LINKS": wheels, "UV_NO_INDEX": 1, "PIP_NO_INDEX": 1,
        "PIP_CONFIG_FILE": "/dev/null",
        "UV_CACHE_DIR": folder / "uv", "PIP_CACHE_DIR": folder / "pip", "UV_NO_CONFIG": 1, "NO_PROXY": "127.0.0.1",
        "MAINSPRING_RUNTIMES": folder / "cache",
    }.items():  # fmt: skip
        patch.setenv(name, str(value))
    for name in ("PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL"):
        patch.delenv(name, raising=False)
    return wheels


def tiny() -> Runtime:
    """The runtime that the package brings, as the catalogue finds it."""
    return runtimes()["tiny"]
