"""A GGUF file made into a Hugging Face folder, for servers that read only those.

What this is: every tensor brought back to plain numbers and written in one pass, one tensor in memory at a time; made
once by digest, also when two replicas start together. Who calls it: `vllm_model.py`, inside vLLM's environment (it
needs `gguf`). What it must never do: leave half a folder under a name that counts: it is made beside and renamed last.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.errors import EnvironmentError_, InputError
from mainspring.replicas.adapters import gguf_tokenizer
from mainspring.replicas.adapters.gguf_architecture import (
    Architecture,
    Facts,
    architecture_of,
    config,
    heads_of,
    hf_name,
    turned_back,
)

RECIPE = 1
"""Goes into a folder's name: raised when what is written changes, so that older folders are not used again."""

DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "float32": ("F32", 4)}
"""What weights may be written as: the format's own name, and bytes of one."""

STEP = 0.1
"""Progress is told each time so much more is done."""

Tell = Callable[[str], None]


def converted(weights: Path, digest: str, cache: Path, dtype: str, tell: Tell) -> Path:
    """The folder that `weights` was made into; made now unless it is there.

    Another process that makes it is waited for. `digest` is that of `weights`, which the caller has checked. Raises
    InputError for a `dtype` that is not in `DTYPES`, ArtefactError for a model that is not known, and
    EnvironmentError_ when the folder can't be written.
    """
    if dtype not in DTYPES:
        raise InputError("bad-dtype", f"`{dtype}` is none of: {', '.join(f'`{one}`' for one in DTYPES)}")
    folder = cache / f"gguf-{digest.removeprefix('sha256:')[:16]}-{dtype}-{RECIPE}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock"), tell):
            if not folder.is_dir():
                _make(weights, folder, dtype, tell)
    except OSError as error:
        hint = "make room on that disk, or set `XDG_CACHE_HOME` to a folder on another one"
        raise EnvironmentError_(
            "not-converted", f"`{folder}` cannot be written: {error.strerror or error}", hint
        ) from error
    return folder


@contextlib.contextmanager
def _alone(lock: Path, tell: Tell) -> Iterator[None]:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another replica converts the same weights: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(weights: Path, folder: Path, dtype: str, tell: Tell) -> None:
    half, began = folder.with_suffix(".half"), time.monotonic()
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    try:
        facts, tensors = _read(weights)
        tell(f"converting `{weights.name}` into safetensors ({dtype}), once for all replicas on this machine")
        architecture = architecture_of(facts)
        names = [hf_name(architecture, one.name) for one in tensors]
        vocabulary = next(int(one.shape[-1]) for one in tensors if one.name == "token_embd.weight")
        tied = "lm_head.weight" not in names
        made = gguf_tokenizer.files(facts)
        made["config.json"] = config(facts, architecture, vocabulary=vocabulary, tied=tied, dtype=dtype)
        for name, value in made.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
            (half / name).write_text(text, encoding="utf-8")
        size = _write(half / "model.safetensors", _plain(facts, architecture, tensors), tensors, names, dtype, tell)
        half.rename(folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    tell(f"converted: {size / 1e6:,.0f} MB in {time.monotonic() - began:.1f} s")


def _read(weights: Path) -> tuple[dict[str, Any], list[Any]]:
    """Key-value pairs and tensors; those are mapped, not loaded."""
    import gguf  # the server's environment has it, Mainspring's own has not

    reader = gguf.GGUFReader(weights)
    return {name: field.contents() for name, field in reader.fields.items()}, list(reader.tensors)


def _plain(facts: Facts, architecture: Architecture, tensors: list[Any]) -> Iterator[npt.NDArray[np.float32]]:
    """Each tensor's numbers, in the order of `tensors`; its last axis in memory is the first that GGUF names."""
    import gguf

    heads = dict(zip(("attn_q.weight", "attn_k.weight"), heads_of(facts), strict=True))
    for one in tensors:
        shape = tuple(int(size) for size in reversed(one.shape))
        numbers = gguf.quants.dequantize(one.data, one.tensor_type).astype(np.float32, copy=False).reshape(shape)
        turned = heads.get(one.name.partition(".")[2].partition(".")[2]) if architecture.turned else None
        yield turned_back(numbers, turned) if turned else numbers


def _write(
    path: Path, numbers: Iterator[npt.NDArray[np.float32]], tensors: list[Any], names: list[str], dtype: str, tell: Tell
) -> int:
    """One file of safetensors: the header's length, the header, then all numbers; returns its bytes."""
    header, end = _header(tensors, names, dtype)
    done, told = 0, STEP
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for each in numbers:
            done += out.write(as_bytes(each, dtype))
            if done >= told * end:
                tell(f"converting: {done / end:.0%} of {end / 1e6:,.0f} MB")
                told = done / end + STEP
        out.flush()
        os.fsync(out.fileno())
    return done + len(header) + 8


def _header(tensors: list[Any], names: list[str], dtype: str) -> tuple[bytes, int]:
    word, width = DTYPES[dtype]
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, one in zip(names, tensors, strict=True):
        shape = [int(size) for size in reversed(one.shape)]
        end = at + int(np.prod(shape)) * width
        said[name] = {"dtype": word, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(said).encode()
    return text + b" " * (-len(text) % 8), at


def as_bytes(numbers: npt.NDArray[np.float32], dtype: str) -> bytes:
    """Numbers as they lie in a file; for bfloat16, which NumPy has not, rounded to the nearest, ties to even.

    >>> as_bytes(np.array([1.0, 1.00390625, 1.01171875], np.float32), "bfloat16").hex()
    '803f803f823f'
    """
    if dtype != "bfloat16":
        return np.ascontiguousarray(numbers, "<f2" if dtype == "float16" else "<f4").tobytes()
    bits = np.ascontiguousarray(numbers, "<f4").view("<u4")
    return (
        ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2").tobytes()
    )
