"""edgerl profile, as typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerl import cli
from edgerl.compact.file import save
from edgerl.compact.policy import CompactPolicy, make_layer


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgerl", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose newest run holds a policy of 17-32-6."""
    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "runs" / "one"
    run_folder.mkdir(parents=True)
    (tmp_path / "runs" / "latest").symlink_to("one")
    sizes = ((17, 32), (32, 6))
    layers = tuple(make_layer(np.ones((m, n), np.float32), np.zeros(m, np.float32), 1) for n, m in sizes)
    policy = CompactPolicy(layers, -np.ones(6, np.float32), np.ones(6, np.float32))
    save(policy.with_example(np.zeros(17, np.float32)), run_folder / "policy.safetensors")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_newest_model_against_a_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", "--device", "jetson-nano") == 0
    out, err = capsys.readouterr()
    assert "using runs/one/policy.safetensors" in err
    assert "policy.safetensors (17-32-6) on NVIDIA Jetson Nano developer kit (4 GB)" in out
    assert "runtime onnxruntime, the default there: executes dense matrices; control rate 100 Hz" in out
    assert ["total", "736", "736", "1472", "3096"] in [line.split() for line in out.splitlines()]
    assert "(estimate, unvalidated)" in out
    assert "note: onnxruntime cannot be installed on jetson-nano as it is" in out
    assert "EXCEEDED" not in out


@pytest.mark.usefixtures("folder")
def test_json_has_the_documented_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", "runs/one", "--device", "stm32h743", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {"device", "runtime", "memory", "flash", "flops", "latency", "layers", "fits"} <= set(report)
    for name, unit in (("memory", "bytes"), ("flash", "bytes"), ("flops", "FLOP"), ("latency", "us")):
        assert set(report[name]) == {"used", "budget", "unit", "fits", "source"}
        assert (report[name]["unit"], report[name]["fits"]) == (unit, True)
    assert (report["device"], report["runtime"], report["fits"]) == ("stm32h743", "c", True)
    assert report["flops"]["used"] == 2 * (17 * 32 + 32 * 6)
    assert report["layers"][1] == {
        "inputs": 32,
        "outputs": 6,
        "connections": 192,
        "macs": 192,
        "flops": 384,
        "bytes": 4 * (192 + 6),
    }


@pytest.mark.usefixtures("folder")
def test_an_exceeded_budget_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--budget-memory", "1KiB", "--budget-flash", "64KiB", "--budget-flops", "1e3", "--budget-latency", "1s")
    assert run(monkeypatch, "profile", "--device", "stm32f405", *limits) == 1
    out, err = capsys.readouterr()
    assert out.count("EXCEEDED") == 2
    last = err.splitlines()[-1]
    assert last == (
        "edgerl: policy.safetensors does not fit stm32f405: memory 1.2 KiB of 1.0 KiB, FLOPs per inference 1472 of 1000"
    )


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("option", "budget", "label", "expected"),
    [
        ("--budget-memory", "1219", "memory", "1220 B of 1219 B"),  # 1024 of the runtime and 4 · (17 + 32)
        ("--budget-flops", "1471.6", "FLOPs per inference", "1472 of 1471.6"),  # 2 · (17 · 32 + 32 · 6)
        ("--budget-flops", "0.25", "FLOPs per inference", "1472 of 0.25"),
        # 736 multiply-adds · 9.495 / 0.394 cycles / 168 MHz
        ("--budget-latency", "1e-6ns", "latency", "≈ 105.6 µs (estimate, unvalidated) of 1e-09 µs"),
    ],
)
def test_an_exceeded_budget_never_looks_kept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    budget: str,
    label: str,
    expected: str,
) -> None:
    assert run(monkeypatch, "profile", "--device", "stm32f405", option, budget) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].endswith(f": {label} {expected}")
    row = next(" ".join(line.split()) for line in out.splitlines() if line.rstrip().endswith("EXCEEDED"))
    used, limit = expected.split(" of ")
    assert row.startswith(f"{label} {used.split(' (')[0]} ")  # a narrow terminal folds what follows
    assert row.endswith(f" {limit} EXCEEDED")


@pytest.mark.usefixtures("folder")
def test_nearly_equal_latencies_are_printed_exactly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "profile", "--device", "stm32f405", "--json") == 0
    used = json.loads(capsys.readouterr().out)["latency"]["used"]
    assert run(monkeypatch, "profile", "--device", "stm32f405", "--budget-latency", f"{used - 0.001:.9f}us") == 1
    err = capsys.readouterr().err
    assert f"latency ≈ {used} µs (estimate, unvalidated) of {f'{used - 0.001:.9f}'[:9]}" in err


@pytest.mark.usefixtures("folder")
def test_rate_and_runtime(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", "--device", "pi5", "--rate", "200", "--runtime", "native") == 0
    out = capsys.readouterr().out
    assert "runtime native: executes what is stored; control rate 200 Hz" in out
    assert "the engine chooses on the device how it keeps each layer" in out
    assert "yet" not in out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "jetson-nanno"), "there is no device 'jetson-nanno'; did you mean jetson-nano?"),
        (("--device", "none.toml"), "none.toml is not there; expected a file"),
        (("--device", "esp32", "--runtime", "onnxruntime"), "onnxruntime cannot run on esp32"),
        (("--device", "esp32", "--budget-memory", "64Kib"), "--budget-memory is '64Kib'; expected a number of bytes"),
        (("--device", "esp32", "--budget-flash", ""), "--budget-flash is ''; expected a number of bytes"),
        (("--device", "esp32", "--budget-latency", "500"), "--budget-latency is '500'; expected a time with its unit"),
        (("--device", "esp32", "--budget-flops", "lots"), "--budget-flops is 'lots'; expected a number"),
        (("--device", "esp32", "--rate", "-1"), "the rate is -1.0; expected 1e-09 to 1e+15"),
        (("missing.onnx", "--device", "esp32"), "missing.onnx is not there"),
        ((), "Missing option '--device'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(monkeypatch, "profile", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_damaged_models_are_one_line_and_exit_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = (folder / "runs" / "one" / "policy.safetensors").read_bytes()
    for name, data, message in (
        ("short.safetensors", policy[:-3], "short.safetensors is no edgerl tensor file, or is truncated"),
        ("garbage.onnx", b"garbage", "garbage.onnx is no ONNX file, or is truncated"),
        ("policy.zip", b"PK", "policy.zip is neither a .safetensors policy nor an .onnx model"),
    ):
        (folder / name).write_bytes(data)
        assert run(monkeypatch, "profile", name, "--device", "esp32") == 2
        err = capsys.readouterr().err
        assert err.startswith(f"edgerl: {message}")
        assert err.count("\n") == 1
