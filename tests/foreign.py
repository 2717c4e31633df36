"""ONNX files as other programs write them: a perceptron with ELU between its layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

FLOAT = onnx.TensorProto.FLOAT


def write_actor(
    path: Path,
    tail: Sequence[tuple[str, dict[str, float]]] = (("Tanh", {}),),
    *,
    n_observations: int = 3,
    n_actions: int = 1,
) -> Path:
    """Two layers, and then the operators of `tail`, each with the constants that it takes, by name."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, n_observations), "b1": (8,), "w2": (n_actions, 8), "b2": (n_actions,)}
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {name: np.array(value) for _, constants in tail for name, value in constants.items()}
    nodes = [
        helper.make_node("Gemm", ["observation", "w1", "b1"], ["hidden"], transB=1),
        helper.make_node("Elu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["value0"], transB=1),
    ]
    for index, (operator, constants) in enumerate(tail):
        nodes.append(helper.make_node(operator, [f"value{index}", *constants], [f"value{index + 1}"]))
    nodes[-1].output[0] = "action"
    graph = helper.make_graph(
        nodes,
        "actor",
        [helper.make_tensor_value_info("observation", FLOAT, ["batch", n_observations])],
        [helper.make_tensor_value_info("action", FLOAT, ["batch", n_actions])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
