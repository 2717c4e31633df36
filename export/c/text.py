"""Text that goes into C: names, numbers, and what a stranger wrote, made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from edgerl.compact.policy import Array
from edgerl.errors import ConfigError, quoted

LONGEST_PREFIX = 40

LINE = 120
"""Characters of the longest line."""

_RESERVED_WORDS = (
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
    "alignas alignof and and_eq asm atomic_cancel bitand bitor bool catch char16_t char32_t char8_t class co_await "
    "co_return co_yield compl concept const_cast consteval constexpr constinit decltype delete dynamic_cast explicit "
    "export false friend import module mutable namespace new noexcept not not_eq nullptr operator or or_eq private "
    "protected public reinterpret_cast requires static_assert static_cast template this thread_local throw true try "
    "typeid typename typeof typeof_unqual using virtual wchar_t xor xor_eq "
    "main int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t size_t ptrdiff_t intptr_t uintptr_t NULL "
    "observation action scratch "
)
"""Keywords of C and C++, and names that the header or the program itself uses."""


def check_prefix(prefix: str) -> None:
    """Raise ConfigError unless every name that begins with `prefix` is an identifier of one's own in C and C++."""
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", prefix) or "__" in prefix:
        raise ConfigError(
            f"--prefix is {quoted(prefix)}; expected a C identifier: a letter, then letters, digits and single "
            "underscores, as in left_leg"
        )
    if prefix in _RESERVED_WORDS.split():
        raise ConfigError(f"--prefix is {prefix!r}, which C or C++ reserves; choose another, as in {prefix}_policy")
    if len(prefix) > LONGEST_PREFIX:
        raise ConfigError(f"--prefix has {len(prefix)} characters; expected at most {LONGEST_PREFIX}")


def comment_text(text: object, longest: int = 200) -> str:
    """What a file or a user wrote, as it may stand in a comment: it cannot end it, continue a line or begin another."""
    return re.sub(r"[^A-Za-z0-9 ._+\-:=,;()\[\]{}@#/%&<>|~'\"]", "_", str(text))[:longest].strip()


def number(value: float) -> str:
    """A float32 as a C literal that reads back as the same bits."""
    digits = f"{np.float32(value):.9g}"
    return f"{digits}f" if re.search("[.e]", digits) else f"{digits}.0f"


def array(kind: str, name: str, attribute: str, values: Array) -> str:
    """The definition of a constant array of `kind`; values are written in their order, lines are filled."""
    flat = values.ravel()
    if kind == "float":
        words = [number(value) for value in flat.tolist()]
    elif kind == "double":
        words = [repr(float(value)) for value in flat.tolist()]
    elif flat.dtype == np.float16:
        words = [f"0x{bits:04x}" for bits in flat.view(np.uint16).tolist()]
    else:
        words = [str(value) for value in flat.tolist()]
    return f"{attribute} static const {kind} {name}[{len(words)}] = {{\n{_filled(words)}}};\n"


def _filled(words: Iterable[str]) -> str:
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > LINE:
            lines.append(line)
            line = "   "
        line += f" {word},"
    lines.append(line)
    return "".join(f"{line}\n" for line in lines)
