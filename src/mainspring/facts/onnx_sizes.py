"""The sizes of every value in an ONNX graph, as far as they can be told.

What this is: shape inference for the operators that models are made of; rules as in docs/Operators.md of
github.com/onnx/onnx. Who calls it: `facts/onnx_graph.py`. What it must never do: guess. What it can't tell is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mainspring.facts.onnx_file import ELEMENTS, RANK, Graph, Node
from mainspring.facts.onnx_values import Sizes, Values, fold, whole, whole_list

FREE = frozenset(
    {"Identity", "Constant", "Shape", "Size", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "ZipMap"}
)
"""Operators that move no data: a runtime drops them or changes the sizes in place."""


@dataclass(slots=True)
class Flow:
    """What is known of the values of a graph so far."""

    sizes: dict[str, Sizes]
    values: dict[str, Values]  # of small integer tensors, where they can be computed
    constant: set[str]  # that do not depend on the input
    length: int  # taken for a size that varies, other than the rows


def begin(graph: Graph, length: int) -> tuple[Flow, int]:
    """The sizes of weights and inputs, and how many rows the input has (1 where the file leaves it open)."""
    flow = Flow({}, {}, set(), length)
    for name, weight in graph.weights.items():
        flow.sizes[name] = weight.sizes
        flow.constant.add(name)
        if weight.values is not None:
            flow.values[name] = np.asarray(weight.values, dtype=np.int64).reshape(weight.sizes)
    rows = 1
    for at, (name, sizes) in enumerate(graph.inputs.items()):
        flow.sizes[name] = fixed(sizes, length)
        if at == 0 and sizes and isinstance(sizes[0], int) and len(sizes) > 1:
            rows = sizes[0]
    return flow, rows


def fixed(sizes: tuple[int | str, ...], length: int) -> tuple[int, ...]:
    """Sizes with those that vary filled in: one row, and `length` of anything else."""
    return tuple(one if isinstance(one, int) else (1 if at == 0 else length) for at, one in enumerate(sizes))


def step(flow: Flow, node: Node, known: dict[str, tuple[int | str, ...]]) -> tuple[list[Sizes], list[Sizes]]:
    """Sizes of a node's inputs and outputs; the flow learns of the outputs."""
    inputs = [flow.sizes.get(name) if name else None for name in node.inputs]
    outputs: list[Sizes] = [None] * len(node.outputs)
    rule = RULES.get(node.op)
    try:
        told = rule(flow, node, inputs) if rule else _like_first(flow, node, inputs)
        fold(flow.values, flow.sizes, node)
    except (ValueError, IndexError, TypeError, OverflowError, ZeroDivisionError, KeyError, AttributeError):
        told = []  # attributes that contradict each other: nothing can be told
    for at, sizes in enumerate(told[: len(outputs)]):
        outputs[at] = sizes if _sane(sizes) else None
    for at, name in enumerate(node.outputs):
        value = flow.values.get(name)
        if value is not None:
            outputs[at] = value.shape
        elif outputs[at] is None and name in known:
            outputs[at] = fixed(known[name], flow.length)
        flow.sizes[name] = outputs[at]
    if all(name in flow.constant or not name for name in node.inputs) or node.op == "Shape":
        flow.constant.update(node.outputs)
    return inputs, outputs


def _sane(sizes: Sizes) -> bool:
    if sizes is None or len(sizes) > RANK:
        return False
    return min(sizes, default=0) >= 0 and math.prod(sizes) <= ELEMENTS


def _axes(flow: Flow, node: Node, at: int) -> tuple[int, ...] | None:
    """Axes from an attribute, or (newer operator sets) from an input."""
    if "axes" in node.numbers:
        return whole_list(node, "axes", ())
    if len(node.inputs) > at and node.inputs[at]:
        value = flow.values.get(node.inputs[at])
        return None if value is None else tuple(int(one) for one in value.ravel())
    return ()


def _like_first(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    """Of an operator without a rule: one output of the first input's sizes, the others not known."""
    return [inputs[0] if inputs else None] + [None] * (len(node.outputs) - 1)


def _broadcast(_flow: Flow, _node: Node, inputs: list[Sizes]) -> list[Sizes]:
    there = [one for one in inputs if one is not None]
    return [np.broadcast_shapes(*there) if len(there) == len(inputs) else None]


def _matmul(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    left, right = inputs[0], inputs[3 if node.op == "QLinearMatMul" else 1]
    if left is None or right is None:
        return [None]
    if len(left) == 1 or len(right) == 1:
        return [(*left[:-1], *right[:-2], *right[-1:])[: max(len(left) + len(right) - 2, 0)]]
    return [(*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])]


def _gemm(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    left, right = inputs[0], inputs[1]
    if right is None:
        return [None]
    columns = right[0] if whole(node, "transB", 0) else right[1]
    if left is None:
        return [None]
    return [(left[1] if whole(node, "transA", 0) else left[0], columns)]


def _window(node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """Spatial sizes after a window has moved over `sizes`."""
    rank = len(sizes)
    strides = whole_list(node, "strides", (1,) * rank)
    dilations = whole_list(node, "dilations", (1,) * rank)
    pads = whole_list(node, "pads", (0,) * (2 * rank))
    same = node.words.get("auto_pad", "NOTSET").startswith("SAME")
    up = whole(node, "ceil_mode", 0)
    found = []
    for axis in range(rank):
        if same:
            found.append(-(-sizes[axis] // strides[axis]))
            continue
        room = sizes[axis] + pads[axis] + pads[axis + rank] - dilations[axis] * (kernel[axis] - 1) - 1
        found.append((-(-room // strides[axis]) if up else room // strides[axis]) + 1)
    return tuple(found)


def _conv(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, kernel = inputs[0], inputs[3 if node.op == "QLinearConv" else 1]
    if data is None or kernel is None:
        return [None]
    return [(data[0], kernel[0], *_window(node, data[2:], kernel[2:]))]


def _conv_transpose(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, kernel = inputs[0], inputs[1]
    if data is None or kernel is None:
        return [None]
    rank = len(data) - 2
    strides, pads = whole_list(node, "strides", (1,) * rank), whole_list(node, "pads", (0,) * (2 * rank))
    more, dilations = whole_list(node, "output_padding", (0,) * rank), whole_list(node, "dilations", (1,) * rank)
    spatial = (
        strides[n] * (data[2 + n] - 1) + more[n] + (kernel[2 + n] - 1) * dilations[n] + 1 - pads[n] - pads[n + rank]
        for n in range(rank)
    )
    return [(data[0], kernel[1] * whole(node, "group", 1), *spatial)]


def _pool(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data = inputs[0]
    return [None if data is None else (*data[:2], *_window(node, data[2:], whole_list(node, "kernel_shape", ())))]


def _global_pool(_flow: Flow, _node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data = inputs[0]
    return [None if data is None else (*data[:2], *(1 for _ in data[2:]))]


def _flatten(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data = inputs[0]
    if data is None:
        return [None]
    axis = whole(node, "axis", 1)
    return [(math.prod(data[:axis]), math.prod(data[axis:]))]


def _reshape(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data = inputs[0]
    target = flow.values.get(node.inputs[1]) if len(node.inputs) > 1 else np.asarray(whole_list(node, "shape", ()))
    if target is None or data is None:
        return [None]
    wanted = [int(one) for one in target.ravel()]
    wanted = [data[at] if one == 0 and not whole(node, "allowzero", 0) else one for at, one in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(one for one in wanted if one != -1)
        wanted[wanted.index(-1)] = math.prod(data) // rest
    return [tuple(wanted)]


def _transpose(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data = inputs[0]
    if data is None:
        return [None]
    return [tuple(data[one] for one in whole_list(node, "perm", tuple(reversed(range(len(data))))))]


def _concat(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    there = [one for one in inputs if one is not None]
    if len(there) != len(inputs):
        return [None]
    axis = whole(node, "axis", 0) % len(there[0])
    total = sum(one[axis] for one in there)
    return [(*there[0][:axis], total, *there[0][axis + 1 :])]


def _gather(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, picked = inputs[0], inputs[1]
    if data is None or picked is None:
        return [None]
    axis = whole(node, "axis", 0) % len(data)
    return [(*data[:axis], *picked, *data[axis + 1 :])]


def _squeeze(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, axes = inputs[0], _axes(flow, node, 1)
    if data is None or axes is None:
        return [None]
    gone = {one % len(data) for one in axes} if axes else {at for at, one in enumerate(data) if one == 1}
    return [tuple(one for at, one in enumerate(data) if at not in gone)]


def _unsqueeze(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, axes = inputs[0], _axes(flow, node, 1)
    if data is None or axes is None:
        return [None]
    rank = len(data) + len(axes)
    fresh, rest = {one % rank for one in axes}, iter(data)
    return [tuple(1 if at in fresh else next(rest) for at in range(rank))]


def _reduce(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, axes = inputs[0], _axes(flow, node, 1)
    if node.op in ("ArgMax", "ArgMin"):
        axes = (whole(node, "axis", 0),)
    if data is None or axes is None:
        return [None]
    gone = {one % len(data) for one in axes} or set(range(len(data)))
    keep = whole(node, "keepdims", 1)
    return [tuple(1 if at in gone else one for at, one in enumerate(data) if keep or at not in gone)]


def _split(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, count = inputs[0], len(node.outputs)
    if data is None:
        return []
    axis = whole(node, "axis", 0) % len(data)
    told = flow.values.get(node.inputs[1]) if len(node.inputs) > 1 else None
    parts = [int(one) for one in told.ravel()] if told is not None else list(whole_list(node, "split", ()))
    parts = parts or [data[axis] // count] * count
    return [(*data[:axis], one, *data[axis + 1 :]) for one in parts]


def _slice(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data = inputs[0]
    if data is None:
        return [None]
    told = [flow.values.get(name) for name in node.inputs[1:]]
    if "starts" in node.numbers:
        told = [np.asarray(whole_list(node, key, ())) for key in ("starts", "ends")]
        told += [np.asarray(whole_list(node, "axes", ()))] if "axes" in node.numbers else []
    starts, ends, axes, steps = (*told, None, None)[:4]
    if starts is None or ends is None:
        return [None]
    found = list(data)
    for at, (start, end) in enumerate(zip(starts.ravel(), ends.ravel(), strict=True)):
        axis = int(axes.ravel()[at]) if axes is not None else at
        stride = int(steps.ravel()[at]) if steps is not None else 1
        found[axis] = len(range(data[axis])[int(start) : int(end) : stride])
    return [tuple(found)]


def _expand(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    target = flow.values.get(node.inputs[1])
    if target is None or inputs[0] is None:
        return [None]
    return [np.broadcast_shapes(inputs[0], tuple(int(one) for one in target.ravel()))]


def _filled(flow: Flow, node: Node, _inputs: list[Sizes]) -> list[Sizes]:
    target = flow.values.get(node.inputs[0])
    return [None if target is None else tuple(int(one) for one in target.ravel())]


def _resize(flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    target = flow.values.get(node.inputs[3]) if len(node.inputs) > 3 else None
    if target is not None:
        return [tuple(int(one) for one in target.ravel())]
    data = inputs[0]  # factors are floats, which are not read: image networks double
    return [None if data is None or len(data) != 4 else (*data[:2], data[2] * 2, data[3] * 2)]


def _recurrent(_flow: Flow, _node: Node, inputs: list[Sizes]) -> list[Sizes]:
    data, weights, inner = inputs[0], inputs[1], inputs[2]
    if data is None or weights is None or inner is None:
        return []
    state = (weights[0], data[1], inner[2])
    return [(data[0], *state), state, state]


def _einsum(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    left, _, right = node.words.get("equation", "").replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, one in zip(left.split(","), inputs, strict=True):
        if one is None or len(one) != len(letters) or "." in letters:
            return [None]
        sizes.update(zip(letters, one, strict=True))
    return [tuple(sizes[letter] for letter in right)]


def _rows(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    """Of a tabular model: a label or value a row."""
    data = inputs[0]
    return [None if data is None else (data[0],)] * len(node.outputs)


def _shape(_flow: Flow, node: Node, inputs: list[Sizes]) -> list[Sizes]:
    return [None if inputs[0] is None else (len(inputs[0]),)] * len(node.outputs)


def _constant(_flow: Flow, node: Node, _inputs: list[Sizes]) -> list[Sizes]:
    weight = node.tensors.get("value")
    if weight is not None:
        return [weight.sizes]
    several = node.numbers.get("value_ints", node.numbers.get("value_floats"))
    return [(len(several),) if isinstance(several, tuple) else ()]


Rule = Callable[[Flow, Node, list[Sizes]], list[Sizes]]

RULES: dict[str, Rule] = {
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul"), _matmul),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("Conv", "ConvInteger", "QLinearConv", "FusedConv"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Pow", "Where", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual",
         "And", "Or", "Min", "Max", "Sum", "Mean", "PRelu", "Mod"), _broadcast),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd", "ArgMax", "ArgMin"), _reduce),
    "Split": _split,
    "Slice": _slice,
    "Expand": _expand,
    "ConstantOfShape": _filled,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    "Shape": _shape,
    "Constant": _constant,
    **dict.fromkeys(
        ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble", "LinearClassifier", "LinearRegressor",
         "SVMClassifier", "SVMRegressor"), _rows),
}  # fmt: skip
