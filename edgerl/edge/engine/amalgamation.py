"""The engine's C as one text: for programs that are compiled where edgerl is not installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources


def engine_parts() -> dict[str, str]:
    """The engine's C files and headers, by name."""
    folder = resources.files("edgerl.edge.engine")
    return {file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith((".c", ".h"))}


def amalgamate(source: str, parts: Mapping[str, str]) -> str:
    """`source` with each `#include "part"` replaced by that part, the first time, and by nothing later."""
    waiting = dict(parts)

    def insert(match: re.Match[str]) -> str:
        name = match[1]
        text = waiting.pop(name, None)
        if text is None:
            return ""
        return f"/* {name} */\n" + _INCLUDE.sub(insert, text)

    return _INCLUDE.sub(insert, source)


_INCLUDE = re.compile(r'^#include "([^"]+)".*\n', flags=re.MULTILINE)
