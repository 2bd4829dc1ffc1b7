"""An ONNX model's weights in fewer bits: FP32 to FP16, or to INT8.

What this is: bytes in, bytes out. FP16 keeps the matrices as half floats and widens them when the model is loaded, so
that the arithmetic, and with it the speed on a CPU, stays what it was. INT8 multiplies whole numbers: weights by output
channel, activations with ranges from rows that the model was trained on (Jacob et al. 2018, "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference"), or, where those ranges fit badly, by each batch.
Who calls it: the step `convert`, in its own process; `unfit` also the host. What it must never do: give back a model in
which nothing has changed, or look at a row that the gates hold out.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mainspring.errors import ArtefactError, InputError
from mainspring.facts.onnx_file import Graph, read_graph
from mainspring.facts.onnx_graph import CONVOLVED, DENSE, TREES

PRECISIONS = ("fp16", "int8")

CALIBRATED = 2_048  # rows that ranges are taken from
_BATCH = 64
_FLOAT, _HALF = 1, 10  # TensorProto.DataType
_WHOLE = frozenset({2, 3, 4, 5})  # (u)int8 and (u)int16
_MULTIPLIED = ("MatMul", "Gemm", "Conv")
DRIFTED = 0.02
"""Root mean square change of the probability on training rows, above which the other way to INT8 is tried."""

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Converted:
    """A model in other weights."""

    content: bytes
    how: str  # in a few words: "weights widened when loaded", "ranges of 2,048 rows", "ranges of each batch"
    matrices: int  # that were changed
    change: float  # root mean square change of the probability on training rows; nan without rows


def unfit(model: bytes, to: str) -> str:
    """Why the model cannot be converted, as a sentence; empty when it can. Reads the graph, runs nothing."""
    if to not in PRECISIONS:
        return f"`{to}` is no precision of an ONNX model; there are: {', '.join(f'`{p}`' for p in PRECISIONS)}"
    graph = read_graph(model)
    matrices = _matrices(graph)
    if any(weight.kind in _WHOLE and len(weight.sizes) > 1 for weight in graph.weights.values()):
        return "its weights are INT8 already: convert the version that it was made of"
    if matrices and to == "fp16" and all(graph.weights[name].kind == _HALF for name in matrices):
        return "its weights are FP16 already: nothing would change"
    if matrices:
        return ""
    return f"{_instead(graph)}: nothing would change"


def _matrices(graph: Graph) -> list[str]:
    """The weights of two dimensions and more that are multiplied with, also through a widening `Cast`."""
    widened = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "Cast" and node.inputs}
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.op in DENSE | CONVOLVED:
            for name in node.inputs:
                weight = graph.weights.get(widened.get(name, name))
                if weight is not None and len(weight.sizes) > 1 and weight.kind in (_FLOAT, _HALF):
                    found[widened.get(name, name)] = None
    return list(found)


def _instead(graph: Graph) -> str:
    """What the model consists of, when not of matrices."""
    trees = 0
    for node in graph.nodes:
        if node.op in TREES:
            listed = node.numbers.get("nodes_treeids") or node.numbers.get("tree_roots") or ()
            trees += len(set(listed)) if isinstance(listed, tuple) else 1
    if trees:
        return f"its {trees:,} tree{'s hold' if trees > 1 else ' holds'} no matrix"
    linear = next((node.op for node in graph.nodes if "coefficients" in node.numbers), "")
    return f"its `{linear}` holds no matrix" if linear else "it holds no matrix"


def convert(model: bytes, to: str, rows: Matrix | None) -> Converted:
    """Convert; `rows` are columns of rows that the model was trained on, shape (n, columns).

    Raises `ArtefactError` when there is nothing to convert or the tools cannot, `InputError` without `onnx`.
    """
    why = unfit(model, to)
    if why:
        raise ArtefactError("nothing-to-convert", f"the model cannot be made {to.upper()}: {why}", "mainspring models")
    try:
        import onnx
    except ImportError:
        raise InputError(
            "no-onnx", "converting needs the package `onnx`", "pip install 'mainspring[sklearn]'"
        ) from None
    whole = _widen(onnx.load_from_string(model))
    try:
        return _half(model, whole, rows) if to == "fp16" else _whole_numbers(model, whole, rows)
    except ArtefactError:
        raise
    except Exception as error:  # the quantiser raises many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtefactError("convert", f"the model cannot be made {to.upper()}: {lines[0][:300]}") from error


# --- FP16 --------------------------------------------------------------------------------------------


def _half(source: bytes, model: Any, rows: Matrix | None) -> Converted:
    """Keep each matrix as half floats, followed by a `Cast` that the runtime folds away when it loads the model."""
    from onnx import helper, numpy_helper

    casts = []
    matrices = set(_matrices(read_graph(model.SerializeToString())))
    for tensor in [one for one in model.graph.initializer if one.name in matrices and one.data_type == _FLOAT]:
        values = numpy_helper.to_array(tensor)
        largest = float(np.max(np.abs(values), initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            raise ArtefactError(
                "out-of-range", f"the weight `{tensor.name}` goes up to `{largest:.3g}`, and FP16 ends at 65,504"
            )
        name = f"{tensor.name}_fp16"
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=_FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    content = bytes(model.SerializeToString())
    return Converted(content, "weights widened when loaded", len(casts), _change(source, content, rows))


def _widen(model: Any) -> Any:
    """Undo `_half`: a half-float weight and its `Cast` become one float weight again, which the quantiser knows."""
    from onnx import numpy_helper

    halves = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == _HALF}
    for node in list(model.graph.node):
        if node.op_type == "Cast" and node.input[0] in halves:
            values = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for name in halves.keys() - used:
        model.graph.initializer.remove(halves[name])
    return model


# --- INT8 --------------------------------------------------------------------------------------------


def _whole_numbers(source: bytes, model: Any, rows: Matrix | None) -> Converted:
    """Ranges found beforehand if they fit, because then a row's answer is its own; else ranges of each batch."""
    matrices = len(_matrices(read_graph(model.SerializeToString())))
    chosen = _sample(rows)
    fixed: Converted | None = None
    if chosen is not None:
        content = _static(model, chosen)
        fixed = Converted(content, f"ranges of {len(chosen):,} rows", matrices, _change(source, content, chosen))
        if fixed.change <= DRIFTED:
            return fixed
    content = _dynamic(model)
    each = Converted(content, "ranges of each batch", matrices, _change(source, content, chosen))
    return fixed if fixed is not None and not each.change <= fixed.change / 2 else each


def _sample(rows: Matrix | None) -> Matrix | None:
    """At most `CALIBRATED` of the rows, evenly over all; None without any."""
    if rows is None or not len(rows):
        return None
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(CALIBRATED, len(rows))).astype(np.int64))]


def _static(model: Any, rows: Matrix) -> bytes:
    """The model with ranges of each batch, every range then fixed to what it was on the rows.

    Written out like this, every product is one of whole numbers whatever the runtime fuses, and a row's answer does
    not depend on its neighbours. (Quantised with pairs of `QuantizeLinear` and `DequantizeLinear` instead, ONNX Runtime
    1.32 fuses `MatMul` and `Add` of known shapes first, and then multiplies floats.)
    """
    import onnx
    from onnx import helper, numpy_helper

    made = onnx.load_from_string(_dynamic(model))
    found = [node for node in made.graph.node if node.op_type == "DynamicQuantizeLinear"]
    ranges = _ranges(model, [node.input[0] for node in found], rows)
    for node in found:
        low, high = ranges[node.input[0]]
        scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
        zero = int(np.clip(round(-low / scale), 0, 255))
        made.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), node.output[1]))
        made.graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), node.output[2]))
        fixed = helper.make_node("QuantizeLinear", [node.input[0], *node.output[1:]], [node.output[0]])
        at = list(made.graph.node).index(node)
        made.graph.node.remove(node)
        made.graph.node.insert(at, fixed)
    return bytes(made.SerializeToString())


def _ranges(model: Any, names: list[str], rows: Matrix) -> dict[str, tuple[float, float]]:
    """The least and the largest value of each activation on the rows, zero among them."""
    import onnx
    from onnx import helper

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = _input(model)
    known = {one.name for one in model.graph.output}
    asked = [name for name in dict.fromkeys(names) if name != given]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in asked if name not in known)
    session = _session(watched.SerializeToString())
    found = dict.fromkeys(names, (0.0, 0.0))
    for begin in range(0, len(rows), _BATCH):
        batch = rows[begin : begin + _BATCH]
        values = dict(zip(asked, session.run(asked, {given: batch}), strict=True)) if asked else {}
        for name, (low, high) in found.items():
            one = values.get(name, batch)
            found[name] = min(low, float(np.nanmin(one))), max(high, float(np.nanmax(one)))
    return found


def _dynamic(model: Any) -> bytes:
    """The model with whole-number products whose activations' ranges are those of the batch at hand."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    own = onnx.ModelProto()
    own.CopyFrom(model)  # the quantiser changes what it gets
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its advice is no talk for people
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantize_dynamic(
                own,
                path,
                op_types_to_quantize=list(_MULTIPLIED),
                weight_type=QuantType.QInt8,
                per_channel=True,
                # Seven bits of eight: with all eight, CPUs without VNNI saturate, and answers depend on the CPU.
                reduce_range=True,
            )
            return path.read_bytes()
    finally:
        logging.disable(before)


def _input(model: Any) -> str:
    """The name of the model's one input."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return str(next(one.name for one in model.graph.input if one.name not in stored))


def _change(source: bytes, made: bytes, rows: Matrix | None) -> float:
    """The root mean square difference of what the two say of the rows; nan without rows."""
    chosen = _sample(rows)
    if chosen is None:
        return float("nan")
    return float(np.sqrt(np.mean((_answers(source, chosen) - _answers(made, chosen)) ** 2)))


def _answers(model: bytes, rows: Matrix) -> Floats:
    """The last output of floats, one row at a time, as single requests come."""
    session = _session(model)
    output = [one.name for one in session.get_outputs() if one.type in ("tensor(float)", "tensor(double)")][-1]
    name = session.get_inputs()[0].name
    parts = [np.asarray(session.run([output], {name: rows[i : i + 1]})[0]) for i in range(len(rows))]
    found = np.concatenate(parts).astype(np.float64)
    return found if found.ndim == 1 else found[:, -1]


def _session(model: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
