"""`edgerl report`, as typed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgerl as library
from edgerl.errors import FileFormatError
from edgerl.report import build
from edgerl.signals import Terminated

Run = Callable[..., tuple[int, str, str]]
SMALL = {"hidden": (8, 8), "sparsity": 0.5, "steps": 60, "start_steps": 30, "evaluation_interval": 30}


@pytest.fixture
def run() -> Path:
    return library.train("robots:robot", batch_size=8, evaluation_episodes=1, **SMALL).folder


def test_a_report_lands_in_the_run_folder_and_is_replaced_there(edgerl: Run, run: Path) -> None:
    for _ in range(2):
        code, out, err = edgerl("report")
        assert (code, out.split(":")[0]) == (0, f"{run}/report.html")
        assert f"using {run}" in err
    text = (run / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert f"<title>{run.name}</title>" in text


def test_an_output_elsewhere_and_json(edgerl: Run, run: Path) -> None:
    code, out, _ = edgerl("report", run, run / "policy.safetensors", "-o", "page.html", "--json")
    assert code == 0
    assert json.loads(out)["bytes"] == Path("page.html").stat().st_size
    assert (json.loads(out)["runs"], json.loads(out)["models"]) == (1, 1)
    code, _, err = edgerl("report", run, "-o", "page.html")
    assert (code, "page.html exists already; pass --force to replace it, or write elsewhere" in err) == (2, True)
    assert edgerl("report", run, "-o", "page.html", "--force")[0] == 0


def test_a_study_is_found_by_its_name_and_has_its_title(edgerl: Run) -> None:
    Path("pendulum.toml").write_text(
        'title = "Does it <learn>?"\n[run]\nsteps = 60\nstart_steps = 30\nevaluation_interval = 30\nbatch_size = 8\n'
        "hidden = [8]\nevaluation_episodes = 1\n"
        '[grid]\nenvironment = ["Pendulum-v1"]\nmethod = ["td3"]\nseed = [0, 1]\n'
    )
    assert edgerl("sweep", "pendulum.toml", "--jobs", 1)[0] == 0
    for name in ("pendulum", "pendulum.toml", "runs/pendulum"):
        code, out, err = edgerl("report", name)
        assert (code, out.split(":")[0]) == (0, "runs/pendulum/report.html"), err
    text = Path("runs/pendulum/report.html").read_text()
    assert "<title>Does it &lt;learn&gt;?</title>" in text
    assert "2 runs in Pendulum-v1" in text
    Path("runs/pendulum/study.json").write_text("{}")
    code, _, err = edgerl("report", "pendulum")
    assert (code, "study.json" in err.splitlines()[-1]) == (2, True)


def test_an_onnx_file_has_budgets_and_no_more(edgerl: Run, run: Path) -> None:
    library.export_policy(run, "onnx", "small.onnx")
    assert edgerl("report", "small.onnx")[0] == 0
    text = Path("report.html").read_text()
    assert "Devices</h2>" in text
    assert "Sensors</h2>" not in text


def test_bad_input_is_one_line_and_writes_nothing(edgerl: Run, run: Path) -> None:
    Path("empty").mkdir()
    Path("notes.txt").write_text("x")
    config = json.loads((run / "config.json").read_text())
    Path("older").mkdir()
    Path("older/config.json").write_text(json.dumps({**config, "colour": "red"}))
    Path("fitted").symlink_to(run)
    for arguments, message in (
        (["nowhere"], "nowhere is not there; expected a run folder, a folder of runs, or a policy file"),
        (["notes.txt"], "notes.txt is a text file; expected a run folder"),
        (["empty"], "empty holds no config.json and no run folders; name a run that train made"),
        (["older"], "config was written by another version of edgerl: unknown or missing key 'colour'"),
        ([run, "-o", "no/such/page.html"], "cannot write no/such/page.html"),
        ([run, "-o", run / "metrics.csv", "--force"], "metrics.csv is one of the files that the report reads"),
    ):
        code, out, err = edgerl("report", *arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err.splitlines()[-1]
    with (run / "metrics.csv").open("a") as file:
        file.write("90,1")
    code, _, err = edgerl("report", run)
    assert code == 2
    assert f"it was cut off or damaged; mend it with: edgerl train --resume {run}" in err.splitlines()[-1]
    assert not list(Path().rglob("*.html"))


@pytest.mark.parametrize(
    "record", ["[]", "{", '{"device": "<b>\\n"}', '{"device": "x", "chosen": null, "least_return": true}']
)
def test_a_record_of_fit_that_is_none_is_named(edgerl: Run, run: Path, record: str) -> None:
    (run / "fit-x.json").write_text(record)
    code, _, err = edgerl("report", run)
    assert code == 2
    assert "fit-x.json is not a record of edgerl fit" in err.splitlines()[-1]


def test_a_trial_that_no_axis_can_show_is_refused(edgerl: Run, run: Path) -> None:
    returns = {"mean": 1, "low": 0, "high": 2}
    trial = {"architecture": "4-8-2", "precision": "fp32", "layers": [], "returns": returns, "fits": True}
    trial |= {"bytes": 100, "latency": {"used": 5}}
    record = {"device": "x", "chosen": None, "least_return": 0, "reference": {"latency": {"budget": 9}}, "episodes": 2}
    for wrong, message in (
        ({}, ""),
        ({"bytes": -5}, "-5 where a number above zero is expected"),
        ({"latency": {"used": 0}}, "0 where a number above zero is expected"),
        ({"bytes": 10**400}, f"{str(10**400)[:40]} where a number is expected"),
        ({"bytes": 1e308}, "1e+308 where a number is expected"),
    ):
        (run / "fit-x.json").write_text(json.dumps(record | {"measured": [trial | wrong]}))
        code, _, err = edgerl("report", run)
        assert code == (2 if wrong else 0), err
        assert message in err


def test_a_file_of_a_run_is_never_replaced(edgerl: Run, run: Path) -> None:
    """Whatever run the report is of."""
    other = shutil.copytree(run, Path("other"))
    (run / "notes.txt").write_text("mine")
    (other / "fit-x.json").write_text("{}")
    Path("study.json").write_text("{}")
    files = (run / "replay.bin", run / "metrics.csv", other / "replay.bin", other / "fit-x.json", Path("study.json"))
    for path in files:
        before = path.read_bytes()
        assert edgerl("report", run, "-o", path)[0] == 2
        code, _, err = edgerl("report", run, "-o", path, "--force")
        assert (code, "; choose another -o" in err.splitlines()[-1]) == (2, True), path
        assert path.read_bytes() == before
    code, _, err = edgerl("report", run, "-o", run / "notes.txt")
    assert (code, "notes.txt exists already; pass --force" in err) == (2, True)
    assert (run / "notes.txt").read_text() == "mine"


def test_what_is_no_ordinary_file_holds_nobody_up(edgerl: Run, run: Path) -> None:
    """A pipe, a device that never ends, and a link to nothing, which is not the same as no file."""
    (run / "fit-x.json").write_text("{}")
    for name in (
        "config.json",
        "metrics.csv",
        "topology.csv",
        "policy.safetensors",
        "checkpoint.safetensors",
        "fit-x.json",
    ):
        kept = (run / name).rename("kept")
        for goal, message in (
            ("pipe", "is not a regular file"),
            ("/dev/zero", "is not a regular file"),
            ("gone", "nothing"),
        ):
            os.mkfifo(run / name) if goal == "pipe" else (run / name).symlink_to(goal)
            code, _, err = edgerl("report", run)
            line = err.splitlines()[-1]
            assert (code, name in line) == (2, True), line
            assert message in line or (name, goal) == ("config.json", "gone")
            (run / name).unlink()
        kept.rename(run / name)


def test_impossible_versions_are_none(edgerl: Run, run: Path) -> None:
    path = run / "versions.json"
    for text in ('{"sessions": [{"from_step": Infinity, "versions": {}}]}', "\xff", "[" * 100_000):
        path.write_text(text)
        assert edgerl("report", run)[0] == 0
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert edgerl("report", run)[0] == 0
    path.unlink()
    os.mkfifo(path)
    assert edgerl("report", run)[0] == 0
    assert "This run was made by a version that did not record versions." in (run / "report.html").read_text()


def test_names_that_are_no_text(edgerl: Run, run: Path) -> None:
    """A folder of bytes that are no UTF-8, and half a pair of UTF-16 in what files say."""
    folder = run.rename(os.fsdecode(b"run-\xff"))
    versions = {"sessions": [{"from_step": 0, "versions": {"a\ud800": "\udc00"}}]}
    (folder / "versions.json").write_text(json.dumps(versions))
    code, out, err = edgerl("report", folder)
    assert (code, out.split(":")[0]) == (0, "run-\\xff/report.html"), err
    text = (folder / "report.html").read_text()
    assert "<title>run-\\udcff</title>" in text
    assert "a\\ud800" in text


def test_a_configuration_of_another_run_is_refused(edgerl: Run, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["network"]["hidden"] = [16, 16]
    (run / "config.json").write_text(json.dumps(config))
    code, _, err = edgerl("report", run)
    assert code == 2
    assert f"checkpoint.safetensors is of another configuration than {run}/config.json; restore" in err.splitlines()[-1]


def test_arguments_that_mean_nothing(edgerl: Run) -> None:
    for arguments, message in (
        ([""], "an argument is empty; expected a path"),
        (["--watch", "--json"], "--watch writes page after page, and --json prints one result; leave one of them out"),
    ):
        code, out, err = edgerl("report", *arguments)
        assert (code, out) == (2, "")
        assert message in err.splitlines()[-1]


def test_without_plotly_the_command_says_what_to_install(
    edgerl: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.offline", raising=False)
    code, _, err = edgerl("report", run)
    assert code == 2
    assert err.splitlines()[-1] == "edgerl: plotly.offline is not installed; run: pip install 'edgerl[report]'"


@pytest.mark.parametrize("end", [KeyboardInterrupt, Terminated])
def test_watching_writes_when_a_run_goes_on_and_ends_without_reloading(run: Path, end: type[BaseException]) -> None:
    """Nothing changes, a row is half written, it is whole, Ctrl-C or SIGTERM."""
    metrics, said, written = run / "metrics.csv", [], []
    last = metrics.read_text().splitlines()[-1]
    half = f"90{last[2:20]}"

    def change(_: float) -> None:
        written.append(Path("page.html").read_bytes().count(b'"reload_seconds":10'))
        step = len(written)
        if step == 2:
            with metrics.open("a") as file:
                file.write(half)
        if step == 3:
            metrics.write_text(metrics.read_text().removesuffix(half) + f"90{last[2:]}\n")
        if step == 4:
            raise end

    with pytest.raises(end):
        build.watch([run], "page.html", notify=said.append, sleep=change)
    kinds = [isinstance(each, FileFormatError) for each in said]
    assert kinds == [False, True, False]
    assert written == [1, 1, 1, 1]
    page = Path("page.html").read_bytes()
    assert b'"reload_seconds":null' in page
    assert b"[30,60,90]" in page


@pytest.mark.parametrize("what", ["half a row", "no folder"])
def test_what_is_watched_may_be_half_written_or_gone_at_the_end(run: Path, what: str) -> None:
    """The page stays as it was, but for the reloading."""
    said: list[object] = []
    times = iter(range(3))

    def change(_: float) -> None:
        time = next(times)
        if time == 1:
            raise KeyboardInterrupt
        if what == "no folder":
            shutil.rmtree(run)
            return
        with (run / "metrics.csv").open("a") as file:
            file.write("90,1")

    with pytest.raises(KeyboardInterrupt):
        build.watch([run], "page.html", notify=said.append, sleep=change)
    assert [isinstance(each, FileFormatError) for each in said] == [False, True, True]
    page = Path("page.html").read_bytes()
    assert b'"reload_seconds":null' in page
    assert b"[30,60]" in page
