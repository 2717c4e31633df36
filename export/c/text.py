"""Text that goes into C: names, numbers, and what a stranger wrote, made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from edgerl.errors import ConfigError, quoted
from edgerl.policy.compact import Array

LICENSE = "MIT"
SPDX = f"SPDX-License-Identifier: {LICENSE}"
"""Of everything that is generated."""

NOTICE = f"""\
SPDX-FileCopyrightText: 2026 The edgerl authors
 * {SPDX}
 * The code is edgerl's, under that licence; the numbers in it, which your training found, are yours."""
"""Of headers."""

LONGEST_PREFIX = 40

LINE = 120
"""Characters of the longest line."""

KEYWORDS = (
    # C17 (6.4.1) and C23
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
    "alignas alignof bool constexpr false nullptr static_assert thread_local true typeof typeof_unqual "
    # C++20 ([lex.key], [lex.name]), and its namespace
    "and and_eq asm atomic_cancel bitand bitor catch char16_t char32_t char8_t class co_await co_return co_yield compl "
    "concept const_cast consteval constinit decltype delete dynamic_cast explicit export final friend import module "
    "mutable namespace new noexcept not not_eq operator or or_eq override private protected public reinterpret_cast "
    "requires static_cast template this throw try typeid typename using virtual wchar_t xor xor_eq std "
)
"""Of C and C++."""

HEADERS = (
    # ISO C11, 7.1.2
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic "
    "stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype "
    # POSIX.1-2008, Base Definitions, 13
    "aio cpio dirent dlfcn fcntl fmtmsg fnmatch ftw glob grp iconv langinfo libgen monetary mqueue ndbm netdb nl_types "
    "poll pthread pwd regex sched search semaphore spawn strings stropts syslog tar termios trace ulimit unistd utime "
    "utmpx wordexp "
)
"""<name.h>, which a file of that name would hide."""

RESERVED = Path(__file__).with_name("reserved_names.txt")
"""What these headers declare and define, and compilers without them; `python -m tests.export.reserved_names` asks."""

OWN_WORDS = "main observation action scratch state edgerl all clean help install package test"
"""Names that a program, the header, the engine or CMake uses; the engine's others begin with engine_."""


@cache
def _reserved() -> frozenset[str]:
    return frozenset(f"{KEYWORDS} {OWN_WORDS} {RESERVED.read_text('ascii')}".split())


def check_prefix(prefix: str) -> None:
    """Raise ConfigError unless `prefix` and the names that begin with it are nobody's in C and C++, nor <prefix>.h."""
    if not re.fullmatch("[A-Za-z](_?[A-Za-z0-9])*", prefix):
        raise ConfigError(
            f"`prefix` is {quoted(prefix)}; expected a C identifier: a letter, then letters, digits and single "
            "underscores between them, as in left_leg"
        )
    if len(prefix) > LONGEST_PREFIX:
        raise ConfigError(f"`prefix` has {len(prefix)} characters; expected at most {LONGEST_PREFIX}")
    fault = _fault(prefix)
    if fault:
        raise ConfigError(f"`prefix` is {prefix!r}, {fault}; choose another, as in my_{prefix}")


def _fault(prefix: str) -> str:
    """What an identifier may not be; nothing where it may be a prefix."""
    if prefix.lower() in HEADERS.split():  # many file systems don't tell Math.h from math.h
        return f"whose header would hide <{prefix.lower()}.h>"
    if prefix in _reserved() or f"{prefix.lower()}_".startswith("engine_"):
        return "a name of C, C++, their libraries, a compiler or the exported code"
    families = (f"{prefix}_", f"{prefix.upper()}_")
    begun = min((name for name in _reserved() if name.startswith(families)), default="")
    return f"which other names begin with, such as {begun}" if begun else ""


def comment_text(text: object, longest: int = 200) -> str:
    """What a file or a user wrote, as it may stand in a comment: it cannot end it, continue a line or begin another."""
    return re.sub(r"[^A-Za-z0-9 ._+\-:=,;()\[\]{}@#/%&<>|~'\"]", "_", str(text))[:longest].strip()


def number(value: float) -> str:
    """A float32 as a C literal that reads back as the same bits."""
    digits = f"{np.float32(value):.9g}"
    return f"{digits}f" if re.search("[.e]", digits) else f"{digits}.0f"


def array(attribute: str, kind: str, name: str, values: Array) -> str:
    """The definition of a constant array of `kind`; values are written in their order, lines are filled."""
    flat = values.ravel()
    if kind.endswith("double"):
        words = [repr(float(value)) for value in flat.tolist()]
    elif flat.dtype == np.float16:
        words = [f"0x{bits:04x}" for bits in flat.view(np.uint16).tolist()]
    elif np.issubdtype(flat.dtype, np.integer):
        words = [str(value) for value in flat.tolist()]
    else:
        words = [number(value) for value in flat.tolist()]
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
