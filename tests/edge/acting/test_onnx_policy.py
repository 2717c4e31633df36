"""OnnxPolicy: what it computes, and what it does with files that are damaged, hostile or something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerl.commands.export import export_policy
from edgerl.edge import OnnxPolicy
from edgerl.errors import EdgerlError, FileFormatError, MissingExtraError, UnsupportedModelError
from edgerl.policy.compact import CompactPolicy, make_layer

Array = npt.NDArray[Any]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    layers = tuple(
        make_layer(rng.normal(size=(m, n)).astype(np.float32), rng.normal(size=m).astype(np.float32), 1)
        for n, m in ((3, 5), (5, 2))
    )
    policy = CompactPolicy(layers, np.array([-1, -2], np.float32), np.array([3, 0.5], np.float32))
    path = tmp_path / "policy.onnx"
    export_policy(policy.with_example(np.array([1, -1, 0.5], np.float32)), "onnx", path)
    return path


def foreign(
    path: Path,
    inputs: tuple[tuple[Any, ...], ...] = (("batch", 3),),
    outputs: tuple[tuple[Any, ...], ...] = (("batch", 2),),
    element: int = TensorProto.FLOAT,
) -> Path:
    """A model from elsewhere: a matrix product for each pair of an input and an output."""
    nodes, weights = [], []
    for index in range(len(outputs)):
        nodes.append(helper.make_node("MatMul", [f"x{min(index, len(inputs) - 1)}", f"w{index}"], [f"y{index}"]))
        weights.append(numpy_helper.from_array(np.ones((3, 2), helper.tensor_dtype_to_np_dtype(element)), f"w{index}"))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(f"x{i}", element, shape) for i, shape in enumerate(inputs)],
        [helper.make_tensor_value_info(f"y{i}", element, shape) for i, shape in enumerate(outputs)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def with_metadata(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    model = onnx.load(path)
    metadata = json.loads(model.metadata_props[0].value)
    change(metadata)
    model.metadata_props[0].value = json.dumps(metadata)
    path.write_bytes(model.SerializeToString())
    return path


def test_actions_are_those_of_onnx_itself(exported: Path) -> None:
    policy = OnnxPolicy(exported)
    observations = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    expected = onnx.reference.ReferenceEvaluator(str(exported)).run(None, {"observation": observations})[0]
    actions = np.stack([policy(observation) for observation in observations])
    assert actions.dtype == np.float32
    assert np.allclose(actions, expected, rtol=0, atol=1e-5)


def test_its_attributes_are_those_of_the_policy(exported: Path) -> None:
    policy = OnnxPolicy(exported)
    assert (policy.n_observations, policy.n_actions) == (3, 2)
    assert policy.action_low is not None
    assert policy.action_high is not None
    assert policy.action_low.tolist() == [-1, -2]
    assert policy.action_high.tolist() == [3, 0.5]


def test_an_action_is_the_callers_to_keep(exported: Path) -> None:
    policy = OnnxPolicy(exported)
    first = policy([0.0, 0.0, 0.0])
    kept = first.copy()
    policy([9.0, 9.0, 9.0])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("observation", [0.0, [1.0, 2.0], [[1.0, 2.0, 3.0]], np.zeros(4)])
def test_an_observation_of_another_shape_is_refused(exported: Path, observation: Any) -> None:
    with pytest.raises(ValueError, match=r"the observation has shape .*; expected \(3,\)"):
        OnnxPolicy(exported)(observation)


@pytest.mark.parametrize("batch", ["batch", 1, None])
def test_a_model_from_elsewhere_is_run_without_metadata(tmp_path: Path, batch: Any) -> None:
    policy = OnnxPolicy(foreign(tmp_path / "m.onnx", ((batch, 3),), ((batch, 2),)))
    assert policy([1, 2, 3]).tolist() == [6, 6]
    assert (policy.metadata, policy.action_low, policy.action_high) == ({}, None, None)


@pytest.mark.parametrize(
    ("inputs", "outputs", "element", "message"),
    [
        ((("b", 3), ("b", 3)), (("b", 2), ("b", 2)), TensorProto.FLOAT, "has 2 inputs and 2 outputs; expected one"),
        ((("b", 3),), (("b", 2), ("b", 2)), TensorProto.FLOAT, "has 1 inputs and 2 outputs"),
        ((("b", 3),), (("b", 2),), TensorProto.DOUBLE, r"is tensor\(double\)\['b', 3\]; expected tensor\(float\)"),
        (((3,),), ((2,),), TensorProto.FLOAT, r"is tensor\(float\)\[3\]; expected"),
        (((7, 3),), ((7, 2),), TensorProto.FLOAT, r"\[7, 3\]; expected .* with batch free or 1"),
        ((("b", "n"),), (("b", 2),), TensorProto.FLOAT, r"\['b', 'n'\]; expected"),
    ],
)
def test_another_interface_is_refused(tmp_path: Path, inputs: Any, outputs: Any, element: int, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        OnnxPolicy(foreign(tmp_path / "m.onnx", inputs, outputs, element))


def test_weights_in_another_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # from where onnxruntime would read them
    path = foreign(Path("m.onnx"))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(UnsupportedModelError, match=r"m\.onnx keeps weights in another file; expected one file"):
        OnnxPolicy(path)


def external() -> Any:
    tensor = numpy_helper.from_array(np.ones(2, np.float32), "t")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def in_a_constant(model: Any) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=external()))


def in_a_list(model: Any) -> None:
    model.graph.node.append(helper.make_node("Any", [], ["c"], domain="d", values=[external()]))


def in_a_subgraph(model: Any) -> None:
    inner = helper.make_graph([], "inner", [], [], [external()])
    model.graph.node.append(helper.make_node("Any", ["x0"], ["c"], domain="d", then_branch=inner, else_branch=inner))


def in_a_sparse_tensor(model: Any) -> None:
    indices = numpy_helper.from_array(np.array([0, 1]), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(external(), indices, [4]))


def in_a_function(model: Any) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external())
    model.functions.append(helper.make_function("d", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)]))


def in_the_training_part(model: Any) -> None:
    model.training_info.add().algorithm.initializer.append(external())


@pytest.mark.parametrize(
    "hide", [in_a_constant, in_a_list, in_a_subgraph, in_a_sparse_tensor, in_a_function, in_the_training_part]
)
def test_external_data_is_found_wherever_a_tensor_can_be(tmp_path: Path, hide: Callable[[Any], None]) -> None:
    path = foreign(tmp_path / "m.onnx")
    model = onnx.load(path)
    hide(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="keeps weights in another file"):
        OnnxPolicy(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected an ONNX model"),
        (
            b"\x08\x08",
            r"with IR version 8, opset none, is not a model that onnxruntime .* can load \(.*No graph was found",
        ),
        (b"not a model", "is a text file; expected an ONNX model, as edgerl export"),
        (b"\x00" * 100, "is (not an ONNX|not a) model"),
        (b"\xff" * 100, "is not an ONNX model"),
        (b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "is not an ONNX model, or is truncated"),
    ],
)
def test_garbage_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        OnnxPolicy(path)


@pytest.mark.parametrize(
    ("ir_version", "opset", "why"),
    [
        (99, 17, r"Unsupported model IR version: 99, max supported IR version: \d+\)$"),
        (8, 99, r"Current official support for domain ai\.onnx is till opset \d+\.\)$"),
    ],
)
def test_versions_that_are_too_new_are_said_with_the_reason(
    tmp_path: Path, ir_version: int, opset: int, why: str
) -> None:
    path = foreign(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = ir_version, opset
    path.write_bytes(model.SerializeToString())
    expected = (
        rf"m\.onnx, with IR version {ir_version}, opset {opset}, is not a model that onnxruntime [\d.]+ can load \(.*"
    )
    with pytest.raises(FileFormatError, match=expected + why) as caught:
        OnnxPolicy(path)
    assert "/" not in str(caught.value).removeprefix(str(path))  # no place in onnxruntime's own code


def test_of_a_long_reason_the_end_is_said(tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type, model.graph.node[0].name = "Unheard", "n" * 300
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match=r"\(… n+.*No Op registered for Unheard with domain_version of 17\)$"):
        OnnxPolicy(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"m\.onnx is not there; expected a file"):
        OnnxPolicy(tmp_path / "m.onnx")
    with pytest.raises(FileFormatError, match="is a folder; expected a file"):
        OnnxPolicy(tmp_path)


def refused_or_loaded(path: Path, data: bytes) -> bool:
    """Whether `data` was refused, which must take one line and print nothing."""
    path.write_bytes(data)
    message = ""
    try:
        OnnxPolicy(path)
    except EdgerlError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 400
    return bool(message)


def test_every_truncation_is_refused(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = exported.read_bytes()
    for length in range(0, len(data), 7):
        assert refused_or_loaded(exported, data[:length]) or length > 0.9 * len(data), length
    assert capfd.readouterr() == ("", "")


def test_altered_bytes_are_refused_or_loaded_but_never_crash(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, rng = exported.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        altered = bytearray(data)
        for position in rng.integers(len(data), size=rng.integers(1, 4)):
            altered[position] = rng.integers(256)
        refused += refused_or_loaded(exported, bytes(altered))
    assert refused > 500
    assert capfd.readouterr() == ("", "")


def test_an_altered_weight_is_noticed_by_the_example(exported: Path) -> None:
    model = onnx.load(exported)
    tensor = next(t for t in model.graph.initializer if t.name == "layers.1.bias")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.01), tensor.name))
    exported.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match=r"does not reproduce its own example action: it differs by .* altered"):
        OnnxPolicy(exported)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("action"),
        lambda m: m["action"].update(low=[0]),
        lambda m: m["action"].update(low=[9, 9]),
        lambda m: m["action"].update(high=["a", "b"]),
        lambda m: m["action"].update(high=[1e300, 1]),
        lambda m: m["example"].update(observation=[float("nan")] * 3),
        lambda m: m.update(example=3),
        lambda m: m.update(about=[]),
        lambda m: m.update(policy_sha256=None),
    ],
)
def test_metadata_that_we_did_not_write_is_refused(exported: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(FileFormatError, match="has metadata that edgerl did not write"):
        OnnxPolicy(with_metadata(exported, change))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
def test_metadata_that_is_no_object_is_refused(exported: Path, text: str) -> None:
    model = onnx.load(exported)
    model.metadata_props[0].value = text
    exported.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="has metadata that edgerl did not write"):
        OnnxPolicy(exported)


def test_a_model_that_fails_when_run_is_refused_at_once(tmp_path: Path) -> None:
    path = foreign(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("Gather", ["x0", "beyond"], ["x"], axis=1))
    model.graph.node[1].input[0] = "x"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 99]), "beyond"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="cannot be run by onnxruntime"):
        OnnxPolicy(path)


def test_without_onnxruntime_the_extra_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed; run: pip install 'edgerl\[export\]'"):
        OnnxPolicy(exported)


def test_a_file_that_says_it_is_ours_has_only_our_operators(exported: Path) -> None:
    model = onnx.load(exported)
    model.graph.node.insert(0, helper.make_node("Expand", ["observation", "shape"], ["unused"]))
    exported.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"says that edgerl wrote it, but has the operator 'Expand'"):
        OnnxPolicy(exported)


def test_a_policy_from_elsewhere_may_have_any_operator(tmp_path: Path) -> None:
    """As stable-baselines3 exports them: ConstantOfShape and Expand for a batch of one."""
    path = foreign(tmp_path / "model.onnx")
    model = onnx.load(path)
    shape = numpy_helper.from_array(np.array([1, 2], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[0].output[0] = "product"
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))
    model.graph.node.append(helper.make_node("Expand", ["product", "shape"], ["wide"]))
    model.graph.node.append(helper.make_node("Add", ["wide", "zeros"], ["y0"]))
    path.write_bytes(model.SerializeToString())
    policy = OnnxPolicy(path)
    assert not policy.is_ours
    assert policy([1, 2, 3]).tolist() == [6, 6]


def test_fields_that_another_parser_reads_otherwise_are_refused(exported: Path) -> None:
    """A tag of more than 32 bits: protobuf cuts it to another field, so that it hides from who does not."""
    hidden = b"\x82\x81\x80\x80\x10" + b"\x00"  # 1 << 32 | field 16, length 0
    exported.write_bytes(exported.read_bytes() + hidden)
    with pytest.raises(FileFormatError, match="is not an ONNX model"):
        OnnxPolicy(exported)


def test_onnxruntimes_own_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x00" * 4 + b"ORTM" + b"\x00" * 100)
    with pytest.raises(
        FileFormatError, match=r"m\.onnx is a model in onnxruntime's own format; expected an ONNX model"
    ):
        OnnxPolicy(path)


def test_a_model_of_too_many_parts_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    nodes = b"\x0a\x00" * 200_000
    length = len(nodes)
    encoded = bytes([length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14])
    path.write_bytes(b"\x3a" + encoded + nodes)
    with pytest.raises(UnsupportedModelError, match="has more than 131072 nodes and tensors"):
        OnnxPolicy(path)


@pytest.mark.parametrize("text", ['{"low": [-1' + "0" * 400 + ", -2]}", '{"low": [NaN, -2]}'])
def test_numbers_that_are_none_are_refused(exported: Path, text: str) -> None:
    model = onnx.load(exported)
    value = model.metadata_props[0].value
    spoiled = json.dumps(json.loads(value) | {"action": "HERE"}).replace('"HERE"', text)
    model.metadata_props[0].value = spoiled
    exported.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="has metadata that edgerl did not write"):
        OnnxPolicy(exported)
