"""The students that `edgerl fit` trains: those that there can be."""

from __future__ import annotations

import pytest

from edgerl.algorithms.topology import plan_networks
from edgerl.compression.students import students_of
from edgerl.config import make_config
from tests.policy.policies import random_policy


@pytest.mark.parametrize("sizes", [(3, 1), (3, 8, 8, 1), (4, 32, 2), (60, 16, 16, 20), (17, 256, 256, 6)])
def test_each_student_can_be_made_and_is_smaller(sizes: tuple[int, ...]) -> None:
    """Small teachers, or those with many actions, have no room for the sparsest."""
    teacher = random_policy(0, sizes, density=1.0)
    n, *widths, m = sizes
    for student in students_of(teacher):
        config = make_config(**{"hidden": tuple(widths), **student.options})
        plans, _ = plan_networks(config, n, m)
        assert sum(plan.connections for plan in plans) < teacher.connections
    names = [student.name for student in students_of(teacher)]
    assert ("sparse-0.9-block-4" in names) == (sizes == (17, 256, 256, 6))
