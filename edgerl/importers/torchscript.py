"""TorchScript files: as PyTorch's own exporter turns them into ONNX, which is then read.

TorchScript is a program, which PyTorch interprets: no Python, but its operators can write files, too. So its text is
looked through before it is loaded: it may call only operators that compute what perceptrons need, and must not loop.
All of it happens in a process of its own, whose memory and time are bounded.
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
    concat contiguous count detach dim div div_ dropout elu elu_ eq erf exp expand expand_as flatten float format ge
    gelu gt hardtanh hardtanh_ index layer_norm le leaky_relu leaky_relu_ len linear lt matmul max
    maximum mean min minimum mm mul mul_ narrow ne neg norm numel ones_like permute pow reciprocal relu relu_ reshape
    rsqrt select shape sigmoid sigmoid_ silu silu_ size slice softplus split split_with_sizes sqrt square squeeze stack
    std sub sub_ sum t tanh tanh_ to transpose type_as unsqueeze var view warn weight zeros_like __and__
    __contains__ __getitem__ __is__ __isnot__ __not__ __or__
    """.split()  # noqa: SIM905 — a list of 100 lines
)
"""What a program may call. None does anything but compute."""

PRIMITIVES = frozenset({"NumToTensor", "RaiseException", "unchecked_cast"})
"""Of ops.prim."""


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
    if any(isinstance(node, ast.Attribute) and node.attr in ("lstm", "gru") for node in nodes):
        raise UnsupportedModelError(f"{path} is recurrent; expected a perceptron")
    refused = next((what for node in nodes if (what := _refused(node)) is not None), None)
    if refused is not None:
        raise UnsupportedModelError(f"{path} {refused}, which no perceptron needs; a program is not run unseen")


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
    """In a process of its own: the actions for observations, one by one: a batch may be fixed to 1."""
    torch, module = require("torch", "train"), _loaded(data, path)
    try:
        with torch.no_grad():
            rows = [module(row[None]).reshape(-1) for row in torch.from_numpy(observations)]
            return {"actions": torch.stack(rows).numpy()}
    except Exception as error:  # the interpreter's
        raise FileFormatError(f"{path} cannot be run by PyTorch ({reason(error)})") from error


def exported(path: Path, data: bytes) -> dict[str, Array]:
    """In a process of its own: the module as PyTorch turns it into ONNX."""
    module = _loaded(data, path)
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    if any(".weight_ih" in name for name in state) or any(
        name.startswith(("hidden_state", "cell_state")) for name in state
    ):
        raise UnsupportedModelError(f"{path} is recurrent; expected a perceptron")
    return {"graph": np.frombuffer(_exported(module, _n_observations(module, path), path), np.uint8)}


def _loaded(data: bytes, path: Path) -> Any:
    torch = require("torch", "train")
    try:
        with warnings.catch_warnings():  # that TorchScript is an old format
            warnings.simplefilter("ignore")
            return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
    except Exception as error:  # the interpreter's
        raise FileFormatError(f"{path} is not a TorchScript file, or is truncated ({reason(error)})") from error


def _n_observations(module: Any, path: Path) -> int:
    """The inputs of the first affine layer."""
    for parameter in module.parameters():
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
            f"{path} is not a perceptron of {n_observations} observations, as far as PyTorch can tell ({reason(error)})"
        ) from error
    return buffer.getvalue()
