"""What one adds to the engines in one place each: a growth rule and an activation, which only these tests have."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.td3 import Agent
from edgerl.config import Config, Growth
from edgerl.edge.engine.growth import GROWTH_RULES, GrowthRule
from edgerl.edge.engine.library import Library
from edgerl.policy.shape import LayerShape
from edgerl.profiling.budgets.costs import training_cost
from tests.edge.compiled import ENGINE

from .engines import M, N, differing, engine_with, filled_replay, small_config

TEST_RULE = {
    "edgerl.h": {"    EDGERL_GROWTH_RANDOM = 0,": "    EDGERL_GROWTH_SMALLEST = 2,\n    EDGERL_GROWTH_RANDOM = 0,"},
    "topology.c": {
        "EDGERL_INTERNAL const growth_rule *growth_rule_of(": """\
static real smallest_first(const real *gradient, uint32_t block, uint32_t width) {
    return -magnitude_of(gradient, block, width);
}

EDGERL_INTERNAL const growth_rule *growth_rule_of(""",
        "    case EDGERL_GROWTH_RANDOM:": """\
    case EDGERL_GROWTH_SMALLEST: {
        static const growth_rule smallest = {smallest_first};
        return &smallest;
    }
    case EDGERL_GROWTH_RANDOM:""",
    },
}
"""A rule that grows the absent blocks with the smallest gradients: an enumerator, a function, its case."""


def test_growth_rules_have_the_same_names_and_order_everywhere() -> None:
    header = (ENGINE / "edgerl.h").read_text()
    numbered = re.findall(r"EDGERL_GROWTH_(\w+) = (\d+)", header)
    assert [(name.upper(), str(number)) for number, name in enumerate(GROWTH_RULES)] == numbered
    assert get_args(Growth) == tuple(GROWTH_RULES)


@pytest.mark.parametrize("block", [1, 4])
def test_a_growth_rule_is_one_function_on_each_side(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        GROWTH_RULES, "smallest", GrowthRule(lambda absent: -absent.gradients, flops=lambda batch: batch)
    )
    config = small_config(block=block, evolution_interval=5)
    config = dataclasses.replace(config, evolution=dataclasses.replace(config.evolution, growth="smallest"))
    _assert_the_engines_agree(config, engine_with(tmp_path, TEST_RULE))


def test_the_price_of_a_growth_rule_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        GROWTH_RULES, "dear", GrowthRule(lambda absent: absent.gradients, flops=lambda batch: 7 * batch)
    )
    layer = (LayerShape(10, 10, 40),)
    sizes = {"batch_size": 3, "steps": 11, "start_steps": 0, "policy_delay": 2, "evolution_interval": 5}
    dear, free = (training_cost(layer, layer, **sizes, growth=rule).training_flops_full for rule in ("dear", "random"))
    assert dear - free == 2 * 3 * 60 * 7 * 3  # evolution steps, networks, absent weights, FLOPs of each


def _assert_the_engines_agree(config: Config, engine: Library) -> None:
    native = NativeAgent(config, N, M, loaded=engine, dtype=np.float64)
    reference = Agent(config, N, M, dtype=torch.float64)
    replay, first = filled_replay(), native.state()
    for _ in range(60):
        native.learn(replay)
        reference.learn(replay)
    found, expected = native.state(), reference.state()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)
    assert {name for name in differing(first, found) if name.endswith(".mask")}, "no topology changed"
