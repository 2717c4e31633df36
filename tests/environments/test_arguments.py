"""Arguments of an environment: checked, part of the run, and used wherever its environment is made again."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.config import from_json, make_config, to_json
from edgerl.environments.arguments import Arguments, checked, parse, slug, stated, task
from edgerl.environments.consent import may_be_code
from edgerl.environments.make import made, make
from edgerl.errors import ConfigError, EnvironmentError
from edgerl.policy import format as policy_file
from edgerl.report import sources
from edgerl.report.curves import learning_curves
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.folder import new_folder
from edgerl.training.subject import subject_of

Run = Callable[..., tuple[int, str, str]]

SMALL: dict[str, Any] = {
    "hidden": (16, 16),
    "batch_size": 8,
    "steps": 100,
    "start_steps": 30,
    "evaluation_interval": 50,
    "evaluation_episodes": 2,
}


@pytest.fixture
def registry() -> Iterator[None]:
    """What a module registers is forgotten again, and the module with it."""
    import gymnasium

    known = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(known)
    sys.modules.pop("registered_robots", None)


def test_values_are_what_json_says() -> None:
    texts = ["mass=2.0", "n=3", "big=-1e3", "is_rough=true", "flat=false", 'terrain="a b"', 'empty=""', 'e="a=b"']
    found = parse(texts)
    assert found == {
        "mass": 2.0, "n": 3, "big": -1000.0, "is_rough": True, "flat": False, "terrain": "a b", "empty": "", "e": "a=b",
    }  # fmt: skip
    assert [type(value) for value in found.values()] == [float, int, float, bool, bool, str, str, str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mass", "`env_args` is 'mass'; expected NAME=VALUE"),
        ("mass=", "has the value ''; expected a number"),
        ("mass=2.0.1", r"has the value '2\.0\.1'; expected a number"),
        ("flag=True", "has the value 'True'; expected a number, true, false"),
        ("x=rough", r"or a text in quotes, as in 'x=\"rough\"'$"),
        ("x=null", "has the value 'null'; expected"),
        ("x={}", "has the value '{}'; expected"),
        ("x=" + "[" * 100_000, "has the value '\\[+"),
        ("x=Infinity", "has the value 'Infinity'; expected a number"),
        ("x=-Infinity", "has the value '-Infinity'; expected a number"),
        ("x=1e999", "is inf; expected a finite number"),
        ("x=9223372036854775808", "expected a finite number of at most 64 bits"),
        ("x=" + "9" * 5000, "the argument x|has the value"),
        ('x="' + "a" * 1001 + '"', "or a line of at most 1000 characters"),
        ('x="a\\nb"', "or a line of at most 1000 characters"),
        ("=1", "the argument '' of the environment is not a name"),
        ("1x=1", "the argument '1x' of the environment is not a name"),
        ("a" * 65 + "=1", "of the environment is not a name; expected .* at most 64"),
    ],
)
def test_what_is_no_argument_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        parse([text])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([("a", 1)], "env_args is .*; expected names with values"),
        ("a=1", "env_args is 'a=1'; expected names with values"),
        ({f"a{i}": 0 for i in range(33)}, "env_args has 33 arguments; expected at most 32"),
        ({"a": None}, "the argument a of the environment is None"),
        ({"a": [1]}, r"the argument a of the environment is \[1\]"),
        ({"a": math.nan}, "is nan; expected a finite number"),
        ({1: 1}, "the argument 1 of the environment is not a name"),
        ({"a": np.float32(1)}, "the argument a of the environment is"),
    ],
)
def test_arguments_from_anywhere_are_checked(value: Any, message: str) -> None:
    for refuse in (checked, lambda value: make_config(env_args=value), lambda value: stated({"env_args": value})):
        with pytest.raises(ConfigError, match=message):
            refuse(value)
    data = json.loads(to_json(make_config(env_args={"a": 1})))
    if isinstance(value, dict) and 1 not in value and not any(isinstance(v, np.generic) for v in value.values()):
        with pytest.raises(ConfigError, match=f"config.json: .*{message}"):
            from_json({**data, "env_args": value}, "config.json")


def test_a_configuration_with_arguments_is_read_as_it_was_written() -> None:
    config = make_config(env_args={"mass": 2.0, "n": 3, "rough": True, "map": "a"})
    assert config.env_args == {"mass": 2.0, "n": 3, "rough": True, "map": "a"}
    assert from_json(json.loads(to_json(config)), "config.json") == config
    assert hash(config) == hash(make_config(env_args={"map": "a", "mass": 2.0, "n": 3, "rough": True}))
    assert config != make_config(env_args={"mass": 2.0})
    old = json.loads(to_json(make_config()))
    del old["env_args"]
    assert from_json(old, "config.json") == make_config(), "as 0.1.0 wrote it"


def test_tasks_with_other_arguments_have_other_names() -> None:
    arguments = checked({"wind": True, "mass": 2.0, "map": "../a b"})
    assert task("dock:make", Arguments()) == "dock:make"
    assert task("dock:make", arguments) == 'dock:make (map="../a b", mass=2.0, wind=true)'
    assert slug("dock:make", Arguments()) == "dock-make"
    assert slug("dock:make", arguments) == "dock-make-map-..-a-b-mass2.0-windtrue"
    long = [slug("dock:make", checked({"map": "a" * 200 + end})) for end in ("x", "y")]
    assert long[0] != long[1]
    assert all(len(name) < 40 for name in long)
    config = make_config(environment="dock:make", env_args={"mass": 2.0})
    with new_folder(None, config) as folder:
        assert folder == Path("runs/dock-make-mass2.0-ds-td3-seed0")


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["robots:Robot", "registered_robots:Walker-v2"])
def test_arguments_make_the_environment_everywhere(name: str, edgerl: Run) -> None:
    """In training, evaluation, resumption, prune and fit: 12 steps an episode where 37 would be."""
    from edgerl import fit, prune, train

    folder = train(name, out="run", env_args={"length": 12}, sparsity=0.5, **SMALL).folder
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    assert checkpoint.counters.episode == math.ceil(100 / 12)
    environment = subject_of(folder, name).environment()
    environment.reset(0)
    ends = [environment.step(np.zeros(2, np.float32))[3] for _ in range(12)]
    assert ends == [False] * 11 + [True]
    about = policy_file.load(folder / "policy.safetensors").metadata
    assert (about["environment"], about["env_args"]) == (name, {"length": 12})
    train(name, resume=folder, steps=200)
    assert checkpoint_file.read(folder / "checkpoint.safetensors").counters.episode == math.ceil(100 / 12) * 2
    returns = prune(folder, force=True, env=name, episodes=2).returns
    assert returns is not None
    whole = train(name, out="whole", sparsity=0.5, **SMALL).folder
    assert "env_args" not in policy_file.load(whole / "policy.safetensors").metadata
    shutil.copy(folder / "policy.safetensors", whole)
    assert fit(folder, "stm32f405", env=name, max_loss=0.5, episodes=2).selection.reference.measurement.returns.mean > (
        3 * returns[0].mean
    ), "of short episodes, which have returns close to 0"
    # A file may not choose code: it is named, and the file's arguments go with it, which a line says.
    code, out, err = edgerl("run", "run", "--env", name, "--seconds", 0.3)
    assert (code, "edgerl" in err) == (0, False)
    assert f"{name} with length=12, as run/policy.safetensors was trained" in err
    assert "in 12 steps" in out
    assert "in 37 steps" not in out
    code, out, err = edgerl("run", "run", "--env", "robots:robot", "--seconds", 0.6)
    assert code == 0
    assert f"is of {name} with length=12; these arguments are not robots:robot's, and are left out" in err
    assert "in 37 steps" in out


def test_a_file_may_name_no_text_as_an_argument(edgerl: Run) -> None:
    """A text can be a file's name, or a module's: who runs it says so. Numbers are taken."""
    assert may_be_code("robots:robot", Arguments())
    assert may_be_code("Pendulum-v1", checked({"map": "x"}))
    assert not may_be_code("Pendulum-v1", checked({"g": 1.0, "rough": True}))
    edgerl_train = ["train", "--env", "Pendulum-v1", "--preset", "quick", "--steps", 60, "--hidden", "8,8"]
    assert edgerl(*edgerl_train, "--env-arg", "g=1.5", "--out", "numbers")[0] == 0
    code, _, err = edgerl("run", "numbers", "--seconds", 0.1)
    assert code == 0
    assert "Pendulum-v1 with g=1.5, as numbers/policy.safetensors was trained" in err
    assert edgerl("run", "numbers", "--env", "Pendulum", "--seconds", 0.1)[2].count("Pendulum with g=1.5") == 1
    path = Path("numbers/policy.safetensors")
    policy = policy_file.load(path)
    for arguments, message in (
        ({"g": "os"}, "with {'g': 'os'}, which can name files and code; to run it, add --env Pendulum-v1"),
        ({"g": [1]}, "the argument g of the environment is [1]; expected a finite number"),
        ("g", "env_args is 'g'; expected names with values"),
    ):
        altered = dataclasses.replace(policy, metadata={**policy.metadata, "env_args": arguments})
        policy_file.save(altered, path)
        code, out, err = edgerl("run", "numbers", "--seconds", 0.1)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]


def test_other_arguments_are_another_task_in_a_report() -> None:
    for mass, name in ((12, "a"), (13, "b")):
        for seed in (0, 1):
            edgerl.train("robots:Robot", out=f"all/{name}{seed}", env_args={"length": mass}, seed=seed, **SMALL)
    curves = learning_curves(sources.read([Path("all")]).runs)
    assert [(curve.task, curve.label, len(curve.runs)) for curve in curves] == [
        ("robots:Robot (length=12)", "ds-td3", 2),
        ("robots:Robot (length=13)", "ds-td3", 2),
    ]
    text = edgerl.write_report([Path("all")], "page.html").path.read_text()
    assert "4 runs in robots:Robot (length=12), robots:Robot (length=13)" in text
    assert "ds-td3 on robots:Robot (length=12), seed 0" in text


@pytest.mark.usefixtures("registry")
def test_an_id_of_a_package_is_registered_by_importing_it() -> None:
    name, environment = made("registered_robots:Walker-v1")
    assert (name, environment.unwrapped.length) == ("registered_robots:Walker-v1", 5)
    assert made("registered_robots:Walker-v2", length=9)[1].unwrapped.length == 9
    assert make("registered_robots:Walker-v2").own_episode_limit == 20
    assert made("registered_robots:house/Walker-v0")[0] == "registered_robots:house/Walker-v0"
    name, environment = made("registered_robots:Walker")
    assert (name, environment.length) == ("registered_robots:Walker", 3), "a function of that name comes first"
    assert made("registered_robots:Robot")[0] == "registered_robots:Robot"


@pytest.mark.usefixtures("registry")
def test_an_id_without_its_version_gets_it() -> None:
    import registered_robots

    function = registered_robots.Walker
    del registered_robots.Walker
    try:
        name, environment = made("registered_robots:Walker")
    finally:
        registered_robots.Walker = function
    assert (name, environment.unwrapped.length) == ("registered_robots:Walker-v2", 37)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Walker-v1", "environment 'nowhere:Walker-v1': cannot import 'nowhere'"),
        ("registered_robots:Walker-v9", "environment 'registered_robots:Walker-v9' is unknown"),
        ("registered_robots:Wolker-v2", r"is unknown; did you mean Walker-v2\?"),
        ("registered_robots:nothing", "has no function 'nothing'; expected module:factory"),
        ("registered_robots:no thing", "is neither an id nor module:factory"),
        (":Walker-v2", "cannot import ''"),
        ("os:system", r"os:system|system\(\)"),
    ],
)
def test_what_a_package_does_not_have_is_one_line(name: str, message: str) -> None:
    with pytest.raises(EnvironmentError, match=message):
        make(name)


@pytest.mark.usefixtures("registry")
def test_a_run_of_a_packages_id_resumes() -> None:
    """Its configuration has the module, too, without which nothing would register the id."""
    folder = edgerl.train("registered_robots:Walker-v2", out="run", **SMALL).folder
    assert json.loads((folder / "config.json").read_text())["environment"] == "registered_robots:Walker-v2"
    assert folder.name == "run"
    assert edgerl.train("registered_robots:Walker-v2", resume=folder, steps=150).steps == 150
