"""Fine-tuning of rounded weights: the student is the policy that is written, and it comes nearer to its teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgerl.compression import finetune as module
from edgerl.compression.finetune import _Student, finetune
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.compact import CompactPolicy, Head, Precision
from edgerl.policy.loss import action_difference, action_span
from edgerl.policy.pruning import network_of, storage_of, stored
from tests.policy.policies import assert_same, random_policy, torch_actions


def _wide_policy() -> CompactPolicy:
    """In each row of which one weight is much larger than the others."""
    policy = random_policy(0, (6, 32, 32, 2), density=0.8)
    for layer in policy.layers:
        layer.values[np.abs(layer.values) == np.abs(layer.values).max(axis=1, keepdims=True)] *= 8
    return policy.with_example(policy.example_observation)


def _observations(policy: CompactPolicy, seed: int, count: int = 2000) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, policy.n_observations))
    assert policy.observation_mean is not None
    assert policy.observation_scale is not None
    return (policy.observation_mean + drawn / policy.observation_scale).astype(np.float32)


@pytest.mark.parametrize("outliers", [0, 0.1])
@pytest.mark.parametrize("head", ["tanh", "clip"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_student_computes_what_its_file_does(activation: ActivationName, head: Head, outliers: float) -> None:
    start = random_policy(1, (20, 16, 10, 3), activation=activation, norm=True, head=head, clip=1.5, density=0.7)
    student = _Student(start, storage_of(network_of(start), "int8", outliers), action_span(start) / 2)
    observations = _observations(start, 0, 50)
    with torch.no_grad():
        shares = student(torch.from_numpy(start.normalised(observations))).numpy()
    expected = torch_actions(student.policy(), observations)
    np.testing.assert_allclose(shares * action_span(start) / 2, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("precision", "outliers"), [("int8", 0), ("int4", 0.1)])
def test_it_comes_nearer_to_its_teacher(precision: Precision, outliers: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 150)
    teacher = _wide_policy()
    storage = storage_of(network_of(teacher), precision, outliers)
    plain = stored(teacher, network_of(teacher), storage)
    tuned = finetune(teacher, teacher, storage, _observations(teacher, 0), None)
    others = _observations(teacher, 1)
    before, after = (
        action_difference(teacher(others), policy(others), action_span(teacher)).root_mean_square
        for policy in (plain, tuned)
    )
    assert after < 0.8 * before
    for whole, layer, way in zip(teacher.layers, tuned.layers, storage, strict=True):
        assert layer.precision == way.precision
        assert (layer.outliers is None) == (way.exact is None or not way.exact.any())
        assert not np.any(layer.matrix()[whole.matrix() == 0]), "no connection is added"
    assert_same(tuned, finetune(teacher, teacher, storage, _observations(teacher, 0), None))
