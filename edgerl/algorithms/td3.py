"""TD3, Static-TD3 and DS-TD3 in PyTorch: the readable reference, in the order and the words of Algorithm 1.

Source: Sokar, Mocanu, Mocanu, Pechenizkiy, Stone: Dynamic Sparse Training for Deep Reinforcement Learning (IJCAI 2022);
TD3: Fujimoto, van Hoof, Meger (ICML 2018). What the paper leaves open is settled in docs/algorithm.md.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgerl.algorithms.agent import Agent
from edgerl.edge.continual.replay import Batch
from edgerl.edge.engine.random import Purpose


class TD3(Agent):
    """`update` is one pass through the loop of Algorithm 1, whose lines 1 to 4 are the constructor."""

    actor_has_target = True

    def explore(self, observation: npt.NDArray[np.float32], noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Line 7: the policy's action with noise."""
        action = self.act(observation) + self.config.learning.exploration_noise * noise
        return np.clip(action, -1, 1).astype(np.float32)

    def target_noise(self) -> npt.NDArray[np.float64]:
        """Target policy smoothing noise of the next update [batch, m], clipped."""
        learning = self.config.learning
        noise = self._noise(Purpose.TARGET_NOISE) * learning.target_noise
        return np.clip(noise, -learning.target_noise_clip, learning.target_noise_clip)

    def update(self, batch: Batch) -> None:
        """Lines 9 to 24 of Algorithm 1 on one mini-batch."""
        learning, smoothing = self.config.learning, self._tensor(self.target_noise())
        self.updates += 1
        observations, actions = self._tensor(batch.observations), self._tensor(batch.actions)
        target = self._target(batch, smoothing)
        self._step_critics(self._critic_loss(observations, actions, target))
        if self.updates % learning.policy_delay == 0:
            self._step_actor(self._actor_loss(observations))
            for _, network in self.networks:
                network.soft_update(learning.soft_update)

    @torch.no_grad()
    def _target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ (1 − terminated) min Q'(s', clip(π'(s') + clip(ε)))."""
        next_observations = self._tensor(batch.next_observations)
        next_actions = (torch.tanh(self.actor.target(next_observations)) + noise).clamp_(-1, 1)
        x = torch.cat([next_observations, next_actions], dim=1)
        return self._tensor(batch.returns).addcmul(self._tensor(batch.discounts), self._least_target_value(x))

    def _actor_loss(self, observations: Tensor) -> Tensor:
        """The deterministic policy gradient through Q1."""
        actions = torch.tanh(self.actor.online(observations))
        return -self._policy_value(self.critics[0], torch.cat([observations, actions], dim=1)).mean()
