"""Reduction against sums written out by hand, and fitted weights against the normal equations."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.policy.pruning import remove_dead_units
from edgerl.policy.reduction import (
    RIDGE,
    connection_importance,
    count_connections,
    count_positions,
    fit_layer,
    fitted,
    layer_inputs,
    reductions,
    replace_connections,
    replace_units,
    teacher_of,
    unit_actions,
    unit_importance,
    without_connections,
    without_units,
)

from .policies import Array, Network


def _network(seed: int, widths: tuple[int, ...] = (5, 12, 8, 3), density: float = 0.6, block: int = 1) -> Network:
    rng = np.random.default_rng(seed)
    return [
        (
            rng.normal(size=(m, n)) * np.repeat(rng.random((-(-m // block), n)) < density, block, axis=0)[:m],
            0.3 * rng.normal(size=m),
        )
        for n, m in pairwise(widths)
    ]


def _rows(seed: int, n: int = 5, count: int = 200) -> Array:
    return np.random.default_rng(seed).normal(size=(count, n))


def _answer(network: Network, inputs: Array, constants: dict[tuple[int, int], float]) -> Array:
    """The network unit by unit, where hidden unit (layer, index) may always give a constant."""
    answers = []
    for row in inputs:
        x = list(row)
        for layer, (weight, bias) in enumerate(network):
            sums = [sum(w * v for w, v in zip(line, x, strict=True)) + b for line, b in zip(weight, bias, strict=True)]
            if layer == len(network) - 1:
                answers.append(np.tanh(sums))
                break
            x = [constants.get((layer, unit), max(0.0, total)) for unit, total in enumerate(sums)]
    return np.array(answers)


def test_the_network_is_what_a_loop_computes() -> None:
    network, inputs = _network(0), _rows(1, count=20)
    np.testing.assert_allclose(unit_actions(network, inputs), _answer(network, inputs, {}), rtol=0, atol=1e-12)


@given(st.integers(0, 2**32), st.integers(0, 1), st.data())
def test_replaced_units_are_constants_exactly(seed: int, layer: int, data: st.DataObject) -> None:
    network, inputs = _network(seed), _rows(seed, count=10)
    width = len(network[layer][0])
    units = np.array(data.draw(st.lists(st.booleans(), min_size=width, max_size=width)))
    constants = np.abs(np.random.default_rng(seed).normal(size=width))
    replaced = replace_units(network, layer, units, constants)
    chosen = {(layer, int(unit)): float(constants[unit]) for unit in np.flatnonzero(units)}
    expected = _answer(network, inputs, chosen)
    np.testing.assert_allclose(unit_actions(replaced, inputs), expected, rtol=0, atol=1e-10)
    smaller = remove_dead_units(replaced, 1)
    np.testing.assert_allclose(unit_actions(smaller, inputs), expected, rtol=0, atol=1e-10)
    assert len(smaller[layer][0]) <= max(width - units.sum(), 1), "the units are gone"


def test_replaced_connections_see_a_constant() -> None:
    network, inputs = _network(2), _rows(3)
    weight, bias = network[1]
    gone = np.random.default_rng(4).random(weight.shape) < 0.5
    means = layer_inputs(network, inputs)[1].mean(axis=0)
    expected = [
        bias[j] + sum(weight[j, i] * means[i] for i in range(weight.shape[1]) if gone[j, i]) for j in range(len(weight))
    ]
    replaced = replace_connections(network, 1, gone, means)
    np.testing.assert_allclose(replaced[1][1], expected, rtol=0, atol=1e-12)
    assert np.array_equal(replaced[1][0], np.where(gone, 0, weight))
    before = layer_inputs(network, inputs)[1] @ weight.T + bias
    after = layer_inputs(replaced, inputs)[1] @ replaced[1][0].T + replaced[1][1]
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), rtol=0, atol=1e-12)


def test_importance_is_deviation_times_weight() -> None:
    activations, weight = np.array([[1.0, 5, 0], [3, 5, 0]]), np.array([[3.0, 1, 9], [4, 1, 9]])
    assert unit_importance(activations, weight).tolist() == [5, 0, 0], "what never varies is not a loss"
    assert connection_importance(-weight, activations).tolist() == [[3, 0, 0], [4, 0, 0]]


@pytest.mark.parametrize("block", [1, 4])
def test_the_least_important_share_goes_in_whole_blocks(block: int) -> None:
    network, inputs = _network(5, (5, 40, 24, 3), block=block), _rows(6)
    seen = layer_inputs(network, inputs)
    removed = without_units(network, 0, seen[1], 0.3, block)
    assert removed is not None
    importance = unit_importance(seen[1], network[1][0]).reshape(-1, block)
    order = np.argsort((importance**2).sum(axis=1))
    gone = np.sort(order[: round(0.3 * 40 / block)])
    assert np.array_equal(np.flatnonzero(~removed[0][0].reshape(-1, block * 5).any(axis=1)), gone)
    lighter = without_connections(network, 1, seen[1], 0.5, block)
    assert lighter is not None
    blocks = (np.abs(network[1][0]) * seen[1].std(axis=0)).reshape(-1, block, 40)
    sizes = (blocks**2).sum(axis=1)
    kept = lighter[1][0].reshape(-1, block, 40).any(axis=1)
    present = sizes > 0
    assert kept.sum() == present.sum() - round(0.5 * present.sum())
    assert sizes[kept].min() >= sizes[present & ~kept].max()


def test_the_last_unit_and_the_last_connection_stay() -> None:
    network = _network(7, (5, 1, 3), density=1)
    assert without_units(network, 0, layer_inputs(network, _rows(8))[1], 0.5, 1) is None
    network[0][0][0, 1:] = 0
    assert without_connections(network, 0, _rows(8), 0.5, 1) is None


@given(st.integers(0, 2**32))
def test_fitted_weights_solve_the_normal_equations(seed: int) -> None:
    """Each output by itself: least squares on its connections with a ridge towards what they were, by elimination."""
    rng = np.random.default_rng(seed)
    ((weight, bias),) = _network(seed, (6, 4), density=0.7)
    inputs = np.maximum(rng.normal(size=(80, 6)), 0)
    sums = rng.normal(size=(80, 4))
    found_weight, found_bias = fit_layer(weight, bias, inputs, sums, 60)
    seen = np.column_stack([inputs, np.ones(80)])
    ridge = RIDGE * (seen**2).mean()
    for output in range(4):
        on = np.append(weight[output] != 0, True)
        start = np.append(weight[output], bias[output])[on]
        gram = seen[:, on].T @ seen[:, on] / 80 + ridge * np.eye(on.sum())
        wanted = start + np.linalg.solve(gram, seen[:, on].T @ (sums[:, output] - seen[:, on] @ start) / 80)
        found = np.append(found_weight[output], found_bias[output])
        np.testing.assert_allclose(found[on], wanted, rtol=0, atol=1e-7)
        assert not found[~on].any(), "no connection is added"


def test_an_untouched_network_stays_as_it_is() -> None:
    network, inputs = _network(9), _rows(10)
    same = fitted(network, teacher_of(network, inputs), 20)
    for (weight, bias), (other_weight, other_bias) in zip(network, same, strict=True):
        np.testing.assert_allclose(other_weight, weight, rtol=0, atol=1e-12)
        np.testing.assert_allclose(other_bias, bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("whole_units", [True, False])
@pytest.mark.parametrize("block", [1, 4])
def test_reductions_become_ever_smaller_and_add_nothing(block: int, whole_units: bool) -> None:
    network = remove_dead_units(_network(11, (5, 24, 16, 3), 0.7, block), block)
    inputs = _rows(12, count=400)
    teacher = teacher_of(network, inputs)
    size = count_positions if whole_units else count_connections
    found = list(reductions(network, inputs, block, whole_units=whole_units))
    sizes = [size(network), *map(size, found)]
    assert all(after < before for before, after in pairwise(sizes))
    widths = [len(weight) for weight, _ in found[-1]]
    assert widths == ([block, block, 3] if whole_units else widths)
    assert count_connections(found[-1]) < 0.2 * count_connections(network)
    differences = [teacher.difference(each) for each in found]
    assert np.argsort(differences)[-1] > len(found) // 2, "the farther, the more different"


def test_fitting_wins_over_magnitudes_alone() -> None:
    """The same number of connections, chosen by magnitude and not fitted, differ several times as much."""
    network = _network(13, (8, 64, 64, 4), density=1)
    inputs = _rows(14, n=8, count=2000)
    teacher = teacher_of(network, inputs)
    wanted = count_connections(network) // 2
    found = next(n for n in reductions(network, inputs, 1, whole_units=False) if count_connections(n) <= wanted)
    magnitudes = np.sort(np.concatenate([np.abs(weight).ravel() for weight, _ in network[:-1]]))
    limit = magnitudes[count_connections(network) - count_connections(found)]
    plain = [(np.where(np.abs(w) < limit, 0, w), b) for w, b in network[:-1]] + network[-1:]
    assert count_connections(plain) >= count_connections(found)
    assert teacher.difference(found) < teacher.difference(plain) / 3


def test_units_that_never_vary_go_first_and_change_nothing() -> None:
    network, inputs = _network(15, (5, 40, 3), density=1), _rows(16)
    network[0][1][:4] = 100.0  # as large as no input: always on, but they vary
    network[0][1][4:8] = -100.0  # never on
    first = next(reductions(network, inputs, 1, whole_units=True))
    assert len(first[0][0]) == 38
    np.testing.assert_allclose(unit_actions(first, inputs), unit_actions(network, inputs), rtol=0, atol=1e-9)
