"""Numbers and lines as C."""

from __future__ import annotations

from edgerl.policy.compact import Array

WIDTH = 8
"""Numbers on a line."""


def comment_line(text: str, longest: int = 100) -> str:
    """What a file or a user said, for a comment: printable, cut, and unable to end it."""
    printable = "".join(c if c.isprintable() and c.isascii() and c != "\\" else "?" for c in text)
    return printable.replace("*/", "* /").replace("/*", "/ *")[:longest]


def float_literal(value: float) -> str:
    """A float32 number that survives."""
    digits = f"{value:.9g}"
    return f"{digits if set(digits) & set('.e') else digits + '.0'}f"


def float_array(name: str, values: Array) -> str:
    """A constant of float32 numbers."""
    return _array("float", name, [float_literal(float(x)) for x in values])


def word_array(name: str, words: Array) -> str:
    """A constant of uint32 words."""
    return _array("uint32_t", name, [f"0x{int(word):x}u" for word in words])


def _array(kind: str, name: str, items: list[str]) -> str:
    lines = (", ".join(items[i : i + WIDTH]) for i in range(0, len(items), WIDTH))
    return f"static const {kind} {name}[{len(items)}] = {{\n" + "".join(f"    {line},\n" for line in lines) + "};"
