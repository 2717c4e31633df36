"""What one adds to the engines in one place each: a growth rule and an activation, which only these tests have."""

from __future__ import annotations

import ctypes
import dataclasses
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.td3 import TD3
from edgerl.config import Config, Growth, HiddenActivation
from edgerl.edge.engine.growth import GROWTH_RULES, GrowthRule
from edgerl.edge.engine.library import Library
from edgerl.policy.activation import ACTIVATIONS
from edgerl.policy.shape import LayerShape
from edgerl.profiling.budgets.costs import training_cost
from tests.edge.compiled import ENGINE, SHIPPED, compile_c

from .engines import DOUBLE, HERE, M, N, differing, engine_with, filled_replay, small_config

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
    _assert_the_engines_agree(config, engine_with(tmp_path / "double", TEST_RULE))


def test_the_price_of_a_growth_rule_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        GROWTH_RULES, "dear", GrowthRule(lambda absent: absent.gradients, flops=lambda batch: 7 * batch)
    )
    layer = (LayerShape(10, 10, 40),)
    sizes = {"batch_size": 3, "steps": 11, "start_steps": 0, "policy_delay": 2, "evolution_interval": 5}
    dear, free = (training_cost(layer, layer, **sizes, growth=rule).training_flops_full for rule in ("dear", "random"))
    assert dear - free == 2 * 3 * 60 * 7 * 3  # evolution steps, networks, absent weights, FLOPs of each


TEST_ACTIVATION = {
    "base.h": {"#define EDGERL_ACTIVATIONS 0x39u": "#define EDGERL_ACTIVATIONS 0x79u"},
    "layout.c": {"a == EDGERL_TANH)": "a == EDGERL_TANH || a == EDGERL_SIGMOID)"},
    "activation.h": {
        "    TANH = EDGERL_TANH\n": "    TANH = EDGERL_TANH,\n    SIGMOID = EDGERL_SIGMOID\n",
        "        return tanh_real(x);": """\
        return tanh_real(x);
    case SIGMOID:
        return sigmoid_real(x);""",
        "        return gradient * (1 - kept * kept);": """\
        return gradient * (1 - kept * kept);
    case SIGMOID:
        return gradient * kept * (1 - kept);""",
    },
}
"""The sigmoid, which policies have, in learning: its enumerator, and a case in each of two functions."""

AS_A_PASS = {
    "kernels.c": {
        "        IF_ACTIVATION(TANH, of_rows)": "        IF_ACTIVATION(TANH, of_rows) IF_ACTIVATION(SIGMOID, of_rows)"
    }
}
"""Its loops in the kernels of each instruction set."""


def test_an_activation_is_one_entry_on_each_side(tmp_path: Path) -> None:
    config = small_config(evolution_interval=5)
    config = dataclasses.replace(config, network=dataclasses.replace(config.network, activation="sigmoid"))
    _assert_the_engines_agree(config, engine_with(tmp_path / "double", TEST_ACTIVATION | AS_A_PASS))


def test_the_compiler_names_every_case_that_an_activation_lacks(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        engine_with(tmp_path / "double", TEST_ACTIVATION, *SHIPPED)
    lacking = set(re.findall(r"In function .(\w+).:\n[^\n]*enumeration value .SIGMOID.", str(failed.value)))
    names = ("activate", "activation_gradient")
    assert lacking >= {f"{name}_{isa}" for name in names for isa in HERE}


@pytest.mark.parametrize("name", get_args(HiddenActivation))
def test_the_engines_activations_are_those_of_every_policy(name: str, tmp_path: Path) -> None:
    """Against the entry that numpy computes with; gradients against PyTorch's autograd."""
    kind = f"(activation){list(ACTIVATIONS).index(name)}"
    (tmp_path / "activation.c").write_text(
        '#include "activation.h"\n'
        f"real forward(real x) {{ return activate({kind}, x); }}\n"
        f"real kept(real x) {{ return has_slopes({kind}) ? slope_of_silu(x, forward(x)) : forward(x); }}\n"
        f"real backward(real x, real g) {{ return activation_gradient({kind}, kept(x), g); }}\n"
    )
    compile_c("gcc", *DOUBLE, tmp_path / "activation.c", "-lm", "-o", tmp_path / "activation.so")
    loaded = ctypes.CDLL(str(tmp_path / "activation.so"))
    for function, count in ((loaded.forward, 1), (loaded.backward, 2)):
        function.argtypes, function.restype = (ctypes.c_double,) * count, ctypes.c_double
    x = np.linspace(-6, 6, 51)
    seen = torch.tensor(x, requires_grad=True)
    getattr(torch.nn.functional, name)(seen).backward(torch.full((51,), 0.7, dtype=torch.float64))
    assert seen.grad is not None
    forward = ACTIVATIONS[name].forward
    np.testing.assert_allclose([loaded.forward(v) for v in x], forward(x), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose([loaded.backward(v, 0.7) for v in x], seen.grad, rtol=1e-13, atol=1e-15)
    assert np.isnan(loaded.forward(np.nan))
    assert np.isnan(forward(np.array([np.nan]))).all()


def _assert_the_engines_agree(config: Config, engine: Library) -> None:
    native = NativeAgent(config, N, M, loaded=engine, dtype=np.float64)
    reference = TD3(config, N, M, dtype=torch.float64)
    replay, first = filled_replay(), native.state()
    for _ in range(60):
        native.learn(replay)
        reference.learn(replay)
    found, expected = native.state(), reference.state()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)
    assert {name for name in differing(first, found) if name.endswith(".mask")}, "no topology changed"
