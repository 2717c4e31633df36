"""ONNX files of other programs: read, run and compared; and none that is hostile does anything but end in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as make
import onnxruntime
import pytest
from onnx import numpy_helper
from torch import nn

import edgerl
from edgerl.commands.export import export_policy
from edgerl.errors import CheckFailed, EdgerlError, FileFormatError, UnsupportedModelError
from edgerl.importers import onnx as reader
from edgerl.importers.options import Stated
from edgerl.importers.policy_file import read
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import CompactPolicy
from tests.policy.policies import episode, outlier_policy, random_policy, recurrent_policy

from .files import Actor, RecurrentActor, actions, exported, exported_cells, mutated

OBSERVATIONS = np.random.default_rng(0).normal(0, 2, (200, 9)).astype(np.float32)
KINDS: dict[str, dict[str, Any]] = {
    "elu": {"activation": nn.ELU},
    "silu": {"activation": nn.SiLU, "is_distribution": True, "tanh": True},
    "relu": {"activation": nn.ReLU, "tanh": True},
    "gelu": {"activation": nn.GELU},
    "tanh": {"activation": nn.Tanh, "clip": 1.5},
    "leaky_relu": {"activation": nn.LeakyReLU},
    "sigmoid": {"activation": nn.Sigmoid, "norm": True},
}


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_torch_exports(kind: str, norm: bool, opset: int, tmp_path: Path) -> None:
    module = Actor(**{**KINDS[kind], "norm": norm})
    path = exported(module, tmp_path / "actor.onnx", opset)
    report = edgerl.import_policy(path, tmp_path / "policy.safetensors")
    policy = edgerl.load(tmp_path / "policy.safetensors")
    assert [layer.activation for layer in policy.layers[:-1]] == [kind, kind]
    assert [layer.norm is not None for layer in policy.layers[:-1]] == [norm, norm]
    assert policy.head == ("tanh" if module.tanh else "clip")
    assert policy.observation_clip == module.clip
    np.testing.assert_allclose(policy(OBSERVATIONS), actions(module, OBSERVATIONS), atol=5e-6)
    assert report.difference is not None
    assert report.difference.largest < 1e-5
    assert policy.metadata["imported_from"] == "ONNX"


def _model(nodes: list[Any], constants: dict[str, Any], width: int = 3, output: str = "y") -> onnx.ModelProto:
    graph = make.make_graph(
        nodes,
        "policy",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", width])],
        [make.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8)


W = np.array([[1.0, -2, 0.5], [0.25, 1, -1]], np.float32)
F32 = np.float32


def _imported(model: onnx.ModelProto, tmp_path: Path) -> CompactPolicy:
    """Compared with onnxruntime by the import, and here once more."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    policy = edgerl.import_policy(path, tmp_path / "policy.safetensors", force=True).policy
    x = np.random.default_rng(1).normal(0, 2, (50, policy.n_observations)).astype(F32)
    expected = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]
    np.testing.assert_allclose(policy(x), expected, atol=1e-5)
    return policy


def test_a_playground_policy_as_tf2onnx_writes_it(tmp_path: Path) -> None:
    """Sub and Mul of a normaliser, MatMul and Add, swish of two nodes, Split, Tanh."""
    rng = np.random.default_rng(0)
    constants = {
        "mean": rng.normal(size=3).astype(F32),
        "inverse": rng.random(3).astype(F32) + 0.5,
        "kernel": rng.normal(size=(3, 8)).astype(F32),
        "bias": rng.normal(size=8).astype(F32),
        "last": rng.normal(size=(8, 4)).astype(F32),
    }
    nodes = [
        make.make_node("Sub", ["x", "mean"], ["centred"]),
        make.make_node("Mul", ["centred", "inverse"], ["seen"]),
        make.make_node("MatMul", ["seen", "kernel"], ["product"]),
        make.make_node("Add", ["product", "bias"], ["sum"]),
        make.make_node("Sigmoid", ["sum"], ["gate"]),
        make.make_node("Mul", ["gate", "sum"], ["hidden"]),
        make.make_node("MatMul", ["hidden", "last"], ["both"]),
        make.make_node("Split", ["both"], ["loc", "scale"], axis=-1),
        make.make_node("Softplus", ["scale"], ["unused"]),
        make.make_node("Tanh", ["loc"], ["y"]),
    ]
    policy = _imported(_model(nodes, constants), tmp_path)
    assert (policy.architecture, policy.layers[0].activation, policy.head) == ("3-8-2", "silu", "tanh")


FORMS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "gemm with alpha and beta": (
        [make.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"w": W, "b": np.array([1.0, -1], F32)},
    ),
    "concat of slices": (
        [
            make.make_node("Slice", ["x", "one", "three", "axis"], ["tail"]),
            make.make_node("Gather", ["x", "first"], ["head"], axis=1),
            make.make_node("Concat", ["tail", "head"], ["turned"], axis=-1),
            make.make_node("Gemm", ["turned", "w"], ["y"], transB=1),
        ],
        {"w": W, "one": np.array([1]), "three": np.array([3]), "axis": np.array([1]), "first": np.array([0])},
    ),
    "batch norm, and weights transposed in the graph": (
        [
            make.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["n"]),
            make.make_node("Transpose", ["w"], ["t"]),
            make.make_node("MatMul", ["n", "t"], ["y"]),
        ],
        {"w": W, **{name: np.array([1.0, 2, 3], F32) for name in "sbmv"}},
    ),
    "ReLU as a clip, and an action clipped by Min and Max": (
        [
            make.make_node("Gemm", ["x", "w"], ["h"], transB=1),
            make.make_node("Clip", ["h", "zero"], ["r"]),
            make.make_node("MatMul", ["r", "u"], ["a"]),
            make.make_node("Min", ["a", "high"], ["b"]),
            make.make_node("Max", ["low", "b"], ["c"]),
            make.make_node("Neg", ["c"], ["y"]),
        ],
        {"w": W, "u": W[:, :2].copy(), "zero": F32(0), "high": np.array([0.5, 1], F32), "low": np.array([-1, -2], F32)},
    ),
    "a constant less the observation, over a constant": (
        [
            make.make_node("Sub", ["c", "x"], ["d"]),
            make.make_node("Div", ["d", "s"], ["e"]),
            make.make_node("Flatten", ["e"], ["f"]),
            make.make_node("Gemm", ["f", "w"], ["g"], transB=1),
            make.make_node("Identity", ["g"], ["y"]),
        ],
        {"w": W, "c": np.ones((1, 3), F32), "s": np.array([1.0, 2, 4], F32)},
    ),
    "int8 weights behind DequantizeLinear": (
        [
            make.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
            make.make_node("Gemm", ["x", "w"], ["y"], transB=1),
        ],
        {
            "q": np.array([[1, -2, 3], [4, 5, -6]], np.int8),
            "s": np.array([0.5, 0.25], F32),
            "z": np.array([1, 0], np.int8),
        },
    ),
    "two layers without an activation": (
        [make.make_node("Gemm", ["x", "w"], ["h"], transB=1), make.make_node("MatMul", ["h", "u"], ["y"])],
        {"w": W, "u": W[:, :2].copy()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_perceptron(form: str, tmp_path: Path) -> None:
    _imported(_model(*FORMS[form]), tmp_path)


@pytest.mark.parametrize("head", ["tanh", "clip"])
def test_edgerls_own_exports_come_back(head: Any, tmp_path: Path) -> None:
    policy = random_policy(1, activation="elu", norm=True, head=head, clip=2.0)
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    again = edgerl.import_policy(tmp_path / "policy.onnx", tmp_path / "again.safetensors").policy
    x = np.random.default_rng(0).normal(size=(50, 5)).astype(F32)
    np.testing.assert_allclose(again(x, np.float64), policy(x, np.float64), rtol=1e-5, atol=1e-6)
    assert [layer.connections for layer in again.layers] == [layer.connections for layer in policy.layers]
    assert (again.head, again.observation_clip) == (policy.head, policy.observation_clip)


def test_outliers_of_an_own_export_come_back(tmp_path: Path) -> None:
    policy = outlier_policy(1, (5, 30, 20, 3))
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    again = edgerl.import_policy(tmp_path / "policy.onnx", tmp_path / "again.safetensors").policy
    for before, after in zip(policy.layers, again.layers, strict=True):
        np.testing.assert_allclose(after.matrix(), before.matrix(), rtol=1e-6)


def test_the_output_that_is_the_action(tmp_path: Path) -> None:
    nodes = [make.make_node("Gemm", ["x", "w"], ["actions"], transB=1), make.make_node("Exp", ["x"], ["extra"])]
    model = _model(nodes, {"w": W}, output="extra")
    model.graph.output.append(make.make_tensor_value_info("actions", onnx.TensorProto.FLOAT, ["batch", 2]))
    path = tmp_path / "two.onnx"
    path.write_bytes(model.SerializeToString())
    assert edgerl.import_policy(path, tmp_path / "policy.safetensors").policy.architecture == "3-2"
    model.graph.output[1].name = nodes[0].output[0] = "other"
    path.write_bytes(_model(nodes, {"w": W}, output="extra").SerializeToString())
    model.graph.node[0].output[0] = "other"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedModelError, match=r"has the outputs extra, other; expected one, or one of actions"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors", force=True)


def test_weights_in_a_file_beside_it_are_read_when_asked_for(tmp_path: Path) -> None:
    module, path = Actor(nn.ELU), tmp_path / "actor.onnx"
    model = onnx.load(exported(module, path))
    onnx.save(model, path, save_as_external_data=True, location="actor.onnx.data", size_threshold=0)
    with pytest.raises(UnsupportedModelError, match=r"keeps '.*' in another file, which is refused"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")
    edgerl.import_policy(path, tmp_path / "policy.safetensors", external_data=True)
    policy = edgerl.load(tmp_path / "policy.safetensors")
    np.testing.assert_allclose(policy(OBSERVATIONS), actions(module, OBSERVATIONS), atol=5e-6)
    (tmp_path / "below").mkdir()
    for location in ("../actor.onnx.data", "below/../actor.onnx.data", "below", "", str(tmp_path / "actor.onnx.data")):
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = location
        moved = tmp_path / "below" / "actor.onnx"
        moved.write_bytes(model.SerializeToString())
        with pytest.raises(UnsupportedModelError, match=r"expected a regular file in its own folder"):
            edgerl.import_policy(moved, tmp_path / "p.safetensors", external_data=True)
    (tmp_path / "below" / "actor.onnx.data").symlink_to(tmp_path / "actor.onnx.data")
    moved.write_bytes(path.read_bytes())
    with pytest.raises(UnsupportedModelError, match=r"expected a regular file in its own folder"):
        edgerl.import_policy(moved, tmp_path / "p.safetensors", external_data=True)


def test_external_data_of_impossible_extent(tmp_path: Path) -> None:
    path = tmp_path / "actor.onnx"
    model = onnx.load(exported(Actor(nn.ELU), path))
    onnx.save(model, path, save_as_external_data=True, location="data", size_threshold=0)
    for key, value in (("offset", "-1"), ("length", "99999999"), ("offset", "x"), ("length", "1" * 30)):
        model = onnx.load(path, load_external_data=False)
        entries = model.graph.initializer[0].external_data
        next(entry for entry in entries if entry.key == key).value = value
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(model.SerializeToString())
        with pytest.raises(FileFormatError, match=r"its weights in .* cannot be read"):
            edgerl.import_policy(bad, tmp_path / "p.safetensors", external_data=True)


def _refused_nodes() -> dict[str, tuple[list[Any], dict[str, Any], str]]:
    body = make.make_graph([], "body", [], [])
    gemm = make.make_node("Gemm", ["x", "w"], ["h"], transB=1)
    w = {"w": W}
    return {
        "Loop": ([make.make_node("Loop", ["", "", "x"], ["y"], body=body)], {}, "the node Loop 'y' is not understood"),
        "If": ([gemm, make.make_node("If", ["h"], ["y"], then_branch=body, else_branch=body)], w, "'y' is not under"),
        "a custom operator": (
            [make.make_node("Gemm", ["x", "w"], ["y"], domain="com.evil", transB=1)],
            w,
            "belongs to the domain 'com.evil'",
        ),
        "Softplus": ([gemm, make.make_node("Softplus", ["h"], ["y"])], w, "the node Softplus 'y' is not understood"),
        "Elu alpha": ([gemm, make.make_node("Elu", ["h"], ["y"], alpha=0.5)], w, "has alpha 0.5; expected 1"),
        "slope": ([gemm, make.make_node("LeakyRelu", ["h"], ["y"], alpha=0.2)], w, "has the slope 0.2; expected 0.01"),
        "a product of values": ([gemm, make.make_node("Mul", ["h", "h"], ["y"])], w, "combines two computed values"),
        "another width": (
            [make.make_node("Gemm", ["x", "w"], ["y"])],
            w,
            "has weights for 2 inputs and gets 3",
        ),
        "division by zero": ([make.make_node("Div", ["x", "z"], ["y"])], {"z": F32(0)}, "divides by a computed value"),
        "nothing makes it": ([make.make_node("Relu", ["nothing"], ["y"])], {}, "reads 'nothing', which nothing makes"),
        "constants of 2.9e8 numbers": (
            [make.make_node("Add", ["long", "high"], ["c"]), make.make_node("Add", ["x", "c"], ["y"])],
            {"long": np.zeros((1, 17000), F32), "high": np.zeros((17000, 1), F32)},
            "makes a constant of 289000000 numbers",
        ),
        "no observation": ([make.make_node("Identity", ["w"], ["y"])], w, "that its observation does not change"),
    }  # fmt: skip


@pytest.mark.parametrize("case", _refused_nodes())
def test_what_no_policy_holds_is_refused_by_name(case: str, tmp_path: Path) -> None:
    nodes, constants, problem = _refused_nodes()[case]
    path = tmp_path / "bad.onnx"
    path.write_bytes(_model(nodes, constants).SerializeToString())
    with pytest.raises(EdgerlError, match=problem):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")
    assert not (tmp_path / "policy.safetensors").exists()


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    weights = W.copy()
    weights[0, 0] = np.nan
    path = tmp_path / "bad.onnx"
    path.write_bytes(_model([make.make_node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": weights}).SerializeToString())
    with pytest.raises(FileFormatError, match="'w' holds a number that is not finite"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")


def test_a_wrong_reading_is_found_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(Actor(nn.ELU), tmp_path / "actor.onnx")
    wrong: Callable[..., Any] = lambda inputs, _: reader._signal(inputs[0]).activated("relu")  # noqa: E731
    monkeypatch.setitem(reader.STEPS, "Elu", wrong)
    with pytest.raises(CheckFailed, match=r"actions differ from the original's by .* nothing was written"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")
    assert not (tmp_path / "policy.safetensors").exists()
    edgerl.import_policy(path, tmp_path / "policy.safetensors", check=False)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = exported(Actor(nn.SiLU, is_distribution=True, tanh=True), tmp_path / "actor.onnx").read_bytes()
    for _ in range(1500):
        with contextlib.suppress(EdgerlError):
            read(mutated(whole, rng), Path("mutated.onnx"), Stated())


# ---------------------------------------------------------------------------------------------- recurrent policies


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("kind", CELLS)
def test_recurrent_policies_that_torch_exports_for_rsl_rl(
    kind: CellName, layers: int, opset: int, tmp_path: Path
) -> None:
    module = RecurrentActor(kind, layers)
    path = exported_cells(module, tmp_path / "actor.onnx", opset)
    report = edgerl.import_policy(path, tmp_path / "policy.safetensors")
    assert report.policy.architecture == f"9-{'-'.join([f'{kind}20'] * layers)}-12-4"
    assert report.difference is not None
    assert (report.difference.observations, report.difference.largest < 1e-5) == (1001, True)
    expected = module.episode(OBSERVATIONS)
    np.testing.assert_allclose(report.policy(OBSERVATIONS), expected, atol=5e-6)
    foreign = edgerl.edge.OnnxPolicy(path)
    np.testing.assert_allclose(np.stack([foreign(row) for row in OBSERVATIONS]), expected, atol=1e-5)
    export_policy(report.policy, "onnx", tmp_path / "again.onnx")
    again = edgerl.import_policy(tmp_path / "again.onnx", tmp_path / "again.safetensors").policy
    np.testing.assert_allclose(again(OBSERVATIONS), expected, atol=1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_cells_behind_a_layer(kind: CellName, tmp_path: Path) -> None:
    """RLtools' RAPTOR has a dense layer before its GRU."""
    policy, _ = recurrent_policy(kind, before=6)
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    again = edgerl.import_policy(tmp_path / "policy.onnx", tmp_path / "policy.safetensors").policy
    assert again.architecture == policy.architecture
    seen = episode(policy, 300)
    np.testing.assert_allclose(again(seen), policy(seen), atol=1e-5)


def _with_cell(change: Callable[[Any, onnx.ModelProto], object], path: Path, kind: str = "lstm") -> Path:
    """An exported cell, changed."""
    model = onnx.load(exported_cells(RecurrentActor(kind, 1), path))
    (cell,) = (node for node in model.graph.node if node.op_type == kind.upper())
    change(cell, model)
    path.write_bytes(model.SerializeToString())
    return path


def _attribute(name: str, value: Any) -> Callable[[Any, onnx.ModelProto], object]:
    def change(cell: Any, _: onnx.ModelProto) -> None:
        kept = [attribute for attribute in cell.attribute if attribute.name != name]
        del cell.attribute[:]
        cell.attribute.extend([*kept, make.make_attribute(name, value)])

    return change


CELLS_OF_OTHERS = {
    "reverse": ("lstm", _attribute("direction", "reverse"), "has another direction, layout or activation"),
    "activations": ("gru", _attribute("activations", ["Sigmoid", "Relu"]), "has another direction, layout or activ"),
    "clip": ("lstm", _attribute("clip", 3.0), "has the attribute 'clip', which no cell of PyTorch has"),
    "reset before": ("gru", _attribute("linear_before_reset", 0), "expected linear_before_reset = 1"),
    "no state": ("gru", lambda cell, _: cell.input.__setitem__(5, ""), "begins anew with every observation"),
    "half a state": ("lstm", lambda cell, _: cell.input.__setitem__(6, ""), "begins anew with every observation"),
    "other weights": ("lstm", lambda cell, _: cell.input.__setitem__(1, cell.input[2]), "has weights of the shapes"),
    "peepholes": ("lstm", lambda cell, _: cell.input.append(cell.input[3]), "has peepholes"),
}  # fmt: skip


@pytest.mark.parametrize("case", CELLS_OF_OTHERS)
def test_cells_that_no_policy_holds_are_refused_by_name(case: str, tmp_path: Path) -> None:
    kind, change, problem = CELLS_OF_OTHERS[case]
    path = _with_cell(change, tmp_path / "actor.onnx", kind)
    with pytest.raises(UnsupportedModelError, match=rf"the node {kind.upper()} .*{problem}"):
        edgerl.import_policy(path, tmp_path / "policy.safetensors")


def test_states_in_another_order_are_found(tmp_path: Path) -> None:
    """The two cells take each other's state: which a cell is given is not followed, but compared."""
    model = onnx.load(exported_cells(RecurrentActor("gru", 2), tmp_path / "actor.onnx"))
    (joined,) = (node for node in model.graph.node if "h_out" in node.output)
    joined.input[0], joined.input[1] = joined.input[1], joined.input[0]
    (tmp_path / "actor.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(CheckFailed, match=r"actions differ from the original's"):
        edgerl.import_policy(tmp_path / "actor.onnx", tmp_path / "policy.safetensors")


def test_mutated_recurrent_files_are_read_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = exported_cells(RecurrentActor("lstm", 2), tmp_path / "actor.onnx").read_bytes()
    for _ in range(500):
        with contextlib.suppress(EdgerlError):
            read(mutated(whole, rng), Path("mutated.onnx"), Stated())
