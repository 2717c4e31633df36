"""edgerl devices, as typed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgerl import cli
from edgerl.commands.devices import show_device
from edgerl.policy.format import save
from edgerl.profiling.budgets.device import parse_device
from edgerl.profiling.budgets.report import profile
from tests import streams
from tests.policy.policies import random_policy
from tests.profiling.machine import SERVER, KnownMachine, fake_linux

SHIPPED = Path(__file__).parents[2] / "device_profiles"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgerl", "devices", *arguments])
    with pytest.raises(SystemExit) as left, streams.put_back():
        cli.main()
    return int(left.value.code or 0)


def test_list(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list") == 0
    out = capsys.readouterr().out
    assert all(path.stem in out for path in SHIPPED.glob("*.toml"))
    assert "Cortex-A57" in out


def test_list_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list", "--json") == 0
    devices = {device["id"]: device for device in json.loads(capsys.readouterr().out)["devices"]}
    assert set(devices) == {path.stem for path in SHIPPED.glob("*.toml")}
    assert devices["esp32"]["runtimes"]["onnxruntime"]["available"] is False


def test_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "show", "nano") == 0
    out = capsys.readouterr().out
    assert out.startswith("jetson-nano: NVIDIA Jetson Nano developer kit (4 GB)\n")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[lines.index("cpu.clock_mhz 1479") + 1] == "sbc-bench; 10 W mode"
    assert max(len(line) for line in out.splitlines() if line.startswith("    ")) <= 80
    assert "onnxruntime: not available: the stock image" in out


@pytest.mark.parametrize("name", ["raspberry-pi-4", "stm32f405", "teensy-4.1"])
def test_a_profile_to_start_from_gives_the_same_figures(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "show", name, "--toml") == 0
    Path("board.toml").write_text(capsys.readouterr().out)
    network = Path("policy.safetensors")
    save(random_policy(0, (17, 64, 64, 6), density=0.2), network)
    assert profile(network, "board.toml") == replace(profile(network, name), device="board")
    assert run(monkeypatch, "show", "board.toml", "--toml") == 0
    assert capsys.readouterr().out == Path("board.toml").read_text()


def test_every_profile_is_one_to_start_from() -> None:
    for path in SHIPPED.glob("*.toml"):
        shown = show_device(path.stem)
        own = parse_device(shown.toml.encode(), "board", "board.toml")
        assert replace(own, id=path.stem, same_chip_as=shown.device.same_chip_as) == shown.device
        assert own.chip == shown.device.chip


def test_one_form_at_a_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "show", "stm32f405", "--toml", "--json") == 2
    assert "--toml and --json print one thing each; choose one" in capsys.readouterr().err


def test_show_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "show", "stm32f405", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["quantities"]["cpu.clock_mhz"] == {"value": 168, "source": "vendor datasheet"}
    assert shown["quantities"]["cpu.fp32_cycles_per_multiply_add"]["value"] == 9.495
    assert shown["quantities"]["runtimes.c.sparse_block_1_cost_ratio"]["value"] == 1.3
    assert run(monkeypatch, "show", "jetson-nano", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["quantities"]["modes.5W.clock_mhz"]["value"] == 918
    assert shown["quantities"]["runtimes.native.sparse_input_overhead_ns"]["value"] == 10.14


def test_show_names_the_file_to_copy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By an alias, as JSON, and of a profile of one's own; a copy of it is valid."""
    assert run(monkeypatch, "show", "pico") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("profile ")]
    shipped = Path(line.removeprefix("profile "))
    assert shipped.name == "rp2040.toml"
    own = tmp_path / "my.toml"
    own.write_bytes(shipped.read_bytes())
    assert run(monkeypatch, "show", str(own), "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(own)
    assert run(monkeypatch, "validate", str(own)) == 0


def test_validate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = (SHIPPED / "esp32.toml").read_text(encoding="utf-8")
    (tmp_path / "good.toml").write_text(good, encoding="utf-8")
    (tmp_path / "bad.toml").write_text(good.replace("clock_mhz", "clock", 1), encoding="utf-8")
    assert run(monkeypatch, "validate", str(tmp_path / "good.toml")) == 0
    assert capsys.readouterr().out.endswith("good.toml: valid, Espressif ESP32 (4 MB flash)\n")
    assert run(monkeypatch, "validate", str(tmp_path / "good.toml"), str(tmp_path / "bad.toml")) == 2
    assert capsys.readouterr().err.endswith("bad.toml: cpu.clock has no unit; expected the key clock_mhz\n")


POINTS = Path(__file__).parents[2] / "benchmarks/published_latencies.jsonl"


def test_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "evaluate", str(POINTS)) == 0
    out = capsys.readouterr().out
    assert sum("tuned-kernels" in line for line in out.splitlines()) == 22 + 1  # every point, and their summary
    assert out.count("left out: ") == 3
    assert any(line.split()[:2] == ["interpreter", "44"] for line in out.splitlines())
    assert "\nthe model was fitted to 72 published points; of those it knows, errors flatter it\n" in out


def test_evaluate_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    point = {"runtime_class": "interpreter", "net": "30-10-2", "precision": "fp32", "latency_us": 5.16}
    unknown = {**point, "device_id": "my-board", "cpu": "Cortex-M7", "mhz": 600}
    lines = [json.dumps({**point, "device_id": "teensy-4.0"}), json.dumps(unknown)]
    (tmp_path / "points.jsonl").write_text("\n".join(lines))
    assert run(monkeypatch, "evaluate", str(tmp_path / "points.jsonl"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"]["interpreter"]["points"] == 2
    known, guessed = found["points"]
    assert (known["predicted_from"], guessed["predicted_from"]) == ("profile", "cpu")
    assert known["error"] == pytest.approx(known["predicted_us"] / 5.16 - 1)
    assert known["interval"][0] < known["predicted_us"] < known["interval"][1]
    assert guessed["uncertainty"] > known["uncertainty"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> KnownMachine:
    """Calibration's clock does not depend on this one."""
    known = KnownMachine()
    known.install(monkeypatch)
    return known


@pytest.mark.usefixtures("machine")
def test_calibrate_writes_a_profile_that_profile_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "linux").mkdir()
    fake_linux(tmp_path / "linux", monkeypatch, SERVER)
    path = tmp_path / "my-board.toml"
    assert run(monkeypatch, "calibrate", "-o", str(path)) == 0
    out, err = capsys.readouterr()
    assert f'{path}: This machine, Some CPU "X"\n' in out
    assert ["native", "call_overhead_us", "0.8"] in [line.split() for line in out.splitlines()]
    assert ["onnxruntime", "error_ratio", "0.15"] in [line.split() for line in out.splitlines()]
    assert "timing networks" in err
    assert run(monkeypatch, "validate", str(path)) == 0
    assert run(monkeypatch, "calibrate", "-o", str(path)) == 2
    assert "my-board.toml exists already; pass --force to replace it" in capsys.readouterr().err


def test_a_disturbed_calibration_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, machine: KnownMachine
) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text("what was there")
    machine.native["layer_overhead_us"] = -1
    assert run(monkeypatch, "calibrate", "-o", str(path), "--force") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == (
        "edgerl: the times of native: layer_overhead_us came out as zero: something disturbed them, and no profile "
        "was written; end other programs, and run the same command again"
    )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "what was there"


def test_calibrate_on_this_very_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whatever else it does: then there is a profile, or the line that asks for another attempt."""
    from edgerl.profiling.measuring import calibrate

    for name, value in (("WIDTHS", (16, 96)), ("ROUNDS", 3), ("WIDEST", 256)):
        monkeypatch.setattr(calibrate, name, value)
    path = tmp_path / "my-board.toml"
    code = run(monkeypatch, "calibrate", "-o", str(path))
    assert code == 0 or "end other programs, and run the same command again" in capsys.readouterr().err
    assert code == (0 if path.exists() else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "missing.jsonl"), "missing.jsonl is not there; expected a file"),
        (("calibrate", "-o", "board.json"), "--output is 'board.json'; expected a name that ends in .toml"),
        (("calibrate",), "Missing option '--output'"),
        (("show", "stm32f4055"), "there is no device 'stm32f4055'; did you mean stm32f405?"),
        (("validate", "missing.toml"), "missing.toml is not there; expected a file"),
        (("validate",), "Missing argument 'FILE.toml...'"),
        (("sho",), "No such command 'sho'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
