"""edgerl devices, as typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edgerl import cli

SHIPPED = Path(__file__).parents[2] / "device_profiles"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgerl", "devices", *arguments])
    with pytest.raises(SystemExit) as left:
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
    assert any(line.split() == ["cpu.clock_mhz", "1479", "sbc-bench;", "10", "W", "mode"] for line in out.splitlines())
    assert "onnxruntime: not available: the stock image" in out


def test_show_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "show", "stm32f405", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["quantities"]["cpu.clock_mhz"] == {"value": 168, "source": "vendor datasheet"}


def test_validate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = (SHIPPED / "esp32.toml").read_text(encoding="utf-8")
    (tmp_path / "good.toml").write_text(good, encoding="utf-8")
    (tmp_path / "bad.toml").write_text(good.replace("clock_mhz", "clock", 1), encoding="utf-8")
    assert run(monkeypatch, "validate", str(tmp_path / "good.toml")) == 0
    assert capsys.readouterr().out.endswith("good.toml: valid, Espressif ESP32 (4 MB flash)\n")
    assert run(monkeypatch, "validate", str(tmp_path / "good.toml"), str(tmp_path / "bad.toml")) == 2
    assert capsys.readouterr().err.endswith("bad.toml: cpu.clock has no unit; expected the key clock_mhz\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
