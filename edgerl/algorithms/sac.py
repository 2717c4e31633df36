"""SAC with an automatic temperature in PyTorch, its networks sparse as DS-TD3's are: the readable reference.

Source: Haarnoja et al.: Soft Actor-Critic Algorithms and Applications (2018), Algorithm 1; the topology is that of
Sokar et al. (IJCAI 2022). What they leave open is settled in docs/algorithm.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention
from torch import Tensor

from edgerl.algorithms.agent import Agent
from edgerl.algorithms.state import Arrays, take
from edgerl.config import Config
from edgerl.edge.continual.replay import Batch
from edgerl.edge.engine.random import Purpose

LOWEST_LOG_DEVIATION, HIGHEST_LOG_DEVIATION = -20.0, 2.0
"""Between which the logarithm of the policy's standard deviation is clipped, as published implementations do."""


class SAC(Agent):
    """A stochastic policy: tanh of a Gaussian, whose means are the actor's first m outputs and the logarithms of whose
    standard deviations are the others."""

    actor_has_target = False

    def __init__(
        self, config: Config, n_observations: int, n_actions: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(config, n_observations, n_actions, dtype=dtype)
        start = math.log(config.learning.initial_temperature)
        self.log_temperature = torch.full((), start, dtype=torch.float64, requires_grad=True)
        self.temperature_optimiser = torch.optim.Adam([self.log_temperature], lr=config.learning.learning_rates[0])
        self.target_entropy = config.learning.target_entropy_of(n_actions)

    @torch.no_grad()
    def explore(self, observation: npt.NDArray[np.float32], noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """An action drawn from the policy."""
        action, _ = self._sample(self._tensor(observation[None]), self._tensor(noise[None]))
        result: npt.NDArray[np.float32] = action[0].cpu().numpy().astype(np.float32)
        return result

    def _sample(self, observations: Tensor, noise: Tensor, *, train: bool = False) -> tuple[Tensor, Tensor]:
        """Actions [batch, m] and the logarithms of their densities [batch], by the reparameterisation trick.

        train: whether the actor learns from them.
        """
        mean, log_deviation = self.actor.online(observations, train=train).chunk(2, dim=1)
        log_deviation = log_deviation.clamp(LOWEST_LOG_DEVIATION, HIGHEST_LOG_DEVIATION)
        before_tanh = mean + log_deviation.exp() * noise
        # log N(u; μ, σ) − log |d tanh(u) / du|, the latter in a form that does not cancel for large u
        gaussian = -0.5 * noise.square() - log_deviation - 0.5 * math.log(2 * math.pi)
        squashed = 2 * (math.log(2) - before_tanh - F.softplus(-2 * before_tanh))
        return torch.tanh(before_tanh), (gaussian - squashed).sum(dim=1)

    def update(self, batch: Batch) -> None:
        """The body of Algorithm 1 on one mini-batch."""
        learning = self.config.learning
        next_noise, noise = self._tensor(self._noise(Purpose.TARGET_NOISE)), self._tensor(self._noise(Purpose.POLICY))
        self.updates += 1
        observations, actions = self._tensor(batch.observations), self._tensor(batch.actions)
        target = self._target(batch, next_noise)
        self._step_critics(self._critic_loss(observations, actions, target))
        if self.updates % learning.policy_delay == 0:
            self._learn_policy(observations, noise)
        for critic in self.critics:
            critic.soft_update(learning.soft_update)

    def _learn_policy(self, observations: Tensor, noise: Tensor) -> None:
        """The actor, then the temperature."""
        actions, log_density = self._sample(observations, noise, train=True)
        self._step_actor(self._actor_loss(observations, actions, log_density))
        self._step_temperature(log_density.detach())

    @property
    def temperature(self) -> Tensor:
        """α, what entropy is worth."""
        return self.log_temperature.detach().exp().to(self.device, self.dtype)

    @torch.no_grad()
    def _target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ (1 − terminated) (min Q'(s', a') − α log π(a' | s')), a' ∼ π(s')."""
        next_observations = self._tensor(batch.next_observations)
        next_actions, log_density = self._sample(next_observations, noise)
        x = torch.cat([next_observations, next_actions], dim=1)
        value = self._least_target_value(x) - self.temperature * log_density
        return self._tensor(batch.returns).addcmul(self._tensor(batch.discounts), value)

    def _actor_loss(self, observations: Tensor, actions: Tensor, log_density: Tensor) -> Tensor:
        """The mean of α log π(a | s) − min Q(s, a)."""
        x = torch.cat([observations, actions], dim=1)
        value = torch.minimum(*(self._policy_value(critic, x) for critic in self.critics))
        return (self.temperature * log_density - value).mean()

    def _step_temperature(self, log_density: Tensor) -> None:
        """Towards the entropy that is aimed at: down the gradient of −log α (log π + target entropy)."""
        self.log_temperature.grad = -(log_density.mean().cpu().to(torch.float64) + self.target_entropy)
        self.temperature_optimiser.step()

    def state(self) -> Arrays:
        """As any agent's, and the temperature with its moments."""
        moments = self.temperature_optimiser.state[self.log_temperature]
        numbers = [self.log_temperature.detach(), moments.get("exp_avg", 0.0), moments.get("exp_avg_sq", 0.0)]
        return super().state() | {"agent.temperature": np.array([float(number) for number in numbers])}

    def load_state(self, arrays: Arrays) -> None:
        """Undo `state`. Raises ValueError where the arrays are not those of this configuration."""
        numbers = take(arrays := dict(arrays), "agent.temperature", np.dtype(np.float64), (3,))
        super().load_state(arrays)
        value, first, second = torch.from_numpy(numbers.copy())
        with torch.no_grad():
            self.log_temperature.copy_(value)
        self.temperature_optimiser.state[self.log_temperature] = {
            "step": torch.tensor(float(self.updates // self.config.learning.policy_delay)),
            "exp_avg": first.clone(),
            "exp_avg_sq": second.clone(),
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Mean losses, and the temperature as it is."""
        return super().metrics | {"temperature": float(self.temperature)}
