"""Versions that misbehave, each in one way and under one condition; made of a version that is well.

What this is: artefacts. Of a predictive model, the `features` function is wrapped by one that fails, dawdles, kills
its process or spoils its numbers; of a language model, the chat template inside the weights is another one. All runs
in the real replica, as a user's own mistake would. Who calls it: tests of whoever rolls versions out.
What it must never do: touch the good artefact, or misbehave where the condition does not hold.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

from mainspring.artefacts import code
from mainspring.artefacts.load import MODEL, WEIGHTS, load_manifest, save_manifest
from mainspring.artefacts.weights import chat_template, digest_of_file

FAIL = 'raise KeyError("a value that was never seen in training")'
"""What it does: no answer for the whole call."""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"
"""What it does: the process ends as when the machine is out of memory and the kernel picks it."""
SPOIL = "made = made * 0.0 + 1e6"
"""What it does: an answer, and a wrong one."""

_MODULE = "misbehaving_features"
_SOURCE = '''
"""Features that are well but for one condition."""
import os
import signal
import time

import pandas as pd
{imports}

_held = 0


def features(rows: pd.DataFrame) -> pd.DataFrame:
    global _held
    made = {made}
    if {when}:
        _held += 1
        if _held > {after}:
            {does}
    return made
'''


def slow(seconds: float) -> str:
    """What it does: takes so much longer."""
    return f"time.sleep({seconds!r})"


def predictive(good: Path, folder: Path, code_root: Path, *, when: str, does: str, after: int = 0) -> Path:
    """Write an artefact to `folder` that is `good` but for one condition; returns the folder.

    `when`: a Python expression over `rows`, the frame of raw fields that one call of `features` gets (a batch of
    requests; thousands of rows in a gate). `does`: `FAIL`, `DIE`, `SPOIL` or `slow(...)`, once `when` has held
    `after` times in the process. `code_root`: where snapshots of code are, `.mainspring/code`.
    """
    manifest = load_manifest(good)
    module, _, function = manifest.features.partition(":")
    columns = list(manifest.columns) or [field.name for field in manifest.inputs]
    made = "good(rows)" if function else f'rows[{columns!r}].astype("float32")'
    imports = f"\nfrom {module} import {function} as good" if function else ""
    folder.mkdir(parents=True)
    shutil.copyfile(good / MODEL, folder / MODEL)
    with tempfile.TemporaryDirectory() as place:
        if manifest.code:
            shutil.copytree(code_root / manifest.code, place, dirs_exist_ok=True)
        text = _SOURCE.format(imports=imports, made=made, when=when, does=does, after=after)
        (Path(place) / f"{_MODULE}.py").write_text(text, encoding="utf-8")
        digest = code.snapshot(Path(place), _MODULE, code_root)
    run = folder.name
    bad = replace(manifest, run=run, features=f"{_MODULE}:features", code=digest, columns=tuple(columns))
    save_manifest(folder, bad)
    return folder


def same(good: Path, folder: Path) -> Path:
    """Write an artefact to `folder` that is `good` once more: a version that is fine; returns the folder."""
    manifest = load_manifest(good)
    folder.mkdir(parents=True)
    name = MODEL if manifest.format == "onnx" else WEIGHTS
    _link(good / name, folder / name)
    save_manifest(folder, replace(manifest, run=folder.name))
    return folder


def fails_for_one_length_in(every: int) -> str:
    """Jinja that raises where the last message's length in characters is one below a multiple of `every`."""
    held = f"messages[-1]['content']|length % {every} == {every - 1}"
    return f"{{%- if {held} -%}}{{{{ raise_exception('this template has no case for it') }}}}{{%- endif -%}}"


def repeats_messages_above(characters: int, times: int) -> str:
    """Jinja that has a model read messages longer than so many characters `times` more: only long prompts get slow."""
    chosen = f"for message in messages if message['content']|length > {characters}"
    again = f"{{%- for _ in range({times}) -%}}{{{{ message['content'] }}}}{{%- endfor -%}}"
    return f"{{%- {chosen} -%}}{again}{{%- endfor -%}}"


def language(good: Path, folder: Path, before: str) -> Path:
    """Write an artefact to `folder` that is `good` with `before` (Jinja) put before its chat template.

    Returns the folder. Raises `ValueError` when the weights carry no chat template.
    """
    manifest = load_manifest(good)
    folder.mkdir(parents=True)
    with_template(good / WEIGHTS, folder / WEIGHTS, before + chat_template(good / WEIGHTS))
    digest = digest_of_file(folder / WEIGHTS)
    save_manifest(folder, replace(manifest, run=folder.name, digest=digest))
    return folder


def with_template(source: Path, target: Path, template: str) -> None:
    """Write the GGUF file `source` to `target` with another chat template; tensors stay as they are."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    field = reader.fields.get("tokenizer.chat_template")
    if field is None:
        raise ValueError(f"`{source}` carries no chat template")
    sizes = [int(part.nbytes) for part in field.parts]  # key's length, key, type, text's length, text
    begin, end = field.offset + sum(sizes[:-2]), field.offset + sum(sizes)
    infos = (one.field for one in reader.tensors)
    head_end = max(info.offset + sum(int(part.nbytes) for part in info.parts) for info in infos)
    raw = template.encode()
    with source.open("rb") as file, target.open("wb") as out:
        whole = file.read(head_end)
        head = whole[:begin] + struct.pack("<Q", len(raw)) + raw + whole[end:]
        out.write(head + bytes(-len(head) % reader.alignment))  # offsets of tensors are counted from here
        file.seek(reader.data_offset)
        shutil.copyfileobj(file, out, 1 << 20)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk
        shutil.copyfile(source, target)
