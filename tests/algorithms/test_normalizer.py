"""The running mean and variance against numpy's over all that was seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.algorithms.normalizer import Normalizer


def _observed(observations: np.ndarray) -> Normalizer:
    normalizer = Normalizer(observations.shape[1])
    for observation in observations:
        normalizer.observe(observation)
    return normalizer


@given(st.integers(0, 2**32), st.integers(2, 200), st.floats(-3, 3), st.floats(-1e3, 1e3))
def test_mean_and_scale_are_numpys(seed: int, count: int, exponent: float, offset: float) -> None:
    rng = np.random.default_rng(seed)
    observations = (rng.normal(size=(count, 4)) * 10**exponent + offset).astype(np.float32)
    normalizer = _observed(observations)
    exact = observations.astype(np.float64)
    np.testing.assert_allclose(normalizer.mean, exact.mean(axis=0), rtol=1e-6, atol=1e-6 * 10**exponent)
    deviation = exact.std(axis=0)
    clear = deviation > 2e-6
    np.testing.assert_allclose(normalizer.scale[clear], 1 / deviation[clear], rtol=1e-5)
    assert (normalizer.mean.dtype, normalizer.scale.dtype) == (np.float32, np.float32)
    normalised = normalizer(observations)
    assert normalised.dtype == np.float32
    expected = (observations - normalizer.mean)[:, clear] / deviation[clear]
    np.testing.assert_allclose(normalised[:, clear], expected, rtol=1e-4, atol=1e-4)


def test_a_large_offset_costs_no_precision() -> None:
    """Where Σx² − (Σx)² / n would be left with nothing."""
    observations = 1e8 + np.arange(1000.0)[:, None]
    np.testing.assert_allclose(_observed(observations).scale, 1 / observations.std(axis=0), rtol=1e-6)


def test_a_sensor_that_never_moved_keeps_its_unit() -> None:
    assert Normalizer(2).scale.tolist() == [1, 1]
    assert Normalizer(2)(np.array([3, -4], np.float32)).tolist() == [3, -4]
    normalizer = _observed(np.array([[5, 1], [5, 3]], np.float32))
    assert normalizer.mean.tolist() == [5, 2]
    assert normalizer.scale.tolist() == [1, 1]
    assert normalizer(np.array([6, 3], np.float32)).tolist() == [1, 1]
    barely = _observed(np.array([[0], [1e-9]]))
    assert barely.scale.tolist() == [1]


@given(st.integers(0, 2**32), st.integers(0, 20))
def test_a_restored_normaliser_goes_on_bit_for_bit(seed: int, split: int) -> None:
    observations = np.random.default_rng(seed).normal(size=(30, 3)).astype(np.float32)
    whole, first, second = Normalizer(3), _observed(observations[:split]), Normalizer(3)
    second.load_state(first.state())
    for observation in observations[:split]:
        whole.observe(observation)
    for observation in observations[split:]:
        whole.observe(observation)
        second.observe(observation)
    assert whole.count == second.count == 30
    assert whole.mean.tobytes() == second.mean.tobytes()
    assert whole.scale.tobytes() == second.scale.tobytes()


def test_a_state_is_a_copy() -> None:
    normalizer = _observed(np.ones((2, 3)))
    state = normalizer.state()
    other = Normalizer(3)
    other.load_state(state)
    for array in state.values():
        array[...] = 9
    assert normalizer.mean.tolist() == other.mean.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("mean", np.zeros(4), "do not fit"),
        ("squares", np.zeros((3, 1)), "do not fit"),
        ("count", np.zeros(1, np.int64), "do not fit"),
        ("count", np.array(2.0), "do not fit"),
        ("mean", np.zeros(3, np.float32), "do not fit"),
        ("more", np.zeros(3), "do not fit"),
        ("mean", None, "do not fit"),
        ("count", np.array(-1, np.int64), "out of range"),
        ("mean", np.array([0, np.nan, 0]), "out of range"),
        ("mean", np.array([0, np.inf, 0]), "out of range"),
        ("squares", np.array([0, np.inf, 0]), "out of range"),
        ("squares", np.array([0, 0, -1.0]), "out of range"),
    ],
)
def test_a_state_that_is_refused(name: str, value: np.ndarray | None, problem: str) -> None:
    normalizer = _observed(np.eye(3))
    before = normalizer.state()
    state = {**before, name: value}
    if value is None:
        del state[name]
    with pytest.raises(ValueError, match=f"the normaliser's arrays .*{problem}"):
        normalizer.load_state(state)
    assert all(np.array_equal(normalizer.state()[key], array) for key, array in before.items())
