"""The native engine's state: whole through arrays, across engines, and refused where it is damaged."""

from __future__ import annotations

import re
from collections.abc import Callable
from ctypes import sizeof
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.algorithms.native import NativeAgent, stored_plan
from edgerl.algorithms.td3 import TD3
from edgerl.algorithms.topology import LayerPlan
from edgerl.config import Config
from edgerl.edge.engine.arena import LayerArrays, LearnerArena
from edgerl.edge.engine.library import BytesOf, LearnerConfig, Progress, library
from edgerl.errors import ConfigError

from .engines import Array, Arrays, M, N, differing, filled_replay, native_agent, small_config

NUMBER, SHAPE, INDEX, NOT_FINITE, TOO_SMALL, INVALID, UNDER_WAY = (
    re.escape(f"the learner: {library().status_text(status)}") for status in (1, 2, 3, 4, 5, 7, 9)
)


def _trained(updates: int = 43, **options: Any) -> NativeAgent:
    """After two evolution steps, when the targets have supports of their own."""
    agent, replay = native_agent(small_config(**options)), filled_replay()
    for _ in range(updates):
        agent.learn(replay)
    layer = dict(agent.networks)["critic_1"].layers[1]
    assert not layer.is_sparse or not np.array_equal(layer.mask, layer.target_mask)
    return agent


VARIANTS: dict[str, dict[str, Any]] = {
    "block 1": {},
    "block 4": {"block": 4},
    "norms": {"critic_norm": "layer", "critic_hidden": (14, 9, 6), "optimiser": "adamw", "beta1": 0.5},
    "norms, block 4": {"critic_norm": "layer", "block": 4, "drop": "scaled-magnitude", "actor_topology": "static"},
    "gradient": {"growth": "gradient", "output_layer": "sparse"},
    "silu, dropout": {"activation": "silu", "dropout": 0.1},
    "dense": {"topology": "dense"},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_state_goes_through_arrays_unchanged_and_goes_on_to_the_same_bits(options: dict[str, Any]) -> None:
    agent, other, replay = _trained(**options), native_agent(small_config(**options)), filled_replay()
    state = agent.state()
    other.load_state(state)
    assert differing(other.state(), state) == []
    for left, right in zip(agent.networks, other.networks, strict=True):
        assert left[1].share_ever_active() == right[1].share_ever_active()
    assert np.array_equal(agent.act(np.ones(N, np.float32)), other.act(np.ones(N, np.float32)))
    for _ in range(45):
        agent.learn(replay)
        other.learn(replay)
    assert differing(other.state(), agent.state()) == []
    assert agent.metrics == other.metrics
    assert all(agent.metrics.values())
    agent.reset_metrics()
    assert not any(agent.metrics.values())


def test_a_state_is_a_copy() -> None:
    agent = _trained()
    state = agent.state()
    before = {name: array.copy() for name, array in state.items()}
    for _ in range(3):
        agent.learn(filled_replay())
    assert differing(state, before) == []


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_states_go_between_the_engines(options: dict[str, Any]) -> None:
    """But for the sums of losses, which each engine adds up in a precision of its own."""
    config = small_config(**options)
    reference, replay = TD3(config, N, M), filled_replay()
    for _ in range(43):
        reference.learn(replay)
    native = native_agent(config)
    native.load_state(_with_sums(reference.state(), np.float64))
    assert differing(_with_sums(native.state(), np.float32), reference.state()) == []
    fresh = TD3(config, N, M)
    fresh.load_state(_with_sums(native.state(), np.float32))
    assert differing(fresh.state(), reference.state()) == []
    native.learn(replay)
    reference.learn(replay)
    for name, array in reference.state().items():
        if array.dtype.kind == "f" and "moment" in name:
            scale = np.abs(array).max(initial=0)
            np.testing.assert_allclose(native.state()[name], array, rtol=0, atol=1e-4 * scale, err_msg=name)


def _with_sums(state: Arrays, dtype: type[np.floating[Any]]) -> Arrays:
    return state | {"agent.loss_sums": state["agent.loss_sums"].astype(dtype)}


# Arrays that do not fit are refused, whichever it is.

Spoil = Callable[[Arrays], object]


def _fill(name: str, value: float) -> Spoil:
    return lambda state: state[name].reshape(-1)[:1].fill(value)


def _put(name: str, array: Array) -> Spoil:
    return lambda state: state.update({name: array})


def _drop(name: str) -> Spoil:
    return lambda state: state.pop(name)


def _flip(name: str) -> Spoil:
    """One block more or one less."""

    def flip(state: Arrays) -> None:
        state[name][0] ^= 0x80

    return flip


def _narrow_for_full(name: str) -> Spoil:
    """Exchange a block of full width for one of the narrower last row: as many blocks, other weights."""

    def exchange(state: Arrays) -> None:
        bits = np.unpackbits(state[name])[: 5 * N]
        bits[np.flatnonzero(bits[: 4 * N])[0]] = 0
        bits[4 * N + np.flatnonzero(bits[4 * N :] == 0)[0]] = 1
        state[name][:] = np.packbits(bits)

    return exchange


DAMAGE: dict[str, tuple[Spoil, str]] = {
    "weight missing": (_drop("actor.0.weight"), r"^weight is missing, expected float32\["),
    "bias missing": (_drop("critic_2.2.target_bias"), r"^target_bias is missing, expected float32\[1\]"),
    "mask missing": (_drop("critic_1.0.mask"), r"^mask is missing, expected uint8\["),
    "target mask missing": (_drop("critic_1.0.target_mask"), "^target_mask is missing, expected uint8"),
    "history missing": (_drop("critic_1.0.ever_active"), "^ever_active is missing, expected uint8"),
    "counters missing": (_drop("agent.counters"), r"^agent.counters is missing, expected int64\[4\]"),
    "sums missing": (_drop("agent.loss_sums"), r"^agent.loss_sums is missing, expected float64\[2\]"),
    "steps missing": (_drop("actor.1.weight_steps"), r"^weight_steps is missing, expected float32\[\]"),
    "one weight more": (_put("actor.1.weight", np.zeros(999, np.float32)), r"^weight is float32\[999\], expected"),
    "moment of another type": (_put("actor.2.first_moment", np.zeros(3)), "does not belong here"),
    "weights of another type": (_put("actor.0.bias", np.zeros(18)), r"^bias is float64\[18\], expected float32\[18\]"),
    "surplus of a layer": (_put("actor.0.more", np.zeros(3)), "^tensor 'more' does not belong here"),
    "surplus of a dense layer": (_put("actor.2.mask", np.zeros(3)), "^tensor 'mask' does not belong here"),
    "surplus layer": (_put("actor.3.weight", np.zeros(3)), r"^tensor '3\.weight' does not belong here"),
    "surplus network": (_put("critic_3.0.weight", np.zeros(3)), r"^tensor 'critic_3\.0\.weight' does not belong here"),
    "a connection too many or few": (_flip("critic_1.1.mask"), r"^mask has \d+ blocks, expected 99"),
    "the same in the target": (_flip("critic_1.1.target_mask"), r"^target_mask has \d+ blocks, expected 99"),
    "weight NaN": (_fill("actor.0.weight", np.nan), "^weight holds a value that is not finite"),
    "moment infinite": (_fill("actor.0.weight_first_moment", np.inf), "^weight_first_moment holds a value that is not"),
    "target infinite": (_fill("critic_1.1.target_weight", -np.inf), "^target_weight holds a value that is not finite"),
    "bias NaN": (_fill("critic_2.1.bias", np.nan), "^bias holds a value that is not finite"),
    "sums NaN": (_fill("agent.loss_sums", np.nan), "^agent.loss_sums holds a value that is not finite"),
    "negative moment": (_fill("actor.0.weight_second_moment", -1e-9), f"^{NUMBER}$"),
    "negative moment of a bias": (_fill("critic_2.2.bias_second_moment", -1e-9), f"^{NUMBER}$"),
    "steps of the actor": (_fill("actor.0.weight_steps", 43), r"^0\.weight_steps is 43\.0, expected 21$"),
    "steps of a critic": (_fill("critic_2.1.bias_steps", 42), r"^1\.bias_steps is 42\.0, expected 43$"),
    "updates": (_fill("agent.counters", 44), r"^0\.weight_steps is 21\.0, expected 22$"),
    "negative updates": (_fill("agent.counters", -1), r"^agent.counters is \[-1, .*\]; expected counts"),
}


@pytest.mark.parametrize(("spoil", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_state_that_does_not_fit_is_refused(spoil: Spoil, message: str) -> None:
    state = _trained().state()
    spoil(state)
    with pytest.raises(ValueError, match=message):
        native_agent(small_config()).load_state(state)


def test_a_state_with_the_wrong_widths_of_blocks_is_refused() -> None:
    state = _trained(block=4).state()
    for name in ("mask", "target_mask"):
        spoiled = {n: array.copy() for n, array in state.items()}
        _narrow_for_full(f"actor.0.{name}")(spoiled)
        with pytest.raises(ValueError, match=rf"^{name} has \d+ blocks, expected \d+$"):
            native_agent(small_config(block=4)).load_state(spoiled)


def test_a_state_of_more_updates_than_can_be_made_is_refused() -> None:
    state = native_agent(small_config()).state()
    state["agent.counters"][0] = (1 << 53) + 2
    for name in (n for n in state if n.endswith("_steps")):
        state[name] = np.array((1 << 53) // (2 if name.startswith("actor") else 1), np.float32)
    with pytest.raises(ValueError, match=f"^{NUMBER}$"):
        native_agent(small_config()).load_state(state)


# What is written into an arena is checked when it is opened, and nothing runs if it is refused.

Attack = Callable[[LearnerArena], object]


def _layer(attack: Callable[[LayerArrays], object], network: int = 1, index: int = 1) -> Attack:
    return lambda arena: attack(arena.layers[network][index])


def _set(name: str, at: int, value: float, network: int = 1, index: int = 1) -> Attack:
    def attack(arena: LearnerArena) -> None:
        getattr(arena.layers[network][index], name).reshape(-1)[at] = value

    return attack


_CONFIG = 16
"""Where an arena has its configuration: behind magic, version, size of numbers and a gap."""

_PROGRESS = _CONFIG + sizeof(LearnerConfig) + sizeof(BytesOf)


def _progress(**values: float) -> Attack:
    def attack(arena: LearnerArena) -> None:
        inside = Progress.from_buffer(arena.memory.data, _PROGRESS)
        assert bytes(inside) == bytes(arena.progress)
        for name, value in values.items():
            setattr(inside, name, value)

    return attack


def _config(**values: float) -> Attack:
    def attack(arena: LearnerArena) -> None:
        inside = LearnerConfig.from_buffer(arena.memory.data, _CONFIG)
        assert bytes(inside) == bytes(arena.config)
        for name, value in values.items():
            setattr(inside, name, value)

    return attack


def _network(**values: float) -> Attack:
    def attack(arena: LearnerArena) -> None:
        inside = LearnerConfig.from_buffer(arena.memory.data, _CONFIG)
        for name, value in values.items():
            setattr(inside.critic, name, value)

    return attack


def _plan(index: int, **values: int) -> Attack:
    def attack(arena: LearnerArena) -> None:
        inside = LearnerConfig.from_buffer(arena.memory.data, _CONFIG)
        for name, value in values.items():
            setattr(inside.critic.layers[index], name, value)

    return attack


def _swap_columns(layer: LayerArrays) -> None:
    row = int(np.flatnonzero(np.diff(layer.starts) > 1)[0])
    first = layer.starts[row]
    layer.columns[[first, first + 1]] = layer.columns[[first + 1, first]]


def _repeat_column(layer: LayerArrays) -> None:
    row = int(np.flatnonzero(np.diff(layer.starts) > 1)[0])
    layer.columns[layer.starts[row] + 1] = layer.columns[layer.starts[row]]


def _falling_starts(layer: LayerArrays) -> None:
    layer.starts[2] = layer.starts[1] - 1


def _overlap(layer: LayerArrays) -> None:
    """A block that only the target has, where the online network has one too."""
    assert layer.extra_starts is not None
    assert layer.extra_columns is not None
    for row in range(len(layer.starts) - 1):
        own, extra = (slice(s[row], s[row + 1]) for s in (layer.starts, layer.extra_starts))
        if extra.stop - extra.start == 1:
            layer.extra_columns[extra.start] = layer.columns[own][0]
            return
    raise AssertionError("no row to attack")


def _unsorted_extra(layer: LayerArrays) -> None:
    assert layer.extra_starts is not None
    assert layer.extra_columns is not None
    row = int(np.flatnonzero(np.diff(layer.extra_starts) > 1)[0])
    at = layer.extra_starts[row]
    layer.extra_columns[[at, at + 1]] = layer.extra_columns[[at + 1, at]]


def _clear_a_bit(layer: LayerArrays) -> None:
    assert layer.in_target is not None
    kept = int(np.flatnonzero(layer.target[:, 0])[0])
    layer.in_target[kept // 32] &= ~np.uint32(1 << kept % 32)


def _clear_a_bit_and_its_value(layer: LayerArrays) -> None:
    _clear_a_bit(layer)
    layer.target[np.flatnonzero(layer.target[:, 0])[0]] = 0


def _set_a_bit(layer: LayerArrays) -> None:
    assert layer.in_target is not None
    bits = np.unpackbits(layer.in_target.view(np.uint8), count=len(layer.columns), bitorder="little")
    absent = int(np.flatnonzero(bits == 0)[0])
    layer.in_target[absent // 32] |= np.uint32(1 << absent % 32)


def _value_without_a_bit(layer: LayerArrays) -> None:
    assert layer.in_target is not None
    bits = np.unpackbits(layer.in_target.view(np.uint8), count=len(layer.columns), bitorder="little")
    layer.target[np.flatnonzero(bits == 0)[0]] = 1


def _too_many_extra(layer: LayerArrays) -> None:
    assert layer.extra_starts is not None
    layer.extra_starts[-1] = len(layer.columns) + 1


def _one_extra_less(layer: LayerArrays) -> None:
    assert layer.extra_starts is not None
    np.minimum(layer.extra_starts, layer.extra_starts[-1] - 1, out=layer.extra_starts)


HOSTILE: dict[str, tuple[Attack, str]] = {
    "column out of range": (_set("columns", -1, 18), INDEX),
    "column far out of range": (_set("columns", 0, 0xFFFF), INDEX),
    "columns unsorted": (_layer(_swap_columns), INDEX),
    "column twice": (_layer(_repeat_column), INDEX),
    "column of a dense layer": (_set("columns", 0, 1, index=2), INDEX),
    "first start": (_set("starts", 0, 1), INDEX),
    "last start low": (_set("starts", -1, 116), INDEX),
    "last start high": (_set("starts", -1, 118), INDEX),
    "start huge": (_set("starts", 1, 0xFFFFFFFF), INDEX),
    "starts falling": (_layer(_falling_starts), INDEX),
    "target's column out of range": (_set("extra_columns", 0, 18), INDEX),
    "target's columns unsorted": (_layer(_unsorted_extra), INDEX),
    "target overlaps": (_layer(_overlap), INDEX),
    "target's first start": (_set("extra_starts", 0, 1), INDEX),
    "target's starts huge": (_set("extra_starts", 1, 0xFFFFFFFF), INDEX),
    "target has too many": (_layer(_too_many_extra), INDEX),
    "target has too few": (_layer(_one_extra_less), INDEX),
    "target lacks what has a value": (_layer(_clear_a_bit), INDEX),
    "target lacks too much": (_layer(_clear_a_bit_and_its_value), INDEX),
    "target has what it lacks": (_layer(_set_a_bit), INDEX),
    "target has a value that it lacks": (_layer(_value_without_a_bit), INDEX),
    "weight NaN": (_set("weight", 3, np.nan), NOT_FINITE),
    "first moment infinite": (_set("first_moment", 3, np.inf), NOT_FINITE),
    "second moment NaN": (_set("second_moment", 3, np.nan), NOT_FINITE),
    "target infinite": (_set("target", 3, -np.inf), NOT_FINITE),
    "target's own NaN": (_set("extra_target", 0, np.nan), NOT_FINITE),
    "bias NaN": (_set("bias", 0, np.nan, 0, 2), NOT_FINITE),
    "bias moment NaN": (_set("bias_first_moment", 0, np.nan, 2, 0), NOT_FINITE),
    "bias target NaN": (_set("bias_target", 0, np.nan, 2, 2), NOT_FINITE),
    "second moment negative": (_set("second_moment", 3, -1), NUMBER),
    "bias second moment negative": (_set("bias_second_moment", 0, -1, 2, 2), NUMBER),
    "flag of two": (_progress(evolution_is_due=2), NUMBER),
    "too many updates": (_progress(updates=(1 << 53) + 1), NUMBER),
    "updates negative": (_progress(updates=(1 << 64) - 1), NUMBER),
    "sum NaN": (_progress(critic_loss_sum=np.nan), NOT_FINITE),
    "sum infinite": (_progress(actor_loss_sum=np.inf), NOT_FINITE),
    "no magic": (lambda arena: arena.memory[:4].fill(0), INVALID),
    "another version": (lambda arena: arena.memory[4:8].fill(9), INVALID),
    "another precision": (lambda arena: arena.memory[8:12].fill(8), INVALID),
    "no layers": (_network(n_layers=0), SHAPE),
    "one layer": (_network(n_layers=1), SHAPE),
    "too many layers": (_network(n_layers=0xFFFFFFFF), SHAPE),
    "norm unknown": (_network(norm=3), NUMBER),
    "norm of another algorithm": (_network(norm=2), NUMBER),
    "evolves": (_network(evolves=2), NUMBER),
    "no observations": (_config(n_observations=0), SHAPE),
    "too many actions": (_config(n_actions=0xFFFFFFFF), SHAPE),
    "other actions": (_config(n_actions=M + 1), SHAPE),
    "no batch": (_config(batch=0), NUMBER),
    "batch huge": (_config(batch=0xFFFFFFFF), NUMBER),
    "batch larger": (_config(batch=60_000), TOO_SMALL),
    "no delay": (_config(policy_delay=0), NUMBER),
    "no steps": (_config(n_step=0), NUMBER),
    "steps huge": (_config(n_step=65), NUMBER),
    "lanes": (_config(lanes=3), NUMBER),
    "growth": (_config(growth=2), NUMBER),
    "schedule": (_config(drop_schedule=-1), NUMBER),
    "discount NaN": (_config(discount=np.nan), NUMBER),
    "soft update": (_config(soft_update=1.5), NUMBER),
    "rate infinite": (_network(learning_rate=np.inf), NUMBER),
    "criterion": (_config(drop_criterion=2), NUMBER),
    "optimiser": (_config(optimiser=2), NUMBER),
    "first moment": (_config(first_moment_decay=1.0), NUMBER),
    "activation that none learns with": (_config(activation=2), NUMBER),
    "activation unknown": (_config(activation=64), NUMBER),
    "dropout of nearly all": (_config(dropout=0.91), NUMBER),
    "dropout NaN": (_config(dropout=np.nan), NUMBER),
    "gradient clip negative": (_config(gradient_clip=-1.0), NUMBER),
    "gradient clip NaN": (_config(gradient_clip=np.nan), NUMBER),
    "gradient clip infinite": (_config(gradient_clip=np.inf), NUMBER),
    "algorithm": (_config(algorithm=3), NUMBER),
    "another algorithm": (_config(algorithm=1), SHAPE),
    "yet another algorithm": (_config(algorithm=2), SHAPE),
    "temperature": (_progress(log_temperature=np.nan), NOT_FINITE),
    "temperature's square": (_progress(temperature_second_moment=-1.0), NUMBER),
    "decay negative": (_config(weight_decay=-1e-9), NUMBER),
    "noise": (_config(target_noise=11), NUMBER),
    "clip NaN": (_config(target_noise_clip=np.nan), NUMBER),
    "fraction": (_config(drop_fraction=1.0001), NUMBER),
    "block 2": (_plan(1, block=2), NUMBER),
    "block 0": (_plan(1, block=0), NUMBER),
    "widths do not fit": (_plan(1, n_inputs=17), SHAPE),
    "no outputs": (_plan(1, n_outputs=0), SHAPE),
    "outputs huge": (_plan(0, n_outputs=0xFFFFFFFF), SHAPE),
    "blocks huge": (_plan(1, full_blocks=0xFFFFFFFF), SHAPE),
    "no blocks": (_plan(1, full_blocks=0), SHAPE),
    "narrow blocks of no narrow row": (_plan(1, narrow_blocks=1), SHAPE),
    "blocks that sum up to more": (_plan(1, full_blocks=0x80000000, narrow_blocks=0x80000000), SHAPE),
    "a block more": (_plan(1, full_blocks=118), INDEX + "|" + NOT_FINITE + "|" + TOO_SMALL),
}


def _assert_refused(agent: NativeAgent, attack: Attack, message: str) -> None:
    arena, replay = agent.arena, filled_replay()
    attack(arena)
    first = arena.layers[0][0].starts.ctypes.data - arena.memory.ctypes.data
    before = bytes(arena.memory[first:])
    with pytest.raises(ConfigError, match=f"^({message})$"):
        arena.reopen()
    with pytest.raises(ConfigError, match=f"^{INVALID}$"):
        arena.step(replay.structure())
    with pytest.raises(ConfigError, match=f"^{INVALID}$"):
        arena.reopen()
    assert bytes(arena.memory[first:]) == before, "nothing ran"


@pytest.mark.parametrize(("attack", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_arena_is_refused(attack: Attack, message: str) -> None:
    agent = _trained(output_layer="dense")
    agent.arena.reopen()
    _assert_refused(agent, attack, message)


def _pad_a_block_that_only_a_target_has(arena: LearnerArena) -> None:
    for layer in (layer for network in arena.layers for layer in network):
        if layer.extra_starts is not None and layer.extra_starts[-1] > layer.extra_starts[-2]:
            assert layer.extra_target is not None
            layer.extra_target[layer.extra_starts[-1] - 1, -1] = 1.0
            return
    raise AssertionError("no target has a narrow block of its own")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (_pad_a_block_that_only_a_target_has, INDEX),
        (_set("weight", -1, 1.0), INDEX),
        (_set("first_moment", -1, 1.0), INDEX),
        (_set("second_moment", -1, 1.0), INDEX),
        (_set("target", -1, 1.0), INDEX),
        (_set("bias", -1, 1.0), INDEX),
        (_set("bias_first_moment", -1, 1.0), INDEX),
        (_set("bias_second_moment", -1, 1.0), INDEX),
        (_set("bias_target", -1, 1.0), INDEX),
        (_layer(lambda layer: layer.starts.__setitem__(3, layer.starts[3] + 1)), INDEX),
    ],
    ids=[
        "target's own",
        "weight",
        "moment",
        "square",
        "target",
        "bias",
        "bias moment",
        "bias square",
        "bias target",
        "width",
    ],
)
def test_padding_that_is_not_zero_and_blocks_of_the_wrong_width_are_refused(attack: Attack, message: str) -> None:
    """13 outputs: a last row of blocks that is one wide, whose three other lanes stand for no weight."""
    _assert_refused(_trained(block=4), attack, message)


@pytest.mark.parametrize("at", [0, -1], ids=["scale", "shift's padding"])
@pytest.mark.parametrize("name", ["norm", "norm_first_moment", "norm_second_moment", "norm_target"])
def test_a_norm_with_a_number_that_cannot_be_is_refused(name: str, at: int) -> None:
    agent = _trained(block=4, critic_norm="layer", sparsity=0.3)
    _assert_refused(agent, *((_set(name, at, np.nan), NOT_FINITE) if at == 0 else (_set(name, at, 1.0), INDEX)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evolution_is_due": 2}, NUMBER),
        ({"updates": (1 << 53) + 1}, NUMBER),
        ({"critic_loss_sum": np.nan}, NOT_FINITE),
        ({"actor_loss_sum": -np.inf}, NOT_FINITE),
    ],
    ids=["flag", "updates", "critic's sum", "actor's sum"],
)
def test_counters_out_of_range_are_refused_and_change_nothing(values: dict[str, float], message: str) -> None:
    agent = _trained()
    progress = agent.arena.progress
    before = bytes(progress)
    for name, value in values.items():
        setattr(progress, name, value)
    with pytest.raises(ConfigError, match=f"^{message}$"):
        agent.arena.progress = progress
    assert bytes(agent.arena.progress) == before
    agent.learn(filled_replay())


def test_an_update_that_has_begun_keeps_its_number_while_losses_may_be_taken() -> None:
    agent, replay = _trained(), filled_replay()
    assert not agent.arena.step(replay.structure(), 1)
    progress = agent.arena.progress
    progress.updates += 1
    with pytest.raises(ConfigError, match=f"^{UNDER_WAY}$"):
        agent.arena.progress = progress
    assert all(agent.metrics.values())
    agent.reset_metrics()
    assert agent.arena.step(replay.structure())
    assert agent.arena.progress.updates == 44


def test_an_arena_in_the_middle_of_an_update_is_not_taken_up() -> None:
    agent, replay = _trained(), filled_replay()
    assert not agent.arena.step(replay.structure(), 1)
    with pytest.raises(ConfigError, match=f"^{UNDER_WAY}$"):
        agent.arena.reopen()


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), block=st.sampled_from([1, 4]))
def test_damaged_bytes_are_refused_or_harmless(seed: int, block: int) -> None:
    """Whatever is opened can learn and act; the C tests do this under sanitizers."""
    generator, replay = np.random.default_rng(seed), filled_replay()
    agent = _trained(block=block)
    for _ in range(int(generator.integers(1, 4))):
        at = int(generator.integers(0, agent.arena.bytes.state))
        agent.arena.memory[at] = generator.integers(0, 256)
    try:
        agent.arena.reopen()
    except ConfigError:
        return
    agent.arena.step(replay.structure())
    agent.act(np.ones(N, np.float32))


# What always holds.


@st.composite
def _configs(draw: st.DrawFn) -> Config:
    return small_config(
        hidden=tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))),
        batch_size=draw(st.integers(1, 20)),
        evolution_interval=draw(st.integers(1, 6)),
        policy_delay=draw(st.integers(1, 3)),
        block=draw(st.sampled_from([1, 4])),
        growth=draw(st.sampled_from(["random", "gradient"])),
        output_layer="sparse",
        distribution=draw(st.sampled_from(["er", "uniform"])),
        sparsity=draw(st.sampled_from([0.0, 0.05, 0.1, 0.2])),
        drop_fraction=draw(st.sampled_from([0.05, 0.3, 1.0])),
        soft_update=draw(st.sampled_from([0.005, 0.5, 1.0])),
        n_step=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, (1 << 64) - 1)),
    )


@settings(max_examples=40)
@given(config=_configs())
def test_counts_stay_and_what_grows_starts_at_zero(config: Config) -> None:
    """A twin is opened after each update: what is kept beside the state always equals what follows from the state."""
    replay = filled_replay()
    agent, twin = native_agent(config), native_agent(config)
    layers = [layer for _, network in agent.networks for layer in network.layers if layer.is_sparse]
    before = [layer.mask for layer in layers]
    for _ in range(30):
        agent.learn(replay)
        twin.learn(replay)
        twin.arena.reopen()
        for index, layer in enumerate(layers):
            mask, arrays = layer.mask, layer._arrays
            for rows, planned, _ in layer.plan.classes():
                assert np.count_nonzero(mask[rows]) == planned
                assert np.count_nonzero(layer.target_mask[rows]) == planned
            grown = (mask & ~before[index])[mask]
            for name in ("weight", "first_moment", "second_moment"):
                assert not getattr(arrays, name)[grown].any()
            before[index] = mask
        assert differing(agent.state(), twin.state()) == []


@pytest.mark.parametrize("block", [1, 4])
def test_what_is_kept_beside_the_state_follows_each_evolution(block: int) -> None:
    """As above with layers so wide that their rows are cut into panels."""
    config = small_config(hidden=(300, 270), block=block, sparsity=0.3, evolution_interval=1, policy_delay=1)
    agent, twin, replay = native_agent(config), native_agent(config), filled_replay()
    for _ in range(5):
        agent.learn(replay)
        twin.learn(replay)
        twin.arena.reopen()
        assert differing(agent.state(), twin.state()) == []


def test_dense_layers_are_kept_in_blocks_of_four_with_nothing_for_a_topology() -> None:
    agent = native_agent(small_config(topology="dense"))
    for network in agent.arena.layers:
        for layer in network:
            assert layer.block == (4 if layer.n_outputs >= 4 else 1)
            assert layer.in_target is layer.extra_starts is layer.extra_columns is layer.extra_target is None
    assert stored_plan(LayerPlan(5, 10, 1, 50, 0)) == LayerPlan(5, 10, 4, 10, 5)
