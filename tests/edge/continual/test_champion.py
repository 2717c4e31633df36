"""Champion: a copy of the actor whose room is enough for whatever the actor becomes."""

from __future__ import annotations

import numpy as np
import pytest

from edgerl.edge.continual.champion import Champion
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import library
from tests.edge.learners import HIGH, LOW, learner_config


@pytest.mark.parametrize("block", [1, 4])
def test_weights_that_are_zero_when_it_is_made_may_become_others(block: int) -> None:
    """As grown connections do: they begin at zero."""
    arena = LearnerArena(library(), learner_config(block=block))
    full = Champion(library(), arena, (LOW, HIGH), (None, None))
    kept = [layer.weight.copy() for layer in arena.layers[0]]
    for layer in arena.layers[0]:
        layer.weight[:] = 0
    champion = Champion(library(), arena, (LOW, HIGH), (None, None))
    assert champion.n_bytes == full.n_bytes
    x = np.array([0.5, -1, 2], np.float32)
    before = champion(x)
    for layer, weight in zip(arena.layers[0], kept, strict=True):
        layer.weight[:] = weight
    assert champion(x).tobytes() == before.tobytes()
    champion.copy_actor()
    assert champion(x).tobytes() == full(x).tobytes() != before.tobytes()
    centre, half_range = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    np.testing.assert_allclose(champion(x), centre + half_range * arena.act(x), atol=1e-6)
