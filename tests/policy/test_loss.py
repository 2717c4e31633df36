"""The one measure of a lossy step: by arithmetic, over observations that are always the same."""

from __future__ import annotations

import numpy as np
import pytest

from edgerl.policy.loss import action_difference, action_span, sampled_observations

from .policies import random_policy


def test_a_difference_is_in_shares_of_each_actions_range() -> None:
    before, after = np.array([[0, 10], [1, 10], [2, 10]], np.float32), np.array([[0, 10], [1, 12], [1, 10]], np.float32)
    found = action_difference(before, after, np.array([4, 20.0]))
    assert found.largest == 0.25
    assert found.root_mean_square == pytest.approx(np.sqrt((0.1**2 + 0.25**2) / 6))
    assert (found.observations, found.observed) == (3, "recorded")


@pytest.mark.parametrize("offset", [False, True])
def test_sampled_observations_are_as_wide_as_the_policy_expects(offset: bool) -> None:
    policy = random_policy(0, offset=offset)
    found = sampled_observations(policy)
    assert found.shape == (1001, policy.n_observations)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, sampled_observations(policy))
    np.testing.assert_array_equal(found[0], policy.without_offset.example_observation)
    assert policy.observation_mean is not None
    assert policy.observation_scale is not None
    normalised = (found[1:] - policy.observation_mean) * policy.observation_scale
    np.testing.assert_allclose(normalised.std(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(normalised.mean(axis=0), 0, atol=0.15)


def test_the_span_is_that_of_each_action() -> None:
    policy = random_policy(0)
    np.testing.assert_array_equal(action_span(policy), policy.action_high.astype(np.float64) - policy.action_low)
