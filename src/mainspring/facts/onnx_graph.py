"""The shape of any other model (ranker, vision, tabular) from its ONNX file.

What this is: what one row costs, operator by operator: matrices, convolutions, recurrences and trees counted, the rest
by the elements that it writes. Who calls it: `plan` and `catalog` for an ONNX model.
What it must never do: run the model, follow a path to external data, or hide what it could not tell: operators of
unknown size are counted in `source`, and make the shape's confidence `low`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mainspring.facts.onnx_file import Graph, Node, read_graph, refuse
from mainspring.facts.onnx_sizes import FREE, begin, step
from mainspring.facts.onnx_values import Sizes
from mainspring.facts.shapes import GraphShape

LARGEST = 2 * 1024**3
"""Bytes of an ONNX file: protobuf's own limit."""

LENGTH = 128
"""Taken for a size that the file leaves open, other than the rows: tokens of a text, features of a table."""

WALKED = 200_000
"""Nodes of a tree ensemble that are walked; of a larger one the first trees stand for all."""

DENSE = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul", "Gemm", "FusedGemm"})
CONVOLVED = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv", "ConvTranspose"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
POOLED = frozenset({"MaxPool", "AveragePool", "LpPool"})
TREES = frozenset({"TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble"})
BRANCHED = frozenset({"If", "Loop", "Scan", "SequenceMap"})
FUSED = frozenset(
    {"Add", "Sub", "Mul", "Div", "Sum", "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid",
     "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Gelu", "Erf", "Exp", "Sqrt", "Pow", "Cast", "Softplus",
     "Mish", "Neg", "Abs", "Where", "QuantizeLinear", "DequantizeLinear"}
)  # fmt: skip
"""Operators that runtimes append to the one before when nothing else reads its result: no kernel, no trip to memory."""

HEAVY = DENSE | CONVOLVED | RECURRENT | {"Einsum"}


@dataclass(slots=True)
class _Sum:
    flops: float = 0.0
    moved: float = 0.0  # elements
    kernels: int = 0
    unknown: int = 0
    visits: float = 0.0
    parameters: int = 0
    size: float = 0.0


def from_onnx(data: bytes | memoryview, name: str, length: int = LENGTH) -> GraphShape:
    """The shape of an ONNX model; `length` is taken for sizes that vary, other than the rows.

    InputError `bad-onnx` for bytes that are no ONNX model, or one that is cut off.
    """
    if len(data) > LARGEST:
        refuse(f"`{name}` has {len(data):,} bytes; an ONNX file has at most {LARGEST:,}")
    if not 1 <= length <= 10**6:
        refuse(f"a length of `{length}` is not between 1 and 1,000,000")
    graph = read_graph(data)
    total, rows = _walk(graph, length)
    total.parameters += sum(one.elements for one in graph.weights.values())
    total.size += sum(one.size for one in graph.weights.values())
    source = f"ONNX, opset {graph.opset}, {len(graph.nodes)} operators"
    if total.unknown:
        source += f", {total.unknown} of them of unknown size"
    return GraphShape(
        name=name,
        parameters=total.parameters,
        weight_bytes=total.size,
        flops=total.flops / rows,
        activation_bytes=4.0 * total.moved / rows,
        kernels=total.kernels,
        visits=total.visits / rows,
        source=source,
        confidence="low" if total.unknown else "derived",
    )


def _walk(graph: Graph, length: int) -> tuple[_Sum, int]:
    """What all operators that depend on the input cost together, for how many rows."""
    flow, rows = begin(graph, length)
    total = _Sum()
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    wrote: dict[str, int] = {}  # elements of results that went to memory
    for node in graph.nodes:
        for weight in node.tensors.values():
            total.parameters += weight.elements
            total.size += weight.size
        fixed = [name in flow.constant for name in node.inputs]
        inputs, outputs = step(flow, node, graph.known)
        if node.op in FREE or all(name in flow.constant for name in node.outputs if name):
            continue
        if node.op in TREES:
            total.kernels += 1
            _trees(total, node, inputs)
            continue
        _linear(total, node)
        written = [math.prod(one) for one in outputs if one is not None]
        read = [math.prod(one) for one, still in zip(inputs, fixed, strict=True) if one is not None and not still]
        saved = (
            next((wrote[one] for one in node.inputs if uses[one] == 1 and one in wrote), 0) if node.op in FUSED else 0
        )
        total.kernels += 0 if saved else 1
        total.moved += sum(written) - 2 * saved
        total.moved += max(read, default=0) if node.op == "Gather" else sum(read)
        if len(outputs) == 1 and written:
            wrote[node.outputs[0]] = written[0]
        unknown = node.op in BRANCHED or not written
        flops = None if unknown else _flops(node, inputs, outputs)
        if flops is None:
            # A matrix is at least met once by a row; anything else costs next to nothing.
            flops = (
                2.0 * max((math.prod(one) for one in inputs if one is not None), default=0) if node.op in HEAVY else 0
            )
            unknown = True
        total.unknown += unknown
        total.flops += flops
    return total, rows


def _flops(node: Node, inputs: list[Sizes], outputs: list[Sizes]) -> float | None:
    """Operations of one operator, a multiply and an add counted apart; None when a size is missing."""
    out = outputs[0]
    if out is None:
        return None
    written = float(math.prod(out))
    if node.op in DENSE:
        left = inputs[0]
        if not left:
            return None
        return 2.0 * written * (left[0] if node.numbers.get("transA") else left[-1])
    if node.op in CONVOLVED:
        return _convolution(node, inputs, written)
    if node.op in RECURRENT:
        data, weights, inner = inputs[0], inputs[1], inputs[2]
        if data is None or weights is None or inner is None:
            return None
        return 2.0 * data[0] * data[1] * (math.prod(weights) + math.prod(inner))
    if node.op == "Einsum":
        letters = dict.fromkeys(node.words.get("equation", "").replace(" ", "").partition("->")[0].replace(",", ""))
        sizes: dict[str, int] = {}
        for part, one in zip(
            node.words["equation"].replace(" ", "").partition("->")[0].split(","), inputs, strict=True
        ):
            sizes.update(zip(part, one or (), strict=True))
        return 2.0 * math.prod(sizes[letter] for letter in letters)
    if node.op in POOLED:
        kernel = node.numbers.get("kernel_shape", ())
        return written * math.prod(kernel if isinstance(kernel, tuple) else (kernel,))
    return max(written, *(float(math.prod(one)) for one in inputs[:1] if one is not None), 0.0)


def _convolution(node: Node, inputs: list[Sizes], written: float) -> float | None:
    kernel = inputs[3 if node.op == "QLinearConv" else 1]
    if kernel is None:
        return None
    if node.op == "ConvTranspose":
        return None if inputs[0] is None else 2.0 * math.prod(inputs[0]) * math.prod(kernel[1:])
    return 2.0 * written * math.prod(kernel[1:])


def _linear(total: _Sum, node: Node) -> None:
    """Parameters that the tabular operators keep in their attributes."""
    for key in ("coefficients", "support_vectors", "intercepts"):
        found = node.numbers.get(key)
        if isinstance(found, tuple):
            total.parameters += len(found)
            total.size += 4.0 * len(found)
            total.flops += 2.0 * len(found)


def _trees(total: _Sum, node: Node, inputs: list[Sizes]) -> None:
    """Trees: each row walks each of them from its root to a leaf, a comparison a node."""
    rows = inputs[0][0] if inputs and inputs[0] else 1
    for found in node.numbers.values():
        total.size += 4.0 * len(found) if isinstance(found, tuple) else 0.0
    trees, nodes, visits = _visits(node)
    total.parameters += nodes
    total.visits += visits * rows
    total.flops += 2.0 * visits * rows
    total.moved += rows * ((inputs[0][-1] if inputs and inputs[0] else 0) + trees)
    if not nodes:
        total.unknown += 1


def _visits(node: Node) -> tuple[int, int, float]:
    """Trees, nodes, and the mean number of nodes from root to leaf, summed (leaves taken as equally likely)."""
    ids: tuple[Sequence[int], Sequence[int]] = _listed(node, "nodes_treeids"), _listed(node, "nodes_nodeids")
    true: Sequence[int] = _listed(node, "nodes_truenodeids")
    false: Sequence[int] = _listed(node, "nodes_falsenodeids")
    count = len(ids[0])
    if not count:
        roots = len(_listed(node, "tree_roots"))
        inner = len(_listed(node, "nodes_trueleafs"))
        return roots, inner, roots * math.log2(max(inner / max(roots, 1), 1.0) + 1.0)
    if not count == len(ids[1]) == len(true) == len(false):
        refuse("the lists of a tree ensemble's nodes have different lengths")
    trees = len(set(ids[0]))
    if count > WALKED:  # the first trees stand for all
        known = set(ids[0][:WALKED])
        last = ids[0][WALKED]
        taken = (known - {last}) or {last}
        kept = [at for at, tree in enumerate(ids[0]) if tree in taken]
        ids = ([ids[0][at] for at in kept], [ids[1][at] for at in kept])
        true, false = [true[at] for at in kept], [false[at] for at in kept]
    depths = _depths(ids, true, false)
    return trees, count, sum(depths) / max(len(depths), 1) * trees


def _depths(ids: tuple[Sequence[int], Sequence[int]], true: Sequence[int], false: Sequence[int]) -> list[float]:
    """Mean number of nodes from root to leaf of each tree, whose first node is its root."""
    places = {key: at for at, key in enumerate(zip(*ids, strict=True))}
    leaves: dict[int, tuple[int, int]] = {}
    seen: set[int] = set()
    first: dict[int, int] = {}
    for at, tree in enumerate(ids[0]):
        first.setdefault(tree, at)
    for tree, root in first.items():
        pending = [(root, 1)]
        while pending:
            at, depth = pending.pop()
            if at in seen:
                continue  # a node with two parents: no tree, counted once
            seen.add(at)
            ends = [places.get((tree, child), at) for child in {true[at], false[at]}]
            below = [end for end in ends if end != root and end not in seen]
            if below:
                pending.extend((end, depth + 1) for end in below)
            else:
                leaf, deep = leaves.get(tree, (0, 0))
                leaves[tree] = (leaf + 1, deep + depth)
    return [deep / leaf for leaf, deep in leaves.values()]


def _listed(node: Node, key: str) -> tuple[int, ...]:
    found = node.numbers.get(key, ())
    return tuple(int(one) for one in found) if isinstance(found, tuple) else (int(found),)
