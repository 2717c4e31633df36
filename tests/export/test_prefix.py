"""Names of exported C: whatever prefix is taken compiles, in both exporters, and what the libraries own is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from edgerl.errors import ConfigError
from edgerl.export.c import Options
from edgerl.export.c.text import HEADERS, KEYWORDS, RESERVED, check_prefix
from edgerl.export.c_learner.source import make_c_learner
from tests.policy.policies import random_policy

from .compiled_c import run, write
from .reserved_names import declared
from .test_c_learner import Case, exported

SILENT = ("-Wall", "-Wextra", "-Werror", "-O0")

NO_IDENTIFIERS = ("", "1leg", "left-leg", "_leg", "left__leg", "leg_", "__leg", "_Leg", "légs", "a b", "a\n", "a" * 41)

THEIRS = (
    "malloc memcpy sin sinf index y0 abs div exit rand signal printf offsetof va_arg "  # functions of ISO C
    "div_t FILE size_t uint8_t jmp_buf NULL EOF INT32_C INT_MAX errno stdin complex I "  # types and macros
    "read write open pipe fork sleep select timeval stat ssize_t SIGKILL rand_r strtok_r strdup bcopy itoa "  # POSIX
    "linux unix i386 PPC vector "  # compilers
    "int class restrict final std wchar_t constexpr typeof and "  # C and C++
    "math stdint stddef string Math STDIO unistd pthread sched "  # headers
    "sem mtx sig atomic aio va "  # families
    "main observation action scratch state edgerl engine ENGINE engine_learner "  # this code's own
)

AWKWARD = (
    *("left_leg", "Left_leg", "LEG", "y", "q", "j", "number", "value", "bits", "even", "difference", "allowed"),
    *("policy", "learner", "own", "real", "layer", "row", "values", "E", "my_malloc", "left", "a1_b2", "a" * 40),
)
"""Taken; names of the exported code's own variables among them."""


@pytest.mark.parametrize("prefix", NO_IDENTIFIERS)
def test_a_prefix_is_an_identifier_that_nobody_reserves(prefix: str) -> None:
    with pytest.raises(ConfigError, match=r"^`prefix` (is|has) .*expected"):
        Options(prefix=prefix)


@pytest.mark.parametrize("prefix", THEIRS.split())
def test_names_of_others_are_refused_by_both_exporters(prefix: str) -> None:
    refused = rf"^`prefix` is '{prefix}', .*; choose another, as in my_{prefix}$"
    with pytest.raises(ConfigError, match=refused):
        Options(prefix=prefix)
    with pytest.raises(ConfigError, match=refused):
        make_c_learner(Path("none"), prefix=prefix)
    check_prefix(f"my_{prefix}")


def test_the_message_says_whose_the_name_is() -> None:
    for prefix, said in (
        ("malloc", r"a name of C, C\+\+, their libraries, a compiler or the exported code"),
        ("Math", r"whose header would hide <math\.h>"),
        ("sem", "which other names begin with, such as SEM_FAILED"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_prefix(prefix)


USER = "".join(
    f"#include <{name}.h>\n" for name in ["stdio", "stdlib", "string", "math", "unistd", "signal", "pthread"]
)


@pytest.mark.parametrize("prefix", AWKWARD)
def test_every_prefix_that_is_taken_compiles_beside_the_libraries(prefix: str, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        write(random_policy(0, precision=precision), tmp_path, Options(prefix=prefix))  # type: ignore[arg-type]
        user = f'{USER}#include "{prefix}.h"\nint main(void) {{ return {prefix}_self_test(); }}\n'
        for name in ("main.c", "user.cpp"):
            (tmp_path / name).write_text(user)
        for standard in ("-std=c11", "-std=gnu17"):
            run("gcc", standard, *SILENT, "-fsyntax-only", f"{prefix}.c", "main.c", folder=tmp_path)
        if shutil.which("g++"):
            run("g++", *SILENT, "-fsyntax-only", "user.cpp", folder=tmp_path)


@pytest.mark.parametrize("prefix", ["Left_leg", "LEG", "own"])
def test_a_learner_of_every_prefix_compiles_beside_the_libraries(prefix: str, tmp_path: Path) -> None:
    exported(Case(), tmp_path, prefix=prefix)
    (tmp_path / "main.c").write_text(f'{USER}#include "{prefix}.h"\nint main(void) {{ return {prefix}_init(); }}\n')
    run("gcc", "-std=c11", *SILENT, f"{prefix}.c", "main.c", "-o", "main", folder=tmp_path)
    run(tmp_path / "main", folder=tmp_path)


def test_no_name_of_a_learner_can_be_one_of_the_engines(tmp_path: Path) -> None:
    """Where an identifier of the engine ends as one of the learner's, what comes before is refused as a prefix."""
    learner = exported(Case(4, "fp16", normalise=True), tmp_path)
    code = re.sub(r"/\*.*?\*/|\.\w+|->\w+", " ", learner.source + learner.header, flags=re.DOTALL)
    words = set(re.findall(r"\b[A-Za-z]\w*", code))
    own = {word for word in words if word.lower().startswith("edgerl_learner_")}
    suffixes = {word.removeprefix(word[: len("edgerl_learner")]) for word in own}
    met = {w.removesuffix(s) for w in words - own for s in suffixes if w.endswith(s) and w != s}
    assert "ENGINE" in met
    assert "engine_learner" not in met, "the engine and an exported learner have functions under one name"
    for prefix in sorted(met):
        with pytest.raises(ConfigError, match="`prefix`"):
            check_prefix(prefix)


def test_the_list_of_names_knows_what_the_headers_here_declare(tmp_path: Path) -> None:
    """Not written by hand: of each kind something is there, and keywords of the compiler's own list are."""
    names = set(RESERVED.read_text().split())
    assert {"malloc", "div_t", "INT32_C", "errno", "rand_r", "timeval", "linux", "AVR"} <= names
    assert not {"left", "policy", "leg", "data"} & names
    here = "".join(f"#include <{h}.h>\n" for h in ("stdlib", "string", "math", "stdio", "time"))
    (tmp_path / "all.c").write_text(here)
    seen = declared(run("gcc", "-std=c11", "-E", "-P", "all.c", folder=tmp_path))
    own = {name for name in seen if re.fullmatch("[a-z](_?[A-Za-z0-9])*", name)}
    assert own - names - set(KEYWORDS.split()) == set()
    assert len(own) > 300
    assert {"math", "stdint", "unistd"} <= set(HEADERS.split())


def test_a_declaration_is_read_to_its_name() -> None:
    assert declared(
        "typedef struct { int left; } div_t; extern int abs(int value) __attribute__((const));\n"
        "enum kind { ONE = 1, TWO }; typedef void (*handler)(int); struct tm { int second; };"
    ) >= {"div_t", "abs", "kind", "ONE", "TWO", "handler", "tm"}
    assert not {"left", "value", "second"} & declared("struct s { int left, second; }; int f(int value);")
