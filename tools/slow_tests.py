"""Makes tests/slow.txt, the tests that `make check` leaves out, from what pytest says about durations.

    pytest --durations=0 --durations-min=0.1 | python -m tools.slow_tests

A test is slow where all of its cases together, their fixtures included, take longer than LONGEST_SECONDS; a whole file
where its fixtures take longer than LONGEST_FIXTURES_SECONDS, for without the first test that has them the second does.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from edgerl.files.atomic import write_atomically

LONGEST_SECONDS = 0.3
LONGEST_FIXTURES_SECONDS = 2.0
LIST = Path(__file__).parents[1] / "tests/slow.txt"
_LINE = re.compile(r"\s*([\d.]+)s (call|setup|teardown)\s+([^\s\[]+)")


def slow_tests(lines: Iterable[str]) -> list[str]:
    """Names, as in tests/test_files.py::test_name, or tests/test_files.py."""
    seconds: dict[str, float] = defaultdict(float)
    fixtures: dict[str, float] = defaultdict(float)
    for line in lines:
        if found := _LINE.match(line):
            seconds[found[3]] += float(found[1])
            fixtures[found[3].partition("::")[0]] += float(found[1]) if found[2] == "setup" else 0.0
    files = {name for name, taken in fixtures.items() if taken > LONGEST_FIXTURES_SECONDS}
    tests = {name for name, taken in seconds.items() if taken > LONGEST_SECONDS}
    return sorted(files | {name for name in tests if name.partition("::")[0] not in files})


if __name__ == "__main__":
    write_atomically(LIST, "".join(f"{name}\n" for name in slow_tests(sys.stdin)).encode())
