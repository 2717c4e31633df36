"""edgerl profile, as typed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgerl import cli
from edgerl.cli.support.profile_formats import _used_and_budget
from edgerl.commands.export import export_policy
from edgerl.policy.compact import CompactPolicy, make_layer
from edgerl.policy.format import save
from edgerl.profiling.budgets.report import Estimate
from tests import streams
from tests.foreign import write_actor
from tests.tables import table_lines


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgerl", *arguments])
    with pytest.raises(SystemExit) as left, streams.put_back():
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
    assert run(monkeypatch, "profile", "--device", "raspberry-pi-4b") == 0
    out, err = capsys.readouterr()
    assert "using runs/one/policy.safetensors" in err
    assert "policy.safetensors (17-32-6) on Raspberry Pi 4 Model B" in out
    assert "runtime onnxruntime, the default there: executes dense matrices; control rate 100 Hz" in out
    assert ["total", "736", "736", "1472", "3096"] in [line.split() for line in out.splitlines()]
    assert "≈ 31 µs (unvalidated)" in out  # 26 a call, 2.2 each of two layers, 736 · 0.3333 ns
    assert "EXCEEDED" not in out


@pytest.mark.parametrize("arguments", [(), ("runs/one",)])
def test_a_run_means_its_policy_however_new_an_export_is(
    folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are known, unlike those of an ONNX file; an ONNX file without a policy is accepted."""
    path = folder / "runs/one/policy.onnx"
    export_policy(folder / "runs/one", "onnx", path)
    os.utime(path, (1 << 33, 1 << 33))
    command = ("profile", *arguments, "--device", "stm32h743", "--runtime", "c")
    assert run(monkeypatch, *command) == 0
    out, err = capsys.readouterr()
    assert err == f"using {Path('runs/one/policy.safetensors')}\n"
    assert "the weights are not known" not in out
    path.with_suffix(".safetensors").unlink()
    run(monkeypatch, *command)
    assert capsys.readouterr().err.startswith(f"using {Path('runs/one/policy.onnx')}\n")


@pytest.mark.usefixtures("folder")
def test_json_has_the_documented_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", "runs/one", "--device", "stm32h743", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {"device", "runtime", "memory", "flash", "flops", "latency", "layers", "fits"} <= set(report)
    for name, unit in (("memory", "bytes"), ("flash", "bytes"), ("flops", "FLOP"), ("latency", "us")):
        added = {"uncertainty", "interval"} if name == "latency" else set()
        assert set(report[name]) == {"used", "budget", "unit", "fits", "source", "budget_source", "parts"} | added
        assert (report[name]["unit"], report[name]["fits"]) == (unit, True)
    assert (report["device"], report["runtime"], report["fits"]) == ("stm32h743", "c", True)
    assert report["flash"]["parts"][1] == {"name": "model", "amount": report["model_bytes"], "source": None}
    assert report["memory_parts"] == {part["name"]: part["amount"] for part in report["memory"]["parts"]}
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
        ("--budget-latency", "1e-6ns", "latency", "≈ 82 µs (±250 %) of 1e-09 µs"),
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


@pytest.mark.parametrize(
    ("used", "budget", "uncertainty", "expected"),
    [
        (81.6, 81.5, None, ("≈ 82 µs (unvalidated)", "81.5 µs")),
        (82.4, 82.3, 0.25, ("≈ 82.4 µs (±25 %)", "82.3 µs")),  # 82 would look kept
        (0.0123, 0.0122, 0.25, ("≈ 0.0123 µs (±25 %)", "0.0122 µs")),
        (4321.0, 5000.0, 1.6, ("≈ 4.3 ms (±160 %)", "5.0 ms")),
        (1234567.0, 2e6, 0.125, ("≈ 1.2 s (±12 %)", "2.0 s")),
    ],
)
def test_estimates_have_no_more_digits_than_they_need(
    used: float, budget: float, uncertainty: float | None, expected: tuple[str, str]
) -> None:
    assert _used_and_budget(Estimate(used, budget, "us", "x", "y", uncertainty)) == expected


@pytest.mark.usefixtures("folder")
def test_rate_and_runtime(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", "--device", "pi5", "--rate", "200", "--runtime", "native") == 0
    out = capsys.readouterr().out
    assert "runtime native: executes what is stored; control rate 200 Hz" in out
    assert "the engine chooses each layer's layout on the device" in out
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
        (("--device", "jetson-nano", "--mode", "6W"), "jetson-nano has no mode '6W'; choose one of 5W"),
        (("--device", "esp32", "--density", ".1"), "--density and --block describe a --network; name one"),
        (("--device", "esp32", "--network", "13"), "the network is '13'; expected layer widths, as in 13-64-64-4"),
        (
            ("--device", "esp32", "--network", "3-4-1", "--density", "2"),
            "the density is 2.0; expected a number above 0",
        ),
        (("--device", "esp32", "--network", "3-4-1", "--block", "3"), "the block is 3; expected 1 or 4"),
        (("runs/one", "--device", "esp32", "--network", "3-4-1"), "both runs/one and --network 3-4-1 are given"),
        (("--device", "esp32", "--format", "html"), "--format is 'html'; expected one of text, markdown, junit"),
        (("--device", "esp32", "--format", "junit", "--json"), "--format is 'junit'; expected only --json"),
        (("--device", "esp32", "--device", "esp33"), "there is no device 'esp33'; did you mean esp32?"),
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


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("device", "runtime", "fix"),
    [
        ("stm32f405", None, "stm32f405 has none; for a policy of edgerl of that size: --network 3-8-1"),
        ("stm32f405", None, "make a policy of it, which all can run: edgerl import"),
        ("jetson-orin-nano", "native", "choose --runtime onnxruntime"),
        ("jetson-orin-nano", "c", "choose --runtime onnxruntime"),
        ("beaglebone-black", None, "beaglebone-black has none"),  # native is its default, onnxruntime has no wheel
    ],
)
def test_what_cannot_run_there_never_fits(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    device: str,
    runtime: str | None,
    fix: str,
) -> None:
    write_actor(Path("ppo.onnx"))
    chosen = () if runtime is None else ("--runtime", runtime)
    assert run(monkeypatch, "profile", "ppo.onnx", "--device", device, *chosen) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "cannot run ppo.onnx: it was not written by edgerl, and only onnxruntime can run such a file" in err
    assert fix in err
    assert run(monkeypatch, "profile", "ppo.onnx", "--device", "jetson-orin-nano") == 0
    assert "EXCEEDED" not in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("form", ["text", "markdown"])
@pytest.mark.parametrize("more", [(), ("--device", "jetson-nano")])
def test_an_estimate_says_what_its_error_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str, more: tuple[str, ...]
) -> None:
    meaning = "±x %: nine in ten latencies lie between estimate / (1 + x) and estimate · (1 + x)"
    assert run(monkeypatch, "profile", "--device", "stm32f405", *more, "--format", form) == 0
    out = capsys.readouterr().out
    assert "(±250 %)" in out  # docs/devices.md: generated C where at most one point is of this device
    assert out.count(meaning) == 1
    assert run(monkeypatch, "profile", "--device", "jetson-nano", "--format", form) == 0
    assert meaning not in capsys.readouterr().out  # unvalidated


@pytest.mark.usefixtures("folder")
def test_an_export_of_edgerl_is_priced_for_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    export_policy(Path("runs/one"), "onnx", Path("policy.onnx"))
    assert run(monkeypatch, "profile", "policy.onnx", "--device", "stm32f405") == 0
    assert run(monkeypatch, "profile", "policy.onnx", "--device", "jetson-orin-nano", "--runtime", "native") == 0


NETWORK = ("--network", "17-64-64-6")


def test_several_devices_are_one_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    devices = ("stm32h743", "rp2040", "raspberry-pi-zero-2w")
    assert run(monkeypatch, "profile", *NETWORK, *(word for name in devices for word in ("--device", name))) == 1
    out, err = capsys.readouterr()
    lines = [" ".join(line.split()) for line in out.splitlines()]
    begin = [
        lines.index(line)
        for line in ("stm32h743 (c) fits", "rp2040 (c) EXCEEDED", "raspberry-pi-zero-2w (onnxruntime) fits")
    ]
    labels = ["memory", "flash", "FLOPs per inference", "latency"]
    for at in begin:
        assert all(line.startswith(label) for line, label in zip(lines[at + 1 :], labels, strict=False))
    assert lines[begin[1] + 3] == "FLOPs per inference 11136 1882 EXCEEDED"
    assert max(map(len, table_lines(out))) <= 80
    assert "network 17-64-64-6 does not fit rp2040: FLOPs per inference 11136 of 1882, latency ≈" in err
    assert "stm32h743" not in err


def test_several_devices_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", *NETWORK, "--device", "nano", "--device", "pi5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [report["device"] for report in found["reports"]] == ["jetson-nano", "raspberry-pi-5"]
    assert found["fits"] is True


def test_markdown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--device", "stm32h743", "--device", "rp2040", "--format", "markdown")
    assert run(monkeypatch, "profile", *NETWORK, *arguments) == 1
    title, empty, header, rule, *rows, _, meaning = capsys.readouterr().out.splitlines()
    assert meaning.startswith("±x %: nine in ten")
    assert (title, empty) == ("**network 17-64-64-6** (17-64-64-6)", "")
    assert header == "| device | memory | flash | FLOPs per inference | latency | verdict |"
    assert rule == "| --- | ---: | ---: | ---: | ---: | --- |"
    assert [row.split(" | ")[0] for row in rows] == ["| stm32h743 (c)", "| rp2040 (c)"]
    assert [row.split(" | ")[-1] for row in rows] == ["fits |", "EXCEEDED |"]


def test_junit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--device", "stm32h743", "--device", "rp2040", "--format", "junit")
    assert run(monkeypatch, "profile", *NETWORK, *arguments) == 1
    suites = ElementTree.fromstring(capsys.readouterr().out)
    assert [suite.get("name") for suite in suites] == ["stm32h743 (c)", "rp2040 (c)"]
    assert [(suite.get("tests"), suite.get("failures")) for suite in suites] == [("4", "0"), ("4", "2")]
    names = ["memory", "flash", "FLOPs per inference", "latency"]
    assert [case.get("name") for case in suites[1]] == names
    failures = {case.get("name"): case.find("failure") for case in suites[1]}
    assert [name for name, failure in failures.items() if failure is not None] == names[2:]
    failure = failures["FLOPs per inference"]
    assert failure is not None
    assert failure.get("message") == "FLOPs per inference 11136 of 1882"
    assert (failure.text or "").startswith("used: exact, 2 per multiply-add")


def test_a_runtime_that_is_not_available_never_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nano = ("--device", "jetson-nano", "--runtime", "onnxruntime")
    assert run(monkeypatch, "profile", *NETWORK, *nano) == 1
    out, err = capsys.readouterr()
    assert (out.count("not available"), out.count(" fits")) == (4, 0)
    assert "note: onnxruntime cannot be installed on jetson-nano as it is: the stock image" in out
    assert err == "edgerl: network 17-64-64-6 does not fit jetson-nano: onnxruntime is not available there\n"

    assert run(monkeypatch, "profile", *NETWORK, *nano, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["is_available"], report["fits"]) == (False, False)

    assert run(monkeypatch, "profile", *NETWORK, *nano, "--device", "raspberry-pi-5", "--format", "markdown") == 1
    verdicts = [line.split(" | ")[-1] for line in capsys.readouterr().out.splitlines() if "onnxruntime" in line]
    assert verdicts == ["not available |", "fits |"]

    assert run(monkeypatch, "profile", *NETWORK, *nano, "--format", "junit") == 1
    (suite,) = ElementTree.fromstring(capsys.readouterr().out)
    assert (suite.get("tests"), suite.get("failures")) == ("5", "1")
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "onnxruntime is not available there"


@pytest.mark.usefixtures("folder")
def test_a_name_cannot_break_a_format(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/one/policy.safetensors").rename('<a|b>&".safetensors')
    assert run(monkeypatch, "profile", '<a|b>&".safetensors', "--device", "stm32h743", "--format", "junit") == 0
    suites = ElementTree.fromstring(capsys.readouterr().out)
    assert suites[0][0].get("classname") == '<a|b>&".safetensors on stm32h743'


def test_a_power_mode(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "profile", *NETWORK, "--device", "jetson-nano", "--mode", "5w") == 0
    assert "on NVIDIA Jetson Nano developer kit (4 GB), mode 5W" in capsys.readouterr().out


def test_damaged_models_are_one_line_and_exit_code_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = (folder / "runs" / "one" / "policy.safetensors").read_bytes()
    for name, data, message in (
        ("short.safetensors", policy[:-3], "short.safetensors is not an edgerl tensor file, or is truncated"),
        (
            "garbage.onnx",
            b"garbage",
            "garbage.onnx is a text file; expected a policy.safetensors (edgerl import makes one), or an ONNX model",
        ),
        (
            "policy.zip",
            b"PK",
            "policy.zip is a text file; expected a policy.safetensors (edgerl import makes one), or an ONNX model",
        ),
    ):
        (folder / name).write_bytes(data)
        assert run(monkeypatch, "profile", name, "--device", "esp32") == 2
        err = capsys.readouterr().err
        assert err.startswith(f"edgerl: {message}")
        assert err.count("\n") == 1
