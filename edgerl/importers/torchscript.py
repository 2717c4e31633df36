"""TorchScript files: as PyTorch's own exporter turns them into ONNX, which is then read.

TorchScript is a program of its own language, which PyTorch interprets; no Python in the file is executed.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

from edgerl.errors import FileFormatError, UnsupportedModelError, reason, require
from edgerl.importers import onnx
from edgerl.importers.options import Stated
from edgerl.importers.signal import Signal
from edgerl.policy.compact import MAXIMUM_UNITS, Array

OPSET = 17


def is_torchscript(data: bytes) -> bool:
    """Whether a PyTorch file holds a program, not only tensors."""
    try:
        return any("/code/" in name for name in zipfile.ZipFile(io.BytesIO(data)).namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


class Module:
    """The action of a TorchScript file, and what PyTorch makes of observations."""

    def __init__(self, module: Any, action: Signal, path: Path) -> None:
        self.action, self._module, self._path = action, module, path

    def __call__(self, observations: Array) -> Array:
        """Actions [count, m] for observations [count, n]."""
        torch = require("torch", "train")
        try:
            with torch.no_grad():
                rows = [self._module(row[None]).reshape(-1) for row in torch.from_numpy(observations)]
                actions: Array = torch.stack(rows).numpy()
        except Exception as error:  # the interpreter's
            raise FileFormatError(f"{self._path} cannot be run by PyTorch ({reason(error)})") from error
        return actions


def read(data: bytes, path: Path, stated: Stated) -> Module:
    """The action that a TorchScript file computes of an observation.

    Raises FileFormatError, UnsupportedModelError, MissingExtraError.
    """
    torch = require("torch", "train")
    try:
        with warnings.catch_warnings():  # that TorchScript is an old format
            warnings.simplefilter("ignore")
            module = torch.jit.load(io.BytesIO(data), map_location="cpu").eval()
        state = dict(module.named_parameters()) | dict(module.named_buffers())
    except Exception as error:  # the interpreter's
        raise FileFormatError(f"{path} is not a TorchScript file, or is truncated ({reason(error)})") from error
    if any(".weight_ih" in name for name in state) or any(
        name.startswith(("hidden_state", "cell_state")) for name in state
    ):
        raise UnsupportedModelError(f"{path} is recurrent; expected a perceptron")
    graph = _exported(module, _n_observations(module, path), path)
    return Module(module, onnx.read(graph, path, stated).action, path)


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
