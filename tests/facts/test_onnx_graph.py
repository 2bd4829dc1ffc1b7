"""Counting what one row of an ONNX model costs."""

from __future__ import annotations

import glob
import os

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mainspring.errors import InputError
from mainspring.facts.onnx_file import read_graph
from mainspring.facts.onnx_graph import from_onnx


def model(nodes, inputs, weights=(), outputs=("y",)) -> bytes:
    """An ONNX file of those nodes; inputs are (name, sizes), weights (name, array)."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes) for name, sizes in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def weight(*sizes: int) -> np.ndarray:
    """Zeros of a size."""
    return np.zeros(sizes, dtype=np.float32)


MLP = model(
    [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ],
    [("x", ["rows", 20])],
    [("w1", weight(64, 20)), ("b1", weight(64)), ("w2", weight(64, 3))],
)


def test_a_perceptron_counted_by_hand():
    """Two operations a weight of each matrix; the activation is done with the matrix before it."""
    shape = from_onnx(MLP, "mlp")
    assert shape.parameters == 64 * 20 + 64 + 64 * 3
    assert shape.weight_bytes == 4 * shape.parameters
    assert shape.flops == 2 * (64 * 20 + 64 * 3) + 64
    assert shape.kernels == 2
    assert shape.activation_bytes == 4 * (20 + 64 + 64 + 3)
    assert (shape.confidence, shape.source) == ("derived", "ONNX, opset 17, 3 operators")


def test_a_fixed_batch_is_divided_out():
    """A file with eight rows in its input costs an eighth a row."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    eight = from_onnx(model(nodes, [("x", [8, 20])], [("w", weight(20, 5))]), "m")
    one = from_onnx(model(nodes, [("x", ["n", 20])], [("w", weight(20, 5))]), "m")
    assert (eight.flops, eight.activation_bytes) == (one.flops, one.activation_bytes) == (200, 100)


def test_convolutions_follow_strides_pads_and_groups():
    """A strided convolution and a depthwise one, then a pool, flattened by a computed shape."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=16),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["c", "t"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    weights = [("w1", weight(16, 3, 3, 3)), ("w2", weight(16, 1, 3, 3)), ("w3", weight(16, 10))]
    weights += [("zero", np.array(0)), ("axis", np.array([0])), ("rest", np.array([-1]))]
    shape = from_onnx(model(nodes, [("x", ["n", 3, 32, 32])], weights), "cnn")
    first, second = 2 * 16 * 16 * 16 * 27, 2 * 16 * 16 * 16 * 9
    assert shape.flops == first + second + 16 * 16 * 16 + 2 * 160
    assert shape.kernels == 4
    assert shape.confidence == "derived"


def test_attention_with_sizes_computed_by_the_graph():
    """Tokens of open length are taken as `length`, and scores grow with its square."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"]),
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"]),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]
    file = model(nodes, [("x", ["n", "tokens", 64])], [("wq", weight(64, 64))])
    for length in (16, 128):
        shape = from_onnx(file, "attention", length)
        scores = length * length
        assert shape.flops == 2 * length * 64 * 64 + length * 64 + 2 * scores * 64 + scores + 2 * scores * 64


def test_published_networks_have_their_published_operations():
    """ResNet-50 has 4.1 billion multiply-adds, VGG-19 19.6, SqueezeNet 0.35 (files that come with `onnx`)."""
    folder = os.path.join(os.path.dirname(onnx.__file__), "backend/test/data/light")
    found = {}
    for path in glob.glob(f"{folder}/*.onnx"):
        with open(path, "rb") as file:
            found[os.path.basename(path)] = from_onnx(file.read(), path).flops / 2e9
    if not found:
        pytest.skip("this version of onnx comes without its test data")
    assert found["light_resnet50.onnx"] == pytest.approx(4.1, rel=0.02)
    assert found["light_vgg19.onnx"] == pytest.approx(19.6, rel=0.02)
    assert found["light_squeezenet.onnx"] == pytest.approx(0.35, rel=0.02)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30)
    | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30)
)
def test_lists_of_numbers_are_read_as_onnx_wrote_them(values):
    """Whole numbers of any size and sign, and floats, come back as they were."""
    node = helper.make_node("Relu", ["x"], ["y"], numbers=values, after=3, word="w")
    graph = read_graph(model([node], [("x", [1])]))
    assert graph.nodes[0].numbers == {"numbers": tuple(values), "after": 3}
    assert graph.nodes[0].words == {"word": "w"}


def trees(**changes) -> bytes:
    """Two trees: one of three levels on one side, and a stump."""
    lists = {
        "nodes_treeids": [0, 0, 0, 0, 0, 1, 1, 1],
        "nodes_nodeids": [0, 1, 2, 3, 4, 0, 1, 2],
        "nodes_truenodeids": [1, 0, 3, 0, 0, 1, 0, 0],
        "nodes_falsenodeids": [2, 0, 4, 0, 0, 2, 0, 0],
        "nodes_featureids": [0] * 8,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_values": [0.5] * 8,
        **changes,
    }
    return model(
        [helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **lists)], [("x", ["n", 4])]
    )


def test_trees_are_walked():
    """A row visits the mean path of each tree: (2 + 3 + 3) / 3 nodes of the first, 2 of the second."""
    shape = from_onnx(trees(), "trees")
    assert shape.parameters == 8
    assert shape.visits == pytest.approx(8 / 3 + 2)
    assert shape.flops == pytest.approx(2 * (8 / 3 + 2))


@pytest.mark.parametrize(
    "changes",
    [{"nodes_truenodeids": [1, 0, 0, 1, 2, 0, 1, 2]}, {"nodes_truenodeids": [0] * 8, "nodes_falsenodeids": [0] * 8}],
)
def test_trees_with_a_cycle_end(changes):
    """Nodes that point back are no reason to walk for ever."""
    assert from_onnx(trees(**changes), "trees").visits > 0


def test_lists_of_different_lengths_are_refused():
    """A tree ensemble whose lists contradict each other is named."""
    with pytest.raises(InputError, match="different lengths"):
        from_onnx(trees(nodes_nodeids=[0, 1]), "trees")


def test_what_it_cannot_tell_is_said():
    """An operator whose size depends on data is counted among the unknown, and the confidence is low."""
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Reshape", ["x", "i"], ["r"])]
    shape = from_onnx(
        model([*nodes, helper.make_node("MatMul", ["r", "w"], ["y"])], [("x", ["n", 4])], [("w", weight(4, 4))]), "m"
    )
    assert shape.confidence == "low"
    assert "1 of them of unknown size" in shape.source
    assert shape.flops >= 2 * 16


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "no graph"),
        (b"not an onnx file", "no ONNX model|ends"),
        (b"\x3a\x05", "bytes are missing"),
        (b"\xff" * 50, "more than 64 bits"),
        (b"\x3b", "wire type"),
        (b"\x3a\x00", "no operators"),
    ],
)
def test_what_is_no_model_is_refused(data, told):
    """Bytes that are none end in an error for people."""
    with pytest.raises(InputError, match=told) as raised:
        from_onnx(data, "x")
    assert raised.value.code == "bad-onnx"


@pytest.mark.parametrize("end", range(1, len(MLP), 97))
def test_a_file_that_is_cut_off_is_refused(end):
    """Wherever the file ends, there is an error for people."""
    with pytest.raises(InputError):
        from_onnx(MLP[:end], "x")


def test_a_tensor_with_other_bytes_than_its_sizes_say_is_refused():
    """Data that is shorter than the sizes is named; data kept in another file is not looked for."""
    broken = onnx.ModelProto.FromString(MLP)
    broken.graph.initializer[0].dims[0] = 6400
    with pytest.raises(InputError, match="w1"):
        from_onnx(broken.SerializeToString(), "x")
    broken.graph.initializer[0].ClearField("raw_data")
    broken.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = broken.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    assert from_onnx(broken.SerializeToString(), "x").parameters == 6400 * 20 + 64 + 64 * 3


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6),
    st.sampled_from([MLP, trees()]),
)
@settings(max_examples=200)
def test_flipped_bytes_give_a_shape_or_an_error_for_people(changes, good):
    """Whatever bytes are changed, there is a shape with sizes of zero or more, or an InputError."""
    raw = bytearray(good)
    for at, byte in changes:
        raw[at % len(raw)] = byte
    try:
        shape = from_onnx(bytes(raw), "x")
    except InputError:
        return
    assert min(shape.flops, shape.weight_bytes, shape.activation_bytes, shape.parameters, shape.kernels) >= 0
