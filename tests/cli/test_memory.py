"""Too little memory is said in one line, in whosever words it comes."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator

import numpy as np
import pytest

import edgerl.cli
from edgerl.__main__ import main


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """As they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _no_room_for_an_array() -> None:
    np.empty(1 << 60, np.uint8)


def _no_room_for_a_thread() -> None:
    raise RuntimeError("can't start new thread")


def _no_room_for_a_library() -> None:
    try:
        raise ImportError("numpy.so: failed to map segment from shared object")
    except ImportError as error:
        raise ImportError("IMPORTANT: PLEASE READ THIS") from error


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (_no_room_for_an_array, r"Unable to allocate 1\.00 EiB for an array .*"),
        (_no_room_for_a_thread, "can't start new thread"),
        (_no_room_for_a_library, r"numpy\.so: failed to map segment from shared object"),
    ],
)
def test_it_is_said(
    command: object, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edgerl.cli, "main", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert re.fullmatch(
        rf"edgerl: there is too little memory \({words}\); give this process more\n", capfd.readouterr().err
    )


def test_any_other_error_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(edgerl.cli, "main", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main()
