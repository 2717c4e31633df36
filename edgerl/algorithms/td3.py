"""TD3, Static-TD3 and DS-TD3 in PyTorch: the readable reference, in the order and the words of Algorithm 1.

Source: Sokar, Mocanu, Mocanu, Pechenizkiy, Stone: Dynamic Sparse Training for Deep Reinforcement Learning (IJCAI 2022);
TD3: Fujimoto, van Hoof, Meger (ICML 2018). What the paper leaves open is settled in docs/algorithm.md.

Weights are dense matrices that are zero where no connection exists. The masks keep three things there at exactly zero:
the gradient (multiplied by the mask before the optimiser sees it), hence both Adam moments, hence the weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention
from torch import Tensor, nn

from edgerl.algorithms.evolution import (
    drop_fraction_at,
    drops_at_least_one,
    input_scales,
    last_update,
    select_drop,
    select_growth,
    select_target_pruning,
)
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.state import Arrays, take
from edgerl.algorithms.topology import LayerPlan, Mask, draw_mask, expand, input_degrees, plan_networks
from edgerl.config import Config, EvolutionConfig, Norm, TD3Config
from edgerl.edge.continual.replay import Batch, Replay
from edgerl.edge.engine.random import Draws, Network, Purpose, below, normal, uniform
from edgerl.errors import ConfigError
from edgerl.policy.activation import HIDDEN


class MLP(nn.Module):
    """Affine layers with a norm, where there is one, and an activation between them; inputs [batch, n] → outputs
    [batch, m]."""

    def __init__(self, plans: Sequence[LayerPlan], norm: Norm) -> None:
        super().__init__()
        # Without PyTorch's own initial values: ours come from the run's generator.
        layers = (nn.Linear(plan.n_inputs, plan.n_outputs, device="meta") for plan in plans)
        self.layers = nn.ModuleList(layer.to_empty(device="cpu") for layer in layers)
        self.norms = nn.ModuleList(nn.LayerNorm(plan.n_outputs) for plan in plans[:-1] if norm == "layer")
        self.inputs: list[Tensor] = []
        """Of each layer in the last pass, [batch, n_inputs]."""

    def forward(self, x: Tensor) -> Tensor:
        self.inputs = []
        for index, layer in enumerate(self.layers):
            self.inputs.append(x.detach())
            x = layer(x)
            if index < len(self.norms):
                x = self.norms[index](x)
            if index + 1 < len(self.layers):
                x = getattr(F, HIDDEN.name)(x)
        return x

    @property
    def weights(self) -> list[Tensor]:
        """Weight matrices [outputs, inputs], first layer first."""
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    @property
    def biases(self) -> list[Tensor]:
        """Bias vectors [outputs]."""
        return [layer.bias for layer in self.layers]  # type: ignore[misc]


class SparseNetwork:
    """An online network with its target: weights, supports, and how they evolve.

    `masks[l]` are the blocks that exist in layer l; `target_masks[l]` the target's own support, which may differ;
    `ever_active[l]` the blocks that ever existed.
    """

    def __init__(
        self, plans: Sequence[LayerPlan], draws: Draws, network: Network, device: torch.device, norm: Norm = "none"
    ) -> None:
        self.plans, self.network, self.device = tuple(plans), network, device
        self._draws = draws
        self.online, self.target = MLP(plans, norm).to(device), MLP(plans, norm).to(device).requires_grad_(False)
        self.sparse_layers = [index for index, plan in enumerate(plans) if not plan.is_dense]
        self.masks: dict[int, Mask] = {i: draw_mask(plans[i], draws, network, i) for i in self.sparse_layers}
        self.target_masks = {i: mask.copy() for i, mask in self.masks.items()}
        self.ever_active = {i: mask.copy() for i, mask in self.masks.items()}
        self._initialise_weights()
        self._update_gradient_masks()
        self.target.load_state_dict(self.online.state_dict())

    def _initialise_weights(self) -> None:
        """PyTorch's own initialisation of the dense layer, uniform in ±1/√n_in, masked."""
        for index, plan in enumerate(self.plans):
            for purpose, parameter in (
                (Purpose.WEIGHT, self.online.weights[index]),
                (Purpose.BIAS, self.online.biases[index]),
            ):
                words = self._draws.words(purpose, 0, parameter.numel(), network=self.network, layer=index)
                values = ((2 * uniform(words) - 1) / np.sqrt(plan.n_inputs)).reshape(parameter.shape)
                if purpose == Purpose.WEIGHT and index in self.masks:
                    values = np.where(expand(self.masks[index], plan), values, 0)  # a product would leave −0
                parameter.data.copy_(torch.from_numpy(values))

    def _weight_mask(self, mask: Mask, plan: LayerPlan) -> Tensor:
        return torch.from_numpy(expand(mask, plan)).to(self.device)

    def _update_gradient_masks(self) -> None:
        self._gradient_masks = [
            self._weight_mask(mask, self.plans[index]).to(self.online.weights[index].dtype)
            for index, mask in self.masks.items()
        ]

    def mask_gradients(self) -> None:
        """Gradients exist only for connections."""
        gradients = [self.online.weights[index].grad for index in self.sparse_layers]
        for gradient, mask in zip(gradients, self._gradient_masks, strict=True):
            assert gradient is not None
            gradient.mul_(mask)

    def dense_gradients(self) -> dict[int, npt.NDArray[Any]]:
        """The gradient of every position [outputs, inputs] of the sparse layers, for growth."""
        weights = self.online.weights
        return {i: weights[i].grad.detach().cpu().numpy().copy() for i in self.sparse_layers}  # type: ignore[union-attr]

    def evolve(
        self,
        optimiser: torch.optim.Optimizer,
        fraction: float,
        update: int,
        gradients: dict[int, npt.NDArray[Any]],
        rules: EvolutionConfig,
        *,
        at_least_one: bool,
    ) -> None:
        """TopologyEvolution of Algorithm 1: drop the fraction ζ, and grow as many at weight 0 with zero moments."""
        for index in self.sparse_layers:
            plan, mask, weight = self.plans[index], self.masks[index], self.online.weights[index]
            scales = input_scales(self.online.inputs[index].cpu().numpy()) if rules.drop == "scaled-magnitude" else None
            drop = select_drop(
                weight.detach().cpu().numpy(), mask, plan, fraction, at_least_one=at_least_one, scales=scales
            )
            draws, gradient = self._draws, gradients[index]
            grow = select_growth(
                mask, drop, plan, rules.growth, draws, gradient, update=update, network=self.network, layer=index
            )
            self.masks[index] = (mask & ~drop) | grow
            self.ever_active[index] |= grow
            changed = self._weight_mask(drop | grow, plan)
            moments = optimiser.state[weight]
            for tensor in (weight.data, moments["exp_avg"], moments["exp_avg_sq"]):
                tensor.masked_fill_(changed, 0)
        self._update_gradient_masks()

    @torch.no_grad()
    def soft_update(self, fraction: float) -> None:
        """The moving average of Algorithm 1, then TargetSparsityMaintenance: no target has more than its online net."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.online.parameters()), fraction)
        for index in self.sparse_layers:
            self._prune_target(index)

    def _prune_target(self, index: int) -> None:
        plan, weight = self.plans[index], self.target.weights[index].data
        support = self.target_masks[index] | self.masks[index]
        pruned = select_target_pruning(weight.cpu().numpy(), support, plan)
        weight.masked_fill_(self._weight_mask(pruned, plan), 0)
        self.target_masks[index] = support & ~pruned

    def _parameters(self, index: int) -> Iterator[tuple[str, Tensor, Tensor]]:
        """What layer `index` learns: (name, online, target)."""
        yield "weight", self.online.weights[index], self.target.weights[index]
        yield "bias", self.online.biases[index], self.target.biases[index]
        if index < len(self.online.norms):
            norm, target = self.online.norms[index], self.target.norms[index]
            yield "norm_scale", norm.weight, target.weight
            yield "norm_shift", norm.bias, target.bias

    def _parts(self, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Every tensor of the state: (name, tensor, where it has values; None: everywhere)."""
        for index, plan in enumerate(self.plans):
            for name, parameter, target in self._parameters(index):
                masks = (self.masks, self.target_masks) if name == "weight" else ({}, {})
                mask, support = (self._weight_mask(m[index], plan) if index in m else None for m in masks)
                moments = optimiser.state[parameter]
                yield f"{index}.{name}", parameter.data, mask
                yield f"{index}.{name}_first_moment", moments["exp_avg"], mask
                yield f"{index}.{name}_second_moment", moments["exp_avg_sq"], mask
                yield f"{index}.{name}_steps", moments["step"], None
                yield f"{index}.target_{name}", target.data, support

    def _named_masks(self) -> Iterator[tuple[str, dict[int, Mask], int]]:
        for name, masks in (
            ("mask", self.masks),
            ("target_mask", self.target_masks),
            ("ever_active", self.ever_active),
        ):
            yield from ((f"{index}.{name}", masks, index) for index in self.sparse_layers)

    def state(self, optimiser: torch.optim.Optimizer) -> Arrays:
        """Everything that a resumed run needs: masks as bits, the values of sparse layers at their connections only."""
        arrays: Arrays = {name: np.packbits(masks[index]) for name, masks, index in self._named_masks()}
        for name, tensor, where in self._parts(optimiser):
            arrays[name] = (tensor if where is None else tensor[where]).cpu().numpy().copy()
        return arrays

    def load_state(self, arrays: Arrays, optimiser: torch.optim.Optimizer) -> None:
        """Undo `state`. Raises ValueError where a tensor is missing, surplus, or not what this network needs."""
        arrays = dict(arrays)
        for name, masks, index in self._named_masks():
            size = masks[index].size
            bits = np.unpackbits(take(arrays, name, np.dtype(np.uint8), (-(-size // 8),)), count=size)
            masks[index] = bits.astype(bool).reshape(masks[index].shape)
        planned = [plan.connections for plan in self.plans]
        if not self.connections() == self.target_connections() == planned:
            raise ValueError(f"connections are {self.connections()}, expected {planned}")
        for name, tensor, where in self._parts(optimiser):
            shape = tuple(tensor.shape) if where is None else (int(where.count_nonzero()),)
            values = torch.from_numpy(take(arrays, name, tensor.cpu().numpy().dtype, shape).copy()).to(tensor.device)
            tensor.copy_(values) if where is None else tensor.zero_().masked_scatter_(where, values)
        if arrays:
            raise ValueError(f"tensor {min(arrays)[:40]!r} does not belong here")
        self._update_gradient_masks()

    def connections(self) -> list[int]:
        """Connections of each layer of the online network."""
        return [self._count(self.masks.get(i), plan) for i, plan in enumerate(self.plans)]

    def target_connections(self) -> list[int]:
        """Connections of each layer of the target network."""
        return [self._count(self.target_masks.get(i), plan) for i, plan in enumerate(self.plans)]

    def _count(self, mask: Mask | None, plan: LayerPlan) -> int:
        return plan.connections if mask is None else int(np.count_nonzero(expand(mask, plan)))

    def share_ever_active(self) -> float:
        """Blocks that ever existed / blocks that could, over the sparse layers; 1 where every layer is dense."""
        possible = sum(mask.size for mask in self.ever_active.values())
        return sum(int(mask.sum()) for mask in self.ever_active.values()) / possible if possible else 1.0

    def shares_ever_active(self) -> list[float]:
        """Of each layer: blocks that ever existed / blocks that could; 1 where it is dense."""
        return [float(self.ever_active[i].mean()) if i in self.ever_active else 1.0 for i in range(len(self.plans))]

    def input_degrees(self) -> npt.NDArray[Any]:
        """How many units of the first layer each input is connected with, [inputs]."""
        plan = self.plans[0]
        return input_degrees(self.masks[0], plan) if 0 in self.masks else np.full(plan.n_inputs, plan.n_outputs)


@dataclass
class LossSums:
    """Sums of losses since they were last logged, and how many went in."""

    critic: Tensor
    actor: Tensor
    critic_updates: int = 0
    actor_updates: int = 0


class Agent:
    """Actor, two critics, their targets and optimisers; `update` is one pass through the loop of Algorithm 1."""

    def __init__(
        self, config: Config, n_observations: int, n_actions: int, *, dtype: torch.dtype = torch.float32
    ) -> None:
        """Lines 1 to 4 of Algorithm 1: masks, weights, targets. float64 is for comparison with other engines."""
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("`device` is cuda, but this PyTorch sees none; use `device` cpu")
        self.config, self.draws = config, Draws(config.seed)
        self.device = torch.device(config.device)
        actor_plan, critic_plan = plan_networks(config.network, n_observations, n_actions)
        previous_dtype = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            self.actor = SparseNetwork(actor_plan, self.draws, Network.ACTOR, self.device)
            self.critics = [
                SparseNetwork(critic_plan, self.draws, network, self.device, config.network.critic_norm)
                for network in (Network.CRITIC_1, Network.CRITIC_2)
            ]
        finally:
            torch.set_default_dtype(previous_dtype)
        self.dtype = dtype
        actor_rate, critic_rate = config.td3.learning_rates
        self.actor_optimiser = self._optimiser([self.actor], actor_rate)
        self.critic_optimiser = self._optimiser(self.critics, critic_rate)
        self.updates = 0
        self.actor_evolution_due = False
        # What would grow at the very end could not learn any more: an evolution there would only lose connections.
        self._last_update = last_update(config)
        self._noise_shape = (config.td3.batch_size, n_actions)
        self.losses = self._no_losses()

    def _optimiser(self, networks: Sequence[SparseNetwork], learning_rate: float) -> torch.optim.Adam:
        parameters = [p for network in networks for p in network.online.parameters()]
        td3 = self.config.td3
        kind = torch.optim.AdamW if td3.optimiser == "adamw" else torch.optim.Adam
        betas, decay = (td3.beta1, 0.999), td3.weight_decay
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

    @torch.no_grad()
    def act(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The deterministic action [m] in [−1, 1] for an observation [n]."""
        x = torch.from_numpy(observation).to(self.device, self.dtype)
        action: npt.NDArray[np.float32] = torch.tanh(self.actor.online(x)).cpu().numpy()
        return action

    @property
    def abandoned_updates(self) -> int:
        """None: what is not finite goes on into the weights, where a checkpoint finds it."""
        return 0

    def actor_layers(self) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """(weights [outputs, inputs], bias [outputs]) of the actor."""
        online = self.actor.online
        pairs = zip(online.weights, online.biases, strict=True)
        return [(weight.detach().cpu().numpy(), bias.detach().cpu().numpy()) for weight, bias in pairs]

    def target_noise(self) -> npt.NDArray[np.float64]:
        """Target policy smoothing noise of the next update [batch, m], clipped."""
        td3 = self.config.td3
        batch_size, n_actions = self._noise_shape
        count = batch_size * n_actions
        words = self.draws.stream(Purpose.TARGET_NOISE, self.updates + 1, count + count % 2)
        noise = normal(words)[:count].reshape(self._noise_shape) * td3.target_noise
        return np.clip(noise, -td3.target_noise_clip, td3.target_noise_clip)

    def learn(self, replay: Replay, normalizer: Normalizer | None = None) -> None:
        """One update on a mini-batch drawn from `replay`; line 9 of Algorithm 1."""
        td3 = self.config.td3
        words = self.draws.stream(Purpose.REPLAY, self.updates + 1, td3.batch_size)
        batch = replay.sample(below(words, replay.size), td3.discount, n_step_at(td3, self.updates + 1))
        if normalizer is not None:
            batch = replace(
                batch,
                observations=normalizer(batch.observations),
                next_observations=normalizer(batch.next_observations),
            )
        self.update(batch)

    def update(self, batch: Batch) -> None:
        """Lines 9 to 24 of Algorithm 1 on one mini-batch."""
        noise = self._tensor(self.target_noise())
        self.updates += 1
        observations, actions = self._tensor(batch.observations), self._tensor(batch.actions)
        target = self._target(batch, noise)
        self._update_critics(observations, actions, target)
        if self.updates % self.config.td3.policy_delay == 0:
            self._update_actor(observations)
            for _, network in self.networks:
                network.soft_update(self.config.td3.soft_update)

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device, self.dtype)

    @torch.no_grad()
    def _target(self, batch: Batch, noise: Tensor) -> Tensor:
        """y = r + γ (1 − terminated) min Q'(s', clip(π'(s') + clip(ε)))."""
        next_observations = self._tensor(batch.next_observations)
        next_actions = (torch.tanh(self.actor.target(next_observations)) + noise).clamp_(-1, 1)
        x = torch.cat([next_observations, next_actions], dim=1)
        value = torch.minimum(self.critics[0].target(x), self.critics[1].target(x)).squeeze(1)
        return self._tensor(batch.returns).addcmul(self._tensor(batch.discounts), value)

    def _update_critics(self, observations: Tensor, actions: Tensor, target: Tensor) -> None:
        x = torch.cat([observations, actions], dim=1)
        self.critic_optimiser.zero_grad()
        loss = sum(F.mse_loss(critic.online(x).squeeze(1), target) for critic in self.critics)
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        is_due = self._evolution_is_due(self.updates % self.config.evolution.evolution_interval == 0)
        evolves = is_due and self.config.network.evolving[1]
        gradients = [critic.dense_gradients() if evolves else {} for critic in self.critics]
        for critic in self.critics:
            critic.mask_gradients()
        self.critic_optimiser.step()
        if evolves:
            for critic, gradient in zip(self.critics, gradients, strict=True):
                self._evolve(critic, gradient)
        self.actor_evolution_due |= is_due
        self.losses.critic += loss.detach()
        self.losses.critic_updates += 1

    def _update_actor(self, observations: Tensor) -> None:
        """The deterministic policy gradient through Q1."""
        actions = torch.tanh(self.actor.online(observations))
        loss = -self.critics[0].online(torch.cat([observations, actions], dim=1)).mean()
        parameters = list(self.actor.online.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        is_due = self._evolution_is_due(self.actor_evolution_due)
        evolves = is_due and self.config.network.evolving[0]
        gradients = self.actor.dense_gradients() if evolves else {}
        self.actor.mask_gradients()
        self.actor_optimiser.step()
        if evolves:
            self._evolve(self.actor, gradients)
        self.actor_evolution_due &= not is_due
        self.losses.actor += loss.detach()
        self.losses.actor_updates += 1

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

    def _optimiser_of(self, network: SparseNetwork) -> torch.optim.Optimizer:
        return self.actor_optimiser if network is self.actor else self.critic_optimiser

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


def n_step_at(config: TD3Config, update: int) -> int:
    """Rewards per return in the batch of critic update `update`, which counts from 1.

    Source of the delay: Tan et al. (2023): while the policy changes fast, old transitions make n-step returns wrong.
    """
    return config.n_step if update > config.n_step_delay else 1
