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
from edgerl.config import Config, Growth
from edgerl.edge.engine.growth import GROWTH_RULES, GrowthRule
from edgerl.edge.engine.library import Library
from edgerl.policy.activation import HIDDEN, Activation
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
    "activation.h": {
        '#include "base.h"': '#include "numeric.h"',
        "typedef enum activation { LINEAR, RELU }": "typedef enum activation { LINEAR, RELU, TANH }",
        "#define HIDDEN_ACTIVATION RELU": "#define HIDDEN_ACTIVATION TANH",
        "        return x < 0 ? 0 : x;": "        return x < 0 ? 0 : x;\n    case TANH:\n        return tanh_real(x);",
        "        return y > 0 ? gradient : 0;": """\
        return y > 0 ? gradient : 0;
    case TANH:
        return gradient * (1 - y * y);""",
    },
}
"""tanh between layers, in the naive kernels: an enumerator, and a case in each of two functions."""

IN_VECTORS = {
    "kernels.inc": {
        "        return (vec)((K(ivec))x & ~(x < 0));\n#endif": """\
        return (vec)((K(ivec))x & ~(x < 0));
#endif
    case TANH:
        EACH(i, LANES) { ((real *)&x)[i] = tanh_real(((real *)&x)[i]); }
        return x;""",
        "        return (vec)((K(ivec))gradient & (y > 0));\n#endif": """\
        return (vec)((K(ivec))gradient & (y > 0));
#endif
    case TANH:
        return gradient * (1 - y * y);""",
    },
}
"""The same in the kernels of each instruction set."""


def test_an_activation_is_one_entry_on_each_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tanh = Activation("tanh", np.tanh, lambda y: 1 - y * y)
    monkeypatch.setattr("edgerl.algorithms.networks.HIDDEN", tanh)
    config = small_config(evolution_interval=5)
    _assert_the_engines_agree(config, engine_with(tmp_path / "double", TEST_ACTIVATION | IN_VECTORS))
    shipped = engine_with(tmp_path / "single", TEST_ACTIVATION | IN_VECTORS, "-O1", "-ffp-contract=fast")
    for isa in HERE:
        monkeypatch.setenv("EDGERL_ISA", isa)
        _assert_one_update_agrees(config, shipped)


def test_the_compiler_names_every_case_that_an_activation_lacks(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        engine_with(tmp_path / "double", TEST_ACTIVATION, *SHIPPED)
    lacking = set(re.findall(r"In function .(\w+).:\n[^\n]*enumeration value .TANH.", str(failed.value)))
    instances = {f"{name}_{isa}" for name in ("activate", "activation_gradient") for isa in HERE if isa != "naive"}
    assert lacking >= instances


def test_the_engines_activation_is_that_of_every_policy(tmp_path: Path) -> None:
    """`activate` and `activation_gradient`, against the entry that numpy computes with."""
    (tmp_path / "activation.c").write_text(
        '#include "activation.h"\n'
        "real forward(real x) { return activate(HIDDEN_ACTIVATION, x); }\n"
        "real backward(real y, real g) { return activation_gradient(HIDDEN_ACTIVATION, y, g); }\n"
    )
    compile_c("gcc", *DOUBLE, tmp_path / "activation.c", "-o", tmp_path / "activation.so")
    loaded = ctypes.CDLL(str(tmp_path / "activation.so"))
    for function, count in ((loaded.forward, 1), (loaded.backward, 2)):
        function.argtypes, function.restype = (ctypes.c_double,) * count, ctypes.c_double
    x = np.linspace(-3, 3, 25)
    y = HIDDEN.forward(x)
    assert [loaded.forward(v) for v in x] == y.tolist()
    assert [loaded.backward(v, 0.7) for v in y] == (0.7 * HIDDEN.derivative(y)).tolist()
    assert np.isnan(loaded.forward(np.nan))
    assert np.isnan(HIDDEN.forward(np.array([np.nan]))).all()


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


def _assert_one_update_agrees(config: Config, engine: Library) -> None:
    native, reference = NativeAgent(config, N, M, loaded=engine), TD3(config, N, M)
    native.learn(replay := filled_replay())
    reference.learn(replay)
    for name, array in reference.state().items():
        if name.endswith("_moment"):
            np.testing.assert_allclose(native.state()[name], array, rtol=1e-3, atol=1e-6, err_msg=name)
