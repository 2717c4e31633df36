"""The challenger: the policy that learns, and drives in trials until it has earned to be the champion."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import numpy as np

from edgerl.edge.continual.bundle import Constants
from edgerl.edge.continual.history import History
from edgerl.edge.continual.origin import state_of
from edgerl.edge.engine.arena import LearnerArena
from edgerl.errors import EdgerlError
from edgerl.files.tensors import TensorReader
from edgerl.policy.compact import Array

STRIKES = 50
"""Updates beyond the bounds, more than those within, after which learning has diverged."""

LARGEST_ENTROPY = 20.0
"""Nats of one action, in magnitude: the engine clips the logarithm of a deviation at −20."""

LARGEST_LOG_TEMPERATURE = 88.0
"""To which the engine clips it."""

LONGEST_HORIZON = 1e4
"""Steps: 1 / (1 − discount) at most, for the bound on values."""


class Challenger:
    """The actor in the engine's arena, which restarts from the champion where learning diverged.

    It may act while an update is under way; all else needs the updates' lock.

    Attributes: `arena`; `acting`, a lock that is held while it acts, never for long; `is_sound`, whether the arena
    holds a learner that may act; until it does again, the champion drives; `is_learning`, until the champion to restart
    from could not be read; `values`, what its critics say.
    """

    def __init__(
        self,
        arena: LearnerArena,
        constants: Constants,
        history: History,
        open_champion: Callable[[], TensorReader],
    ) -> None:
        """open_champion: the file with the learner as it was when the champion was made, to be closed by the caller."""
        self.arena, self._constants, self._history, self._open_champion = arena, constants, history, open_champion
        self.acting = threading.Lock()
        self.is_sound = self.is_learning = True
        self.values = Values(arena)

    def act(self, observation: Array, noise: Array | None = None) -> Array | None:
        """The action [m] for a finite observation [n], in the robot's own units; None where it has no answer. noise:
        standard normal numbers [m], for one drawn from the distribution of a stochastic actor."""
        centre, half_range = self._constants.scaling
        normalised = self._constants.normalised(observation)
        with self.acting:
            if self.is_sound:
                unit = self.arena.act(normalised) if noise is None else self.arena.sample(normalised, noise)
                action: Array = centre + half_range * unit
                if np.isfinite(action).all():
                    return action
        return None

    def judge_update(self) -> None:
        """After an update: restart where its values show that learning diverged, or where it could not act."""
        self.values.judge(self._history.counters.largest_reward)
        if self.values.have_diverged or not self.is_sound:
            self.restart()

    def judge_numbers(self) -> None:
        """Before anything is saved: restart unless all numbers are finite. The engine ensures that, except for
        numbers that no training leads to."""
        layers = (layer for network in self.arena.layers for layer in network)
        arrays = (array for layer in layers for array in vars(layer).values() if isinstance(array, np.ndarray))
        numbers = (array for array in arrays if array.dtype == np.float32 and array.size)
        extremes = (extreme for array in numbers for extreme in (array.min(), array.max()))  # no copy is made for them
        if self.is_learning and not (self.is_sound and all(np.isfinite(extreme) for extreme in extremes)):
            self.restart()

    def restart(self) -> None:
        """Load the state in which the champion was made. Where that cannot be read, learning stops, and the champion
        drives."""
        with self.acting:
            self.is_sound = False
        self._history.restart_challenger()
        try:
            with self._open_champion() as reader:
                self.arena.load_state(state_of(reader)[1])
        except (EdgerlError, ValueError) as error:
            self.is_learning = False
            self._history.last_error = f"learning has stopped: {error}"
            return
        self.values.reset()
        self.is_sound = True


class Values:
    """What the critics say of each update: strikes for those that were abandoned, whose mean value is impossible, or
    whose error is as large.

    Attributes: `strikes`; `progress`, the engine's, after the last update; `critic_loss` and `value`, their last ones.
    """

    def __init__(self, arena: LearnerArena) -> None:
        self._arena = arena
        self.strikes, self.progress = 0, arena.progress
        self.critic_loss = self.value = 0.0

    def reset(self) -> None:
        """Forget what was counted: the state was replaced."""
        self.strikes, self.progress = 0, self._arena.progress

    @property
    def have_diverged(self) -> bool:
        """Whether there were too many strikes."""
        return self.strikes >= STRIKES

    def bound(self, largest_reward: float) -> float:
        """What no value can exceed in magnitude, twice over: the largest reward in every step to come, and what a
        stochastic actor's entropy is paid."""
        config = self._arena.config
        horizon = 1 / max(1 - float(config.discount), 1 / LONGEST_HORIZON)
        if config.is_stochastic:
            temperature = math.exp(min(self.progress.log_temperature, LARGEST_LOG_TEMPERATURE))
            largest_reward += temperature * LARGEST_ENTROPY * config.n_actions
        return 2 * max(largest_reward, 0.5 / horizon) * horizon

    def judge(self, largest_reward: float) -> None:
        """The update that was just completed."""
        now, before, bound = self._arena.progress, self.progress, self.bound(largest_reward)
        is_bad = now.abandoned > before.abandoned
        if now.critic_losses > before.critic_losses:
            self.critic_loss = now.critic_loss_sum - before.critic_loss_sum  # of both critics
            is_bad |= not self.critic_loss <= 2 * bound**2
        if now.actor_losses > before.actor_losses:
            self.value = before.actor_loss_sum - now.actor_loss_sum
            is_bad |= not abs(self.value) <= bound
        self.progress = now
        if now.critic_losses >= 1 << 20:  # sums stay small enough to be exact in their last digits
            now.critic_loss_sum = now.actor_loss_sum = 0.0
            now.critic_losses = now.actor_losses = 0
            self._arena.progress = self.progress = now
        self.strikes = max(self.strikes + (1 if is_bad else -1), 0)
