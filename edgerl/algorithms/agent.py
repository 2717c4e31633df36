"""What the off-policy algorithms of the PyTorch engine share: an actor, two critics, optimisers, evolution, state.

An algorithm is a class that inherits from `Agent` and writes `update`, one pass through the loop of its paper.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention
from torch import Tensor

from edgerl.algorithms.evolution import drop_fraction_at, drops_at_least_one, last_update
from edgerl.algorithms.networks import SparseNetwork
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.state import Arrays, take
from edgerl.algorithms.topology import plan_networks
from edgerl.config import Config, LearningConfig
from edgerl.edge.continual.replay import Batch, Replay
from edgerl.edge.engine.random import Draws, Network, Purpose, below, normal
from edgerl.errors import ConfigError


@dataclass
class LossSums:
    """Sums of losses since they were last logged, and how many went in."""

    critic: Tensor
    actor: Tensor
    critic_updates: int = 0
    actor_updates: int = 0


class Agent(ABC):
    """Actor, two critics, their targets and optimisers."""

    actor_has_target: bool
    critics_have_targets = True

    def __init__(
        self, config: Config, n_observations: int, n_actions: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        """Masks, weights, targets. float64 is for comparison with other engines."""
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("`device` is cuda, but this PyTorch sees none; use `device` cpu")
        self.config, self.draws = config, Draws(config.seed)
        self.device, self.dtype = torch.device(config.device), dtype
        self.n_actions = n_actions
        actor_plan, critic_plan = plan_networks(config, n_observations, n_actions)
        activation, by_dsr = config.network.activation, config.evolution.drop == "global-threshold"
        actor_moves, critics_move = (by_dsr and evolves for evolves in config.network.evolving)
        previous_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            of_actor = actor_plan, config.network.actor_norm, self.actor_has_target, actor_moves
            of_critic = critic_plan, config.network.critic_norm, self.critics_have_targets, critics_move
            self.actor, *self.critics = (
                SparseNetwork(
                    plan, self.draws, network, self.device, norm, activation, has_target=has_target, reallocates=moves
                )
                for network, (plan, norm, has_target, moves) in (
                    (Network.ACTOR, of_actor),
                    (Network.CRITIC_1, of_critic),
                    (Network.CRITIC_2, of_critic),
                )
            )
        finally:
            torch.set_default_dtype(previous_dtype)
        actor_rate, critic_rate = config.learning.learning_rates
        self.actor_optimiser = self._optimiser([self.actor], actor_rate)
        self.critic_optimiser = self._optimiser(self.critics, critic_rate)
        self.updates = 0
        self.actor_evolution_due = False
        # What would grow at the very end could not learn any more: an evolution there would only lose connections.
        self._last_update = last_update(config)
        self.losses = self._no_losses()

    def _optimiser(self, networks: Sequence[SparseNetwork], learning_rate: float) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.online.parameters()]
        learning = self.config.learning
        kind = torch.optim.AdamW if learning.optimiser == "adamw" else torch.optim.Adam
        betas, decay = (learning.beta1, 0.999), learning.weight_decay
        optimiser = kind(parameters, lr=learning_rate, betas=betas, weight_decay=decay, fused=True)
        for parameter in parameters:  # PyTorch makes them at the first step; a state must be whole before it
            optimiser.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return optimiser

    def _no_losses(self) -> LossSums:
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        return LossSums(critic=zero, actor=zero.clone())

    @property
    def networks(self) -> Iterator[tuple[str, SparseNetwork]]:
        """The networks with their names."""
        yield from (("actor", self.actor), ("critic_1", self.critics[0]), ("critic_2", self.critics[1]))

    @property
    def abandoned_updates(self) -> int:
        """None: what is not finite goes on into the weights, where a checkpoint finds it."""
        return 0

    @torch.no_grad()
    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The deterministic action [m] in [−1, 1] for an observation [n]."""
        output = self.actor.online(torch.from_numpy(observation).to(self.device, self.dtype))
        action: npt.NDArray[np.float32] = torch.tanh(output[: self.n_actions]).cpu().numpy()
        return action

    @abstractmethod
    def explore(self, observation: npt.NDArray[np.float32], noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """The action [m] in [−1, 1] that is tried in training; noise: standard normal numbers [m]."""

    def actor_layers(self) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """(weights [outputs, inputs], bias [outputs]) of the policy, whose last layer gives the actions."""
        *layers, (weight, bias) = self.actor.online.folded()
        return [*layers, (weight[: self.n_actions], bias[: self.n_actions])]

    def _noise(self, purpose: Purpose) -> npt.NDArray[np.float64]:
        """Standard normal numbers of the next update [batch, m]."""
        batch_size = self.config.learning.batch_size
        count = batch_size * self.n_actions
        words = self.draws.stream(purpose, self.updates + 1, count + count % 2)
        return normal(words)[:count].reshape(batch_size, self.n_actions)

    def learn(self, replay: Replay, normalizer: Normalizer | None = None) -> None:
        """One update on a mini-batch drawn from `replay`."""
        learning = self.config.learning
        words = self.draws.stream(Purpose.REPLAY, self.updates + 1, learning.batch_size)
        batch = replay.sample(below(words, replay.size), learning.discount, n_step_at(learning, self.updates + 1))
        if normalizer is not None:
            batch = replace(
                batch,
                observations=normalizer(batch.observations),
                next_observations=normalizer(batch.next_observations),
            )
        self.update(batch)

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """One pass through the loop of the algorithm, on one mini-batch."""

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)

    def _critic_loss(self, observations: Tensor, actions: Tensor, target: Tensor) -> Tensor:
        """The mean square errors of both critics."""
        x = torch.cat([observations, actions], dim=1)
        values = (critic.online(x, dropout=self._dropout(critic, Purpose.DROPOUT)) for critic in self.critics)
        first, second = (F.mse_loss(value.squeeze(1), target) for value in values)
        return first + second

    def _least_target_value(self, x: Tensor) -> Tensor:
        """min(Q'₁, Q'₂) of observations and actions [batch, n + m], [batch]."""
        first, second = (
            critic.target(x, dropout=self._dropout(critic, Purpose.TARGET_DROPOUT)) for critic in self.critics
        )
        return torch.minimum(first, second).squeeze(1)

    def _policy_value(self, critic: SparseNetwork, x: Tensor) -> Tensor:
        """Q of observations and the actor's own actions, [batch]."""
        value: Tensor = critic.online(x, dropout=self._dropout(critic, Purpose.POLICY_DROPOUT)).squeeze(1)
        return value

    def _dropout(self, critic: SparseNetwork, *purposes: Purpose) -> list[Tensor]:
        return critic.dropout(self.config.network.dropout, self.updates, self.config.learning.batch_size, *purposes)

    def _step_critics(self, loss: Tensor) -> None:
        """Adam on both critics, and their evolution where it is due."""
        self.critic_optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        is_due = self._evolution_is_due(self.updates % self.config.evolution.evolution_interval == 0)
        evolves = is_due and self.config.network.evolving[1]
        gradients = [critic.dense_gradients() if evolves else {} for critic in self.critics]
        for critic in self.critics:
            self._prepare_gradient(critic)
        self.critic_optimiser.step()
        if evolves:
            for critic, gradient in zip(self.critics, gradients, strict=True):
                self._evolve(critic, gradient)
        self.actor_evolution_due |= is_due
        self.losses.critic += loss.detach()
        self.losses.critic_updates += 1

    def _step_actor(self, loss: Tensor) -> None:
        """Adam on the actor alone, and its evolution where it is due."""
        parameters = list(self.actor.online.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        is_due = self._evolution_is_due(self.actor_evolution_due)
        evolves = is_due and self.config.network.evolving[0]
        gradients = self.actor.dense_gradients() if evolves else {}
        self._prepare_gradient(self.actor)
        self.actor_optimiser.step()
        if evolves:
            self._evolve(self.actor, gradients)
        self.actor_evolution_due &= not is_due
        self.losses.actor += loss.detach()
        self.losses.actor_updates += 1

    def _prepare_gradient(self, network: SparseNetwork) -> None:
        """What the optimiser is to see of it: connections only, and cut to the norm that is allowed, if one is."""
        network.mask_gradients()
        if self.config.learning.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(network.online.parameters(), self.config.learning.gradient_clip)

    def _evolution_is_due(self, due: bool) -> bool:
        return due and any(self.config.network.evolving) and self.updates < self._last_update

    def _evolve(self, network: SparseNetwork, gradients: dict[int, npt.NDArray[Any]]) -> None:
        when = self.config.evolution, self.updates, self._last_update
        network.evolve(
            self._optimiser_of(network),
            drop_fraction_at(*when),
            self.updates,
            gradients,
            self.config.evolution,
            at_least_one=drops_at_least_one(*when),
        )

    def _optimiser_of(self, network: SparseNetwork) -> torch.optim.Optimizer:
        return self.actor_optimiser if network is self.actor else self.critic_optimiser

    def state(self) -> Arrays:
        """Everything that a resumed run needs beside its configuration, as arrays named by network, layer and part."""
        arrays = {
            f"{name}.{part}": array
            for name, network in self.networks
            for part, array in network.state(self._optimiser_of(network)).items()
        }
        counters = [self.updates, int(self.actor_evolution_due), self.losses.critic_updates, self.losses.actor_updates]
        arrays["agent.counters"] = np.array(counters, np.int64)
        arrays["agent.loss_sums"] = torch.stack([self.losses.critic, self.losses.actor]).cpu().numpy()
        return arrays

    def load_state(self, arrays: Arrays) -> None:
        """Undo `state`. Raises ValueError where the arrays are not those of this configuration."""
        counters = take(arrays := dict(arrays), "agent.counters", np.dtype(np.int64), (4,))
        sums = take(arrays, "agent.loss_sums", np.dtype(str(self.dtype).removeprefix("torch.")), (2,))
        for name, network in self.networks:
            own = {key: arrays.pop(key) for key in list(arrays) if key.startswith(f"{name}.")}
            network.load_state(
                {key.removeprefix(f"{name}."): array for key, array in own.items()}, self._optimiser_of(network)
            )
        if arrays or (counters < 0).any():
            raise ValueError(f"tensor {min(arrays, default='agent.counters')[:40]!r} does not belong here")
        self.updates, self.actor_evolution_due = int(counters[0]), bool(counters[1])
        critic, actor = torch.from_numpy(sums.copy()).to(self.device).clone()
        self.losses = LossSums(critic.clone(), actor.clone(), int(counters[2]), int(counters[3]))

    @property
    def metrics(self) -> dict[str, float]:
        """The mean losses since `reset_metrics`; 0 where no update happened."""
        sums = self.losses
        return {
            "critic_loss": float(sums.critic) / max(sums.critic_updates, 1),
            "actor_loss": float(sums.actor) / max(sums.actor_updates, 1),
        }

    def reset_metrics(self) -> None:
        """Begin the means again."""
        self.losses = self._no_losses()


def n_step_at(config: LearningConfig, update: int) -> int:
    """Rewards per return in the batch of critic update `update`, which counts from 1.

    Source of the delay: Tan et al. (2023): while the policy changes fast, old transitions make n-step returns wrong.
    """
    return config.n_step if update > config.n_step_delay else 1
