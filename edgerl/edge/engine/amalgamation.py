"""The engine's C as one text: for programs that are compiled where edgerl is not installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources

TEMPLATE = ".inc"
"""Suffix of the parts that are included more than once."""


def engine_parts() -> dict[str, str]:
    """The engine's C files, headers and templates, by name."""
    folder = resources.files("edgerl.edge.engine")
    return {f.name: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith((".c", ".h", TEMPLATE))}


def amalgamate(source: str, parts: Mapping[str, str]) -> str:
    """`source` with each `#include "part"` replaced by that part: a template each time, any other the first time."""
    inserted: set[str] = set()

    def insert(match: re.Match[str]) -> str:
        name = match[1]
        if name in inserted:
            return ""
        if not name.endswith(TEMPLATE):
            inserted.add(name)
        return f"/* {name} */\n" + _INCLUDE.sub(insert, parts[name])

    return _INCLUDE.sub(insert, source)


def learner_parts() -> tuple[str, dict[str, str]]:
    """(the includes of edgerl.c that a learner needs, the parts): without policies, and x86's instruction sets."""
    parts = engine_parts()
    names = [name for name in _INCLUDE.findall(parts["edgerl.c"]) if name != "policy.c"]
    baseline = {name: _X86_SETS.sub("", text) for name, text in parts.items()}
    return "".join(f'#include "{name}"\n' for name in names), baseline


_INCLUDE = re.compile(r'^#include "([^"]+)".*\n', flags=re.MULTILINE)
_X86_SETS = re.compile(r"^#if HAS_X86_LEVELS\n(?:(?!#if)(?!#endif).*\n)*#endif.*\n", flags=re.MULTILINE)
