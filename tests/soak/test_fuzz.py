"""Mutated files: each is refused with one line, or holds something that works; never another exception, a hang, or
memory that the file's size does not explain.

20 000 mutations times EDGERL_SOAK (default 0.1), spread over policies, checkpoints and replay memories. Half of those
of a tensor file come with a checksum that is right, so that they reach the checks behind it.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.td3 import TD3
from edgerl.config import make_config
from edgerl.edge.continual.replay import HEADER_BYTES, MAGIC, Boundary, Replay
from edgerl.errors import FileFormatError
from edgerl.files.tensors import pack_tensors, unpack_tensors
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.checkpoint import Checkpoint, Counters, Returns
from tests.policy.policies import random_policy

MUTATIONS = round(20_000 * float(os.environ.get("EDGERL_SOAK", "0.1")))
LONGEST_SECONDS = 5.0
"""Of processor time."""
LARGEST_BYTES = 512 << 20
SEED = 20220526

Random = np.random.Generator

ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 4, 5, 64, 255, 65535, 65536, 65537, 2**31, 2**32 - 1, 2**53, 2**63, 2**64,
    10**30, 10**400, 0.0, -0.0, 0.5, 1.0, 4.0, 1e-320, 1e308, "", "a", "4", "dense", "sparse", "fp16", "int8", "NaN",
    "\x00\n\x1b", "\ud800", "é" * 50, [], {}, [[]], {"": None}, [1, 2], [0] * 70,
]  # fmt: skip


def _mutate_bytes(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """Flipped bits, a truncation, or a piece of this or another file put anywhere."""
    kind, changed = rng.integers(5), bytearray(data)
    # Half of the positions are where the text is: padding and weights are long.
    positions = rng.integers(len(data), size=8) if rng.random() < 0.5 else rng.integers(min(len(data), 900), size=8)
    if kind <= 1:
        for position in positions[: rng.integers(1, 9)]:
            changed[position] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del changed[positions[0] :]
    else:
        other = others[rng.integers(len(others))]
        begin, length = rng.integers(len(other)), rng.integers(1, 1 << rng.integers(1, 13))
        removed = length if kind == 3 else rng.integers(0, 40)
        changed[positions[0] : positions[0] + removed] = other[begin : begin + length]
    return bytes(changed)


def _mutate_json(rng: Random, value: Any) -> Any:
    """The value with one node replaced, removed, doubled or added."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, kind = keys[rng.integers(len(keys))], rng.integers(8)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.insert(key, copy.deepcopy(value[rng.integers(len(value))]))
    elif kind == 1:
        value[str(ODD_VALUES[rng.integers(20)])] = copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])
    else:
        value[key] = _mutate_json(rng, value[key])
    return value


def _mutate_tensors(rng: Random, tensors: dict[str, Any]) -> None:
    """One tensor removed, doubled, renamed, reshaped, of another type, or with other values."""
    names = sorted(tensors)
    name, kind = names[rng.integers(len(names))], rng.integers(9)
    tensor = np.array(tensors[name])
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[names[rng.integers(len(names))]] = tensor
    elif kind == 2:
        tensors[name.replace("0", "1") + "x" * int(rng.integers(2))] = tensors.pop(name)
    elif kind == 3:
        tensors[name] = tensor.reshape([(-1,), (1, *tensor.shape), (*tensor.shape, 1), (-1, 1)][rng.integers(4)])
    elif kind == 4:
        types = (np.float64, np.float32, np.float16, np.int64, np.int8, np.uint8, np.uint16, np.uint32, np.bool_)
        with np.errstate(all="ignore"):
            tensors[name] = tensor.astype(types[rng.integers(len(types))])
    elif kind == 5:
        flat = tensor.reshape(-1)
        tensors[name] = flat[: rng.integers(len(flat) + 1)] if rng.random() < 0.5 else np.concatenate([flat, flat[:1]])
    elif tensor.nbytes:
        raw = np.frombuffer(tensor.tobytes(), np.uint8).copy()
        raw[rng.integers(len(raw), size=rng.integers(1, 5))] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        if tensor.dtype == np.bool_:
            raw &= 1
        tensors[name] = raw.view(tensor.dtype).reshape(tensor.shape)


def _mutate_sealed(rng: Random, data: bytes, kind: str) -> bytes:
    """The file with other metadata or tensors, and a checksum that is right."""
    metadata, unpacked = unpack_tensors(data, Path("valid"), kind, 1)
    tensors: dict[str, Any] = dict(unpacked)
    described = {key: value for key, value in metadata.items() if key not in ("kind", "version", "sha256")}
    for _ in range(rng.integers(1, 3)):
        if rng.random() < 0.5 and tensors:
            _mutate_tensors(rng, tensors)
        else:
            described = _mutate_json(rng, described)
            if not isinstance(described, dict):
                described = {}
    return pack_tensors(kind, 1, described, tensors)


@contextmanager
def _bounded(what: str) -> Iterator[None]:
    """Nothing but FileFormatError, in one line; not for long; not with much memory."""
    began, before = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with np.errstate(all="ignore"):  # weights of 1e38 overflow: no error of the reader
            yield
    except FileFormatError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            pytest.fail(f"{what}: not one line of reasonable length: {error}")
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert time.thread_time() - began < LONGEST_SECONDS, what
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < LARGEST_BYTES, what


def _use(policy: CompactPolicy) -> None:
    """What loads must work."""
    for dtype in (np.float32, np.float64):
        action = policy(np.stack([policy.example_observation, np.ones(policy.n_observations)]), dtype)
        assert action.shape == (2, policy.n_actions)
    action = action[np.isfinite(action)]
    assert len(action) == 0 or policy.action_low.min() - 1e-3 <= action.min() * (1 + 1e-6)
    assert policy_file.from_bytes(policy_file.to_bytes(policy), Path("again")).architecture == policy.architecture


def _policies() -> list[bytes]:
    shapes: list[Any] = [
        (1, "fp32", True),
        (4, "fp32", False),
        (4, "int8", True),
        (1, "fp16", False),
        (1, "int8", False),
    ]
    return [
        policy_file.to_bytes(random_policy(seed, (5, 9, 7, 3), *shape, density=0.3))
        for seed, shape in enumerate(shapes)
    ]


@pytest.mark.soak
def test_policies() -> None:
    valid, count = _policies(), MUTATIONS // 2
    loaded = 0
    for case in range(count):
        rng = np.random.default_rng([SEED, 0, case])
        data = valid[rng.integers(len(valid))]
        mutated = _mutate_sealed(rng, data, "policy") if case % 2 else _mutate_bytes(rng, data, valid)
        with _bounded(f"policy {case}"):
            policy = policy_file.from_bytes(mutated, Path("p.safetensors"))
            _use(policy)
            loaded += 1
    assert 0 < loaded < count / 2, "some mutations are harmless, most are not"


class _Trained:
    """A checkpoint with everything in it, and what takes it up."""

    def __init__(self) -> None:
        config = make_config("quick", environment="robots:robot", hidden=(6, 5), sparsity=0.4, normalize=True)
        self.agent, self.normalizer = TD3(config, 4, 2), Normalizer(4)
        self.normalizer.observe(np.arange(4))
        tensors = self.agent.state() | {f"normalizer.{n}": array for n, array in self.normalizer.state().items()}
        policy = random_policy(0, (4, 6, 5, 2))
        checkpoint = Checkpoint(config, Counters(5, 1, 5, 1, 0.5), policy, Returns(-1.5, -1.0), tensors)
        path = Path("valid.safetensors")
        checkpoint_file.write(path, checkpoint)
        self.data = path.read_bytes()
        self.take_up(path)

    def take_up(self, path: Path) -> None:
        checkpoint = checkpoint_file.read(path)
        _use(checkpoint.policy)
        own = {n: a for n, a in checkpoint.tensors.items() if not n.startswith("normalizer.")}
        rest = {n.removeprefix("normalizer."): a for n, a in checkpoint.tensors.items() if n not in own}
        try:
            self.agent.load_state(own)
            self.normalizer.load_state(rest)
        except ValueError as error:  # what the training loop turns into a FileFormatError
            raise FileFormatError(str(error)) from error


@pytest.mark.soak
def test_checkpoints() -> None:
    trained, count = _Trained(), MUTATIONS * 3 // 10
    others, path, loaded = [trained.data, *_policies()], Path("c.safetensors"), 0
    for case in range(count):
        rng = np.random.default_rng([SEED, 1, case])
        if case % 2:
            path.write_bytes(_mutate_sealed(rng, trained.data, "checkpoint"))
        else:
            path.write_bytes(_mutate_bytes(rng, trained.data, others))
        with _bounded(f"checkpoint {case}"):
            trained.take_up(path)
            loaded += 1
    assert 0 < loaded < count / 2, "some mutations are harmless, most are not"


def _replay_file() -> bytes:
    path = Path("valid.bin")
    with closing(Replay(path, 3, 2, 5, slack=2)) as replay:
        for index in range(9):
            replay.append(np.ones(3) * index, np.ones(2), 1.0, np.ones(3), Boundary(index % 4))
    return path.read_bytes()


def _mutate_replay(rng: Random, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return _mutate_bytes(rng, data, [data])
    header = _mutate_json(rng, json.loads(data[len(MAGIC) : HEADER_BYTES].rstrip(b"\0")))
    text = json.dumps(header).encode()
    body = data[HEADER_BYTES:]
    if isinstance(header, dict) and rng.random() < 0.3:  # as long as it says
        sizes = [header.get(name) for name in ("observations", "actions", "capacity", "slack")]
        if all(type(size) is int and 0 <= size < 1000 for size in sizes):
            body = rng.bytes((sizes[2] + sizes[3]) * (2 * sizes[0] + sizes[1] + 2) * 4)
    return (MAGIC + text).ljust(HEADER_BYTES, b"\0") + body


def _use_recorded(path: Path, count: int) -> None:
    with closing(Replay.open_recorded(path, count)) as replay:
        if replay.size:
            indices = np.array([0, replay.size // 2, replay.size - 1])
            assert replay.observations(indices).shape == (3, replay.n_observations)
            assert replay.sample(indices, 0.9, 3).actions.shape == (3, replay.n_actions)


def _use_own(path: Path, count: int) -> None:
    with closing(Replay(path, 3, 2, 5, slack=2, count=count)) as replay:
        replay.append(np.ones(3), np.ones(2), 1.0, np.ones(3), Boundary.TRUNCATED)
        assert replay.observations(np.array([replay.size - 1])).tolist() == [[1, 1, 1]]


@pytest.mark.soak
@pytest.mark.parametrize("use", [_use_recorded, _use_own])
def test_replay_memories(use: Callable[[Path, int], None]) -> None:
    valid, path, loaded, count = _replay_file(), Path("r.bin"), 0, MUTATIONS // 10
    for case in range(count):
        rng = np.random.default_rng([SEED, 2, case])
        path.write_bytes(_mutate_replay(rng, valid))
        with _bounded(f"replay {case}"):
            use(path, int(rng.choice([0, 1, 4, 9, 2**53])))
            loaded += 1
    assert 0 < loaded < count * 0.7, "some mutations are harmless, most are not"
