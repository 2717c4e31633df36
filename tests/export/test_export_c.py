"""C: the same actions as onnxruntime and float64 on every path, silent compilers, exact sizes, and nothing hostile."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.acting.onnx_policy import OnnxPolicy
from edgerl.edge.acting.policy import Policy
from edgerl.errors import ConfigError, OutputError, UnsupportedModelError
from edgerl.export.c.form import (
    ACTIVE,
    COSTS,
    VECTOR_COSTS,
    ColumnForm,
    DenseForm,
    Layout,
    column_form,
    layer_form,
    policy_form,
)
from edgerl.export.c.options import Options, Target
from edgerl.export.c.source import Provenance, generate
from edgerl.export.c.text import comment_text, number
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import Array, CompactPolicy, Head, Precision, as_blocks, make_layer
from edgerl.policy.contract import Contract
from edgerl.policy.format import save
from edgerl.policy.terms import terms_of
from edgerl.profiling.budgets.report import profile
from tests.policy.policies import episode, outlier_policy, random_policy, recurrent_policy, torch_actions, torch_episode

from .compiled_c import PROVENANCE, STRICT, Library, run, write
from .golden.__main__ import CASES, golden

Run = Callable[..., tuple[int, str, str]]

M0 = ("-mcpu=cortex-m0plus", "-mthumb")
M4F = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
M7 = ("-mcpu=cortex-m7", "-mthumb", "-mfpu=fpv5-d16", "-mfloat-abi=hard")
CORTEX = {"M0+": M0, "M4F": M4F, "M7": M7}

BOUNDS = {"fp32": 1e-5, "fp16": 1e-5, "int8": 1e-3}
"""Of the difference to the policy with the same stored weights, in shares of the action range (docs/c.md)."""

GOLDEN = Path(__file__).parent / "golden"
EDGE = Path(__file__).parents[1] / "edge"


def observations_of(policy: CompactPolicy, count: int, seed: int = 7) -> Array:
    drawn = np.random.default_rng(seed).normal(size=(count, policy.n_observations))
    if policy.observation_mean is not None and policy.observation_scale is not None:
        drawn = policy.observation_mean + drawn / policy.observation_scale
    return drawn.astype(np.float32)


def largest_difference(policy: CompactPolicy, actions: Array, expected: Array) -> float:
    span = policy.action_high.astype(np.float64) - policy.action_low
    return float((np.abs(actions.astype(np.float64) - expected) / span).max())


def run_on_cortex(core: str, sources: tuple[str, ...], folder: Path) -> None:
    """Run a program of C files on an emulated board, where it must end with 0."""
    link = ("-nostdlib", "-T", EDGE / "cortex_m7.ld", "-lgcc", "-o", "program.elf")
    machine = (*CORTEX[core], "-ffreestanding", "-O2")
    run("arm-none-eabi-gcc", *machine, *sources, EDGE / "cortex_m7.c", *link, folder=folder)
    board = "mps2-an500" if core == "M7" else "mps2-an386"
    quiet = ("-nographic", "-monitor", "none", "-serial", "none")
    semihosting = ("-semihosting-config", "enable=on,target=native")
    run("qemu-system-arm", "-machine", board, *quiet, *semihosting, "-kernel", "program.elf", folder=folder)


STORED = ("fp32", "fp16", "int8", "int8 and outliers", "int4 and outliers")
"""Ways in which weights are stored."""


def stored_policy(stored: str, seed: int, widths: tuple[int, ...], block: int, density: float = 0.4) -> CompactPolicy:
    if stored.endswith(" and outliers"):
        return outlier_policy(seed, widths, block, stored[:4], density=density)  # type: ignore[arg-type]
    return random_policy(seed, widths, block, stored, density=density)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize("layout", ["auto", "dense", "sparse"])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_actions_are_those_of_onnxruntime(
    make_policy: Any, precision: str, block: int, layout: Layout, tmp_path: Path
) -> None:
    made = make_policy((17, 66, 35, 6), precision, block)
    policy = made.policy
    export_policy(policy, "onnx", tmp_path / "policy.onnx")
    reference = OnnxPolicy(tmp_path / "policy.onnx")
    library = Library(policy, tmp_path, Options(layout=layout))
    observations = observations_of(policy, 1000)
    actions = library.actions(observations)
    expected = np.stack([reference(observation) for observation in observations])
    assert largest_difference(policy, actions, expected) < BOUNDS[precision]
    x = (observations.astype(np.float64) - made.mean) * made.scale  # the oracle: the numbers it was made from
    for index, (weight, bias) in enumerate(zip(made.weights, made.biases, strict=True)):
        x = (x if index == 0 else np.maximum(x, 0)) @ weight.T + bias
    centre, half_range = policy.action_scaling
    assert largest_difference(policy, actions, centre + half_range * np.tanh(x)) < BOUNDS[precision]
    assert np.all((actions >= policy.action_low) & (actions <= policy.action_high))
    assert library.self_test() == 0


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("activation", "head"), [*((name, "clip") for name in ACTIVATIONS), ("relu", "tanh"), ("tanh", "tanh")]
)
def test_every_activation_norm_and_head_is_pytorchs(
    activation: ActivationName, head: Head, norm: bool, precision: Precision, tmp_path: Path
) -> None:
    policy = random_policy(
        3, (7, 33, 20, 3), precision=precision, activation=activation, norm=norm, head=head, clip=1.5
    )
    library, observations = Library(policy, tmp_path), observations_of(policy, 100)
    expected = torch_actions(policy, observations)
    actions = library.actions(observations)
    assert np.abs(actions - expected).max() < BOUNDS[precision] * np.abs(expected).max(initial=1)
    assert np.all((actions >= policy.action_low) & (actions <= policy.action_high))
    assert library.self_test() == 0
    bad = observations[0].copy()
    bad[0] = np.nan
    code, refused = library.act(bad)
    bounds = np.stack([policy.action_low, policy.action_high])
    assert code == 1
    np.testing.assert_allclose(refused, np.where(np.isfinite(bounds).all(axis=0), bounds.mean(axis=0), 0), rtol=1e-6)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize(
    ("precision", "block", "layout"),
    [("fp32", 1, "auto"), ("fp32", 1, "dense"), ("fp32", 4, "sparse"), ("fp16", 1, "auto"), ("int8", 4, "auto")],
)
@pytest.mark.parametrize(("cells", "before"), [(2, 0), (1, 6)])
def test_an_episode_of_a_recurrent_policy_is_pytorchs(
    kind: CellName, precision: Precision, block: int, layout: Layout, cells: int, before: int, tmp_path: Path
) -> None:
    policy, outputs = recurrent_policy(
        kind, (11, 34, 19, 3), cells=cells, before=before, precision=precision, block=block, density=0.6
    )
    library, seen = Library(policy, tmp_path, Options(layout=layout)), episode(policy, 1000)
    actions = library.actions(seen)
    assert largest_difference(policy, actions, policy(seen, np.float64)) < BOUNDS[precision]
    if precision == "fp32":
        assert largest_difference(policy, actions, torch_episode(policy, outputs, seen)) < BOUNDS[precision]
    for begin in (library.reset, library.self_test):
        assert not begin()
        np.testing.assert_array_equal(library.actions(seen[:20]), actions[:20])
    library.reset()
    for observation, action in zip(seen, actions[:20], strict=False):
        assert library.act(np.where(np.arange(11) == 3, np.nan, observation))[0] == 1
        np.testing.assert_array_equal(library.act(observation)[1], action)


def test_a_recurrent_policys_state_is_the_callers(tmp_path: Path) -> None:
    policy, _ = recurrent_policy("lstm", (2, 5, 4, 1), activation="relu")
    made, seen = write(policy, tmp_path), episode(policy, 6)
    expected = policy(seen, np.float64)[:, 0]
    calls = "".join(
        f"{{ const float o[2] = {{{one[0]:.9g}f, {one[1]:.9g}f}}; float a[1];\n"
        "for (int i = 0; i < 2; i++) {\n"
        'edgerl_policy_r(o, a, &scratch, &states[i]); printf("%.9g ", (double)a[0]); } }\n'
        for one in seen
    )
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "edgerl_policy.h"\n'
        "static edgerl_policy_scratch scratch;\nstatic edgerl_policy_state states[2];\nint main(void) {\n"
        "states[0].values[3] = states[1].values[0] = 7.0f;\n"
        "edgerl_policy_reset_r(&states[0]);\nedgerl_policy_reset_r(&states[1]);\n"
        f"{calls}"
        "return sizeof states[0] != EDGERL_POLICY_STATE_BYTES || sizeof scratch != EDGERL_POLICY_SCRATCH_BYTES;\n}\n"
    )
    run("gcc", *STRICT, "-Wno-conversion", "edgerl_policy.c", "main.c", "-o", "program", folder=tmp_path)
    printed = np.array(run(tmp_path / "program", folder=tmp_path).split(), np.float64).reshape(6, 2)
    np.testing.assert_allclose(printed, np.column_stack([expected, expected]), atol=1e-5)
    assert (made.state_bytes, policy.n_state) == (40, 10)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("kind", CELLS)
def test_an_episode_on_an_emulated_cortex(kind: CellName, tmp_path: Path) -> None:
    policy, _ = recurrent_policy(kind, (7, 20, 9, 2), cells=2)
    report = export_policy(policy, "c", tmp_path / "c", target="cortex-m4", measure=True)
    measured = report.measured.as_dict()  # type: ignore[attr-defined]
    assert measured["calls"] == 32
    assert measured["largest_difference"] < 1e-5
    assert measured["stack_bytes"] < 300
    assert measured["bss_bytes"] == report.scratch_bytes + report.state_bytes  # type: ignore[attr-defined]


CONTRACT = Contract(
    observation_names=("speed", "joint_pos", "command"),
    observation_terms_size=(3, 1, 2),
    observation_terms_history_length=(3, 0, 2),
    observation_terms_scale=((0.25,), (3.0,), (0.05, 7.0)),
    observation_terms_clip=((-1.0, 0.5), (-np.inf, np.inf), (-np.inf, 0.1)),
)
"""Of 6 numbers in a step, and 14 in an observation."""


def steps(count: int) -> Array:
    """Steps [count, 6] of all sizes, which the C below makes too."""
    state, drawn = 1, []
    for _ in range(count * 6):
        state = (state * 1664525 + 1013904223) % 2**32
        drawn.append(np.float32((state >> 8) - (1 << 23)) * np.float32(2.0**-21))
    return np.array(drawn, np.float32).reshape(count, 6)


STEPS_IN_C = """
static float drawn(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)((int32_t)(*state >> 8) - (1 << 23)) * 0x1p-21f;
}
"""


@pytest.mark.parametrize("kind", ["gru", None])
def test_single_steps_are_stacked_to_the_bit(kind: CellName | None, tmp_path: Path) -> None:
    widths = (14, 9, 7, 3)
    policy = random_policy(0, widths) if kind is None else recurrent_policy(kind, widths)[0]
    library = StepLibrary(replace(policy, contract=CONTRACT), tmp_path)
    terms, stack, seen = terms_of(CONTRACT), None, []
    for step in steps(1000):
        code, action = library.step(step)
        stack = terms.stacked(terms.scaled(step), stack)
        np.testing.assert_array_equal(library.history().view(np.uint32), stack.view(np.uint32))
        assert code == 0
        seen.append((action, stack))
    actions = library.actions(np.stack([observation for _, observation in seen]))
    np.testing.assert_array_equal(actions, np.stack([action for action, _ in seen]))
    stepwise = Policy(library.policy).of_terms()
    expected = np.stack([stepwise(step) for step in steps(1000)])
    assert largest_difference(policy, actions, expected) < 1e-5


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_a_step_that_is_not_finite_leaves_the_history(bad: float, tmp_path: Path) -> None:
    library = StepLibrary(replace(random_policy(0, (14, 9, 7, 3)), contract=CONTRACT), tmp_path)
    broken = np.zeros(6, np.float32)
    assert library.step(np.where(np.arange(6) == 3, np.float32(bad), broken))[0] == 1
    for step in steps(5):
        assert library.step(step)[0] == 0
        before = library.history()
        assert library.step(np.where(np.arange(6) == 3, np.float32(bad), broken))[0] == 1
        np.testing.assert_array_equal(library.history(), before)
    library.forget()
    library.step(steps(1)[0])
    stack = terms_of(CONTRACT)
    np.testing.assert_array_equal(library.history(), stack.stacked(stack.scaled(steps(1)[0]), None))


class StepLibrary(Library):
    """An exported policy that takes single steps, in a history of ours."""

    def __init__(self, policy: CompactPolicy, folder: Path) -> None:
        super().__init__(policy, folder)
        self.policy = policy
        code = ctypes.CDLL(str(folder / "libedgerl_policy.so"))
        self._step, self._forget = code.edgerl_policy_step_r, code.edgerl_policy_forget_r
        self._scratch = (ctypes.c_char * self.made.scratch_bytes)()
        self._history = (ctypes.c_char * self.made.history_bytes)()
        self._state = [(ctypes.c_char * self.made.state_bytes)()] if policy.is_recurrent else []

    def step(self, step: Array) -> tuple[int, Array]:
        action = np.full(3, np.nan, np.float32)
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (np.ascontiguousarray(step), action))
        return self._step(*pointers, self._scratch, self._history, *self._state), action

    def history(self) -> Array:
        return np.frombuffer(self._history, np.float32)[:14].copy()

    def forget(self) -> None:
        self._forget(self._history)


def test_the_header_has_the_contract(tmp_path: Path) -> None:
    """In lines of a comment that no name can end."""
    names = ("hip*/", *(f"left_joint_{index}" for index in range(40)))
    contract = Contract(step_dt=(0.02,), joint_names=names, action_clip=((-np.inf, 1.0),))
    header = write(replace(random_policy(0, (5, 4, 1)), contract=contract), tmp_path).header
    comment = " ".join(header.partition("*/")[0].replace("\n *", " ").split())
    assert "to apply: step_dt: 0.02 joint_names: hip_/, left_joint_0, left_joint_1," in comment
    assert "left_joint_39 action_clip: -inf;1.0 Not its business" in comment
    assert max(map(len, header.splitlines())) < 125


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", CORTEX)
def test_single_steps_are_stacked_alike_on_a_cortex(core: str, tmp_path: Path) -> None:
    """A sum over the bits of all 1000 stacks, which the processor and its compiler must make alike."""
    made = write(replace(random_policy(0, (14, 9, 7, 3)), contract=CONTRACT), tmp_path)
    terms, digest = terms_of(CONTRACT), 0
    stack: Array | None = None
    for index, step in enumerate(steps(1000)):
        stack = terms.stacked(terms.scaled(step), None if index in (0, 500) else stack)
        for bits in stack.view(np.uint32).tolist():
            digest = (digest * 31 + bits) % 2**32
    (tmp_path / "main.c").write_text(
        f'#include "edgerl_policy.h"\n{STEPS_IN_C}'
        "static edgerl_policy_scratch scratch;\nstatic edgerl_policy_history history;\nint main(void) {\n"
        "    uint32_t state = 1, digest = 0;\n"
        "    for (int i = 0; i < 1000; i++) {\n"
        "        float step[EDGERL_POLICY_STEP], action[EDGERL_POLICY_ACTIONS], other[EDGERL_POLICY_ACTIONS];\n"
        "        for (int j = 0; j < EDGERL_POLICY_STEP; j++) step[j] = drawn(&state);\n"
        "        if (i == 500) { edgerl_policy_reset(); edgerl_policy_forget_r(&history); }\n"
        "        if (edgerl_policy_step_r(step, action, &scratch, &history)) return 1;\n"
        "        if (edgerl_policy_step(step, other)) return 2;\n"
        "        for (int j = 0; j < EDGERL_POLICY_ACTIONS; j++) if (action[j] != other[j]) return 3;\n"
        "        for (int j = 0; j < EDGERL_POLICY_OBSERVATIONS; j++) {\n"
        "            const union { float real; uint32_t bits; } number = {history.values[j]};\n"
        "            digest = digest * 31u + number.bits;\n        }\n    }\n"
        f"    return digest != {digest}u || sizeof history != EDGERL_POLICY_HISTORY_BYTES;\n}}\n"
    )
    assert made.history_bytes == 4 * 15
    sources = ("edgerl_policy.c", "main.c")
    run("gcc", "-std=c99", "-O2", *sources, "-o", "program", folder=tmp_path)
    run(tmp_path / "program", folder=tmp_path)
    run_on_cortex(core, sources, tmp_path)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("stored", ["fp32", "int8"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_the_stated_loss_is_that_of_the_compiled_code(
    make_policy: Any, stored: str, dtype: Precision, offset: float, tmp_path: Path
) -> None:
    made = make_policy((17, 66, 35, 6), stored)
    policy = made.policy if not offset else replace(made.policy, observation_offset=np.full(17, offset))
    options, seen = Options(dtype=dtype), observations_of(made.policy, 500)
    policy = policy.with_example(policy.observation_of(seen[0]))
    library = Library(policy, tmp_path, options)
    difference = library.actions(policy.observation_of(seen)) - made.policy(seen, np.float64)
    shares = np.abs(difference) / (policy.action_high - policy.action_low)
    report = export_policy(policy, "c", tmp_path / "c", dtype=dtype, observations=seen)
    loss = report.action_difference
    assert (loss.observations, loss.observed) == (500, "recorded")
    assert loss.largest == pytest.approx(shares.max(), rel=0.05, abs=1e-5)
    assert loss.root_mean_square == pytest.approx(np.sqrt(np.mean(shares**2)), rel=0.05, abs=1e-6)
    sampled = export_policy(policy, "c", tmp_path / "c", dtype=dtype, force=True).action_difference
    assert sampled.observed == "sampled"
    assert sampled.largest == pytest.approx(loss.largest, rel=1, abs=1e-5)  # as much, over other observations


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_offset_is_subtracted_in_double(make_policy: Any, precision: str, tmp_path: Path) -> None:
    made = make_policy((17, 66, 35, 6), precision)
    offset = np.rint(np.random.default_rng(2).uniform(-1e8, 1e8, 17))
    policy = replace(made.policy, observation_offset=offset).with_example(offset + 0.1)
    library = Library(policy, tmp_path)
    given = offset + observations_of(made.policy, 300)
    x = (given.astype(np.longdouble) - offset).astype(np.float32)
    expected = made.policy(x, np.float64)
    assert largest_difference(policy, library.actions(given), expected) < BOUNDS[precision]
    assert library.self_test() == 0
    same = Library(made.policy, tmp_path, Options(prefix="plain"))  # from there on it is the same code
    assert np.array_equal(library.actions(given), same.actions(x))
    for wrong in (np.nan, np.inf, 1e300):
        assert library.act(np.where(np.arange(17) == 3, wrong, given[0]))[0] == 1
    plain, shifting = (policy_form(each, None, "auto", "generic") for each in (made.policy, policy))
    assert shifting.flash_bytes == plain.flash_bytes + 17 * 8 + 17 * 4  # the offset, and a longer example
    assert "const double observation[17]" in library.made.header
    assert "may be the same array" not in library.made.header


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("widths", "block", "density", "indices"),
    [
        ((5, 700, 300, 3), 1, 0.05, "8-bit distances"),
        ((5, 5000, 3), 4, 0.02, "8-bit distances"),
        ((2, 2100, 3), 1, 0.002, "16-bit rows"),
        ((300, 30, 3), 1, 0.5, "8-bit rows"),
        ((5, 700, 3), 1, 0.9, "8-bit distances"),
    ],
)
def test_every_kind_of_index(
    precision: Precision, widths: tuple[int, ...], block: int, density: float, indices: str, tmp_path: Path
) -> None:
    policy = random_policy(3, widths, block, precision, density=density)
    library = Library(policy, tmp_path, Options(layout="sparse"))
    assert indices in library.made.layers[0]
    observations = observations_of(policy, 50)
    expected = policy(observations, np.float64)
    assert largest_difference(policy, library.actions(observations), expected) < BOUNDS[precision]


def test_the_smaller_index_is_taken_and_holds_the_layer() -> None:
    """Decoded again by hand; bytes compared with those of the other kind."""
    rng = np.random.default_rng(0)
    for n_outputs, density in ((300, 0.3), (300, 0.001), (4000, 0.001), (4000, 0.01), (256, 0.1), (257, 0.1)):
        weight = (rng.normal(size=(n_outputs, 9)) * (rng.random((n_outputs, 9)) < density)).astype(np.float32)
        form = column_form(make_layer(weight, np.zeros(n_outputs, np.float32), 1))
        decoded, entry = np.zeros((n_outputs, 9), np.float32), 0
        for column, count in enumerate(form.counts.tolist()):
            row = 0
            for _ in range(count):
                row = int(form.rows[entry]) + (row if form.is_delta else 0)
                decoded[row, column] += form.values[entry, 0]
                entry += 1
        assert np.array_equal(decoded, weight)
        connections = max(np.count_nonzero(weight), 1)
        bytes_with_16_bits = 6 * connections + 9 * form.counts.itemsize
        assert form.n_bytes <= bytes_with_16_bits
        assert (form.rows.itemsize, form.is_delta) == (1, False) or n_outputs > 256


def test_blocks_stay_blocks() -> None:
    policy = random_policy(0, (9, 24, 5), 4, density=0.3)
    form = column_form(policy.layers[0])
    blocks = as_blocks(policy.layers[0].matrix(), 4)
    assert form.values.shape == (np.count_nonzero(blocks.any(axis=2)), 4)
    assert form.rows.size == form.values.size // 4


def test_a_requested_precision_is_that_of_prune(make_policy: Any, tmp_path: Path) -> None:
    policy = make_policy().policy
    for dtype, bound in (("fp16", 2e-3), ("int8", 3e-2)):
        (folder := tmp_path / dtype).mkdir()
        library = Library(policy, folder, Options(dtype=dtype))
        observations = observations_of(policy, 200)
        actions, original = library.actions(observations), policy(observations, np.float64)
        stored = policy_form(policy, dtype, "auto", "generic").policy
        assert largest_difference(policy, actions, stored(observations, np.float64)) < BOUNDS[dtype]
        assert largest_difference(policy, actions, original) < bound


def test_layers_of_several_precisions(tmp_path: Path) -> None:
    parts = [random_policy(1, (7, 20, 16, 3), precision=p).layers[i] for i, p in enumerate(("fp16", "int8", "fp32"))]
    base = random_policy(1, (7, 20, 16, 3))
    policy = replace(base, layers=tuple(parts)).with_example(base.example_observation)
    library = Library(policy, tmp_path)
    observations = observations_of(policy, 200)
    assert largest_difference(policy, library.actions(observations), policy(observations, np.float64)) < 1e-3


@pytest.mark.parametrize("widths", [(24, 40, 20, 3), (300, 20, 3)], ids=["8-bit columns", "16-bit columns"])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
@pytest.mark.parametrize("block", [1, 4])
def test_outliers_are_added_to_the_sums(block: int, layout: Layout, widths: tuple[int, ...], tmp_path: Path) -> None:
    policy = outlier_policy(3, widths, block, density=0.5)
    library, observations = Library(policy, tmp_path, Options(layout=layout)), observations_of(policy, 200)
    n_exact = len(policy.layers[0].outliers.values)
    assert library.made.layers[0].startswith(f"int8 and {n_exact} fp32 outliers, ")
    difference = largest_difference(policy, library.actions(observations), torch_actions(policy, observations))
    assert difference < BOUNDS["int8"]
    without = replace(policy, layers=tuple(replace(layer, outliers=None) for layer in policy.layers))
    assert difference < 1e-3 * largest_difference(policy, without(observations), torch_actions(policy, observations))
    assert library.self_test() == 0


@pytest.mark.parametrize("n_hidden", [20, 21])
@pytest.mark.parametrize("block", [1, 4])
def test_int4_weights_lie_two_in_a_byte_where_the_layer_is_dense(block: int, n_hidden: int, tmp_path: Path) -> None:
    for layout, density, kind in (("auto", 0.9, "dense, two weights a byte"), ("auto", 0.05, "sparse columns")):
        policy = outlier_policy(3, (24, 40, n_hidden, 3), block, "int4", density=density)
        (folder := tmp_path / str(density)).mkdir()
        library, observations = Library(policy, folder, Options(layout=layout)), observations_of(policy, 200)
        assert library.made.layers[1].startswith("int4 and ") or policy.layers[1].outliers is None
        assert kind in library.made.layers[1]
        difference = largest_difference(policy, library.actions(observations), torch_actions(policy, observations))
        assert difference < BOUNDS["int8"]
        assert library.self_test() == 0


def test_one_layer_and_a_layer_without_connections(tmp_path: Path) -> None:
    one, low = np.ones(2, np.float32), -np.ones(2, np.float32)
    empty = make_layer(np.zeros((2, 3), np.float32), np.array([0.5, -0.25], np.float32), 1)
    policy = CompactPolicy((empty,), low, one)
    assert Library(policy, tmp_path).act(np.ones(3))[1] == pytest.approx(np.tanh([0.5, -0.25]), abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_not_finite_is_refused_with_the_middle_of_each_range(precision: Precision, tmp_path: Path) -> None:
    policy = random_policy(2, precision=precision)
    library = Library(policy, tmp_path)
    middle = (policy.action_high.astype(np.float64) + policy.action_low) / 2
    for bad in (np.nan, np.inf, -np.inf):
        for position in range(policy.n_observations):
            observation = np.zeros(policy.n_observations)
            observation[position] = bad
            code, action = library.act(observation)
            assert code == 1
            assert action == pytest.approx(middle, rel=1e-6)
    for seed in range(50):  # sums overflow
        code, action = library.act(np.random.default_rng(seed).choice([-3e38, 3e38], policy.n_observations))
        assert code in (0, 1)
        assert np.all((action >= policy.action_low) & (action <= policy.action_high))


def test_tanh_of_every_sum_up_to_infinity_is_the_bound(tmp_path: Path) -> None:
    layer = make_layer(np.full((1, 1), 1e38, np.float32), np.zeros(1, np.float32), 1)
    library = Library(CompactPolicy((layer,), -np.ones(1, np.float32), np.ones(1, np.float32)), tmp_path)
    for value in (1e-36, 1e-10, 1, 3.4):  # sums of 100 to 3.4e38
        for sign in (-1, 1):
            assert library.act([sign * value]) == (0, pytest.approx([sign], abs=4e-7)), value
    for value in (10, -10, 3e38, -3e38):  # infinite sums are refused
        assert library.act([value]) == (1, [0])


def test_example_and_tolerance_catch_a_wrong_weight(tmp_path: Path) -> None:
    policy = random_policy(2)
    made = write(policy, tmp_path)
    value = number(policy.layers[0].values.ravel()[0])
    (tmp_path / "edgerl_policy.c").write_text(made.source.replace(value, "9.5f", 1))
    (tmp_path / "main.c").write_text(
        '#include "edgerl_policy.h"\nint main(void) { return edgerl_policy_self_test() > 0 ? 0 : 1; }\n'
    )
    run("gcc", *STRICT, "edgerl_policy.c", "main.c", "-o", "main", folder=tmp_path)
    run(tmp_path / "main", folder=tmp_path)


# -------------------------------------------------------------------------------------------------------- compilers


@pytest.mark.needs("clang", "arm-none-eabi-gcc")
@pytest.mark.parametrize("stored", STORED)
def test_it_compiles_in_silence_and_asks_for_no_more_than_the_header_says(stored: str, tmp_path: Path) -> None:
    compilers = [("gcc", ()), ("clang", ()), *(("arm-none-eabi-gcc", machine) for machine in CORTEX.values())]
    for block, layout in ((1, "sparse"), (4, "sparse"), (1, "dense")):
        write(stored_policy(stored, 0, (5, 18, 7, 3), block), tmp_path, Options(layout=layout))  # type: ignore[arg-type]
        for compiler, machine in compilers:
            for level, environment in product(("-O0", "-O2", "-O3", "-Os"), (("-ffreestanding",), ())):
                options = (*STRICT, *machine, level, "-fno-stack-protector", *environment)
                run(compiler, *options, "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)
                nm = "arm-none-eabi-nm" if machine else "nm"
                undefined = {line.split()[-1] for line in run(nm, "-u", "policy.o", folder=tmp_path).splitlines()}
                helpers = {name for name in undefined if name.startswith("__aeabi_")}
                assert not helpers or machine == M0
                assert undefined - helpers <= {"memcpy", "memset", "memmove"}, "what the header says"


def test_the_header_stands_alone_and_in_cpp(tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    for precision in ("fp32", "int8"):
        write(random_policy(0, precision=precision), tmp_path)  # type: ignore[arg-type]
        (tmp_path / "user.cpp").write_text('#include "edgerl_policy.h"\nint main() { return EDGERL_POLICY_ACTIONS; }\n')
        run("g++", "-Wall", "-Wextra", "-Werror", "-c", "user.cpp", "-o", "user.o", folder=tmp_path)


PROGRAM = """
#include <stdlib.h>
#include "edgerl_policy.h"
int main(void) {
    edgerl_policy_scratch *scratch = malloc(EDGERL_POLICY_SCRATCH_BYTES);
    float *observation = malloc(sizeof(float) * EDGERL_POLICY_OBSERVATIONS);
    float *action = malloc(sizeof(float) * EDGERL_POLICY_ACTIONS), once[EDGERL_POLICY_ACTIONS];
    unsigned state = 1;
    int wrong = edgerl_policy_self_test();
    for (int call = 0; call < 300; call++) {
        for (int i = 0; i < EDGERL_POLICY_OBSERVATIONS; i++) {
            state = state * 1664525u + 1013904223u;
            observation[i] = ((float)(state >> 8) / 8388608.0f - 1.0f) * (call < 200 ? 3.0f : 1e37f);
        }
        wrong |= edgerl_policy(observation, once) != edgerl_policy_r(observation, action, scratch);
        for (int j = 0; j < EDGERL_POLICY_ACTIONS; j++) {
            wrong |= once[j] != action[j];
        }
    }
    free(scratch);
    free(observation);
    free(action);
    return wrong;
}
"""


@pytest.mark.parametrize("stored", STORED)
def test_the_reentrant_form_is_the_same_under_sanitizers(stored: str, tmp_path: Path) -> None:
    for block, layout, widths in ((1, "sparse", (5, 301, 9, 3)), (4, "sparse", (5, 30, 9, 3)), (1, "dense", (5, 9, 3))):
        made = write(stored_policy(stored, 0, widths, block), tmp_path, Options(layout=layout))  # type: ignore[arg-type]
        assert f"_SCRATCH_BYTES {made.scratch_bytes}\n" in made.header
        (tmp_path / "main.c").write_text(PROGRAM)
        sanitized = ("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all", "-g", "-O1")
        run("gcc", "-std=c99", *sanitized, "edgerl_policy.c", "main.c", "-o", "main", folder=tmp_path)
        run(tmp_path / "main", folder=tmp_path)


def test_two_policies_in_one_program(tmp_path: Path) -> None:
    for prefix, seed in (("left_leg", 1), ("right_leg", 2)):
        write(random_policy(seed, precision="int8" if seed == 1 else "fp32"), tmp_path, Options(prefix=prefix))
    calls = " + ".join(f"{prefix}_self_test()" for prefix in ("left_leg", "right_leg"))
    includes = '#include "left_leg.h"\n#include "right_leg.h"\n'
    (tmp_path / "main.c").write_text(f"{includes}int main(void) {{ return {calls}; }}\n")
    run("gcc", *STRICT, "left_leg.c", "right_leg.c", "main.c", "-o", "main", folder=tmp_path)
    run(tmp_path / "main", folder=tmp_path)
    (tmp_path / "one.c").write_text(
        f'#include "left_leg.c"\n#include "right_leg.c"\nint main(void) {{ return {calls}; }}\n'
    )
    run("gcc", *STRICT, "one.c", "-o", "one", folder=tmp_path)
    run(tmp_path / "one", folder=tmp_path)


def test_constants_and_scratch_can_be_placed(tmp_path: Path) -> None:
    write(random_policy(1), tmp_path)
    placed = [f'-DEDGERL_POLICY_{name}=__attribute__((section(".{name.lower()}")))' for name in ("WEIGHTS", "SCRATCH")]
    run("gcc", *STRICT, *placed, "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)
    sections = run("size", "-A", "policy.o", folder=tmp_path)
    assert ".weights" in sections
    assert ".scratch" in sections


def test_files_of_two_exports_do_not_compile_together(tmp_path: Path) -> None:
    write(random_policy(1), tmp_path)
    header = (tmp_path / "edgerl_policy.h").read_text()
    write(random_policy(2), tmp_path)
    (tmp_path / "edgerl_policy.h").write_text(header)
    with pytest.raises(AssertionError, match="are of two exports: take both from one"):
        run("gcc", *STRICT, "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
@pytest.mark.parametrize("core", CORTEX)
@pytest.mark.parametrize("stored", STORED)
def test_it_computes_the_same_on_a_cortex(stored: str, core: str, tmp_path: Path) -> None:
    """The self-test, in emulation, of every kernel: Arm's own instructions are used nowhere else."""
    for block, layout, widths in (
        *((1, "sparse", (5, 301, 9, 3)), (1, "sparse", (5, 99, 30, 3)), (4, "sparse", (5, 99, 30, 3))),
        *((4, "sparse", (5, 1500, 3)), (1, "dense", (5, 97, 30, 3))),
    ):
        policy = stored_policy(stored, 4, widths, block)
        for attempt in range(2 if widths == (5, 1500, 3) else 1):
            made = write(policy, tmp_path, Options(layout=layout))  # type: ignore[arg-type]
            if attempt == 1:  # a wrong number must be seen
                bias = made.source.index(f"_bias{len(widths) - 2}[")
                first, end = made.source.index("\n", bias), made.source.index(",", bias)
                (tmp_path / "edgerl_policy.c").write_text(f"{made.source[:first]} 9.5f{made.source[end:]}")
            (tmp_path / "main.c").write_text(
                '#include "edgerl_policy.h"\n'
                f"int main(void) {{ return edgerl_policy_self_test() {'==' if attempt else '!='} 0; }}\n"
            )
            run_on_cortex(core, ("edgerl_policy.c", "main.c"), tmp_path)


# ------------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.needs("arm-none-eabi-gcc")
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("block", [1, 4])
def test_announced_bytes_are_those_of_the_compiler_and_of_the_profile(stored: str, block: int, tmp_path: Path) -> None:
    policy = stored_policy(stored, 5, (11, 300, 41, 6), block, density=0.3)
    made = write(policy, tmp_path, Options(target="cortex-m4"))
    apart = ("-O2", "-fdata-sections", "-ffunction-sections")
    run("arm-none-eabi-gcc", *STRICT, *M4F, *apart, "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)
    sections = [line.split() for line in run("arm-none-eabi-size", "-A", "policy.o", folder=tmp_path).splitlines()]
    sizes = {words[0]: int(words[1]) for words in sections if len(words) == 3 and words[0].startswith(".")}
    assert sum(size for name, size in sizes.items() if name.startswith(".rodata")) == made.flash_bytes
    assert sum(size for name, size in sizes.items() if name.startswith((".bss", ".data"))) == made.scratch_bytes
    report = profile(policy, "stm32f405")
    assert report.model_bytes == made.flash_bytes
    assert report.memory_parts == {"runtime": 1024, "weights": 0, "activations": made.scratch_bytes}


def half_cheetah(density: float, block: int) -> CompactPolicy:
    """17-256-256-6 with exactly this share of blocks in the hidden layers, and a dense output layer."""
    rng, layers = np.random.default_rng(0), []
    for n, m in ((17, 256), (256, 256), (256, 6)):
        weight = rng.normal(size=(m, n)).astype(np.float32)
        if m == 256:
            chosen = np.zeros(m // block * n, bool)
            chosen[: round(density * chosen.size)] = True
            mask = rng.permutation(chosen).reshape(m // block, n)
            weight *= np.repeat(mask, block, axis=0)
        layers.append(make_layer(weight, np.zeros(m, np.float32), block))
    bound = np.ones(6, np.float32)
    return CompactPolicy(tuple(layers), -bound, bound)


@pytest.mark.parametrize(
    ("block", "dtype", "factor"), [(1, "fp32", 6), (1, "int8", 13), (4, "fp32", 6.5), (4, "int8", 18)]
)
def test_a_tenth_of_the_connections_takes_a_fraction_of_the_flash(block: int, dtype: Precision, factor: float) -> None:
    made = generate(half_cheetah(0.1, block), options=Options(dtype=dtype, target="cortex-m4"), provenance=PROVENANCE)
    dense = 4 * (17 * 256 + 256 * 256 + 256 * 6 + 256 + 256 + 6)
    assert dense / made.flash_bytes >= factor
    assert made.scratch_bytes == 4 * (256 + 256), "the two widest layers"


def test_auto_takes_what_is_faster_and_not_much_larger() -> None:
    def names(density: float, block: int = 1) -> list[type]:
        layers = half_cheetah(density, block).layers
        shares = [1.0] + [ACTIVE] * (len(layers) - 1)
        forms = (layer_form(layer, "auto", "cortex-m4", share) for layer, share in zip(layers, shares, strict=True))
        return [type(form) for form in forms]

    assert names(0.1) == names(0.5) == names(0.5, 4) == [ColumnForm, ColumnForm, DenseForm]
    assert names(0.7) == names(1) == [DenseForm] * 3
    assert sorted([*COSTS, *VECTOR_COSTS]) == sorted(get_args(Target))


# ------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(("name", "block", "precision"), CASES)
def test_the_text_is_the_golden_one(name: str, block: int, precision: Precision) -> None:
    """To review a change: write them anew with `python -m tests.export.golden`, and read the difference."""
    for file, text in golden(name, block, precision).items():
        assert (GOLDEN / file).read_text() == text, file


def test_floats_survive() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 32, 20_000, np.uint32).view(np.float32)
    extremes = np.array([0, -0.0, 1, 1e-45, 1.1754944e-38, 3.4028235e38, -16777216], np.float32)
    for value in (*extremes, *values[np.isfinite(values)]):
        text = number(value)
        assert text.endswith("f")
        assert any(mark in text for mark in ".e")
        assert np.float32(text[:-1]).tobytes() == np.float32(value).tobytes()


def test_the_same_policy_gives_the_same_text() -> None:
    first, second = (generate(random_policy(1), options=Options(), provenance=PROVENANCE) for _ in range(2))
    assert first == second


HOSTILE = '*/ int main(void) { system("rm"); } /* \\\n#include "x" ??/\n\x00\u202e"'


def test_hostile_metadata_stays_in_the_comment(tmp_path: Path) -> None:
    policy = replace(random_policy(1), metadata={"environment": HOSTILE, HOSTILE: 1, "long": "x" * 10_000})
    provenance = Provenance(HOSTILE, HOSTILE, HOSTILE)
    made = generate(policy, options=Options(), provenance=provenance)
    comment, _, code = made.header.partition("*/")
    assert comment.startswith("/*")
    assert comment.count("/*") == 1
    assert all(line.startswith((" *", "/* ")) for line in comment.rstrip().splitlines())
    assert "system" not in code.replace(comment_text(HOSTILE, 64), "")
    assert made.header.isascii()
    assert "system" not in made.source
    (tmp_path / "edgerl_policy.h").write_text(made.header)
    (tmp_path / "edgerl_policy.c").write_text(made.source)
    run("gcc", *STRICT, "-trigraphs", "-c", "edgerl_policy.c", "-o", "policy.o", folder=tmp_path)


# -------------------------------------------------------------------------------------------------------- bad input


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="`dtype` is 'fp8'; expected fp32, fp16, int8"):
        Options(dtype="fp8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`target` is 'cortex-m5'; expected cortex-m4, "):
        Options(target="cortex-m5")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`layout` is 'csr'; expected auto, dense, sparse"):
        Options(layout="csr")  # type: ignore[arg-type]


def test_what_c_cannot_hold_is_refused() -> None:
    policy = random_policy(1)
    infinite = replace(
        policy, layers=(replace(policy.layers[0], bias=np.full(9, np.inf, np.float32)), *policy.layers[1:])
    )
    with pytest.raises(UnsupportedModelError, match="layer 0 holds a number that is not finite"):
        generate(infinite, options=Options(), provenance=PROVENANCE)
    wide = make_layer(np.ones((4096, 4096), np.int8), np.zeros(4096), 1, np.ones(4096, np.float32))
    bound = np.ones(4096, np.float32)
    with pytest.raises(UnsupportedModelError, match="bytes of constants in C or more; expected at most 16777216"):
        generate(CompactPolicy((wide, wide), -bound, bound), options=Options(dtype="fp32"), provenance=PROVENANCE)


def test_files_that_exist_need_force(tmp_path: Path) -> None:
    export_policy(random_policy(1), "c", tmp_path / "c")
    with pytest.raises(OutputError, match="exists already; pass `force`"):
        export_policy(random_policy(2), "c", tmp_path / "c")
    export_policy(random_policy(2), "c", tmp_path / "c", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; the output of C is a folder"):
        export_policy(random_policy(2), "c", tmp_path / "file")
    with pytest.raises(OutputError, match="choose an existing, writable folder"):
        export_policy(random_policy(2), "c", tmp_path / "no" / "c")
    assert sorted(os.listdir(tmp_path)) == ["c", "file"]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, _data: bytes, *, force: bool) -> None:  # noqa: ARG001
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("edgerl.export.c.files.write_atomically", full)
    with pytest.raises(OutputError, match="No space left"):
        export_policy(random_policy(2), "c", tmp_path / "c")
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run folder that runs/latest points to."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("first")
    save(half_cheetah(0.1, 1).with_example(np.zeros(17, np.float32)), folder / "policy.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_command_writes_beside_the_policy_again_and_again(edgerl: Run, folder: Path) -> None:
    for _ in range(2):
        code, out, err = edgerl("export", "--format", "c", "--target", "stm32f405", "--no-measure")
        assert (code, err) == (0, "using runs/first/policy.safetensors\n")
    lines = out.splitlines()
    assert lines[0] == "runs/first/c: edgerl_policy.c and edgerl_policy.h, 17-256-256-6, for cortex-m4"
    assert lines[1:4] == [
        "layer 0: fp32, sparse columns, single connections, 8-bit rows",
        "layer 1: fp32, sparse columns, single connections, 8-bit rows",
        "layer 2: fp32, dense",
    ]
    header = (folder / "c" / "edgerl_policy.h").read_text()
    assert "Command     edgerl export --format c --target stm32f405 --no-measure\n" in header
    assert "Target      stm32f405 (cortex-m4)\n" in header
    assert sorted(os.listdir(folder / "c")) == ["edgerl_policy.c", "edgerl_policy.h"]


def test_smaller_weights_say_what_they_cost_in_return(edgerl: Run, folder: Path) -> None:
    source = random_policy(0, (4, 16, 2))
    bounds = np.array([1, 1.5], np.float32)
    policy = replace(source, action_low=-bounds, action_high=bounds, metadata={"environment": "Pendulum-v1"})
    save(policy, folder / "policy.safetensors")
    _, out, _ = edgerl("export", folder, "--format", "c", "--dtype", "int8", "--no-measure", "--json")
    assert json.loads(out)["returns"]["returns"] is None
    assert "Pendulum-v1 has 3 observations and 1 actions" in json.loads(out)["returns"]["why_not"]
    pendulum = replace(random_policy(0, (3, 16, 1)), metadata={"environment": "Pendulum-v1"})
    two = np.full(1, 2, np.float32)
    save(replace(pendulum, action_low=-two, action_high=two), folder / "policy.safetensors")
    _, out, _ = edgerl("export", folder, "--format", "c", "--dtype", "int8", "--no-measure")
    assert "return over 10 episodes, 95 % bootstrap interval: " in out
    _, out, _ = edgerl("export", folder, "--format", "c", "--no-measure")
    assert "return" not in out, "nothing became smaller"
    save(replace(pendulum, metadata={}), folder / "policy.safetensors")
    _, out, _ = edgerl("export", folder, "--format", "c", "--dtype", "fp16", "--no-measure")
    assert "no return was measured: the policy does not name its environment" in out


def test_json_has_the_facts(edgerl: Run, folder: Path) -> None:
    options = ("--dtype", "int8", "--prefix", "gait", "--layout", "sparse", "--json")
    code, out, _ = edgerl("export", folder, "--format", "c", "-o", "out", *options)
    report = json.loads(out)
    assert code == 0
    assert (report["path"], report["format"], report["target"]) == ("out", "c", "generic")
    assert report["files"] == ["gait.c", "gait.h"]
    assert report["scratch_bytes"] == 2048
    assert f"GAIT_FLASH_BYTES {report['flash_bytes']}\n" in Path("out/gait.h").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--prefix", "a-b"), "--prefix is 'a-b'; expected a C identifier"),
        (("--dtype", "fp64"), "--dtype is 'fp64'; expected fp"),
        (("--layout", "csr"), "--layout is 'csr'"),
        (("--target", "stm32f40"), "there is no device 'stm32f40'; did you mean stm32f405?"),
        (("--replay", "5"), "--replay was given, which --format c does not have; leave it out"),
        (("-o", "no/such/folder"), "choose an existing, writable folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    edgerl: Run, folder: Path, options: tuple[str, ...], said: str
) -> None:
    code, out, err = edgerl("export", folder / "policy.safetensors", "--format", "c", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert sorted(os.listdir(folder)) == ["config.json", "policy.safetensors"]


def test_options_of_c_are_not_those_of_onnx(edgerl: Run, folder: Path) -> None:
    code, _, err = edgerl("export", folder, "--prefix", "a")
    assert code == 2
    assert "--prefix was given, which --format onnx does not have; leave it out" in err


def test_what_is_too_large_for_the_device_is_not_written(edgerl: Run, folder: Path) -> None:
    save(half_cheetah(1, 1).with_example(np.zeros(17, np.float32)), folder / "policy.safetensors")
    device = (Path(__file__).parents[2] / "device_profiles/stm32f405.toml").read_text()
    small = device.replace("flash_bytes = { value = 524_288", "flash_bytes = { value = 65_536")
    assert small != device
    Path("small.toml").write_text(small)
    code, out, err = edgerl("export", folder, "--format", "c", "--target", "small.toml")
    assert (code, out) == (1, "")
    constants = 4 * (17 * 256 + 256 * 256 + 256 * 6 + 256 + 256 + 6 + 2 * 6 + 17 + 6)  # and code, as the profile has it
    used = f"{(constants + 4096) / 1024:.1f} KiB"
    assert f"the C of 17-256-256-6 takes {used} of flash on small, expected at most 64.0 KiB" in err
    assert not (folder / "c").exists()
    code, _, _ = edgerl("export", folder, "--format", "c", "--target", "small.toml", "--dtype", "int8")
    assert code == 1
    code, _, _ = edgerl("export", folder, "--format", "c", "--target", "stm32f405")
    assert code == 0
