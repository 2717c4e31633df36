"""The engine's C: silent under strict warnings, free of libraries, right on other machines and under sanitizers."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from edgerl.edge.acting.policy import _policy_config
from edgerl.edge.engine.library import FUNCTIONS
from edgerl.policy.compact import Array
from tests.edge.compiled import (
    CORTEX_M7,
    ENGINE,
    HERE,
    WARNINGS,
    compile_c,
    run,
    run_on_aarch64,
    run_on_cortex_m7,
    run_sanitized,
)
from tests.policy.policies import random_policy

FREESTANDING = ("-ffreestanding", "-fno-pie", "-c")

TAKEN_FOR_GRANTED = {"memcpy", "memset", "memmove", "memcmp"}
"""What C compilers need even without a library."""

MAY_BE_UNDEFINED = {
    "gcc": TAKEN_FOR_GRANTED | {"__cpu_model", "__cpu_indicator_init"},  # the compiler's own processor detection
    "clang": TAKEN_FOR_GRANTED | {"__cpu_model", "__cpu_indicator_init"},
    "aarch64-linux-gnu-gcc": TAKEN_FOR_GRANTED,
    "arm-none-eabi-gcc": TAKEN_FOR_GRANTED | {"__aeabi_uldivmod", "__aeabi_ul2d"},  # 64-bit counters: never per weight
}
"""By compiler; all else but the first four is in the compiler's own library."""


@pytest.mark.needs("clang", "aarch64-linux-gnu-gcc", "arm-none-eabi-gcc")
@pytest.mark.parametrize(
    ("compiler", "machine"),
    [("gcc", ()), ("clang", ()), ("aarch64-linux-gnu-gcc", ()), ("arm-none-eabi-gcc", CORTEX_M7)],
)
def test_it_compiles_without_a_warning_needs_no_library_and_has_no_variables(
    compiler: str, machine: Iterable[str], tmp_path: Path
) -> None:
    compile_c(compiler, *WARNINGS, *machine, *FREESTANDING, ENGINE / "edgerl.c", "-o", tmp_path / "edgerl.o")
    nm = "arm-none-eabi-nm" if compiler.startswith("arm") else "nm"
    symbols = [line.split()[-2:] for line in run(nm, tmp_path / "edgerl.o").splitlines()]
    assert {name for kind, name in symbols if kind == "U"} <= MAY_BE_UNDEFINED[compiler]
    assert {kind for kind, _ in symbols} <= {"U", "T", "t", "R", "r"}, "code and constants only"


@pytest.mark.parametrize("part", sorted(path.name for path in ENGINE.glob("*.c")))
def test_each_part_compiles_alone(part: str, tmp_path: Path) -> None:
    compile_c("gcc", *WARNINGS, "-O0", "-c", ENGINE / part, "-o", tmp_path / "part.o")


def test_its_parts_linked_are_the_engine(tmp_path: Path) -> None:
    parts = [path for path in ENGINE.glob("*.c") if path.name != "edgerl.c"]
    compile_c("gcc", *WARNINGS, "-O0", "-fPIC", "-shared", "-Wl,--no-undefined", *parts, "-o", tmp_path / "engine.so")
    assert {name for name in FUNCTIONS if not hasattr(ctypes.CDLL(str(tmp_path / "engine.so")), name)} == set()


def test_a_header_defines_nothing_but_inline_functions() -> None:
    for header in ENGINE.glob("*.h"):
        outside = r"^(?!typedef|#|static inline|INLINED |\s|/|enum|struct).*\{$"
        defined = re.findall(outside, header.read_text(), re.MULTILINE)
        assert defined in ([], ['extern "C" {']), header.name


def test_each_step_of_an_update_has_its_case(tmp_path: Path) -> None:
    """An operation that no case of the switch knows does not compile."""
    for part in ENGINE.iterdir():
        if part.suffix in (".c", ".h", ".inc"):
            shutil.copy(part, tmp_path)
    update = tmp_path / "update.c"
    update.write_text(update.read_text().replace("    NOTHING,\n", "    NOTHING,\n    FORGOTTEN,\n"))
    with pytest.raises(AssertionError, match="FORGOTTEN"):
        compile_c("gcc", *WARNINGS, "-c", update, "-o", tmp_path / "update.o")


@pytest.mark.needs("clang")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_it_compiles_in_double_for_the_parity_tests(compiler: str, tmp_path: Path) -> None:
    compile_c(compiler, *WARNINGS, "-DEDGERL_DOUBLE", "-c", ENGINE / "edgerl.c", "-o", tmp_path / "edgerl.o")


def test_the_header_stands_alone_and_in_cpp(tmp_path: Path) -> None:
    (tmp_path / "user.cpp").write_text('#include "edgerl.h"\nint main() { return edgerl_isa_best() < 0; }\n')
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler here")
    run("g++", "-Wall", "-Wextra", "-Werror", "-I", ENGINE, "-c", tmp_path / "user.cpp", "-o", tmp_path / "user.o")


@pytest.fixture(scope="module", params=[1, 4])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """policy_vectors.c beside its vectors: a policy in blocks of 1 or 4, and what float64 says of it."""
    folder = tmp_path_factory.mktemp("vectors")
    policy = random_policy(5, (7, 33, 19, 5), request.param, density=0.4)
    observations = np.random.default_rng(6).normal(size=(5, 7)).astype(np.float32)
    config, arrays = _policy_config(policy, ("dense",) * 3, 0)
    parts = [_vector(f"array_{i}", array) for i, array in enumerate(arrays)]
    names = {array.ctypes.data: f"array_{i}" for i, array in enumerate(arrays)}

    def name(pointer: object) -> str:
        address = ctypes.cast(pointer, ctypes.c_void_p).value  # type: ignore[arg-type]
        return "0" if address is None else names[address]

    layers = []
    for i in range(config.n_layers):
        layer = config.layers[i]
        arrays_of = ", ".join(name(getattr(layer, part)) for part in ("values", "columns", "row_starts", "bias"))
        layers.append(f"{{{layer.n_inputs}, {layer.n_outputs}, {layer.block}, {layer.n_blocks}, 0, {arrays_of}}}")
    parts.append(f"static edgerl_layer LAYERS[] = {{{', '.join(layers)}}};")
    constants = {"N_LAYERS": 3, "N_ACTIONS": 5, "N_VECTORS": 5, "ARENA_BYTES": 65536, "TOLERANCE": "1e-5f"}
    for part, pointer in (("MEAN", config.mean), ("SCALE", config.scale)):
        constants[part] = name(pointer)
    constants |= {"CENTRE": name(config.centre), "HALF_RANGE": name(config.half_range)}
    parts += [f"#define {key} {value}" for key, value in constants.items()]
    parts.append("typedef struct { void *content; size_t bytes; } any_array;")
    parts.append(f"static const any_array ARRAYS[] = {{{', '.join(f'{{{x}, sizeof {x}}}' for x in names.values())}}};")
    parts.append(f"#define N_ARRAYS {len(names)}")
    parts.append(_vector("OBSERVATIONS", observations))
    parts.append(_vector("ACTIONS", policy(observations, np.float64).astype(np.float32)))
    (folder / "vectors.h").write_text("\n".join(parts) + "\n")
    for source in ("policy_vectors.c", "policy_fuzz.c"):
        shutil.copy(HERE / source, folder)
    return folder / "policy_vectors.c"


def _vector(name: str, array: Array) -> str:
    kind = {"float32": "float", "uint16": "uint16_t", "uint32": "uint32_t"}[array.dtype.name]
    written = [float(x).hex() + "f" if kind == "float" else str(x) for x in array.ravel().tolist()]
    shape = f"[][{array.shape[1]}]" if name.isupper() else "[]"
    rows = np.array(written).reshape(array.shape) if name.isupper() else np.array([written])
    content = ", ".join("{" + ", ".join(row) + "}" for row in rows) if name.isupper() else ", ".join(written)
    return f"static {kind} {name}{shape} = {{{content}}};"


def test_every_layout_is_right_under_sanitizers(program: Path) -> None:
    run_sanitized(program)


def test_no_damage_leads_the_engine_astray(program: Path) -> None:
    run_sanitized(program.with_name("policy_fuzz.c"))


@pytest.mark.needs("aarch64-linux-gnu-gcc", "qemu-aarch64")
def test_every_layout_is_right_on_aarch64(program: Path) -> None:
    run_on_aarch64(program)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm")
def test_every_layout_is_right_on_a_cortex_m7(program: Path) -> None:
    run_on_cortex_m7(program)


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "aarch64-linux-gnu-gcc", "qemu-aarch64")
@pytest.mark.parametrize("run", [run_sanitized, run_on_aarch64, run_on_cortex_m7])
def test_a_wrong_action_fails_the_program(run: Callable[[Path], None], program: Path) -> None:
    vectors = program.with_name("vectors.h")
    original = vectors.read_text()
    vectors.write_text(original.replace("TOLERANCE 1e-5f", "TOLERANCE 1e-12f"))
    with pytest.raises(AssertionError, match="exit code"):
        run(program)
    vectors.write_text(original)
