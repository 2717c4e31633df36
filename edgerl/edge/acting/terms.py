"""A policy that is given single steps, as they were measured, where its contract says what it takes is made of them."""

from __future__ import annotations

from threading import local
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgerl.policy.compact import Array
from edgerl.policy.contract import Contract
from edgerl.policy.terms import terms_of


class Contracted(Protocol):
    """A policy that knows its contract: observation [n] → action [m]; `reset` where an episode begins;
    `restorable_state`, to put back what a call leaves behind."""

    restorable_state: Any

    contract: Contract

    @property
    def n_actions(self) -> int: ...

    @property
    def action_low(self) -> Array | None: ...

    @property
    def action_high(self) -> Array | None: ...

    @property
    def observation_dtype(self) -> type[np.floating[Any]]: ...

    def __call__(self, observation: Array) -> Array: ...

    def reset(self) -> None: ...


class TermPolicy:
    """The terms of one step [k] → action [m]: clipped, scaled and stacked as the contract says (edgerl.policy.terms).

    Each thread has a history of its own, which a call moves on and `reset` empties: call that when an episode begins. A
    step that is not finite makes every action NaN, and leaves the history as it was.
    """

    def __init__(self, policy: Contracted) -> None:
        """Raises UnsupportedModelError where the contract does not say how large the terms are."""
        self.contract = policy.contract
        self._terms = terms_of(policy.contract)
        self.n_observations, self.n_actions = self._terms.n_step, policy.n_actions
        self.action_low, self.action_high = policy.action_low, policy.action_high
        self.observation_dtype = policy.observation_dtype
        self._policy, self._own = policy, _History()

    def __call__(self, observation: npt.ArrayLike) -> Array:
        """The action [m] for the step `observation` [k]; raises ValueError for another length."""
        if np.shape(observation) != (self.n_observations,):
            raise ValueError(f"the step has shape {np.shape(observation)}; expected ({self.n_observations},)")
        measured = np.asarray(observation, self.observation_dtype)
        step = self._terms.scaled(measured)
        if not (np.isfinite(measured) & np.isfinite(step)).all():
            return np.full(self.n_actions, np.nan, np.float32)
        self._own.stack = self._terms.stacked(step, self._own.stack)
        return self._policy(self._own.stack)

    def reset(self) -> None:
        """An episode begins in this thread."""
        self._own.stack = None
        self._policy.reset()

    @property
    def restorable_state(self) -> tuple[Array | None, Any]:
        """What this thread's calls left of earlier steps, to be put back: the history, and the policy's own state."""
        return self._own.stack, self._policy.restorable_state

    @restorable_state.setter
    def restorable_state(self, kept: tuple[Array | None, Any]) -> None:
        self._own.stack, self._policy.restorable_state = kept


class _History(local):
    """What the policy was given last [n]; one for each thread."""

    stack: Array | None = None
