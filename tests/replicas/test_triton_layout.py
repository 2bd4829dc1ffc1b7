"""What Triton needs beside its models: the backend as links, and no shared memory of servers that were killed."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from mainspring.replicas.adapters.triton_layout import STUB, clear, lay_out, main


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """The files of the package that count."""
    server = tmp_path / "packages" / "pytriton" / "tritonserver"
    for name in (
        "backends/python/libtriton_python.so",
        "backends/python/utils.py",
        f"python_backend_stubs/3.11/{STUB}",
    ):
        (server / name).parent.mkdir(parents=True, exist_ok=True)
        (server / name).write_text(name)
    return tmp_path / "packages"


def test_the_backend_is_laid_out(packages: Path, tmp_path: Path) -> None:
    """Backend and stub lie in one folder, also the second time; the folder of the socket is the user's alone."""
    for _ in range(2):
        lay_out(packages, tmp_path / "work", "3.11")
    found = {one.name: one.read_text() for one in (tmp_path / "work" / "backends" / "python").iterdir()}
    assert set(found) == {"libtriton_python.so", "utils.py", STUB}
    assert found[STUB] == f"python_backend_stubs/3.11/{STUB}"
    assert (tmp_path / "work" / "control").stat().st_mode & 0o777 == 0o700


def test_a_python_without_a_stub(packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said which there are."""
    with pytest.raises(LookupError, match=r"no stub for Python 3\.99; it has 3\.11"):
        lay_out(packages, tmp_path / "work", "3.99")
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "work"), "mainspring-x"]) == 2
    assert "it has none" in capsys.readouterr().err


def test_forgotten_memory_is_removed(tmp_path: Path) -> None:
    """This server's own regions, and old ones that nobody has; not a young one, one in use, or somebody else's."""
    names = ("mainspring-mine-1", "mainspring-old-1", "mainspring-used-1", "mainspring-young-1", "other-old-1")
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 4096)
    for name in names[1:3] + names[4:]:
        os.utime(tmp_path / name, (0, 0))
    with (tmp_path / "mainspring-used-1").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        clear("mainspring-mine", tmp_path)
        assert sorted(one.name for one in tmp_path.iterdir()) == [
            "mainspring-used-1", "mainspring-young-1", "other-old-1",
        ]  # fmt: skip
    clear("mainspring-mine", tmp_path / "nowhere")
