"""Snapshots of user code: complete, content-addressed, checked, kept apart from each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from mainspring.artefacts import code
from mainspring.errors import ArtefactError, UserCodeError


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_takes_along_what_is_imported(tmp_path: Path) -> None:
    """A module comes with its own imports, also relative and inside functions, and nothing else."""
    folder = write(
        tmp_path / "stack",
        flights="import json\nfrom side import add\nfrom pack import inner\ndef f(x):\n    import late_one\n"
        "    return add(x) + inner.g(x) + late_one.K\n",
        side="def add(x):\n    return x + 1\n",
        late_one="K = 100\n",
        other="raise RuntimeError\n",
        json="raise RuntimeError\n",
    )
    write(
        folder / "pack",
        __init__="",
        inner="from . import deep\nfrom .deep import D\ndef g(x):\n    return D * x\n",
        deep="D = 2\n",
    )
    digest = code.snapshot(folder, "flights", tmp_path / "code")
    kept = sorted(
        p.relative_to(tmp_path / "code" / digest).as_posix() for p in (tmp_path / "code" / digest).rglob("*.py")
    )
    assert kept == ["flights.py", "late_one.py", "pack/__init__.py", "pack/deep.py", "pack/inner.py", "side.py"]
    assert code.load(tmp_path / "code", digest, "flights:f")(3) == 110
    assert code.snapshot(folder, "flights", tmp_path / "code") == digest
    assert not list((tmp_path / "code").rglob("*.pyc"))


def test_two_snapshots_of_one_name(tmp_path: Path) -> None:
    """The champion's and the candidate's modules of one name live side by side, lazy imports included."""
    root = tmp_path / "code"
    body = "import side\ndef f():\n    import lazily\n    return side.V, lazily.V\n"
    a = code.snapshot(write(tmp_path / "a", m1=body, side="V = 1\n", lazily="V = 1\n"), "m1", root)
    b = code.snapshot(write(tmp_path / "b", m1=body, side="V = 2\n", lazily="V = 2\n"), "m1", root)
    one, two = code.load(root, a, "m1:f"), code.load(root, b, "m1:f")
    assert (one(), two(), one(), two()) == ((1, 1), (2, 2), (1, 1), (2, 2))


def test_changed_snapshot_is_refused(tmp_path: Path) -> None:
    """A snapshot that was changed, or is not there, is not imported."""
    root = tmp_path / "code"
    digest = code.snapshot(write(tmp_path / "a", m2="def f():\n    return 1\n"), "m2", root)
    (root / digest / "m2.py").write_text("def f():\n    return 666\n")
    with pytest.raises(ArtefactError, match="changed"):
        code.load(root, digest, "m2:f")
    for bad in ("0" * 64, "", "../a"):
        with pytest.raises(ArtefactError):
            code.load(root, bad, "m2:f")
    assert code.snapshot(tmp_path / "a", "m2", root) == digest
    assert code.load(root, digest, "m2:f")() == 1


def test_user_errors_are_theirs(tmp_path: Path) -> None:
    """Missing modules, syntax errors, raising imports and missing functions are user-code errors."""
    root, folder = tmp_path / "code", write(tmp_path / "a", bad="def f(:\n", boom="1/0\n", fine="x = 1\n", json="")
    for module in ("nothere", "bad", "json"):
        with pytest.raises(UserCodeError):
            code.snapshot(folder, module, root)
    with pytest.raises(UserCodeError, match="ZeroDivisionError"):
        code.load(root, code.snapshot(folder, "boom", root), "boom:f")
    with pytest.raises(UserCodeError, match="no function"):
        code.load(root, code.snapshot(folder, "fine", root), "fine:f")
