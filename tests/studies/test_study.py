"""Study files: what they may say, what they are refused for, and what the package's own hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgerl.errors import ConfigError, EdgerlError
from edgerl.studies.grid import plan_runs
from edgerl.studies.study import (
    find_swept,
    load_study,
    narrowed,
    packaged_studies,
    parse_study,
    read_record,
    to_record,
    with_earlier,
)


def _load(text: str) -> Any:
    Path("own.toml").write_text(text)
    return load_study("own.toml")


def test_the_package_brings_the_papers_four_questions_and_a_quick_one() -> None:
    assert packaged_studies() == ["quick", "recipe", "schedule", "sparsity", "table1"]
    table1, schedule, sparsity = (load_study(name) for name in ("table1", "schedule", "sparsity"))
    assert table1.grid["environment"] == ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5")
    assert table1.grid["method"] == ("td3", "static-td3", "ds-td3")
    assert schedule.grid["evolution_interval"] == (200, 500, 1000, 2000)
    assert sparsity.grid["sparsity"] == (0.25, 0.5, 0.8, 0.9, 0.95)
    for study in (table1, schedule, sparsity):
        assert study.fixed == {"steps": 1_000_000}
        assert study.grid["seed"] == (0, 1, 2, 3, 4)
    assert "tiny-dense" in load_study("quick").grid["method"]


def test_what_a_file_leaves_out_has_defaults_and_the_rest_varies() -> None:
    study = _load('[run]\nseed = 7\nhidden = [16, 16]\n[grid]\nsparsity = [0.5, 0.9]\ngrowth = ["random"]\n')
    assert study.name == study.title == "own"
    assert study.preset == "paper"
    assert study.fixed == {"hidden": (16, 16)}
    assert study.grid == {
        "environment": ("HalfCheetah-v5",),
        "method": ("ds-td3",),
        "seed": (7,),
        "sparsity": (0.5, 0.9),
        "growth": ("random",),
    }
    assert study.varying == ("sparsity",)


def test_the_variants_of_the_recipe_are_one_factor_or_some_together_at_a_tenth_of_the_connections() -> None:
    study = load_study("recipe")
    plain, *others = (dict(study.variants[str(name)]) for name in study.grid["variant"])
    assert plain == {}
    assert all(options for options in others)
    assert study.fixed["sparsity"] == 0.9


def test_variants_are_sets_of_options_that_come_before_those_of_the_run(tmp_path: Path) -> None:
    study = _load(
        "[run]\nn_step = 2\nsteps = 60000\n[grid]\nseed = [0, 1]\n[variants.plain]\n[variants.far]\nn_step = 5\n"
        '[variants.dense]\nmethod = "td3"\n'
    )
    runs = {(run.settings["variant"], run.config.seed): run for run in plan_runs(study)}
    assert [runs[name, 1].config.learning.n_step for name in ("plain", "far", "dense")] == [2, 5, 2]
    assert [runs[name, 0].method for name in ("plain", "far", "dense")] == ["ds-td3", "ds-td3", "td3"]
    assert runs["far", 0].label == "ds-td3, far"
    assert runs["far", 0].name == "HalfCheetah-v5-ds-td3-far-seed0"
    (tmp_path / "study.json").write_text(to_record(study))
    assert read_record(tmp_path) == study


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[variants.a]\nblock = 4\n[grid]\nblock = [1, 4]\n",
            r"block is in \[grid\] and in \[variants.a\]; expected it",
        ),
        ('variants = "a"\n[grid]\nblock = [1]\n', r"variants is 'a'; expected tables, \[variants.NAME\]"),
        ("[variants]\na = 3\n[grid]\nblock = [1]\n", r"variants.a is 3; expected a table, \[variants.a\]"),
        ('[variants."a/b"]\n[grid]\nblock = [1]\n', r"a variant is called 'a/b'; use letters, digits"),
        (
            '[variants.a]\nenvironment = "module:factory"\n[grid]\nseed = [1]\n',
            r"key 'variants.a.environment' is unknown; it belongs under \[run\]$",
        ),
        (
            "[variants.a]\nenv_args = {length = 3}\n[grid]\nseed = [1]\n",
            r"key 'variants.a.env_args' is unknown; it belongs under \[run\]$",
        ),
        (
            "[variants.a]\nseed = 1\n[grid]\nblock = [1]\n",
            r"key 'variants.a.seed' is unknown; it belongs under \[run\]$",
        ),
        ("[variants.a]\nblok = 4\n[grid]\nseed = [1]\n", r"key 'variants.a.blok' is unknown; did you mean"),
        ('[grid]\nvariant = ["a"]\n', r"key 'grid.variant' is unknown"),
        ('[grid]\nalgorithm = ["td3", "ppo"]\n', r"^own\.toml: algorithm is 'ppo'; expected td3, sac, crossq$"),
        ("[run]\ntopology = 3\n[grid]\nseed = [0]\n", r"^own\.toml: topology is 3; expected dense, static, dynamic$"),
        ("", r"^own\.toml is empty: \[grid\] names no run; expected a line such as environment = "),
        ("[grid]\n", r"is empty: \[grid\] names no run"),
        ("[grid]\nseed = []\n", r"grid\.seed is an empty list, which makes no run"),
        ("[grid]\nsparsty = [0.5]\n", r"key 'grid\.sparsty' is unknown; did you mean sparsity\?$"),
        ("[run]\nstep = 3\n[grid]\nseed = [0]\n", r"key 'run\.step' is unknown; did you mean steps\?$"),
        ("titel = 'a'\n[grid]\nseed = [0]\n", r"key 'titel' is unknown; did you mean title\?$"),
        ("title = 3\n[grid]\nseed = [0]\n", r"title is 3; expected at most 200 printable characters$"),
        ("title = '\x1b[2J'\n[grid]\nseed = [0]\n", r"is not a TOML file"),
        ('title = "\\u001b[2J"\n[grid]\nseed = [0]\n', r"title is '.x1b\[2J'; expected at most 200 printable"),
        ("grid = 3\n", r"grid is 3; expected a table, \[grid\]$"),
        ("[grid]\nseed = 3\n", r"grid\.seed is 3; expected a list, or the key in \[run\]$"),
        ("[grid]\nseed = [0, 1, 0]\n", r"grid\.seed has a value twice; expected each once$"),
        ("[run]\nseed = 1\n[grid]\nseed = [0]\n", r"seed is in \[grid\] and in \[run\]; expected it in one of them$"),
        ("steps = 3\n[grid]\nseed = [0]\n", r"key 'steps' is unknown; it belongs under \[run\]$"),
        ("[grid]\npreset = ['quick']\n", r"key 'grid\.preset' is unknown; it belongs under \[run\]$"),
        (
            "[grid]\nhidden = [256, 256]\n",
            r"grid\.hidden is \[256, 256\]; expected a list of lists, such as \[\[256, 256",
        ),
        ("[grid]\nsparsity = [1979-05-27]\n", r"grid\.sparsity is .*date.*; expected a number, a text, true, false"),
        ("[grid]\nsparsity = [{a = 1}]\n", r"grid\.sparsity is \{'a': 1\}; expected a number, a text"),
        ("[run]\nhidden = [[1]]\n[grid]\nseed = [0]\n", r"run\.hidden is \[\[1\]\]; expected a number, a text"),
        ("[run]\nsteps = 1979-05-27\n[grid]\nseed = [0]\n", r"run\.steps is .*date.*; expected a number, a text"),
        (
            f"[grid]\nseed = [0x{'f' * 6000}]\n",
            r"grid\.seed is a number of thousands of digits; expected",
        ),
        ("[run]\nenv_args = 3\n[grid]\nseed = [0]\n", r"run\.env_args: env_args is 3; expected names with values"),
        ("[run]\nenv_args.a = [1]\n[grid]\nseed = [0]\n", r"run\.env_args: the argument a of the environment is \[1\]"),
        ("[grid]\nenv_args = [{a = nan}]\n", r"grid\.env_args: the argument a of the environment is nan; expected a"),
        ("[grid]\nenv_args = {a = 1}\n", r"grid\.env_args is \{'a': 1\}; expected a list, or the key in \[run\]$"),
        ("[grid]\nenv_args = [{a = 1}, {a = 1}]\n", r"grid\.env_args has a value twice; expected each once$"),
        ("[grid]\nseed = [", r"own\.toml is not a TOML file \("),
        ("[grid]\nseed = [" + "[" * 5000, r"own\.toml is not a TOML file \("),
        (f"[grid]\nseed = {list(range(10001))}\n", r"has 10001 runs; expected at most 10000$"),
    ],
)
def test_what_a_study_file_is_refused_for(text: str, message: str) -> None:
    with pytest.raises(EdgerlError, match=message):
        _load(text)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tabel1",
            r"^study 'tabel1' is not there; .*; did you mean table1\?$",
        ),
        ("absent.toml", r"^absent\.toml is not there; expected a file$"),
        (".toml", r"a file that ends in \.toml"),
    ],
)
def test_a_study_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(EdgerlError, match=message):
        load_study(name)


def test_a_name_that_is_no_folder_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a b' cannot name a folder"):
        parse_study({"grid": {"seed": [0]}}, "a b", "a b.toml")


def test_narrowing_takes_other_steps_and_seeds_and_some_of_the_environments() -> None:
    table1 = load_study("table1")
    narrow = narrowed(table1, steps=300_000, environments=["Hopper-v5", "Ant-v5"], seeds=[3, 9])
    assert narrow.fixed == {"steps": 300_000}
    assert narrow.grid == {**table1.grid, "environment": ("Hopper-v5", "Ant-v5"), "seed": (3, 9)}
    assert narrowed(table1) == table1
    with pytest.raises(
        ConfigError, match=r"environment 'Hoper-v5' is not in the study table1.*; did you mean Hopper-v5"
    ):
        narrowed(table1, environments=["Hoper-v5"])


def test_steps_that_a_study_is_narrowed_to_are_every_variants() -> None:
    study = _load("[grid]\nseed = [0]\n[variants.short]\nsteps = 60000\nn_step = 2\n[variants.plain]\n")
    narrow = narrowed(study, steps=90_000)
    assert [run.config.schedule.steps for run in plan_runs(narrow)] == [90_000, 90_000]
    assert narrow.variants == {"short": {"n_step": 2}, "plain": {}}
    assert narrowed(study).variants == study.variants


def test_the_record_in_a_studys_folder_is_the_study(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    study = narrowed(_load("[run]\nhidden = [16, 16]\npreset = 'quick'\n[grid]\nsparsity = [0.5]\n"), seeds=[1, 2])
    (folder / "study.json").write_text(to_record(study))
    assert read_record(folder) == study
    with_arguments = _load("[run]\nenv_args = {mass = 2.0, rough = true}\n[grid]\nseed = [0]\n")
    (tmp_path / "study.json").write_text(to_record(with_arguments))
    assert read_record(tmp_path) == with_arguments
    assert with_arguments.fixed["env_args"] == {"mass": 2.0, "rough": True}
    assert find_swept(folder) == find_swept("own.toml", folder) == (study, folder)
    assert find_swept("sparsity") == (load_study("sparsity"), Path("runs/sparsity"))
    with pytest.raises(ConfigError, match=r"elsewhere is the folder of the study 'own', not of sparsity; name its own"):
        find_swept("sparsity", folder)
    with pytest.raises(ConfigError, match=r"of the study 'own', not of sparsity; choose another `out`"):
        with_earlier(load_study("sparsity"), folder)


def test_a_part_of_a_study_that_is_swept_again_leaves_the_rest_in_the_record(tmp_path: Path) -> None:
    table1 = load_study("table1")
    first = narrowed(table1, steps=1000, environments=["Hopper-v5"], seeds=[3, 1])
    assert with_earlier(first, tmp_path) == first
    (tmp_path / "study.json").write_text(to_record(first))
    both = with_earlier(narrowed(table1, steps=1000, environments=["Ant-v5"], seeds=[0]), tmp_path)
    assert both.grid == {**table1.grid, "environment": ("Hopper-v5", "Ant-v5"), "seed": (3, 1, 0)}
    longer = narrowed(table1, environments=["Ant-v5"], seeds=[0])
    assert with_earlier(longer, tmp_path) == longer, "there are no runs with other steps"


@pytest.mark.parametrize("text", ["[]", "{", "{}", '{"study": 3}', '{"study": "own", "grid": 3}', "\udcff"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EdgerlError, match=r"study\.json"):
        read_record(tmp_path)
