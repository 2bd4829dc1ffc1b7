"""Artefacts in all formats: what a manifest may say, what proves a folder unchanged, what runs code when loaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mainspring.artefacts.executes import executes
from mainspring.artefacts.external import External, digest_of_external, read_external
from mainspring.artefacts.folders import digest_of_folder, parts, stands
from mainspring.artefacts.load import check_model, load_folder, load_manifest, load_model, save_manifest
from mainspring.artefacts.manifest import Field, Manifest
from mainspring.artefacts.mlmodel import LARGEST, read_mlmodel
from mainspring.errors import ArtefactError, InputError

AGE = (Field("age", "FP64"),)
PAGE = """
flavors:
  python_function: {loader_module: mlflow.sklearn, model_path: model.pkl}
  sklearn: {pickled_model: model.pkl, code: null}
signature:
  inputs: '[{"type": "double", "name": "age", "required": true}, {"type": "string", "name": "city", "required": false},
    {"type": "long", "name": "n", "required": true}]'
"""


def artefact(folder: Path, files: dict[str, bytes], **said: Any) -> Manifest:
    """A folder with a model in it and the manifest of it."""
    for name, content in files.items():
        path = folder / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = Manifest(
        "m", "", said.pop("format", "mlflow"), "", said.pop("inputs", AGE), said.pop("output", "p"), **said
    )
    manifest = replace(manifest, digest=digest_of_folder(folder / "model", manifest.entry, manifest.code))
    save_manifest(folder, manifest)
    return manifest


def test_the_digest_of_a_folder_is_as_written_down(tmp_path: Path) -> None:
    """A line a file, by the bytes of its path: anybody can work it out anew."""
    artefact(tmp_path, {"b.txt": b"two", "a/z.txt": b"one", "B.txt": b"three"})
    text = b""
    for path, content in (("B.txt", b"three"), ("a/z.txt", b"one"), ("b.txt", b"two")):
        text += path.encode() + b"\0" + hashlib.sha256(content).hexdigest().encode() + b"\n"
    assert digest_of_folder(tmp_path / "model") == "sha256:" + hashlib.sha256(text).hexdigest()
    (tmp_path / "model" / "empty").mkdir()
    (tmp_path / "model" / "b.txt").chmod(0o600)
    assert digest_of_folder(tmp_path / "model") == "sha256:" + hashlib.sha256(text).hexdigest()


def test_a_folder_is_checked_and_any_change_is_found(tmp_path: Path) -> None:
    """Another content, another name, a file more or less: each is another model than the manifest's."""
    manifest = artefact(tmp_path, {"MLmodel": b"x", "data/w.bin": b"weights"})
    assert load_folder(tmp_path, load_manifest(tmp_path)) == tmp_path / "model"
    inside = tmp_path / "model"
    changes = [
        lambda: (inside / "data/w.bin").write_bytes(b"Weights"),
        lambda: (inside / "data/w.bin").rename(inside / "data/v.bin"),
        lambda: (inside / "more").write_bytes(b""),
        (inside / "MLmodel").unlink,
    ]
    for change in changes:
        before = stands(inside)
        change()
        assert stands(inside) != before
        with pytest.raises(ArtefactError, match="is not the model that its manifest describes"):
            check_model(tmp_path, manifest)
        artefact(tmp_path, {"MLmodel": b"x", "data/w.bin": b"weights"})
        for left in ("more", "data/v.bin"):
            (inside / left).unlink(missing_ok=True)
    check_model(tmp_path, manifest)


def test_folders_with_links_and_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link (also to a folder, also out of it), a pipe, a socket, a name with a line in it."""
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    makers = {
        "link": lambda p: p.symlink_to(tmp_path / "secret"),
        "folder": lambda p: p.symlink_to(tmp_path, target_is_directory=True),
        "pipe": os.mkfifo,
        "a\nb": lambda p: p.write_text(""),
    }
    for name, make in makers.items():
        make(inside / name)
        with pytest.raises(ArtefactError) as refused:
            parts(inside)
        assert refused.value.code == "folder-odd"
        (inside / name).unlink()
    with socket.socket(socket.AF_UNIX) as one:
        monkeypatch.chdir(inside)  # a socket's path is short
        one.bind("s")
        with pytest.raises(ArtefactError, match="no regular file"):
            parts(inside)
    (inside / "s").unlink()
    assert parts(inside) == ()
    inside.rmdir()
    inside.symlink_to(tmp_path)
    with pytest.raises(ArtefactError, match="is no folder"):
        parts(inside)


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"inputs": ()}, "its inputs are empty"),
        ({"entry": "a:B"}, "`entry`, a class of the user's own, belongs"),
        ({"format": "python", "entry": "", "code": "c"}, "`entry`"),
        ({"format": "python", "entry": "os.system", "code": "c"}, "is not `module:Class`"),
        ({"format": "python", "entry": "a:B"}, "comes with the digest of its `code`"),
        ({"format": "safetensors"}, "no inputs"),
        ({"format": "safetensors", "inputs": (), "settings": {"warmth": 1}}, "there is no setting `warmth`"),
        ({"features": "a:b", "code": "c", "columns": ("x",)}, "is of models in the format `onnx`"),
        ({"inputs": (Field("a", "FP16"),)}, "datatype `FP16` is not known"),
    ],
)
def test_manifests_that_make_no_sense(tmp_path: Path, said: dict[str, Any], wrong: str) -> None:
    """Each says what is wrong with it."""
    artefact(tmp_path, {"f": b""}, **said)
    with pytest.raises(ArtefactError, match=wrong):
        load_manifest(tmp_path)


def test_text_inputs_need_no_features_where_the_model_takes_text(tmp_path: Path) -> None:
    """An MLflow model and a class get texts as they are; an ONNX matrix cannot hold them."""
    text = (Field("city", "BYTES"),)
    artefact(tmp_path, {"MLmodel": PAGE.encode()}, inputs=text)
    assert load_manifest(tmp_path).inputs == text
    artefact(tmp_path, {"f": b""}, format="python", entry="a.b:C", code="c", inputs=text)
    assert load_manifest(tmp_path).entry == "a.b:C"
    artefact(tmp_path, {"f": b""}, format="onnx", inputs=text)
    with pytest.raises(ArtefactError, match="no `features` function"):
        load_manifest(tmp_path)


def test_manifests_from_before_are_read(tmp_path: Path) -> None:
    """One without `entry`, as earlier versions wrote it."""
    digest = "sha256:" + hashlib.sha256(b"m").hexdigest()
    (tmp_path / "model.onnx").write_bytes(b"m")
    (tmp_path / "manifest.json").write_text(
        f'{{"model": "m", "run": "r-1", "format": "onnx", "digest": "{digest}", "output": "p", "schema": 1,'
        '"inputs": [{"name": "a", "datatype": "FP64", "nullable": true}]}'
    )
    assert load_model(tmp_path, load_manifest(tmp_path)) == b"m"
    assert load_manifest(tmp_path).entry == ""


def test_other_code_of_a_class_is_another_version(tmp_path: Path) -> None:
    """The digest is of the files, the class's name and the snapshot of its code together."""
    one = artefact(tmp_path / "1", {"w": b"1"}, format="python", entry="a:B", code="c1")
    two = artefact(tmp_path / "2", {"w": b"1"}, format="python", entry="a:B", code="c2")
    three = artefact(tmp_path / "3", {"w": b"1"}, format="python", entry="a:C", code="c1")
    assert len({one.digest, two.digest, three.digest}) == 3
    with pytest.raises(ArtefactError, match="its digest differs"):
        check_model(tmp_path / "1", replace(one, code="c2"))


def test_an_mlflow_page_gives_the_inputs(tmp_path: Path) -> None:
    """By its signature; one array of numbers has a field a column."""
    (tmp_path / "MLmodel").write_text(PAGE)
    page = read_mlmodel(tmp_path)
    assert page.inputs == (Field("age", "FP64"), Field("city", "BYTES"), Field("n", "INT64", nullable=False))
    assert (page.flavours, page.loader, page.matrix) == (("sklearn",), "mlflow.sklearn", False)
    array = '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}}]'
    (tmp_path / "MLmodel").write_text(f"flavors: {{onnx: {{}}}}\nsignature: {{inputs: '{array}'}}")
    assert read_mlmodel(tmp_path).inputs == tuple(Field(f"x{at}", "FP32") for at in range(3))
    assert read_mlmodel(tmp_path).matrix


@pytest.mark.parametrize(
    "inputs",
    [
        "", "[]", "not json", '[{"type": "binary", "name": "a"}]', '[{"name": "a"}]', "[1]", "[[[",
        '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 28, 28]}}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 99999999]}}]',
        '[{"type": "double", "name": "a"}, {"type": "double", "name": "a"}]',
    ],
)  # fmt: skip
def test_signatures_that_no_request_can_have(tmp_path: Path, inputs: str) -> None:
    """There are no inputs then, and a sentence that says why."""
    (tmp_path / "MLmodel").write_text(f"flavors: {{onnx: {{}}}}\nsignature: {{inputs: '{inputs}'}}")
    page = read_mlmodel(tmp_path)
    assert (page.inputs, bool(page.wanting)) == ((), True)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch PWNED']",
        "flavors: {sklearn: !!python/name:os.system }",
        "flavors: []", "[" * 5000, "\0", "flavors: {a: {model_path: ../../secret}}",
        "flavors: {a: {data: /etc/passwd}}",
        "flavors: {a: b}" + "#" * LARGEST, "flavors: {a: {model_code_path: /etc/passwd}}",
    ],
)  # fmt: skip
def test_hostile_pages_build_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Tags, depth, size, paths out of the folder: an error, and nothing was run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(ArtefactError):
        read_mlmodel(tmp_path)
    assert not (tmp_path / "PWNED").exists()


def test_which_models_run_code(tmp_path: Path) -> None:
    """Weights and graphs do not; pickles, classes and pages that name code do."""
    onnx = "flavors: {python_function: {loader_module: mlflow.onnx}, onnx: {data: model.onnx}}"
    own = "flavors: {python_function: {loader_module: mlflow.onnx, code: code}, onnx: {data: model.onnx}}"
    code = b"flavors: {python_function: {loader_module: m, model_code_path: /was/here/c.py}}"
    hub = {"config.json": b"{}", "model.safetensors": b""}
    cases: list[tuple[dict[str, bytes], dict[str, Any], str]] = [
        ({"MLmodel": onnx.encode(), "model.onnx": b""}, {}, ""),
        ({"MLmodel": own.encode(), "model.onnx": b"", "code/x.py": b""}, {}, "Python files that it brings"),
        ({"MLmodel": PAGE.encode(), "model.pkl": pickle.dumps(1)}, {}, "of flavour sklearn is unpickled"),
        ({"MLmodel": b"flavors: {python_function: {loader_module: evil}}"}, {}, "is loaded by `evil`"),
        (hub, {"format": "safetensors"}, ""),
        (hub | {"modeling.py": b""}, {"format": "safetensors"}, "`modeling.py`, Python code"),
        (hub | {"pytorch_model.bin": b""}, {"format": "safetensors"}, "unpickled"),
        (hub | {"config.json": b'{"auto_map": {"AutoModel": "m--x.Y"}}'}, {"format": "safetensors"}, "`auto_map`"),
        (hub | {"tokenizer_config.json": b'{"a": [{"auto_map": {"x": 1}}]}'}, {"format": "safetensors"}, "`auto_map`"),
        ({"saved_model.pb": b""}, {"format": "saved_model"}, "is a program"),
        ({"MLmodel": code, "c.py": b""}, {}, "Python files that it brings"),
        ({"w": b""}, {"format": "python", "entry": "a:B", "code": "c"}, "`a:B` is Python code"),
    ]
    for at, (files, said, told) in enumerate(cases):
        fields: dict[str, Any] = {"inputs": (), "output": ""} if said.get("format") == "safetensors" else {}
        manifest = artefact(tmp_path / str(at), files, **said, **fields)
        found = executes(manifest, tmp_path / str(at))
        assert (told in found) if told else (found == ""), (files, found)


def test_where_a_model_is_served_elsewhere() -> None:
    """Settings are read strictly; the key is a variable's name, and nothing else gets in."""
    good = {"url": "https://h.example", "protocol": "oip", "key": "env:TOKEN", "at_once": 4, "rate": "600/min"}
    found = read_external(good)
    assert (found.per_second, found.language, found.settings()) == (10.0, False, good)
    assert digest_of_external(good) == digest_of_external(dict(reversed(good.items())))
    for change in (
        {"url": "ftp://h"}, {"url": "https://u:p@h"}, {"url": "https://h/?k=1"}, {"url": "https://h:99999"},
        {"url": ""},
        {"protocol": "grpc"}, {"key": "geheim"}, {"key": "env:"}, {"rate": "fast"}, {"rate": "0/s"}, {"at_once": -1},
        {"at_once": True}, {"at_once": "4"}, {"health": "health"}, {"health": "/a b"}, {"tls": "off"}, {"timeout": -1},
    ):  # fmt: skip
        with pytest.raises(InputError) as refused:
            read_external({**good, **change})
        assert "geheim" not in refused.value.message
    assert External("https://h", "openai").language


def test_an_external_artefact_holds_its_settings_to_its_digest(tmp_path: Path) -> None:
    """Who points it elsewhere by hand has another version."""
    settings = {"url": "https://h.example", "protocol": "tfserving"}
    manifest = Manifest("m", "", "external", digest_of_external(settings), AGE, "p", settings=dict(settings))
    save_manifest(tmp_path, manifest)
    check_model(tmp_path, load_manifest(tmp_path))
    save_manifest(tmp_path, replace(manifest, settings={**settings, "url": "https://evil.example"}))
    with pytest.raises(ArtefactError, match="not those that its digest is of"):
        load_manifest(tmp_path)
    for said in ({"inputs": ()}, {"settings": {"url": "x"}}):
        save_manifest(tmp_path, replace(manifest, **said))  # type: ignore[arg-type]
        with pytest.raises(ArtefactError):
            load_manifest(tmp_path)
