"""Files by which the build systems of others take in exported C, written beside it by `edgerl export --project`.

Plain CMake builds them in the tests. For the others they follow the published descriptions and are checked against
these alone: no such system has built them here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from edgerl import __version__
from edgerl.export.c.text import LICENSE, SPDX

DESCRIPTION = "A reinforcement-learning policy as C99, without libm"


PLATFORMS = (
    *("atmelavr", "atmelsam", "espressif32", "espressif8266", "native", "nordicnrf52", "raspberrypi", "ststm32"),
    "teensy",
)
"""PlatformIO's, whose processors the C was compiled for (docs/c.md)."""

COMMENT = f"# {SPDX}\n"

FLAGS = ("-ffp-contract=fast",)
"""For the compiler: without it -std=c99 has no fused multiply-add."""


def project_files(prefix: str, flags: Sequence[str] = FLAGS) -> dict[str, str]:
    """Path → text, for a policy whose files are `prefix`.c and `prefix`.h, compiled with `flags`.

    - PlatformIO and Arduino: library.json
    - CMake: CMakeLists.txt, which is ESP-IDF's where that builds
    - ESP-IDF: idf_component.yml
    - Zephyr: zephyr/module.yml, zephyr/CMakeLists.txt, zephyr/Kconfig
    """
    option, options = prefix.upper(), " ".join(flags)
    return {
        "library.json": _library(prefix.lower().replace("_", "-"), prefix, flags),
        "idf_component.yml": (f'version: "{__version__}"\ndescription: "{DESCRIPTION}"\nlicense: "{LICENSE}"\n'),
        "CMakeLists.txt": (
            f"{COMMENT}if(ESP_PLATFORM)\n"
            f'  idf_component_register(SRCS "{prefix}.c" INCLUDE_DIRS ".")\n'
            f"  target_compile_options(${{COMPONENT_LIB}} PRIVATE {options})\n"
            f"else() # add_subdirectory(this folder), then target_link_libraries(firmware {prefix})\n"
            f"  add_library({prefix} STATIC {prefix}.c)\n"
            f"  target_include_directories({prefix} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})\n"
            f"  target_compile_options({prefix} PRIVATE {options})\n"
            "endif()\n"
        ),
        "zephyr/module.yml": f"{COMMENT}name: {prefix}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n",
        "zephyr/CMakeLists.txt": (
            f"{COMMENT}if(CONFIG_{option})\n"
            f"  zephyr_library_named({prefix})\n  zephyr_library_sources(../{prefix}.c)\n"
            f"  zephyr_library_compile_options({options})\n  zephyr_include_directories(..)\nendif()\n"
        ),
        "zephyr/Kconfig": f'{COMMENT}config {option}\n\tbool "{DESCRIPTION}: {prefix}"\n\tdefault y\n',
    }


def _library(name: str, prefix: str, flags: Sequence[str]) -> str:
    manifest = {
        "name": name[:50].strip("-"),
        "version": __version__,
        "description": DESCRIPTION,
        "license": LICENSE,
        "keywords": ["policy", "control", "reinforcement-learning"],
        "headers": f"{prefix}.h",
        "frameworks": "*",
        "platforms": list(PLATFORMS),
        "build": {"srcDir": ".", "includeDir": ".", "srcFilter": [f"+<{prefix}.c>"], "flags": list(flags)},
    }
    return json.dumps(manifest, indent=2) + "\n"
