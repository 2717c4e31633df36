"""ONNX perceptrons of many makes as rows, and everything else refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerl.commands.export import export_policy
from edgerl.errors import EdgerlError, FileFormatError, UnsupportedModelError
from edgerl.profiling.budgets.model import read_model
from edgerl.profiling.budgets.onnx_graph import output_bounds
from edgerl.profiling.budgets.report import profile
from tests.foreign import write_actor
from tests.policy.policies import random_policy

FLOAT = TensorProto.FLOAT


def constant(name: str, value: Any, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[TensorProto],
    *,
    shape: Sequence[Any] = ("batch", 3),
    sparse: Sequence[Any] = (),
    check: bool = True,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "perceptron",
        [helper.make_tensor_value_info("observation", FLOAT, shape)],
        [helper.make_tensor_value_info("action", FLOAT, ("batch", "actions"))],
        list(initializers),
        sparse_initializer=list(sparse),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if check:
        onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


WEIGHT = [[1, 0, 2], [0, 0, 3]]  # [2 outputs, 3 inputs], three connections


def node(operation: str, *inputs: str, output: str = "action", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operation, inputs, [output], **attributes)


def gemm(output: str = "action") -> onnx.NodeProto:
    return node("Gemm", "observation", "w", "b", output=output, transB=1)


GEMM = [constant("w", WEIGHT), constant("b", [0, 0])]


def test_gemm_in_both_directions(tmp_path: Path) -> None:
    for name, weight, transposed in (("a", WEIGHT, 1), ("b", np.transpose(WEIGHT), 0)):
        step = node("Gemm", "observation", "w", transB=transposed)
        (row,) = read_model(write(tmp_path / f"{name}.onnx", [step], [constant("w", weight)])).layers
        assert (row.n_inputs, row.n_outputs, row.connections, row.precision) == (3, 2, 3, "fp32")


def test_a_chain_of_many_operators(tmp_path: Path) -> None:
    nodes = [
        node("Flatten", "observation", output="flat"),
        node("Sub", "flat", "mean", output="centred"),
        node("Div", "centred", "deviation", output="normal"),
        node("Clip", "normal", "low", "high", output="clipped"),
        node("MatMul", "clipped", "w1", output="m1"),
        node("Identity", "m1", output="i1"),
        node("Add", "b1", "i1", output="a1"),
        node("Elu", "a1", output="h1", alpha=0.5),
        node("Constant", output="w2", value=constant("", np.ones((4, 2)))),
        node("MatMul", "h1", "w2", output="m2"),
        node("Tanh", "m2", output="t"),
        node("Mul", "t", "range", output="scaled"),
        node("Add", "scaled", "centre", output="action"),
    ]
    initializers = [
        constant("mean", [0, 0, 0]),
        constant("deviation", [1, 1, 1]),
        constant("low", -5),
        constant("high", 5),
        constant("w1", np.ones((3, 4))),
        constant("b1", np.ones(4)),
        constant("range", [2, 3]),
        constant("centre", [0, 1]),
    ]
    path = write(tmp_path / "m.onnx", nodes, initializers)
    onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"observation": np.zeros((1, 3), np.float32)})
    rows = read_model(path)
    assert rows.architecture == "3-4-2"
    assert [row.connections for row in rows.layers] == [12, 8]
    assert rows.constant_bytes == 4 * (3 + 3 + 1 + 1 + 2 + 2)  # the bias of the first layer belongs to its row
    assert rows.file_bytes == path.stat().st_size


def test_a_bias_is_counted_where_there_is_one(tmp_path: Path) -> None:
    weights, bias = constant("w", np.ones((3, 2))), constant("b", [1, 1])
    alone, product = node("MatMul", "observation", "w"), node("MatMul", "observation", "w", output="m")
    cases = (
        ("alone", [alone], [weights], 24),
        ("gemm", [node("Gemm", "observation", "w")], [weights], 24),
        ("activated", [product, node("Relu", "m")], [weights], 24),
        ("added", [product, node("Add", "m", "b")], [weights, bias], 32),
        ("gemm_bias", [node("Gemm", "observation", "w", "b")], [weights, bias], 32),
    )
    for name, nodes, initializers, expected in cases:
        path = write(tmp_path / f"{name}.onnx", nodes, initializers)
        assert profile(path, "raspberry-pi-5").layers[0].bytes == read_model(path).layers[0].stored_bytes == expected


@pytest.mark.parametrize(
    ("tail", "bounds"),
    [
        ([("Tanh", {})], (-1, 1)),
        ([("Sigmoid", {}), ("Mul", {"a": 4}), ("Sub", {"b": 1})], (-1, 3)),
        ([("Tanh", {}), ("Mul", {"a": -2})], (-2, 2)),
        ([("Clip", {"a": -3, "b": 5})], (-3, 5)),
        ([("Tanh", {}), ("Div", {"a": 2}), ("Add", {"b": 1}), ("Identity", {})], (0.5, 1.5)),
        ([("Identity", {})], None),
        ([("Relu", {})], None),
        ([("Tanh", {}), ("Exp", {})], None),
    ],
)
def test_the_last_operators_tell_the_bounds_of_the_output(
    tmp_path: Path, tail: list[tuple[str, dict[str, float]]], bounds: tuple[float, float] | None
) -> None:
    path = write_actor(tmp_path / "actor.onnx", tail, n_actions=2)
    found = output_bounds(path, 2)
    if bounds is None:
        assert found is None
        return
    assert found is not None
    np.testing.assert_array_equal(found, [[bounds[0]] * 2, [bounds[1]] * 2])
    acted = onnxruntime_actions(path)
    assert np.all((acted >= bounds[0]) & (acted <= bounds[1]))
    assert np.ptp(acted) > 0.8 * (bounds[1] - bounds[0])  # and no wider than what it reaches


def onnxruntime_actions(path: Path) -> np.ndarray:
    import onnxruntime

    observations = np.random.default_rng(0).normal(scale=100, size=(200, 3)).astype(np.float32)
    found: np.ndarray = onnxruntime.InferenceSession(path.read_bytes()).run(None, {"observation": observations})[0]
    return found


def test_the_bounds_of_an_export_are_those_that_it_tells(tmp_path: Path) -> None:
    policy = random_policy(0)
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    found = output_bounds(tmp_path / "policy.onnx", policy.n_actions)
    np.testing.assert_allclose(found, [policy.action_low, policy.action_high], rtol=1e-6)


def test_a_graph_that_makes_itself_has_no_bounds(tmp_path: Path) -> None:
    path = write(tmp_path / "loop.onnx", [node("Identity", "action")], GEMM, check=False)
    assert output_bounds(path, 2) is None


def test_stored_precisions_behind_cast_and_dequantize(tmp_path: Path) -> None:
    nodes = [
        node("Cast", "half", output="w1", to=FLOAT),
        node("Gemm", "observation", "w1", output="h", transB=1),
        node("DequantizeLinear", "integers", "scales", "zeros", output="wq", axis=0),
        node("Transpose", "wq", output="w2", perm=[1, 0]),
        node("MatMul", "h", "w2"),
    ]
    initializers = [
        constant("half", WEIGHT, np.float16),
        constant("integers", [[5, 0], [7, 7], [0, 7]], np.int8),
        constant("scales", [0.1, 0.1, 0.1]),
        constant("zeros", [0, 7, 0], np.int8),  # the second row is all zero
    ]
    first, second = read_model(write(tmp_path / "m.onnx", nodes, initializers)).layers
    assert (first.precision, first.connections) == ("fp16", 3)
    assert (second.precision, second.n_inputs, second.n_outputs, second.connections) == ("int8", 2, 3, 2)


def test_sparse_initializers_are_never_unfolded(tmp_path: Path) -> None:
    side = 60_000  # dense: 14.4 GB
    sparse = helper.make_sparse_tensor(
        constant("w", [1, 2, 3]), constant("w_at", [0, 1, side * side - 1], np.int64), [side, side]
    )
    path = write(tmp_path / "m.onnx", [node("MatMul", "observation", "w")], [], shape=("batch", side), sparse=[sparse])
    (row,) = read_model(path).layers
    assert (row.connections, row.positions, row.is_sparse) == (3, side * side, True)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_edgerl_exports(tmp_path: Path, precision: str) -> None:
    import edgerl
    from edgerl.policy.compact import PRECISIONS, CompactPolicy, make_layer

    matrices = [np.asarray(WEIGHT), np.asarray([[4, 0], [5, 6]])]
    scale = np.ones(2, np.float32) if precision == "int8" else None
    layers = tuple(make_layer(m.astype(PRECISIONS[precision]), np.zeros(2, np.float32), 1, scale) for m in matrices)  # type: ignore[index]
    bounds = (np.asarray([-1, -2], np.float32), np.asarray([1, 3], np.float32))
    normalisation = (np.zeros(3, np.float32), np.ones(3, np.float32))
    policy = CompactPolicy(layers, *bounds, *normalisation).with_example(np.zeros(3, np.float32))
    path = tmp_path / "policy.onnx"
    edgerl.export_policy(policy, "onnx", path)
    rows = read_model(path)
    assert rows.architecture == "3-2-2"
    assert [row.connections for row in rows.layers] == [3, 3]
    assert {row.precision for row in rows.layers} == {precision}


def test_outliers_are_connections(tmp_path: Path) -> None:
    import edgerl
    from tests.policy.policies import outlier_policy

    policy = outlier_policy(0, (5, 30, 3))
    edgerl.export_policy(policy, "onnx", tmp_path / "policy.onnx")
    rows = read_model(tmp_path / "policy.onnx").layers
    assert [row.connections for row in rows] == [int(np.count_nonzero(layer.matrix())) for layer in policy.layers]
    assert {row.precision for row in rows} == {"int8"}


@pytest.mark.parametrize(
    ("nodes", "initializers", "message"),
    [
        (
            [node("Conv", "observation", "w")],
            [constant("w", np.ones((1, 1, 1)))],
            r"the node Conv 'action' is not under",
        ),
        ([gemm("h"), node("Add", "h", "observation")], GEMM, r"the node Add 'action' combines or branches computed"),
        ([gemm("h"), node("Mul", "h", "h")], GEMM, r"the node Mul 'action' combines or branches"),
        ([node("Gemm", "w", "observation")], GEMM, r"the node Gemm 'action' does not multiply its input by constant"),
        ([node("Gemm", "observation", "w", transA=1)], GEMM, r"the node Gemm 'action' transposes its input"),
        ([node("MatMul", "observation", "w")], GEMM, r"has weights for 2 inputs and gets 3"),
        ([node("MatMul", "observation", "w")], [constant("w", np.ones((1, 3, 2)))], r"shape \[1, 3, 2\]; expected a m"),
        ([node("MatMul", "observation", "w")], [constant("w", np.ones((3, 2)), np.float64)], r"has float64 weights"),
        (
            [gemm("h"), node("Add", "h", "c")],
            [*GEMM, constant("c", np.ones((2, 1)))],
            r"constant of the shape \[2, 1\]",
        ),
        ([gemm("h"), node("Mul", "h", "c")], [*GEMM, constant("c", np.ones(5))], r"shape \[5\] for 2 values"),
        ([gemm()], [constant("w", WEIGHT), constant("b", [0, 0, 0])], r"has biases of the shape \[3\]"),
        (
            [gemm("h"), node("Reshape", "h", "s")],
            [*GEMM, constant("s", [2, 1], np.int64)],
            r"reshapes 2 values to \[2, 1",
        ),
        ([gemm("h"), node("Flatten", "h", axis=0)], GEMM, r"flattens along an axis other than 1"),
        ([node("Relu", "observation")], [], r"holds no affine layer"),
        ([node("Mul", "b", "b", output="c"), gemm()], GEMM, r"the node Mul 'c' works on constants in a way"),
        ([node("Relu", "observation", domain="com.me")], [], r"belongs to the domain 'com.me'"),
    ],
)
def test_graphs_that_are_no_perceptron(
    tmp_path: Path, nodes: list[onnx.NodeProto], initializers: list[TensorProto], message: str
) -> None:
    path = write(tmp_path / "m.onnx", nodes, initializers, check=False)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((64, 3), "has a fixed batch of 64; expected 1, or a free dimension"),
        (("batch", 10, 3), "has weights for 3 inputs and gets 30"),
        (("batch", "time", 3), "has an input of unknown sizes"),
        (("batch", 0), "has an input of 0 values"),
    ],
)
def test_inputs_that_are_no_single_observation(tmp_path: Path, shape: tuple[Any, ...], message: str) -> None:
    path = write(tmp_path / "m.onnx", [gemm()], GEMM, shape=shape, check=False)
    with pytest.raises(UnsupportedModelError, match=message):
        read_model(path)


def test_more_than_one_input_or_output(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [gemm("h"), node("Tanh", "h")], GEMM)
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info("h", FLOAT, ("batch", 2)))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="has 2 outputs, not one at the end of its chain"):
        read_model(path)
    model.graph.input.append(helper.make_tensor_value_info("goal", FLOAT, [1, 3]))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="has 2 inputs; expected one, the observation"):
        read_model(path)


def test_external_data_is_refused_and_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [gemm()], GEMM)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UnsupportedModelError, match="keeps 'w' in another file, which is refused; save the model with"):
        read_model(path)


def test_broken_tensors(tmp_path: Path) -> None:
    short, infinite = constant("w", WEIGHT), constant("w", np.full((2, 3), np.inf))
    short.raw_data = short.raw_data[:-4]
    negative = constant("w", WEIGHT)
    negative.dims[0] = -1
    for tensor, message in (
        (short, "cannot read 'w'"),
        (infinite, "'w' holds a number that is not finite"),
        (negative, r"'w' has the shape \[-1, 3\]"),
    ):
        path = write(tmp_path / "m.onnx", [gemm()], [tensor, constant("b", [0, 0])], check=False)
        with pytest.raises(FileFormatError, match=message):
            read_model(path)


def test_values_that_nobody_makes_or_that_are_made_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", [node("Relu", "nothing")], [], check=False)
    with pytest.raises(FileFormatError, match="the node Relu 'action' reads 'nothing', which nothing makes"):
        read_model(path)
    path = write(tmp_path / "m.onnx", [node("Relu", "observation", output="observation")], [], check=False)
    with pytest.raises(FileFormatError, match="the node Relu 'observation' makes no new value"):
        read_model(path)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 100, b"\x08\x08", bytes(range(256))])
def test_garbage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"m\.onnx is (not an ONNX file, or is truncated|empty|a text file)"):
        read_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(("field", "name"), [("ir_version", "IR version"), ("opset", "opset")])
def test_versions_that_this_onnx_does_not_know_are_said(tmp_path: Path, field: str, name: str) -> None:
    path = write(tmp_path / "m.onnx", [gemm()], GEMM)
    model = onnx.load(path)
    if field == "ir_version":
        model.ir_version = 99
    else:
        model.opset_import[0].version = 99
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        UnsupportedModelError, match=rf"m\.onnx has {name} 99, too new for onnx [\d.]+, which knows up to \d+; update"
    ):
        read_model(path)


def test_every_truncation_and_many_alterations_end_in_one_line(tmp_path: Path) -> None:
    original = write(tmp_path / "m.onnx", [gemm("h"), node("Tanh", "h")], GEMM).read_bytes()
    generator = np.random.default_rng(0)
    altered = [original[:length] for length in range(len(original))]
    for _ in range(500):
        data = bytearray(original)
        for position in generator.integers(0, len(data), 3):
            data[position] = generator.integers(256)
        altered.append(bytes(data))
    path = tmp_path / "m.onnx"
    messages = []
    for data in altered:
        path.write_bytes(data)
        try:
            read_model(path)
        except EdgerlError as error:
            messages.append(str(error))
    assert len(messages) > len(original)
    assert not any("\n" in message for message in messages)


def test_a_file_without_onnx_installed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.onnx", [gemm()], GEMM)
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(EdgerlError, match=r"onnx is not installed; run: pip install 'edgerl\[export\]'"):
        read_model(path)
