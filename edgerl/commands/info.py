"""`edgerl.info`: what a file is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.errors import EdgerlError, FileFormatError, UnsupportedModelError
from edgerl.files.kind import ONNX, OURS, REPLAY, TOML, importing, what_is
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.edge.continual.store import Snapshots
    from edgerl.policy.compact import Array, CompactPolicy
    from edgerl.profiling.budgets.rows import LayerRow

Description = dict[str, Any]


def info(path: str | Path) -> Description:
    """What a file or a run or state folder is: kind, environment, sizes, sparsity, action contract, hash, versions.

    The whole file is checked on the way. Raises FileFormatError where it is nothing known, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    found = what_is(path)
    read = _READERS.get(found) or _READERS_BY_SUFFIX.get(path.suffix)
    if read is None:
        expected = f"a run folder or a file of {', '.join(_READERS_BY_SUFFIX)}"
        raise FileFormatError(f"{path} is {found}; expected {expected}{importing(found, path)}")
    return {"file": str(path), **read(path)}


def _folder(path: Path) -> Description:
    from edgerl.edge.continual.store import Snapshots

    snapshots = Snapshots(path)
    return _state_folder(snapshots) if snapshots.are_there else _run_folder(path)


def _state_folder(snapshots: Snapshots) -> Description:
    found = snapshots.newest()
    if found is None:
        raise FileFormatError(f"{snapshots.folder} holds no snapshot that is whole: {'; '.join(snapshots.rejected)}")
    _, reader = found
    reader.close()
    files = sorted(file for file in snapshots.folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return {
        "file": str(snapshots.folder),
        "kind": "state folder",
        "files": {file.name: human_bytes(file.stat().st_size) for file in files},
        "rejected": snapshots.rejected,
        "newest": info(reader.path),
    }


def _run_folder(path: Path) -> Description:
    from edgerl import run_folder

    models = (run_folder.CHECKPOINT, run_folder.POLICY, run_folder.ONNX, run_folder.LEARNER)
    names = (
        run_folder.CONFIG,
        run_folder.METRICS,
        run_folder.TOPOLOGY,
        run_folder.VERSIONS,
        run_folder.REPLAY,
        *models,
    )
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise FileFormatError(
            f"{path} holds none of {', '.join(names)}; expected a run folder, or a learner's state folder"
            f"{importing(what_is(path), path)}"
        )
    return {
        "file": str(path),
        "kind": "run folder",
        "files": {file.name: human_bytes(file.stat().st_size) for file in found},
        **{file.name: info(file) for file in found if file.name in models},
    }


def _tensor_file(path: Path) -> Description:
    from edgerl.files.atomic import read_bytes
    from edgerl.files.tensors import tensor_file_kind
    from edgerl.policy.format import KIND, from_bytes, version_of

    data = read_bytes(path)
    kind = tensor_file_kind(data, path)
    if kind == "checkpoint":
        return _checkpoint(path, data)
    if kind in ("learner", "snapshot"):
        return {"kind": kind, **_size(data), **_learner(path, kind)}
    policy = from_bytes(data, path)  # names the kind that it found where this is none either
    return {"kind": KIND, "format_version": version_of(policy), **_size(data), **_policy(policy)}


def _policy(policy: CompactPolicy) -> Description:
    from edgerl.profiling.budgets.model import policy_rows

    return {
        "environment": policy.metadata.get("environment"),
        **_network(policy_rows(policy).layers),
        "normalized_observations": policy.observation_mean is not None,
        "observation_offset": _offset(policy),
        "observation_clip": policy.observation_clip,
        "head": policy.head,
        "action": {name: _bounds(bound) for name, bound in (("low", policy.action_low), ("high", policy.action_high))},
        "about": dict(policy.metadata),
        "contract": policy.contract.as_dict(),
        "layers": [
            {
                **_layer(index, layer.n_inputs, layer.n_outputs, layer.connections, layer.precision),
                "block": layer.block,
                "layout": "sparse" if layer.is_sparse else "dense",
                "bytes": layer.n_bytes,
                "activation": "head" if index + 1 == len(policy.layers) else layer.activation,
                "norm": layer.norm is not None,
            }
            for index, layer in enumerate(policy.layers)
        ],
    }


def _bounds(bound: Array) -> list[float | None]:
    """None where there is none."""
    return [value if math.isfinite(value) else None for value in bound.tolist()]


def _offset(policy: CompactPolicy) -> dict[str, int] | None:
    """What is subtracted from which observation, where it is not 0."""
    offset = policy.observation_offset
    return None if offset is None else {str(i): int(value) for i, value in enumerate(offset.tolist()) if value}


def _checkpoint(path: Path, data: bytes) -> Description:
    from edgerl.training import checkpoint

    state = checkpoint.read(path)
    return {
        "kind": checkpoint.KIND,
        "format_version": checkpoint.VERSION,
        **_size(data),
        "environment": state.config.environment,
        "tensors": len(state.tensors),
        "tensor_bytes": sum(tensor.nbytes for tensor in state.tensors.values()),
        "counters": asdict(state.counters),
        "returns": asdict(state.returns),
        "policy": _policy(state.policy),
        "config": asdict(state.config),
    }


def _learner(path: Path, kind: str) -> Description:
    from edgerl.edge.continual import bundle
    from edgerl.edge.continual.bundle import actor_policy
    from edgerl.edge.continual.history import read_counters
    from edgerl.edge.continual.origin import read_origin
    from edgerl.files.tensors import TensorReader

    with TensorReader(path, kind, bundle.VERSIONS) as reader:
        origin, shapes = read_origin(reader, path), reader.shapes
    description = {
        "format_version": origin.metadata["version"],
        "environment": origin.about.get("environment"),
        "updates": origin.arena.progress.updates,
        "exploration_noise": origin.exploration_noise,
        "replay": origin.replay.as_json(),
        "policy": _policy(actor_policy(origin.arena, origin.constants, origin.about)),
    }
    if kind == bundle.KIND:
        return {**description, "seed_transitions": shapes["seed"][1][0] if "seed" in shapes else 0}
    try:
        counters = read_counters(origin.metadata.get("counters"))
    except ValueError as error:
        raise FileFormatError(f"{path} is not valid: {error}") from error
    return {**description, "champion": origin.metadata.get("champion"), "counters": asdict(counters)}


def _onnx(path: Path) -> Description:
    from edgerl.edge.acting.onnx_policy import OnnxPolicy, refuse_unsafe
    from edgerl.errors import require
    from edgerl.files.atomic import read_bytes
    from edgerl.policy.contract import of_onnx

    data = read_bytes(path)
    is_ours = refuse_unsafe(data, path)
    # A file of ours is run once, to see that it reproduces its example; one from elsewhere is only looked at.
    metadata = OnnxPolicy(path).metadata if is_ours else {}
    try:
        model = require("onnx", "export").load_model_from_string(data)
    except EdgerlError:
        raise
    except Exception as error:  # protobuf's own kind, which onnx does not name
        raise FileFormatError(f"{path} is not an ONNX model, or is truncated; make the file again") from error
    return {
        "kind": "onnx",
        **_size(data),
        "environment": metadata.get("about", {}).get("environment"),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": model.ir_version,
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "n_observations": _width(model.graph.input),
        "n_actions": _width(model.graph.output),
        "sparse_initializers": len(model.graph.sparse_initializer),
        "operators": " ".join(node.op_type for node in model.graph.node),
        **_perceptron(path),
        "contract": of_onnx({entry.key: entry.value for entry in model.metadata_props}, path).as_dict(),
        **{key: metadata[key] for key in ("action", "policy_sha256", "about") if key in metadata},
    }


def _width(values: Any) -> int | None:
    """The last dimension of the only input or output; None where there are more, or it is not fixed."""
    dimensions = values[0].type.tensor_type.shape.dim if len(values) == 1 else []
    return int(dimensions[-1].dim_value) or None if dimensions else None


def _perceptron(path: Path) -> Description:
    """The layers of an ONNX model, where it is a perceptron."""
    from edgerl.profiling.budgets.onnx_graph import read_onnx

    try:
        rows = read_onnx(path).layers
    except UnsupportedModelError:
        return {"architecture": None}
    layers = [_layer(index, r.n_inputs, r.n_outputs, r.connections, r.precision) for index, r in enumerate(rows)]
    return {**_network(rows), "layers": layers}


def _device(path: Path) -> Description:
    from edgerl.profiling.budgets.device import load_device

    device = load_device(path)
    return {
        "kind": "device profile",
        "id": device.id,
        "name": device.name,
        "device_kind": device.kind,
        "core": f"{device.cpu.core_count.value:g} × {device.cpu.core}, {device.cpu.clock_mhz.value:g} MHz",
        "runtimes": [runtime.name for runtime in device.runtimes if runtime.available],
        "budgets": {name: budget["value"] for name, budget in asdict(device.budgets).items()},
    }


def _replay(path: Path) -> Description:
    from edgerl.edge.continual.replay import Replay

    replay = Replay.open_recorded(path, 0)
    try:
        return {
            "kind": "replay",
            "bytes": path.stat().st_size,
            "n_observations": replay.n_observations,
            "n_actions": replay.n_actions,
            "capacity": replay.capacity,
            "slack": replay.slack,
        }
    finally:
        replay.close()


_READERS: dict[str, Callable[[Path], Description]] = {
    **dict.fromkeys(OURS, _tensor_file),
    ONNX: _onnx,
    TOML: _device,
    REPLAY: _replay,
}
"""By what a file is; where that is not seen, by how its name ends."""

_READERS_BY_SUFFIX: dict[str, Callable[[Path], Description]] = {
    ".safetensors": _tensor_file,
    ".onnx": _onnx,
    ".toml": _device,
    ".bin": _replay,
}


def _size(data: bytes) -> Description:
    return {"bytes": len(data), "sha256": sha256(data).hexdigest()}


def _network(layers: tuple[LayerRow, ...]) -> Description:
    from edgerl.policy.cell import architecture

    connections, positions = sum(r.connections for r in layers), sum(r.positions for r in layers)
    return {
        "architecture": architecture(layers),
        "connections": connections,
        "sparsity": 1 - connections / positions,
    }


def _layer(index: int, n_inputs: int, n_outputs: int, connections: int, precision: str) -> Description:
    return {
        "layer": index,
        "inputs": n_inputs,
        "outputs": n_outputs,
        "connections": connections,
        "density": connections / (n_inputs * n_outputs),
        "precision": precision,
    }
