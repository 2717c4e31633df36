"""The runs of a study: names, configurations, costs, and the dense network with as many connections."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomllib

from edgerl.config import make_config
from edgerl.errors import ConfigError, MissingExtraError
from edgerl.studies.grid import PlannedRun, Sizes, on_this_machine, plan_runs, tiny_dense
from edgerl.studies.study import load_study, narrowed, parse_study


def _runs(**grid: list[Any]) -> dict[str, PlannedRun]:
    environment = {"environment": ["robots:robot"]} if "environment" not in grid else {}
    study = parse_study({"grid": {**environment, **grid}, "run": {"hidden": [16, 16]}}, "own", "own.toml")
    return {run.name: run for run in plan_runs(study)}


def _dense_connections(n_observations: int, n_actions: int, hidden: tuple[int, ...]) -> int:
    actor = (n_observations, *hidden, n_actions)
    critic = (n_observations + n_actions, *hidden, 1)
    return sum(n * m for n, m in pairwise(actor)) + 2 * sum(n * m for n, m in pairwise(critic))


def test_table1_is_the_papers_setting_for_every_task() -> None:
    runs = plan_runs(narrowed(load_study("table1"), steps=300_000, seeds=[0, 1]))
    assert len(runs) == 5 * 3 * 2
    assert runs[0].name == "HalfCheetah-v5-td3-seed0"
    assert [run.config.seed for run in runs] == [0] * 15 + [1] * 15, "seed by seed"
    by_name = {run.name: run for run in runs}
    for environment in ("HalfCheetah-v5", "Humanoid-v5"):
        run = by_name[f"{environment}-ds-td3-seed1"]
        expected = make_config(environment=environment, method="ds-td3", seed=1, steps=300_000, max_episode_steps=1000)
        assert run.config == expected
    counts = {name: by_name[f"{name}-seed0"].connections for name in by_name_stems(runs)}
    assert counts["HalfCheetah-v5-td3"] == 214_784  # the paper's own figures, and FACTS' for the others
    assert counts["HalfCheetah-v5-ds-td3"] == counts["HalfCheetah-v5-static-td3"] == 106_169
    assert counts["Ant-v5-ds-td3"] == 144_824
    assert counts["Humanoid-v5-ds-td3"] == 215_774
    sparse = by_name["HalfCheetah-v5-ds-td3-seed0"]
    assert sparse.flops_paper_dense == pytest.approx(0.3 * 1.07e14, rel=0.01)
    assert sparse.flops_paper / sparse.flops_paper_dense == pytest.approx(0.49, abs=0.005)


def by_name_stems(runs: list[PlannedRun]) -> list[str]:
    return [run.name.removesuffix("-seed0") for run in runs if run.name.endswith("-seed0")]


def test_names_have_the_keys_that_vary_and_mean_something_to_the_method() -> None:
    runs = _runs(method=["td3", "static-td3", "ds-td3", "tiny-dense"], sparsity=[0.3, 0.5], drop_fraction=[0.05, 0.1])
    assert set(runs) == {
        "robots-robot-td3-seed0",
        "robots-robot-static-td3-sparsity0.3-seed0",
        "robots-robot-static-td3-sparsity0.5-seed0",
        "robots-robot-tiny-dense-sparsity0.3-seed0",
        "robots-robot-tiny-dense-sparsity0.5-seed0",
        *(
            f"robots-robot-ds-td3-sparsity{sparsity}-drop_fraction{fraction}-seed0"
            for sparsity in (0.3, 0.5)
            for fraction in (0.05, 0.1)
        ),
    }
    run = runs["robots-robot-ds-td3-sparsity0.3-drop_fraction0.1-seed0"]
    assert (run.config.network.sparsity, run.config.evolution.drop_fraction) == (0.3, 0.1)
    assert run.label == "ds-td3, sparsity 0.3, drop_fraction 0.1"


def test_algorithms_and_topologies_are_named_by_their_methods() -> None:
    """And a method that is stated beside variants goes on naming runs, whatever a variant changes."""
    runs = _runs(algorithm=["td3", "sac"], topology=["static", "dense"], sparsity=[0.3, 0.5])
    assert {name.removeprefix("robots-robot-") for name in runs} == {
        *("td3-seed0", "sac-seed0"),
        *(f"static-{algorithm}-sparsity{sparsity}-seed0" for algorithm in ("td3", "sac") for sparsity in (0.3, 0.5)),
    }
    for run in runs.values():
        assert run.method == run.config.method_name
        assert set(run.settings) <= {"sparsity"}
    run = runs["robots-robot-static-sac-sparsity0.3-seed0"]
    assert (run.config.algorithm, run.config.network.topology) == ("sac", "static")
    (stated,) = _runs(method=["ds-sac"]).values()
    assert (stated.name, stated.config.algorithm) == ("robots-robot-ds-sac-seed0", "sac")


def test_a_variant_has_an_algorithm_or_a_topology_of_its_own() -> None:
    variants = {"sac": {"algorithm": "sac"}, "still": {"topology": "static"}, "full": {"method": "td3"}}
    grid = {"environment": ["robots:robot"], "method": ["ds-td3"], "drop_fraction": [0.1, 0.2]}
    study = parse_study({"grid": grid, "run": {"hidden": [16, 16]}, "variants": variants}, "own", "own.toml")
    methods = {run.name.removeprefix("robots-robot-"): run.config.method_name for run in plan_runs(study)}
    assert methods == {
        "ds-td3-drop_fraction0.1-sac-seed0": "ds-sac",
        "ds-td3-drop_fraction0.2-sac-seed0": "ds-sac",
        "ds-td3-still-seed0": "static-td3",
        "td3-full-seed0": "td3",
    }
    with pytest.raises(ConfigError, match=r"^study own: topology is 'no'; expected dense, static, dynamic$"):
        plan_runs(parse_study({"grid": grid, "variants": {"bad": {"topology": "no"}}}, "own", "own.toml"))


def test_the_evolution_of_one_network_is_no_ignored_option() -> None:
    runs = _runs(method=["static-td3"], critic_topology=["dynamic"], drop_fraction=[0.1, 0.2])
    assert {run.config.evolution.drop_fraction for run in runs.values()} == {0.1, 0.2}


def test_an_option_of_one_algorithm_is_not_given_to_the_other() -> None:
    runs = _runs(algorithm=["td3", "sac"], exploration_noise=[0.2, 0.3], initial_temperature=[0.5])
    assert {
        name.removeprefix("robots-robot-"): run.config.learning.exploration_noise for name, run in runs.items()
    } == {
        "ds-td3-exploration_noise0.2-seed0": 0.2,
        "ds-td3-exploration_noise0.3-seed0": 0.3,
        "ds-sac-seed0": 0.1,
    }
    assert {run.config.learning.initial_temperature for run in runs.values()} == {1.0, 0.5}
    with pytest.raises(ConfigError, match=r"^study own: exploration_noise is 99; expected a number in \[0, 10\]"):
        _runs(algorithm=["sac"], exploration_noise=[99])
    variants = {"noisy": {"algorithm": "sac", "exploration_noise": 0.2}}
    study = parse_study({"grid": {"environment": ["robots:robot"]}, "variants": variants}, "own", "own.toml")
    with pytest.raises(
        ConfigError, match=r"^study own: exploration_noise is 0\.2, which means nothing to algorithm sac"
    ):
        plan_runs(study)


def test_a_key_with_one_value_reaches_the_run_and_not_its_name() -> None:
    runs = _runs(sparsity=[0.4])
    assert list(runs) == ["robots-robot-ds-td3-seed0"]
    assert runs["robots-robot-ds-td3-seed0"].config.network.sparsity == 0.4


def test_arguments_of_the_environment_are_of_the_task() -> None:
    """In [run], or in the grid, where tasks with other arguments are other groups, of other names."""
    text = 'run = {hidden = [16, 16], env_args = {length = 12}}\ngrid = {environment = ["robots:Robot"], seed = [0, 1]}'
    runs = plan_runs(parse_study(tomllib.loads(text), "own", "own.toml"))
    assert [run.name for run in runs] == [f"robots-Robot-length12-ds-td3-seed{seed}" for seed in (0, 1)]
    assert {run.group for run in runs} == {("robots:Robot (length=12)", "ds-td3", ())}
    assert runs[0].config.env_args == {"length": 12}
    runs = list(_runs(environment=["robots:Robot"], env_args=[{"length": 12}, {"length": 13}, {}], seed=[0]).values())
    assert [run.name for run in runs] == [
        "robots-Robot-length12-ds-td3-seed0",
        "robots-Robot-length13-ds-td3-seed0",
        "robots-Robot-ds-td3-seed0",
    ]
    assert len({run.group for run in runs}) == 3
    assert {tuple(run.settings) for run in runs} == {()}


def test_tiny_dense_is_dense_and_has_about_as_many_connections() -> None:
    study = parse_study(
        {"grid": {"method": ["tiny-dense", "ds-td3"], "environment": ["HalfCheetah-v5"]}}, "own", "own.toml"
    )
    tiny, sparse = plan_runs(study)
    # 3 w² + w (17 + 6 + 2 · (23 + 1)) = 3 w² + 71 w: 106 554 at w = 177, 105 424 at 176; the sparse one has 106 169
    assert tiny.config.network.hidden == (177, 177)
    assert tiny.connections == 3 * 177**2 + 71 * 177 == 106_554
    assert sparse.connections == 106_169
    assert tiny.config == make_config(
        environment="HalfCheetah-v5", method="td3", hidden=(177, 177), max_episode_steps=1000
    )
    assert tiny.flops_paper_dense == sparse.flops_paper_dense


def test_tiny_dense_of_sac_counts_its_deviations() -> None:
    grid = {"method": ["tiny-dense", "ds-sac"], "environment": ["HalfCheetah-v5"], "algorithm": ["sac"]}
    study = parse_study({"grid": grid, "run": {"hidden": [64, 64], "sparsity": 0.5}}, "own", "own.toml")
    tiny, sparse = plan_runs(study)
    # 3 w² + w (17 + 12 + 2 · (23 + 1)); a width more or less comes no closer
    width, _ = tiny.config.network.hidden
    counts = {w: 3 * w**2 + 77 * w for w in range(1, 65)}
    assert tiny.connections == counts[width]
    assert abs(tiny.connections - sparse.connections) == min(abs(n - sparse.connections) for n in counts.values())


@pytest.mark.parametrize("hidden", [(256, 256), (400, 300), (64,), (128, 64, 32)])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.77, 1.0])
def test_no_width_comes_closer_than_tiny_denses(hidden: tuple[int, ...], share: float) -> None:
    wanted = round(share * _dense_connections(11, 3, hidden))
    found = tiny_dense(Sizes("any", 11, 3, None), 3, hidden, wanted)
    candidates = [
        tuple(max(1, int(first * width / hidden[0] + 0.5)) for width in hidden) for first in range(1, hidden[0] + 1)
    ]
    assert found in candidates
    distance = abs(_dense_connections(11, 3, found) - wanted)
    assert distance == min(abs(_dense_connections(11, 3, candidate) - wanted) for candidate in candidates)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"method": ["ppo"]}, r"^study own: method is 'ppo'; expected td3, static-td3, .*, ds-crossq, tiny-dense$"),
        ({"method": ["tiny_dense"]}, r"method is 'tiny_dense'; expected .*; did you mean tiny-dense\?$"),
        ({"method": ["td3"], "sparsity": [7]}, r"^study own: sparsity is 7; expected "),
        ({"method": ["static-td3"], "growth": ["bogus"]}, r"^study own: growth is 'bogus'; expected "),
        (
            {"method": ["ds-td3"], "algorithm": ["sac"]},
            r"^study own: method is ds-td3, whose algorithm is td3, and algorithm is 'sac'; leave out one of them$",
        ),
        ({"sparsity": [0.999]}, r"^study own: sparsity 0\.999 is impossible for "),
        ({"seed": [-1]}, r"^study own: seed is -1; expected a whole number in "),
        ({"environment": [3]}, r"^study own: environment is 3; expected str$"),
    ],
)
def test_a_grid_of_impossible_runs_is_refused_before_any_of_them(grid: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _runs(**grid)


def test_the_engine_auto_is_what_this_machine_has_and_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = plan_runs(parse_study({"grid": {"environment": ["robots:robot"], "seed": [0, 1]}}, "own", "own.toml"))
    assert [run.config.engine for run in runs] == ["auto", "auto"]
    said: list[str] = []
    assert [run.config.engine for run in on_this_machine(runs, said.append)] == ["native", "native"]
    assert said == []

    def missing() -> None:
        raise MissingExtraError("there is no compiler")

    monkeypatch.setattr("edgerl.algorithms.engine.library", missing)
    assert [run.config.engine for run in on_this_machine(runs, said.append)] == ["torch", "torch"]
    assert len(said) == 1
    assert "there is no compiler" in said[0]


def test_the_studies_page_counts_runs_rightly() -> None:
    page = (Path(__file__).parents[2] / "docs/studies.md").read_text()
    growth, factors = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    Path("growth.toml").write_text(growth)
    Path("factors.toml").write_text(factors)
    assert (len(plan_runs(load_study("growth.toml"))), len(plan_runs(load_study("factors.toml")))) == (27, 9)
    assert "= 27 runs" in page
    counts = re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", page, flags=re.MULTILINE)
    assert {name: len(plan_runs(load_study(name))) for name, _ in counts} == {n: int(count) for n, count in counts}
    assert [name for name, _ in counts] == ["table1", "schedule", "sparsity", "recipe", "quick"]
