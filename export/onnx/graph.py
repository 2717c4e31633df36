"""The graph of policy.onnx, from an observation to an action in the environment's own units (docs/onnx.md).

    observation ▸ [Sub offset ▸ Cast] ▸ [Sub mean] ▸ [Mul scale] ▸ [Clip] ▸ Gemm ▸ [norm] ▸ Relu ▸ … ▸ Gemm
    ▸ Clip ▸ Tanh ▸ Clip ▸ [Mul half_range] ▸ [Add centre] ▸ action            (head tanh)
    ▸ [Max low] ▸ [Min high] ▸ action                                          (head clip)

Nodes in brackets are there only where they change something; another activation is another node than Relu, or a few.
A recurrent policy has its cells as GRU and LSTM nodes, and its state as further inputs and outputs, with the names and
the shapes that rsl_rl gives them:

    obs, h_in [cells, batch, units], of an LSTM c_in  ▸  …  ▸  actions, h_out, c_out

Neither Clip around Tanh is redundant: OpenCV's Tanh is NaN above 44,
and onnxruntime's reaches 1.0000002, where an action must not leave its bounds. Weights stored as fp16 or int8 stand
behind a Cast or a DequantizeLinear, and their outliers are put between them by a ScatterElements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference

from edgerl import __version__
from edgerl.edge.acting.onnx_policy import METADATA_KEY, OnnxPolicy
from edgerl.errors import CheckFailed, EdgerlError, UnsupportedModelError, reason
from edgerl.export.onnx.report import OnnxReport
from edgerl.files.atomic import MAXIMUM_BYTES, refuse_existing, write_atomically
from edgerl.policy.activation import LEAKY_SLOPE
from edgerl.policy.cell import CellName
from edgerl.policy.compact import Array, CompactPolicy, Layer, LayerNorm, Outliers, without_denormals
from edgerl.policy.loss import action_span, resolution, sampled_observations

FLOAT_OPSET, INT8_OPSET = 11, 13
"""The oldest that have what a graph uses, for the runtimes that boards have: Clip with its bounds as inputs, and
DequantizeLinear with a scale for each row."""

SATURATED = 20.0
"""Where tanh is 1 in float32, and every reader's Tanh is still a number."""

TOLERANCE = 1e-5
"""Largest difference to the reference, of the action range."""

EXCLUDED_BY_SPARSE = (
    *("onnx.reference", "OpenVINO", "OpenCV", "tract", "TVM", "IREE", "ncnn", "onnx2torch", "onnx2c"),
    "strict shape inference (onnx.checker with full_check)",
)

SPARSE_BYTES = 8
"""Of the index of each connection in a sparse initialiser: onnx.checker wants INT64."""

MAGNITUDES = {"ordinary": (1.0, 10.0), "extreme": (1e3, 1e6), "limit": (1e39,)}
"""Standard deviations of the observations that a file is checked with, in the policy's own normalised units. At the
limit of float32 sums overflow, an action may be NaN, and only its bounds are checked."""

PER_MAGNITUDE = 80


def write_model(
    policy: CompactPolicy, source_sha256: str, path: Path, *, force: bool, sparse_initializers: bool
) -> OnnxReport:
    """Write `policy` to `path`; CheckFailed, and no file, where the written file does not act like it."""
    refuse_existing(path, force=force)
    if sum(layer.n_inputs * layer.n_outputs for layer in policy.layers) * 4 > MAXIMUM_BYTES // 2:
        raise UnsupportedModelError(
            f"a dense {policy.architecture[:60]} is too large for one ONNX file; expected at most 1 GiB of weights"
        )
    cells = {(layer.activation, layer.units) for layer in policy.layers if layer.cell is not None}
    if len(cells) > 1:
        raise UnsupportedModelError(
            f"{policy.architecture[:60]} has cells of several kinds or widths, which one `h_in` cannot hold; export c"
        )
    if not policy.example_observation.size:
        policy = policy.with_example(policy.observation_of(np.zeros(policy.n_observations, np.float32)))
    model = build_model(policy, source_sha256, sparse_initializers=sparse_initializers)
    data: bytes = model.SerializeToString(deterministic=True)
    n_sparse = len(model.graph.sparse_initializer)
    differences: dict[str, float] = {}

    def check(temporary: Path) -> None:
        differences.update(verify(temporary, policy, path, shapes=n_sparse == 0))

    write_atomically(path, data, force=force, check=check)
    return OnnxReport(
        path=path,
        format="onnx",
        architecture=policy.architecture,
        n_bytes=len(data),
        opset=model.opset_import[0].version,
        largest_difference=differences["ordinary"],
        largest_difference_extreme=differences["extreme"],
        sparse_layers=n_sparse,
        excluded_readers=EXCLUDED_BY_SPARSE if n_sparse else (),
        sparse_initializers=sparse_initializers,
    )


@dataclass
class _Graph:
    """Nodes in order, each of which takes the value before it."""

    sparse_initializers: bool
    value: str
    nodes: list[Any] = field(default_factory=list)
    dense: list[Any] = field(default_factory=list)
    sparse: list[Any] = field(default_factory=list)

    def constant(self, name: str, array: Array) -> str:
        self.dense.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def matrix(self, name: str, matrix: Array) -> str:
        """`matrix` as a constant, in whichever form takes fewer bytes where sparse ones are wanted."""
        positions = np.flatnonzero(matrix).astype(np.int64)
        if not self.sparse_initializers or positions.size * (matrix.itemsize + SPARSE_BYTES) >= matrix.nbytes:
            return self.constant(name, matrix)
        values = onnx.numpy_helper.from_array(matrix.ravel()[positions], name)
        indices = onnx.numpy_helper.from_array(positions, f"{name}.positions")
        self.sparse.append(onnx.helper.make_sparse_tensor(values, indices, matrix.shape))
        return name

    def weight(self, name: str, layer: Layer) -> str:
        """The float32 weight [n_outputs, n_inputs] of `layer`, stored in its own precision."""
        stored = layer.stored_matrix()
        if layer.precision == "fp32":
            return self.matrix(name, stored)
        inputs = [self.matrix(f"{name}.{layer.precision}", stored)]
        if layer.scale is None:
            node = onnx.helper.make_node("Cast", inputs, [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        else:
            inputs.append(self.constant(f"{name}.scale", layer.scale))
            small = name if layer.outliers is None else f"{name}.small"
            node = onnx.helper.make_node("DequantizeLinear", inputs, [small], name=f"{name}.dequantize", axis=0)
        self.nodes.append(node)
        return name if layer.outliers is None else self.with_outliers(name, node.output[0], layer, layer.outliers)

    def with_outliers(self, name: str, small: str, layer: Layer, outliers: Outliers) -> str:
        """The weight, made of a small one with zeros where the outliers belong. Flat, since an index of two dimensions
        would be as large as the weights that it names."""
        positions = outliers.rows * layer.n_inputs + outliers.columns
        flat, exact = f"{name}.flat", f"{name}.exact"
        row = self.constant(f"{flat}.shape", np.array([-1]))
        indices = self.constant(f"{name}.outliers.positions", positions.astype(np.int32))
        values = self.constant(f"{name}.outliers", outliers.values)
        shape = self.constant(f"{name}.shape", np.array([layer.n_outputs, layer.n_inputs]))
        self.nodes += [
            onnx.helper.make_node("Reshape", [small, row], [flat], name=f"{flat}.node"),
            onnx.helper.make_node("ScatterElements", [flat, indices, values], [exact], name=f"{exact}.node", axis=0),
            onnx.helper.make_node("Reshape", [exact, shape], [name], name=f"{name}.node"),
        ]
        return name

    def cell(self, name: str, layer: Layer, at: int, count: int) -> None:
        """Cell `at` of `count`, with its own part of the state."""
        assert layer.cell is not None
        units, letters = layer.units, "hc"[: layer.cell.vectors]
        of_inputs, of_outputs = onnx_parts(layer)
        weights = [
            self.reshaped(f"{name}.{letter}", self.weight(f"{name}.{letter}.rows", part), [1, -1, part.n_inputs])
            for letter, part in (("w", of_inputs), ("r", of_outputs))
        ]
        bias = self.constant(f"{name}.bias", np.concatenate([of_inputs.bias, of_outputs.bias])[None])
        states = [self.state_before(f"{name}.{letter}", f"{letter}_in", at, count) for letter in letters]
        x = self.reshaped(f"{name}.sequence", self.value, [1, -1, layer.n_fed])
        outputs = ["", *(f"{name}.{letter}_next" for letter in letters)]
        attributes = {"hidden_size": units} | ({"linear_before_reset": 1} if layer.cell.name == "gru" else {})
        inputs = [x, *weights, bias, "", *states]
        operator = layer.cell.name.upper()
        self.nodes.append(onnx.helper.make_node(operator, inputs, outputs, name=f"{name}.node", **attributes))
        self.value = self.reshaped(f"{name}.outputs", outputs[1], [-1, units])

    def state_before(self, name: str, source: str, at: int, count: int) -> str:
        """Cell `at`'s part of a state input."""
        if count == 1:
            return source
        bounds = [self.constant(f"{name}.{end}", np.array([value])) for end, value in (("first", at), ("end", at + 1))]
        axis = self.constant(f"{name}.axis", np.array([0]))
        self.nodes.append(onnx.helper.make_node("Slice", [source, *bounds, axis], [name], name=f"{name}.node"))
        return name

    def reshaped(self, name: str, value: str, shape: list[int]) -> str:
        inputs = [value, self.constant(f"{name}.shape", np.array(shape))]
        self.nodes.append(onnx.helper.make_node("Reshape", inputs, [name], name=f"{name}.node"))
        return name

    def state_after(self, layers: list[tuple[int, Layer]]) -> None:
        """The outputs of the state, of the cells among all layers."""
        cell = layers[0][1].cell
        assert cell is not None
        for letter in "hc"[: cell.vectors]:
            parts = [f"layers.{index}.{letter}_next" for index, _ in layers]
            self.nodes.append(
                onnx.helper.make_node("Concat", parts, [f"{letter}_out"], name=f"{letter}_out.node", axis=0)
            )

    def apply(self, operator: str, name: str, *constants: str, **attributes: Any) -> None:
        node = onnx.helper.make_node(operator, [self.value, *constants], [name], name=f"{name}.node", **attributes)
        self.nodes.append(node)
        self.value = name

    def clip(self, name: str, bound: float) -> None:
        """To [-bound, bound]."""
        self.apply("Clip", name, self.number(f"{name}.low", -bound), self.number(f"{name}.high", bound))

    def number(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, np.float32))

    def norm(self, name: str, norm: LayerNorm) -> None:
        """LayerNorm in parts: as one operator it exists only from opset 17 on."""
        self.apply("ReduceMean", f"{name}.mean", axes=[1], keepdims=1)
        mean, self.value = self.value, self.nodes[-1].input[0]
        self.apply("Sub", f"{name}.centred", mean)
        centred = self.value
        self.apply("Mul", f"{name}.squares", centred)
        self.apply("ReduceMean", f"{name}.variance", axes=[1], keepdims=1)
        self.apply("Add", f"{name}.above_zero", self.number(f"{name}.epsilon", norm.epsilon))
        self.apply("Sqrt", f"{name}.deviation")
        deviation, self.value = self.value, centred
        self.apply("Div", f"{name}.standard", deviation)
        self.apply("Mul", f"{name}.scaled", self.constant(f"{name}.scale", norm.scale))
        self.apply("Add", f"{name}.shifted", self.constant(f"{name}.shift", norm.shift))

    def hidden(self, name: str, layer: Layer) -> None:
        """What stands behind a hidden layer."""
        if layer.norm is not None:
            self.norm(f"{name}.norm", layer.norm)
        ACTIVATIONS[layer.activation](self, f"{name}.active")

    def times_sigmoid(self, name: str) -> None:
        before = self.value
        self.apply("Sigmoid", f"{name}.gate")
        self.apply("Mul", name, before)

    def gelu(self, name: str) -> None:
        """x (1 + erf(x / √2)) / 2: as one operator it exists only from opset 20 on."""
        before = self.value
        self.apply("Mul", f"{name}.scaled", self.number(f"{name}.root", 2**-0.5))
        self.apply("Erf", f"{name}.erf")
        self.apply("Add", f"{name}.gate", self.number(f"{name}.one", 1.0))
        self.apply("Mul", f"{name}.twice", before)
        self.apply("Mul", name, self.number(f"{name}.half", 0.5))

    def tanh(self, name: str) -> None:
        self.clip(f"{name}.saturated", SATURATED)
        self.apply("Tanh", name)


ACTIVATIONS: Mapping[str, Callable[[_Graph, str], None]] = {
    "identity": lambda _graph, _name: None,
    "relu": lambda graph, name: graph.apply("Relu", name),
    "leaky_relu": lambda graph, name: graph.apply("LeakyRelu", name, alpha=LEAKY_SLOPE),
    "elu": lambda graph, name: graph.apply("Elu", name, alpha=1.0),
    "silu": _Graph.times_sigmoid,
    "tanh": _Graph.tanh,
    "sigmoid": lambda graph, name: graph.apply("Sigmoid", name),
    "gelu": _Graph.gelu,
}
"""How each is written."""


ONNX_GATES: Mapping[CellName, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "gru": ((1, 0, 2), (1, 0, 3)),
    "lstm": ((0, 3, 1, 2), (0, 3, 1, 2)),
}
"""The gates of a cell in ONNX's order, of its inputs and of its own last outputs: zrh, iofc."""


def onnx_parts(layer: Layer) -> tuple[Layer, Layer]:
    """A cell as ONNX has it, dense: of its inputs and of its own last outputs. Biases that both could have, the first
    has."""
    assert layer.cell is not None
    stored, gates = layer.stored_matrix(), np.arange(layer.n_outputs).reshape(-1, layer.units)
    parts = []
    for order, columns in zip(ONNX_GATES[layer.cell.name], (slice(layer.n_fed), slice(layer.n_fed, None)), strict=True):
        rows = gates[list(order)].ravel()
        values = np.ascontiguousarray(stored[rows, columns])
        scale = None if layer.scale is None else layer.scale[rows]
        parts.append(Layer(values.shape[1], len(rows), 1, values, layer.bias[rows], scale=scale))
    of_inputs, of_outputs = parts
    shared = len(of_outputs.bias) if layer.cell.name == "lstm" else 2 * layer.units
    bias = np.where(np.arange(len(of_outputs.bias)) < shared, np.float32(0), of_outputs.bias)
    return of_inputs, replace(of_outputs, bias=bias)


def build_model(policy: CompactPolicy, source_sha256: str, *, sparse_initializers: bool = False) -> Any:
    """The onnx.ModelProto of `policy`; the same policy gives the same model."""
    policy = without_denormals(policy)
    cells = [(index, layer) for index, layer in enumerate(policy.layers) if layer.cell is not None]
    observation, action = ("obs", "actions") if cells else ("observation", "action")
    graph = _Graph(sparse_initializers, observation)
    floats = observation_type = onnx.TensorProto.FLOAT
    if policy.observation_offset is not None:
        observation_type = onnx.TensorProto.DOUBLE
        graph.apply("Sub", "offset", graph.constant("observation.offset", policy.observation_offset))
        graph.apply("Cast", "seen", to=floats)
    if policy.observation_mean is not None and policy.observation_scale is not None:
        if np.any(policy.observation_mean != 0):
            graph.apply("Sub", "centred", graph.constant("observation.mean", policy.observation_mean))
        if np.any(policy.observation_scale != 1):
            graph.apply("Mul", "normalised", graph.constant("observation.scale", policy.observation_scale))
    if policy.observation_clip is not None:
        graph.clip("clipped", policy.observation_clip)
    for index, layer in enumerate(policy.layers):
        name = f"layers.{index}"
        if layer.cell is not None:
            graph.cell(name, layer, [place for place, _ in cells].index(index), len(cells))
            continue
        weight, bias = graph.weight(f"{name}.weight", layer), graph.constant(f"{name}.bias", layer.bias)
        graph.apply("Gemm", f"{name}.sum", weight, bias, transB=1)
        if index + 1 < len(policy.layers):
            graph.hidden(name, layer)
    _write_head(graph, policy)
    graph.nodes[-1].output[0] = action
    states = _states(graph, cells) if cells else ([], [])
    is_int8 = any(layer.scale is not None for layer in policy.layers)
    opsets = [onnx.helper.make_opsetid("", INT8_OPSET if is_int8 else FLOAT_OPSET)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "policy",
            [
                onnx.helper.make_tensor_value_info(observation, observation_type, ["batch", policy.n_observations]),
                *states[0],
            ],
            [onnx.helper.make_tensor_value_info(action, floats, ["batch", policy.n_actions]), *states[1]],
            graph.dense,
            sparse_initializer=graph.sparse,
        ),
        producer_name="edgerl",
        producer_version=__version__,
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
    )
    own = {METADATA_KEY: json.dumps(_metadata(policy, source_sha256), sort_keys=True)}
    onnx.helper.set_model_props(model, own | policy.contract.as_text())
    return model


def _states(graph: _Graph, cells: list[tuple[int, Layer]]) -> tuple[list[Any], list[Any]]:
    """The inputs and the outputs of the state."""
    graph.state_after(cells)
    first = cells[0][1]
    assert first.cell is not None
    shape = [len(cells), "batch", first.units]
    before, after = (
        [
            onnx.helper.make_tensor_value_info(f"{letter}_{end}", onnx.TensorProto.FLOAT, shape)
            for letter in "hc"[: first.cell.vectors]
        ]
        for end in ("in", "out")
    )
    return before, after


def _write_head(graph: _Graph, policy: CompactPolicy) -> None:
    if policy.head == "clip":
        if np.isfinite(policy.action_low).any():
            graph.apply("Max", "above_low", graph.constant("action.low", np.nan_to_num(policy.action_low)))
        if np.isfinite(policy.action_high).any():
            graph.apply("Min", "below_high", graph.constant("action.high", np.nan_to_num(policy.action_high)))
        return
    graph.clip("saturated", SATURATED)
    graph.apply("Tanh", "tanh")
    graph.clip("bounded", 1)
    centre, half_range = policy.action_scaling
    if np.any(half_range != 1):
        graph.apply("Mul", "scaled", graph.constant("action.half_range", half_range))
    if np.any(centre != 0):
        graph.apply("Add", "shifted", graph.constant("action.centre", centre))


def _metadata(policy: CompactPolicy, source_sha256: str) -> dict[str, Any]:
    """Every float32 is printed with all its digits, so that it is read back as the same number."""
    bounds = {"low": policy.action_low.tolist(), "high": policy.action_high.tolist()}
    return {
        "version": __version__,
        "policy_sha256": source_sha256,
        "about": dict(policy.metadata),
        "action": bounds if policy.is_bounded else None,
        "example": {
            "observation": policy.example_observation.tolist(),
            "action": policy.example_action.tolist(),
        },
    }


def verify(written: Path, policy: CompactPolicy, final: Path, *, shapes: bool) -> dict[str, float]:
    """Largest difference between the file and `policy` per kind of observation, in shares of the action range.

    Raises CheckFailed, which names the file as `final`, where the file is invalid, a difference is larger than
    TOLERANCE and than what float32 resolves there, or an action leaves its bounds. `shapes` says whether strict shape
    inference can read the file.
    """
    try:
        onnx.checker.check_model(written.read_bytes(), full_check=shapes)
        exported = OnnxPolicy(written)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, EdgerlError) as error:
        problem = reason(error, 200)
        raise CheckFailed(f"{final} was not written: the exported file is not valid ({problem})") from error
    largest = {}
    for kind, magnitudes in MAGNITUDES.items():
        observations = np.concatenate([check_observations(policy, magnitude) for magnitude in magnitudes])
        exported.reset()
        actions = np.stack([exported(observation) for observation in observations])
        if np.any((actions < policy.action_low) | (actions > policy.action_high)):
            raise CheckFailed(f"{final} was not written: for {kind} observations, an action leaves its bounds")
        if kind != "limit":
            largest[kind] = _largest_difference(policy, observations, actions, final)
    return largest


def check_observations(policy: CompactPolicy, magnitude: float) -> Array:
    """Observations [PER_MAGNITUDE + 1, n], `magnitude` standard deviations wide, the policy's example among them."""
    return policy.observation_of(sampled_observations(policy, PER_MAGNITUDE, magnitude))


def _largest_difference(policy: CompactPolicy, observations: Array, actions: Array, final: Path) -> float:
    """Of `actions` from the policy in float64, in shares of the range; CheckFailed where one is too large."""
    difference = np.abs(actions - policy(observations, np.float64)) / action_span(policy)
    allowed = np.maximum(TOLERANCE, resolution(policy, observations))
    if not np.all(difference <= allowed):  # a NaN is no less than anything
        worst = np.unravel_index(np.argmax(np.nan_to_num(difference, nan=np.inf) / allowed), difference.shape)
        raise CheckFailed(
            f"{final} was not written: its actions differ from the policy's by {difference[worst]:.2g} of the range, "
            f"expected at most {allowed[worst]:.2g}; please report this with the policy"
        )
    return float(difference.max())
