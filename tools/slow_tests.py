"""Makes tests/slow.txt, the tests that `make check` leaves out, from what pytest says about durations.

    pytest --durations=0 --durations-min=0.1 | python -m tools.slow_tests

A test is slow where all of its cases together, their fixtures included, take longer than LONGEST_SECONDS.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from edgerl.files.atomic import write_atomically

LONGEST_SECONDS = 0.4
LIST = Path(__file__).parents[1] / "tests/slow.txt"
_LINE = re.compile(r"\s*([\d.]+)s (?:call|setup|teardown)\s+([^\s\[]+)")


def slow_tests(lines: Iterable[str]) -> list[str]:
    """Names, as in tests/test_files.py::test_name."""
    seconds: dict[str, float] = defaultdict(float)
    for line in lines:
        if found := _LINE.match(line):
            seconds[found[2]] += float(found[1])
    return sorted(name for name, taken in seconds.items() if taken > LONGEST_SECONDS)


if __name__ == "__main__":
    write_atomically(LIST, "".join(f"{name}\n" for name in slow_tests(sys.stdin)).encode())
