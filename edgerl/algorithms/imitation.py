"""An actor alone that learns, by supervision, the actions it is shown, on the native engine, whose time follows the
connections, sparse from the first step.

It minimises the matching loss of its head h, the integral of h(u) − a over the sums u, whose gradient is the difference
of the actions: unlike that of their mean square, it does not vanish where tanh is flat (Auer, Herbster and Warmuth
1996).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.algorithms.native import NativeLayer, learner_config
from edgerl.algorithms.state import Arrays, take
from edgerl.algorithms.topology import LayerPlan
from edgerl.config import Config
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import CLIPPED_IMITATION, IMITATION, LearnerConfig, Library, ReplayStructure, library
from edgerl.policy.compact import Head

Array = npt.NDArray[Any]

RATE_INTERVAL = 100
"""Updates from one learning rate to the next."""

SETTLED = 0.75
"""Of all updates: after this share of them the topology stays as it is, and what has grown can learn."""


class Imitator:
    """The engine with a set of examples: rows of observation [n], as the first layer is given it, and action [m] in
    [−1, 1]."""

    def __init__(
        self,
        config: Config,
        plans: Sequence[LayerPlan],
        head: Head,
        updates: int,
        *,
        loaded: Library | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        """config: of the evolution, the optimiser and the seed. updates: in all, over which the learning rate falls to
        0. `loaded` with `dtype` float64 is for comparison with PyTorch.

        Raises MissingExtraError where the engine was not built.
        """
        engine = library() if loaded is None else loaded
        self.plans, self._updates, self._rate = tuple(plans), updates, config.learning.learning_rate
        self.arena = LearnerArena(engine, self._engine_config(config, head, engine), dtype)
        self._layers = [NativeLayer(*pair) for pair in zip(plans, self.arena.layers[0], strict=True)]

    def _engine_config(self, config: Config, head: Head, engine: Library) -> LearnerConfig:
        isa = engine.isa()
        made = learner_config(config, (self.plans, ()), self.plans[-1].n_outputs, isa, engine.lanes(isa))
        made.algorithm = IMITATION if head == "tanh" else CLIPPED_IMITATION
        made.policy_delay, made.last_update = 1, max(round(SETTLED * self._updates), 1)
        return made

    @property
    def updates(self) -> int:
        """That were made."""
        return int(self.arena.progress.updates)

    @property
    def abandoned(self) -> int:
        """Updates that met a number that is not finite."""
        return int(self.arena.progress.abandoned)

    def learn(self, examples: Array, count: int) -> None:
        """`count` updates on batches of these examples, float32 [rows, n + m]."""
        rows = np.ascontiguousarray(examples, np.float32)
        replay = ReplayStructure(rows=rows.ctypes.data, room=len(rows), capacity=len(rows), count=len(rows))
        for update in range(self.updates, self.updates + count):
            if update % RATE_INTERVAL == 0:
                self._set_rate()
            self.arena.step(replay)

    @property
    def loss(self) -> float:
        """The mean square difference of the actions in the batches since `reset_loss`."""
        progress = self.arena.progress
        return float(progress.actor_loss_sum / max(progress.actor_losses, 1))

    def reset_loss(self) -> None:
        """Begin the mean again."""
        progress = self.arena.progress
        progress.actor_loss_sum, progress.actor_losses = 0.0, 0
        self.arena.progress = progress

    def _set_rate(self) -> None:
        begun = self.updates // RATE_INTERVAL * RATE_INTERVAL
        self.arena.config.actor.learning_rate = self._rate * (1 - begun / self._updates)
        self.arena.reconfigure()

    def layers(self) -> list[tuple[Array, Array]]:
        """(weights [outputs, inputs], bias [outputs]), float32."""
        return [layer.folded() for layer in self._layers]

    def state(self) -> Arrays:
        """What `load_state` goes on from."""
        return {"engine": self.arena.state.copy()}

    def load_state(self, arrays: Arrays) -> None:
        """Undo `state`; nothing in it is trusted. Raises ConfigError, ValueError where it is of another student."""
        found = take(dict(arrays), "engine", np.dtype(np.uint8), self.arena.state.shape)

        def copy(to: Array, offset: int) -> None:
            to[...] = found[offset : offset + len(to)]

        self.arena.load_state(copy)
        self._set_rate()
