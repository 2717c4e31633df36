"""Networks of the PyTorch engine: affine layers with masks, norms and activations, and how their topology evolves.

Weights are dense matrices that are zero where no connection exists. The masks keep three things there at exactly zero:
the gradient (multiplied by the mask before the optimiser sees it), hence both Adam moments, hence the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention
from torch import Tensor, nn

from edgerl.algorithms.evolution import (
    INITIAL_THRESHOLD,
    input_scales,
    reallocate,
    select_drop,
    select_growth,
    select_target_pruning,
)
from edgerl.algorithms.state import Arrays, take
from edgerl.algorithms.topology import LayerPlan, Mask, draw_mask, expand, input_degrees, output_degrees
from edgerl.config import EvolutionConfig, HiddenActivation, Norm
from edgerl.edge.engine.random import Draws, Network, Purpose, uniform
from edgerl.policy.batch_norm import EPSILON, as_affine

FOLLOWING = 0.01
"""Share of a batch's mean and variance in a batch norm's running ones."""

WARM_UP = 100_000
"""Passes in training over a network during which the norm is a plain batch norm: r is 1 and d is 0."""

LARGEST_RATIO, LARGEST_SHIFT = 3.0, 5.0
"""Bounds of r, whose least is 1/3, and of |d|, from then on."""


class BatchRenorm(nn.Module):
    """x [batch, n] → γ x̂ + β [batch, n]; x̂ = (x − μ)/σ · r + d with the batch's μ and σ in training, where no gradient
    passes r and d, and else with the running ones.

    Source: Ioffe: Batch Renormalization (2017); constants and warm-up: Bhatt et al.: CrossQ (2024).
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.register_buffer("running_mean", torch.zeros(n))
        self.register_buffer("running_variance", torch.ones(n))
        self.passes = 0  # in training

    def forward(self, x: Tensor, *, train: bool) -> Tensor:
        running_deviation = (self.running_variance + EPSILON).sqrt()
        if not train:
            return (x - self.running_mean) / running_deviation * self.weight + self.bias
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        deviation = (variance + EPSILON).sqrt()
        normalised = (x - mean) / deviation
        if self.passes >= WARM_UP:
            ratio = (deviation / running_deviation).detach().clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
            shift = ((mean - self.running_mean) / running_deviation).detach().clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
            normalised = normalised * ratio + shift
        self.running_mean.lerp_(mean.detach(), FOLLOWING)
        self.running_variance.lerp_(variance.detach(), FOLLOWING)
        self.passes += 1
        return normalised * self.weight + self.bias


class MLP(nn.Module):
    """Affine layers, an activation between them, and norms, where there are any: layer norms before the activations,
    batch norms before the layers; inputs [batch, n] → outputs [batch, m]."""

    def __init__(self, plans: Sequence[LayerPlan], norm: Norm, activation: HiddenActivation) -> None:
        super().__init__()
        self.activation = activation
        # Without PyTorch's own initial values: ours come from the run's generator.
        layers = (nn.Linear(plan.n_inputs, plan.n_outputs, device="meta") for plan in plans)
        self.layers = nn.ModuleList(layer.to_empty(device="cpu") for layer in layers)
        self.layer_norms = nn.ModuleList(nn.LayerNorm(plan.n_outputs) for plan in plans[:-1] if norm == "layer")
        self.batch_norms = nn.ModuleList(BatchRenorm(plan.n_inputs) for plan in plans if norm == "batch")
        self.inputs: list[Tensor] = []
        """Of each layer in the last pass, [batch, n_inputs]."""

    def forward(self, x: Tensor, *, train: bool = False, dropout: Sequence[Tensor] = ()) -> Tensor:
        """train: whether batch norms take the statistics of this batch, and remember them. dropout: what the sums of
        each hidden layer are multiplied by, [batch, units]; none: nothing."""
        self.inputs = []
        for index, layer in enumerate(self.layers):
            if index < len(self.batch_norms):
                x = self.batch_norms[index](x, train=train)
            self.inputs.append(x.detach())
            x = layer(x)
            if index < len(dropout):
                x = x * dropout[index]
            if index < len(self.layer_norms):
                x = self.layer_norms[index](x)
            if index + 1 < len(self.layers):
                x = getattr(F, self.activation)(x)
        return x

    @property
    def weights(self) -> list[Tensor]:
        """Weight matrices [outputs, inputs], first layer first."""
        return [layer.weight for layer in self.layers]  # type: ignore[misc]

    @property
    def biases(self) -> list[Tensor]:
        """Bias vectors [outputs]."""
        return [layer.bias for layer in self.layers]  # type: ignore[misc]

    def parameters_of(self, index: int) -> dict[str, Tensor]:
        """What layer `index` learns, by name."""
        found = {"weight": self.weights[index], "bias": self.biases[index]}
        for norms in (self.layer_norms, self.batch_norms):
            if index < len(norms):
                found |= {"norm_scale": norms[index].weight, "norm_shift": norms[index].bias}  # type: ignore[dict-item]
        return found

    def statistics_of(self, index: int) -> dict[str, Tensor]:
        """The running statistics of the batch norm before layer `index`, by name."""
        return dict(self.batch_norms[index].named_buffers()) if index < len(self.batch_norms) else {}

    def folded(self) -> list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """(weights [outputs, inputs], bias [outputs]) of each layer, with the batch norm before it folded in."""
        layers = []
        for index in range(len(self.layers)):
            parameters = {name: p.detach().cpu().numpy() for name, p in self.parameters_of(index).items()}
            weight, bias = parameters["weight"], parameters["bias"]
            if statistics := self.statistics_of(index):
                mean, variance = (tensor.cpu().numpy() for tensor in statistics.values())
                slope, level = as_affine(parameters["norm_scale"], parameters["norm_shift"], mean, variance)
                bias = (bias + weight.astype(np.float64) @ level).astype(bias.dtype)
                weight = (weight * slope).astype(weight.dtype)
            layers.append((weight, bias))
        return layers


class SparseNetwork:
    """An online network with its target, where it has one: weights, supports, and how they evolve.

    `masks[l]` are the blocks that exist in layer l; `target_masks[l]` the target's own support, which may differ;
    `ever_active[l]` the blocks that ever existed.
    """

    def __init__(
        self,
        plans: Sequence[LayerPlan],
        draws: Draws,
        network: Network,
        device: torch.device,
        norm: Norm = "none",
        activation: HiddenActivation = "relu",
        *,
        has_target: bool = True,
        reallocates: bool = False,
    ) -> None:
        """reallocates: whether connections move between its layers, by DSR."""
        self.plans, self.network, self.device = tuple(plans), network, device
        self._draws = draws
        self.online = MLP(plans, norm, activation).to(device)
        self._target = MLP(plans, norm, activation).to(device).requires_grad_(False) if has_target else None
        self.sparse_layers = [index for index, plan in enumerate(plans) if not plan.is_dense]
        self.masks: dict[int, Mask] = {i: draw_mask(plans[i], draws, network, i) for i in self.sparse_layers}
        self.target_masks = {i: mask.copy() for i, mask in self.masks.items()} if has_target else {}
        self.ever_active = {i: mask.copy() for i, mask in self.masks.items()}
        self.drop_threshold = INITIAL_THRESHOLD if reallocates else None
        self._initialise_weights()
        self._update_gradient_masks()
        if self._target is not None:
            self._target.load_state_dict(self.online.state_dict())

    @property
    def target(self) -> MLP:
        """The network that follows, of those that have one."""
        assert self._target is not None
        return self._target

    def dropout(self, rate: float, update: int, batch: int, *purposes: Purpose) -> list[Tensor]:
        """What a pass multiplies each hidden layer's sums by, [batch · purposes, units]: 0 where it leaves a unit out,
        else 1 / the share that stays; an empty list where the rate is 0.

        A number is left out where its 16 random bits are below the rate, rounded up to a multiple of 2^−16; the lower
        halves of a unit's words are its first samples'.
        """
        if rate == 0:
            return []
        threshold, n_words = math.ceil(rate * 65536), -(-batch // 8) * 4

        def factors(layer: int, purpose: Purpose) -> npt.NDArray[np.float64]:
            units = self.plans[layer].n_outputs
            words = self._draws.words(purpose, update, units * n_words, network=self.network, layer=layer)
            words = words.reshape(units, n_words)
            halves = np.concatenate([words & 0xFFFF, words >> 16], axis=1)[:, :batch].T
            return np.where(halves >= threshold, 65536 / (65536 - threshold), 0)

        dtype = self.online.biases[0].dtype
        return [
            torch.from_numpy(np.concatenate([factors(layer, purpose) for purpose in purposes])).to(self.device, dtype)
            for layer in range(len(self.plans) - 1)
        ]

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
        drops = self._select_drops(fraction, rules, at_least_one=at_least_one)
        for index, (drop, moved) in zip(self.sparse_layers, drops, strict=True):
            plan, mask, weight = self.plans[index], self.masks[index], self.online.weights[index]
            grow = select_growth(
                mask,
                drop,
                plan,
                rules.growth,
                self._draws,
                gradients[index],
                update=update,
                network=self.network,
                layer=index,
                moved=moved,
            )
            self.masks[index] = (mask & ~drop) | grow
            self.ever_active[index] |= grow
            changed = self._weight_mask(drop | grow, plan)
            moments = optimiser.state[weight]
            for tensor in (weight.data, moments["exp_avg"], moments["exp_avg_sq"]):
                tensor.masked_fill_(changed, 0)
        self._update_gradient_masks()

    def _select_drops(self, fraction: float, rules: EvolutionConfig, *, at_least_one: bool) -> list[tuple[Mask, int]]:
        """What each sparse layer drops, and how many blocks other layers give to it."""
        layers = self.sparse_layers
        weights = [self.online.weights[i].detach().cpu().numpy() for i in layers]
        masks, plans = [self.masks[i] for i in layers], [self.plans[i] for i in layers]
        if self.drop_threshold is not None:
            step = reallocate(weights, masks, plans, fraction, self.drop_threshold, at_least_one=at_least_one)
            self.drop_threshold = step.threshold
            return list(zip(step.drops, step.moved, strict=True))
        is_scaled = rules.drop == "scaled-magnitude"
        scales = [input_scales(self.online.inputs[i].cpu().numpy()) if is_scaled else None for i in layers]
        return [
            (select_drop(weight, mask, plan, fraction, at_least_one=at_least_one, scales=scale), 0)
            for weight, mask, plan, scale in zip(weights, masks, plans, scales, strict=True)
        ]

    @torch.no_grad()
    def soft_update(self, fraction: float) -> None:
        """The moving average of Algorithm 1, then TargetSparsityMaintenance: no target has more than its online net."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.online.parameters()), fraction)
        for index in self.sparse_layers:
            self._prune_target(index, self.target.weights[index].data)

    def _prune_target(self, index: int, weight: Tensor) -> None:
        plan = self.plans[index]
        support = self.target_masks[index] | self.masks[index]
        pruned = select_target_pruning(weight.cpu().numpy(), support, self.masks[index], plan)
        weight.masked_fill_(self._weight_mask(pruned, plan), 0)
        self.target_masks[index] = support & ~pruned

    def _parts(self, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        """Every tensor of the state: (name, tensor, where it has values; None: everywhere)."""
        for index, plan in enumerate(self.plans):
            targets = {} if self._target is None else self._target.parameters_of(index)
            for name, parameter in self.online.parameters_of(index).items():
                masks = (self.masks, self.target_masks) if name == "weight" else ({}, {})
                mask, support = (self._weight_mask(m[index], plan) if index in m else None for m in masks)
                moments = optimiser.state[parameter]
                yield f"{index}.{name}", parameter.data, mask
                yield f"{index}.{name}_first_moment", moments["exp_avg"], mask
                yield f"{index}.{name}_second_moment", moments["exp_avg_sq"], mask
                yield f"{index}.{name}_steps", moments["step"], None
                if name in targets:
                    yield f"{index}.target_{name}", targets[name].data, support
            for name, statistic in self.online.statistics_of(index).items():
                yield f"{index}.{name}", statistic, None

    def _named_masks(self) -> Iterator[tuple[str, dict[int, Mask], int]]:
        for name, masks in (
            ("mask", self.masks),
            ("target_mask", self.target_masks),
            ("ever_active", self.ever_active),
        ):
            yield from ((f"{index}.{name}", masks, index) for index in masks)

    def state(self, optimiser: torch.optim.Optimizer) -> Arrays:
        """Everything that a resumed run needs: masks as bits, the values of sparse layers at their connections only."""
        arrays: Arrays = {name: np.packbits(masks[index]) for name, masks, index in self._named_masks()}
        for name, tensor, where in self._parts(optimiser):
            arrays[name] = (tensor if where is None else tensor[where]).cpu().numpy().copy()
        if self.drop_threshold is not None:
            arrays["drop_threshold"] = np.array(self.drop_threshold)
        return arrays

    def load_state(self, arrays: Arrays, optimiser: torch.optim.Optimizer) -> None:
        """Undo `state`. Raises ValueError where a tensor is missing, surplus, or not what this network needs."""
        arrays = dict(arrays)
        for name, masks, index in self._named_masks():
            size = masks[index].size
            bits = np.unpackbits(take(arrays, name, np.dtype(np.uint8), (-(-size // 8),)), count=size)
            masks[index] = bits.astype(bool).reshape(masks[index].shape)
        self._check_connections(self.connections())
        if self._target is not None:
            self._check_connections(self.target_connections())
        if self.drop_threshold is not None:
            self.drop_threshold = float(take(arrays, "drop_threshold", np.dtype(np.float64), ()))
            if self.drop_threshold <= 0:
                raise ValueError(f"drop_threshold is {self.drop_threshold}; expected a magnitude above 0")
        for name, tensor, where in self._parts(optimiser):
            shape = tuple(tensor.shape) if where is None else (int(where.count_nonzero()),)
            values = torch.from_numpy(take(arrays, name, tensor.cpu().numpy().dtype, shape).copy()).to(tensor.device)
            tensor.copy_(values) if where is None else tensor.zero_().masked_scatter_(where, values)
        if arrays:
            raise ValueError(f"tensor {min(arrays)[:40]!r} does not belong here")
        for norm in self.online.batch_norms:
            norm.passes = int(optimiser.state[norm.weight]["step"])  # type: ignore[index, assignment]
        self._update_gradient_masks()

    def _check_connections(self, found: list[int]) -> None:
        """Raise ValueError unless they are those that were planned; where they move, all together, and some in each
        layer."""
        planned = [plan.connections for plan in self.plans]
        moves = self.drop_threshold is not None
        if found != planned and not (moves and sum(found) == sum(planned) and min(found) > 0):
            raise ValueError(f"connections are {found}, expected {planned}{' in all' if moves else ''}")

    def connections(self) -> list[int]:
        """Connections of each layer of the online network."""
        return [self._count(self.masks.get(i), plan) for i, plan in enumerate(self.plans)]

    def target_connections(self) -> list[int]:
        """Connections of each layer of the target network; 0 where there is none."""
        if self._target is None:
            return [0] * len(self.plans)
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

    def output_degrees(self) -> npt.NDArray[Any]:
        """How many units of the layer before each output is connected with, [outputs]."""
        plan, last = self.plans[-1], len(self.plans) - 1
        return output_degrees(self.masks[last], plan) if last in self.masks else np.full(plan.n_outputs, plan.n_inputs)
