"""The benchmark bundle: one C file, programs that run on emulated boards, a script that finds its way on any."""

from __future__ import annotations

import io
import platform
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.engine.amalgamation import amalgamate
from edgerl.errors import UnsupportedModelError
from edgerl.policy.compact import CompactPolicy
from edgerl.policy.format import save
from edgerl.profiling.measuring import bundle
from edgerl.profiling.measuring.bundle import COMPILERS, FOLDER, make_bundle, policy_data, program_source
from edgerl.profiling.measuring.measure import find_subject
from edgerl.profiling.measuring.measurement import benchmark_observations, largest_difference, parse_result
from tests.board import few_tools
from tests.edge.compiled import SANITIZED, WARNINGS, compile_c, run
from tests.policy.policies import random_policy

CROSS = ("aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")


def mixed_policy() -> CompactPolicy:
    """All that a policy can be made of: single connections, blocks and a dense layer, in int8, fp16 and fp32."""
    first = random_policy(1, (7, 33, 5), precision="int8", density=0.15)
    second = random_policy(2, (33, 18, 5), block=4, precision="fp16", density=0.3)
    third = random_policy(3, (18, 5, 5), density=1)
    layers = (first.layers[0], second.layers[0], third.layers[0])
    assert [layer.is_sparse for layer in layers] == [True, True, False]
    return replace(first, layers=layers).with_example(first.example_observation)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy file with its ONNX file beside it."""
    path = tmp_path_factory.mktemp("model") / "policy.safetensors"
    save(mixed_policy(), path)
    export_policy(path, "onnx", path.with_suffix(".onnx"))
    return path


def unpack(data: bytes, folder: Path) -> Path:
    """What the bundle is on a board."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(folder, filter="data")
    return folder / FOLDER


@pytest.mark.needs("clang", *CROSS)
@pytest.mark.parametrize("compiler", ["gcc", "clang", *CROSS])
def test_the_one_c_file_compiles_everywhere_without_a_warning(compiler: str, tmp_path: Path) -> None:
    (tmp_path / "benchmark.c").write_text(program_source())
    compile_c(compiler, *WARNINGS, "-c", tmp_path / "benchmark.c", "-o", tmp_path / "benchmark.o")


def test_the_one_c_file_includes_headers_of_the_system_only() -> None:
    source = program_source()
    assert not re.search(r'#include\s+"', source)
    assert "#include <immintrin.h>" in source
    for part in ("edgerl.h", "base.h", "numeric.h", "base.c", "policy.c"):
        assert source.count(f"/* {part} */") == 1
    assert source.count("/* policy.inc */") == 3, "once per instruction set"


def test_a_part_is_inserted_once_where_it_is_first_asked_for_and_a_template_each_time() -> None:
    parts = {"a.h": '#include "b.h"\na\n', "b.h": "b\n", "t.inc": "t\n"}
    source = '#include "a.h"\n#include <c.h>\n#include "t.inc"\n#include "b.h" /* again */\n#include "t.inc"\nend\n'
    assert amalgamate(source, parts) == (
        "/* a.h */\n/* b.h */\nb\na\n#include <c.h>\n/* t.inc */\nt\n/* t.inc */\nt\nend\n"
    )


def figures_of(printed: str, policy: CompactPolicy) -> Any:
    """The measurement that the C program printed, its actions compared with the policy in float64."""
    result = parse_result(
        f'{{"format": "edgerl benchmark", "version": 1, "results": [{printed}, null]}}'.encode(), "it"
    )
    (measurement,) = result.measurements
    assert largest_difference(measurement, policy) <= 1e-5
    assert measurement.calls == sum(count for _, count in measurement.histogram) >= 100
    assert measurement.p50_ns > 0
    assert measurement.runtime == "c"
    assert "GCC" in measurement.built_with
    return result


@pytest.mark.needs(*CROSS, "qemu-aarch64", "qemu-arm")
@pytest.mark.parametrize(
    ("architecture", "emulator", "machine"),
    [("aarch64", "qemu-aarch64", "aarch64"), ("armhf", "qemu-arm", "armv7l"), ("x86_64", None, "x86_64")],
)
def test_the_static_programs_act_as_the_policy_does(
    architecture: str, emulator: str | None, machine: str, path: Path, tmp_path: Path
) -> None:
    if emulator is None and platform.machine() != machine:
        pytest.skip("this machine has another architecture")
    made = make_bundle(find_subject(path))
    assert architecture in made.programs
    folder = unpack(made.data, tmp_path)
    program = folder / f"benchmark-{architecture}"
    assert "INTERP" not in run("readelf", "--program-headers", program), "linked statically"
    command = [program, folder / "policy.bin"] if emulator is None else [emulator, program, folder / "policy.bin"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    result = figures_of(done.stdout, mixed_policy())
    assert result.machine.architecture == machine
    assert result.policy_sha256 == find_subject(path).policy_sha256


def test_the_bundle_is_a_tar_of_known_files_and_ends_with_its_script(path: Path) -> None:
    made = make_bundle(find_subject(path))
    with tarfile.open(fileobj=io.BytesIO(made.data)) as tar:
        entries = {entry.name.removeprefix(f"{FOLDER}/"): entry for entry in tar}
        assert [*entries] == [
            *("README.txt", "benchmark.c", "policy.bin", "policy.safetensors", "policy.onnx"),
            *(f"benchmark-{name}" for name in made.programs),
            "run.sh",
        ]
        script = tar.extractfile(entries["run.sh"])
        assert script is not None
        assert script.read() == (Path(bundle.__file__).parent / "benchmark/run.sh").read_bytes()
    assert {*made.programs, *made.missing} == set(COMPILERS)
    assert all(entry.uid == entry.gid == entry.mtime == 0 for entry in entries.values())
    assert make_bundle(find_subject(path)).data == made.data


@pytest.mark.needs("shellcheck")
def test_the_script_is_clean() -> None:
    script = Path(bundle.__file__).parent / "benchmark/run.sh"
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def run_script(folder: Path, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        ["/bin/sh", folder / "run.sh"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def without_programs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The unpacked bundle of a machine without any cross compiler."""
    monkeypatch.setattr(bundle, "COMPILERS", {"x86_64": ("no-such-gcc", "gcc-x86-64")})
    made = make_bundle(find_subject(path))
    assert (made.programs, made.missing) == ((), {"x86_64": "no-such-gcc is not installed: apt-get install gcc-x86-64"})
    return unpack(made.data, tmp_path)


def test_the_script_builds_the_program_where_none_fits_and_removes_it(without_programs: Path) -> None:
    before = sorted(without_programs.iterdir())
    code, out, err = run_script(without_programs, EDGERL="no-such-edgerl")
    assert (code, err) == (0, "")
    (measurement,) = parse_result(out.encode(), "it").measurements
    assert largest_difference(measurement, mixed_policy()) <= 1e-5
    assert sorted(without_programs.iterdir()) == before


def test_without_a_program_and_a_compiler_the_script_says_so_in_one_line(without_programs: Path) -> None:
    tools = few_tools(without_programs.parent / "tools")
    machine = platform.machine()
    assert run_script(without_programs, PATH=str(tools)) == (
        69,
        "",
        f"edgerl-benchmark: the bundle has no program that runs on this {machine}, and there is no C compiler here "
        "(apt-get install gcc)\n",
    )
    (without_programs / "benchmark.c").write_text("#error too old\n")
    code, out, err = run_script(without_programs)
    assert (code, out, err.count("\n")) == (69, "", 1)
    assert f"no program that runs on this {machine}, and " in err
    assert "cannot build one (benchmark.c:1:2: error: " in err


def test_where_nothing_may_run_the_script_says_so(path: Path, tmp_path: Path) -> None:
    """As on a file system that is mounted noexec: no permission (126), whatever the program and the compiler."""
    folder = unpack(make_bundle(find_subject(path)).data, tmp_path)
    for program in (*folder.glob("benchmark-*"), folder / "run.sh"):
        program.chmod(0o644)
    assert run_script(folder) == (
        77,
        "",
        f"edgerl-benchmark: no program may run in {folder} (mounted noexec?): set TMPDIR on this machine to a folder "
        "where one may, or unpack the bundle there\n",
    )


def test_a_compiler_whose_programs_do_not_start_is_named(without_programs: Path) -> None:
    tools = few_tools(without_programs.parent / "tools")
    (tools / "cc").write_text("#!/bin/sh\nexit 0\n")
    (tools / "cc").chmod(0o755)
    code, _, err = run_script(without_programs, PATH=str(tools))
    assert code == 69
    assert err.endswith("and cc cannot build one (what it builds does not start)\n")


def test_a_program_that_cannot_run_here_is_not_taken(path: Path, tmp_path: Path) -> None:
    folder = unpack(make_bundle(find_subject(path)).data, tmp_path)
    for program in folder.glob("benchmark-*"):
        program.write_bytes(b"\x7fELF of another machine")
    code, out, _ = run_script(folder, EDGERL="no-such-edgerl")
    assert code == 0
    assert parse_result(out.encode(), "it").measurement("c") is not None


def test_where_edgerl_is_installed_its_runtimes_are_measured_too(path: Path, tmp_path: Path) -> None:
    folder = unpack(make_bundle(find_subject(path)).data, tmp_path)
    code, out, err = run_script(folder, EDGERL=f"{sys.executable} -m edgerl")
    assert (code, err) == (0, "")
    result = parse_result(out.encode(), "it")
    assert [measurement.runtime for measurement in result.measurements] == ["c", "native", "onnxruntime"]
    for measurement in result.measurements:
        assert largest_difference(measurement, mixed_policy()) <= 1e-5


def test_a_damaged_policy_is_one_line(path: Path, tmp_path: Path) -> None:
    folder = unpack(make_bundle(find_subject(path)).data, tmp_path)
    whole = (folder / "policy.bin").read_bytes()
    (folder / "policy.bin").write_bytes(whole[:-4])
    code, out, err = run_script(folder)
    assert (code, out) == (70, "")
    assert re.fullmatch(
        r"edgerl-benchmark: the program fails on this \S+ \(exit code 65\): the policy is truncated; make the bundle "
        r"again\n",
        err,
    )


def test_no_damage_to_the_policy_leads_the_program_astray(tmp_path: Path) -> None:
    """Under sanitizers, with shorter measurements: each damage is refused, or what is left is a policy."""
    source = program_source()
    for name in ("MEASURED_NS", "WARM_UP_NS", "MOST_EVICTED"):
        source, count = re.subn(rf"#define {name} .*", f"#define {name} UINT64_C(10000)", source)
        assert count == 1
    (tmp_path / "benchmark.c").write_text(source)
    program = tmp_path / "benchmark"
    compile_c("gcc", "-O1", *SANITIZED, tmp_path / "benchmark.c", "-o", program)
    whole = policy_data(mixed_policy(), "0" * 64)
    generator = np.random.default_rng(0)
    damaged = [whole[:length] for length in (0, 1, 15, 95, 96, 97, *generator.integers(98, len(whole), 10).tolist())]
    for place in [*range(80, 96, 2), *range(96, 116, 2), *generator.integers(0, len(whole), 20).tolist()]:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(generator.integers(8))
        damaged.append(bytes(changed))
    codes = []
    for data in (whole, *damaged):
        (tmp_path / "policy.bin").write_bytes(data)
        command = [program, tmp_path / "policy.bin"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env={"ASAN_OPTIONS": "detect_leaks=0"}
        )
        assert done.returncode in (0, 65), done.stderr
        assert (done.stderr == "") == (done.returncode == 0)
        assert done.stderr.count("\n") <= 1
        codes.append(done.returncode)
    assert codes[0] == 0
    assert codes.count(65) >= 30


def test_an_onnx_file_alone_makes_no_bundle(path: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.onnx").write_bytes(path.with_suffix(".onnx").read_bytes())
    with pytest.raises(UnsupportedModelError, match=r"alone.onnx is an ONNX file without the policy.safetensors"):
        make_bundle(find_subject(tmp_path / "alone.onnx"))


def test_a_compiler_that_cannot_link_is_named_with_its_last_words(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(bundle, "FLAGS", (*bundle.FLAGS, "-lno-such-library"))
    monkeypatch.setattr(bundle, "COMPILERS", {"own": ("gcc", "gcc")})
    made = make_bundle(find_subject(path))
    assert re.fullmatch(r"gcc cannot link it statically \(.+\)", made.missing["own"])


def test_the_programs_observations_are_those_that_a_result_is_checked_with() -> None:
    policy = mixed_policy()
    observations = benchmark_observations(policy).astype("<f4").tobytes()
    assert policy_data(policy, "0" * 64).endswith(observations)
