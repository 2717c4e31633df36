"""`edgerl report`, as typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgerl as library
from edgerl.errors import FileFormatError
from edgerl.report import build

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
    assert (code, "page.html exists already; pass --force to replace it, or another -o" in err) == (2, True)
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
        (["notes.txt"], "notes.txt is a file of type .txt; expected a run folder"),
        (["empty"], "empty holds no config.json and no run folders; name a run that train made"),
        (["older"], "config has not the keys of this version of edgerl (first difference: colour)"),
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
    assert "fit-x.json is no record of edgerl fit" in err.splitlines()[-1]


def test_without_plotly_the_command_says_what_to_install(
    edgerl: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.offline", raising=False)
    code, _, err = edgerl("report", run)
    assert code == 2
    assert err.splitlines()[-1] == "edgerl: plotly.offline is not installed; run: pip install 'edgerl[report]'"


def test_watching_writes_when_a_run_goes_on_and_ends_without_reloading(run: Path) -> None:
    """Nothing changes, a row is half written, it is whole, Ctrl-C."""
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
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.watch([run], "page.html", told=said.append, sleep=change)
    kinds = [isinstance(each, FileFormatError) for each in said]
    assert kinds == [False, True, False]
    assert written == [1, 1, 1, 1]
    page = Path("page.html").read_bytes()
    assert b'"reload_seconds":null' in page
    assert b"[30,60,90]" in page
