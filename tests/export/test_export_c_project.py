"""The files for PlatformIO, ESP-IDF and Zephyr against their published schemas, reduced to what can be said here.

- PlatformIO: platformio/assets/schema/library.json of platformio/platformio-core
- ESP-IDF: idf_component.yml, docs.espressif.com/projects/idf-component-manager/en/latest/reference/manifest_file.html
- Zephyr: METADATA_SCHEMA in scripts/zephyr_module.py of zephyrproject-rtos/zephyr
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.export.c.project import project_files
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy, make_layer
from tests.policy.policies import random_policy

from .compiled_c import run

LIBRARY: dict[str, tuple[type | tuple[type, ...], int]] = {
    "name": (str, 50),
    "version": (str, 20),
    "description": (str, 255),
    "keywords": ((str, list), 255),
    "headers": ((str, list), 255),
    "frameworks": ((str, list), 255),
    "platforms": ((str, list), 255),
    "license": (str, 255),
    "build": (dict, 255),
}
"""Key → (types, longest); the first four must be there."""

BUILD = {"flags": (str, list), "srcDir": str, "includeDir": str, "srcFilter": (str, list)}

COMPONENT = {"version": r"\d+\.\d+\.\d+", "description": r".+", "license": r"MIT"}
MODULE = {"name": r"\w+", "build": {"cmake": r"[\w/]+", "kconfig": r"[\w/]+"}}

PREFIXES = ("edgerl_policy", "Left_leg", "a" * 60)


def _parse_yaml(text: str) -> dict[str, Any]:
    """The part of YAML that maps in two levels, texts in quotes or plain, take."""
    found: dict[str, Any] = {}
    inner = found
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r'(  )?([\w-]+):(?: ("[^"\\]*"|[\w/.-]+))?', line)
        assert match is not None, line
        indent, key, value = match.groups()
        if not indent:
            inner = found
        if value is None:
            inner = found.setdefault(key, {})
        else:
            inner[key] = value.strip('"')
    return found


def _matches(value: Any, schema: Any) -> bool:
    if isinstance(schema, str):
        return isinstance(value, str) and re.fullmatch(schema, value) is not None
    return isinstance(value, dict) and set(value) <= set(schema) and all(_matches(value[k], schema[k]) for k in value)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_library_json_fits_platformios_schema(prefix: str) -> None:
    manifest = json.loads(project_files(prefix)["library.json"])
    assert {"name", "version", "description", "keywords"} <= set(manifest) <= set(LIBRARY)
    for key, value in manifest.items():
        kind, longest = LIBRARY[key]
        assert isinstance(value, kind)
        assert all(len(text) <= longest for text in ([value] if isinstance(value, str) else value))
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", manifest["name"])
    assert all(isinstance(value, BUILD[key]) for key, value in manifest["build"].items())
    assert (manifest["headers"], manifest["build"]["srcFilter"]) == (f"{prefix}.h", [f"+<{prefix}.c>"])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_component_and_the_module_fit_their_schemas_and_name_files_that_are_there(prefix: str) -> None:
    files = project_files(prefix)
    assert _matches(_parse_yaml(files["idf_component.yml"]), COMPONENT)
    assert f'SRCS "{prefix}.c" INCLUDE_DIRS "."' in files["CMakeLists.txt"]
    module = _parse_yaml(files["zephyr/module.yml"])
    assert _matches(module, MODULE)
    assert f"{module['build']['cmake']}/CMakeLists.txt" in files
    assert module["build"]["kconfig"] in files
    assert f"../{prefix}.c" in files["zephyr/CMakeLists.txt"]
    option = re.search(r"^config (\w+)\n\tbool ", files["zephyr/Kconfig"], re.M)
    assert option is not None
    assert f"if(CONFIG_{option[1]})" in files["zephyr/CMakeLists.txt"]


FIRMWARE = """\
cmake_minimum_required(VERSION 3.13)
project(firmware C)
add_subdirectory(leg)
add_executable(firmware main.c)
target_link_libraries(firmware leg)
"""

TOOLCHAIN = """\
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)
set(CMAKE_C_FLAGS_INIT "-mcpu=cortex-m0plus -mthumb -std=c99 -Wall -Wextra -Werror")
set(CMAKE_EXE_LINKER_FLAGS_INIT "--specs=nosys.specs")
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
"""


@pytest.mark.needs("cmake", "arm-none-eabi-gcc")
def test_plain_cmake_builds_it_into_a_firmware(tmp_path: Path) -> None:
    """As the Pico SDK's projects take in a folder: nothing of ESP-IDF is there."""
    export_policy(random_policy(1), "c", tmp_path / "leg", prefix="leg", project=True)
    (tmp_path / "CMakeLists.txt").write_text(FIRMWARE)
    (tmp_path / "toolchain.cmake").write_text(TOOLCHAIN)
    (tmp_path / "main.c").write_text("#include <leg.h>\nint main(void) { return leg_self_test(); }\n")
    run("cmake", "-S", ".", "-B", "build", "-G", "Unix Makefiles", "-DCMAKE_TOOLCHAIN_FILE=toolchain.cmake",
        "--log-level=WARNING", folder=tmp_path)  # fmt: skip
    built = run("cmake", "--build", "build", "--verbose", folder=tmp_path)
    assert "-ffp-contract=fast" in built
    assert "leg_self_test" in run("arm-none-eabi-nm", "build/firmware", folder=tmp_path)


def test_esp_idf_takes_the_same_file_as_its_component() -> None:
    esp, _, plain = project_files("leg")["CMakeLists.txt"].partition("else()")
    assert esp.index("if(ESP_PLATFORM)") < esp.index('idf_component_register(SRCS "leg.c" INCLUDE_DIRS ".")')
    assert "idf_component_register" not in plain
    assert "add_library(leg STATIC leg.c)" in plain


def test_platforms_are_those_that_were_built() -> None:
    """docs/c.md names a compiler for each."""
    platforms = json.loads(project_files("leg")["library.json"])["platforms"]
    documented = (Path(__file__).parents[2] / "docs/c.md").read_text()
    assert "*" not in platforms
    assert [name for name in platforms if f"`{name}`" not in documented] == []


def test_the_command_writes_them_beside_the_c_and_refuses_to_replace_them(
    edgerl: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    weights = [np.ones((m, n), np.float32) for n, m in pairwise((3, 4, 2))]
    layers = tuple(make_layer(weight, np.zeros(len(weight), np.float32), 1) for weight in weights)
    bound = np.ones(2, np.float32)
    policy_file.save(CompactPolicy(layers, -bound, bound).with_example(np.ones(3)), tmp_path / "policy.safetensors")
    command = ("export", "policy.safetensors", "--format", "c", "--project", "-o", "leg", "--prefix", "leg")
    assert edgerl(*command)[0] == 0
    written = {str(path.relative_to("leg")) for path in Path("leg").rglob("*") if path.is_file()}
    assert written == {"leg.c", "leg.h", *project_files("leg")}
    for name in ("leg.c", "leg.h"):
        Path("leg", name).unlink()
    code, _, err = edgerl(*command)
    assert code == 2
    assert "leg/library.json" in err
    assert not Path("leg/leg.c").exists()
    code, _, err = edgerl("export", "policy.safetensors", "--project")
    assert (code, "--project was given, which --format onnx does not have" in err) == (2, True)
