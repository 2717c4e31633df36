"""Tables from run folders with evaluations chosen by hand."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomllib

from edgerl.errors import ConfigError, EdgerlError
from edgerl.studies.grid import PlannedRun, plan_runs
from edgerl.studies.runs import Live, inspect, live, read_curve
from edgerl.studies.study import Study, load_study, narrowed, parse_study, to_record
from edgerl.studies.table import Figure, Table, make_table
from edgerl.studies.table_text import format_table

from .folders import write_run

Run = Callable[..., tuple[int, str, str]]


def _study(**grid: list[Any]) -> tuple[Study, dict[str, PlannedRun]]:
    study = parse_study({"grid": grid, "run": {"steps": 60_000, "start_steps": 1}}, "own", "own.toml")
    return study, {run.name: run for run in plan_runs(study)}


def _table(study: Study, runs: dict[str, PlannedRun]) -> Table:
    return make_table(study, list(runs.values()), Path("own"))


def test_the_figures_of_a_study_by_hand() -> None:
    study, runs = _study(environment=["HalfCheetah-v5", "Hopper-v5"], method=["td3", "ds-td3"], seed=[0, 1])
    finals = {  # environment, method → the return of each seed, from the third evaluation on
        ("HalfCheetah-v5", "td3"): (1000, 3000),
        ("HalfCheetah-v5", "ds-td3"): (2000, 4000),
        ("Hopper-v5", "td3"): (100, 300),
        ("Hopper-v5", "ds-td3"): (50, 250),
    }
    for (environment, method), values in finals.items():
        for seed, value in enumerate(values):
            name = f"{environment}-{method}-seed{seed}"
            write_run(Path("own") / name, runs[name], [0, 0, *[value] * 10])
    table = _table(study, runs)
    assert (table.finished, table.planned, table.steps) == (8, 8, (60_000,))
    rows = {(row.environment, row.method): row for row in table.rows}
    row = rows["HalfCheetah-v5", "ds-td3"]
    assert (row.final_return.mean, row.final_return.deviation) == (3000, pytest.approx(2000 / 2**0.5))
    assert (row.paper_return.mean, row.paper_return.deviation) == (11460, 483)
    assert row.learning_curve_area.mean == pytest.approx((20_000 + 40_000) / 2 / 60_000)
    assert (row.interquartile_mean.value, row.interquartile_mean.low, row.interquartile_mean.high) == (3000, 2000, 4000)
    assert row.better_than_dense.value == (1 + 0 + 1 + 1) / 4  # 2000 > 1000, 2000 < 3000, 4000 > both
    # TD3 ends at 2000. Seed 0 reaches it only at the twelfth evaluation; seed 1 at the tenth: 8 · 4000 / 10.
    assert (row.reached_dense, row.steps_to_dense) == (2, (60_000 + 50_000) / 2)
    assert (row.connections, row.paper_connections, row.paper_relative_flops) == (106_169, 106_169, 0.49)
    dense = rows["Hopper-v5", "td3"]
    assert dense.better_than_dense is None
    assert (dense.reached_dense, dense.steps_to_dense) == (1, None), "half of the runs never reach their mean"
    overall = {row.method: row for row in table.overall}
    # relative returns: HalfCheetah 1, 2; Hopper .25, 1.25: the middle two of four
    assert overall["ds-td3"].relative_return.value == pytest.approx((1 + 1.25) / 2)
    assert overall["ds-td3"].better_than_dense.value == (0.75 + 0.25) / 2  # Hopper: only 250 > 100
    assert overall["td3"].better_than_dense is None
    text = format_table(table, "markdown")
    assert "| HalfCheetah-v5 | ds-td3 | 2 | 3000 ± 1414 | 11460 ± 483 | 3000 [2000, 4000] |" in text
    assert "| HalfCheetah-v5 | ds-td3 | 106169 | 106169 | " in text


def _better_than_dense(variants: dict[str, dict[str, Any]], **grid: list[Any]) -> dict[str, float | None]:
    """By label, of runs that return 1, 2, … in the order of the study."""
    study = parse_study({"grid": {"environment": ["HalfCheetah-v5"], **grid}, "variants": variants}, "own", "own.toml")
    runs = {run.name: run for run in plan_runs(study)}
    for at, (name, run) in enumerate(runs.items()):
        write_run(Path("own") / name, run, [float(at + 1)] * 12)
    rows = _table(study, runs).rows
    return {row.label: None if row.better_than_dense is None else row.better_than_dense.value for row in rows}


@pytest.mark.parametrize("dense", [{"method": "td3"}, {"topology": "dense"}])
def test_a_variant_that_is_dense_td3_is_what_the_other_variants_are_compared_with(dense: dict[str, Any]) -> None:
    variants = {"plain": {}, "full": dense, "norm": {"critic_norm": "layer"}}
    found = _better_than_dense(variants)
    assert {name.rpartition(" ")[2]: value for name, value in found.items()} == {"plain": 0, "full": None, "norm": 1}


def test_a_variant_is_compared_with_dense_td3_of_its_own_where_there_is_one() -> None:
    found = _better_than_dense({"plain": {}, "norm": {"critic_norm": "layer"}}, method=["td3", "ds-td3"])
    assert found == {"td3, plain": None, "td3, norm": None, "ds-td3, plain": 1, "ds-td3, norm": 1}


def test_neither_dense_sac_nor_tiny_dense_is_dense_td3() -> None:
    assert set(_better_than_dense({}, method=["sac", "tiny-dense", "ds-td3"], steps=[60_000]).values()) == {None}
    shutil.rmtree("own")
    found = _better_than_dense({"sac": {"algorithm": "sac"}, "plain": {}}, method=["td3", "ds-td3"])
    assert found["ds-td3, plain"] == 1, "than td3, plain, alone"


def test_a_table_says_what_its_returns_are_the_mean_of() -> None:
    """Of the preset quick, two evaluations are of random steps, and four follow."""
    study = parse_study({"grid": {"method": ["td3", "ds-td3"], "seed": [0, 1]}, "run": {"preset": "quick"}}, "own", "")
    for run in plan_runs(study):
        write_run(Path("own") / run.name, run, [-9000, -9000, 1, 2, 3, 4 + 4 * run.config.seed])
    table = make_table(study, plan_runs(study), Path("own"))
    for row in table.rows:
        assert (row.evaluations, row.final_return) == (4, Figure((2.5 + 3.5) / 2, 0.5**0.5))
        assert (row.steps_to_dense, row.reached_dense) == (None, None), "before ten there is no mean"
    run = plan_runs(study)[0]
    write_run(Path("random"), run, [-9000, -9000])
    write_run(Path("learning"), run, [-9000, -9000, 1])
    assert [live(Path(name), run.config).evaluation_return for name in ("random", "learning")] == [None, 1]
    text = format_table(table, "markdown")
    assert "Return: the mean of the last 4 evaluations since learning began, ± " in text
    assert "steps to TD3's return |" not in text
    assert "of 2" not in text
    assert [line["evaluations"] for line in csv.DictReader(io.StringIO(format_table(table, "csv")))] == ["4", "4"]


def test_returns_after_steps_and_after_minutes_of_the_processor() -> None:
    """Rows every 5000 steps, and every 50 s of the processor (100 with the second seed)."""
    study, runs = _study(method=["td3"], seed=[0, 1])
    for seed, run in enumerate(runs.values()):
        values = [float(1000 * seed + row) for row in range(1, 13)]
        write_run(Path("own") / run.name, run, values, cpu_seconds=[50.0 * (1 + seed) * row for row in range(1, 13)])
    (row,) = _table(study, runs).rows
    assert {mark: at.value for mark, at in row.returns_after_steps.items()} == {30_000: (6 + 1006) / 2}
    # After 3 minutes rows 3 and 1, after 10 rows 12 and 6; after 1 the second has none, and none took 30.
    after = {mark: at.value for mark, at in row.returns_after_cpu_minutes.items()}
    assert after == {3: (3 + 1001) / 2, 10: (12 + 1006) / 2}
    assert row.cpu_minutes == Figure(15, 50**0.5)
    table = _table(study, runs)
    assert "| after 30 000 steps | 3 CPU min | 10 CPU min | CPU min in all |" in format_table(table, "markdown")
    (line,) = csv.DictReader(io.StringIO(format_table(table, "csv")))
    assert (line["returns_after_cpu_minutes_10_value"], line["returns_after_steps_30000_low"]) == ("509.0", "6.0")


def test_a_table_of_runs_without_evaluations() -> None:
    """As `edgerl train --evaluation none` leaves them: rows without a return, in a study beside others."""
    study, runs = _study(method=["td3", "ds-td3"], seed=[0, 1])
    for run in runs.values():
        write_run(Path("own") / run.name, run, [5.0] * 12 if run.method == "td3" else [None] * 12)
    dense, sparse = _table(study, runs).rows
    assert (sparse.runs, sparse.evaluations, sparse.final_return, sparse.learning_curve_area) == (2, None, None, None)
    assert (sparse.better_than_dense, sparse.steps_to_dense, sparse.interquartile_mean) == (None, None, None)
    assert (dense.runs, dense.evaluations, dense.final_return) == (2, 10, Figure(5, 0))
    text = format_table(_table(study, runs), "markdown")
    assert "| HalfCheetah-v5 | ds-td3 | 2 |  | 11460 ± 483 |  |  |  |" in text
    run = runs["HalfCheetah-v5-ds-td3-seed0"]
    assert live(Path("own") / run.name, run.config) == Live(60_000, None, 0.5 / 5000)
    shutil.rmtree("own")
    for run in runs.values():
        write_run(Path("own") / run.name, run, [None] * 12)
    assert "Return: none since learning began" in format_table(_table(study, runs), "markdown")


def test_the_success_rate_is_a_column_where_a_task_tells_of_it() -> None:
    study, runs = _study(method=["td3"], seed=[0, 1])
    for run in runs.values():
        write_run(Path("own") / run.name, run, [1.0] * 12, success_rates=[0, 0, *[0.25 + 0.5 * run.config.seed] * 10])
    (row,) = _table(study, runs).rows
    assert row.success_rate == Figure(0.5, pytest.approx(0.125**0.5))
    assert "| runs | return | success |" in format_table(_table(study, runs), "markdown")
    shutil.rmtree("own")
    for run in runs.values():
        write_run(Path("own") / run.name, run, [1.0] * 12)
    assert _table(study, runs).rows[0].success_rate is None
    assert "success" not in format_table(_table(study, runs), "markdown")


def test_only_finished_runs_count_and_none_is_refused() -> None:
    study, runs = _study(method=["ds-td3"], seed=[0, 1])
    first, second = runs
    write_run(Path("own") / first, runs[first], [7.0] * 3, step=15_000)
    with pytest.raises(EdgerlError, match=r"^own holds no finished run of the study own; run edgerl sweep, or name"):
        _table(study, runs)
    write_run(Path("own") / second, runs[second], [7.0] * 12)
    (row,) = _table(study, runs).rows
    assert (row.runs, row.planned) == (1, 2)
    assert (row.final_return.mean, row.final_return.deviation) == (7, None)
    assert row.better_than_dense is None, "the study has no TD3"


def test_settings_are_compared_with_the_one_dense_td3() -> None:
    study, runs = _study(method=["td3", "ds-td3"], sparsity=[0.5, 0.9], seed=[0])
    for index, name in enumerate(runs):
        write_run(Path("own") / name, runs[name], [100.0 * index] * 12)
    rows = {row.label: row for row in _table(study, runs).rows}
    assert set(rows) == {"td3", "ds-td3, sparsity 0.5", "ds-td3, sparsity 0.9"}
    assert rows["ds-td3, sparsity 0.9"].better_than_dense.value == 1
    assert rows["ds-td3, sparsity 0.9"].paper_return is None, "the paper's is at half density"
    lines = list(csv.DictReader(io.StringIO(format_table(_table(study, runs), "csv"))))
    assert [(line["method"], line["sparsity"], line["final_return_mean"]) for line in lines] == [
        ("td3", "", "0.0"),
        ("ds-td3", "0.5", "100.0"),
        ("ds-td3", "0.9", "200.0"),
    ]


def test_tasks_with_other_arguments_are_not_pooled() -> None:
    grid = {"environment": ["robots:Robot"], "env_args": [{"length": 12}, {"length": 13}], "method": ["td3", "ds-td3"]}
    study, runs = _study(**grid, seed=[0, 1])
    returns = {(12, "td3"): 10.0, (12, "ds-td3"): 20.0, (13, "td3"): 1000.0, (13, "ds-td3"): 500.0}
    for run in runs.values():
        write_run(Path("own") / run.name, run, [returns[run.config.env_args["length"], run.method]] * 12)
    rows = _table(study, runs).rows
    tasks = ["robots:Robot (length=12)"] * 2 + ["robots:Robot (length=13)"] * 2
    assert [row.environment for row in rows] == tasks
    assert [row.runs for row in rows] == [2, 2, 2, 2]
    assert [row.final_return for row in rows] == [Figure(value, 0) for value in returns.values()]
    better = [row.better_than_dense and row.better_than_dense.value for row in rows]
    assert better == [None, 1, None, 0], "each is compared with the TD3 of its own task"
    assert len(_table(study, runs).overall) == 2
    own, other = (next(run for run in runs.values() if run.config.env_args == {"length": n}) for n in (12, 13))
    with pytest.raises(ConfigError, match=r"\(env_args\.length 12, expected 13\)"):
        inspect(Path("own") / own.name, dataclasses.replace(other, name=own.name))
    plain = dataclasses.replace(other, config=dataclasses.replace(other.config, env_args={}))
    with pytest.raises(ConfigError, match=r"\(env_args\.length 12, expected None\)"):
        inspect(Path("own") / own.name, plain)


def test_another_run_in_a_folder_is_refused_with_the_first_difference() -> None:
    _, runs = _study(sparsity=[0.5, 0.9])
    first, second = runs.values()
    write_run(Path("here"), first, [1.0])
    message = (
        r"^here holds another run than the study's \(network\.sparsity 0\.5, expected 0\.9\); choose another `out`"
    )
    with pytest.raises(ConfigError, match=message):
        inspect(Path("here"), second)
    assert inspect(Path("here"), first).stage == "finished"


def test_a_folder_of_another_version_is_refused() -> None:
    _, runs = _study(seed=[0])
    (run,) = runs.values()
    write_run(Path("here"), run, [1.0])
    config = json.loads(Path("here/config.json").read_text())
    del config["network"]["block"]
    Path("here/config.json").write_text(json.dumps(config))
    with pytest.raises(EdgerlError, match=r"network was written by another version of edgerl.*remove here and sweep$"):
        inspect(Path("here"), run)
    Path("here/config.json").unlink()
    with pytest.raises(EdgerlError, match=r"^here is not a run folder"):
        inspect(Path("here"), run)


def test_a_folder_in_which_only_a_temporary_file_was_left_is_absent() -> None:
    _, runs = _study(seed=[0])
    (run,) = runs.values()
    Path("here").mkdir()
    Path("here/.edgerl-1234.tmp").touch()
    assert inspect(Path("here"), run).stage == "absent"
    Path("here/notes").touch()
    with pytest.raises(EdgerlError, match=r"^here is not a run folder"):
        inspect(Path("here"), run)


def test_a_run_of_another_engine_is_tabulated_where_the_study_names_none() -> None:
    _, runs = _study(seed=[0])
    (run,) = runs.values()
    for engine in ("native", "torch"):
        config = dataclasses.replace(run.config, engine=engine)
        write_run(Path(engine), dataclasses.replace(run, config=config), [1.0])
        assert inspect(Path(engine), run).stage == "finished"
    named = dataclasses.replace(run, config=dataclasses.replace(run.config, engine="torch"))
    with pytest.raises(ConfigError, match=r"engine 'native', expected 'torch'"):
        inspect(Path("native"), named)


def test_the_papers_figures_stand_beside_the_papers_setting_alone() -> None:
    sac = 'algorithm = ["sac"]\nlearning_rate = [1e-3]\nbatch_size = [100]\npolicy_delay = [2]\nweight_decay = [2e-4]'
    for at, (text, has) in enumerate(
        (("seed = [0]", True), ("sparsity = [0.8]", False), ("hidden = [[16, 16]]", False), (sac, False))
    ):
        study = parse_study({"grid": tomllib.loads(text)}, "own", "own.toml")
        runs = plan_runs(study)
        write_run(Path(str(at)) / runs[0].name, runs[0], [1.0])
        (row,) = make_table(study, runs, Path(str(at))).rows
        assert (row.paper_return is not None, row.paper_connections is not None) == (has, has)
    schedule = narrowed(load_study("schedule"), seeds=[0])
    runs = plan_runs(schedule)
    for run in runs:
        write_run(Path("e") / run.name, run, [1.0])
    rows = make_table(schedule, runs, Path("e")).rows
    assert [(row.settings["evolution_interval"], row.paper_return is not None) for row in rows] == [
        *((200, False), (500, False), (1000, True), (2000, False)),
    ]


def test_numbers_have_three_digits_at_least() -> None:
    _, runs = _study(seed=[0, 1])
    for run, value in zip(runs.values(), (-0.2512, -0.2548), strict=True):
        write_run(Path("own") / run.name, run, [value])
    text = format_table(_table(*_study(seed=[0, 1])), "markdown")
    assert "| -0.253 ± 0.003 |" in text
    assert "-0.253 [-0.255, -0.251]" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-8], r"metrics\.csv is damaged: it has 2 whole rows; expected the checkpoint's 3"),
        (lambda text: text.replace("10000,", "1e400,"), r"is damaged: a value is not finite"),
        (lambda text: text.replace("10000,", "x,"), r"is damaged: could not convert string to float: 'x'"),
        (lambda text: text.replace("10000,", "10000,1,"), r"is damaged: a row has more or fewer values than"),
        (lambda text: text.replace("10000,", "5000,"), r"is damaged: its steps do not increase"),
        (lambda text: text.replace("10000,", "1" * 200_000 + ","), r"is damaged: field larger than field limit"),
        (
            lambda text: text.replace("10000,", "1e200,"),
            r"is damaged: a value is not finite, or too large for a return",
        ),
        (lambda text: text.replace("10000,2.0", "10000,nan"), r"is damaged: a value is not finite"),
        (lambda text: text.replace("10000,", ","), r"is damaged: a row has no step or no time"),
        (lambda text: text.replace("return_mean", "other"), r"is damaged: it has no column return_mean; restore"),
        (lambda _: "", r"is damaged: it has no column step; .* to train that run again, remove here and sweep$"),
    ],
)
def test_half_written_metrics_are_refused(change: Callable[[str], str], message: str) -> None:
    _, runs = _study(seed=[0])
    (run,) = runs.values()
    write_run(Path("here"), run, [1.0, 2.0, 3.0])
    metrics = Path("here/metrics.csv")
    metrics.write_text(change(metrics.read_text()))
    with pytest.raises(EdgerlError, match=message):
        read_curve(Path("here"), 1, rows=3)


def test_a_run_that_goes_on_is_read_up_to_its_last_whole_row() -> None:
    _, runs = _study(seed=[0])
    (run,) = runs.values()
    write_run(Path("here"), run, [1.0, 2.0])
    with Path("here/metrics.csv").open("a") as file:
        file.write("15000,3")
    assert read_curve(Path("here"), 1).returns.tolist() == [1, 2]


def test_the_command_prints_the_study_as_it_was_swept(edgerl: Run) -> None:
    study = narrowed(load_study("sparsity"), steps=10_000, seeds=[0])
    for run in plan_runs(study):
        write_run(Path("runs/sparsity") / run.name, run, [1.0, 2.0])
    Path("runs/sparsity/study.json").write_text(to_record(study))
    code, out, err = edgerl("table", "sparsity")
    assert (code, err) == (0, "")
    assert "Effect of the sparsity level: 5 of 5 runs, 10 000 steps." in out
    assert edgerl("table", "runs/sparsity")[1] == out
    report = json.loads(edgerl("table", "sparsity", "--format", "json")[1])
    assert [row["settings"]["sparsity"] for row in report["rows"]] == [0.25, 0.5, 0.8, 0.9, 0.95]
    assert edgerl("table", "sparsity", "--format", "csv")[1].count("\n") == 6
    code, out, err = edgerl("table", "sparsity", "--seeds", "0,1")
    assert (code, err) == (0, "edgerl: 5 of 10 runs are not finished, and left out\n".removeprefix("edgerl: "))
    assert "5 of 10 runs" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sparsity"],
            "runs/sparsity holds no finished run of the study sparsity; run edgerl sweep, or name its folder",
        ),
        (["sparsity", "--format", "html"], "--format is 'html'; expected markdown, csv, json"),
        (["nothing"], "study 'nothing' is not there"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, arguments: list[str], message: str) -> None:
    code, out, err = edgerl("table", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"edgerl: {message}")
    assert err.count("\n") == 1
