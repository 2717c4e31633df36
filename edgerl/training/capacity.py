"""The dynamic capacity of the replay memory: how far the policy has moved away from what it once did, and what is then
dropped.

Source: Tan et al. (2023), RLx2, and its code; what they leave open is settled in docs/algorithm.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgerl.config import Config
from edgerl.edge.continual.replay import Array, Replay

OLDEST_BATCHES = 8
"""Batches of the oldest transitions that the policy is compared with."""

SHARE = 10
"""At a time a tenth of the transitions is dropped."""


def policy_distance(act: Callable[[Array], Array], replay: Replay, batch_size: int) -> float:
    """Half the mean square difference between the actions of the oldest transitions and those of the policy now; NaN
    without any transition.

    act: the policy's action [m] in [−1, 1] for an observation [n] as the replay has it.
    """
    oldest = replay.rows(np.arange(min(OLDEST_BATCHES * batch_size, replay.size)))
    if not len(oldest):
        return float("nan")
    n, m = replay.n_observations, replay.n_actions
    own = np.stack([act(observation) for observation in oldest[:, :n]])
    return float(np.square(own - oldest[:, n : n + m]).mean(dtype=np.float64)) / 2


def drop_oldest(config: Config, step: int, act: Callable[[Array], Array], replay: Replay) -> None:
    """Drop a tenth of the transitions, the oldest, where a check is due after `step` steps, learning has begun, and the
    policy distance is above what is allowed; never one of the `replay_minimum` newest."""
    schedule = config.schedule
    is_due = step % schedule.replay_check_interval == 0 and step > schedule.start_steps
    spare = replay.size - schedule.replay_minimum
    if schedule.replay_distance is None or not is_due or spare <= 0:
        return
    if policy_distance(act, replay, config.learning.batch_size) > schedule.replay_distance:
        replay.drop(min(replay.size // SHARE, spare))
