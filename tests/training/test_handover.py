"""From a run to a learner: its transitions, its constants, its networks; and learning that goes on where it stopped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgerl
from edgerl.algorithms.crossq import CrossQ
from edgerl.algorithms.native import NativeAgent
from edgerl.algorithms.normalizer import Normalizer
from edgerl.algorithms.sac import SAC
from edgerl.config import make_config
from edgerl.edge.continual import bundle
from edgerl.edge.continual.learner import Learner
from edgerl.edge.continual.origin import read_origin
from edgerl.edge.continual.replay import Boundary, Replay
from edgerl.edge.continual.trials import TrialRule
from edgerl.edge.engine.arena import LearnerArena
from edgerl.edge.engine.library import library
from edgerl.edge.engine.random import Draws, Purpose
from edgerl.errors import ConfigError, FileFormatError, OutputError
from edgerl.files.tensors import TensorReader
from edgerl.policy import format as policy_file
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.handover import hand_over

Array = npt.NDArray[Any]

OPTIONS: dict[str, Any] = {
    "preset": "quick",
    "hidden": (16, 16),
    "steps": 600,
    "start_steps": 40,
    "batch_size": 16,
    "evolution_interval": 50,
    "evaluation_episodes": 1,
    "evaluation_interval": 600,
    "checkpoint_interval": 300,
}
RUNS: dict[str, dict[str, Any]] = {
    "ds-td3": {},
    "block 4": {"block": 4, "drop_schedule": "cosine"},
    "td3": {"method": "td3"},
    "static-td3": {"method": "static-td3", "normalize": True},
    "normalised": {"normalize": True, "n_step": 3},
    "torch": {"engine": "torch", "normalize": True},
    "wrapped": {"replay_capacity": 250, "env": "robots:terminating_robot"},
    "sac": {"algorithm": "sac", "critic_norm": "layer", "updates_per_step": 2.0},
    "sac block 4": {"algorithm": "sac", "block": 4, "normalize": True, "policy_delay": 2},
    "activation": {"activation": "silu", "critic_norm": "layer", "dropout": 0.1},
    "sac torch": {"algorithm": "sac", "engine": "torch", "initial_temperature": 0.1},
    "crossq": {"algorithm": "crossq", "normalize": True},
    "crossq block 4": {"algorithm": "crossq", "block": 4, "updates_per_step": 0.5},
    "crossq torch": {"algorithm": "crossq", "engine": "torch"},
}
GOAL = Path("learner.safetensors")

Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(_folder: Path) -> Run:
    """The folder of a run in RUNS, trained once; not to be changed."""

    def trained(name: str) -> Path:
        folder = _folder / name.replace(" ", "-")
        if not folder.exists():
            options = {"env": "robots:robot", **OPTIONS, **RUNS[name]}
            edgerl.train(out=folder, **options)
        return folder

    return trained


def _replay(folder: Path) -> Replay:
    count = checkpoint_file.read(folder / "checkpoint.safetensors").counters.replay_count
    return Replay.open_recorded(folder / "replay.bin", count)


def _rows(folder: Path) -> Array:
    """All that the run remembers, float32 [size, 2 n + m + 2], the oldest first."""
    with closing(_replay(folder)) as replay:
        return replay.rows(np.arange(replay.size))


def _read(path: Path = GOAL) -> tuple[dict[str, Any], dict[str, Array]]:
    with TensorReader(path, bundle.KIND, bundle.VERSION) as reader:
        return reader.metadata, {name: reader.read(name) for name in reader.shapes}


def _arena(path: Path = GOAL) -> LearnerArena:
    with TensorReader(path, bundle.KIND, bundle.VERSION) as reader:
        n_bytes = reader.shapes["state"][1][0]
        return LearnerArena.from_state(library(), n_bytes, partial(reader.read_into, "state"), lambda _: None)


def _seed() -> Array:
    return _read()[1]["seed"]


def _places(seed: Array, rows: Array) -> list[int]:
    """Where each row of an fp32 seed is in the run's memory; its numbers there are the same bits."""
    known = {row[:-1].tobytes(): index for index, row in enumerate(rows)}
    assert len(known) == len(rows), "the run has no two transitions alike"
    return [known[row.tobytes()[:-4]] for row in seed]


# The transitions.


@pytest.mark.parametrize("name", ["ds-td3", "wrapped"])
@pytest.mark.parametrize("count", [0, 1, 36, 37, 38, 100, 240, None, 10_000])
def test_the_seed_is_whole_episodes_of_the_run(name: str, count: int | None, run: Run) -> None:
    """Every row to the bit; in their order; an episode from its start to its end, but for one that is cut."""
    folder = run(name)
    rows = _rows(folder)
    report = hand_over(folder, GOAL, seed=count, memory=1 << 20)
    seed = _seed()
    expected = len(rows) if count is None else min(count, len(rows))
    assert report.seed == len(seed) == expected
    places = _places(seed, rows)
    assert places == sorted(set(places))
    ends = set(np.flatnonzero(rows[:, -1] != Boundary.CONTINUES).tolist())
    cut = 0
    for number, (place, row) in enumerate(zip(places, seed, strict=True)):
        before, following = places[number - 1] if number else -9, [*places, -9][number + 1]
        boundary = row[-4:].view(np.float32)[0]
        if place != before + 1:
            assert place == 0 or place - 1 in ends, "an episode begins at its start"
        if following == place + 1 or place in ends:
            assert boundary == rows[place, -1]
        else:
            assert boundary == Boundary.GAP
            cut += 1
    assert cut <= 1 + (len(rows) - 1 not in ends)


def test_the_seed_comes_from_the_whole_run(run: Run) -> None:
    """Five episodes of sixteen and a cut one: the newest, the oldest, and some in between."""
    rows = _rows(run("ds-td3"))
    hand_over(run("ds-td3"), GOAL, seed=5 * 37)
    places = _places(_seed(), rows)
    episodes = sorted({place // 37 for place in places})
    assert (episodes[0], episodes[-1], len(episodes)) == (0, (len(rows) - 1) // 37, 6)
    assert max(np.diff(episodes)) <= 5


def test_as_many_as_fit(run: Run) -> None:
    report = hand_over(run("ds-td3"), GOAL, memory=1 << 20)
    taken = report.memory.arena + report.memory.champion
    least = taken + 300 * report.memory.record
    assert hand_over(run("ds-td3"), GOAL, memory=least, force=True).seed == 300
    with closing(Learner.load(GOAL)) as learner:
        assert learner.status()["replay"]["size"] == learner.memory.capacity == 300


def test_halves_are_standardised_by_what_the_run_has_seen(run: Run) -> None:
    folder = run("ds-td3")
    rows = _rows(folder).astype(np.float64)
    hand_over(folder, GOAL, precision="fp16")
    metadata, tensors = _read()
    mean, deviation = rows[:, :4].mean(axis=0), rows[:, :4].std(axis=0)
    np.testing.assert_allclose(tensors["storage.mean"], mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(tensors["storage.scale"], 1 / deviation, rtol=1e-6)
    assert metadata["replay"]["precision"] == "fp16"
    seed = tensors["seed"]
    assert seed.shape == (len(rows), 2 * 10 + 8)
    halves = np.ascontiguousarray(seed[:, :20]).view(np.float16).astype(np.float64)
    tails = np.ascontiguousarray(seed[:, 20:]).view(np.float32)
    for part, columns in ((halves[:, :4], rows[:, :4]), (halves[:, 6:], rows[:, 6:10])):
        np.testing.assert_allclose(part, (columns - mean) / deviation, rtol=2**-10, atol=2e-6)
    np.testing.assert_allclose(halves[:, 4:6], rows[:, 4:6], rtol=2**-10, atol=1e-6)
    assert np.array_equal(tails[:, 0], rows[:, 10].astype(np.float32))
    assert np.array_equal(tails[:-1, 1], rows[:-1, 11])


def test_what_keeping_observations_as_halves_does_to_actions_is_stated(run: Run) -> None:
    """Rounded by numpy's own float16, once standardised as the file says."""
    folder = run("normalised")
    report = hand_over(folder, GOAL, precision="fp16")
    tensors, observations = _read()[1], _rows(folder)[:, :4].astype(np.float64)
    mean, scale = (tensors[f"storage.{name}"].astype(np.float64) for name in ("mean", "scale"))
    kept = ((observations - mean) * scale).astype(np.float16) / scale + mean
    policy = checkpoint_file.read(folder / "checkpoint.safetensors").policy
    shares = np.abs(policy(kept, np.float64) - policy(observations, np.float64)) / [3, 3.5]
    assert report.action_difference.observed == "recorded"
    assert report.action_difference.observations == len(observations) == 600
    assert report.action_difference.largest == pytest.approx(shares.max(), rel=0.02)
    assert hand_over(folder, GOAL, force=True).action_difference.largest == 0


def test_a_sensor_that_never_moved_is_no_division_by_zero(run: Run) -> None:
    shutil.copytree(run("ds-td3"), "run")
    with open("run/replay.bin", "r+b") as file:
        data = np.memmap(file, np.float32, "r+", offset=4096).reshape(-1, 12)
        data[:, [1, 7]] = 3.25
        data.flush()
        del data
    hand_over("run", GOAL, precision="fp16")
    assert _read()[1]["storage.mean"][1] == 3.25
    with closing(Learner.load(GOAL)) as learner:
        learner.observe([0, 4, 0, 0], [0, 0], 0, [0, 3.25, 0, 0])
        assert learner.update() == 1
        assert learner.status()["abandoned_updates"] == 0


def test_the_largest_reward_is_that_of_the_whole_run(run: Run) -> None:
    hand_over(run("ds-td3"), GOAL, seed=3)
    assert _read()[0]["largest_reward"] == np.abs(_rows(run("ds-td3"))[:, -2]).max()


# The networks.


def _weights(arena: LearnerArena) -> dict[str, bytes]:
    return {
        f"{network}.{index}.{name}": array.tobytes()
        for network, layers in enumerate(arena.layers)
        for index, layer in enumerate(layers)
        for name, array in vars(layer).items()
        if isinstance(array, np.ndarray)
    }


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_learner_begins_with_the_runs_policy(name: str, precision: Any, run: Run) -> None:
    folder = run(name)
    report = hand_over(folder, GOAL, precision=precision)
    policy = policy_file.load(folder / "policy.safetensors")
    with closing(Learner.load(GOAL)) as learner:
        draw = np.random.default_rng(0)
        for x in draw.normal(size=(50, 4)).astype(np.float32):
            np.testing.assert_allclose(learner.act(x, explore=False), policy(x), atol=4e-6)
        assert learner.about["environment"] == policy.metadata["environment"]
        assert learner.memory == report.memory
        assert learner.connections() == report.connections
        deviations = 2 * 16 if name.startswith(("sac", "crossq")) else 0  # of which a policy has none
        assert report.connections["actor"] == sum(policy.metadata["trained_connections"]) + deviations
        assert learner.status()["updates"] == report.updates > 0
        for x in draw.normal(size=(40, 4)):
            learner.observe(x, learner.act(x), 0.5, x + 0.1)
        assert [learner.update() for _ in range(40)] == [1] * 40
        assert learner.status()["abandoned_updates"] == 0
        evolves = name not in ("td3", "static-td3")
        assert (learner.status()["replaced_blocks"] > 0) == evolves
    assert report.n_bytes == GOAL.stat().st_size
    assert (report.path, report.precision, report.keep) == (GOAL, precision, "ring")


@pytest.mark.parametrize(
    "name", ["ds-td3", "block 4", "normalised", "static-td3", "sac", "sac block 4", "crossq", "crossq block 4"]
)
def test_learning_goes_on_as_the_run_would_have(name: str, run: Run) -> None:
    """With all the run's transitions and the same new ones: updates to the same bits as those of the run's agent."""
    folder = run(name)
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    config = replace(checkpoint.config, schedule=replace(checkpoint.config.schedule, steps=1 << 40))
    config = replace(config, evolution=replace(config.evolution, drop_schedule="constant"))
    agent = NativeAgent(config, 4, 2)
    own = {n: a for n, a in checkpoint.tensors.items() if not n.startswith("normalizer.")}
    agent.load_state(own)
    normalizer = Normalizer(4) if config.normalize else None
    if normalizer is not None:
        rest = {n: a for n, a in checkpoint.tensors.items() if n not in own}
        normalizer.load_state({n.removeprefix("normalizer."): a for n, a in rest.items()})
    memory = Replay(None, 4, 2, 2000)
    for row in _rows(folder):
        memory.append(row[:4], row[4:6], float(row[10]), row[6:10], Boundary(int(row[11])))
    hand_over(folder, GOAL, memory=1 << 22)
    with closing(Learner.load(GOAL)) as learner:
        assert _weights(learner.challenger.arena) == _weights(agent.arena)
        low, high = learner.action_low, learner.action_high
        draw = np.random.default_rng(1)
        for number in range(60):
            x, y = draw.normal(size=(2, 4)).astype(np.float32)
            action = np.array([0.25, -0.5], np.float32)  # exact in the robot's units, and back
            learner.observe(x, (low + high) / 2 + (high - low) / 2 * action, 0.5, y, truncated=number % 7 == 6)
            boundary = Boundary.TRUNCATED if number % 7 == 6 else Boundary.CONTINUES
            memory.append(x, action, 0.5, y, boundary)
            assert learner.update() == 1
            agent.learn(memory, normalizer)
            assert _weights(learner.challenger.arena) == _weights(agent.arena), number


@pytest.mark.parametrize("name", ["sac", "sac block 4", "sac torch", "crossq", "crossq torch"])
def test_a_stochastic_run_hands_its_temperature_over_and_explores_as_it_did(name: str, run: Run) -> None:
    """Drawn as the run draws, from the same distribution: by PyTorch's agent in float64, within rounding."""
    folder = run(name)
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    hand_over(folder, GOAL)
    progress, temperature = _arena().progress, checkpoint.tensors["agent.temperature"]
    handed = [progress.log_temperature, progress.temperature_first_moment, progress.temperature_second_moment]
    assert handed == temperature.tolist()
    assert progress.log_temperature != 0, "it was adapted"
    algorithm = CrossQ if checkpoint.config.algorithm == "crossq" else SAC
    reference = algorithm(replace(checkpoint.config, engine="torch"), 4, 2)
    state = checkpoint.agent_state
    reference.load_state(state | {"agent.loss_sums": state["agent.loss_sums"].astype(np.float32)})
    draws = Draws(checkpoint.config.seed)
    with TensorReader(GOAL, bundle.KIND, bundle.VERSION) as reader:
        constants = read_origin(reader, GOAL).constants
    with closing(Learner.load(GOAL, rule=TrialRule(every=1))) as learning, closing(Learner.load(GOAL)) as champion:
        for x in np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32):
            noise = draws.normals(Purpose.EXPLORATION, learning.experience.transitions.number, 2)
            unit = reference.explore(constants.normalised(x), noise)
            expected = constants.scaling[0] + constants.scaling[1] * unit
            for learner in (learning, champion):
                np.testing.assert_allclose(learner.act(x), expected, atol=1e-5)
                learner.observe(x, expected, 0.5, x + 0.1)


def test_on_a_device_learning_has_no_end(run: Run) -> None:
    folder = run("block 4")
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    for evolve in (True, False):
        hand_over(folder, GOAL, evolve=evolve, force=True)
        arena = _arena()
        assert arena.config.last_update == 2**64 - 1
        assert arena.config.drop_schedule == 0
        assert arena.config.evolution_interval == (50 if evolve else 0)
        assert arena.config.drop_fraction == checkpoint.config.evolution.drop_fraction
        assert arena.progress.updates == checkpoint.tensors["agent.counters"][0] > 500
    with closing(Learner.load(GOAL)) as learner:
        for _ in range(60):
            learner.observe([0] * 4, [0] * 2, 0, [0] * 4)
            learner.update()
        assert learner.status()["replaced_blocks"] == 0


def test_another_learning_rate_is_that_of_all_networks(run: Run) -> None:
    hand_over(run("ds-td3"), GOAL, learning_rate=2e-4)
    config = _arena().config
    assert config.actor.learning_rate == config.critic.learning_rate == np.float32(2e-4)
    with pytest.raises(ConfigError, match=r"^`learning_rate` is 0; expected a number in \(0, 1\] \(per update\)$"):
        hand_over(run("ds-td3"), GOAL, learning_rate=0, force=True)


def test_statistics_are_a_models_alone(run: Run) -> None:
    folder = run("ds-td3")
    with pytest.raises(
        ConfigError, match=r"^`normalizer` was given, and .*ds-td3 is a run, which has its own; leave it"
    ):
        edgerl.export_policy(folder, "learner", GOAL, normalizer="vecnormalize.pkl")
    assert not GOAL.exists()


def test_constants_are_the_policys(run: Run) -> None:
    for name in ("ds-td3", "normalised"):
        hand_over(run(name), GOAL, force=True)
        policy = policy_file.load(run(name) / "policy.safetensors")
        metadata, tensors = _read()
        assert np.array_equal(tensors["action.low"], policy.action_low)
        assert np.array_equal(tensors["action.high"], policy.action_high)
        assert ("observation.mean" in tensors) == (name == "normalised")
        if policy.observation_mean is not None and policy.observation_scale is not None:
            np.testing.assert_allclose(tensors["observation.mean"], policy.observation_mean, rtol=1e-6)
            np.testing.assert_allclose(tensors["observation.scale"], policy.observation_scale, rtol=1e-6)
        assert metadata["exploration_noise"] == make_config().learning.exploration_noise
        assert metadata["about"]["edgerl"] == edgerl.__version__
        assert set(metadata) == {
            *("kind", "version", "sha256", "about", "exploration_noise", "replay", "largest_reward"),
        }


def test_the_same_run_gives_the_same_bytes_and_is_left_alone(run: Run) -> None:
    folder = run("normalised")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    written = []
    for _ in range(2):
        hand_over(folder, GOAL, precision="fp16", force=True)
        written.append(GOAL.read_bytes())
    assert written[0] == written[1]
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


# What is refused.


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"precision": "fp8"}, r"^the replay dtype is 'fp8'; expected fp32 or fp16$"),
        ({"keep": "all"}, r"^the replay policy is 'all'; expected ring or reservoir$"),
        ({"seed": -1}, r"^the seed is -1; expected 0 or more transitions$"),
        (
            {"memory": 5000},
            r"^the memory is 5000 bytes, of which the networks take \d+; expected at least \d+, for 16 tr",
        ),
        ({"memory": 0}, r"^the memory is 0; expected bytes, an integer in \[1, 1099511627776\]$"),
        ({"memory": 1 << 41}, r"^the memory is 2199023255552; expected bytes, an integer in \[1, 1099511627776\]$"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], problem: str, run: Run) -> None:
    with pytest.raises(ConfigError, match=problem):
        hand_over(run("ds-td3"), GOAL, **options)
    assert os.listdir() == []


def test_a_reservoir_and_returns_of_several_rewards(run: Run) -> None:
    with pytest.raises(
        ConfigError, match=r"^the run has returns of 3 rewards; a reservoir needs 1 \(use a ring, or train"
    ):
        hand_over(run("normalised"), GOAL, keep="reservoir")
    assert hand_over(run("ds-td3"), GOAL, keep="reservoir").keep == "reservoir"
    with closing(Learner.load(GOAL)) as learner:
        assert learner.status()["replay"]["keep"] == "reservoir"


def test_a_file_that_is_there_stays_unless_forced(run: Run) -> None:
    GOAL.write_bytes(b"mine")
    with pytest.raises(
        OutputError, match=r"^learner\.safetensors exists already; pass `force` to replace it, or write"
    ):
        hand_over(run("ds-td3"), GOAL)
    assert GOAL.read_bytes() == b"mine"
    with pytest.raises(OutputError, match=r"^cannot write absent/learner\.safetensors: No such file or directory;"):
        hand_over(run("ds-td3"), Path("absent") / GOAL)


def test_folders_that_are_no_run(run: Run) -> None:
    with pytest.raises(FileFormatError, match=r"^nowhere/checkpoint\.safetensors is not there; expected a file"):
        hand_over("nowhere", GOAL)
    shutil.copytree(run("ds-td3"), "run")
    (Path("run") / "replay.bin").unlink()
    with pytest.raises(FileFormatError, match=r"^cannot read run/replay\.bin: No such file or directory$"):
        hand_over("run", GOAL)
    with closing(Replay(Path("run/replay.bin"), 5, 2, 600)):
        pass
    with pytest.raises(
        FileFormatError, match=r"^run holds a replay of another task than its policy's; they are not from the same"
    ):
        hand_over("run", GOAL)
    shutil.copy(run("ds-td3") / "replay.bin", "run/replay.bin")
    with open("run/replay.bin", "r+b") as file:
        file.seek(4096 + 12 * 4 * 5)
        file.write(np.array([np.nan], np.float32).tobytes())
    with pytest.raises(FileFormatError, match=r"^the run's replay holds a number that is not finite; it was altered$"):
        hand_over("run", GOAL)
    assert not GOAL.exists()


def test_a_damaged_checkpoint(run: Run) -> None:
    shutil.copytree(run("ds-td3"), "run")
    checkpoint = checkpoint_file.read(Path("run/checkpoint.safetensors"))
    moment = checkpoint.tensors["critic_1.1.weight_second_moment"].copy()
    moment[3] = -1
    spoiled = checkpoint.tensors | {"critic_1.1.weight_second_moment": moment}
    checkpoint_file.write(Path("run/checkpoint.safetensors"), replace(checkpoint, tensors=spoiled))
    with pytest.raises(
        FileFormatError, match=r"^run/checkpoint\.safetensors is not valid: the learner: .*; train again$"
    ):
        hand_over("run", GOAL)
