"""Smaller policies, each priced by a device's budgets and screened by its actions, before any episode is played."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.runtimes import RuntimeName
from edgerl.environments.make import Environment
from edgerl.errors import DeviceError
from edgerl.policy.compact import CompactPolicy, Precision
from edgerl.policy.loss import ActionDifference, action_difference
from edgerl.policy.pruning import OUTLIERS, Affine, functions_of, network_of, storage_of, stored, with_network
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
class Form:
    """How the weights of a candidate are stored; outliers: the share of them that stays exact."""

    precision: Precision
    outliers: float = 0.0

    @property
    def is_finetuned(self) -> bool:
        """Whether weights are trained in this form before a return is measured, in states that they then lead to."""
        return self.outliers > 0

    def __str__(self) -> str:
        """For people."""
        outliers = ", outliers" if self.outliers else ""
        return f"{self.precision}{outliers}{', fine-tuned' if self.is_finetuned else ''}"


FORMS = (
    Form("fp32"),
    Form("fp16"),
    Form("int8"),
    Form("int8", OUTLIERS["int8"]),
    Form("int4", OUTLIERS["int4"]),
)


@dataclass(frozen=True)
class Candidate:
    """A policy, its costs on a device, how far its actions are from the reference's, and how it was made."""

    policy: CompactPolicy
    report: ProfileReport  # with the best runtime for it
    difference: ActionDifference
    method: str  # for people, as in "fewer units"
    form: Form
    start: CompactPolicy  # its network in fp32
    is_student: bool = False

    @property
    def n_bytes(self) -> int:
        """Of the model, in the form that the runtime reads."""
        return self.report.model_bytes

    @property
    def latency_us(self) -> float:
        """The estimate for the device."""
        return self.report.latency.used


def usable_runtimes(device: Device) -> list[RuntimeName]:
    """The runtimes that are available there. Raises DeviceError where none is."""
    available = [runtime.name for runtime in device.runtimes if runtime.available]
    if not available:
        raise DeviceError(f"no runtime is available on {device.id}; see edgerl devices show {device.id}")
    return available


@dataclass(frozen=True)
class Target:
    """A device, and the budgets that are given in place of its own, by the names that `profile` has for them."""

    device: Device
    budgets: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def runtimes(self) -> list[RuntimeName]:
        """Those that are available."""
        return usable_runtimes(self.device)

    def price(self, policy: CompactPolicy) -> ProfileReport:
        """With the best runtime: one that meets the budgets, then the fewest bytes, then the fastest."""
        reports = [profile(policy, self.device, runtime=runtime, **self.budgets) for runtime in self.runtimes]
        return min(reports, key=lambda report: (not report.fits, report.model_bytes, report.latency.used))


@dataclass(frozen=True)
class Screening:
    """What candidates are held against: a target, and what the reference does for recorded observations.

    observations: [count, n], the newest last, less the policy's offset.
    """

    reference: CompactPolicy
    observations: Array
    target: Target

    @cached_property
    def _rows(self) -> Array:
        return screening_rows(len(self.observations))

    @cached_property
    def _expected(self) -> Array:
        return self._actions(self.reference)

    def _actions(self, policy: CompactPolicy) -> Array:
        inputs = policy.normalised(self.observations[self._rows])
        return unit_actions(network_of(policy), inputs, functions_of(policy))

    def _difference(self, policy: CompactPolicy) -> ActionDifference:
        return action_difference(self._expected, self._actions(policy), UNIT_SPAN)

    def candidates(
        self, start: CompactPolicy, network: Sequence[Affine], method: str, *, is_student: bool = False
    ) -> list[Candidate]:
        """`start` with this network, in every form that can hold its weights."""
        plain = with_network(start, network, "fp32")
        return [
            Candidate(policy, self.target.price(policy), self._difference(policy), method, form, plain, is_student)
            for form, policy in in_every_form(plain)
        ]

    def reduced(self, progress: Callable[[float], None]) -> list[Candidate]:
        """The reference first, then what is left of it with fewer and fewer units and connections.

        progress: called with the share that is done, in [0, 1].
        """
        reference, network = self.reference, network_of(self.reference)
        fitting, functions = reference.normalised(self.observations[~self._rows]), functions_of(reference)
        found = self.candidates(reference, network, "as trained")
        for number, method in enumerate(("fewer units", "fewer connections")):
            block, whole_units = reference.layers[0].block, method == "fewer units"
            for smaller in reductions(network, fitting, block, functions, whole_units=whole_units):
                step = self.candidates(reference, smaller, method)
                found += step
                difference = min(each.difference.root_mean_square for each in step)
                removed = 1 - step[0].policy.connections / reference.connections
                progress((number + min(max(difference / LARGEST_DIFFERENCE, removed), 1)) / 2)
                if difference > LARGEST_DIFFERENCE:
                    break
        return found

    def finetuned(self, candidate: Candidate, environment: Environment) -> Candidate:
        """The candidate as its return is measured: fine-tuned, where its form wants that, and priced again."""
        if not candidate.form.is_finetuned:
            return candidate
        from edgerl.compression.finetune import finetune

        storage = storage_of(network_of(candidate.start), candidate.form.precision, candidate.form.outliers)
        policy = finetune(self.reference, candidate.start, storage, self.observations, environment)
        report, difference = self.target.price(policy), self._difference(policy)
        return replace(candidate, policy=policy, report=report, difference=difference)


def screening_rows(count: int) -> Array:
    """Which of `count` recorded observations screen, bool."""
    index = np.arange(count)
    rows: Array = (index % 2 == 1) & (index >= count - count // NEWEST)
    return rows


def in_every_form(policy: CompactPolicy) -> Iterator[tuple[Form, CompactPolicy]]:
    """A policy of fp32 in each form; without fp16 where a weight is beyond its range, and without int4 where no layer
    lies between the first and the last."""
    network, half = network_of(policy), np.finfo(np.float16).max
    unfit = set[Precision]()
    if any(np.abs(weight).max(initial=0) > half for weight, _ in network):
        unfit.add("fp16")
    if len(network) < 3:
        unfit.add("int4")
    for form in FORMS:
        if form.precision not in unfit:
            yield form, stored(policy, network, storage_of(network, form.precision, form.outliers))
