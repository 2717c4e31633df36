"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from . import needs, streams
from .processes import Processes

HERE = Path(__file__).parent

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("edgerl", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("edgerl")


@pytest.fixture(autouse=True, scope="module")
def _collect_garbage() -> Iterator[None]:
    """What a file's tests leave unclosed is said of that file, not of another one later."""
    yield
    gc.collect()
    gc.freeze()  # what is left, libraries above all, is not looked at again: that would take minutes in all


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder of its own, from which `robots` can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Programs that end with the test."""
    with Processes() as started:
        yield started


@pytest.fixture
def edgerl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: edgerl("train", "--steps", 10) → (exit code, stdout, stderr)."""
    from edgerl.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgerl", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left, streams.put_back():
            main()
        captured = capfd.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


SLOW = frozenset((HERE / "slow.txt").read_text().split())
"""What `make check` leaves out; tools/slow_tests.py makes the list."""


@pytest.hookimpl(tryfirst=True)  # before `-m` is looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow. Deselect, in one printed list, the tests whose Debian programs are absent; in CI they stay and
    fail."""
    for item in items:
        function = item.nodeid.partition("[")[0]
        if function in SLOW or function.partition("::")[0] in SLOW:
            item.add_marker("slow")
    absent = set(needs.missing())
    lacking = [item for item in items if any(absent.intersection(m.args) for m in item.iter_markers("needs"))]
    if lacking and not os.environ.get("CI"):
        config.hook.pytest_deselected(items=lacking)
        items[:] = [item for item in items if item not in lacking]
        names = "\n  ".join(item.nodeid for item in lacking)
        print(f"\ndeselected, since {', '.join(sorted(absent))} is absent:\n  {names}", file=sys.stderr)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test whose Debian programs are absent fails with the reason."""
    for marker in item.iter_markers("needs"):
        if absent := [program for program in marker.args if needs.find(program) is None]:
            pytest.fail(f"needs {', '.join(absent)}: install it, or run make test as root, which does", pytrace=False)
