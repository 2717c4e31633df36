"""Files by which the build systems of others take in exported C, written beside it by `edgerl export --project`.

They follow the published descriptions and are checked against these alone: no such system has built them here.
"""

from __future__ import annotations

import json

from edgerl import __version__

DESCRIPTION = "A reinforcement-learning policy as C99, without any library"


def project_files(prefix: str) -> dict[str, str]:
    """Path → text, for a policy whose files are `prefix`.c and `prefix`.h.

    - PlatformIO and Arduino: library.json
    - ESP-IDF: idf_component.yml, CMakeLists.txt
    - Zephyr: zephyr/module.yml, zephyr/CMakeLists.txt, zephyr/Kconfig
    """
    name, option = prefix, prefix.upper()
    return {
        "library.json": _library(name.lower().replace("_", "-"), prefix),
        "idf_component.yml": f'version: "{__version__}"\ndescription: "{DESCRIPTION}"\n',
        "CMakeLists.txt": (
            f'idf_component_register(SRCS "{prefix}.c" INCLUDE_DIRS ".")\n'
            "target_compile_options(${COMPONENT_LIB} PRIVATE -ffp-contract=fast)\n"
        ),
        "zephyr/module.yml": f"name: {name}\nbuild:\n  cmake: zephyr\n  kconfig: zephyr/Kconfig\n",
        "zephyr/CMakeLists.txt": (
            f"if(CONFIG_{option})\n  zephyr_library_named({name})\n  zephyr_library_sources(../{prefix}.c)\n"
            "  zephyr_library_compile_options(-ffp-contract=fast)\n  zephyr_include_directories(..)\nendif()\n"
        ),
        "zephyr/Kconfig": f'config {option}\n\tbool "{DESCRIPTION}: {prefix}"\n\tdefault y\n',
    }


def _library(name: str, prefix: str) -> str:
    manifest = {
        "name": name[:50].strip("-"),
        "version": __version__,
        "description": DESCRIPTION,
        "keywords": ["policy", "control", "reinforcement-learning"],
        "headers": f"{prefix}.h",
        "frameworks": "*",
        "platforms": "*",
        "build": {"srcDir": ".", "includeDir": ".", "srcFilter": [f"+<{prefix}.c>"], "flags": ["-ffp-contract=fast"]},
    }
    return json.dumps(manifest, indent=2) + "\n"
