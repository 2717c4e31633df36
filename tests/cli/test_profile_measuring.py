"""edgerl profile --measure, --bundle, --ssh, --import and --save, as typed."""

from __future__ import annotations

import json
import platform
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib

from edgerl.commands.export import export_policy
from edgerl.policy.format import save
from edgerl.profiling.budgets.device import load_device
from edgerl.profiling.measuring import measure
from edgerl.profiling.measuring.measure import policy_identity
from edgerl.profiling.measuring.measurement import benchmark_observations
from tests.board import Board, running_board
from tests.policy.policies import random_policy
from tests.profiling.measurements import c_result, document, profile_of_this_machine
from tests.tables import table_lines

Run = Callable[..., tuple[int, str, str]]

POLICY = random_policy(0, (5, 16, 16, 3))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM_UP_NS", 10**7), ("MEASURED_NS", 3 * 10**7), ("MOST_EVICTED", 8 << 20)):
        monkeypatch.setattr(measure, name, value)


@pytest.fixture(autouse=True)
def _model(tmp_path: Path) -> None:
    """A policy and its ONNX file, and the profile of this machine."""
    save(POLICY, tmp_path / "policy.safetensors")
    export_policy(tmp_path / "policy.safetensors", "onnx", tmp_path / "policy.onnx")
    profile_of_this_machine(tmp_path / "here.toml")


def nano_result(**changes: Any) -> bytes:
    """What a Jetson Nano would have measured of the policy."""
    result = c_result(POLICY, benchmark_observations(POLICY)[:8])
    result["policy_sha256"] = policy_identity(Path("policy.safetensors"))
    return document({**result, **changes})


def row(out: str, name: str) -> list[str]:
    """The cells of the row that begins with `name`, which goes on in further tables where one has too little room."""
    rows = [line.split() for line in table_lines(out) if line.split()[:1] == [name]]
    return [name, *(cell for row in rows for cell in row[1:])]


def test_measured_here_without_a_device(edgerl: Run) -> None:
    code, out, err = edgerl("profile", "policy.safetensors", "--measure")
    assert (code, err) == (0, "")
    assert f"({platform.machine()}, Linux " in out
    for runtime in ("native", "onnxruntime"):
        cells = row(out, runtime)
        assert cells[2] in ("µs", "ms")
        assert len(cells) == 11, "five durations with their units"
    assert "actions differ by" in out
    assert "verdict" not in out


@pytest.mark.parametrize("model", ["policy.safetensors", "policy.onnx"])
def test_json_without_a_device_is_the_result(edgerl: Run, model: str) -> None:
    code, out, _ = edgerl("profile", model, "--measure", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["model"], report["policy_sha256"]) == (model, policy_identity(Path("policy.safetensors")))
    assert [measured["runtime"] for measured in report["measurements"]] == ["native", "onnxruntime"]
    assert all(measured["largest_difference"] <= 1e-5 for measured in report["measurements"])
    assert report["counts_for"] is None


def test_a_policy_without_an_onnx_file_is_exported_for_the_measurement(edgerl: Run) -> None:
    Path("policy.onnx").unlink()
    code, out, _ = edgerl("profile", "policy.safetensors", "--measure", "--json")
    assert code == 0
    assert [measured["runtime"] for measured in json.loads(out)["measurements"]] == ["native", "onnxruntime"]
    assert not Path("policy.onnx").exists()


def test_the_measurement_stands_beside_the_estimate_and_in_the_verdict(edgerl: Run) -> None:
    arguments = ("profile", "policy.safetensors", "--device", "here.toml", "--runtime", "native")
    estimated = json.loads(edgerl(*arguments, "--json")[1])["latency"]["used"]
    code, out, _ = edgerl(*arguments, "--measure", "--json")
    report = json.loads(out)
    assert code == 0
    native = report["measured"]["measurements"][0]
    assert report["latency"]["used"] == native["p50_ns"] / 1e3
    assert report["latency"]["estimated"] == native["estimated_us"] == estimated
    assert report["latency"]["source"].startswith("measured: median of ")
    assert report["latency"]["budget_source"].startswith("0.25 of the period at 100 Hz (")
    assert report["measured"]["counts_for"] == "here"
    _, out, _ = edgerl(*arguments, "--measure")
    assert row(out, "latency")[3] == "(measured)"
    assert row(out, "native")[11] == "≈"
    assert row(out, "native")[-1] == "%"


def test_a_measured_latency_over_its_budget_is_exit_code_1(edgerl: Run) -> None:
    arguments = ("--device", "here.toml", "--measure", "--budget-latency", "1ns")
    code, out, err = edgerl("profile", "policy.safetensors", *arguments)
    assert code == 1
    assert "EXCEEDED" in out
    assert err.startswith("edgerl: policy.safetensors does not fit here: latency ")
    assert "(measured) of" in err


def test_another_architecture_does_not_count(edgerl: Run) -> None:
    code, out, _ = edgerl("profile", "policy.safetensors", "--measure", "--device", "stm32h743")
    assert code == 0
    machine = platform.machine()
    assert f"note: {machine} is not the architecture of stm32h743: the verdict is on the estimate" in out
    assert row(out, "latency")[1] == "≈"
    assert row(out, "onnxruntime")[-2:] == ["–", "–"]
    code, _, err = edgerl("profile", "policy.safetensors", "--measure", "--device", "stm32h743", "--save", "my.toml")
    assert (code, err) == (
        2,
        f"edgerl: what was measured on {machine} is not a figure of stm32h743, which is armv7e-m; name the device that "
        "it was measured on\n",
    )
    assert not Path("my.toml").exists()


def test_an_imported_result_stands_in_the_report_and_is_saved(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    arguments = ("profile", "policy.safetensors", "--device", "jetson-nano", "--runtime", "c")
    code, out, err = edgerl(*arguments, "--import", "result.json", "--save", "my-nano.toml")
    assert (code, err) == (0, "my-nano.toml: latencies measured: 1; profile with it: --device my-nano.toml\n")
    where = (
        "NVIDIA Jetson Nano Developer Kit (aarch64, Linux 4.9.253-tegra, processor 3 at 1479 MHz, governor schedutil)"
    )
    assert f"measured on {where}" in out
    assert row(out, "latency")[1:4] == ["5.0", "µs", "(measured)"]
    assert row(out, "c")[:11] == ["c", "5", "µs", "9", "µs", "10", "µs", "10", "µs", "31", "µs"]

    assert edgerl("devices", "validate", "my-nano.toml")[0] == 0
    shipped = (Path(load_device.__code__.co_filename).parents[3] / "device_profiles/jetson-nano.toml").read_text()
    text = Path("my-nano.toml").read_text()
    assert text.startswith(shipped.rstrip())
    (saved,) = tomllib.loads(text)["measured"]
    assert (saved["runtime"], saved["model"]) == ("c", "5-16-16-3")
    assert saved["policy_sha256"] == policy_identity(Path("policy.safetensors"))
    assert saved["latency_us"]["source"].startswith(
        f"measured: median of 10 calls, c (baseline; dense dense), GCC 12.2.0, on {where}, 20"
    )
    values = {key: quantity["value"] for key, quantity in saved.items() if key.startswith("latency")}
    assert values == {
        "latency_us": 5.0,
        "latency_p99_us": 10.0,
        "latency_max_us": 10.0,
        "latency_cold_us": 31.0,
    }


def test_where_the_runtime_was_not_measured_the_report_says_so(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    code, out, _ = edgerl("profile", "policy.safetensors", "--device", "raspberry-pi-4b", "--import", "result.json")
    assert code == 0
    assert "note: onnxruntime was not measured: the verdict is on its estimate; choose --runtime c\n" in out
    assert row(out, "latency")[1] == "≈"


def test_a_measurement_in_a_power_mode_is_kept_for_that_mode(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    arguments = ("profile", "policy.safetensors", "--runtime", "c", "--json", "--device")
    imported = ("--import", "result.json", "--save", "my.toml")
    report = json.loads(edgerl(*arguments, "jetson-nano", "--mode", "5w", *imported)[1])
    assert report["device_name"].endswith("mode 5W")
    assert report["latency"]["used"] == 5.0
    assert load_device(Path("my.toml")).measured[0].mode == "5W"
    in_mode = json.loads(edgerl(*arguments, "my.toml", "--mode", "5W")[1])["latency"]
    default = json.loads(edgerl(*arguments, "my.toml")[1])["latency"]
    assert in_mode["used"] == 5.0
    assert "estimated" not in default
    assert in_mode["estimated"] > default["used"], "a slower clock"


def test_the_measured_latency_is_in_every_format(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    arguments = (
        "profile",
        "policy.safetensors",
        "--device",
        "jetson-nano",
        "--runtime",
        "c",
        "--import",
        "result.json",
    )
    code, out, err = edgerl(*arguments, "--format", "markdown")
    assert (code, err) == (0, "")
    assert "| 5.0 µs (measured) of 2.5 ms |" in out
    assert "measured on" not in out
    code, out, _ = edgerl(*arguments, "--format", "junit", "--budget-latency", "4us")
    assert code == 1
    assert "5.0 µs (measured) of 4.0 µs" in out


def test_a_saved_measurement_takes_the_place_of_the_estimate_of_that_policy_and_runtime(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    edgerl("profile", "policy.onnx", "--device", "jetson-nano", "--import", "result.json", "--save", "my-nano.toml")
    for model in ("policy.safetensors", "policy.onnx"):
        report = json.loads(edgerl("profile", model, "--device", "my-nano.toml", "--runtime", "c", "--json")[1])
        assert report["latency"]["used"] == 5.0
        assert "median of 10 calls" in report["latency"]["source"]
        assert report["latency"]["budget_source"].startswith("0.25 of the period")
    arguments = ("--device", "my-nano.toml", "--runtime", "native", "--json")
    report = json.loads(edgerl("profile", "policy.safetensors", *arguments)[1])
    assert report["latency"]["source"].startswith("estimate"), "another runtime"
    save(random_policy(9, (5, 16, 16, 3)), Path("other.safetensors"))
    arguments = ("--device", "my-nano.toml", "--runtime", "c", "--json")
    assert "estimated" not in json.loads(edgerl("profile", "other.safetensors", *arguments)[1])["latency"]


def test_a_profile_is_updated_in_place_and_another_file_only_by_force(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    arguments = ("profile", "policy.safetensors", "--import", "result.json", "--save", "my-nano.toml", "--device")
    assert edgerl(*arguments, "jetson-nano")[0] == 0
    code, _, err = edgerl(*arguments, "jetson-nano")
    assert (code, err) == (
        2,
        "edgerl: my-nano.toml exists already; pass --force to replace it, or write elsewhere\n",
    )
    assert edgerl(*arguments, "jetson-nano", "--force")[0] == 0
    other = random_policy(4, (5, 16, 16, 3))
    save(other, Path("other.safetensors"))
    result = c_result(other, benchmark_observations(other)[:8])
    Path("result.json").write_bytes(document({**result, "policy_sha256": policy_identity(other)}))
    code, _, err = edgerl(
        *("profile", "other.safetensors", "--device", "my-nano.toml", "--import", "result.json"),
        *("--save", "my-nano.toml"),
    )
    assert (code, err) == (0, "my-nano.toml: latencies measured: 2; profile with it: --device my-nano.toml\n")
    assert [m.policy_sha256 for m in load_device(Path("my-nano.toml")).measured] == [
        policy_identity(POLICY),
        policy_identity(other),
    ]


def test_a_profile_whose_measurements_are_not_at_its_end_is_not_rewritten(edgerl: Run) -> None:
    Path("result.json").write_bytes(nano_result())
    edgerl(
        *("profile", "policy.safetensors", "--device", "jetson-nano"),
        *("--import", "result.json", "--save", "my.toml"),
    )
    text = Path("my.toml").read_text()
    budgets = text[text.index("[budgets]") : text.index("[[measured]]")]
    Path("my.toml").write_text(text.replace(budgets, "") + budgets)
    arguments = ("--device", "my.toml", "--import", "result.json", "--save", "my.toml")
    before = Path("my.toml").read_bytes()
    code, _, err = edgerl("profile", "policy.safetensors", *arguments)
    assert (code, err) == (
        2,
        "edgerl: my.toml: something follows its [[measured]]; move these to the end of the file\n",
    )
    assert Path("my.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("result", "code", "problem"),
    [
        (b"garbage", 2, "result.json is not a result of a benchmark bundle (it begins with 'garbage'); run"),
        (
            document(c_result()),
            2,
            "the result is of another policy: its SHA-256 is abababababab…, that of policy.safet",
        ),
        (None, 2, "result.json is not there"),
    ],
)
def test_a_bad_result_is_one_line(edgerl: Run, result: bytes | None, code: int, problem: str) -> None:
    if result is not None:
        Path("result.json").write_bytes(result)
    found, out, err = edgerl("profile", "policy.safetensors", "--import", "result.json")
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith(f"edgerl: {problem}")


def test_wrong_actions_are_exit_code_1(edgerl: Run) -> None:
    result = c_result(POLICY, np.ones((8, 5)))
    Path("result.json").write_bytes(document({**result, "policy_sha256": policy_identity(POLICY)}))
    code, out, err = edgerl("profile", "policy.safetensors", "--import", "result.json", "--device", "jetson-nano")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("edgerl: c acts differently there: by ")


def test_a_bundle_is_written_once(edgerl: Run) -> None:
    code, out, err = edgerl("profile", "policy.safetensors", "--bundle", "out.tar")
    assert code == 0
    assert out.startswith("out.tar: ")
    assert "on the board: tar -xf out.tar && sh edgerl-benchmark/run.sh > result.json" in out
    with tarfile.open("out.tar") as tar:
        programs = [name for name in tar.getnames() if "benchmark-" in name.rpartition("/")[2]]
    assert err.count("without a program") == 3 - len(programs)
    assert edgerl("profile", "policy.safetensors", "--bundle", "out.tar")[::2] == (
        2,
        "edgerl: out.tar exists already; pass --force to replace it, or write elsewhere\n",
    )
    code, out, _ = edgerl("profile", "policy.safetensors", "--bundle", "out.tar", "--force", "--json")
    assert code == 0
    assert json.loads(out)["bundle"]["bytes"] == Path("out.tar").stat().st_size
    code, out, _ = edgerl("profile", "policy.onnx", "--bundle", "two.tar", "--device", "jetson-nano", "--json")
    assert code == 0
    assert {"latency", "bundle"} <= set(json.loads(out))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--measure", "--ssh", "board"), "--measure and --ssh exclude each other; choose one"),
        (("--import", "a.json", "--bundle", "b.tar"), "--import and --bundle exclude each other; choose one"),
        ((), "Missing option '--device'; or measure: --measure, --ssh, --import, --bundle"),
        (("--measure", "--budget-latency", "1ms"), "--budget-latency is for a device; add --device"),
        (("--measure", "--format", "junit"), "--format is for a device; add --device"),
        (("--measure", "--runtime", "c"), "--runtime is for a device; add --device"),
        (
            ("--ssh", "board", "--ssh-config", "none"),
            "--ssh-config is none, which is not a file; name an ssh configuration",
        ),
        (("--measure", "--ssh-config", "c"), "--ssh-config is for --ssh; name the board: --ssh user@host"),
        (
            ("--measure", "--save", "my.toml"),
            "--save keeps a measurement in a profile; add --measure, --ssh or --import",
        ),
        (("--device", "esp32", "--save", "my.toml"), "--save keeps a measurement in a profile; add --measure"),
        (("--device", "esp32", "--bundle", "b.tar", "--save", "my.toml"), "--save keeps a measurement in a profile"),
        (
            ("--device", "esp32", "--measure", "--save", "my.txt"),
            "--save is my.txt; expected a name that ends in .toml",
        ),
        (("--device", "esp33", "--measure"), "there is no device 'esp33'; did you mean esp32?"),
        (("--device", "esp32", "--measure", "--rate", "-1"), "the rate is -1.0; expected 1e-09 to 1e+15"),
        (("--bundle", "no/b.tar"), "cannot write no/b.tar: No such file or directory; choose an existing"),
        (("--ssh", "-x"), "--ssh is '-x'; expected host or user@host"),
        (
            ("--device", "esp32", "--device", "rp2040", "--measure"),
            "--measure is about one device; name one --device ins",
        ),
        (
            ("--network", "4-8-2", "--bundle", "b.tar"),
            "--bundle needs a policy in a file; name one instead of --network",
        ),
    ],
)
def test_options_that_do_not_go_together(edgerl: Run, arguments: tuple[str, ...], problem: str) -> None:
    code, out, err = edgerl("profile", "policy.safetensors", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"edgerl: {problem}")


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with running_board(tmp_path_factory.mktemp("board")) as board:
        yield board


@pytest.mark.needs("ssh", "sshd")
def test_measured_over_ssh_reported_and_saved(edgerl: Run, board: Board) -> None:
    """On a board where edgerl is installed, too."""
    command = f'EDGERL="{sys.executable} -m edgerl"; export EDGERL; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    connection = ("--ssh", "board", "--ssh-config", board.ssh_config(command=command))
    arguments = ("profile", "policy.safetensors", "--device", "here.toml", "--runtime", "c", "--save", "my.toml")
    code, out, err = edgerl(*arguments, *connection, "--json")
    assert (code, err) == (0, "my.toml: latencies measured: 3; profile with it: --device my.toml\n")
    report = json.loads(out)
    measured = report["measured"]["measurements"]
    assert [measurement["runtime"] for measurement in measured] == ["c", "native", "onnxruntime"]
    assert all(measurement["largest_difference"] <= 1e-5 for measurement in measured)
    assert report["latency"]["used"] == measured[0]["p50_ns"] / 1e3
    saved = load_device(Path("my.toml")).measured
    assert [one.latency_us.value for one in saved] == [one["p50_ns"] / 1e3 for one in measured]
    assert board.is_left_empty()


@pytest.mark.needs("ssh", "sshd")
def test_a_board_that_cannot_be_reached_is_one_line(edgerl: Run, board: Board) -> None:
    connection = ("--ssh", "board", "--ssh-config", board.ssh_config(known_hosts=""))
    code, out, err = edgerl("profile", "policy.safetensors", *connection)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("edgerl: cannot measure on board: No ED25519 host key is known for ")


@pytest.mark.needs("ssh", "sshd")
def test_what_a_board_says_does_not_steer_the_terminal(edgerl: Run, board: Board) -> None:
    command = "printf 'edgerl-benchmark: \\033[2Jgone\\n' >&2; exit 3"
    code, out, err = edgerl(
        *("profile", "policy.safetensors", "--ssh", "board"), "--ssh-config", board.ssh_config(command=command)
    )
    assert (code, out) == (2, "")
    assert err == "edgerl: 'cannot measure on board: \\x1b[2Jgone'\n"
