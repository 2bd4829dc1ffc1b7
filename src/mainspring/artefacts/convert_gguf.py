"""A GGUF file with its weights in another type, such as Q8_0 or Q4_0; everything else is copied byte for byte.

What this is: a file in, a file out, some thousand rows at a time, so that memory stays at some 100 MB whatever the
size of the model. Encoding is the `gguf` package's (plain rounding, without an importance matrix). Which tensors are
changed follows llama.cpp's `llama-quantize`: matrices called `...weight`, but no norms, no router of experts, no
positions; the matrix that gives the logits keeps eight bits where the others get four or five. Who calls it: the step
`convert`, in its own process. What it must never do: call a file better than the one it was made of: weights that
were rounded once do not come back, and rounding them again adds to the error. `Report.sentence` says so.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mainspring.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from gguf import GGUFReader

PRECISIONS = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
"""What can be written. The `gguf` package reads K- and I-quants, but does not write them."""

_FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q5_1": 9, "q5_0": 8, "q4_1": 3, "q4_0": 2}  # llama_ftype
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_AS_THEY_ARE = re.compile(
    r"_norm\.weight$|ffn_gate_inp\.weight$|position_embd\.weight$|token_types\.weight$|ssm_conv1d\.weight$|time_mix_"
    r"|altup|laurel|per_layer_model_proj\.weight$|shortconv\.conv\.weight$"
)
_ELEMENTS = 1 << 22  # elements that are worked on at a time
_U32 = 4  # the format's type of a 32-bit number

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Report:
    """What a conversion did."""

    precision: str
    sources: dict[str, int]  # type of the weights that were changed: elements
    changed: int  # tensors
    kept: int  # tensors
    size_before: int  # bytes
    size_after: int
    error: float  # root mean square change of the changed weights, relative to their own root mean square
    worst: str  # the tensor that changed most
    worst_error: float

    @property
    def sentence(self) -> str:
        """What came of it, with the warning that belongs to weights that were rounded before."""
        main = max(self.sources, key=lambda kind: self.sources[kind])
        text = (
            f"{self.changed} matrices from {main} to {self.precision.upper()}: {self.size_before / 1e6:,.1f} MB become"
            f" {self.size_after / 1e6:,.1f} MB; weights change by {self.error:.2%} (most: `{self.worst}`,"
            f" {self.worst_error:.2%})"
        )
        if main in _FLOATS:
            return text
        if self.error < 1e-3:
            return f"{text}. They were {main} before, and are as good as that: writing them anew gains no quality"
        return f"{text}. They were {main} before: writing them anew gains no quality, and this error is added to theirs"


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor, as it is and as it shall be."""

    source: Any  # gguf.ReaderTensor
    kind: Any  # gguf.GGMLQuantizationType
    size: int  # bytes, as it shall be

    @property
    def changes(self) -> bool:
        return bool(self.source.tensor_type != self.kind)


def convert(source: Path, target: Path, to: str) -> Report:
    """Write `target` with the weights of `source` as `to`, one of `PRECISIONS`.

    Raises `ArtefactError` when nothing would change or the file is not one to convert, `InputError` for another
    precision or without the `gguf` package.
    """
    check(to)
    reader = _open(source)
    tensors = _planned(reader, to)
    if not any(one.changes for one in tensors):
        kinds = Counter(one.source.tensor_type.name for one in tensors if len(one.source.shape) > 1)
        shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "none"
        raise ArtefactError(
            "nothing-to-convert",
            f"the model cannot be made {to.upper()}: its matrices are {shown}: nothing would change",
            "mainspring models",
        )
    with target.open("wb") as out:
        _head(out, source, reader, tensors, to)
        sums = [_write(out, one, reader.alignment) for one in tensors]
        out.flush()
        os.fsync(out.fileno())
    return _report(source, target, tensors, sums, to)


def check(to: str) -> None:
    """Raise `InputError` for a type that cannot be written."""
    if to in PRECISIONS:
        return
    known = ", ".join(f"`{one}`" for one in PRECISIONS)
    note = ""
    if re.fullmatch(r"(i?q[1-8]_k(_[sml])?|iq\d_\w+)", to):
        note = " (the `gguf` package reads K- and I-quants, and does not write them)"
    message = f"a GGUF model cannot be made `{to}`{note}; there are: {known}"
    raise InputError("unknown-precision", message, "mainspring quantize MODEL --to q8_0")


def _open(source: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(
            "no-gguf", "converting needs the package `gguf`", "pip install 'mainspring[llamacpp]'"
        ) from None
    try:
        reader = GGUFReader(source)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ArtefactError("artefact-broken", f"`{source}` cannot be read as GGUF: {error}") from error
    if reader.endianess.name != "LITTLE":
        raise ArtefactError("artefact-unfit", f"`{source}` is big-endian, and only little-endian files are converted")
    parts = reader.get_field("split.count")
    if parts is not None and int(parts.contents()) > 1:
        message = f"`{source}` is one of {int(parts.contents())} parts"
        raise ArtefactError("artefact-unfit", message, "join the parts with `llama-gguf-split --merge` first")
    return reader


# --- what becomes of each tensor ---------------------------------------------------------------------


def _planned(reader: GGUFReader, to: str) -> list[_Tensor]:
    names = {tensor.name for tensor in reader.tensors}
    logits = "output.weight" if "output.weight" in names else "token_embd.weight"  # tied: one matrix is both
    return [_plan(tensor, to, is_logits=tensor.name == logits) for tensor in reader.tensors]


def _plan(tensor: Any, to: str, *, is_logits: bool) -> _Tensor:
    """The type that a tensor gets: its own when it is not to be changed."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    same, kind = tensor.tensor_type, GGMLQuantizationType[to.upper()]
    if len(tensor.shape) < 2 or not tensor.name.endswith("weight") or _AS_THEY_ARE.search(tensor.name):
        kind = same
    else:
        if is_logits and to in ("q5_1", "q5_0", "q4_1", "q4_0"):
            kind = GGMLQuantizationType.Q8_0
            block, size = GGML_QUANT_SIZES[same]
            if size / block <= 34 / 32:  # at eight bits or fewer already: rounding it again would only lose
                kind = same
        if kind != same and int(tensor.shape[0]) % GGML_QUANT_SIZES[kind][0]:
            kind = same if same.name == "BF16" else GGMLQuantizationType.F16  # rows that are no whole blocks
    block, size = GGML_QUANT_SIZES[kind]
    return _Tensor(tensor, kind, int(tensor.n_elements) // block * size)


# --- writing -----------------------------------------------------------------------------------------


def _head(out: BinaryIO, source: Path, reader: GGUFReader, tensors: list[_Tensor], to: str) -> None:
    """Metadata as it was, but for `general.file_type`; then where each tensor lies."""
    fields = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
    begin = 24  # magic, version, two counts
    end = max((field.offset + sum(part.nbytes for part in field.parts) for field in fields), default=begin)
    with source.open("rb") as file:
        whole = bytearray(file.read(end))
    version = struct.unpack_from("<I", whole, 4)[0]
    kind = reader.fields.get("general.file_type")
    extra = b""
    if kind is not None:
        place = kind.offset + sum(part.nbytes for part in kind.parts[: kind.data[0]])
        struct.pack_into("<I", whole, place, _FILE_TYPES[to])
    else:
        extra = _text("general.file_type") + struct.pack("<II", _U32, _FILE_TYPES[to])
    if "general.quantization_version" not in reader.fields:
        extra += _text("general.quantization_version") + struct.pack("<II", _U32, 2)
    added = (kind is None) + ("general.quantization_version" not in reader.fields)
    out.write(struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(fields) + added))
    out.write(whole[begin:])
    out.write(extra)
    offset = 0
    for one in tensors:
        sizes = [int(size) for size in one.source.shape]
        out.write(_text(one.source.name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        out.write(struct.pack("<IQ", int(one.kind), offset))
        offset += one.size + -one.size % reader.alignment
    out.write(bytes(-out.tell() % reader.alignment))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _write(out: BinaryIO, one: _Tensor, alignment: int) -> tuple[float, float]:
    """Write a tensor's data; sums of squares of its change and of its weights, 0 when it is as it was."""
    changed, weights = 0.0, 0.0
    if one.changes:
        for values, encoded, decoded in _pieces(one):
            out.write(encoded.tobytes())
            changed += float(np.sum((decoded - values) ** 2, dtype=np.float64))
            weights += float(np.sum(values**2, dtype=np.float64))
    else:
        out.write(one.source.data.tobytes())
    out.write(bytes(-one.size % alignment))
    return changed, weights


def _pieces(one: _Tensor) -> Iterator[tuple[Floats, npt.NDArray[Any], Floats]]:
    """Some rows at a time: as they were, encoded, and what is read of that."""
    from gguf.quants import QuantError, dequantize, quantize

    data = one.source.data
    rows = data.reshape(-1, data.shape[-1])
    step = max(1, _ELEMENTS // int(one.source.shape[0]))
    for begin in range(0, len(rows), step):
        try:
            values = dequantize(np.ascontiguousarray(rows[begin : begin + step]), one.source.tensor_type)
            values = values.astype(np.float32, copy=False)
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                encoded = quantize(values, one.kind)
            decoded = dequantize(encoded, one.kind)
        except (NotImplementedError, QuantError) as error:
            raise ArtefactError("convert", f"the tensor `{one.source.name}` cannot be converted: {error}") from error
        if not np.all(np.isfinite(decoded)):
            message = f"the tensor `{one.source.name}` has weights up to `{float(np.max(np.abs(values))):.3g}`"
            raise ArtefactError("out-of-range", f"{message}, which {one.kind.name} cannot hold", "take `bf16`")
        yield values, encoded, decoded


def _report(source: Path, target: Path, tensors: list[_Tensor], sums: list[tuple[float, float]], to: str) -> Report:
    changed = [(one, pair) for one, pair in zip(tensors, sums, strict=True) if one.changes]
    kinds: Counter[str] = Counter()
    for one, _ in changed:
        kinds[one.source.tensor_type.name] += int(one.source.n_elements)
    errors = [(_relative(*pair), one.source.name) for one, pair in changed]
    worst_error, worst = max(errors)
    return Report(
        precision=to,
        sources=dict(kinds),
        changed=len(changed),
        kept=len(tensors) - len(changed),
        size_before=source.stat().st_size,
        size_after=target.stat().st_size,
        error=_relative(sum(pair[0] for _, pair in changed), sum(pair[1] for _, pair in changed)),
        worst=worst,
        worst_error=worst_error,
    )


def _relative(changed: float, weights: float) -> float:
    return math.sqrt(changed / weights) if weights else 0.0
