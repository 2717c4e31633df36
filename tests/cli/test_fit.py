"""`edgerl fit`, as typed, on a run that was trained in a moment."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgerl as library
from edgerl.compression import students
from edgerl.environments.make import make
from edgerl.errors import Interrupted
from edgerl.policy.compact import CompactPolicy
from edgerl.policy.format import load
from edgerl.profiling.budgets.report import profile
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.evaluation import evaluate, evaluation_seeds
from tests.tables import table_lines

Run = Callable[..., tuple[int, str, str]]

OWN = ("--env", "robots:robot")

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _little_fine_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("STEPS", 20), ("OBSERVATIONS_OF_A_ROUND", 200)):
        monkeypatch.setattr(f"edgerl.compression.finetune.{name}", count)


@pytest.fixture
def run() -> Path:
    options = {"hidden": (32, 32), "sparsity": 0.5, "steps": 400, "start_steps": 30, "replay_capacity": 500}
    return library.train("robots:robot", batch_size=8, evaluation_episodes=1, **options).folder


def board(name: str, **budgets: float) -> str:
    """A profile of an stm32f405 with other budgets."""
    from importlib import resources

    text = (resources.files("edgerl.device_profiles") / "stm32f405.toml").read_text()
    lines = []
    for line in text.splitlines():
        key = line.partition(" =")[0]
        lines.append(f'{key} = {{ value = {budgets[key]}, source = "assumed: a test" }}' if key in budgets else line)
    Path(f"{name}.toml").write_text("\n".join(lines))
    return f"{name}.toml"


def fit_method(policy: CompactPolicy) -> str:
    """How the file says that it was made."""
    method: str = policy.metadata["fit"]["method"]
    return method


def test_the_policy_that_is_written_fits_and_keeps_the_return(edgerl: Run, run: Path) -> None:
    code, out, err = edgerl("fit", *OWN, "--device", "stm32f405", "--max-loss", "10%", "--episodes", 10)
    assert code == 0
    assert f"using {run}" in err
    policy = load(run / "policy-stm32f405.safetensors")
    assert profile(policy, "stm32f405").fits
    before = checkpoint_file.read(run / "checkpoint.safetensors").policy
    assert policy.connections < before.connections
    assert (run / "policy-stm32f405.png").read_bytes().startswith(PNG)
    assert f"policy {run / 'policy-stm32f405.safetensors'}" in out
    assert len([line for line in table_lines(out) if " chosen" in line]) == 1
    assert f"\nchosen: {fit_method(policy)}, " in out
    assert str(policy.connections) in " ".join(table_lines(out)).split()
    assert max(map(len, table_lines(out))) <= 80
    # The printed return is that of the file, in episodes that the choice did not see.
    environment = make("robots:robot")
    seeds = evaluation_seeds(0, 20)[10:]
    returns, reference = (evaluate(environment, each, seeds) for each in (policy, before))
    fit = policy.metadata["fit"]
    assert fit["return"]["mean"] == pytest.approx(returns.mean(), rel=1e-6)
    assert fit["gain"]["mean"] == pytest.approx((returns - reference).mean(), rel=1e-4)
    assert fit["gain"]["low"] >= -0.1 * abs(reference.mean())
    assert re.search(
        r"\nlargest action difference over [0-9]+ recorded observations: [0-9.e-]+ of the action range", out
    )
    assert f"in 10 other episodes: return {returns.mean():.1f} [" in out


def test_the_same_run_gives_the_same_bytes(edgerl: Run, run: Path) -> None:
    written = []
    for _ in range(2):
        assert edgerl("fit", run, *OWN, "--device", "stm32f405", "--max-loss", "0.2", "--episodes", 5)[0] == 0
        written.append([(run / f"policy-stm32f405.{suffix}").read_bytes() for suffix in ("safetensors", "png")])
    assert written[0] == written[1]


def test_json_says_what_was_measured(edgerl: Run, run: Path) -> None:
    code, out, _ = edgerl("fit", run, *OWN, "--device", "pi-zero-2w", "--min-return", -1000, "--episodes", 2, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["device"] == "raspberry-pi-zero-2w"
    assert report["least_return"] == -1000
    assert report["candidates"] > len(report["measured"]) >= len(report["front"])
    chosen, reference = report["chosen"], report["reference"]
    assert chosen["bytes"] == min(trial["bytes"] for trial in report["measured"])
    assert chosen["bytes"] < reference["bytes"]
    assert chosen["runtime"] == "native"
    assert chosen["fits"]
    assert chosen["is_kept"]
    assert chosen["action_difference"]["largest"] >= chosen["action_difference"]["root_mean_square"] > 0
    assert reference["action_difference"]["largest"] == 0
    assert reference["gain"] == {"mean": 0, "low": 0, "high": 0}
    assert report["policy"] == str(run / "policy-raspberry-pi-zero-2w.safetensors")
    policy = load(report["policy"])
    assert [layer["connections"] for layer in chosen["layers"]] == [layer.connections for layer in policy.layers]
    assert json.loads((run / "fit-raspberry-pi-zero-2w.json").read_text()) == report


def test_budgets_that_are_given_hold_in_place_of_the_devices(edgerl: Run, run: Path) -> None:
    given = ("--budget-flash", "5KiB", "--budget-memory", "2KiB", "--budget-latency", "90us", "--rate", 500)
    options = ("--device", "stm32f405", "--min-return", -1000, "--episodes", 2, "--json")
    code, out, _ = edgerl("fit", run, *OWN, *options, *given)
    chosen = json.loads(out)["chosen"]
    assert code == 0
    assert [chosen[name]["budget"] for name in ("flash", "memory")] == [5120, 2048]
    assert chosen["latency"]["budget"] == pytest.approx(90)
    limits = {"budget_flash_bytes": 5120, "budget_memory_bytes": 2048, "budget_latency_seconds": 90e-6, "rate_hz": 500}
    again = profile(load(run / "policy-stm32f405.safetensors"), "stm32f405", **limits)  # type: ignore[arg-type]
    assert again.fits
    assert {name: verdict.used for name, verdict in again.verdicts.items()} == {
        name: chosen[name]["used"] for name in again.verdicts
    }


def test_students_are_chosen_among_and_trained_once(edgerl: Run, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "OPTIONS", {"updates": 30, "rounds": 2, "episodes": 2})
    options = ("--device", "stm32f405", "--min-return", -1000, "--episodes", 2, "--json", "--distill")
    code, out, err = edgerl("fit", run, *OWN, *options)
    assert code == 0
    assert "students that are not there yet take half a minute of a core each" in err
    report = json.loads(out)
    methods = {trial["method"] for trial in report["measured"]}
    assert "distilled, dense" in methods
    assert report["chosen"]["method"] in methods
    trained = {path: path.stat().st_mtime_ns for path in run.glob("students-*/*")}
    names = {"dense-16-16", "dense-12-12", "dense-8-8", "dense-4-4", "sparse-0.8-block-1", "sparse-0.9-block-4"}
    assert {path.name for path in trained} == {f"{name}.safetensors" for name in names}
    assert json.loads(edgerl("fit", run, *OWN, *options)[1]) == report
    assert {path: path.stat().st_mtime_ns for path in run.glob("students-*/*")} == trained


def test_a_student_that_is_stopped_is_gone_on_with(edgerl: Run, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[bool] = []

    def stopped(_source: Path, path: Path, *, resume: bool, **_options: Any) -> None:
        resumed.append(resume)
        path.with_name(f"{path.name}.part").write_bytes(b"so far")
        raise Interrupted("stopped after 1 of 2 updates; go on with the same and `resume`", 15)

    monkeypatch.setattr(students, "distill", stopped)
    for _ in range(2):
        code, out, err = edgerl("fit", run, *OWN, "--device", "stm32f405", "--distill", "--episodes", 2)
        assert (code, out) == (143, "")
        assert err.endswith("edgerl: stopped while a student was trained; the same command goes on from there\n")
    assert resumed == [False, True]
    assert not list(run.glob("policy-*"))


def test_a_budget_that_no_kept_return_meets_is_named(edgerl: Run, run: Path) -> None:
    device = board("tiny", memory_bytes=1050)  # room for 6 activations beside the runtime
    code, out, err = edgerl("fit", run, *OWN, "--device", device, "--max-loss", "0.5%", "--episodes", 5)
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("edgerl: no policy fits tiny and keeps the return: ")
    assert last.endswith("; students may do better: --distill")
    assert re.search(r" exceeds memory (1\.0 KiB of 1\.0 KiB|10\d\d B of 1050 B|1\.1 KiB of 1\.0 KiB);", last)
    assert "over memory" in out
    assert not (run / "policy-tiny.safetensors").exists()
    assert (run / "policy-tiny.png").exists()


def test_nothing_within_the_budgets(edgerl: Run, run: Path) -> None:
    code, out, err = edgerl("fit", run, *OWN, "--device", board("none", memory_bytes=1), "--episodes", 2, "--json")
    report = json.loads(out)
    assert code == 1
    assert (report["chosen"], report["best_in_budget"], report["policy"]) == (None, None, None)
    assert report["nearest_to_budget"]["memory"]["budget"] == 1
    assert "the best within" not in err


def test_a_return_out_of_reach(edgerl: Run, run: Path) -> None:
    code, _, err = edgerl("fit", run, *OWN, "--device", "stm32f405", "--min-return", 1000, "--episodes", 2)
    assert code == 1
    assert "policy reaches 1000.0 with confidence; allow a lower return, or more --episodes" in err


def test_an_output_elsewhere(edgerl: Run, run: Path) -> None:
    options = ("--device", "stm32f405", "--max-loss", "50%", "--episodes", 2, "-o", "small.safetensors")
    assert edgerl("fit", run, *OWN, *options)[0] == 0
    assert load("small.safetensors").n_actions == 2
    assert Path("small.png").read_bytes().startswith(PNG)
    assert not (run / "policy-stm32f405.safetensors").exists()
    Path("small.safetensors").unlink()
    code, _, err = edgerl("fit", run, *OWN, *options)
    assert code == 2
    assert "small.png exists already; pass --force to replace it, or write elsewhere" in err
    assert edgerl("fit", run, *OWN, *options, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "stm32f40"], "there is no device 'stm32f40'; did you mean stm32f405?"),
        (["--device", "esp32", "--max-loss", "3"], "the largest loss is 3; expected a share in (0, 1)"),
        (["--device", "esp32", "--max-loss", "-3%"], "--max-loss is '-3%'; expected a share, such as 3% or 0.03"),
        (["--device", "esp32", "--max-loss", "3%", "--min-return", "0"], "expected one of them"),
        (["--device", "esp32", "--episodes", "1"], "Invalid value for '--episodes'"),
        (["--device", "esp32", "--budget-memory", "1GiB"], "the memory budget is 1073741824 bytes; the device has "),
        (["--device", "esp32", "--budget-flash", "lots"], "--budget-flash is 'lots'; expected a number of bytes"),
        (["--device", "esp32", "--budget-latency", "5"], "--budget-latency is '5'; expected a time with its unit"),
        (["--device", "esp32", "--rate", "0"], "the rate is 0.0; expected 1e-09 to 1e+15"),
        (["--device", "esp32", "--observations", "none.npy"], "none.npy is not there"),
        (["--device", "esp32", "nowhere"], "nowhere is not there; expected a run folder"),
        (["--device", "esp32", "-o", "there"], "there exists already; pass --force to replace it, or write elsewhere"),
        (["--device", "esp32", "-o", "no/folder/p"], "cannot write no/folder/p: no/folder is not a folder"),
        (["--device", "esp32", "-o", "new.png"], "new.png is also the picture's name; choose another -o"),
        ([], "Missing option '--device'"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(edgerl: Run, run: Path, arguments: list[str], message: str) -> None:
    Path("there").write_text("mine")
    before = sorted(run.iterdir())
    code, out, err = edgerl("fit", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert sorted(run.iterdir()) == before
    assert sorted(path.name for path in Path().iterdir()) == ["runs", "there"]


def test_without_matplotlib_the_command_says_what_to_install(
    edgerl: Run, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = edgerl("fit", run, *OWN, "--device", "stm32f405")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "edgerl: matplotlib is not installed; run: pip install 'edgerl[report]'"
