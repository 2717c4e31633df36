"""Whether a policy's actions are the ones that an environment takes, and what to do where they are not.

Actions of edgerl's own policies are in their environment's units, within its bounds. Those of another program's are
often in [−1, 1] whatever the environment, or without bounds, to be clipped: the numbers do not tell which of the two.
So bounds are compared, and where they differ, the caller must say:

    scale    the policy's range, [−1, 1] where its file tells none, is stretched to the environment's bounds
    clip     the numbers are the environment's own; what is beyond its bounds is cut to them

In an environment of [−1, 1] both are one, and a policy whose file tells no bounds is clipped there.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from edgerl.edge.acting.terms import Contracted, TermPolicy
from edgerl.errors import ConfigError, UnsupportedModelError, quoted
from edgerl.policy.compact import Array
from edgerl.policy.contract import Contract, check_joints

ActionMode = Literal["scale", "clip"]
ACTION_MODES: tuple[ActionMode, ...] = get_args(ActionMode)


Bounds = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class Bounded(Protocol):
    """What states the bounds of its actions, or none."""

    @property
    def action_low(self) -> Array | None: ...

    @property
    def action_high(self) -> Array | None: ...


class Playable(Contracted, Protocol):
    """A policy that knows how long an observation is."""

    @property
    def n_observations(self) -> int: ...


class Task(Protocol):
    """What a policy must suit; bounds are float32 [m], joints in the order of the actions, none where it names none."""

    name: str
    n_observations: int
    n_actions: int
    action_low: Array
    action_high: Array
    joint_names: tuple[str, ...]


class AdaptedPolicy:
    """A policy whose actions [m] were made those of a task; `mode` says how."""

    def __init__(self, policy: Playable, task: Task, mode: ActionMode) -> None:
        self.mode = mode
        self.n_observations, self.n_actions = policy.n_observations, policy.n_actions
        self.observation_dtype, self.contract = policy.observation_dtype, policy.contract
        self.action_low, self.action_high = task.action_low, task.action_high
        self._policy = policy
        unit: Bounds = -np.ones(self.n_actions), np.ones(self.n_actions)
        self._own_low, self._own_high = _bounds(policy) or unit

    def __call__(self, observation: Array) -> Array:
        """The action [m], float32, within the task's bounds; NaN where the policy's is."""
        action = np.asarray(self._policy(observation), np.float64)
        if self.mode == "scale":
            share = (action - self._own_low) / (self._own_high - self._own_low)
            action = self.action_low + share * (self.action_high.astype(np.float64) - self.action_low)
        within: Array = np.clip(action, self.action_low, self.action_high).astype(np.float32)
        return within

    def reset(self) -> None:
        """An episode begins."""
        self._policy.reset()

    @property
    def restorable_state(self) -> Any:
        """The policy's own."""
        return self._policy.restorable_state

    @restorable_state.setter
    def restorable_state(self, kept: Any) -> None:
        self._policy.restorable_state = kept


def adapted(policy: Playable, task: Task, mode: ActionMode | None, name: str = "the policy") -> Playable:
    """The policy with the task's actions, of the task's observations; `name` is for messages.

    It is the policy itself where bounds agree. Where the task gives single steps, and the policy's contract says what
    its observations are made of, they are made of these.

    Raises ConfigError for an unknown mode, and where the task has the contract's joints in another order;
    UnsupportedModelError for another number of observations or actions, and where the bounds differ and no mode is
    given.
    """
    if mode is not None and mode not in ACTION_MODES:
        raise ConfigError(f"`actions` is {quoted(mode)}; expected {' or '.join(ACTION_MODES)}")
    n_step = sum(policy.contract.observation_terms_size)
    if policy.n_observations != task.n_observations == n_step:
        policy = TermPolicy(policy)
    has, needs = (policy.n_observations, policy.n_actions), (task.n_observations, task.n_actions)
    if has != needs:
        steps = f" (or steps of {n_step})" if n_step else ""
        raise UnsupportedModelError(
            f"{name} maps {has[0]} observations{steps} to {has[1]} actions; {task.name} has {needs[0]} and {needs[1]}; "
            "name its own with `env`"
        )
    check_order(policy.contract, task)
    if has_bounds_of(policy, task):
        return policy
    if mode is None and (_bounds(policy) is not None or not _is_unit(task)):
        raise UnsupportedModelError(
            f"{name} {described_misfit(policy, task)}; say `actions` scale where they are to be stretched to that, or "
            "`actions` clip where they are in its units"
        )
    return AdaptedPolicy(policy, task, mode or "clip")


def check_order(contract: Contract, task: Task) -> None:
    """Raises ConfigError where the task has the contract's joints in another order, or one more; what calls all of them
    otherwise cannot be compared."""
    if not set(contract.joint_names).isdisjoint(task.joint_names):
        check_joints(contract, task.joint_names, task.name)


def has_bounds_of(policy: Bounded, task: Task) -> bool:
    """Whether the policy states the task's bounds, but for a rounding."""
    own, wanted = _bounds(policy), (task.action_low, task.action_high)
    return own is not None and all(are_same_bounds(*pair) for pair in zip(wanted, own, strict=True))


def described_misfit(policy: Bounded, task: Task) -> str:
    """What the policy's actions are, and the task's; of the first that differs."""
    own, wanted = _bounds(policy), (task.action_low, task.action_high)
    if own is None:
        return f"does not tell the bounds of its actions, and {task.name} takes {_range(wanted, 0)}"
    differ = [~np.isclose(*pair, rtol=1e-6) for pair in zip(wanted, own, strict=True)]
    first = int(np.argmax(differ[0] | differ[1]))
    return f"gives {_range(own, first)}, and {task.name} takes {_range(wanted, first)}"


def are_same_bounds(stated: Any, own: Array) -> bool:
    """Whether the bounds that an environment states are a policy's, but for a rounding."""
    try:
        flat = np.asarray(stated, np.float64).reshape(-1)
    except (TypeError, ValueError):
        return False
    return flat.shape == own.shape and bool(np.allclose(flat, own, rtol=1e-6))


def _is_unit(task: Task) -> bool:
    ones = np.ones(task.n_actions)
    return are_same_bounds(task.action_low, -ones) and are_same_bounds(task.action_high, ones)


def _bounds(policy: Bounded) -> Bounds | None:
    low, high = policy.action_low, policy.action_high
    return None if low is None or high is None else (low, high)


def _range(bounds: Bounds, index: int) -> str:
    low, high = bounds
    which = "" if np.ptp(low) == 0 and np.ptp(high) == 0 else f"number {index} "
    return f"actions {which}from {low[index]:g} to {high[index]:g}"
