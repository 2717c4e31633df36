"""The reference evaluation of a policy, against PyTorch in float64; bounds that no rounding crosses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from edgerl.policy.compact import CompactPolicy, Layer, Precision, action_scaling, make_layer
from edgerl.policy.reduction import replace_connections, replace_units
from tests.edge.compiled import compile_c
from tests.policy.policies import random_policy

FLOAT32_MAXIMUM = float(np.finfo(np.float32).max)
bounds = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(bounds, bounds)
@example(0.0, 1.401298464324817e-45)
@example(-FLOAT32_MAXIMUM, FLOAT32_MAXIMUM)
@example(-1.401298464324817e-45, FLOAT32_MAXIMUM)
@example(1e30, float(np.nextafter(np.float32(1e30), np.float32(np.inf))))
@example(-1024 - 2 * 2**-13, -1024 + 2**-13)  # centre and bound in different binades: a long way down
@example(-(2.0**100) - 2 * 2.0**77, -(2.0**100) + 2.0**77)
@settings(max_examples=1000)
def test_scaled_actions_never_leave_their_bounds(first: float, second: float) -> None:
    low, high = np.array([min(first, second)], np.float32), np.array([max(first, second)], np.float32)
    centre, half_range = action_scaling(low, high)
    assert (centre.dtype, half_range.dtype) == (np.float32, np.float32)
    assert half_range >= 0
    tanh = np.linspace(-1, 1, 33, dtype=np.float32)
    action = centre + half_range * tanh
    assert (action >= low).all()
    assert (action <= high).all()
    # And no more is lost than rounding requires: four units in the last place of the larger bound.
    lost = max(abs(float(low[0])), abs(float(high[0]))) * 2.0**-21 + 1e-44
    assert float(centre[0]) - float(half_range[0]) <= float(low[0]) + lost
    assert float(centre[0]) + float(half_range[0]) >= float(high[0]) - lost


def test_ordinary_bounds_are_reached_exactly() -> None:
    low, high = np.array([-1, -0.4, -3, 0], np.float32), np.array([1, 0.4, 0.5, 1], np.float32)
    centre, half_range = action_scaling(low, high)
    assert centre.tolist() == [0, 0, -1.25, 0.5]
    assert half_range.tolist() == [1, np.float32(0.4), 1.75, 0.5]


class _Reference(nn.Module):
    """The policy's formula by PyTorch's own modules, in float64."""

    def __init__(self, policy: CompactPolicy) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for layer in policy.layers:
            linear = nn.Linear(layer.n_inputs, layer.n_outputs, dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(_weights(layer)))
                linear.bias.copy_(torch.from_numpy(layer.bias.astype(np.float64)))
            modules += [linear, nn.ReLU()]
        modules[-1] = nn.Tanh()
        self.network = nn.Sequential(*modules)
        self.policy = policy

    def forward(self, observations: Any) -> Any:
        x = torch.from_numpy(np.asarray(observations, np.float64))
        if self.policy.observation_mean is not None:
            deviation = 1 / torch.from_numpy(self.policy.observation_scale.astype(np.float64))
            x = (x - torch.from_numpy(self.policy.observation_mean.astype(np.float64))) / deviation
        low, high = (torch.from_numpy(b.astype(np.float64)) for b in (self.policy.action_low, self.policy.action_high))
        with torch.no_grad():
            return (low + (high - low) * (self.network(x) + 1) / 2).numpy()


def _weights(layer: Layer) -> Any:
    """Block CSR unfolded with loops, from its definition."""
    if layer.columns is None:
        weight = layer.values.astype(np.float64)
    else:
        weight = np.zeros((layer.n_outputs, layer.n_inputs))
        for row in range(len(layer.row_starts) - 1):
            for slot in range(layer.row_starts[row], layer.row_starts[row + 1]):
                for lane in range(layer.block):
                    if row * layer.block + lane < layer.n_outputs:
                        weight[row * layer.block + lane, layer.columns[slot]] = layer.values[slot, lane]
    return weight if layer.scale is None else weight * layer.scale[:, None].astype(np.float64)


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 13), min_size=2, max_size=4),
    st.sampled_from([1, 4]),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.booleans(),
    st.sampled_from([0.1, 0.5, 1]),
)
def test_actions_are_pytorchs(
    seed: int, widths: list[int], block: int, precision: Precision, normalize: bool, density: float
) -> None:
    policy = random_policy(seed, tuple(widths), block, precision, normalize, density)
    observations = np.random.default_rng(seed).normal(size=(7, widths[0])).astype(np.float32) * 3
    expected = _Reference(policy)(observations)
    span = policy.action_high - policy.action_low
    assert np.abs((policy(observations, np.float64) - expected) / span).max() < 1e-6  # bounds are float32 numbers
    assert np.abs((policy(observations) - expected) / span).max() < 1e-4
    assert policy(observations).dtype == np.float32
    np.testing.assert_allclose(policy(observations[0]), policy(observations)[0], rtol=1e-5, atol=1e-5)
    assert (policy(observations) >= policy.action_low).all()
    assert (policy(observations) <= policy.action_high).all()


def test_actions_at_saturation_stay_inside_the_bounds() -> None:
    policy = random_policy(1, (3, 8, 5), normalize=False)
    for factor in (1e3, 1e10, 1e30, -1e30):
        action = policy(np.full((1, 3), factor, np.float32))
        assert (action >= policy.action_low).all()
        assert (action <= policy.action_high).all()


@given(
    st.integers(0, 2**32),
    st.integers(1, 13),
    st.integers(1, 13),
    st.sampled_from([1, 4]),
    st.sampled_from([np.float32, np.float16, np.int8]),
    st.sampled_from([0, 0.1, 0.3, 0.6, 1]),
)
def test_sparse_and_dense_storage_hold_the_same_matrix(
    seed: int, n_inputs: int, n_outputs: int, block: int, dtype: type[np.generic], density: float
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.normal(size=(n_outputs, n_inputs)) * 9 * (rng.random((n_outputs, n_inputs)) < density)).astype(dtype)
    scale = np.exp(rng.normal(size=n_outputs)).astype(np.float32) if dtype is np.int8 else None
    layer = make_layer(weight, np.zeros(n_outputs), block, scale)
    assert np.array_equal(layer.stored_matrix(), weight)
    assert layer.stored_matrix().dtype == dtype
    expected = weight.astype(np.float64) * (1 if scale is None else scale.astype(np.float64)[:, None])
    assert np.array_equal(layer.matrix(np.float64), expected)
    assert np.array_equal(_weights(layer), expected)
    assert layer.connections == np.count_nonzero(weight)
    blocks = sum(weight[r : r + block, c].any() for r in range(0, n_outputs, block) for c in range(n_inputs))
    item = np.dtype(dtype).itemsize
    sparse_bytes = blocks * (block * item + 2) + 4 * (-(-n_outputs // block) + 1)
    assert layer.is_sparse == (sparse_bytes < weight.nbytes)
    others = 4 * n_outputs * (1 if scale is None else 2)
    assert layer.n_bytes == min(sparse_bytes, weight.nbytes) + others


def test_properties() -> None:
    policy = random_policy(2, (4, 10, 3), block=4, precision="int8")
    assert (policy.n_observations, policy.n_actions, policy.architecture) == (4, 3, "4-10-3")
    assert [layer.precision for layer in policy.layers] == ["int8", "int8"]
    assert policy.connections == sum(np.count_nonzero(layer.stored_matrix()) for layer in policy.layers)


def test_the_example_pair_is_the_policys_own() -> None:
    policy = random_policy(3).with_example(np.arange(5))
    assert policy.example_observation.dtype == np.float32
    np.testing.assert_allclose(policy.example_action, _Reference(policy)(np.arange(5)), rtol=1e-4)


def test_an_offset_is_subtracted_in_float64_and_the_rest_is_float32() -> None:
    policy = random_policy(6, (3, 8, 2), offset=True)
    offset, plain = policy.observation_offset, policy.without_offset
    assert offset is not None
    given = offset + np.random.default_rng(0).normal(size=(20, 3))
    seen = (given.astype(np.longdouble) - offset).astype(np.float32)
    assert np.array_equal(policy(given), plain(seen))
    np.testing.assert_allclose(policy(given, np.float64), _Reference(plain)(seen), atol=1e-6)
    assert np.array_equal(policy.observation_of(seen)[0], offset + seen[0].astype(np.float64))
    # Its example is as it is given; what is seen of it is the other's.
    assert policy.example_observation.dtype == np.float64
    assert np.array_equal(policy(policy.example_observation), policy.example_action)
    assert np.array_equal(plain(plain.example_observation), policy.example_action)
    assert np.array_equal(policy(np.rint(given).astype(np.int64)), policy(np.rint(given))), "whole numbers are exact"
    with pytest.raises(
        ValueError, match=r"the observation is float32; expected float64, since the policy has an offset"
    ):
        policy(seen)
    assert random_policy(6).without_offset.observation_offset is None


def test_a_policy_that_replaces_another_does_not_share_its_matrices() -> None:
    policy = random_policy(4, (2, 2), normalize=False)
    policy(np.ones(2))
    changed = replace(policy, layers=(make_layer(np.zeros((2, 2), np.float32), np.zeros(2), 1),))
    np.testing.assert_allclose(changed(np.ones(2)), (policy.action_low + policy.action_high) / 2, rtol=1e-5)


def test_observations_of_the_wrong_length_do_not_pass() -> None:
    with pytest.raises(ValueError, match=r"operands could not be broadcast"):
        random_policy(5)(np.zeros(4))


@pytest.fixture(scope="module")
def leave_on_the_stack(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], object]:
    """Leave signalling NaNs on the stack, which what is called next finds where it has written nothing."""
    folder = tmp_path_factory.mktemp("stack")
    (folder / "stack.c").write_text(
        "void leave(void) { volatile unsigned a[32768]; for (int i = 0; i < 32768; i++) a[i] = 0x7fa00000; }\n"
    )
    compile_c("gcc", "-shared", "-fPIC", folder / "stack.c", "-o", folder / "stack.so")
    leave: Callable[[], object] = ctypes.CDLL(str(folder / "stack.so")).leave
    return leave


@pytest.mark.parametrize("width", range(1, 33))
def test_what_lies_on_the_stack_is_no_warning(width: int, leave_on_the_stack: Callable[[], object]) -> None:
    """OpenBLAS for AVX-512 computes with it where a vector has five numbers, and drops what comes of it."""
    policy = random_policy(0, (width, width, 7))
    expected = policy(policy.example_observation, np.float64)
    leave_on_the_stack()
    assert policy(policy.example_observation) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    network = [(layer.matrix(), layer.bias) for layer in policy.layers]
    constants, gone = np.ones(width, np.float32), np.ones((7, width), bool)
    leave_on_the_stack()
    (_, (_, with_units)) = replace_units(network, 0, gone[0], constants)
    leave_on_the_stack()
    (_, (_, with_connections)) = replace_connections(network, 1, gone, constants)
    summed = network[1][1] + network[1][0].astype(np.float64).sum(axis=1)
    assert with_units == pytest.approx(summed, rel=1e-5, abs=1e-5)
    assert with_connections == pytest.approx(summed, rel=1e-5, abs=1e-5)


def test_an_observation_that_is_not_finite_warns_of_nothing() -> None:
    """The actions say so themselves."""
    policy = random_policy(0, (4, 8, 2), density=1)
    assert np.isnan(policy(np.array([np.inf, -np.inf, 0, 0], np.float32))).all()
