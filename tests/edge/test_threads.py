"""Threads that share one callable of `edgerl.edge`: every class that has `__call__`, with `Learner.act` among them.

Of a learner, what happens while others update and keep is in test_learner.py.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgerl.edge
from edgerl.commands.export import export_policy
from edgerl.edge import Learner, OnnxPolicy, Policy
from edgerl.edge.acting.actions import AdaptedPolicy
from edgerl.edge.acting.terms import TermPolicy
from edgerl.edge.continual.champion import Champion
from edgerl.edge.continual.session import LearnerPolicy
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import library
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.contract import Contract
from tests.edge.learners import HIGH, LOW, N, learner_config, write_bundle

Array = npt.NDArray[Any]

THREADS, CALLS = 4, 5000


@pytest.fixture(autouse=True)
def threads_that_change_often() -> Iterator[None]:
    """As often as Python can: it lets one run for 5 ms otherwise, hundreds of calls."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def compact_policy(n_observations: int = N) -> CompactPolicy:
    rng = np.random.default_rng(0)
    layers = tuple(
        make_layer(rng.normal(size=(m, n)).astype(np.float32), rng.normal(size=m).astype(np.float32), 1)
        for n, m in ((n_observations, 64), (64, len(LOW)))
    )
    return CompactPolicy(layers, LOW, HIGH)


def onnx_policy(folder: Path) -> OnnxPolicy:
    return OnnxPolicy(export_policy(compact_policy(), "onnx", folder / "policy.onnx").path)


def champion(_: Path) -> Champion:
    return Champion(library(), LearnerArena(library(), learner_config()), (LOW, HIGH), (None, None))


def learner(folder: Path) -> LearnerPolicy:
    return LearnerPolicy(Learner.load(write_bundle(folder / "learner.safetensors")), explore=False)


def adapted_policy(_: Path) -> AdaptedPolicy:
    task = SimpleNamespace(name="arm", n_observations=N, n_actions=len(LOW), action_low=2 * LOW, action_high=2 * HIGH)
    return AdaptedPolicy(Policy(compact_policy()), task, "scale")


def term_policy(_: Path) -> Callable[[Array], Array]:
    """Which begins an episode before each step: another thread's step must not come into its history."""
    contract = Contract(
        observation_names=("state",), observation_terms_size=(N,), observation_terms_history_length=(2,)
    )
    policy = TermPolicy(Policy(replace(compact_policy(2 * N), contract=contract)))

    def act(step: Array) -> Array:
        policy.reset()
        return policy(step)

    return act


MAKERS: dict[type, Callable[[Path], Callable[[Array], Array]]] = {
    AdaptedPolicy: adapted_policy,
    Champion: champion,
    OnnxPolicy: onnx_policy,
    LearnerPolicy: learner,
    TermPolicy: term_policy,
    Policy: lambda _: Policy(compact_policy(), "dense"),
}


def test_no_callable_class_is_forgotten() -> None:
    names = [module.name for module in pkgutil.walk_packages(edgerl.edge.__path__, "edgerl.edge.")]
    modules = [importlib.import_module(name) for name in names if not name.rpartition(".")[2].startswith("_")]
    classes = {value for module in modules for value in vars(module).values() if inspect.isclass(value)}
    ours = {value for value in classes if value.__module__.startswith("edgerl.edge.")}
    callables = {value for value in ours if "__call__" in vars(value) and not getattr(value, "_is_protocol", False)}
    assert callables == set(MAKERS)


def wrong_actions(act: Callable[[Array], Array]) -> int:
    """How many of CALLS actions in each of THREADS threads, each with an observation of its own, are another's."""
    observations = np.random.default_rng(1).normal(size=(THREADS, N)).astype(np.float32)
    expected = [act(observation).tobytes() for observation in observations]
    assert len(set(expected)) == THREADS  # the premise: a mix-up shows
    wrong: list[int] = []
    start = threading.Barrier(THREADS)

    def run(index: int) -> None:
        start.wait()
        for _ in range(CALLS):
            wrong.extend([index] * (act(observations[index]).tobytes() != expected[index]))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(wrong)


@pytest.mark.parametrize("kind", MAKERS, ids=lambda kind: kind.__name__)
def test_threads_that_share_it_do_not_disturb_each_other(tmp_path: Path, kind: type) -> None:
    assert wrong_actions(MAKERS[kind](tmp_path)) == 0
