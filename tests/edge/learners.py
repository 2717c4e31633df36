"""Small learners for tests, made without a run: configurations, bundles, and what happens to a robot."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgerl.edge.continual import bundle
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.engine.arena import NORM_BATCH, LearnerArena
from edgerl.edge.engine.library import CROSSQ, LayerPlanStructure, LearnerConfig, ReplayStructure, library
from edgerl.files.tensors import write_tensors

Array = npt.NDArray[Any]

N, M = 3, 2
"""Observations and actions."""

LOW, HIGH = np.array([-1, -3], np.float32), np.array([2, 0.5], np.float32)
"""Bounds of the actions, no two alike."""

TD3 = 0
"""EDGERL_TD3."""

DEFAULT_ALGORITHM = TD3
"""For whoever names none: a test sets it for what it calls."""

KINDS = [Boundary.CONTINUES] * 12 + [Boundary.TERMINATED, Boundary.TRUNCATED, Boundary.GAP]


class Step(NamedTuple):
    """A transition, the action in [−1, 1]."""

    observation: Array
    action: Array
    reward: float
    following: Array
    boundary: Boundary


def steps(count: int, seed: int = 0, n: int = N, m: int = M) -> list[Step]:
    """Transitions of numbers that float32 holds exactly, with every kind of boundary."""
    draw = np.random.default_rng(seed)
    return [
        Step(
            draw.normal(size=n).astype(np.float32),
            draw.uniform(-1, 1, m).astype(np.float32),
            int(draw.integers(-16, 17)) / 8,
            draw.normal(size=n).astype(np.float32),
            KINDS[draw.integers(len(KINDS))],
        )
        for _ in range(count)
    ]


def engine_rows(memory: ReplayStructure, row_bytes: int) -> list[bytes]:
    """All rows in the order in which the engine numbers them, read the way it does."""
    size = min(memory.count, memory.capacity)
    slots = [(memory.count - size + index) % memory.room for index in range(size)]
    return [ctypes.string_at(memory.rows + slot * memory.stride, row_bytes) for slot in slots]


def plan(n_inputs: int, n_outputs: int, block: int, percent: int) -> LayerPlanStructure:
    """A layer with a share of all blocks, but no fewer than one of each width."""
    full_rows, narrow_width = divmod(n_outputs, block)
    full = max(full_rows * n_inputs * percent // 100, full_rows > 0)
    narrow = max(n_inputs * percent // 100, 1) if narrow_width else 0
    return LayerPlanStructure(n_inputs, n_outputs, block, full, narrow)


def learner_config(
    n: int = N,
    m: int = M,
    widths: Sequence[int] = (9, 6),
    block: int = 1,
    percent: int = 50,
    learning_rate: float = 3e-3,
    **fields: Any,
) -> LearnerConfig:
    """For this machine; sparse hidden layers, dense outputs; `fields` of LearnerConfig."""
    loaded = library()
    isa = loaded.isa()
    defaults = {
        "seed": 7, "evolution_interval": 5, "last_update": (1 << 64) - 1, "batch": 8, "policy_delay": 2, "n_step": 1,
        "lanes": loaded.lanes(isa), "isa": isa, "discount": 0.9, "soft_update": 0.05, "first_moment_decay": 0.9,
        "target_noise": 0.2, "target_noise_clip": 0.5, "drop_fraction": 0.3, "algorithm": DEFAULT_ALGORITHM,
    }  # fmt: skip
    config = LearnerConfig(n_observations=n, n_actions=m, **defaults | fields)
    if config.is_stochastic:
        config.target_entropy = -m
    for network, first, last in ((config.actor, n, 2 * m if config.is_stochastic else m), (config.critic, n + m, 1)):
        network.learning_rate, network.n_layers, network.evolves = learning_rate, len(widths) + 1, 1
        network.norm = NORM_BATCH if config.algorithm == CROSSQ else 0
        inputs = [first, *widths]
        for index, outputs in enumerate((*widths, last)):
            dense = index == len(widths)
            network.layers[index] = plan(inputs[index], outputs, block, 100 if dense else percent)
    return config


def seed_rows(transitions: Sequence[Step], *, half: bool = False) -> Array:
    """As a bundle has them, uint8 [count, bytes]; half: in fp16, not standardised."""
    rows = []
    for t in transitions:
        numbers = np.concatenate([t.observation, t.action, t.following]).astype(np.float16 if half else np.float32)
        padding = b"\0\0" * (half and len(numbers) % 2)
        rows.append(numbers.tobytes() + padding + np.array([t.reward, t.boundary], np.float32).tobytes())
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1) if rows else np.zeros((0, 1), np.uint8)


def write_bundle(
    path: Path = Path("learner.safetensors"),
    config: LearnerConfig | None = None,
    *,
    precision: str = "fp32",
    keep: str = "ring",
    memory: int = 1 << 17,
    seed: Sequence[Step] = (),
    normalise: bool = False,
    offset: Sequence[float] | None = None,
    noise: float = 0.1,
    **metadata: Any,
) -> Path:
    """A bundle of a learner that knows nothing yet, as docs/format.md describes it."""
    config = learner_config() if config is None else config
    n, m = config.n_observations, config.n_actions
    tensors: dict[str, Any] = {
        "state": LearnerArena(library(), config).state,
        "action.low": np.resize(LOW, m),
        "action.high": np.resize(HIGH, m),
    }
    if seed:
        tensors["seed"] = seed_rows(seed, half=precision == "fp16")
    if normalise:
        tensors |= {"observation.mean": np.linspace(-1, 1, n, dtype=np.float32)}
        tensors |= {"observation.scale": np.linspace(0.5, 2, n, dtype=np.float32)}
    if precision == "fp16":
        tensors |= {"storage.mean": np.zeros(n, np.float32), "storage.scale": np.ones(n, np.float32)}
    if offset is not None:
        tensors["observation.offset"] = np.array(offset, np.float64)
    described = {
        "about": {"environment": "none"},
        "exploration_noise": noise,
        "replay": {"precision": precision, "keep": keep, "memory_bytes": memory},
        "largest_reward": 0.0,
    }
    write_tensors(path, bundle.KIND, 1 if offset is None else 2, described | metadata, tensors)
    return path
