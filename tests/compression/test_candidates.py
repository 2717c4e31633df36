"""Candidates: what is priced, with which runtime, and what screening measures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgerl.compression.candidates import (
    LARGEST_DIFFERENCE,
    Candidate,
    Screening,
    Target,
    in_every_form,
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


def _found(policy: CompactPolicy, device: str = "stm32f405", shares: list[float] | None = None) -> list[Candidate]:
    screening = Screening(policy, _observations(), Target(find_device(device)))
    return screening.reduced([].append if shares is None else shares.append)


@pytest.mark.parametrize("block", [1, 4])
def test_candidates_begin_with_the_reference_and_get_small(block: int) -> None:
    policy, shares = _policy(block), list[float]()
    found = _found(policy, shares=shares)
    assert found[0].difference.largest == 0
    assert found[0].policy.connections == policy.connections
    weights = {"fp32", "fp16", "int8", "int8, outliers, fine-tuned", "int4, outliers, fine-tuned"}
    assert {str(candidate.form) for candidate in found} == weights
    assert {candidate.method for candidate in found} == {"as trained", "fewer units", "fewer connections"}
    assert min(candidate.policy.connections for candidate in found) < policy.connections / 2
    assert all(0 <= share <= 1 for share in shares)
    assert shares[-1] > 0.9
    assert max(candidate.difference.root_mean_square for candidate in found[:-10]) < 2 * LARGEST_DIFFERENCE


def test_a_candidate_is_what_its_policy_file_is() -> None:
    """Difference and price follow from the policy itself, evaluated by its own code."""
    policy, observations, device = _policy(), _observations(), find_device("stm32f405")
    found = _found(policy)
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
    assert [form.precision for form, _ in in_every_form(policy)] == ["fp32", "int8", "int8"]


def test_a_single_layer_has_its_precisions_alone() -> None:
    policy = random_policy(3, (5, 3))
    assert [candidate.form.precision for candidate in _found(policy)] == ["fp32", "fp16", "int8", "int8"]


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
    chosen = Target(device).price(policy)
    assert chosen.model_bytes == min(
        profile(policy, device, runtime=name).model_bytes for name in usable_runtimes(device)
    )
    limit = int(native.memory.used) - 1  # only C takes less
    priced = Target(device, {"budget_memory_bytes": limit}).price(policy)
    assert (priced.runtime, priced.fits, priced.memory.budget) == ("c", True, limit)
    assert not Target(device, {"budget_memory_bytes": 1}).price(policy).fits
