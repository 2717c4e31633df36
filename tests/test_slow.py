"""The list of slow tests names tests that there are."""

from __future__ import annotations

import ast
from pathlib import Path

from tools.slow_tests import slow_tests

from .conftest import SLOW

ROOT = Path(__file__).parents[1]


def test_every_slow_test_is_there() -> None:
    for name in SLOW:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        if not function:
            continue
        functions = {
            node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
        }
        assert function in functions, name


def test_a_slow_test_is_slow_in_all_of_its_cases_together() -> None:
    said = """
0.20s call     tests/test_a.py::test_often[1]
0.20s setup    tests/test_a.py::test_often[2]
0.20s call     tests/test_a.py::test_once
"""
    assert slow_tests(said.splitlines()) == ["tests/test_a.py::test_often"]


def test_a_file_with_slow_fixtures_is_slow() -> None:
    said = ["9.00s setup    tests/test_a.py::test_first", "0.50s call     tests/test_a.py::test_second"]
    assert slow_tests(said) == ["tests/test_a.py"]
