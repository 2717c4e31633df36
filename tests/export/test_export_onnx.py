"""The exported graph, against torch in float64 and against onnx's own interpreter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
from onnx.reference.op_run import OpRun

import edgerl
from edgerl.commands.export import export_policy
from edgerl.edge import OnnxPolicy
from edgerl.errors import (
    CheckFailed,
    ConfigError,
    FileFormatError,
    MissingExtraError,
    OutputError,
    UnsupportedModelError,
)
from edgerl.export.onnx import graph as onnx_export
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import CompactPolicy, Head, Precision, make_layer
from edgerl.policy.format import save, to_bytes
from tests.policy.policies import episode, outlier_policy, random_policy, recurrent_policy, torch_actions, torch_episode

Array = npt.NDArray[Any]


def run(path: Path, observations: Array) -> Array:
    """Actions [batch, m] by onnxruntime with its default options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    actions: Array = session.run(["action"], {"observation": observations})[0]
    return actions


def reference(path: Path, observations: Array) -> Array:
    """Actions [batch, m] by onnx's own interpreter, which shares no code with onnxruntime."""
    model = onnx.load(path)
    # onnx 1.23 has no DequantizeLinear below opset 19 there; for int8 the operator is the same in both.
    model.opset_import[0].version = 19
    actions: Array = onnx.reference.ReferenceEvaluator(model).run(None, {"observation": observations})[0]
    return actions


def actions_in_torch(made: Any, observations: Array) -> Array:
    """What the graph must compute, in torch and float64, from the numbers the policy was made from."""
    x = (torch.from_numpy(observations.astype(np.float64)) - torch.from_numpy(made.mean)) * torch.from_numpy(made.scale)
    for index, (weight, bias) in enumerate(zip(made.weights, made.biases, strict=True)):
        x = torch.nn.functional.linear(torch.relu(x) if index else x, torch.from_numpy(weight), torch.from_numpy(bias))
    low, high = (torch.from_numpy(b.astype(np.float64)) for b in (made.policy.action_low, made.policy.action_high))
    actions: Array = (low + (high - low) * (torch.tanh(x) + 1) / 2).numpy()
    return actions


def observations_of(made: Any, count: int, magnitude: float = 1.0) -> Array:
    deviations = np.random.default_rng(7).normal(size=(count, len(made.mean))) * magnitude
    return (made.mean + deviations / made.scale).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.onnx"


@pytest.mark.parametrize("widths", [(17, 32, 32, 6), (3, 5, 7, 1), (1, 1), (11, 6)], ids=str)
@pytest.mark.parametrize("normalize", [False, True], ids=["raw", "normalized"])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_actions_are_those_of_torch(
    make_policy: Any, path: Path, precision: str, block: int, normalize: bool, widths: tuple[int, ...]
) -> None:
    made = make_policy(widths, precision, block, normalize)
    export_policy(made.policy, "onnx", path)
    observations = observations_of(made, 1000)
    expected = actions_in_torch(made, observations)
    span = made.policy.action_high.astype(np.float64) - made.policy.action_low
    assert np.max(np.abs(run(path, observations) - expected) / span) < 1e-5
    independent = reference(path, observations[:50])
    assert np.max(np.abs(independent - expected[:50]) / span) < 1e-5


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_outliers_are_scattered_among_integers(precision: Precision, block: int, sparse: bool, path: Path) -> None:
    policy = outlier_policy(3, (120, 64, 40, 6), block, precision, density=0.1 if sparse else 1)
    report = export_policy(policy, "onnx", path, sparse_initializers=sparse)
    assert (report.opset, report.sparse_layers > 0) == (13, sparse)
    model = onnx.load(path)
    assert operators(path)[2:7] == ["DequantizeLinear", "Reshape", "ScatterElements", "Reshape", "Gemm"]
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if "outliers" in tensor.name}
    assert list(sizes.values()) == [
        len(layer.outliers.values) for layer in policy.layers if layer.outliers for _ in range(2)
    ]
    observations = np.random.default_rng(0).normal(size=(200, 120)).astype(np.float32)
    expected = torch_actions(policy, observations)
    np.testing.assert_allclose(run(path, observations), expected, rtol=0, atol=2e-5)
    if not sparse:
        np.testing.assert_allclose(reference(path, observations), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("magnitude", [1e2, 1e4, 1e6])
def test_extreme_observations_saturate_as_in_torch(make_policy: Any, path: Path, magnitude: float) -> None:
    made = make_policy()
    export_policy(made.policy, "onnx", path)
    observations = observations_of(made, 1000, magnitude)
    expected, actions = actions_in_torch(made, observations), run(path, observations)
    low, high = made.policy.action_low.astype(np.float64), made.policy.action_high.astype(np.float64)
    unit = 2 * (expected - low) / (high - low) - 1
    saturated = np.abs(unit) > 1 - 1e-6  # in between, float32 sums of large terms resolve no 1e-5
    assert saturated.mean() > 0.5
    assert np.max(np.abs(actions - expected)[saturated] / np.broadcast_to(high - low, expected.shape)[saturated]) < 1e-5
    assert np.all((actions >= made.policy.action_low) & (actions <= made.policy.action_high))


def test_actions_stay_within_bounds_where_a_runtime_overshoots_tanh(path: Path) -> None:
    rng = np.random.default_rng(3)
    low = -np.exp(rng.normal(size=64) * 3).astype(np.float32)
    high = np.exp(rng.normal(size=64) * 3).astype(np.float32)
    layer = make_layer(np.ones((64, 1), np.float32), np.zeros(64, np.float32), 1)
    export_policy(CompactPolicy((layer,), low, high), "onnx", path)
    ascending = np.linspace(7, 10, 40_000, dtype=np.float32)[:, None]
    for observations in (ascending, -ascending):
        actions = run(path, observations)
        assert np.all(actions >= low)
        assert np.all(actions <= high)


def test_overflow_gives_nan_or_an_action_within_bounds(make_policy: Any, path: Path) -> None:
    made = make_policy()
    export_policy(made.policy, "onnx", path)
    largest = np.finfo(np.float32).max
    observations = np.where(np.random.default_rng(0).random((256, 17)) < 0.5, -largest, largest).astype(np.float32)
    actions = run(path, observations)
    within = (actions >= made.policy.action_low) & (actions <= made.policy.action_high)
    assert np.all(within | np.isnan(actions))
    assert np.isnan(actions).any()  # the premise: sums do overflow


def test_an_offset_is_subtracted_in_float64_before_anything_is_rounded(make_policy: Any, path: Path) -> None:
    made = make_policy()
    offset = np.rint(np.random.default_rng(1).uniform(-1e8, 1e8, 17))
    policy = replace(made.policy, observation_offset=offset).with_example(offset + 1)
    export_policy(policy, "onnx", path)
    seen = observations_of(made, 500).astype(np.float64)
    given = offset + seen
    span = policy.action_high.astype(np.float64) - policy.action_low
    expected = actions_in_torch(made, given.astype(np.longdouble) - offset)
    assert np.max(np.abs(run(path, given) - expected) / span) < 1e-5
    assert np.max(np.abs(reference(path, given[:50]) - expected[:50]) / span) < 1e-5
    assert np.max(np.abs(policy(given, np.float64) - expected) / span) < 1e-6
    act = OnnxPolicy(path)
    assert act.observation_dtype is np.float64
    assert np.array_equal(np.stack([act(list(row)) for row in given[:50]]), run(path, given)[:50])
    # A float32 observation has lost what the offset is for: by itself it would be off by whole units.
    with pytest.raises(
        ValueError, match=r"the observation is float32; expected float64, since the policy has an offset"
    ):
        act(given[0].astype(np.float32))
    lost = actions_in_torch(made, given.astype(np.float32).astype(np.float64) - offset)
    assert np.max(np.abs(lost - expected) / span) > 0.1


def test_an_offset_stands_first_in_the_graph(make_policy: Any, path: Path) -> None:
    policy = replace(make_policy().policy, observation_offset=np.full(17, 1e7))
    export_policy(replace(policy, example_observation=np.zeros(0)), "onnx", path)
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node][:4] == ["Sub", "Cast", "Sub", "Mul"]
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE
    metadata = json.loads(model.metadata_props[0].value)
    assert metadata["example"]["observation"] == [1e7] * 17


class Tanh(OpRun):  # type: ignore[misc]
    """As OpenCV 5 computes it: by exp(2x), which overflows."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.where(np.abs(x) > 44, np.float32(np.nan), np.tanh(x)),)


def test_a_reader_whose_tanh_overflows_gets_no_such_argument(make_policy: Any, path: Path) -> None:
    made = make_policy()
    export_policy(made.policy, "onnx", path)
    observations = observations_of(made, 500, 1e3)
    expected = unit_range(made, actions_in_torch(made, observations))
    saturated = np.minimum(expected, 1 - expected) == 0  # beyond 18, where tanh is 1 in float64
    assert saturated.mean() > 0.5
    actions = onnx.reference.ReferenceEvaluator(str(path), new_ops=[Tanh]).run(None, {"observation": observations})[0]
    assert np.max(np.abs(unit_range(made, actions) - expected)[saturated]) < 1e-6
    assert np.tanh(np.float32(20)) == 1  # so that nothing is lost


def unit_range(made: Any, actions: Array) -> Array:
    """Actions as shares of their range."""
    low, high = made.policy.action_low.astype(np.float64), made.policy.action_high.astype(np.float64)
    shares: Array = (actions - low) / (high - low)
    return shares


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(
    ("precision", "opset", "ir_version", "refusal"),
    [
        ("fp32", 11, 6, "Clip.*input size 3"),
        ("fp16", 11, 6, "Clip.*input size 3"),
        ("int8", 13, 7, "Unrecognized attribute: axis for operator DequantizeLinear"),
    ],
)
def test_versions_are_the_lowest_that_have_what_the_graph_uses(
    make_policy: Any, path: Path, precision: str, opset: int, ir_version: int, refusal: str, sparse: bool
) -> None:
    """IR 6 has sparse initialisers, and opset 13 came with IR 7 (onnx.proto, docs/Versioning.md of ONNX)."""
    made = make_policy(precision=precision, density=0.05)
    report = export_policy(made.policy, "onnx", path, sparse_initializers=sparse)
    assert (report.sparse_layers > 0) == sparse
    model = onnx.load(path)
    assert (model.opset_import[0].version, model.ir_version) == (report.opset, ir_version) == (opset, ir_version)
    model.opset_import[0].version -= 1
    with pytest.raises(onnx.checker.ValidationError, match=refusal):
        onnx.checker.check_model(model)


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_the_graph_is_as_documented(make_policy: Any, path: Path) -> None:
    report = export_policy(make_policy().policy, "onnx", path)
    model = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 11)]
    assert (model.ir_version, report.opset) == (6, 11)
    assert (model.producer_name, model.producer_version) == ("edgerl", edgerl.__version__)
    (observation,), (action,) = model.graph.input, model.graph.output
    for value, name, width in ((observation, "observation", 17), (action, "action", 6)):
        batch, n = value.type.tensor_type.shape.dim
        assert (value.name, batch.dim_param, n.dim_value) == (name, "batch", width)
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    hidden = ["Gemm", "Relu", "Gemm", "Relu", "Gemm"]
    assert operators(path) == ["Sub", "Mul", *hidden, "Clip", "Tanh", "Clip", "Mul", "Add"]
    assert report.n_bytes == path.stat().st_size
    assert report.architecture == "17-32-32-6"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-1, 1, []), (-2, 2, ["Mul"]), (0, 2, ["Add"]), (0, 1, ["Mul", "Add"])],
)
def test_scaling_that_changes_nothing_is_left_out(path: Path, low: float, high: float, expected: list[str]) -> None:
    layer = make_layer(np.ones((2, 3), np.float32), np.zeros(2, np.float32), 1)
    bounds = np.full(2, low, np.float32), np.full(2, high, np.float32)
    identity = np.zeros(3, np.float32), np.ones(3, np.float32)
    export_policy(CompactPolicy((layer,), *bounds, *identity), "onnx", path)
    assert operators(path) == ["Gemm", "Clip", "Tanh", "Clip", *expected]


def test_weights_are_stored_in_their_own_precision(make_policy: Any, path: Path) -> None:
    for precision, dtype, operator in (
        ("fp16", onnx.TensorProto.FLOAT16, "Cast"),
        ("int8", onnx.TensorProto.INT8, "DequantizeLinear"),
    ):
        export_policy(make_policy(precision=precision).policy, "onnx", path, force=True)
        graph = onnx.load(path).graph
        assert {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2} == {dtype}
        unfolding = [node for node in graph.node if node.op_type == operator]
        assert len(unfolding) == 3
        axes = [attribute.i for node in unfolding for attribute in node.attribute if attribute.name == "axis"]
        assert axes == ([0, 0, 0] if precision == "int8" else [])


@pytest.mark.parametrize("head", ["tanh", "clip"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_norm_and_head_is_pytorchs(
    activation: ActivationName, norm: bool, head: Head, path: Path
) -> None:
    policy = random_policy(2, (5, 33, 20, 3), activation=activation, norm=norm, head=head, clip=1.5)
    export_policy(policy, "onnx", path)
    observations = np.random.default_rng(0).normal(0, 3, (50, 5)).astype(np.float32)
    expected = torch_actions(policy, observations)
    bound = 1e-5 * np.abs(expected).max(initial=1)
    np.testing.assert_allclose(run(path, observations), expected, rtol=0, atol=bound)
    (reference,) = onnx.reference.ReferenceEvaluator(str(path)).run(None, {"observation": observations})
    np.testing.assert_allclose(reference, expected, rtol=0, atol=bound)
    loaded = OnnxPolicy(path)
    assert (loaded.action_low is None) == (head == "clip")
    np.testing.assert_allclose(loaded(observations[0]), expected[0], rtol=0, atol=bound)


def test_metadata_is_complete_and_exact(make_policy: Any, path: Path, tmp_path: Path) -> None:
    policy = make_policy().policy
    save(policy, tmp_path / "policy.safetensors")
    export_policy(tmp_path / "policy.safetensors", "onnx", path)
    (entry,) = onnx.load(path).metadata_props
    metadata = json.loads(entry.value)
    assert entry.key == "edgerl"
    assert metadata["version"] == edgerl.__version__
    assert metadata["about"] == {"environment": "Anything-v0", "seed": 0}
    assert metadata["policy_sha256"] == sha256((tmp_path / "policy.safetensors").read_bytes()).hexdigest()
    for name, array in (("low", policy.action_low), ("high", policy.action_high)):
        assert np.array_equal(np.array(metadata["action"][name], np.float32), array)
    observation = np.array(metadata["example"]["observation"], np.float32)
    assert np.array_equal(observation, policy.example_observation)
    assert np.allclose(run(path, observation[None])[0], metadata["example"]["action"], rtol=0, atol=1e-4)


def test_a_policy_a_file_and_a_run_folder_give_the_same_bytes(make_policy: Any, tmp_path: Path) -> None:
    policy = make_policy().policy
    save(policy, tmp_path / "policy.safetensors")
    for name, source in (("a", policy), ("b", tmp_path / "policy.safetensors"), ("c", str(tmp_path))):
        export_policy(source, "onnx", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_the_public_name_is_this_function() -> None:
    assert edgerl.export_policy is export_policy


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_sparse_initializers_only_where_they_are_smaller(make_policy: Any, path: Path, precision: str) -> None:
    # An index takes 8 bytes: 12 per connection against 4 per position in fp32, 10 against 2, 9 against 1.
    made = make_policy((16, 64, 64, 4), precision, density=0.05)
    report = export_policy(made.policy, "onnx", path, sparse_initializers=True)
    dense_bytes = export_policy(made.policy, "onnx", path.with_name("dense.onnx")).n_bytes
    graph = onnx.load(path).graph
    item = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    smaller = [np.count_nonzero(w) * (item + 8) < w.size * item for w in made.weights]
    assert any(smaller)
    assert len(graph.sparse_initializer) == report.sparse_layers == sum(smaller)
    assert report.n_bytes < dense_bytes
    assert {tensor.indices.data_type for tensor in graph.sparse_initializer} == {onnx.TensorProto.INT64}
    observations = observations_of(made, 200)
    assert np.array_equal(run(path, observations), run(path.with_name("dense.onnx"), observations))


def test_dense_layers_stay_dense_whatever_is_wanted(make_policy: Any, path: Path) -> None:
    report = export_policy(make_policy(density=0.5).policy, "onnx", path, sparse_initializers=True)
    assert (report.sparse_layers, report.excluded_readers) == (0, ())
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_a_layer_without_connections_can_be_sparse(path: Path) -> None:
    layers = (
        make_layer(np.zeros((6, 5), np.float32), np.arange(6, dtype=np.float32) / 9, 4),
        make_layer(np.eye(2, 6, dtype=np.float32), np.zeros(2, np.float32), 1),
    )
    policy = CompactPolicy(layers, np.full(2, -1, np.float32), np.ones(2, np.float32))
    assert export_policy(policy, "onnx", path, sparse_initializers=True).sparse_layers == 2
    assert np.allclose(run(path, np.ones((1, 5), np.float32))[0], np.tanh([0, 1 / 9]), atol=1e-6)


def test_the_readers_named_as_excluded_are(make_policy: Any, path: Path) -> None:
    report = export_policy(make_policy(density=0.05).policy, "onnx", path, sparse_initializers=True)
    assert report.excluded_readers[0] == "onnx.reference"
    with pytest.raises(onnx.shape_inference.InferenceError, match="sparse_tensor"):
        onnx.checker.check_model(onnx.load(path), full_check=True)
    with pytest.raises(Exception, match=r"(?s).+"):  # whatever type: it cannot be read
        onnx.reference.ReferenceEvaluator(str(path)).run(None, {"observation": np.zeros((1, 17), np.float32)})


def test_an_unknown_format_is_refused(make_policy: Any, path: Path) -> None:
    with pytest.raises(ConfigError, match="'onx' is not an export format; did you mean onnx"):
        export_policy(make_policy().policy, "onx", path)
    with pytest.raises(ConfigError, match="'tflite' is not an export format; expected c, c-learner, learner, onnx"):
        export_policy(make_policy().policy, "tflite", path)


def test_an_existing_output_needs_force(make_policy: Any, path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"exists already; pass `force`"):
        export_policy(make_policy().policy, "onnx", path)
    assert path.read_text() == "precious"
    export_policy(make_policy().policy, "onnx", path, force=True)
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_a_missing_folder_is_named(make_policy: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*no/policy\.onnx: No such file"):
        export_policy(make_policy().policy, "onnx", tmp_path / "no" / "policy.onnx")


def test_a_damaged_policy_is_refused(make_policy: Any, tmp_path: Path, path: Path) -> None:
    (tmp_path / "policy.safetensors").write_bytes(to_bytes(make_policy().policy)[:-1])
    with pytest.raises(FileFormatError, match="truncated"):
        export_policy(tmp_path, "onnx", path)
    assert not path.exists()


def test_a_folder_without_a_policy_is_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"holds no policy\.safetensors; train one"):
        export_policy(tmp_path, "onnx", path)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(make_policy: Any, path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    def without(module: str, extra: str) -> None:
        if module == missing:
            raise MissingExtraError(f"{module} is not installed; run: pip install 'edgerl[{extra}]'")

    monkeypatch.setattr("edgerl.commands.export.require", without)
    with pytest.raises(MissingExtraError, match=rf"{missing} is not installed; run: pip install 'edgerl\[export\]'"):
        export_policy(make_policy().policy, "onnx", path)


def test_a_network_that_unfolds_to_gigabytes_is_refused(path: Path) -> None:
    wide = make_layer(np.zeros((4096, 4096), np.int8), np.zeros(4096, np.float32), 1, np.ones(4096, np.float32))
    bounds = np.full(4096, -1, np.float32), np.ones(4096, np.float32)
    with pytest.raises(edgerl.errors.UnsupportedModelError, match="too large for one ONNX file"):
        export_policy(CompactPolicy((wide,) * 17, *bounds), "onnx", path)


def altered(change: Callable[[Any], None]) -> Callable[..., Any]:
    original = onnx_export.build_model

    def build(*arguments: Any, **options: Any) -> Any:
        model = original(*arguments, **options)
        change(model)
        return model

    return build


def a_weight(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "layers.1.weight")
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights.flat[np.flatnonzero(weights)[0]] += 1e-3
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))


def the_bounds(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "action.half_range")
    doubled = np.nextafter(onnx.numpy_helper.to_array(tensor), np.float32(np.inf)) + np.float32(1e-6)
    tensor.CopyFrom(onnx.numpy_helper.from_array(doubled, tensor.name))


def the_graph(model: Any) -> None:
    model.graph.node[2].op_type = "Gem"


def the_interface(model: Any) -> None:
    model.graph.output[0].name = "elsewhere"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_weight, r"its actions differ from the policy's by .* of the range, expected at most"),
        (the_bounds, "an action leaves its bounds"),
        (the_graph, "the exported file is not valid"),
        (the_interface, "the exported file is not valid"),
    ],
)
def test_a_file_that_acts_differently_is_never_seen(
    make_policy: Any, path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None], message: str
) -> None:
    monkeypatch.setattr(onnx_export, "build_model", altered(change))
    with pytest.raises(CheckFailed, match=message) as caught:
        export_policy(make_policy().policy, "onnx", path)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_a_failed_check_keeps_the_file_that_was_there(
    make_policy: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_policy(make_policy().policy, "onnx", path)
    before = path.read_bytes()
    monkeypatch.setattr(onnx_export, "build_model", altered(a_weight))
    with pytest.raises(CheckFailed, match="was not written"):
        export_policy(make_policy().policy, "onnx", path, force=True)
    assert path.read_bytes() == before


def test_nothing_is_printed(make_policy: Any, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_policy(make_policy(density=0.05).policy, "onnx", path, sparse_initializers=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("low", "high"), [(400, 401), (273, 274), (-1000, -999.5)])
def test_bounds_far_from_zero_export_and_are_kept(
    make_policy: Callable[..., Any], tmp_path: Path, low: float, high: float
) -> None:
    policy = make_policy().policy
    ones = np.ones(policy.n_actions, np.float32)
    policy = replace(policy, action_low=ones * np.float32(low), action_high=ones * np.float32(high))
    path = tmp_path / "policy.onnx"
    export_policy(policy.with_example(np.zeros(policy.n_observations)), "onnx", path)
    exported = OnnxPolicy(path)
    for observation in np.random.default_rng(0).normal(scale=100, size=(200, policy.n_observations)).astype(np.float32):
        action = exported(observation)
        assert ((action >= np.float32(low)) & (action <= np.float32(high))).all()


# ---------------------------------------------------------------------------------------------- recurrent policies


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("precision", "block"), [("fp32", 1), ("fp16", 1), ("int8", 4)])
@pytest.mark.parametrize(("cells", "before"), [(1, 0), (3, 0), (1, 6)])
def test_an_episode_of_a_recurrent_policy_is_pytorchs(
    kind: CellName, precision: Precision, block: int, cells: int, before: int, tmp_path: Path
) -> None:
    policy, outputs = recurrent_policy(
        kind, (11, 34, 19, 3), cells=cells, before=before, precision=precision, block=block, density=0.6
    )
    report = export_policy(policy, "onnx", tmp_path / "policy.onnx")
    seen, exported = episode(policy, 1000), OnnxPolicy(report.path)
    actions = np.stack([exported(observation) for observation in seen])
    np.testing.assert_allclose(actions, policy(seen, np.float64), atol=1e-5)
    if precision == "fp32":
        np.testing.assert_allclose(actions, torch_episode(policy, outputs, seen), atol=1e-5)
    exported.reset()
    np.testing.assert_array_equal(np.stack([exported(observation) for observation in seen[:9]]), actions[:9])
    assert not np.isfinite(exported(np.full(11, np.nan))).any()
    np.testing.assert_array_equal(exported(seen[9]), actions[9])


@pytest.mark.parametrize("kind", CELLS)
def test_a_recurrent_policy_has_the_interface_of_rsl_rls_export(kind: CellName, tmp_path: Path) -> None:
    policy, _ = recurrent_policy(kind, (11, 34, 19, 3), cells=2)
    path = export_policy(policy, "onnx", tmp_path / "policy.onnx").path
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    parts = "hc"[: CELLS[kind].vectors]
    assert [tensor.name for tensor in session.get_inputs()] == ["obs", *(f"{part}_in" for part in parts)]
    assert [tensor.name for tensor in session.get_outputs()] == ["actions", *(f"{part}_out" for part in parts)]
    assert [tensor.shape for tensor in session.get_inputs()] == [["batch", 11], *([2, "batch", 34] for _ in parts)]
    seen = episode(policy, 5)
    states = {part: np.zeros((2, 5, 34), np.float32) for part in parts}  # five robots at once, all at their first step
    given = {"obs": seen, **{f"{part}_in": state for part, state in states.items()}}
    actions, *following = session.run(None, given)
    interpreted = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, given)
    expected, state = policy.step(seen, np.zeros((5, policy.n_state), np.float32), np.float64)
    for computed in ((actions, *following), interpreted):
        np.testing.assert_allclose(computed[0], expected, atol=1e-5)
        stacked = np.concatenate([part[cell] for cell in range(2) for part in computed[1:]], axis=1)
        np.testing.assert_allclose(stacked, state, atol=1e-5)


def test_cells_that_one_state_cannot_hold_are_refused(tmp_path: Path) -> None:
    first, _ = recurrent_policy("gru", (5, 9, 7, 3))
    second, _ = recurrent_policy("lstm", (9, 9, 7, 3))
    policy = replace(first, layers=(first.layers[0], *second.layers))
    with pytest.raises(UnsupportedModelError, match=r"^5-gru9-lstm9-7-3 has cells of several kinds or widths"):
        export_policy(policy, "onnx", tmp_path / "policy.onnx")
