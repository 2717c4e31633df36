"""metrics.csv and the events beside it: what they hold, and damage."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.errors import FileFormatError, OutputError
from edgerl.training.logs import MetricsLog, read_metrics

from .runs import SMALL, state_of, train_small


def test_events_hold_the_numbers_of_metrics() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train_small("run")
    events = EventAccumulator(str(folder)).Reload()
    expected = [(int(row["step"]), row["return_mean"]) for row in read_metrics(folder)]
    found = [(event.step, event.value) for event in events.Scalars("return_mean")]
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=1e-6)


def test_metrics_on_a_full_disk_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsLog, "_add_events", full)
    with pytest.raises(OutputError, match=r"cannot write .*metrics\.csv or the events beside it: No space left"):
        train_small("run")


def test_events_on_a_full_disk_are_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """TensorBoard's own writer has a thread, which prints a traceback of its own."""
    opened = Path.open

    def open_on_full_disk(self: Path, *arguments: Any, **options: Any) -> Any:
        return opened(Path("/dev/full") if "tfevents" in self.name else self, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(
        OutputError, match=r"^cannot write \S*run/metrics\.csv or the events beside it: No space left on"
    ):
        train_small("run")
    assert capfd.readouterr().err == ""


def test_lost_metrics_are_refused() -> None:
    path = train_small("run") / "metrics.csv"
    whole = path.read_text()
    path.write_text(whole[:-2])  # of the last number, a digit
    with pytest.raises(FileFormatError, match=r"metrics\.csv has 3 whole rows; expected the checkpoint's 4"):
        edgerl.train("robots:robot", resume="run")
    path.write_text("".join(whole.splitlines(keepends=True)[:2]))
    with pytest.raises(FileFormatError, match=r"metrics\.csv has 1 whole rows; expected the checkpoint's 4; restore"):
        edgerl.train("robots:robot", resume="run")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("step,", "steps,", r"metrics\.csv has other columns than this run"),
        ("step,", "faults,", r"metrics\.csv has other columns than this run"),
        ("100,", "a,", r"metrics\.csv holds something that is not a number \(could not convert string to float: 'a'\)"),
        ("100,", ",", r"metrics\.csv has a row without a step; restore the file"),
        ("100,", "inf,", r"metrics\.csv has a row without a step; restore the file"),
    ],
)
def test_damaged_metrics_are_refused(old: str, new: str, message: str) -> None:
    path = train_small("run", steps=200) / "metrics.csv"
    text = path.read_text()
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FileFormatError, match=message):
        edgerl.train("robots:robot", resume="run")


def test_metrics_of_an_earlier_version_go_on_with_the_columns_of_this_one() -> None:
    """0.1.0 had three columns less, and in another order: its rows are kept, empty where it did not measure."""
    whole = train_small("whole")

    def stop(status: Any) -> None:
        if status.step == 200:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(edgerl.errors.Interrupted, match="go on with"):
        edgerl.train("robots:robot", out="run", report=stop, **SMALL)
    new = ("success_rate", "training_return_mean", "faults")
    path = Path("run/metrics.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in sorted(rows[0]) if name not in new])
        writer.writeheader()
        writer.writerows({name: value for name, value in row.items() if name not in new} for row in rows)
    edgerl.train("robots:robot", resume="run")
    expected = [
        {name: value for name, value in row.items() if row["step"] > 200 or name not in new}
        for row in state_of(whole)[3]
    ]
    assert state_of(Path("run"))[3] == expected
    header = (whole / "metrics.csv").read_text().splitlines()[0]
    assert path.read_text().splitlines()[0] == header
    from edgerl.report import sources

    table = sources.read([Path("run")]).runs[0].metrics
    assert np.isnan(table["faults"]).tolist() == [True, True, False, False]
