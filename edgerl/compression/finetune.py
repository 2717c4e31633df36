"""Quantisation-aware fine-tuning: the smaller weights learn to act as the policy did, in the states that they lead to.

The student's weights are rounded in every pass, as its file will round them, and the gradients go through the rounding
as if it were not there (the straight-through estimator: Bengio et al. 2013). The teacher is the policy as it was, and
what is learned is its actions, by least squares. The states begin with the teacher's own; after each round those are
added that the student meets, and the teacher says what it would have done there (DAgger: Ross et al. 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention

from edgerl.compression.lessons import OBSERVATIONS_OF_A_ROUND, Pause
from edgerl.environments.make import Environment
from edgerl.policy.compact import CompactPolicy, Layer
from edgerl.policy.loss import action_span
from edgerl.policy.pruning import LARGEST_VALUES, Affine, Storage, network_of, stored
from edgerl.training.subject import visited

Array = npt.NDArray[Any]
Tensor = torch.Tensor

ROUNDS, STEPS, BATCH = 3, 500, 256
"""Of states; of Adam in each round; states in a step."""

LEARNING_RATE = 1e-4
"""At the first step; it falls along half a cosine to zero at the last one."""


def finetune(
    teacher: CompactPolicy,
    start: CompactPolicy,
    storage: Sequence[Storage],
    observations: Array,
    environment: Environment | None,
    pause: Pause = lambda: None,
) -> CompactPolicy:
    """`start` (fp32), its weights fine-tuned to act as `teacher` does once they are stored as `storage` says. The two
    have the same actions, and offset.

    observations: of the teacher [count, n], less its offset. environment: where the student meets its own states; None:
    there are only the given ones. pause: called before each step, and may raise to end it. Weights that are zero stay
    so. The same arguments give the same policy.
    """
    half = action_span(teacher) / 2
    student = _Student(start, storage, half)
    optimizer = torch.optim.Adam(student.parameters, LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ROUNDS * STEPS)
    rng = np.random.default_rng(0)
    for number in range(ROUNDS):
        inputs = torch.from_numpy(start.normalised(observations.astype(np.float32)))
        wanted = torch.from_numpy((teacher.without_offset(observations) / half).astype(np.float32))
        for _ in range(STEPS):
            pause()
            rows = rng.integers(len(inputs), size=BATCH)
            loss = F.mse_loss(student(inputs[rows]), wanted[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if environment is not None and number + 1 < ROUNDS:
            met = visited(environment, student.policy(), OBSERVATIONS_OF_A_ROUND, 0.0)
            observations = np.concatenate([observations, met])
    return student.policy()


class _Student:
    """A policy's network with weights that are rounded in every pass."""

    def __init__(self, start: CompactPolicy, storage: Sequence[Storage], half: Array) -> None:
        """half: of the range of each action [m]."""
        self.start, self.storage = start, storage
        pairs = [[torch.tensor(part) for part in affine] for affine in network_of(start)]
        self.present = [weight != 0 for weight, _ in pairs]
        self.exact = [None if each.exact is None else torch.from_numpy(each.exact) for each in storage]
        self.affine = [(weight.requires_grad_(), bias.requires_grad_()) for weight, bias in pairs]
        self.half = torch.from_numpy(half.astype(np.float32))
        self.middle = 0 if start.head == "clip" else torch.from_numpy(start.action_scaling[0] / self.half.numpy())

    @property
    def parameters(self) -> list[Tensor]:
        """Weights and biases."""
        return [part for affine in self.affine for part in affine]

    def __call__(self, x: Tensor) -> Tensor:
        """Actions [batch, m], in shares of half their range, for normalised observations [batch, n]."""
        *hidden, _ = self.start.layers
        for index, (_, bias) in enumerate(self.affine):
            x = F.linear(x, self._rounded(index), bias)
            if index < len(hidden):
                x = _between(hidden[index], x)
        if self.start.head == "tanh":
            return x.tanh() + self.middle
        low, high = (torch.from_numpy(bound) for bound in (self.start.action_low, self.start.action_high))
        return x.clamp(low, high) / self.half

    def _rounded(self, index: int) -> Tensor:
        """A layer's weight as it will be stored; its gradient is that of the weight itself."""
        weight, exact = self.affine[index][0] * self.present[index], self.exact[index]
        small = weight.detach() if exact is None else weight.detach() * ~exact
        scale = small.abs().amax(dim=1, keepdim=True) / LARGEST_VALUES[self.storage[index].precision]
        rounded = torch.where(scale > 0, (small / scale).round() * scale, 0)
        error = rounded - small
        return weight + error

    def policy(self) -> CompactPolicy:
        """As it will be stored."""
        return stored(self.start, self._network(), self.storage)

    def _network(self) -> list[Affine]:
        with torch.no_grad():
            return [
                ((weight * present).numpy().copy(), bias.numpy().copy())
                for (weight, bias), present in zip(self.affine, self.present, strict=True)
            ]


def _between(layer: Layer, sums: Tensor) -> Tensor:
    """What the next layer is given."""
    if layer.norm is not None:
        scale, shift = torch.from_numpy(layer.norm.scale), torch.from_numpy(layer.norm.shift)
        sums = F.layer_norm(sums, sums.shape[-1:], scale, shift, layer.norm.epsilon)
    return sums if layer.activation == "identity" else getattr(F, layer.activation)(sums)
