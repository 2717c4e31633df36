"""A policy in an .onnx file, run by onnxruntime with the options that suit one small network (docs/onnx.md).

A file is checked before onnxruntime sees it: no external data, no other format inside, and no operator but the
exporter's own where it says that edgerl wrote it. Then its interface and its metadata are, and the example that an
export carries must be reproduced on this very machine. A file from elsewhere remains a program, which onnxruntime
executes: it can loop for ever or fill the memory, so run only those you trust.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import local
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.acting.terms import TermPolicy
from edgerl.errors import FileFormatError, UnsupportedModelError, require
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import ONNX, refuse_other_kinds
from edgerl.files.strict_json import parse_json
from edgerl.policy.compact import MAXIMUM_UNITS, Array, refuse_lost_digits
from edgerl.policy.contract import Contract, check_sizes, of_onnx

METADATA_KEY = "edgerl"
"""The one key of an export's metadata; its value is a JSON object (docs/onnx.md)."""

EXAMPLE_TOLERANCE = 1e-4
"""Of the action range. Ten times what an export is held to on the workstation: another CPU rounds differently."""

SESSION_OPTIONS = {
    "session.intra_op.allow_spinning": "0",
    "session.disable_quant_qdq": "1",  # unfold int8 weights once at load, not at every call: 10 instead of 25 µs
}

FATAL = 4
"""onnxruntime's highest severity. What matters arrives as an exception; a second copy on stderr does not help."""


Tensor = tuple[str, tuple[int, int], type[np.floating[Any]]]
"""Name, shape and type."""

State = tuple[str, str, tuple[int, ...]]
"""A part of the state: names of its input and of its output, and their shape."""


class OnnxPolicy:
    """observation [n] → action [m], in the environment's own units. Threads may share a policy.

    A recurrent one, whose file has inputs such as h_in and outputs such as h_out besides, has a state in each thread,
    which each call moves on and `reset` puts back to zero: call that when an episode begins. For an observation that is
    not finite its action is NaN, and the state stays as it was.

    Attributes: `n_observations`, `n_actions`; `is_ours`, whether edgerl wrote the file, by its own word; `metadata`,
    what the export wrote (empty for a file from elsewhere); `contract`, what the file says of a robot; `action_low` and
    `action_high`, float32 [m], or None where the metadata does not tell; `observation_dtype`, float32, or float64 where
    the file subtracts an offset first.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises FileFormatError unless `path` is a whole model, UnsupportedModelError unless it maps [n] to [m]."""
        source = Path(path)
        data = read_bytes(source)
        self.is_ours = refuse_unsafe(data, source)
        self._session = _session(data, source)
        try:
            (input_name, self.n_observations), (output_name, self.n_actions), states = _interface(
                self._session, source, may_be_double=self.is_ours
            )
            is_double = self._session.get_inputs()[0].type == "tensor(double)"
            properties = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"{source} has been altered: a name in it is not UTF-8; make the file again"
            ) from error
        self.metadata = parse_metadata(properties, self.n_observations, self.n_actions, source)
        self.contract = _contract(properties, self.n_observations, self.n_actions, source)
        bounds = self.metadata.get("action")
        self.action_low: Array | None = np.array(bounds["low"], np.float32) if bounds else None
        self.action_high: Array | None = np.array(bounds["high"], np.float32) if bounds else None
        self.observation_dtype: type[np.floating[Any]] = np.float64 if is_double else np.float32
        self._own = _Buffers(
            self._session,
            (input_name, (1, self.n_observations), self.observation_dtype),
            (output_name, (1, self.n_actions), np.float32),
            states,
        )
        self._reproduce_example(source)

    def __call__(self, observation: npt.ArrayLike) -> Array:
        """The action [m] for `observation` [n]; raises ValueError for another length, or where digits are lost."""
        if np.shape(observation) != (self.n_observations,):
            raise ValueError(f"the observation has shape {np.shape(observation)}; expected ({self.n_observations},)")
        if self.observation_dtype is np.float64:
            refuse_lost_digits(np.asarray(observation))
        given, action, binding, states = self._own.parts
        given[0] = observation
        if states and not np.isfinite(given).all():  # onnxruntime's cells make numbers of NaN
            return np.full(self.n_actions, np.nan, np.float32)
        self._session.run_with_iobinding(binding)
        if states and all(np.isfinite(after).all() for _, after in states):
            for before, after in states:
                before[...] = after
        acted: Array = action[0].copy()
        return acted

    def of_terms(self) -> TermPolicy:
        """The policy for single steps as they were measured, which it clips, scales and stacks as its contract says.

        Raises UnsupportedModelError where the contract does not say how large the terms are.
        """
        return TermPolicy(self)

    def reset(self) -> None:
        """An episode begins in this thread: a recurrent policy forgets what it saw."""
        for before, _ in self._own.parts[3]:
            before[...] = 0

    @property
    def restorable_state(self) -> list[Array]:
        """What this thread's calls left of earlier observations, to be put back: copies, none unless recurrent."""
        return [before.copy() for before, _ in self._own.parts[3]]

    @restorable_state.setter
    def restorable_state(self, kept: Sequence[Array]) -> None:
        for (before, _), array in zip(self._own.parts[3], kept, strict=True):
            before[...] = array

    def _reproduce_example(self, source: Path) -> None:
        """Run the example pair, or zeros: a model that cannot run fails here, not in the control loop."""
        example = self.metadata.get("example")
        observation = np.zeros(self.n_observations, self.observation_dtype)
        if example:
            observation[:] = example["observation"]
        try:
            action = self(observation)
            self.reset()
        except Exception as error:  # onnxruntime has no common base for its own
            raise FileFormatError(f"{source} cannot be run by onnxruntime ({_reason(error)})") from error
        if example:
            expected = np.array(example["action"])
            span: Any = np.maximum(np.abs(expected), 1)  # of actions without bounds
            if self.action_low is not None and self.action_high is not None:
                span = self.action_high.astype(np.float64) - self.action_low
            difference = np.max(np.abs(action - expected) / span)
            if not difference <= EXAMPLE_TOLERANCE:
                raise FileFormatError(
                    f"{source} does not reproduce its own example action: it differs by {difference:.2g} of the range, "
                    f"expected at most {EXAMPLE_TOLERANCE:g}; the file was altered, export it again"
                )


class _Buffers(local):
    """What a call reads and writes, one for each thread: Python calls `__init__` again at a thread's first use.

    `parts`: the observation [1, n], the action [1, m], the binding of onnxruntime to both, which spares a call a
    dictionary and two allocations (2 of 10 µs), and each part of the state before and after a call.
    """

    parts: tuple[Array, Array, Any, list[tuple[Array, Array]]]

    def __init__(self, session: Any, observation: Tensor, action: Tensor, states: Sequence[State]) -> None:
        """The tensors are the model's own inputs and outputs."""
        binding = session.io_binding()
        given, acted = (np.zeros(shape, dtype) for _, shape, dtype in (observation, action))
        for bind, (name, shape, dtype), buffer in (
            (binding.bind_input, observation, given),
            (binding.bind_output, action, acted),
        ):
            bind(name, "cpu", 0, dtype, shape, buffer.ctypes.data)
        buffers = [(np.zeros(shape, np.float32), np.zeros(shape, np.float32)) for _, _, shape in states]
        for (entering, leaving, sizes), (before, after) in zip(states, buffers, strict=True):
            binding.bind_input(entering, "cpu", 0, np.float32, sizes, before.ctypes.data)
            binding.bind_output(leaving, "cpu", 0, np.float32, sizes, after.ctypes.data)
        self.parts = given, acted, binding, buffers


def parse_metadata(properties: Mapping[str, str], n_observations: int, n_actions: int, source: Path) -> dict[str, Any]:
    """What an export says about itself, checked; empty where another program wrote the file."""
    if METADATA_KEY not in properties:
        return {}
    try:
        metadata = parse_json(properties[METADATA_KEY])
        action, example = metadata["action"], metadata["example"]
        _vector(example["observation"], n_observations), _vector(example["action"], n_actions)
        if action is not None and not np.all(_vector(action["low"], n_actions) < _vector(action["high"], n_actions)):
            raise ValueError("an action bound's low is not below its high")
        if not isinstance(metadata["about"], dict) or not isinstance(metadata["policy_sha256"], str):
            raise ValueError("about is not an object, or policy_sha256 not a string")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FileFormatError(f"{source} has metadata that edgerl did not write ({_reason(error)})") from error
    return dict(metadata)


def _contract(properties: Mapping[str, str], n_observations: int, n_actions: int, source: Path) -> Contract:
    contract = of_onnx(properties, source)
    try:
        check_sizes(contract, n_observations, n_actions)
    except ValueError as error:
        raise FileFormatError(f"{source} is not valid: its metadata has {error}") from error
    return contract


def _vector(values: Any, length: int) -> Array:
    if not isinstance(values, list) or len(values) != length or not all(type(v) in (int, float) for v in values):
        raise ValueError(f"expected a list of {length} numbers")
    with np.errstate(over="ignore"):
        vector = np.array(values, np.float64).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("a number is not finite")
    return vector


def _session(data: bytes, source: Path) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    # Threads that wait for each other cost more than a small network: 99.9th percentile 4.1 ms instead of 0.1 ms.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    for key, value in SESSION_OPTIONS.items():
        options.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"], enable_fallback=False)
    except Exception as error:  # onnxruntime has no common base for its own
        raise FileFormatError(
            f"{source}, with {versions(data)}, is not a model that onnxruntime {onnxruntime.__version__} can load "
            f"({_reason(error)})"
        ) from error


def _interface(
    session: Any, source: Path, *, may_be_double: bool
) -> tuple[tuple[str, int], tuple[str, int], list[State]]:
    """(name, width) of the observation and of the action, the first input and the first output: float32 [batch, width];
    float64 the input of an export with an offset. And the parts of the state, the others."""
    (observation, *before), (action, *after) = session.get_inputs(), session.get_outputs()
    states = _states(before, after)
    if states is None:
        raise UnsupportedModelError(
            f"{source} has {1 + len(before)} inputs and {1 + len(after)} outputs; expected one observation and one "
            "action, and of a recurrent policy parts of the state as inputs (h_in) and as outputs (h_out)"
        )
    for tensor in (observation, action):
        shape = tensor.shape
        types = ("tensor(float)", "tensor(double)") if may_be_double and tensor is observation else ("tensor(float)",)
        fits = tensor.type in types and len(shape) == 2 and (shape[0] == 1 or not isinstance(shape[0], int))
        if not (fits and isinstance(shape[1], int) and 1 <= shape[1] <= MAXIMUM_UNITS):
            described = f"{tensor.name[:40]!r} is {tensor.type}{str(shape)[:40]}"
            raise UnsupportedModelError(
                f"{source}: {described}; expected tensor(float)[batch, 1 to {MAXIMUM_UNITS}] with batch free or 1"
            )
    return (observation.name, observation.shape[1]), (action.name, action.shape[1]), states


LARGEST_STATE = 1 << 20
"""Numbers of one part of a state."""


def _states(before: Sequence[Any], after: Sequence[Any]) -> list[State] | None:
    """The parts of the state; None where inputs and outputs are not pairs of one, as h_in and h_out are."""
    outputs, states = {tensor.name: tensor for tensor in after}, []
    for tensor in before:
        following = outputs.pop(re.sub("in$", "out", tensor.name), None)
        shape = tuple(size if isinstance(size, int) else 1 for size in tensor.shape)
        is_float = tensor.type == "tensor(float)" == getattr(following, "type", None)
        if following is None or not is_float or not 0 < math.prod(shape) <= LARGEST_STATE:
            return None
        if [size for size in following.shape if isinstance(size, int) and size != 1] != [n for n in shape if n != 1]:
            return None
        states.append((tensor.name, following.name, shape))
    return None if outputs else states


def _onnxruntime() -> ModuleType:
    if "onnxruntime" not in sys.modules:
        with _silent_native_stderr():
            return require("onnxruntime", "export")
    return require("onnxruntime", "export")


@contextmanager
def _silent_native_stderr() -> Iterator[None]:
    """Discard what native code writes to file descriptor 2.

    On a Raspberry Pi, importing onnxruntime 1.23 or later warns about a GPU, before any log level can be set
    (github.com/microsoft/onnxruntime issues 26300 and 27092). A failed import still raises.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_MESSAGES = {
    "model": {7: "graph", 8: "opset", 14: "property", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "property": {},
    "opset": {},
}
"""Where tensors are in an ONNX file, and what else is read here: message → field number → message (onnx.proto3)."""

_EXTERNAL_DATA, _DATA_LOCATION, _OPERATOR, _KEY, _VALUE = 13, 14, 4, 1, 2
_IR_VERSION, _OPSET, _OPSET_DOMAIN, _OPSET_VERSION = 1, 8, 1, 2

WRITTEN_OPERATORS = frozenset(
    {"Sub", "Mul", "Add", "Gemm", "Tanh", "Clip", "Cast", "DequantizeLinear", "ScatterElements"}  # of any policy
    | {"Relu", "LeakyRelu", "Elu", "Sigmoid", "Erf"}  # of its activations
    | {"ReduceMean", "Sqrt", "Div", "Max", "Min"}  # of norms, and of bounds
    | {"GRU", "LSTM", "Reshape", "Slice", "Concat"}  # of recurrent cells
)
"""All that edgerl's exporter writes."""

MAXIMUM_MESSAGES = 1 << 17
"""Protobuf messages that are looked at; a model of more is refused."""


def refuse_unsafe(data: bytes, source: Path) -> bool:
    """Whether edgerl wrote the model in `data`, by its own word.

    Raises UnsupportedModelError where a tensor lies in another file, which onnxruntime would read relative to the
    current folder, or where a model of ours has an operator that is not; FileFormatError where the data is not an ONNX
    model. onnx, which could tell, is not part of a device's installation: the protobuf fields are walked here.
    """
    refuse_other_kinds(data, source, "an ONNX model, as edgerl export --format onnx writes", ONNX)
    operators: set[str] = set()
    n_ours, n_messages = 0, 1
    waiting = [("model", memoryview(data))]
    try:
        while waiting:
            kind, message = waiting.pop()
            for field, content in _fields(message):
                if kind == "tensor" and field in (_EXTERNAL_DATA, _DATA_LOCATION) and content != 0:
                    raise UnsupportedModelError(
                        f"{source} keeps weights in another file; expected one file, as onnx.save with "
                        f"save_as_external_data=False makes, or a policy: edgerl import {source} --external-data"
                    )
                if kind == "node" and field == _OPERATOR and isinstance(content, memoryview):
                    operators.add(bytes(content[:40]).decode("ascii", "replace"))
                if kind == "property" and field == _KEY and isinstance(content, memoryview):
                    n_ours += bytes(content) == METADATA_KEY.encode()
                if field in _MESSAGES[kind] and isinstance(content, memoryview):
                    n_messages += 1
                    if n_messages > MAXIMUM_MESSAGES:
                        raise UnsupportedModelError(f"{source} has more than {MAXIMUM_MESSAGES} nodes and tensors")
                    waiting.append((_MESSAGES[kind][field], content))
    except (IndexError, ValueError) as error:
        raise FileFormatError(f"{source} is not an ONNX model, or is truncated; make the file again") from error
    if n_ours > 1:
        raise FileFormatError(f"{source} has the metadata {METADATA_KEY!r} twice; it was altered, export it again")
    if n_ours and not operators <= WRITTEN_OPERATORS:
        surplus = min(operators - WRITTEN_OPERATORS)
        raise UnsupportedModelError(
            f"{source} says that edgerl wrote it, but has the operator {surplus!r}; it was altered"
        )
    return bool(n_ours)


def versions(data: bytes) -> str:
    """What a runtime must know to read the model in `data`, by its own word: its IR version and its opset."""
    said = {"IR version": "none", "opset": "none"}
    for field, content in _fields(memoryview(data)):
        if field == _IR_VERSION and isinstance(content, int):
            said["IR version"] = str(content)
        if field == _OPSET and isinstance(content, memoryview):
            opset = dict(_fields(content))
            if not opset.get(_OPSET_DOMAIN):
                said["opset"] = str(opset.get(_OPSET_VERSION, "none"))[:20]
    return ", ".join(f"{name} {version}" for name, version in said.items())


def made_from(data: bytes) -> str | None:
    """The SHA-256 of the policy file that an ONNX file says, once, it was made from; else None."""
    ours = []
    try:
        for field, content in _fields(memoryview(data)):
            if _MESSAGES["model"].get(field) == "property" and isinstance(content, memoryview):
                texts = {key: bytes(text) for key, text in _fields(content) if isinstance(text, memoryview)}
                if texts.get(_KEY) == METADATA_KEY.encode():
                    ours.append(texts[_VALUE])
        return str(parse_json(ours[0])["policy_sha256"]) if len(ours) == 1 else None
    except (ValueError, KeyError, IndexError, TypeError):  # not written by edgerl
        return None


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, number or bytes) of each field of a protobuf message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        if key >= 1 << 32:
            raise ValueError("a field number that protobuf cuts off: it would be another field there")
        field, wire_type = key >> 3, key & 7
        if wire_type == 0:
            number, position = _varint(message, position)
            yield field, number
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError("a wire type that ONNX does not use")
        if position + length > len(message):
            raise ValueError("a field ends beyond its message")
        yield field, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A protobuf number of at most 64 bits at `position`, and the position behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise ValueError("a number of more than ten bytes")


LOCATION = re.compile(r"/\S+:\d+ .*?\) (?=[A-Z])")
"""Where onnxruntime's own code noticed it, with the signature of the function: before the reason, and often longer."""

LONGEST_REASON = 160
"""Characters."""


def _reason(error: BaseException) -> str:
    """Why, in the last words of an exception: onnxruntime's begin with codes, places and nodes."""
    said = LOCATION.sub("", " ".join(str(error).rpartition("[ONNXRuntimeError] : ")[2].split()))
    return (said if len(said) <= LONGEST_REASON else "… " + said[-LONGEST_REASON:]) or type(error).__name__
