"""The small integer arithmetic by which exporters of ONNX compute sizes.

What this is: Shape, Gather, Concat and the like, over tensors of at most 1,024 whole numbers. Who calls it:
`facts/onnx_sizes.py`. What it must never do: compute anything of a model's own data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mainspring.facts.onnx_file import Node

Sizes = tuple[int, ...] | None
Values = NDArray[np.int64]

MOST = 1024
"""Numbers of a tensor that is computed."""


def whole_list(node: Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """An attribute that is a list of whole numbers."""
    found = node.numbers.get(name, default)
    return tuple(int(one) for one in found) if isinstance(found, tuple) else (int(found),)


def whole(node: Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    found = node.numbers.get(name, default)
    return int(found[0]) if isinstance(found, tuple) else int(found)


def fold(values: dict[str, Values], sizes: dict[str, Sizes], node: Node) -> None:
    """Compute the value of a small integer tensor, where its inputs are known."""
    if node.op == "Shape":
        found = sizes.get(node.inputs[0])
        if found is not None:
            start, end = whole(node, "start", 0), whole(node, "end", len(found))
            values[node.outputs[0]] = np.asarray(found[start:end], dtype=np.int64)
        return
    if node.op == "Constant":
        weight = node.tensors.get("value")
        if weight is not None and weight.values is not None:
            values[node.outputs[0]] = np.asarray(weight.values, dtype=np.int64).reshape(weight.sizes)
        for key in ("value_int", "value_ints"):
            if key in node.numbers:
                values[node.outputs[0]] = np.asarray(node.numbers[key], dtype=np.int64)
        return
    known = [values[name] for name in node.inputs if name in values]
    if node.op not in FOLDS or len(known) != len([name for name in node.inputs if name]) or not known:
        return
    with np.errstate(all="ignore"):  # numbers of a hostile file may overflow: their sizes are refused later
        result = np.asarray(FOLDS[node.op](node, known), dtype=np.int64)
    if result.size <= MOST:
        values[node.outputs[0]] = result


def _sliced(_node: Node, known: list[Values]) -> Values:
    starts, ends = known[1].ravel(), known[2].ravel()
    if known[0].ndim != 1 or len(starts) != 1:
        raise ValueError(starts)
    return known[0][int(starts[0]) : int(ends[0]) : int(known[4].ravel()[0]) if len(known) > 4 else 1]


FOLDS: dict[str, Callable[[Node, list[Values]], object]] = {
    "Gather": lambda node, known: np.take(known[0], known[1], axis=whole(node, "axis", 0)),
    "Concat": lambda node, known: np.concatenate(known, axis=whole(node, "axis", 0)),
    "Unsqueeze": lambda _node, known: known[0].reshape(-1) if known[0].ndim == 0 else known[0],
    "Squeeze": lambda _node, known: known[0].reshape(()) if known[0].size == 1 else known[0],
    "Cast": lambda _node, known: known[0],
    "Identity": lambda _node, known: known[0],
    "Slice": _sliced,
    "Mul": lambda _node, known: known[0] * known[1],
    "Add": lambda _node, known: known[0] + known[1],
    "Sub": lambda _node, known: known[0] - known[1],
    "Div": lambda _node, known: known[0] // known[1],
}
