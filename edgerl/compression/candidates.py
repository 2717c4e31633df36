"""Smaller policies, each priced by a device's budgets and screened by its actions; nothing here runs an environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.runtimes import RuntimeName
from edgerl.errors import DeviceError
from edgerl.policy.compact import PRECISIONS, CompactPolicy, Precision
from edgerl.policy.loss import ActionDifference, action_difference
from edgerl.policy.pruning import Affine, functions_of, network_of, with_network
from edgerl.policy.reduction import reductions, unit_actions
from edgerl.profiling.budgets.device import Device
from edgerl.profiling.budgets.report import ProfileReport, profile

Array = npt.NDArray[Any]

LARGEST_DIFFERENCE = 0.25
"""Of the action range, root mean square: policies that differ more are not evaluated."""

UNIT_SPAN = 2.0
"""Of actions in shares of half their range."""

NEWEST = 3
"""The newest third of the recorded observations is most like what the policy will meet: every second of them screens.
All others fit weights, since policies fitted to only the newest fail as soon as one step leads them astray."""


@dataclass(frozen=True)
class Candidate:
    """A policy, its costs on a device, and how far its actions are from the reference's."""

    policy: CompactPolicy
    report: ProfileReport  # with the best runtime for it
    difference: ActionDifference

    @property
    def n_bytes(self) -> int:
        """Of the model, in the form that the runtime reads."""
        return self.report.model_bytes

    @property
    def latency_us(self) -> float:
        """The estimate for the device."""
        return self.report.latency.used

    @property
    def precision(self) -> Precision:
        """How its weights are stored."""
        return self.policy.layers[0].precision


def usable_runtimes(device: Device) -> list[RuntimeName]:
    """The runtimes that are available there. Raises DeviceError where none is."""
    available = [runtime.name for runtime in device.runtimes if runtime.available]
    if not available:
        raise DeviceError(f"no runtime is available on {device.id}; see edgerl devices show {device.id}")
    return available


def best_report(policy: CompactPolicy, device: Device, runtimes: Sequence[RuntimeName]) -> ProfileReport:
    """With the best runtime: one that meets the budgets, then the fewest bytes, then the fastest."""
    reports = [profile(policy, device, runtime=runtime) for runtime in runtimes]
    return min(reports, key=lambda report: (not report.fits, report.model_bytes, report.latency.used))


def find_candidates(
    reference: CompactPolicy, observations: Array, device: Device, progress: Callable[[float], None]
) -> list[Candidate]:
    """The reference first, then smaller policies, in every precision that can hold their weights.

    observations: recorded ones, [count, n], the newest last. progress: called with the share that is done, in [0, 1].
    """
    runtimes, block = usable_runtimes(device), reference.layers[0].block
    inputs = reference.normalised(observations)
    screening = screening_rows(len(inputs))
    functions = functions_of(reference)
    expected = unit_actions(network_of(reference), inputs[screening], functions)

    def candidate(policy: CompactPolicy) -> Candidate:
        unit = unit_actions(network_of(policy), inputs[screening], functions)
        difference = action_difference(expected, unit, UNIT_SPAN)
        return Candidate(policy, best_report(policy, device, runtimes), difference)

    candidates = [candidate(policy) for policy in in_every_precision(reference, network_of(reference))]
    for path, whole_units in enumerate((True, False)):
        paths = reductions(network_of(reference), inputs[~screening], block, functions, whole_units=whole_units)
        for network in paths:
            smaller = [candidate(policy) for policy in in_every_precision(reference, network)]
            candidates += smaller
            difference = min(each.difference.root_mean_square for each in smaller)
            removed = 1 - smaller[0].policy.connections / reference.connections
            progress((path + min(max(difference / LARGEST_DIFFERENCE, removed), 1)) / 2)
            if difference > LARGEST_DIFFERENCE:
                break
    return candidates


def screening_rows(count: int) -> Array:
    """Which of `count` recorded observations screen, bool."""
    index = np.arange(count)
    rows: Array = (index % 2 == 1) & (index >= count - count // NEWEST)
    return rows


def in_every_precision(reference: CompactPolicy, network: Sequence[Affine]) -> list[CompactPolicy]:
    """The policy with this network; without fp16 where a weight is beyond its range."""
    half = np.finfo(np.float16).max
    is_within = all(np.abs(weight).max(initial=0) <= half for weight, _ in network)
    return [with_network(reference, network, precision) for precision in PRECISIONS if precision != "fp16" or is_within]
