"""Tables: no wider than the terminal, and no number folded or lost."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.cli.support.output import print_table
from tests.tables import table_lines

FRONT = (
    ("", "policy", "connections", "runtime", "bytes", "latency of a call", "return"),
    [
        ("1", "17-256-256-6 int8", "36215", "onnxruntime", "121.2 KiB", "≈ 410 µs (unvalidated)", "12.5 [12, 13]"),
        ("2", "17-64-64-6 fp32", "5632", "native", "22.9 KiB", "≈ 41 µs (±25 %)", "1.5 [1, 2]"),
    ],
)
"""Too wide for 80 columns, and not for 140."""

PROGRAM = """
from edgerl.cli.support.output import print_table
print_table(("", *"abcdef"), [(8 * "x", *6 * [15 * "y"])])
"""


def test_what_finds_no_place_follows_in_a_further_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(*FRONT, title="The front")
    out = capsys.readouterr().out
    lines = [line.split() for line in table_lines(out)]
    assert out.startswith("The front ")
    assert max(map(len, out.splitlines())) <= 80
    assert ["1", "17-256-256-6", "int8", "36215", "onnxruntime", "121.2", "KiB"] in lines
    assert ["1", "≈", "410", "µs", "(unvalidated)", "12.5", "[12,", "13]"] in lines
    assert [line[0] for line in lines if line[0] in "12"] == ["1", "2", "1", "2"]


def test_a_wide_terminal_has_room_for_one_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    print_table(*FRONT)
    lines = table_lines(capsys.readouterr().out)
    assert len(lines) == 4
    assert lines[0].split() == " ".join(FRONT[0]).split()
    assert 80 < max(map(len, lines)) <= 140


@pytest.mark.parametrize(("columns", "tables"), [(120, 1), (60, 3)])
def test_the_width_is_that_of_the_terminal(columns: int, tables: int) -> None:
    """Six columns of 15 beside one of 8: all in 120, two at a time in 60."""
    terminal, stdout = os.openpty()
    try:
        fcntl.ioctl(stdout, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        subprocess.run([sys.executable, "-c", PROGRAM], stdout=stdout, env=environment, check=True)
        printed = os.read(terminal, 1 << 16).decode()
    finally:
        os.close(stdout)
        os.close(terminal)
    assert printed.count("xxxxxxxx") == tables
    assert printed.count(15 * "y") == 6


NAMES = st.text("abc-_ ", min_size=1, max_size=60).filter(lambda text: text.strip() == text)
DIGITS = "0123456789.%µ"
NUMBERS = st.text(DIGITS, min_size=1, max_size=40)


@given(st.data())
def test_any_table_fits_and_keeps_its_numbers(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 9))
    header = data.draw(st.tuples(NAMES, *(n * [NAMES])))
    rows = data.draw(st.lists(st.tuples(NAMES, *(n * [NUMBERS])), min_size=1, max_size=4))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        print_table(header, rows)
    out = printed.getvalue()
    assert max(map(len, out.splitlines())) <= 80
    words = [word for word in out.split() if set(word) <= set(DIGITS)]
    assert Counter(words) == Counter(number for row in rows for number in row[1:])
