"""TorchScript files: as PyTorch's own exporter turns them into ONNX, which is then read.

TorchScript is a program, which PyTorch interprets: no Python, but its operators can write files, too. So its text is
looked through before it is loaded: it may call only operators that compute what policies need, and must not loop. All
of it happens in a process of its own, whose memory and time are bounded.

Recurrent ones keep the state of their cells in buffers, which each call changes (hidden_state, cell_state), as the
exporters of rsl_rl, legged_gym and Isaac Lab write them. PyTorch's exporter takes such a buffer for a constant; so the
state becomes inputs and outputs of the graph here.
"""

from __future__ import annotations

import ast
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import FileFormatError, UnsupportedModelError, quoted, reason, require
from edgerl.importers import bounded, onnx
from edgerl.importers.options import Stated
from edgerl.importers.signal import Signal
from edgerl.policy.compact import MAXIMUM_UNITS, Array

OPSET = 17

MAXIMUM_TEXT_BYTES = 1 << 20
"""Of all of the program."""

OPERATORS = frozenset(
    """
    abs add add_ addmm alpha append batch_norm bias cat celu celu_ chunk clamp clamp_ clamp_max clamp_min clip clone
    concat contiguous copy_ count detach dim div div_ dropout elu elu_ eq erf exp expand expand_as flatten float
    format ge gelu gru gt hardtanh hardtanh_ index index_select layer_norm le leaky_relu leaky_relu_ len linear list
    lstm lt matmul max maximum mean min minimum mm mul mul_ narrow ne neg norm numel ones_like permute pow
    reciprocal relu relu_ reshape rsqrt select shape sigmoid sigmoid_ silu silu_ size slice softplus split
    split_with_sizes sqrt square squeeze stack std sub sub_ sum t tanh tanh_ tensor to transpose type_as unsqueeze
    var view warn weight zeros zeros_like __and__ __contains__ __getitem__ __is__ __isnot__ __not__ __or__
    """.split()  # noqa: SIM905 — a list of 100 lines
)
"""What a program may call. None does anything but compute."""

PRIMITIVES = frozenset({"NumToTensor", "RaiseException", "device", "dtype", "unchecked_cast"})
"""Of ops.prim."""

STATE = ("hidden_state", "cell_state")
"""What the names of buffers begin with that hold the state of recurrent cells."""


def _check_program(data: bytes, path: Path) -> None:
    """Raise UnsupportedModelError where the program may do more than compute, or may not end."""
    nodes: list[ast.AST] = []
    room = MAXIMUM_TEXT_BYTES
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        for member in archive.infolist():
            if member.filename.lower().endswith(".py"):  # PyTorch finds names in any case
                with archive.open(member) as file:
                    text = file.read(room + 1)
                room -= len(text)
                nodes += ast.walk(ast.parse(text if room >= 0 else "too long"))
    except Exception as error:  # zipfile's, zlib's, the parser's
        raise FileFormatError(f"{path} has a program that cannot be read ({reason(error)})") from error
    refused = next((what for node in nodes if (what := _refused(node)) is not None), None)
    if refused is not None:
        raise UnsupportedModelError(f"{path} {refused}, which no policy needs; a program is not run unseen")


def _refused(node: ast.AST) -> str | None:
    """What speaks against a part of a program."""
    if isinstance(node, ast.For | ast.While):
        return "is a program with a loop"
    if isinstance(node, ast.Name) and node.id in ("fork", "awaitable", "rpc_async"):
        return f"calls {node.id}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
        name = node.args[1] if len(node.args) == 2 else None
        if not isinstance(name, ast.Constant) or not _is_known(str(name.value)):
            return f"calls {quoted(ast.unparse(node), 60)}"
    if isinstance(node, ast.Attribute) and not _is_known_attribute(node):
        return f"calls {quoted(ast.unparse(node), 60)}"
    return None


def _is_known_attribute(node: ast.Attribute) -> bool:
    root, names = node.value, [node.attr]
    while isinstance(root, ast.Attribute):
        names, root = [root.attr, *names], root.value
    origin = root.id if isinstance(root, ast.Name) else ""
    if origin == "__torch__":  # functions and classes of the program itself
        return names[:2] != ["torch", "classes"]
    if origin == "ops":
        return names == ["prim"] or (names[0] == "prim" and names[1] in PRIMITIVES)
    if origin == "torch":
        return names[0] in OPERATORS and len(names) == 1
    return _is_known(node.attr)


def _is_known(name: str) -> bool:
    """Of an attribute: whether it is an operator that may be called, or none at all."""
    return name in OPERATORS or not hasattr(require("torch", "train").ops.aten, name)


def is_torchscript(data: bytes) -> bool:
    """Whether a PyTorch file holds a program, not only tensors."""
    try:
        return any("/code/" in name.lower() for name in zipfile.ZipFile(io.BytesIO(data)).namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


class Module:
    """The action of a TorchScript file, and what PyTorch makes of observations."""

    def __init__(self, action: Signal, data: bytes, path: Path) -> None:
        self.action, self._data, self._path = action, data, path

    def __call__(self, observations: Array) -> Array:
        """Actions [count, m] for observations [count, n]."""
        return bounded.call("torchscript:acted", self._path, data=self._data, observations=observations)["actions"]


def read(data: bytes, path: Path, stated: Stated) -> Module:
    """The action that a TorchScript file computes of an observation.

    Raises FileFormatError, UnsupportedModelError, MissingExtraError.
    """
    _check_program(data, path)
    graph = bounded.call("torchscript:exported", path, data=data)["graph"].tobytes()
    return Module(onnx.read(graph, path, stated).action, data, path)


def acted(path: Path, data: bytes, observations: Array) -> dict[str, Array]:
    """In a process of its own: the actions for observations, one by one, as the steps of an episode."""
    torch, module = require("torch", "train"), _loaded(data, path)
    try:
        with torch.no_grad():
            for part in _state(module).values():
                part.zero_()
            rows = [module(row[None]).reshape(-1) for row in torch.from_numpy(observations)]
            return {"actions": torch.stack(rows).numpy()}
    except Exception as error:  # the interpreter's
        raise FileFormatError(f"{path} cannot be run by PyTorch ({reason(error)})") from error


def exported(path: Path, data: bytes) -> dict[str, Array]:
    """In a process of its own: the module as PyTorch turns it into ONNX, its state as inputs and outputs."""
    module = _loaded(data, path)
    n_observations, state = _n_observations(module, path), set(_state(module))
    if not state and any("weight_ih_l" in name for name, _ in module.named_parameters()):
        raise UnsupportedModelError(
            f"{path} has recurrent cells that begin anew with every observation; expected their state in the buffers "
            f"{' and '.join(STATE)}, as rsl_rl's exporter keeps it"
        )
    graph = _exported(module, n_observations, path)
    changed = _changed_buffers(module, n_observations, path)
    if changed != state:
        name = min(changed ^ state)
        what = "changes" if name in changed else "does not change"
        raise UnsupportedModelError(
            f"{path} {what} its buffer {quoted(name, 60)} with an observation; expected that of the state of recurrent "
            f"cells, {' and '.join(STATE)}, and of nothing else"
        )
    return {"graph": np.frombuffer(_with_state(graph) if state else graph, np.uint8)}


def _state(module: Any) -> dict[str, Any]:
    """The buffers that recurrent cells keep their state in."""
    return {name: buffer for name, buffer in module.named_buffers() if name.startswith(STATE)}


def _changed_buffers(module: Any, n_observations: int, path: Path) -> set[str]:
    """The names of those that another observation changes."""
    torch, before = require("torch", "train"), {name: each.clone() for name, each in module.named_buffers()}
    try:
        with torch.no_grad():
            module(torch.ones(1, n_observations))
    except Exception as error:  # the interpreter's
        raise FileFormatError(f"{path} cannot be run by PyTorch ({reason(error)})") from error
    return {name for name, each in module.named_buffers() if not torch.equal(each, before[name])}


def _with_state(graph: bytes) -> bytes:
    """With what each cell begins with as an input of its own, and what it then keeps as an output."""
    onnx_library = require("onnx", "export")
    model, helper = onnx_library.load_from_string(graph), onnx_library.helper
    cells = [node for node in model.graph.node if node.op_type in ("GRU", "LSTM")]
    for index, cell in enumerate(cells):
        for name, place in zip("hc", range(1, len(cell.output)), strict=False):
            before, after = f"{name}{index}_in", f"{name}{index}_out"
            cell.input[place + 4] = before
            model.graph.input.append(helper.make_tensor_value_info(before, onnx_library.TensorProto.FLOAT, None))
            model.graph.output.append(helper.make_tensor_value_info(after, onnx_library.TensorProto.FLOAT, None))
            model.graph.node.append(helper.make_node("Identity", [cell.output[place]], [after]))
    return bytes(model.SerializeToString())


def _loaded(data: bytes, path: Path) -> Any:
    torch = require("torch", "train")
    try:
        with warnings.catch_warnings():  # that TorchScript is an old format
            warnings.simplefilter("ignore")
            return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except Exception as error:  # the interpreter's
        raise FileFormatError(f"{path} is not a TorchScript file, or is truncated ({reason(error)})") from error


def _n_observations(module: Any, path: Path) -> int:
    """The inputs of the first cell, or else of the first affine layer."""
    named = sorted(module.named_parameters(), key=lambda item: not item[0].endswith("weight_ih_l0"))
    for _, parameter in named:
        if parameter.ndim == 2 and parameter.is_floating_point():
            if not 1 <= parameter.shape[1] <= MAXIMUM_UNITS:
                break
            return int(parameter.shape[1])
    raise UnsupportedModelError(f"{path} holds no affine layer; expected a perceptron")


def _exported(module: Any, n_observations: int, path: Path) -> bytes:
    torch = require("torch", "train")
    require("onnx", "export")
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():  # that this exporter, the only one for TorchScript, is an old one
            warnings.simplefilter("ignore")
            example = (torch.zeros(1, n_observations),)
            torch.onnx.export(
                module,
                example,
                buffer,
                opset_version=OPSET,
                dynamo=False,
                input_names=["observation"],
                output_names=["action"],
            )
    except Exception as error:  # the exporter's
        raise UnsupportedModelError(
            f"{path} is not a policy of {n_observations} observations, as far as PyTorch can tell ({reason(error)})"
        ) from error
    return buffer.getvalue()
