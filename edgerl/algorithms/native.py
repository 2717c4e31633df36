"""The native engine as the trainer's agent: truly sparse DS-TD3, whose time and memory follow the connections.

It runs the algorithms of `td3.py`, `sac.py` and `crossq.py`, drawn from the same generator, and its state has the same
names and the same layout; tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.evolution import last_update
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.state import Arrays, take
from edgerl.algorithms.topology import LayerPlan, Mask, input_degrees, output_degrees, plan_networks
from edgerl.config import Algorithm, Config, DropCriterion, DropSchedule, Norm, Optimiser
from edgerl.edge.continual.replay import Replay
from edgerl.edge.engine.arena import NETWORKS, LayerArrays, LearnerArena, rows_of
from edgerl.edge.engine.growth import GROWTH_RULES
from edgerl.edge.engine.library import LayerPlanStructure, LearnerConfig, Library, Progress, library
from edgerl.edge.engine.random import Draws
from edgerl.errors import ConfigError
from edgerl.policy.activation import ACTIVATIONS

Array = npt.NDArray[Any]

NORM_PARAMETERS, RUNNING = ("norm_scale", "norm_shift"), ("running_mean", "running_variance")
"""In the order in which the engine has them."""

_TEMPERATURE = ("log_temperature", "temperature_first_moment", "temperature_second_moment")


def stored_plan(plan: LayerPlan) -> LayerPlan:
    """How the engine keeps a layer: dense ones in blocks of four, which are faster and have no topology to change."""
    if not plan.is_dense:
        return plan
    block = 4 if plan.n_outputs >= 4 else 1
    full_rows, narrow_width = divmod(plan.n_outputs, block)
    narrow_blocks = plan.n_inputs if narrow_width else 0
    return LayerPlan(plan.n_inputs, plan.n_outputs, block, full_rows * plan.n_inputs, narrow_blocks)


def learner_config(
    config: Config, plans: tuple[Sequence[LayerPlan], Sequence[LayerPlan]], n_actions: int, isa: int, lanes: int
) -> LearnerConfig:
    """The engine's configuration of a run; plans of the actor and of each critic."""
    learning, evolution = config.learning, config.evolution
    actor, critic = ([stored_plan(plan) for plan in network] for network in plans)
    result = LearnerConfig(
        seed=config.seed,
        evolution_interval=evolution.evolution_interval if any(config.network.evolving) else 0,
        last_update=last_update(config),
        n_step_delay=learning.n_step_delay,
        n_observations=actor[0].n_inputs,
        n_actions=n_actions,
        batch=learning.batch_size,
        policy_delay=learning.policy_delay,
        n_step=learning.n_step,
        lanes=lanes,
        isa=isa,
        growth=list(GROWTH_RULES).index(evolution.growth),
        drop_criterion=get_args(DropCriterion).index(evolution.drop),
        drop_schedule=get_args(DropSchedule).index(evolution.drop_schedule),
        optimiser=get_args(Optimiser).index(learning.optimiser),
        algorithm=get_args(Algorithm).index(config.algorithm),
        activation=list(ACTIVATIONS).index(config.network.activation),
        initial_log_temperature=math.log(learning.initial_temperature),
        target_entropy=learning.target_entropy_of(n_actions),
        discount=learning.discount,
        soft_update=learning.soft_update,
        weight_decay=learning.weight_decay,
        first_moment_decay=learning.beta1,
        dropout=config.network.dropout,
        gradient_clip=learning.gradient_clip or 0.0,
        target_noise=learning.target_noise,
        target_noise_clip=learning.target_noise_clip,
        drop_fraction=evolution.drop_fraction,
    )
    norms: tuple[Norm, Norm] = (config.network.actor_norm, config.network.critic_norm)
    parts = ((result.actor, actor), (result.critic, critic))
    for (stored, own), rate, norm, evolves in zip(
        parts, learning.learning_rates, norms, config.network.evolving, strict=True
    ):
        stored.learning_rate, stored.n_layers, stored.evolves = rate, len(own), evolves
        stored.norm = get_args(Norm).index(norm)
        for index, plan in enumerate(own):
            stored.layers[index] = LayerPlanStructure(
                plan.n_inputs, plan.n_outputs, plan.block, plan.full_blocks, plan.narrow_blocks
            )
    return result


def _weight_order(block_rows: Array, block: int, n_outputs: int) -> Array:
    """Where the weights lie in [blocks, block], flat, in the order of a matrix [outputs, inputs]; without padding."""
    outputs = (block_rows[:, None] * block + np.arange(block)).reshape(-1)
    order = np.argsort(outputs, kind="stable")
    return order[outputs[order] < n_outputs]


def _mask_of(block_rows: Array, columns: Array, plan: LayerPlan) -> Mask:
    mask = np.zeros((plan.block_rows, plan.n_inputs), bool)
    mask[block_rows, columns] = True
    return mask


def _bits(words: Array, count: int) -> Array:
    """The first `count` bits of 32-bit words, as bool."""
    return np.unpackbits(words.view(np.uint8), count=count, bitorder="little").astype(bool)


class NativeLayer:
    """One layer of one network in the arena; masks are of blocks [block rows, inputs]."""

    def __init__(self, plan: LayerPlan, arrays: LayerArrays) -> None:
        """`plan` is the run's, which for a dense layer may have other blocks than the engine's."""
        self.plan, self._arrays = plan, arrays
        self.is_sparse, self.has_target = not plan.is_dense, arrays.target is not None

    @property
    def mask(self) -> Mask:
        """The connections of a sparse layer."""
        return _mask_of(self._arrays.block_rows(), self._arrays.columns, self.plan)

    @property
    def target_mask(self) -> Mask:
        """The support of its target."""
        return _mask_of(*self._target_blocks()[:2], self.plan)

    def _target_blocks(self) -> tuple[Array, Array, Array]:
        """(rows, columns, values) of the target's blocks, in the order of their positions."""
        a = self._arrays
        assert a.target is not None
        rows, columns, values = a.block_rows(), a.columns, a.target
        if a.in_target is None or a.extra_starts is None or a.extra_columns is None or a.extra_target is None:
            return rows, columns, values
        own, extra = _bits(a.in_target, len(columns)), int(a.extra_starts[-1])
        rows = np.concatenate([rows[own], rows_of(a.extra_starts)])
        columns = np.concatenate([columns[own], a.extra_columns[:extra]])
        order = np.lexsort((columns, rows))
        return rows[order], columns[order], np.concatenate([values[own], a.extra_target[:extra]])[order]

    def matrix(self) -> Array:
        """The weights [outputs, inputs]."""
        return self._arrays.matrix()

    def folded(self) -> tuple[Array, Array]:
        """(weights [outputs, inputs], bias [outputs]), float32, for a policy file: a batch norm is folded in."""
        return self._arrays.affine()

    def state(self) -> Iterator[tuple[str, Array]]:
        """The parts of a checkpoint, named and laid out as the PyTorch engine's."""
        a, n = self._arrays, self.plan.n_outputs
        if self.is_sparse:
            yield "mask", np.packbits(self.mask)
        order = _weight_order(a.block_rows(), a.block, n)
        for name in ("weight", "first_moment", "second_moment"):
            yield _state_name("weight", name), getattr(a, name).reshape(-1)[order].reshape(self._shape)
        if self.has_target:
            if self.is_sparse:
                yield "target_mask", np.packbits(self.target_mask)
            target_rows, _, target = self._target_blocks()
            order = _weight_order(target_rows, a.block, n)
            yield "target_weight", target.reshape(-1)[order].reshape(self._shape)
        yield from ((name, array.copy()) for name, array in self._vectors())

    def _vectors(self) -> Iterator[tuple[str, Array]]:
        """Views of everything that there is one of per output or input, biases and what a norm has: (name, array)."""
        a, n = self._arrays, self.plan.n_outputs
        of_norm = (a.norm, a.norm_first_moment, a.norm_second_moment, a.norm_target)
        parameters: dict[str, tuple[Array | None, ...]] = {
            "bias": (a.bias, a.bias_first_moment, a.bias_second_moment, a.bias_target)
        }
        if a.norm is not None:
            parameters |= {
                name: tuple(None if part is None else part[row] for part in of_norm)
                for row, name in enumerate(NORM_PARAMETERS)
            }
        for name, parts in parameters.items():
            names = (name, f"{name}_first_moment", f"{name}_second_moment", f"target_{name}")
            length = n if name == "bias" or a.running is None else self.plan.n_inputs
            yield from ((own, part[:length]) for own, part in zip(names, parts, strict=True) if part is not None)
        if a.running is not None:
            yield from zip(RUNNING, a.running, strict=True)

    @property
    def parameters(self) -> tuple[str, ...]:
        """What it learns, by name."""
        return ("weight", "bias", *(() if self._arrays.norm is None else NORM_PARAMETERS))

    @property
    def _shape(self) -> tuple[int, ...]:
        return (-1,) if self.is_sparse else (self.plan.n_outputs, self.plan.n_inputs)

    def load_state(self, arrays: Arrays) -> None:
        """Undo `state`. Raises ValueError where a part is missing or is not what fits here."""
        a, n = self._arrays, self.plan.n_outputs
        if self.is_sparse:
            self._set_topology(self._take_mask(arrays, "mask"))
        order = _weight_order(a.block_rows(), a.block, n)
        shape = (len(order),) if self.is_sparse else self._shape
        for name in ("weight", "first_moment", "second_moment"):
            values = take(arrays, _state_name("weight", name), a.weight.dtype, shape)
            getattr(a, name).reshape(-1)[order] = values.reshape(-1)
        if self.has_target:
            if self.is_sparse:
                self._set_target_topology(self._take_mask(arrays, "target_mask"))
            self._set_target(take(arrays, "target_weight", a.weight.dtype, shape).reshape(-1))
        for name, array in self._vectors():
            array[:] = take(arrays, name, array.dtype, array.shape)

    def _take_mask(self, arrays: Arrays, name: str) -> Mask:
        size = self.plan.block_rows * self.plan.n_inputs
        bits = np.unpackbits(take(arrays, name, np.dtype(np.uint8), (-(-size // 8),)), count=size)
        mask = bits.astype(bool).reshape(self.plan.block_rows, self.plan.n_inputs)
        for rows, planned, _ in self.plan.classes():
            if np.count_nonzero(mask[rows]) != planned:
                raise ValueError(f"{name} has {np.count_nonzero(mask[rows])} blocks, expected {planned}")
        return mask

    def _set_topology(self, mask: Mask) -> None:
        self._arrays.starts[1:] = np.cumsum(mask.sum(axis=1))
        self._arrays.columns[:] = np.nonzero(mask)[1]

    def _set_target_topology(self, target_mask: Mask) -> None:
        a, mask = self._arrays, self.mask
        assert a.in_target is not None
        assert a.extra_starts is not None
        assert a.extra_columns is not None
        bits = np.zeros(32 * len(a.in_target), bool)
        bits[: len(a.columns)] = target_mask[mask]
        a.in_target[:] = np.packbits(bits, bitorder="little").view(np.uint32)
        extra = target_mask & ~mask
        a.extra_starts[1:] = np.cumsum(extra.sum(axis=1))
        a.extra_columns[: a.extra_starts[-1]] = np.nonzero(extra)[1]

    def _set_target(self, values: Array) -> None:
        """Target values, in the order of a matrix, to where the support has them."""
        a = self._arrays
        assert a.target is not None
        rows, columns, blocks = self._target_blocks()
        blocks = np.zeros_like(blocks)
        blocks.reshape(-1)[_weight_order(rows, a.block, self.plan.n_outputs)] = values
        if a.in_target is None or a.extra_starts is None or a.extra_target is None:
            a.target[...] = blocks
            return
        is_own = self.mask[rows, columns]
        a.target[...] = 0
        a.target[_bits(a.in_target, len(a.columns))] = blocks[is_own]
        a.extra_target[: a.extra_starts[-1]] = blocks[~is_own]

    def connections(self) -> int:
        """Weights that exist."""
        return self._count(self._arrays.block_rows())

    def target_connections(self) -> int:
        """Weights that exist in the target; 0 where there is none."""
        return 0 if not self.has_target else self._count(self._target_blocks()[0])

    def _count(self, block_rows: Array) -> int:
        block, n = self._arrays.block, self.plan.n_outputs
        return int(np.minimum(block, n - block * block_rows).sum())


def _state_name(parameter: str, part: str) -> str:
    return parameter if part == parameter else f"{parameter}_{part}"


class NativeNetwork:
    """One network of the agent, for metrics and checkpoints."""

    def __init__(self, plans: Sequence[LayerPlan], layers: Sequence[LayerArrays]) -> None:
        self.plans = tuple(plans)
        self.layers = tuple(NativeLayer(*pair) for pair in zip(plans, layers, strict=True))
        self._ever_active = {i: layer.mask for i, layer in enumerate(self.layers) if layer.is_sparse}

    def note_topology(self) -> None:
        """Remember which blocks ever existed."""
        for index in self._ever_active:
            self._ever_active[index] |= self.layers[index].mask

    def share_ever_active(self) -> float:
        """Blocks that ever existed / blocks that could, over the sparse layers; 1 where every layer is dense."""
        possible = sum(mask.size for mask in self._ever_active.values())
        return sum(int(mask.sum()) for mask in self._ever_active.values()) / possible if possible else 1.0

    def shares_ever_active(self) -> list[float]:
        """Of each layer: blocks that ever existed / blocks that could; 1 where it is dense."""
        return [float(self._ever_active[i].mean()) if i in self._ever_active else 1.0 for i in range(len(self.plans))]

    def input_degrees(self) -> Array:
        """How many units of the first layer each input is connected with, [inputs]."""
        plan = self.plans[0]
        return np.full(plan.n_inputs, plan.n_outputs) if plan.is_dense else input_degrees(self.layers[0].mask, plan)

    def output_degrees(self) -> Array:
        """How many units of the layer before each output is connected with, [outputs]."""
        plan = self.plans[-1]
        return np.full(plan.n_outputs, plan.n_inputs) if plan.is_dense else output_degrees(self.layers[-1].mask, plan)

    def connections(self) -> list[int]:
        """Connections of each layer."""
        return [layer.connections() for layer in self.layers]

    def target_connections(self) -> list[int]:
        """Connections of each layer of the target."""
        return [layer.target_connections() for layer in self.layers]

    def state(self, steps: int) -> Arrays:
        """Parts of a checkpoint; steps: of the optimiser."""
        arrays = {f"{i}.ever_active": np.packbits(mask) for i, mask in self._ever_active.items()}
        for index, layer in enumerate(self.layers):
            arrays |= {f"{index}.{name}": array for name, array in layer.state()}
            arrays |= {f"{index}.{name}_steps": np.array(steps, np.float32) for name in layer.parameters}
        return arrays

    def load_state(self, arrays: Arrays, steps: int) -> None:
        """Undo `state`. Raises ValueError where a part is missing, surplus or wrong."""
        for index, layer in enumerate(self.layers):
            own = {n: arrays.pop(n) for n in list(arrays) if n.startswith(f"{index}.")}
            own = {n.removeprefix(f"{index}."): array for n, array in own.items()}
            for name in layer.parameters:
                found = take(own, f"{name}_steps", np.dtype(np.float32), ())
                if found != np.float32(steps):
                    raise ValueError(f"{index}.{name}_steps is {found}, expected {steps}")
            if layer.is_sparse:
                size = self._ever_active[index].size
                bits = np.unpackbits(take(own, "ever_active", np.dtype(np.uint8), (-(-size // 8),)), count=size)
                self._ever_active[index] = bits.astype(bool).reshape(self._ever_active[index].shape)
            layer.load_state(own)
            if own:
                raise ValueError(f"tensor {min(own)[:40]!r} does not belong here")
        if arrays:
            raise ValueError(f"tensor {min(arrays)[:40]!r} does not belong here")


class NativeAgent:
    """The engine with the interface that the trainer needs; see `edgerl.algorithms.agent.Agent`."""

    def __init__(
        self,
        config: Config,
        n_observations: int,
        n_actions: int,
        *,
        loaded: Library | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        """`loaded` with `dtype` float64 is for comparison with other engines.

        Raises ConfigError, and MissingExtraError where the engine was not built.
        """
        self._library, self._dtype = library() if loaded is None else loaded, np.dtype(dtype)
        self.config, self.draws = config, Draws(config.seed)
        self.n_actions, self._plans = n_actions, plan_networks(config, n_observations, n_actions)
        self.arena, self._networks = self._begin()
        self.updates = 0
        self._actor_evolves = False  # the critics did; the actor will at its own next update

    def _begin(self) -> tuple[LearnerArena, dict[str, NativeNetwork]]:
        """A new learner, and its networks."""
        isa = self._library.isa()
        config = learner_config(self.config, self._plans, self.n_actions, isa, self._library.lanes(isa))
        arena = LearnerArena(self._library, config, self._dtype)
        actor, critic = self._plans
        plans = zip(NETWORKS, (actor, critic, critic), arena.layers, strict=True)
        return arena, {name: NativeNetwork(plan, layers) for name, plan, layers in plans}

    @property
    def networks(self) -> Iterator[tuple[str, NativeNetwork]]:
        """The networks with their names."""
        yield from self._networks.items()

    def act(self, observation: Array) -> Array:
        """The deterministic action [m] in [−1, 1] for an observation [n]."""
        return self.arena.act(observation)

    def explore(self, observation: Array, noise: Array) -> Array:
        """The action [m] in [−1, 1] that is tried in training; noise: standard normal numbers [m]."""
        if self.config.is_stochastic:
            return self.arena.sample(observation, noise)
        explored: Array = self.act(observation) + self.config.learning.exploration_noise * noise
        return np.minimum(np.maximum(explored, -1), 1).astype(np.float32)  # np.clip takes twice as long

    def learn(self, replay: Replay, normalizer: Normalizer | None = None) -> None:
        """One update on a mini-batch drawn from `replay`. Raises ValueError for one of another task."""
        sizes = self.arena.config.n_observations, self.arena.config.n_actions
        if (replay.n_observations, replay.n_actions) != sizes:
            raise ValueError(f"the replay is of {replay.n_observations}/{replay.n_actions} numbers; expected {sizes}")
        mean, scale = (None, None) if normalizer is None else (normalizer.mean, normalizer.scale)
        self.arena.step(replay.structure(mean, scale))
        self.updates += 1
        self._note_topology()

    def _note_topology(self) -> None:
        """Remember the topologies that an evolution step of the critics, or the actor's after it, left."""
        interval, delay = self.arena.config.evolution_interval, self.config.learning.policy_delay
        critics_evolved = interval > 0 and self.updates % interval == 0
        actor_evolved = (self._actor_evolves or critics_evolved) and self.updates % delay == 0
        if critics_evolved or actor_evolved:
            for network in self._networks.values():
                network.note_topology()
            self._actor_evolves = not actor_evolved

    @property
    def abandoned_updates(self) -> int:
        """Updates that met a loss or a gradient that is not finite, and were given up."""
        return int(self.arena.progress.abandoned)

    def actor_layers(self) -> list[tuple[Array, Array]]:
        """(weights [outputs, inputs], bias [outputs]) of the policy, float32; its last layer gives the actions."""
        *layers, (weight, bias) = [layer.folded() for layer in self._networks["actor"].layers]
        return [*layers, (weight[: self.n_actions], bias[: self.n_actions])]

    def state(self) -> Arrays:
        """Everything that a resumed run needs beside its configuration, as arrays named by network, layer and part."""
        progress = self.arena.progress
        arrays = {
            f"{name}.{part}": array
            for name, network in self.networks
            for part, array in network.state(self._steps(name, self.updates)).items()
        }
        counters = [self.updates, progress.evolution_is_due, progress.critic_losses, progress.actor_losses]
        arrays["agent.counters"] = np.array(counters, np.int64)
        arrays["agent.loss_sums"] = np.array([progress.critic_loss_sum, progress.actor_loss_sum])
        if self.config.is_stochastic:
            arrays["agent.temperature"] = np.array([getattr(progress, name) for name in _TEMPERATURE])
        return arrays

    def _steps(self, name: str, updates: int) -> int:
        """Steps that the network's optimiser made in so many updates."""
        return updates // self.config.learning.policy_delay if name == "actor" else updates

    def load_state(self, arrays: Arrays) -> None:
        """Undo `state`. Raises ValueError, and changes nothing, where the arrays are of another configuration."""
        counters = take(arrays := dict(arrays), "agent.counters", np.dtype(np.int64), (4,))
        sums = take(arrays, "agent.loss_sums", np.dtype(np.float64), (2,))
        has_one = self.config.is_stochastic
        temperature = take(arrays, "agent.temperature", np.dtype(np.float64), (3,)) if has_one else (0.0, 0.0, 0.0)
        updates, evolution_is_due, critic_losses, actor_losses = map(int, counters)
        if (counters < 0).any() or evolution_is_due > 1:
            raise ValueError(f"agent.counters is {counters.tolist()}; expected counts, and 0 or 1 as the second one")
        arena, networks = self._begin()
        for name, network in networks.items():
            own = {key: arrays.pop(key) for key in list(arrays) if key.startswith(f"{name}.")}
            steps = self._steps(name, updates)
            network.load_state({key.removeprefix(f"{name}."): array for key, array in own.items()}, steps)
        if arrays:
            raise ValueError(f"tensor {min(arrays)[:40]!r} does not belong here")
        try:
            arena.progress = Progress(
                updates=updates,
                evolution_is_due=evolution_is_due,
                critic_loss_sum=sums[0],
                actor_loss_sum=sums[1],
                critic_losses=critic_losses,
                actor_losses=actor_losses,
                **dict(zip(_TEMPERATURE, temperature, strict=True)),
            )
            arena.reopen()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        self.arena, self._networks = arena, networks
        self.updates, self._actor_evolves = updates, bool(evolution_is_due)

    @property
    def metrics(self) -> dict[str, float]:
        """The mean losses since `reset_metrics`, 0 where no update happened; the temperature as it is, if any."""
        progress = self.arena.progress
        found = {
            "critic_loss": progress.critic_loss_sum / max(progress.critic_losses, 1),
            "actor_loss": progress.actor_loss_sum / max(progress.actor_losses, 1),
        }
        if self.config.is_stochastic:
            with np.errstate(over="ignore"):  # of a run that diverged: infinity, as in PyTorch
                found["temperature"] = float(np.exp(progress.log_temperature))
        return found

    def reset_metrics(self) -> None:
        """Begin the means again."""
        progress = self.arena.progress
        progress.critic_loss_sum = progress.actor_loss_sum = 0.0
        progress.critic_losses = progress.actor_losses = 0
        self.arena.progress = progress
