"""What `--observations` reads, beyond arrays and tables (test_distill.py)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl.compression.lessons import read_observations
from edgerl.edge.continual.replay import Boundary
from edgerl.edge.continual.transitions import RecordFormat, Transitions
from edgerl.errors import ConfigError
from edgerl.policy.compact import CompactPolicy
from edgerl.training.recorded import evenly
from tests.policy.policies import random_policy

LOG = Path("transitions.log")


@pytest.mark.parametrize("offset", [None, 1e6])
def test_observations_of_a_learners_log(offset: float | None) -> None:
    """What a robot met: the log has them less the offset, and so does what is read."""
    seen = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    with closing(Transitions(RecordFormat(4, 2), 20, 0, path=LOG)) as log:
        for observation in seen:
            log.append(observation, np.zeros(2), 0.0, observation, Boundary.CONTINUES)

    def policy(n: int) -> CompactPolicy:
        return replace(random_policy(0, (n, 8, 2)), observation_offset=None if offset is None else np.full(n, offset))

    found = read_observations(LOG, policy(4))
    np.testing.assert_allclose(found, seen, atol=0 if offset is None else 1e-9)
    with pytest.raises(ConfigError, match=r"of shape \[12, 4\]; expected \[any, 5\]"):
        read_observations(LOG, policy(5))


def test_a_spread_reaches_from_the_first_to_the_last() -> None:
    rows = np.arange(100).reshape(-1, 1)
    assert rows[evenly(len(rows), 5)].ravel().tolist() == [0, 24, 49, 74, 99]
    assert len(rows[evenly(len(rows), 1000)]) == 100
