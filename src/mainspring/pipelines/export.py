"""A fitted scikit-learn classifier as ONNX. The only module that imports skl2onnx.

Who calls it: packaging, in the step's own process. What it must never do: let a model out whose outputs are not a
tensor of probabilities of two classes, the positive one last.
"""

from __future__ import annotations

from typing import Any

from mainspring.errors import ArtefactError, UserCodeError

OPSET = 17


def to_onnx(model: Any, columns: int) -> bytes:
    """Export a fitted binary classifier (or pass on ONNX bytes) that takes float32 of shape (n, `columns`).

    Raises `UserCodeError` when it is no fitted binary classifier, `ArtefactError` when it cannot be exported.
    """
    if isinstance(model, bytes):
        return model
    _check(model)
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    _plain_attributes()
    try:
        exported = convert_sklearn(
            model,
            "model",  # a fixed name, so that the same model gives the same bytes
            initial_types=[("columns", FloatTensorType([None, columns]))],
            options={id(model): {"zipmap": False}},
            target_opset=OPSET,
        )
    except Exception as error:  # the exporter raises many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtefactError(
            "export",
            f"a `{type(model).__name__}` cannot be exported to ONNX: {lines[0]}",
            "use a scikit-learn classifier that skl2onnx knows, fitted on an array of numbers, or return ONNX bytes",
        ) from error
    return bytes(exported.SerializeToString())


def _plain_attributes() -> None:
    """Make skl2onnx's attributes acceptable to protobuf 7, which takes no booleans where it wants whole numbers."""
    from skl2onnx.common import _container

    original = _container.make_node
    if getattr(original, "takes_booleans", False):
        return

    def make_node(*arguments: Any, **attributes: Any) -> Any:
        plain = {
            name: [int(v) if isinstance(v, bool) else v for v in value] if isinstance(value, list) else value
            for name, value in attributes.items()
        }
        return original(*arguments, **plain)

    make_node.takes_booleans = True  # type: ignore[attr-defined]
    _container.make_node = make_node


def _check(model: Any) -> None:
    name = type(model).__name__
    if not hasattr(model, "predict_proba"):
        raise UserCodeError(
            "train-output", f"step `train` returned a `{name}`", "return a fitted classifier with `predict_proba`"
        )
    classes = list(getattr(model, "classes_", ()))
    if len(classes) != 2 or [float(c) if _numeric(c) else c for c in classes] != [0.0, 1.0]:
        shown = ", ".join(str(c) for c in classes[:5]) or "none: it is not fitted"
        raise UserCodeError(
            "train-classes",
            f"the model of step `train` knows the classes `{shown}`",
            "fit it on outcomes 0 and 1, both present",
        )


def _numeric(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
