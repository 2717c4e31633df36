"""`edgerl run`, as a user types it, in an environment that needs only numpy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.contract import Contract
from edgerl.policy.format import save
from tests.foreign import write_actor
from tests.policy.policies import random_policy
from tests.processes import Processes

pytest.importorskip("gymnasium")

Run = Callable[..., tuple[int, str, str]]


def make(environment: str | None = "Pendulum-v1", seed: int = 0) -> CompactPolicy:
    weight = np.random.default_rng(seed).normal(size=(1, 3)).astype(np.float32)
    layer = make_layer(weight, np.zeros(1, np.float32), 1)
    about = {} if environment is None else {"environment": environment}
    policy = CompactPolicy((layer,), np.full(1, -2, np.float32), np.full(1, 2, np.float32), metadata=about)
    return policy.with_example(np.ones(3, np.float32))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """policy.onnx beside its policy.safetensors, in the run that runs/latest points to."""
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("first")
    save(make(), folder / "policy.safetensors")
    export_policy(folder, "onnx", folder / "policy.onnx")
    return folder / "policy.onnx"


@pytest.mark.usefixtures("model")
def test_the_newest_export_runs_in_the_environment_it_names(edgerl: Run) -> None:
    code, out, err = edgerl("run", "--rate", "500", "--seconds", "0.1")
    assert code == 0
    assert err == f"using {Path('runs/first/policy.onnx')}\n"
    assert "in Pendulum-v1: " in out
    for line in ("latency of the policy", "jitter", "missed deadlines", "skipped ticks", "unfinished episode: return"):
        assert line in out


@pytest.mark.usefixtures("model")
def test_rehearsals_and_what_the_system_grants_are_reported(edgerl: Run) -> None:
    code, out, _ = edgerl("run", "--rate", "50", "--seconds", "0.5", "--json")
    report = json.loads(out)
    assert code == 0
    assert set(report["granted"]) == {"memory_locked", "priority_raised"}
    assert report["latency"]["count"] == report["cycles"]
    assert set(report["cold"]) == set(report["hot"]) == set(report["latency"]) > {"median", "p99", "p999"}


@pytest.mark.usefixtures("model")
def test_a_loop_that_is_not_kept_warm_asks_the_system_for_nothing(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgerl.commands import run

    monkeypatch.setattr(run, "realtime", None)
    code, out, _ = edgerl("run", "--no-warm", "--rate", "100", "--seconds", "0.2")
    assert code == 0
    assert "latency of the policy      median " in out
    assert "rehearsed" not in out
    assert "the system" not in out


def test_json_counts_every_step_and_every_episode(edgerl: Run, model: Path) -> None:
    code, out, _ = edgerl("run", str(model), "--rate", "1000", "--seconds", "0.5", "--seed", "3", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["cycles"] + report["skipped_ticks"] == 500
    episodes, unfinished = report["episodes"], report["unfinished_episode"]
    assert [episode["steps"] for episode in episodes] == [200] * (report["cycles"] // 200)  # Pendulum's length
    assert unfinished["steps"] == report["cycles"] % 200
    assert all(episode["return"] < 0 for episode in episodes)  # every reward of Pendulum is negative
    assert set(report["fallbacks"]) == {
        "observation_not_finite",
        "inference_failed",
        "action_not_finite",
        "missed_deadline",
    }


def test_an_episode_is_the_environments_own(edgerl: Run, model: Path) -> None:
    import gymnasium

    _, out, _ = edgerl("run", str(model), "--rate", "50", "--seconds", "0.5", "--seed", "3", "--json")
    report = json.loads(out)
    if report["missed_deadlines"]:
        pytest.skip("this machine was too busy: a fallback was sent")
    environment, policy = gymnasium.make("Pendulum-v1"), make()
    observation, _ = environment.reset(seed=3)
    total = 0.0
    for _ in range(report["cycles"]):
        observation, reward, *_ = environment.step(policy(observation))
        total += float(reward)
    environment.close()
    assert report["unfinished_episode"]["return"] == pytest.approx(total, rel=1e-3)


def test_an_outdated_export_is_noted(edgerl: Run, model: Path) -> None:
    save(make(seed=1), model.with_name("policy.safetensors"))
    code, _, err = edgerl("run", str(model), "--seconds", "0.02")
    assert code == 0
    assert err.count("\n") == 1
    assert "was not made from the policy.safetensors beside it; export again: edgerl export" in err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0"], "the rate is 0 Hz; expected a number in [1e-6, 1e6]"),
        (["--seconds", "-1"], "--seconds is -1; expected a number in (0, 1e9]"),
        (["--env", "Pendulum-v9999"], "environment 'Pendulum-v9999' is unknown; did you mean Pendulum-v"),
        (["--env", "CartPole-v1"], "CartPole-v1 has Discrete actions; expected Box"),
        (
            ["--env", "MountainCarContinuous-v0"],
            "maps 3 observations to 1 actions; MountainCarContinuous-v0 has 2 and 1",
        ),
        (["garbage.safetensors"], "garbage.safetensors is a text file; expected a policy.safetensors"),
        (["no.onnx"], "no.onnx is not there; name a policy file or a run folder"),
        (
            ["garbage.onnx"],
            "garbage.onnx is a text file; expected a policy.safetensors (edgerl import makes one), or an ONNX model",
        ),
        (["--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, arguments: list[str], message: str) -> None:
    Path("garbage.onnx").write_bytes(b"garbage")
    Path("garbage.safetensors").write_bytes(b"garbage")
    code, out, err = edgerl("run", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_model_that_names_no_environment_needs_one(edgerl: Run, tmp_path: Path) -> None:
    export_policy(make(None), "onnx", tmp_path / "m.onnx")
    code, _, err = edgerl("run", "m.onnx")
    assert (code, err) == (2, "edgerl: m.onnx does not name its environment; name one: --env HalfCheetah-v5\n")
    assert edgerl("run", "m.onnx", "--env", "Pendulum-v1", "--seconds", "0.02")[0] == 0


def test_the_compact_policy_runs_without_an_export(edgerl: Run, model: Path) -> None:
    model.unlink()
    code, out, err = edgerl("run", "--rate", "500", "--seconds", "0.1", "--json")
    assert code == 0
    assert err == f"using {Path('runs/first/policy.safetensors')}\n"
    assert json.loads(out)["environment"] == "Pendulum-v1"


def test_both_engines_act_alike(edgerl: Run, model: Path) -> None:
    """Pendulum is not chaotic over so few steps: equal actions give equal returns."""
    reports = []
    for path in (model, model.with_name("policy.safetensors")):
        code, out, _ = edgerl("run", path, "--rate", "50", "--seconds", "0.5", "--seed", "3", "--json")
        assert code == 0
        reports.append(json.loads(out))
    if any(report["missed_deadlines"] or report["skipped_ticks"] for report in reports):
        pytest.skip("this machine was too busy: a fallback was sent")
    assert reports[0]["unfinished_episode"] == pytest.approx(reports[1]["unfinished_episode"], rel=1e-3)


def test_a_run_without_a_policy_names_the_command(edgerl: Run, model: Path) -> None:
    model.unlink()
    model.with_name("policy.safetensors").unlink()
    code, _, err = edgerl("run")
    assert code == 2
    assert "holds no policy.safetensors or policy.onnx; train one: edgerl train" in err


def test_without_the_engine_one_line_says_how_to_get_it(
    edgerl: Run, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgerl.edge.engine import library

    library.library.cache_clear()
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "absent.so")
    code, out, err = edgerl("run", model.with_name("policy.safetensors"))
    library.library.cache_clear()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "the native engine is missing: edgerl was installed without a C compiler" in err
    assert "apt-get install gcc" in err


def test_a_file_does_not_choose_the_code_that_runs(edgerl: Run, tmp_path: Path) -> None:
    export_policy(make("os:abort"), "onnx", tmp_path / "evil.onnx")
    code, _, err = edgerl("run", "evil.onnx")
    assert code == 2
    assert "evil.onnx names the environment 'os:abort', which is code; to run it, add --env os:abort" in err


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rate", "1e-300", "the rate is 1e-300 Hz; expected a number in [1e-6, 1e6]"),
        ("--rate", "inf", "the rate is inf Hz; expected a number in [1e-6, 1e6]"),
        ("--seconds", "1e308", "--seconds is 1e+308; expected a number in (0, 1e9]"),
    ],
)
def test_what_no_clock_can_keep_is_refused(edgerl: Run, option: str, value: str, message: str) -> None:
    code, _, err = edgerl("run", option, value)
    assert code == 2
    assert message in err


@pytest.mark.usefixtures("model")
def test_ctrl_c_prints_what_was_measured(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgerl.edge.acting.control import ControlLoop

    run = ControlLoop.run

    def interrupted(self: ControlLoop, seconds: float | None = None) -> None:
        del seconds
        run(self, 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(ControlLoop, "run", interrupted)
    code, out, err = edgerl("run", "--seconds", "60")
    assert code == 130
    assert "missed deadlines" in out
    assert err.endswith("edgerl: interrupted\n")


def test_a_file_from_elsewhere_is_called_a_program(edgerl: Run, tmp_path: Path) -> None:
    import onnx

    export_policy(make(), "onnx", tmp_path / "policy.onnx")
    model = onnx.load(tmp_path / "policy.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "policy.onnx")
    code, _, err = edgerl("run", "policy.onnx", "--env", "Pendulum-v1", "--seconds", "0.1")
    assert code == 0
    assert "policy.onnx was not written by edgerl: onnxruntime executes whatever it holds" in err


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        ([("Tanh", {})], "gives actions from -1 to 1"),
        ([("Tanh", {}), ("Mul", {"half": 0.5})], "gives actions from -0.5 to 0.5"),
        ([("Identity", {})], "does not tell the bounds of its actions"),  # PPO: the mean of a Gaussian
    ],
)
def test_a_foreign_actor_of_other_bounds_is_asked_about(
    edgerl: Run, tail: list[tuple[str, dict[str, float]]], found: str
) -> None:
    write_actor(Path("ppo.onnx"), tail)
    code, out, err = edgerl("run", "ppo.onnx", "--env", "Pendulum-v1", "--seconds", "0.1")
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert f"ppo.onnx {found}, and Pendulum-v1 takes actions from -2 to 2" in line
    assert "say --actions scale" in line
    for mode in ("scale", "clip"):
        run = ("run", "ppo.onnx", "--env", "Pendulum-v1", "--seconds", "0.1", "--actions", mode)
        assert edgerl(*run)[0] == 0


def test_a_foreign_actor_of_the_environments_own_bounds_runs(edgerl: Run) -> None:
    write_actor(Path("ppo.onnx"), [("Tanh", {}), ("Mul", {"two": 2})])
    assert edgerl("run", "ppo.onnx", "--env", "Pendulum-v1", "--seconds", "0.1")[0] == 0


def test_a_foreign_actor_without_bounds_is_clipped_where_that_is_all_it_can_mean(edgerl: Run) -> None:
    write_actor(Path("ppo.onnx"), [("Mul", {"much": 100})], n_observations=2)
    code, _, err = edgerl("run", "ppo.onnx", "--env", "MountainCarContinuous-v0", "--seconds", "0.1")  # −1 to 1
    assert code == 0
    assert "ppo.onnx does not tell the bounds of its actions: what is beyond the environment's is cut" in err


def test_a_policy_of_another_range_than_the_environments_is_asked_about(edgerl: Run) -> None:
    narrow = replace(make(), action_low=-np.ones(1, np.float32), action_high=np.ones(1, np.float32))
    save(narrow.with_example(np.ones(3, np.float32)), Path("narrow.safetensors"))
    code, _, err = edgerl("run", "narrow.safetensors", "--seconds", "0.1")
    assert code == 2
    assert "narrow.safetensors gives actions from -1 to 1, and Pendulum-v1 takes actions from -2 to 2" in err
    code, _, err = edgerl("run", "narrow.safetensors", "--seconds", "0.1", "--actions", "stretch")
    assert code == 2
    assert "--actions is 'stretch'; expected scale or clip" in err


CART = """
import gymnasium

class Cart(gymnasium.ObservationWrapper):
    '''Tells the angle's cosine and sine, and not the speed.'''
    def __init__(self):
        super().__init__(gymnasium.make("Pendulum-v1"))
        self.observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    def observation(self, observation):
        return observation[:2]

def make():
    return Cart()
"""


def of_steps() -> CompactPolicy:
    """For that cart: of three steps of the cosine, and two of the sine, at 50 Hz."""
    weight = np.array([[1, 2, 3, 4, 5]], np.float32) / 10
    contract = Contract(
        step_dt=(0.02,),
        observation_names=("cosine", "sine"),
        observation_terms_size=(1, 1),
        observation_terms_history_length=(3, 2),
        observation_terms_scale=((2.0,), (-1.0,)),
    )
    layer = make_layer(weight, np.zeros(1, np.float32), 1)
    policy = CompactPolicy((layer,), np.full(1, -2, np.float32), np.full(1, 2, np.float32), contract=contract)
    return policy.with_example(np.ones(5, np.float32))


@pytest.mark.parametrize("format", ["policy", "onnx"])
def test_single_steps_are_stacked_at_the_contracts_rate(format: str, edgerl: Run) -> None:
    Path("carts.py").write_text(CART)
    save(of_steps(), Path("policy.safetensors"))
    model = "policy.safetensors"
    if format == "onnx":
        model = str(export_policy(of_steps(), "onnx", Path("m.onnx")).path)
    code, out, err = edgerl("run", model, "--env", "carts:make", "--seconds", "0.5", "--seed", "3", "--json")
    assert code == 0, err
    expected = (
        "carts:make gives single steps of 2 numbers; they are clipped, scaled and stacked to 5, as the contract of "
    )
    assert err == f"{expected}{model} says\n"
    report = json.loads(out)
    assert report["rate_hz"] == 50
    if report["missed_deadlines"] or report["skipped_ticks"]:
        pytest.skip("this machine was too busy: a fallback was sent")
    import gymnasium

    environment, policy = gymnasium.make("Pendulum-v1"), of_steps()
    observation, _ = environment.reset(seed=3)
    cosines, sines, total = [2 * observation[0]] * 3, [-observation[1]] * 2, 0.0
    for _ in range(report["cycles"]):
        cosines, sines = [*cosines[1:], 2 * observation[0]], [*sines[1:], -observation[1]]
        observation, reward, *_ = environment.step(policy(np.array([*cosines, *sines], np.float32)))
        total += float(reward)
    environment.close()
    assert report["unfinished_episode"]["return"] == pytest.approx(total, rel=1e-3)


def test_another_rate_than_the_contracts_is_refused(edgerl: Run) -> None:
    Path("carts.py").write_text(CART)
    save(of_steps(), Path("policy.safetensors"))
    code, out, err = edgerl("run", "policy.safetensors", "--env", "carts:make", "--rate", "100")
    assert (code, out) == (2, "")
    line = "edgerl: the rate is 100 Hz, and the policy's contract says 50 Hz (step_dt 0.02 s); expected that --rate"
    assert err.splitlines()[-1] == line


def test_another_order_of_joints_than_the_contracts_is_refused(edgerl: Run) -> None:
    names = ("ffoot", "fshin", "fthigh", "bfoot", "bshin", "bthigh")
    policy = replace(random_policy(0, (17, 8, 6)), contract=Contract(joint_names=names))
    unit = replace(policy, action_low=-np.ones(6, np.float32), action_high=np.ones(6, np.float32))
    unit = unit.with_example(np.ones(17, np.float32))
    save(unit, Path("policy.safetensors"))
    expected = (
        "joint 0 of HalfCheetah-v5 is 'bthigh', and 'ffoot' in the policy's contract; expected the order of the "
        "contract, which edgerl info shows\n"
    )
    code, out, err = edgerl("run", "policy.safetensors", "--env", "HalfCheetah-v5")
    assert (code, out, err) == (2, "", f"edgerl: {expected}")
    export_policy(unit, "onnx", Path("policy.onnx"))
    code, out, err = edgerl("import", "policy.onnx", "-o", "again.safetensors", "--env", "HalfCheetah-v5")
    assert (code, out, err) == (2, "", f"edgerl: {expected}")
    assert not Path("again.safetensors").exists()


def test_other_observations_than_whole_ones_and_steps_are_refused(edgerl: Run) -> None:
    save(of_steps(), Path("policy.safetensors"))
    code, _, err = edgerl("run", "policy.safetensors", "--env", "Pendulum-v1")
    assert code == 2
    assert "policy.safetensors maps 5 observations (or steps of 2) to 1 actions; Pendulum-v1 has 3 and 1" in err


@pytest.mark.parametrize(("number", "code", "word"), [(2, 130, "interrupted"), (15, 143, "stopped by SIGTERM")])
def test_a_signal_ends_it_with_a_word(processes: Processes, model: Path, number: int, code: int, word: str) -> None:
    Path("marked.py").write_text(
        "import pathlib\n"
        "import gymnasium\n"
        "class Marked(gymnasium.Wrapper):\n"
        "    def step(self, action):\n"
        "        pathlib.Path('started').touch()\n"
        "        return self.env.step(action)\n"
        "def make():\n"
        "    return Marked(gymnasium.make('Pendulum-v1'))\n"
    )
    command = [sys.executable, "-m", "edgerl", "run", model, "--env", "marked:make", "--seconds", 1000]
    process = processes.start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not Path("started").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert ("missed deadlines" in out) == (number == 2), "Ctrl-C leaves the statistics"
    assert err.splitlines()[-1] == f"edgerl: {word}"
    assert "Traceback" not in err
