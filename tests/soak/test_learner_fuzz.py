"""Hostile bundles and snapshots: each is refused with one line, or gives a learner that acts within its bounds, learns,
and keeps what it learnt. Never another exception, a warning, a hang, or memory beyond the plan.

100 000 mutations where EDGERL_SOAK is 1, in the ordinary run 2500, a fifth of them of snapshots; checksums are right,
so that they reach the checks behind it. The engine's own state, under sanitizers:
tests/edge/engine/test_learner_build.py.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.trials import TrialRule
from edgerl.errors import EdgerlError, FileFormatError
from edgerl.files.disk import Disk
from edgerl.files.tensors import TensorReader, pack_tensors
from tests.edge.learners import Step, learner_config, steps, write_bundle

from .test_fuzz import ODD_VALUES, _mutate_json, _mutate_tensors

SHARE = float(os.environ.get("EDGERL_SOAK", "0.1"))
MUTATIONS = round((100_000 if SHARE >= 1 else 25_000) * SHARE)
LONGEST_SECONDS = 5.0
"""Of processor time."""
LARGEST_BYTES = 256 << 20
SEED = 20220526

BUNDLE, STATE = Path("learner.safetensors"), Path("state")
RULE = TrialRule(every=2, window_steps=8, recent=3, least=2)

Random = np.random.Generator
Content = tuple[dict[str, Any], dict[str, Any]]
"""Metadata and tensors of a file."""

BUNDLES: list[dict[str, Any]] = [
    {"config": learner_config(n=2, m=1, widths=(5, 3), batch=2, evolution_interval=2)},
    {"config": learner_config(n=2, m=1, widths=(6, 3), block=4, batch=2, evolution_interval=2), "normalise": True},
    {
        "config": learner_config(n=2, m=1, widths=(3, 5), block=4, batch=2, evolution_interval=2, growth=1, n_step=3),
        "precision": "fp16",
    },
    {
        "config": learner_config(n=2, m=1, widths=(5, 3), percent=100, batch=2),
        "precision": "fp16",
        "keep": "reservoir",
        "normalise": True,
    },
]


class _SmallDisk(Disk):
    """Waits for nothing, and has room for a MiB."""

    def reserve(self, descriptor: int, size: int) -> None:
        if size > 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().reserve(descriptor, size)

    def sync(self, descriptor: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def _content(path: Path, kind: str) -> Content:
    with TensorReader(path, kind, 1) as reader:
        metadata = {name: v for name, v in reader.metadata.items() if name not in ("kind", "version", "sha256")}
        return metadata, {name: reader.read(name) for name in reader.shapes}


def _put(path: Path, data: bytes) -> None:
    """Into a file that may exist: faster than making it again."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def _transition(learner: Learner, index: int) -> Step:
    return steps(1, index % 50, learner.n_observations, learner.n_actions)[0]


def _use(learner: Learner) -> None:
    """What loads must work: actions within bounds, transitions, updates, a snapshot and a start from there."""
    for index in range(7):
        step = _transition(learner, index)
        for x in (step.observation, step.observation * 1e30):
            action = learner.act(x)
            assert (action >= learner.action_low).all()
            assert (action <= learner.action_high).all()
        assert learner.observe(step.observation, action, step.reward, step.following, terminated=index % 3 == 2)
    completed = [learner.update() for _ in range(3)]
    assert all(completed) or learner.challenger.arena.config.batch > 7
    json.dumps(learner.status(), allow_nan=False)
    learner.policy()


@contextmanager
def _bounded(what: str) -> Iterator[None]:
    """Nothing but EdgerlError, in one line; not for long; not with much memory."""
    began, before = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except EdgerlError as error:
        if "\n" in str(error) or len(str(error)) > 1000:
            pytest.fail(f"{what}: not one line of reasonable length: {error}")
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert time.thread_time() - began < LONGEST_SECONDS, what
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < LARGEST_BYTES, what


def _mutate_state(rng: Random, tensors: dict[str, Any]) -> None:
    """Bytes of the engine's state: mostly of its header, whose configuration everything follows from."""
    found = tensors.get("state", np.zeros(0, np.uint8))
    if found.dtype != np.uint8 or found.ndim != 1 or len(found) < 640:
        return  # another mutation came before
    state = tensors["state"] = found.copy()
    for _ in range(rng.integers(1, 3)):
        where = int(rng.integers(640 if rng.random() < 0.6 else len(state)))
        if rng.random() < 0.5:
            state[where] ^= 1 << int(rng.integers(8))
        else:
            where -= where % 4
            odd = [0, 1, 2, 3, 4, 8, 16, 64, 255, 65535, 65536, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
            numbers = np.array([1.0, -1.0, 1e38, np.nan, np.inf, 1e-40], np.float32).view(np.uint32).tolist()
            value = np.array([rng.choice(odd + numbers)], np.uint32).view(np.uint8)
            state[where : where + 4] = value[: len(state) - where]


def _mutate_constants(rng: Random, tensors: dict[str, Any]) -> None:
    """Single numbers of the small tensors, and of the seed."""
    names = sorted(name for name, tensor in tensors.items() if name != "state" and tensor.size)
    if not names:
        return
    name = str(rng.choice(names))
    tensor = tensors[name] = tensors[name].copy()
    if tensor.dtype == np.uint8:
        rows = tensor.reshape(-1)
        where = int(rng.integers(len(rows))) // 2 * 2
        rows[where : where + 2] = np.array([rng.choice([0, 0x7BFF, 0x7C00, 0x7E00, 0x3F80, 0x4040])], "u2").view("u1")
        return
    odd = np.array([0, -0.0, 1, -1, 1e-45, 1e-31, 1e-29, 1e29, 1e31, 3.4e38, -3.4e38, np.nan, np.inf], np.float32)
    with np.errstate(all="ignore"):  # another mutation may have changed its type
        tensor.reshape(-1)[rng.integers(tensor.size)] = rng.choice(odd).astype(tensor.dtype)


def _mutated(rng: Random, content: Content, kind: str) -> bytes:
    metadata, tensors = content[0], dict(content[1])
    for _ in range(rng.integers(1, 3)):
        chance = rng.random()
        if chance < 0.4:
            _mutate_state(rng, tensors)
        elif chance < 0.6:
            _mutate_constants(rng, tensors)
        elif chance < 0.7 and tensors:
            _mutate_tensors(rng, tensors)
        else:
            metadata = _mutate_json(rng, json.loads(json.dumps(metadata)))
            metadata = metadata if isinstance(metadata, dict) else {"champion": 1}
    try:
        return pack_tensors(kind, 1, metadata, tensors)
    except (ValueError, TypeError):  # an odd value that JSON cannot hold
        return pack_tensors(kind, 1, {}, tensors)


@pytest.mark.soak
def test_bundles() -> None:
    valid = [
        _content(write_bundle(seed=steps(4, n=2, m=1), memory=40_000, **options), "learner") for options in BUNDLES
    ]
    loaded, count = 0, MUTATIONS * 4 // 5
    for case in range(count):
        rng = np.random.default_rng([SEED, 0, case])
        _put(BUNDLE, _mutated(rng, valid[case % len(valid)], "learner"))
        is_kept, is_whole = case % 16 == 0, True
        with _bounded(f"bundle {case}"):
            options: dict[str, Any] = {"state": STATE, "disk": _SmallDisk()} if is_kept else {}
            with closing(Learner.load(BUNDLE, rule=RULE, **options)) as learner:
                _use(learner)
                loaded += 1
                if is_kept:
                    learner.snapshot()
            if is_kept:
                is_whole = False
                with closing(Learner.load(STATE, rule=RULE, disk=_SmallDisk())) as learner:
                    _use(learner)
                    is_whole = True
        assert is_whole, f"bundle {case}: what was kept is not valid"
        shutil.rmtree(STATE, ignore_errors=True) if is_kept else None
    assert 0.1 * count < loaded < 0.9 * count, "some mutations are harmless, some are not"


@pytest.mark.soak
def test_snapshots() -> None:
    """In a folder with the log; as the newest, of which the champion is an older one, and as that champion."""
    options = BUNDLES[1]
    write_bundle(memory=40_000, **options)
    with closing(Learner.load(BUNDLE, state=STATE, rule=RULE)) as learner:
        _use(learner)
        learner.snapshot()
    names = ["snapshot-00000001.safetensors", "snapshot-00000002.safetensors"]
    whole = {path.name: path.read_bytes() for path in STATE.iterdir()}
    contents = [_content(STATE / name, "snapshot") for name in names]
    loaded, count = 0, MUTATIONS // 5
    for case in range(count):
        rng = np.random.default_rng([SEED, 1, case])
        which = int(rng.random() < 0.7)
        for name, data in whole.items():
            _put(STATE / name, data)
        _put(STATE / names[which], _mutated(rng, contents[which], "snapshot"))
        with _bounded(f"snapshot {case}"), closing(Learner.load(STATE, rule=RULE, disk=_SmallDisk())) as learner:
            _use(learner)
            learner.snapshot()
            loaded += 1
        for path in set(STATE.iterdir()) - {STATE / name for name in whole}:
            path.unlink()
    assert 0.1 * count < loaded < 0.95 * count, "some mutations are harmless, some are not"


def _sizes(path: Path) -> list[int]:
    """Where the header and each tensor ends, a byte before and after, and places in between."""
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    described = json.loads(data[8:header])
    ends = [header, *(header + e["data_offsets"][1] for name, e in described.items() if name != "__metadata__")]
    near = {end + step for end in ends for step in (-1, 0, 1)}
    return sorted(size for size in {0, 1, 7, 8, 9, *near, *range(0, len(data), 397)} if size < len(data))


@pytest.mark.parametrize("options", BUNDLES, ids=range(len(BUNDLES)))
def test_a_bundle_that_was_cut_short_is_refused(options: dict[str, Any]) -> None:
    write_bundle(seed=steps(4, n=2, m=1), memory=40_000, **options)
    data = BUNDLE.read_bytes()
    for size in _sizes(BUNDLE):
        BUNDLE.write_bytes(data[:size])
        said = "is not an edgerl tensor file|has been altered|is empty|is a safetensors file"
        with pytest.raises(FileFormatError, match=rf"^learner\.safetensors ({said})[^\n]*$"):
            Learner.load(BUNDLE)
    BUNDLE.write_bytes(data)
    with closing(Learner.load(BUNDLE)) as learner:
        _use(learner)


_CHANGES: list[Callable[[Random, dict[str, Any]], None]] = [_mutate_state, _mutate_constants]


def test_the_mutations_change_something() -> None:
    """And leave what they were given as it was."""
    _, tensors = _content(write_bundle(seed=steps(4, n=2, m=1), **BUNDLES[1]), "learner")
    before = {name: tensor.tobytes() for name, tensor in tensors.items()}
    for mutate in _CHANGES:
        changed = 0
        for case in range(50):
            mutate(np.random.default_rng(case), mutated := dict(tensors))
            changed += {name: tensor.tobytes() for name, tensor in mutated.items()} != before
        assert changed > 30
        assert {name: tensor.tobytes() for name, tensor in tensors.items()} == before
    assert len(ODD_VALUES) > 30
