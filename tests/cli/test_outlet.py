"""What an outlet writes to files that are full, and to pipes that are full, slow or gone."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerl.cli.support import outlet as outlet_module
from edgerl.cli.support.outlet import Outlet, outlet_of

LOG = Path("log")
PAGE = os.sysconf("SC_PAGE_SIZE")
"""The least that a pipe takes: 4 KiB, or 64 with some kernels for Arm."""


@contextlib.contextmanager
def limited_to(n_bytes: int) -> Iterator[None]:
    """No file can be longer, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, there will be none."""
    monkeypatch.setattr(outlet_module, "PATIENCE_SECONDS", 0.0)


@contextlib.contextmanager
def pipe_of_a_page() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """(the end to read, the stream to write to)"""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    with open(writer, "w", encoding="utf-8") as stream:
        yield reader, stream
    with contextlib.suppress(OSError):  # a test may have closed it
        os.close(reader)


def say(out: Outlet, *lines: str) -> None:
    for line in lines:
        print(line, file=out, flush=True)


# Files.


@pytest.mark.parametrize("mode", ["w", "a"])
@pytest.mark.parametrize("room", [0, 1, 100, 9_999, 10_000])
def test_a_line_that_a_full_disk_takes_in_part_is_absent_and_the_next_ones_go_on(mode: str, room: int) -> None:
    LOG.write_text("before\n" * (mode == "a"))
    with LOG.open(mode) as stream:
        out = Outlet(stream)
        say(out, "first")
        kept = LOG.read_text()
        assert kept.endswith("first\n")
        with limited_to(len(kept) + room):
            say(out, "x" * 10_000, "y" * 10_000)
            assert LOG.read_text() == kept
        say(out, "last")
    assert LOG.read_text() == kept + "last\n"


def test_a_file_to_which_somebody_else_wrote_is_not_cut() -> None:
    with LOG.open("w") as stream, LOG.open("a") as other:
        out = Outlet(stream)
        say(out, "first")
        print("other", file=other, flush=True)
        assert not out._take_back(3)
    assert LOG.read_text() == "first\nother\n"


def test_a_disk_that_is_always_full_is_no_error() -> None:
    with open("/dev/full", "w") as stream:
        say(Outlet(stream), "one", "two")


# Pipes.


@pytest.mark.usefixtures("impatient")
def test_a_pipe_that_is_full_takes_whole_lines_or_none() -> None:
    with pipe_of_a_page() as (reader, stream):
        out = Outlet(stream)
        say(out, "a" * (PAGE - 96), "b" * (PAGE - 96), "c")
        assert os.read(reader, 2 * PAGE) == b"a" * (PAGE - 96) + b"\n"
        say(out, "d")
        assert os.read(reader, 2 * PAGE) == b"d\n"


@pytest.mark.usefixtures("impatient")
def test_a_line_longer_than_the_pipe_is_completed_before_the_next() -> None:
    with pipe_of_a_page() as (reader, stream):
        out, seen = Outlet(stream), b""
        say(out, "a" * 3 * PAGE, "lost", "lost as well")
        while chunk := os.read(reader, 2 * PAGE):
            seen += chunk
            say(out, "next")
            if seen.endswith(b"next\n"):
                break
        assert seen.decode().splitlines()[0] == "a" * 3 * PAGE
        assert set(seen.decode().splitlines()[1:]) == {"next"}


def test_a_slow_reader_is_waited_for_but_not_for_long() -> None:
    with pipe_of_a_page() as (reader, stream):
        out = Outlet(stream)
        say(out, "a" * (PAGE - 1))
        begin = time.monotonic()
        say(out, "b")
        assert time.monotonic() - begin >= outlet_module.PATIENCE_SECONDS
        assert os.read(reader, 2 * PAGE) == b"a" * (PAGE - 1) + b"\n"


def test_a_pipe_that_does_not_block_is_like_another() -> None:
    with pipe_of_a_page() as (reader, stream):
        os.set_blocking(stream.fileno(), False)
        out = Outlet(stream)
        say(out, "a" * 3 * PAGE)
        assert os.read(reader, 2 * PAGE) == b"a" * PAGE
        say(out, "b")
        assert os.read(reader, 2 * PAGE) == b"a" * PAGE


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_has_left_is_no_error() -> None:
    with pipe_of_a_page() as (reader, stream):
        os.close(reader)
        say(Outlet(stream), "one", "two" * PAGE)


# Streams.


def test_text_is_encoded_as_the_stream_would() -> None:
    with LOG.open("w", encoding="latin-1", errors="backslashreplace") as stream:
        out = Outlet(stream)
        say(out, "µ ≈ é")
        assert not out.isatty()
        assert out.fileno() == stream.fileno()
    assert LOG.read_bytes() == b"\xb5 \\u2248 \xe9\n"


def test_a_stream_without_a_descriptor_is_taken_as_it_is() -> None:
    stream = io.StringIO()
    assert outlet_of(stream) is stream
