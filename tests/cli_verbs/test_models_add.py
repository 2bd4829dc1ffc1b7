"""`mainspring models add | trust | untrust | cache`, as a person types them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mainspring.artefacts.load import load_manifest
from mainspring.cli.main import status
from mainspring.pipelines.registry import Registry
from mainspring.testing.artefacts import tiny_model
from mainspring.testing.served import stack_file
from tests.artefacts.hostile import File, Hostile, hostile

PAGE = """
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl}
  sklearn: {pickled_model: model.pkl}
signature:
  inputs: '[{"type": "double", "name": "age", "required": true}]'
"""
MINE = "class Mine:\n    def predict(self, columns):\n        return columns['a']\n"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack file and an empty registry, made once: MLflow takes seconds for its tables."""
    folder = tmp_path_factory.mktemp("fresh")
    stack_file(folder)
    registry = Registry(folder / ".mainspring")
    registry.prepare()
    registry.close()
    return folder


@pytest.fixture
def stack(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, with models beside it and a cache of its own."""
    folder = shutil.copytree(fresh, tmp_path / "stack")
    (folder / "tiny.onnx").write_bytes(tiny_model((1.0, -1.0), 0.5))
    (folder / "mine.py").write_text(MINE)
    (folder / "theirs").mkdir()
    (folder / "theirs" / "MLmodel").write_text(PAGE)
    (folder / "theirs" / "model.pkl").write_bytes(b"\x80\x04.")
    monkeypatch.setenv("MAINSPRING_MODELS", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return folder / "mainspring.yaml"


@pytest.fixture
def server() -> Iterator[Hostile]:
    """A server of files."""
    with hostile() as found:
        yield found


@dataclass(frozen=True)
class Done:
    """A command line that ended."""

    returncode: int
    stdout: str
    stderr: str


def mainspring(stack: Path, *arguments: str) -> Done:
    """One command line, in this process: importing MLflow takes seconds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = status(["-f", str(stack), *arguments])
    return Done(code, out.getvalue(), err.getvalue())


def added(stack: Path, *arguments: str) -> dict[str, object]:
    """Add a model; what it says as data."""
    done = mainspring(stack, "-o", "json", "models", "add", *arguments)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_an_onnx_file_becomes_a_version_once(stack: Path) -> None:
    """Its columns are named; the same content with the same names is there already, with others it is not."""
    first = added(stack, "delay", "tiny.onnx", "--inputs", "distance,hour:INT64")
    assert (first["version"], first["servable"], first["new"]) == ("delay@1", True, True)
    assert first["inputs"] == ["distance:FP64", "hour:INT64"]
    assert added(stack, "delay", "tiny.onnx", "--inputs", "distance,hour:INT64")["new"] is False
    plain = added(stack, "delay", "tiny.onnx", "--output-name", "late")
    assert (plain["version"], plain["inputs"]) == ("delay@2", ["x0:FP64", "x1:FP64"])
    assert load_manifest(Path(str(plain["artefact"]))).output == "late"
    wrong = mainspring(stack, "models", "add", "delay", "tiny.onnx", "--inputs", "a,b,c")
    assert wrong.returncode == 2
    assert "takes 2 columns, and 3 are named" in wrong.stderr


def test_a_local_file_that_is_overwritten_later_does_not_change_the_version(stack: Path) -> None:
    """The version has files of its own."""
    told = added(stack, "delay", "tiny.onnx")
    (stack.parent / "tiny.onnx").write_bytes(b"the next one")
    registry = Registry(stack.parent / ".mainspring")
    assert [v.servable for v in registry.versions()] == [True]
    registry.close()
    assert told["digest"] == load_manifest(Path(str(told["artefact"]))).digest


def test_what_runs_code_waits_for_trust(stack: Path) -> None:
    """It says what runs, asks, and is refused where nobody can answer; each mark is in the change log."""
    done = mainspring(stack, "models", "add", "late", "theirs")
    assert done.returncode == 0
    assert "of flavour sklearn is unpickled when it is loaded, and it is not trusted" in done.stderr
    assert "mainspring models trust late@1" in done.stderr
    asked = mainspring(stack, "models", "trust", "late@1")
    assert (asked.returncode, "there is nobody to ask" in asked.stderr) == (2, True)
    told = mainspring(stack, "models", "trust", "late@1", "--yes")
    assert "that code may do whatever the user who runs the replica may do" in told.stderr
    assert added(stack, "late", "theirs")["servable"] is True
    assert "is trusted already" in mainspring(stack, "models", "trust", "late@1", "--yes").stderr
    assert mainspring(stack, "models", "untrust", "late@1").returncode == 0
    assert added(stack, "late", "theirs")["servable"] is False
    log = [(one["what"], one["target"], one["outcome"]) for one in json.loads(
        mainspring(stack, "-o", "json", "changes").stdout)]  # fmt: skip
    changes = [("add model", "late"), ("trust", "late@1"), ("untrust", "late@1")]
    assert log == [(*one, "accepted") for one in changes]
    assert mainspring(stack, "models", "trust", "late@9", "--yes").returncode == 2


def test_harmless_formats_need_no_mark(stack: Path) -> None:
    """Trusting them is no error, and does nothing."""
    added(stack, "delay", "tiny.onnx", "--trust")
    assert "it needs no mark" in mainspring(stack, "models", "trust", "delay@1").stderr


def test_a_class_of_ones_own(stack: Path) -> None:
    """With or without files; other code is another version, and needs trust anew."""
    one = added(stack, "mine", "--class", "mine:Mine", "--inputs", "a,b:BYTES", "--trust", "--yes")
    assert (one["version"], one["format"], one["servable"]) == ("mine@1", "python", True)
    (stack.parent / "mine.py").write_text(MINE + "# changed\n")
    two = added(stack, "mine", "--class", "mine:Mine", "--inputs", "a,b:BYTES")
    assert (two["version"], two["servable"]) == ("mine@2", False)
    three = added(stack, "mine", "tiny.onnx", "--class", "mine:Mine", "--inputs", "a")
    assert [p.name for p in (Path(str(three["artefact"])) / "model").iterdir()] == ["tiny.onnx"]
    for wrong in (["--class", "mine"], ["--class", "mine:Mine"], ["--class", "absent:X", "--inputs", "a"]):
        assert mainspring(stack, "models", "add", "mine", *wrong).returncode in {1, 2}


def test_a_server_elsewhere(stack: Path) -> None:
    """No file is fetched; a key in the URL, or as a value, is refused and not repeated."""
    limits = ["--at-once", "4", "--rate", "10/s", "--timeout", "5s", "--health", "/ok"]
    there = ["--url", "https://h.example/", "--protocol", "oip", "--served-as", "m", "--key", "env:K"]
    told = added(stack, "far", "--inputs", "a", *there, *limits)
    settings = load_manifest(Path(str(told["artefact"]))).settings
    assert settings == {"url": "https://h.example", "protocol": "oip", "model": "m", "health": "/ok", "key": "env:K",
                        "at_once": 4, "rate": "10/s", "timeout": 5.0}  # fmt: skip
    for wrong in (["--url", "https://u:geheim@h"], ["--url", "https://h", "--key", "geheim"]):
        done = mainspring(stack, "models", "add", "far", *wrong, "--protocol", "openai")
        assert done.returncode == 2
        assert "geheim" not in done.stderr + done.stdout


def test_a_download_is_pinned_by_what_it_said(stack: Path, server: Hostile) -> None:
    """Without a digest somebody must look, or --yes; then the digest is printed, and holds the next time."""
    content = (stack.parent / "tiny.onnx").read_bytes()
    url = server.put("/m/tiny.onnx", File(content))
    unseen = mainspring(stack, "models", "add", "delay", url)
    assert (unseen.returncode, "--digest sha256:…, or add --yes" in unseen.stderr) == (2, True)
    done = mainspring(stack, "models", "add", "delay", url, "--yes")
    digest = done.stderr.partition("--digest ")[2].split()[0]
    assert done.stdout.strip() == "delay@1"
    assert mainspring(stack, "models", "add", "delay", url, "--digest", digest).returncode == 0
    server.files["/m/tiny.onnx"] = File(tiny_model((2.0, -1.0), 0.5))
    other = mainspring(stack, "models", "add", "delay", url, "--digest", "sha256:" + "1" * 64)
    assert (other.returncode, "is not what was promised" in other.stderr) == (1, True)
    (kept,) = json.loads(mainspring(stack, "-o", "json", "models", "cache").stdout)
    assert (kept["digest"], kept["source"], kept["size"]) == (digest, url, len(content))
    artefact = Path(str(added(stack, "delay", "tiny.onnx")["artefact"]))
    assert "bytes removed" in mainspring(stack, "models", "cache", "--clear").stderr
    assert (artefact / "model.onnx").read_bytes() == content


def test_the_first_champion_can_be_named_and_no_other(stack: Path) -> None:
    """Where there is a champion already, the gates decide."""
    done = mainspring(stack, "models", "add", "delay", "tiny.onnx", "--champion")
    assert "delay@1 is the champion" in done.stderr
    again = mainspring(stack, "models", "add", "delay", "tiny.onnx", "--inputs", "a,b", "--champion")
    assert again.returncode == 2
    assert "mainspring models promote delay@2" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["delay"], "where is the model?"), (["delay", "absent.onnx"], "does not exist"),
        (["../up", "tiny.onnx"], "is no name of a model"), (["delay", "mine.py"], "no model in a format that is known"),
        (["delay", "tiny.onnx", "--format", "pickle"], "is no format"),
        (["delay", "tiny.onnx", "--url", "x"], "`--url`"),
        (["delay", "tiny.onnx", "--format", "gguf"], "is not usable"),
        (["d", "theirs", "--inputs", ":"], "is no input"),
        (["delay", "tiny.onnx", "--digest", "abc"], "64 hexadecimal"), (["d", "https://a:b@h/m"], "in the environment"),
    ],
)  # fmt: skip
def test_what_cannot_be_added_says_why(stack: Path, arguments: list[str], told: str) -> None:
    """And nothing is registered."""
    done = mainspring(stack, "models", "add", *arguments)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    registry = Registry(stack.parent / ".mainspring")
    assert registry.versions() == ()
    registry.close()
