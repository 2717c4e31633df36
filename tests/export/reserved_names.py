"""Write export/c/reserved_names.txt anew: `python -m tests.export.reserved_names`, where the compilers below are.

What the headers of ISO C11 (7.1.2) and POSIX.1-2008 (Base Definitions, 13) declare and define: asked of the C libraries
that firmware and Linux programs are linked with, in their fullest mode, so that what they add themselves is there, too.
What a compiler defines without any header is asked of the compilers.
"""

from __future__ import annotations

import re
import subprocess

from edgerl.export.c.text import HEADERS, RESERVED

COMPILERS = (
    ("gcc", "-std=gnu17", "-D_GNU_SOURCE"),  # glibc
    ("gcc", "-std=c11", "-D_XOPEN_SOURCE=700"),
    ("gcc", "-std=gnu17", "-m32", "-D_GNU_SOURCE"),
    ("arm-none-eabi-gcc", "-std=gnu17", "-D_GNU_SOURCE"),  # newlib
    ("avr-gcc", "-std=gnu11"),  # avr-libc
    ("riscv64-unknown-elf-gcc", "-std=gnu17"),
    ("powerpc-linux-gnu-gcc", "-std=gnu17"),
)


def main() -> None:
    """Ask every compiler, and write what it answers."""
    found: set[str] = set()
    for compiler in COMPILERS:
        found |= _names(compiler)
    names = sorted(name for name in found if re.fullmatch("[A-Za-z](_?[A-Za-z0-9])*", name))
    RESERVED.write_text("\n".join(names) + "\n")


def _names(compiler: tuple[str, ...]) -> set[str]:
    headers = [header for header in HEADERS.split() if _preprocessed(compiler, f"#include <{header}.h>\n")]
    text = "".join(f"#include <{header}.h>\n" for header in headers)
    own, macros = (_preprocessed(compiler, source, "-dM") for source in ("\n", text))
    return set(re.findall(r"^#define (\w+)", own + macros, re.M)) | declared(_preprocessed(compiler, text, "-P"))


def _preprocessed(compiler: tuple[str, ...], text: str, *options: str) -> str:
    """Of `text`; nothing where a header is missing."""
    command = [*compiler, *options, "-E", "-x", "c", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def declared(text: str) -> set[str]:
    """Names at file scope: of functions, types, variables, tags and enumerated constants."""
    text = re.sub(r'"(\\.|[^"\\])*"', "", re.sub(r"^#.*", "", text, flags=re.M))
    text = re.sub(r"\benum\b(\s+\w+)?\s*\{([^{}]*)\}", r" \1 \2 ", text)
    while (inner := re.sub(r"\{[^{}]*\}", ";", text)) != text:
        text = inner
    names = set(re.findall(r"\(\s*\*\s*(\w+)\s*[()]", text))  # of pointers to functions, or what returns one
    while (inner := re.sub(r"\([^()]*\)", " ", text)) != text:
        text = inner
    return names | set(re.findall(r"[A-Za-z_]\w*", text))


if __name__ == "__main__":
    main()
