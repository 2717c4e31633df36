"""The one reader of TOML: device profiles, calibrations and study files, none of them trusted."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from edgerl.errors import FileFormatError, reason
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import TEXT, TOML, refuse_other_kinds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAXIMUM_BYTES = 1 << 16
"""Pages of text; a larger file is something else."""

MAXIMUM_PARTS = 32
"""Of a dotted key: the parser's time grows with their square (30 000, in 60 kB, take half a minute)."""

_OPAQUE = re.compile(
    r'''"""(?:[^"\\]|\\.|"{1,2}(?!"))*(?:"{3,5})?'''
    r"""|'''(?:[^']|'{1,2}(?!'))*(?:'{3,5})?"""
    r"""|"(?:[^"\\\n]|\\.)*"?"""
    r"""|'[^'\n]*'?"""
    r"""|#[^\n]*""",
    re.DOTALL,
)
"""Strings and comments, whose dots are not a key's. Unterminated ones too: no text is looked at twice."""

_LONG_KEY = re.compile(rf"(?<![\w-])[\w-]+(?:[ \t]*\.[ \t]*[\w-]+){{{MAXIMUM_PARTS}}}")


def read_toml(path: Path) -> dict[str, Any]:
    """The document in a TOML file. Raises FileFormatError."""
    return parse_toml(read_bytes(path, MAXIMUM_BYTES), str(path))


def parse_toml(data: bytes, source: str) -> dict[str, Any]:
    """The document in the bytes of a TOML file; `source` names them in messages. Raises FileFormatError."""
    if len(data) > MAXIMUM_BYTES:
        raise FileFormatError(f"{source} has {len(data)} bytes; expected at most {MAXIMUM_BYTES}")
    try:
        text = data.decode()
        if _LONG_KEY.search(_OPAQUE.sub("s", text)):
            raise ValueError(f"a key has more than {MAXIMUM_PARTS} parts")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        refuse_other_kinds(data, source, "a TOML file", TOML, TEXT)
        raise FileFormatError(f"{source} is not a TOML file ({reason(error)})") from error
