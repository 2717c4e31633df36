"""Candidates: what is priced, with which runtime, and what screening measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgerl.compression.candidates import (
    LARGEST_DIFFERENCE,
    best_report,
    find_candidates,
    in_every_precision,
    usable_runtimes,
)
from edgerl.errors import DeviceError
from edgerl.export.c import Options
from edgerl.export.c.source import Provenance, generate
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.profiling.budgets.device import find_device
from edgerl.profiling.budgets.report import profile
from tests.policy.policies import Array, random_policy


def _policy(block: int = 1) -> CompactPolicy:
    return random_policy(0, (5, 24, 20, 3), block, density=0.6)


def _observations(count: int = 300) -> Array:
    return np.random.default_rng(1).normal(size=(count, 5)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 4])
def test_candidates_begin_with_the_reference_and_get_small(block: int) -> None:
    policy, shares = _policy(block), []
    found = find_candidates(policy, _observations(), find_device("stm32f405"), shares.append)
    assert found[0].difference.largest == 0
    assert found[0].policy.connections == policy.connections
    assert {candidate.precision for candidate in found} == {"fp32", "fp16", "int8"}
    assert min(candidate.policy.connections for candidate in found) < policy.connections / 2
    assert all(0 <= share <= 1 for share in shares)
    assert shares[-1] > 0.9
    assert max(candidate.difference.root_mean_square for candidate in found[:-6]) < 2 * LARGEST_DIFFERENCE


def test_a_candidate_is_what_its_policy_file_is() -> None:
    """Difference and price follow from the policy itself, evaluated by its own code."""
    policy, observations, device = _policy(), _observations(), find_device("stm32f405")
    found = find_candidates(policy, observations, device, lambda _share: None)
    shown = observations[201::2]  # every second of the newest third
    ranges = policy.action_high - policy.action_low
    for candidate in found[::17]:
        difference = (candidate.policy(shown) - policy(shown)) / ranges
        assert candidate.difference.root_mean_square == pytest.approx(np.sqrt(np.mean(difference**2)), abs=1e-6)
        assert candidate.difference.largest == pytest.approx(np.abs(difference).max(), abs=1e-6)
        report = profile(candidate.policy, device)
        assert candidate.report == report
        written = generate(candidate.policy, options=Options(target="cortex-m4"), provenance=Provenance("0" * 64))
        assert candidate.n_bytes == written.flash_bytes
        assert np.array_equal(candidate.policy.example_action, candidate.policy(policy.example_observation))


def test_a_weight_beyond_fp16_leaves_that_precision_out() -> None:
    weight = np.array([[1e5, 1]], np.float32)
    policy = CompactPolicy((make_layer(weight, np.zeros(1), 1),), -np.ones(1, np.float32), np.ones(1, np.float32))
    policy = policy.with_example(np.zeros(2, np.float32))
    stored = in_every_precision(policy, [(weight, np.zeros(1, np.float32))])
    assert [each.layers[0].precision for each in stored] == ["fp32", "int8"]


def test_a_single_layer_has_its_precisions_alone() -> None:
    policy = random_policy(3, (5, 3))
    found = find_candidates(policy, _observations(), find_device("stm32f405"), lambda _share: None)
    assert [candidate.precision for candidate in found] == ["fp32", "fp16", "int8"]


def test_every_runtime_that_a_device_has_is_tried() -> None:
    assert usable_runtimes(find_device("raspberry-pi-zero-2w")) == ["onnxruntime", "native", "c"]
    assert usable_runtimes(find_device("stm32f405")) == ["c"]
    device = find_device("stm32f405")
    none = replace(device, runtimes=tuple(replace(runtime, available=False) for runtime in device.runtimes))
    with pytest.raises(DeviceError, match="no runtime is available on stm32f405; see edgerl devices show stm32f405"):
        usable_runtimes(none)


def test_the_best_runtime_fits_first_then_has_the_fewest_bytes() -> None:
    device, policy = find_device("raspberry-pi-zero-2w"), _policy()
    native, onnxruntime = (profile(policy, device, runtime=name) for name in ("native", "onnxruntime"))
    assert native.model_bytes < onnxruntime.model_bytes
    assert best_report(policy, device, ["onnxruntime", "native"]).runtime == "native"
    small = replace(device.budgets.memory_bytes, value=native.memory.used - 1)
    assert (
        best_report(
            policy, replace(device, budgets=replace(device.budgets, memory_bytes=small)), ["onnxruntime", "native"]
        ).runtime
        == "native"
    ), "neither fits"
