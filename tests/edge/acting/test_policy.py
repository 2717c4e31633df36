"""Policy on the native engine: against float64 from the very weights, in each layout, on each instruction set."""

from __future__ import annotations

import ctypes
import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.edge import ControlLoop, Policy
from edgerl.edge.acting.policy import LAYOUTS, Layout, _layer_run, _policy_config
from edgerl.edge.engine import library as engine
from edgerl.edge.engine.library import ALIGNMENT, GAUSSIAN_HEAD, ISAS, Isa, Library, PolicyConfig, library, new_arena
from edgerl.errors import ConfigError, FileFormatError, MissingExtraError
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import PRECISIONS, CompactPolicy, Head, Layer, Precision, make_layer
from edgerl.policy.format import save
from tests.edge.compiled import ENGINE, compile_c
from tests.policy.policies import episode, outlier_policy, random_policy, recurrent_policy, torch_actions, torch_episode

Array = npt.NDArray[Any]

HERE = [isa for isa in ISAS if ISAS.index(isa) <= ISAS.index(library().best_isa)]
"""What this processor has."""

WIDTHS = [(1, 1), (3, 17, 1), (17, 255, 257, 3), (257, 3, 255, 17), (2, 64, 128, 31), (100, 130, 16)]
"""Below, at and above whole vectors and whole tiles of each instruction set."""

NO_WEIGHTS = [np.zeros((m, n), np.float32) for n, m in ((4, 5), (5, 2))]


class Oracle:
    """A random policy as plain float64 matrices, which it is evaluated from, and as a CompactPolicy."""

    def __init__(self, seed: int, widths: tuple[int, ...], block: int = 1, density: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        self.network = []
        for n, m in pairwise(widths):
            mask = np.repeat(rng.random((-(-m // block), n)) < density, block, axis=0)[:m]
            weight = (rng.normal(size=(m, n)) * mask / np.sqrt(max(1, density * n))).astype(np.float32)
            self.network.append((weight, rng.normal(size=m).astype(np.float32) / 4))
        n, m = widths[0], widths[-1]
        self.mean, self.scale = rng.normal(size=n).astype(np.float32), np.exp(rng.normal(size=n)).astype(np.float32)
        self.low = -np.exp(rng.normal(size=m)).astype(np.float32)
        self.high = np.exp(rng.normal(size=m)).astype(np.float32)
        self.compact = CompactPolicy(
            tuple(make_layer(weight, bias, block) for weight, bias in self.network),
            self.low,
            self.high,
            self.mean,
            self.scale,
        )
        self.observations = rng.normal(size=(8, n)).astype(np.float32)

    def __call__(self, observation: Array) -> Array:
        x = (observation.astype(np.float64) - self.mean) * self.scale
        for index, (weight, bias) in enumerate(self.network):
            x = weight.astype(np.float64) @ x + bias
            x = np.maximum(x, 0) if index < len(self.network) - 1 else np.tanh(x)
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        return (low + high) / 2 + (high - low) / 2 * x


def test_an_offset_is_subtracted_in_float64() -> None:
    oracle = Oracle(1, (3, 17, 2))
    offset = np.array([5_800_000.0, 0, -(2.0**40)])
    policy = Policy(replace(oracle.compact, observation_offset=offset))
    span = oracle.high.astype(np.float64) - oracle.low
    rounded_first: list[float] = []
    for seen in oracle.observations:
        given = offset + seen
        exact = (given.astype(np.longdouble) - offset).astype(np.float32)
        assert policy.observation_dtype is np.float64
        for observation in (given, given.tolist()):
            assert np.max(np.abs(policy(observation) - oracle(exact)) / span) < 1e-5
        rounded_first.append(np.max(np.abs(oracle(given.astype(np.float32) - offset) - oracle(exact)) / span))
    assert max(rounded_first) > 0.01
    with pytest.raises(
        ValueError, match=r"the observation is float32; expected float64, since the policy has an offset"
    ):
        policy(oracle.observations[0])


def test_a_control_loop_keeps_the_digits_that_a_policy_needs() -> None:
    oracle = Oracle(1, (1, 17, 2))
    policy = Policy(replace(oracle.compact, observation_offset=np.array([5_800_000.0])))
    sent: list[Array] = []

    def run(observation: object) -> ControlLoop:
        loop = ControlLoop(policy, lambda: observation, sent.append, 10, [0, 0])  # type: ignore[arg-type, return-value]
        loop.run(0.1)
        return loop

    for observation in ([5_800_000.25], np.array([5_800_000.25])):
        run(observation)
        assert np.array_equal(sent[-1], policy([5_800_000.25]))
    statistics = run(np.array([5_800_000.25], np.float32)).statistics()
    assert statistics.fallbacks["inference_failed"] == 1
    assert statistics.last_error.startswith("ValueError: the observation is float32; expected float64")


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("widths", WIDTHS)
def test_actions_are_those_of_float64(widths: tuple[int, ...], block: int, layout: Layout, isa: Isa) -> None:
    oracle = Oracle(1, widths, block)
    policy = Policy(oracle.compact, layout, isa)
    span = oracle.high.astype(np.float64) - oracle.low
    for observation in oracle.observations:
        action = policy(observation)
        assert (action.dtype, action.shape) == (np.float32, (widths[-1],))
        assert np.max(np.abs(action - oracle(observation)) / span) < 1e-5
        assert np.max(np.abs(action - oracle.compact(observation)) / span) < 1e-5


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("head", ["tanh", "clip"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_norm_and_head_is_pytorchs(
    activation: ActivationName, norm: bool, head: Head, isa: Isa
) -> None:
    for seed, widths in enumerate([(3, 17, 1), (17, 255, 257, 3), (2, 64, 128, 31)]):
        compact = random_policy(seed, widths, activation=activation, norm=norm, head=head, clip=1.5)
        observations = np.random.default_rng(seed).normal(0, 3, (8, widths[0])).astype(np.float32)
        expected, policy = torch_actions(compact, observations), Policy(compact, isa=isa)
        assert (policy.action_low is None) == (head == "clip")
        for observation, answer in zip(observations, expected, strict=True):
            np.testing.assert_allclose(policy(observation), answer, rtol=0, atol=1e-5 * np.abs(answer).max(initial=1))
            np.testing.assert_allclose(compact(observation, np.float64), answer, rtol=0, atol=1e-6)
        spoilt = observations[0].copy()
        spoilt[0] = np.inf
        assert np.isnan(policy(spoilt)).all()


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("density", [0, 0.01, 0.5, 1])
def test_each_kernel_agrees_with_the_naive_one(density: float, layout: Layout, isa: Isa) -> None:
    """One layer without tanh, to the rounding of its sums."""
    (layer,) = Oracle(2, (257, 255), density=density).compact.layers
    rng = np.random.default_rng(3)
    inputs = np.maximum(rng.normal(size=(3, 257)), 0).astype(np.float32)
    expected = _layer_run(library(), layer, "dense", library().isa("naive"))(inputs)
    found = _layer_run(library(), layer, layout, library().isa(isa))(inputs)
    magnitude = inputs @ np.abs(layer.matrix()).T + np.abs(layer.bias)
    assert np.max(np.abs(found - expected) / magnitude) < 1e-6
    exact = inputs.astype(np.float64) @ layer.matrix(np.float64).T + layer.bias
    assert np.max(np.abs(expected - exact) / magnitude) < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("normalize", [False, True])
def test_every_way_to_store_a_policy_is_understood(
    normalize: bool, block: int, precision: Precision, layout: Layout
) -> None:
    compact = random_policy(4, (5, 90, 70, 3), block, precision, normalize, density=0.2)
    assert any(layer.is_sparse for layer in compact.layers)
    policy = Policy(compact, layout)
    for observation in np.random.default_rng(5).normal(size=(8, 5)).astype(np.float32):
        assert np.allclose(policy(observation), compact(observation, np.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("density", [0.2, 1])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_outliers_are_among_the_weights(precision: Precision, block: int, density: float, layout: Layout) -> None:
    compact = outlier_policy(4, (5, 90, 70, 3), block, precision, density=density)
    policy, observations = Policy(compact, layout), np.random.default_rng(5).normal(size=(8, 5)).astype(np.float32)
    for observation, expected in zip(observations, torch_actions(compact, observations), strict=True):
        assert np.allclose(policy(observation), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_has_no_action(value: float, layout: Layout, isa: Isa) -> None:
    """Even where nothing is connected to the number that is wrong."""
    layers = tuple(make_layer(weight, np.ones(len(weight), np.float32), 1) for weight in NO_WEIGHTS)
    policy = Policy(CompactPolicy(layers, -np.ones(2, np.float32), np.ones(2, np.float32)), layout, isa)
    assert np.allclose(policy(np.ones(4)), np.tanh(1))
    for position in range(4):
        observation = np.ones(4, np.float32)
        observation[position] = value
        assert np.isnan(policy(observation)).all()
    assert np.allclose(policy(np.ones(4)), np.tanh(1))


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_relu_keeps_a_nan(layout: Layout, isa: Isa) -> None:
    """∞ − ∞ in a hidden unit: all weights are finite, but their sums overflow."""
    overflow, cancel, pick = np.full((2, 1), 3e38), np.tile([1, -1], (5, 1)), np.ones((1, 5))
    layers = tuple(
        make_layer(weight.astype(np.float32), np.zeros(len(weight), np.float32), 1)
        for weight in (overflow, cancel, pick)
    )
    policy = Policy(CompactPolicy(layers, -np.ones(1, np.float32), np.ones(1, np.float32)), layout, isa)
    assert np.isnan(policy([10])).all()


@settings(max_examples=200)
@given(
    bounds=st.lists(
        st.tuples(
            st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
            st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
        ).filter(lambda pair: pair[0] < pair[1]),
        min_size=1,
        max_size=20,
    ),
    size=st.floats(0, 100),
    isa=st.sampled_from(HERE),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_action_leaves_its_bounds(bounds: list[tuple[float, float]], size: float, isa: Isa, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = np.array(bounds, np.float32).T
    weight = (rng.normal(size=(len(bounds), 3)) * size).astype(np.float32)
    layer = make_layer(weight, np.zeros(len(bounds), np.float32), 1)
    policy = Policy(CompactPolicy((layer,), low, high), "dense", isa)
    for observation in rng.normal(size=(10, 3)):
        action = policy(observation)
        assert np.all((low <= action) & (action <= high))


@settings(max_examples=100)
@given(
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=5),
    block=st.sampled_from([1, 4]),
    density=st.floats(0, 1),
    isa=st.sampled_from(HERE),
    data=st.data(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_policy_in_any_mixture_of_layouts(
    widths: list[int], block: int, density: float, isa: Isa, data: st.DataObject, seed: int
) -> None:
    n_layers = len(widths) - 1
    layouts = data.draw(st.lists(st.sampled_from(LAYOUTS), min_size=n_layers, max_size=n_layers))
    oracle = Oracle(seed, tuple(widths), block, density)
    policy = Policy(oracle.compact, layouts, isa)
    assert policy.layouts == tuple(layouts)
    span = oracle.high.astype(np.float64) - oracle.low
    for observation in oracle.observations[:3]:
        assert np.max(np.abs(policy(observation) - oracle(observation)) / span) < 2e-5


def test_tanh_is_exact_to_4e_7() -> None:
    """Through one layer of one connection of weight 1, so that the action is the tanh of the observation."""
    layer = make_layer(np.ones((1, 1), np.float32), np.zeros(1, np.float32), 1)
    policy = Policy(CompactPolicy((layer,), -np.ones(1, np.float32), np.ones(1, np.float32)), "dense")
    values = np.concatenate([np.linspace(-12, 12, 4001), [0, 1e-30, -1e-30, 1e-4, 88, -88, 3e38]]).astype(np.float32)
    actions = np.concatenate([policy(value[None]) for value in values])
    assert np.max(np.abs(actions - np.tanh(values.astype(np.float64)))) < 4e-7
    assert np.array_equal(actions, -np.concatenate([policy(-value[None]) for value in values]))


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tanh_of_every_sum_up_to_infinity_is_the_bound(layout: Layout, isa: Isa) -> None:
    layer = make_layer(np.full((1, 1), 1e38, np.float32), np.zeros(1, np.float32), 4 if layout == "block" else 1)
    policy = Policy(CompactPolicy((layer,), -np.ones(1, np.float32), np.ones(1, np.float32)), layout, isa)
    for value in np.float32([1e-36, 1e-10, 1, 3.4, 10, 3e38]):  # sums of 100 to 3.4e38, and infinite ones
        for sign in (-1, 1):
            assert abs(policy([sign * value])[0] - sign) < 4e-7, value


def test_auto_measures_and_changes_no_more_than_rounding() -> None:
    dense, sparse = Oracle(6, (17, 256, 256, 6), density=1), Oracle(7, (17, 1024, 1024, 6), density=0.005)
    assert Policy(dense.compact).layouts[1] == "dense"
    assert Policy(sparse.compact).layouts[1] != "dense"
    for oracle in (dense, sparse):
        policy = Policy(oracle.compact)
        for observation in oracle.observations:
            assert np.allclose(policy(observation), oracle(observation), rtol=0, atol=1e-4)


def test_the_same_layout_and_instruction_set_give_the_same_bits() -> None:
    oracle = Oracle(8, (17, 255, 6))
    first, second = (Policy(oracle.compact, "sparse", "baseline") for _ in range(2))
    for observation in oracle.observations:
        assert first(observation).tobytes() == second(observation).tobytes()


def test_its_attributes_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGERL_ISA", raising=False)
    oracle = Oracle(9, (17, 255, 6))
    policies = {layout: Policy(oracle.compact, layout) for layout in LAYOUTS}
    policy = policies["sparse"]
    assert (policy.n_observations, policy.n_actions) == (17, 6)
    assert np.array_equal(policy.action_low, oracle.low)
    assert np.array_equal(policy.action_high, oracle.high)
    assert policy.layouts == ("sparse", "sparse")
    assert policy.isa == library().best_isa
    connections = sum(int(np.count_nonzero(weight)) for weight, _ in oracle.network)
    assert 6 * connections < policy.n_bytes < 6 * connections + 8192
    assert policies["dense"].n_bytes > 4 * (17 * 255 + 255 * 6)


def test_it_is_loaded_from_a_file_or_a_run_folder(tmp_path: Path) -> None:
    compact = random_policy(10)
    save(compact, tmp_path / "policy.safetensors")
    for path in (tmp_path, tmp_path / "policy.safetensors", str(tmp_path)):
        policy = Policy.load(path, layout=["dense", "sparse", "block"])
        assert policy.metadata["about"]["environment"] == "Anything-v0"
        assert np.allclose(policy(compact.example_observation), compact.example_action, rtol=0, atol=1e-5)
    with pytest.raises(FileFormatError, match=r"nothing\.safetensors"):
        Policy.load(tmp_path / "nothing.safetensors")


def test_observations_of_any_kind_but_not_of_any_shape() -> None:
    oracle = Oracle(11, (3, 8, 2))
    policy = Policy(oracle.compact, "dense")
    expected = policy(np.array([0.5, -1, 2], np.float32))
    for observation in ([0.5, -1, 2], (0.5, -1, 2), np.array([0.5, -1, 2]), np.array([0.5, 9, -1, 9, 2, 9])[::2]):
        assert np.array_equal(policy(observation), expected)
    for shape in ((), (1,), (2,), (4,), (1, 3), (3, 1)):
        with pytest.raises(ValueError, match=r"the observation has shape .*; expected \(3,\)"):
            policy(np.zeros(shape))


def test_an_action_is_the_callers_own() -> None:
    oracle = Oracle(12, (3, 8, 2))
    policy = Policy(oracle.compact, "dense")
    first = policy(oracle.observations[0])
    kept = first.copy()
    policy(oracle.observations[1])
    assert np.array_equal(first, kept)


def test_threads_that_share_a_policy_do_not_disturb_each_other() -> None:
    oracle = Oracle(13, (17, 64, 6))
    policy = Policy(oracle.compact, "dense")
    expected = [policy(observation).tobytes() for observation in oracle.observations]
    wrong: list[int] = []
    start = threading.Barrier(4)

    def act(index: int) -> None:
        start.wait()
        for _ in range(5000):
            action = policy(oracle.observations[index])
            wrong.extend([index] * (action.tobytes() != expected[index]))

    threads = [threading.Thread(target=act, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_runs_in_a_control_loop() -> None:
    oracle = Oracle(14, (3, 8, 2))
    policy = Policy(oracle.compact, "dense")
    sent: list[Array] = []
    statistics = ControlLoop(policy, lambda: oracle.observations[0], sent.append, 200, [0, 0]).run(0.05)
    assert statistics.cycles + statistics.skipped_ticks == 10
    assert statistics.fallbacks["inference_failed"] == 0


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("dnese", "the layout is 'dnese'; expected auto, dense, sparse, block, or one for each layer"),
        (["dense", "auto", "dense"], "the layout is 'auto'; expected auto, dense"),
        (["dense"], "there are 1 layouts for 3 layers; expected one for each"),
        ([3, 4, 5], "the layout is 3; expected auto, dense"),
    ],
)
def test_an_unknown_layout_is_refused(layout: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Policy(random_policy(0), layout)


def test_the_instruction_set_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    compact = random_policy(0)
    for isa in HERE:
        monkeypatch.setenv("EDGERL_ISA", isa)
        assert Policy(compact, "dense").isa == isa
        assert Policy(compact, "dense", "naive").isa == "naive"
    monkeypatch.setenv("EDGERL_ISA", "avx521")
    with pytest.raises(
        ConfigError, match=r"^EDGERL_ISA is 'avx521'; expected naive, baseline, avx2, avx512; did you mean avx512\?$"
    ):
        Policy(compact, "dense")
    with pytest.raises(ConfigError, match="the instruction set is 'sse'; expected naive, baseline, avx2, avx512"):
        Policy(compact, "dense", "sse")  # type: ignore[arg-type]
    monkeypatch.setattr(Library, "best_isa", "baseline")
    monkeypatch.setenv("EDGERL_ISA", "avx2")
    with pytest.raises(ConfigError, match=r"^EDGERL_ISA is avx2, which this processor lacks; choose baseline or less$"):
        Policy(compact, "dense")
    monkeypatch.delenv("EDGERL_ISA")
    assert Policy(compact, "dense").isa == "baseline"


def test_a_library_of_another_version_or_machine_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "garbage.so").write_bytes(b"garbage")
    (tmp_path / "old.c").write_text("int edgerl_isa_best(void) { return 0; }\n")
    compile_c("gcc", "-fPIC", "-shared", tmp_path / "old.c", "-o", tmp_path / "old.so")
    for name in ("garbage.so", "old.so"):
        monkeypatch.setattr(engine, "LIBRARY", tmp_path / name)
        with pytest.raises(MissingExtraError, match="was not built for this version or machine; install a C compiler"):
            library.__wrapped__()


# --------------------------------------------------------------------------------------------- the C interface

STATUSES = {
    name: int(number) for name, number in re.findall(r"X\((EDGERL_\w+), (\d+),", (ENGINE / "edgerl.h").read_text())
}


def refused(status: str) -> Any:
    """A context in which the engine must refuse with this status, in its own words."""
    return pytest.raises(ConfigError, match=re.escape(library().status_text(STATUSES[status])))


def test_every_status_has_a_text() -> None:
    texts = [library().status_text(status) for status in STATUSES.values()]
    assert len(set(texts)) == len(STATUSES) >= 9
    assert library().status_text(-1) == library().status_text(10**6) == "no status of this library"


Change = Callable[[PolicyConfig], None]


def _set(part: str, index: int, value: float, layer: int = 0) -> Change:
    def change(config: PolicyConfig) -> None:
        target = config if hasattr(config, part) else config.layers[layer]
        getattr(target, part)[index] = value

    return change


def _replace(part: str, value: Any, layer: int = 0) -> Change:
    def change(config: PolicyConfig) -> None:
        setattr(config if hasattr(config, part) else config.layers[layer], part, value)

    return change


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_replace("n_layers", 0), "EDGERL_BAD_ARGUMENT"),
        (_replace("n_layers", 65), "EDGERL_BAD_ARGUMENT"),
        (_replace("isa", -1), "EDGERL_BAD_ARGUMENT"),
        (_replace("isa", 4), "EDGERL_BAD_ARGUMENT"),
        (_replace("layers", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("mean", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("centre", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("half_range", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("values", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("bias", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("columns", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("row_starts", None), "EDGERL_BAD_ARGUMENT"),
        (_replace("layout", 3), "EDGERL_BAD_ARGUMENT"),
        (_replace("layout", -1), "EDGERL_BAD_ARGUMENT"),
        (_replace("block", 2), "EDGERL_BAD_ARGUMENT"),
        (_replace("block", 0), "EDGERL_BAD_ARGUMENT"),
        (_replace("n_inputs", 0), "EDGERL_BAD_SHAPE"),
        (_replace("n_outputs", 0), "EDGERL_BAD_SHAPE"),
        (_replace("n_inputs", 65537), "EDGERL_BAD_SHAPE"),
        (_replace("n_outputs", 2**32 - 1), "EDGERL_BAD_SHAPE"),
        (_replace("n_inputs", 41, layer=1), "EDGERL_BAD_SHAPE"),
        (_replace("n_blocks", 2**32 - 1), "EDGERL_BAD_INDEX"),
        (_replace("n_blocks", 2), "EDGERL_BAD_INDEX"),
        (_set("columns", 0, 30), "EDGERL_BAD_INDEX"),
        (_set("columns", 0, 65535), "EDGERL_BAD_INDEX"),
        (_set("columns", 1, 0), "EDGERL_BAD_INDEX"),
        (_set("row_starts", 0, 1), "EDGERL_BAD_INDEX"),
        (_set("row_starts", 1, 2**32 - 1), "EDGERL_BAD_INDEX"),
        (_set("row_starts", 2, 0), "EDGERL_BAD_INDEX"),
        (_set("row_starts", 40, 0), "EDGERL_BAD_INDEX"),
        (_set("values", 5, np.nan), "EDGERL_NOT_FINITE"),
        (_set("values", 5, -np.inf), "EDGERL_NOT_FINITE"),
        (_set("bias", 0, np.inf), "EDGERL_NOT_FINITE"),
        (_set("mean", 29, np.nan), "EDGERL_NOT_FINITE"),
        (_set("scale", 0, np.inf), "EDGERL_NOT_FINITE"),
        (_set("centre", 2, np.nan), "EDGERL_NOT_FINITE"),
        (_set("half_range", 0, np.inf), "EDGERL_NOT_FINITE"),
    ],
)
def test_hostile_input_is_refused_with_its_status(change: Change, status: str) -> None:
    compact = random_policy(15, (30, 40, 3), density=0.4)
    assert compact.layers[0].is_sparse
    config, arrays = _policy_config(compact, ("dense", "dense"), 0)
    n_bytes = ctypes.c_size_t(12345)
    library().call("the policy", "edgerl_policy_bytes", config, n_bytes)
    arena = new_arena(n_bytes.value)
    change(config)
    with refused(status):
        library().call("the policy", "edgerl_policy_bytes", config, ctypes.c_size_t())
    with refused(status):
        library().call("the policy", "edgerl_policy_init", config, arena.ctypes.data, len(arena))
    assert not arena.any()  # nothing was written
    assert arrays


def test_an_unfit_arena_is_refused_with_its_status() -> None:
    config, arrays = _policy_config(random_policy(16), ("dense", "dense", "dense"), 0)
    n_bytes = ctypes.c_size_t()
    call = library().call
    call("the policy", "edgerl_policy_bytes", config, n_bytes)
    arena = new_arena(n_bytes.value + ALIGNMENT)
    address, observation = arena.ctypes.data, np.zeros(5, np.float32)
    for unused in range(0, n_bytes.value, 97):
        with refused("EDGERL_ARENA_TOO_SMALL"):
            call("the policy", "edgerl_policy_init", config, address, unused)
    with refused("EDGERL_ARENA_MISALIGNED"):
        call("the policy", "edgerl_policy_init", config, address + 4, n_bytes.value)
    with refused("EDGERL_BAD_ARGUMENT"):
        call("the policy", "edgerl_policy_init", config, None, n_bytes.value)
    with refused("EDGERL_BAD_ARGUMENT"):
        call("the policy", "edgerl_policy_bytes", None, n_bytes)
    with refused("EDGERL_ARENA_INVALID"):
        call("the policy", "edgerl_policy_act", address, observation.ctypes.data, observation.ctypes.data)
    call("the policy", "edgerl_policy_init", config, address, n_bytes.value)
    for arguments in ((address, None, address), (address, observation.ctypes.data, None), (None, address, address)):
        with refused("EDGERL_BAD_ARGUMENT"):
            call("the policy", "edgerl_policy_act", *arguments)
    with refused("EDGERL_ARENA_MISALIGNED"):
        call("the policy", "edgerl_policy_act_in_place", address + 16)
    with refused("EDGERL_BAD_ARGUMENT"):
        call("the policy", "edgerl_policy_run_layer", address, 3, observation.ctypes.data, address, 1)
    assert arrays


@pytest.mark.parametrize("isa", HERE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stochastic_policy_draws_from_its_distribution(layout: Layout, isa: Isa) -> None:
    """Means, then logarithms of deviations, in float64; deviations beyond e^-20 and e^2 are clipped."""
    oracle = Oracle(3, (5, 33, 6))
    config, arrays = _policy_config(oracle.compact, (layout,) * 2, ISAS.index(isa))
    config.head = GAUSSIAN_HEAD
    n_bytes, action = ctypes.c_size_t(), np.zeros(3, np.float32)
    call = library().call
    call("the policy", "edgerl_policy_bytes", config, n_bytes)
    arena = new_arena(n_bytes.value)
    call("the policy", "edgerl_policy_init", config, arena.ctypes.data, len(arena))
    (first, first_bias), (last, last_bias) = oracle.network
    low, high = oracle.low[:3].astype(np.float64), oracle.high[:3].astype(np.float64)
    noises = np.random.default_rng(4).normal(size=(8, 3)).astype(np.float32)
    steepness = np.array([[1], [50]] * 4, np.float32)  # at 50 deviations are clipped
    for x, noise, is_ordinary in zip(steepness * oracle.observations, noises, steepness == 1, strict=True):
        normalised = (x.astype(np.float64) - oracle.mean) * oracle.scale
        hidden = np.maximum(first.astype(np.float64) @ normalised + first_bias, 0)
        mean, log_deviation = np.split(last.astype(np.float64) @ hidden + last_bias, 2)
        for drawn in (np.zeros(3, np.float32), noise):
            u = mean + np.exp(np.clip(log_deviation, -20, 2)) * drawn
            pointers = x.ctypes.data, drawn.ctypes.data, action.ctypes.data
            call("the policy", "edgerl_policy_sample", arena.ctypes.data, *pointers)
            assert np.abs((action - (low + high) / 2) / (high - low) - np.tanh(u) / 2).max() < 1e-5
        sampled = action.copy()
        call("the policy", "edgerl_policy_act", arena.ctypes.data, x.ctypes.data, action.ctypes.data)
        assert np.abs((action - (low + high) / 2) / (high - low) - np.tanh(mean) / 2).max() < 1e-5
        assert not is_ordinary or (action != sampled).all()
    assert arrays


def test_what_draws_nothing_is_refused() -> None:
    config, arrays = _policy_config(random_policy(16), ("dense", "dense", "dense"), 0)
    n_bytes, numbers = ctypes.c_size_t(), np.zeros(5, np.float32)
    call, pointer = library().call, numbers.ctypes.data
    call("the policy", "edgerl_policy_bytes", config, n_bytes)
    arena = new_arena(n_bytes.value)
    call("the policy", "edgerl_policy_init", config, arena.ctypes.data, len(arena))
    with refused("EDGERL_BAD_ARGUMENT"):
        call("the policy", "edgerl_policy_sample", arena.ctypes.data, pointer, pointer, pointer)
    config.head = GAUSSIAN_HEAD
    with refused("EDGERL_BAD_SHAPE"):  # three outputs
        call("the policy", "edgerl_policy_bytes", config, n_bytes)
    config.head = 3
    with refused("EDGERL_BAD_ARGUMENT"):
        call("the policy", "edgerl_policy_bytes", config, n_bytes)
    assert arrays


def test_an_arena_may_move() -> None:
    """It holds offsets only: a copy elsewhere acts alike."""
    compact = random_policy(17)
    config, arrays = _policy_config(compact, ("dense", "sparse", "block"), library().isa())
    n_bytes = ctypes.c_size_t()
    library().call("the policy", "edgerl_policy_bytes", config, n_bytes)
    arena = new_arena(n_bytes.value)
    library().call("the policy", "edgerl_policy_init", config, arena.ctypes.data, len(arena))
    moved, action = new_arena(len(arena)), np.zeros(3, np.float32)
    moved[:] = arena
    arena[:] = 0xFF
    observation = compact.example_observation
    pointers = observation.ctypes.data, action.ctypes.data
    library().call("the policy", "edgerl_policy_act", moved.ctypes.data, *pointers)
    assert np.allclose(action, compact.example_action, rtol=0, atol=1e-5)
    assert arrays


@settings(max_examples=300)
@given(
    columns=st.lists(st.integers(0, 12), max_size=12),
    row_starts=st.lists(st.integers(0, 14), min_size=5, max_size=5),
    n_blocks=st.integers(0, 12),
)
def test_any_index_is_refused_or_right(columns: list[int], row_starts: list[int], n_blocks: int) -> None:
    """Either the engine finds the index wrong, or the policy is the one that the index describes."""
    values = np.arange(1, len(columns) + 1, dtype=np.float32)[:, None] / 16
    n_blocks = min(n_blocks, len(columns))
    layer = Layer(
        n_inputs=10,
        n_outputs=4,
        block=1,
        values=values[:n_blocks],
        bias=np.zeros(4, np.float32),
        columns=np.array(columns[:n_blocks], np.uint16),
        row_starts=np.array(row_starts, np.uint32),
    )
    compact = CompactPolicy((layer,), -np.ones(4, np.float32), np.ones(4, np.float32))
    rows = [columns[:n_blocks][start:end] for start, end in pairwise(row_starts)]
    is_valid = (
        row_starts[0] == 0
        and row_starts[-1] == n_blocks
        and all(a <= b for a, b in pairwise(row_starts))
        and all(column < 10 for column in columns[:n_blocks])
        and all(a < b for row in rows for a, b in pairwise(row))
    )
    if not is_valid:
        with refused("EDGERL_BAD_INDEX"):
            Policy(compact, "sparse")
        return
    observation = np.linspace(-1, 1, 10, dtype=np.float32)
    assert np.allclose(Policy(compact, "sparse")(observation), compact(observation), rtol=0, atol=1e-6)


def test_arrays_of_the_wrong_shape_never_reach_the_engine() -> None:
    compact = random_policy(18)
    first, *others = compact.layers
    for part in ("values", "bias", "columns", "row_starts"):
        broken = replace(first, **{part: getattr(first, part)[:-1]})
        with pytest.raises(ConfigError, match=r"layer 0: \w+ of the policy has shape .*; expected"):
            Policy(replace(compact, layers=(broken, *others)), "dense")
    with pytest.raises(ConfigError, match=r"observation_mean of the policy has shape \(4,\); expected \(5,\)"):
        Policy(replace(compact, observation_mean=np.zeros(4, np.float32)), "dense")
    with pytest.raises(ConfigError, match=r"action_low of the policy has shape"):
        Policy(replace(compact, action_low=np.zeros(1, np.float32), action_high=np.ones(1, np.float32)), "dense")


# ---------------------------------------------------------------------------------------------- recurrent policies


def _along(policy: Policy, seen: Array) -> Array:
    policy.reset()
    return np.stack([policy(observation) for observation in seen])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(("cells", "before"), [(1, 0), (2, 0), (1, 6)])
def test_a_thousand_steps_are_those_of_pytorch(isa: Isa, kind: CellName, cells: int, before: int) -> None:
    if ISAS.index(isa) > ISAS.index(library().best_isa):
        pytest.skip(f"this processor has no {isa}")
    made, outputs = recurrent_policy(kind, (11, 34, 19, 3), cells=cells, before=before, density=0.7)
    seen = episode(made, 1000)
    expected = torch_episode(made, outputs, seen)
    for layout in LAYOUTS:
        policy = Policy(made, layout, isa)
        np.testing.assert_allclose(_along(policy, seen), expected, atol=1e-5)
        np.testing.assert_allclose(_along(policy, seen[5:50]), made(seen[5:50]), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_cells_of_smaller_weights(precision: Precision) -> None:
    made, _ = recurrent_policy("gru", (11, 34, 19, 3), block=4, precision=precision, density=0.3)
    seen = episode(made, 200)
    np.testing.assert_allclose(_along(Policy(made), seen), made(seen, np.float64), atol=1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_what_is_not_finite_leaves_the_state_as_it_was(kind: CellName) -> None:
    made, _ = recurrent_policy(kind, cells=2)
    policy, seen = Policy(made), episode(made, 10)
    expected = _along(policy, seen)
    policy.reset()
    for step, observation in enumerate(seen):
        np.testing.assert_array_equal(policy(observation), expected[step])
        assert np.isnan(policy(np.full_like(observation, np.nan))).all()
        assert np.isnan(policy(np.where(np.arange(5) == 2, np.inf, observation))).all()


@pytest.mark.parametrize("kind", CELLS)
def test_sums_that_overflow_leave_no_state_that_is_not_finite(kind: CellName) -> None:
    made, _ = recurrent_policy(kind, cells=2)
    policy, seen = Policy(made), episode(made, 40)
    for observation in seen:
        policy(np.float32(1e38) * np.sign(observation))
        assert np.isfinite(policy(observation)).all()


def test_threads_have_a_state_each() -> None:
    made, _ = recurrent_policy("lstm")
    policy, seen = Policy(made), episode(made, 30)
    expected = _along(policy, seen)
    policy(seen[0])
    results: list[Array] = []
    thread = threading.Thread(target=lambda: results.append(np.stack([policy(observation) for observation in seen])))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0], expected)


def test_a_control_loop_begins_an_episode() -> None:
    made, _ = recurrent_policy("gru")
    policy, observation, sent = Policy(made), episode(made, 1)[0], []
    first = _along(policy, observation[None])[0]
    clock = itertools.count(0, 20_000).__next__  # each look takes 20 µs
    loop = ControlLoop(policy, lambda: observation, sent.append, 100, np.zeros(3), clock=clock, sleep=lambda _: None)
    for _ in range(2):
        sent.clear()
        loop.run(0.05)
        np.testing.assert_array_equal(sent[0], first)
