"""DS-TD3 once more, in float64 numpy and as plainly as possible: the source that the PyTorch engine is compared with.

Backpropagation by hand, Adam by its paper, sorting instead of selecting, Python loops over connections. It shares only
the generator and two data types with the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgerl.edge.continual.replay import Batch, Boundary
from edgerl.edge.engine.random import Draws, Network, Purpose

Array = np.ndarray[Any, Any]


@dataclass
class Parameter:
    """A weight matrix or a bias with its Adam state, its mask, its target and the target's support."""

    value: Array
    mask: Array
    target: Array
    support: Array

    def __post_init__(self) -> None:
        self.first, self.second, self.steps = np.zeros_like(self.value), np.zeros_like(self.value), 0

    def adam(self, gradient: Array, rate: float, decay: float) -> None:
        self.steps += 1
        gradient = (gradient + decay * self.value) * self.mask
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        self.value = self.value - rate * first / (np.sqrt(second) + 1e-8)


def forward(weights: list[Array], biases: list[Array], x: Array) -> tuple[Array, list[Array]]:
    """Outputs, and every layer's inputs."""
    inputs = []
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        inputs.append(x)
        x = x @ weight.T + bias
        if index < len(weights) - 1:
            x = np.where(x > 0, x, 0)
    return x, inputs


def backward(weights: list[Array], inputs: list[Array], gradient: Array) -> tuple[list[Array], list[Array], Array]:
    """Gradients of weights, biases and inputs from the gradient of the outputs."""
    weight_gradients, bias_gradients = [], []
    for index in range(len(weights) - 1, -1, -1):
        weight_gradients.insert(0, gradient.T @ inputs[index])
        bias_gradients.insert(0, gradient.sum(axis=0))
        gradient = gradient @ weights[index]
        if index > 0:
            gradient = gradient * (inputs[index] > 0)
    return weight_gradients, bias_gradients, gradient


class OracleNetwork:
    """One network; block-wise masks are kept per weight here."""

    def __init__(self, weights: list[Array], biases: list[Array], masks: list[Array], block: int, network: Network):
        self.block, self.network = block, network
        self.weights = [Parameter(w.copy(), m.copy(), w.copy(), m.copy()) for w, m in zip(weights, masks, strict=True)]
        self.biases = [Parameter(b.copy(), np.ones(b.shape, bool), b.copy(), np.ones(b.shape, bool)) for b in biases]

    def online(self, x: Array) -> tuple[Array, list[Array]]:
        return forward([p.value for p in self.weights], [p.value for p in self.biases], x)

    def target(self, x: Array) -> Array:
        return forward([p.target for p in self.weights], [p.target for p in self.biases], x)[0]

    def step(self, weight_gradients: list[Array], bias_gradients: list[Array], rate: float, decay: float) -> None:
        for parameter, gradient in zip(self.weights, weight_gradients, strict=True):
            parameter.adam(gradient * parameter.mask, rate, decay)
        for parameter, gradient in zip(self.biases, bias_gradients, strict=True):
            parameter.adam(gradient, rate, decay)

    def blocks(self, shape: tuple[int, ...]) -> list[list[list[tuple[int, int]]]]:
        """Per width class, the blocks in order of position, each a list of (output, input)."""
        full: list[list[tuple[int, int]]] = []
        narrow: list[list[tuple[int, int]]] = []
        for start in range(0, shape[0], self.block):
            rows = range(start, min(start + self.block, shape[0]))
            for column in range(shape[1]):
                (full if len(rows) == self.block else narrow).append([(row, column) for row in rows])
        return [full, narrow]

    def evolve(
        self, fraction: float, update: int, draws: Draws, gradients: list[Array] | None, *, at_least_one: bool
    ) -> None:
        for layer, p in enumerate(self.weights):
            if p.mask.all():
                continue
            classes = self.blocks(p.value.shape)
            size = lambda b: sum(abs(p.value[at]) for at in b) / len(b)  # noqa: E731, B023
            present = [[b for b in blocks if p.mask[b[0]]] for blocks in classes]
            absent = [[b for b in blocks if not p.mask[b[0]]] for blocks in classes]
            ranked = sorted((b for blocks in present for b in blocks), key=size)
            if self.block == 1:
                value = lambda b: p.value[b[0]]  # noqa: E731, B023
                positive = [b for b in ranked if value(b) > 0]
                negative = [b for b in ranked if value(b) < 0]
                drop = [b for b in ranked if value(b) == 0]
                drop += (
                    positive[: int(fraction * len(positive) + 0.5)] + negative[: int(fraction * len(negative) + 0.5)]
                )
            else:
                drop = ranked[: int(fraction * len(ranked) + 0.5)]
            growing = [b for b in ranked if absent[b not in classes[0]]]
            if at_least_one and len(growing) > 1 and not any(b in growing for b in drop):
                drop = growing[:1]
            for kind, blocks in enumerate(classes):
                dropped = sorted((b for b in drop if b in blocks), key=size)[: len(absent[kind])]
                if gradients is not None:
                    score = lambda b: -sum(abs(gradients[layer][at]) for at in b)  # noqa: E731, B023
                    grown = sorted(absent[kind], key=score)[: len(dropped)]
                else:
                    words = draws.words(
                        Purpose.GROWTH, update, len(dropped), network=self.network, layer=layer + (kind << 16)
                    )
                    grown = [absent[kind][rank] for rank in floyd(words.tolist(), len(absent[kind]))]
                for block in dropped + grown:
                    for at in block:
                        p.mask[at] = block in grown
                        p.value[at] = p.first[at] = p.second[at] = 0

    def soft_update(self, tau: float) -> None:
        for p in self.weights + self.biases:
            p.target = p.target + tau * (p.value - p.target)
        for p in self.weights:
            if p.mask.all():
                continue
            p.support = p.support | p.mask
            for blocks in self.blocks(p.value.shape):
                wanted = sum(bool(p.mask[b[0]]) for b in blocks)
                union = sorted((b for b in blocks if p.support[b[0]]), key=lambda b: sum(abs(p.target[at]) for at in b))
                for block in union[: len(union) - wanted]:
                    for at in block:
                        p.support[at], p.target[at] = False, 0


def floyd(words: list[int], population: int) -> list[int]:
    """Floyd's sample, by its description."""
    chosen: list[int] = []
    for word, top in zip(words, range(population - len(words), population), strict=True):
        candidate = (word * (top + 1)) >> 32
        chosen.append(top if candidate in chosen else candidate)
    return sorted(chosen)


@dataclass
class Transition:
    """One step as the environment gave it."""

    observation: Array
    action: Array
    reward: float
    following: Array
    boundary: Boundary


def window(steps: Sequence[Transition], discount: float) -> tuple[Array, Array, float, Array, float]:
    """Observation, action, return, last observation and its discount, of steps up to the first boundary."""
    total, factor = 0.0, 1.0
    for step in steps:
        total += factor * step.reward
        factor *= discount
        if step.boundary != Boundary.CONTINUES:
            break
    return steps[0].observation, steps[0].action, total, step.following, factor * (step.boundary != Boundary.TERMINATED)


class Oracle:
    """The whole agent; `update` takes a batch and the noise that the engine drew."""

    def __init__(self, agent: Any) -> None:
        """Start where `agent` stands, before its first update."""
        self.config, self.draws, self.updates, self.actor_due = agent.config, Draws(agent.config.seed), 0, False
        networks = []
        for (_, own), network in zip(agent.networks, Network, strict=True):
            weights = [w.detach().numpy().astype(np.float64) for w in own.online.weights]
            masks = [
                np.repeat(own.masks[i], own.plans[i].block, axis=0)[: w.shape[0]]
                if i in own.masks
                else np.ones_like(w, bool)
                for i, w in enumerate(weights)
            ]
            biases = [b.detach().numpy().astype(np.float64) for b in own.online.biases]
            networks.append(OracleNetwork(weights, biases, masks, agent.config.network.block, network))
        self.actor, *self.critics = networks

    def batch(self, transitions: Sequence[Transition], starts: Sequence[int]) -> Batch:
        """The windows of the next update that begin at `starts`, oldest transition first."""
        learning = self.config.learning
        length = 1 if self.updates < learning.n_step_delay else learning.n_step
        windows = [window(transitions[start : start + length], learning.discount) for start in starts]
        return Batch(*(np.array(part) for part in zip(*windows, strict=True)))

    def drop_fraction(self) -> float:
        evolution, schedule = self.config.evolution, self.config.schedule
        if evolution.drop_schedule == "constant":
            return float(evolution.drop_fraction)
        share = self.updates / (schedule.steps - schedule.start_steps)
        return float(evolution.drop_fraction * (1 + np.cos(np.pi * share)) / 2)

    def evolve(self, network: OracleNetwork, gradients: list[Array]) -> None:
        evolution, fraction = self.config.evolution, self.drop_fraction()
        grown = gradients if evolution.growth == "gradient" else None
        at_least_one = fraction > 0 and fraction > evolution.drop_fraction / 2 - 1e-12
        network.evolve(fraction, self.updates, self.draws, grown, at_least_one=at_least_one)

    def update(self, batch: Any, noise: Array) -> None:
        learning, evolution = self.config.learning, self.config.evolution
        self.updates += 1
        state, action, following = (
            np.asarray(part, np.float64) for part in (batch.observations, batch.actions, batch.next_observations)
        )
        next_action = np.clip(np.tanh(self.actor.target(following)) + noise, -1, 1)
        inputs = np.concatenate([following, next_action], axis=1)
        value = np.minimum(*(critic.target(inputs)[:, 0] for critic in self.critics))
        target = np.asarray(batch.returns, np.float64) + np.asarray(batch.discounts, np.float64) * value
        dynamic = self.config.network.topology == "dynamic"
        for critic in self.critics:
            q, saved = critic.online(np.concatenate([state, action], axis=1))
            gradient = 2 * (q - target[:, None]) / len(q)
            weight_gradients, bias_gradients, _ = backward([p.value for p in critic.weights], saved, gradient)
            critic.step(weight_gradients, bias_gradients, learning.learning_rate, learning.weight_decay)
            if dynamic and self.updates % evolution.evolution_interval == 0:
                self.evolve(critic, weight_gradients)
                self.actor_due = True
        if self.updates % learning.policy_delay == 0:
            self._update_actor(state)
            for network in (self.actor, *self.critics):
                network.soft_update(learning.soft_update)

    def _update_actor(self, state: Array) -> None:
        learning = self.config.learning
        before, saved = self.actor.online(state)
        action = np.tanh(before)
        q1 = self.critics[0]
        q, q_saved = q1.online(np.concatenate([state, action], axis=1))
        _, _, gradient = backward([p.value for p in q1.weights], q_saved, np.full_like(q, -1 / len(q)))
        gradient = gradient[:, state.shape[1] :] * (1 - action**2)
        weight_gradients, bias_gradients, _ = backward([p.value for p in self.actor.weights], saved, gradient)
        self.actor.step(weight_gradients, bias_gradients, learning.learning_rate, learning.weight_decay)
        if self.actor_due:
            self.evolve(self.actor, weight_gradients)
            self.actor_due = False
