"""Files of published latencies: what is read, and every way of being invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgerl.errors import FileFormatError
from edgerl.profiling.latency.points import parse_net, read_points

ROW: dict[str, Any] = {
    "device_id": "stm32f405",
    "runtime_class": "generated-c",
    "cpu": "Cortex-M4F",
    "mhz": 168,
    "net": "13-64-64-4",
    "precision": "fp32 soft",
    "latency_us": 743,
}


def written(tmp_path: Path, *rows: dict[str, Any] | str) -> Path:
    path = tmp_path / "points.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def test_a_point(tmp_path: Path) -> None:
    (point,) = read_points(written(tmp_path, ROW, ""))
    assert (point.device_id, point.net, point.precision) == ("stm32f405", "13-64-64-4", "fp32")
    assert (point.layers, point.outputs, point.multiply_adds) == (3, 64 + 64 + 4, 13 * 64 + 64 * 64 + 64 * 4)
    assert (point.clock_mhz, point.doubt) == (168, None)


def test_cpu_and_clock_may_be_absent_and_a_suspect_says_so(tmp_path: Path) -> None:
    row = {key: value for key, value in ROW.items() if key not in ("cpu", "mhz")}
    (point,) = read_points(written(tmp_path, {**row, "note": "SUSPECT: two figures"}))
    assert (point.cpu, point.clock_mhz) == (None, None)
    assert point.doubt == "its note says SUSPECT: two figures"


def test_an_absent_cpu_may_be_null(tmp_path: Path) -> None:
    (point,) = read_points(written(tmp_path, {**ROW, "cpu": None, "mhz": None}))
    assert (point.cpu, point.clock_mhz) == (None, None)


def test_a_line_ends_where_json_says(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    rows = [{**ROW, "note": f"one{end}two"} for end in ("\u2028", "\x85")]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as an editor on Windows writes it
    assert len(read_points(path)) == 2


def test_a_note_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (point,) = read_points(written(tmp_path, {**ROW, "note": "SUSPECT\n\x1b[2J" + 999 * "x"}))
    assert point.doubt is not None
    assert point.doubt.isprintable()
    assert len(point.doubt) < 250


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not a JSON object"),
        ("[1]", "line 2: .*is not a JSON object"),
        ({"device_id": None}, "line 2: device_id is None; expected a text on one line"),
        ({"device_id": "a\nb"}, "device_id is 'a.*; expected a text on one line"),
        ({"runtime_class": "magic"}, "runtime_class is 'magic'; expected one of interpreter, tuned-kernels"),
        ({"net": "13"}, "net is '13'; expected layer widths, as in 13-64-64-4"),
        ({"net": "13-0-4"}, "net is '13-0-4'; expected layer widths"),
        ({"precision": "int4"}, "precision is 'int4'; expected one of fp32, fp16, int8"),
        ({"precision": " "}, "precision is ' '; expected one of"),
        ({"latency_us": 0}, "latency_us is 0; expected a number from 1e-06 to 1e\\+12"),
        ({"latency_us": "743"}, "latency_us is '743'; expected a number from 1e-06 to 1e\\+12"),
        ({"latency_us": True}, "latency_us is True; expected a number from 1e-06 to 1e\\+12"),
        ({"mhz": float("nan")}, r"JSON object \(NaN is not a JSON number\); expected one a line"),
        ({"mhz": 10**400}, "mhz is 1000.*; expected a number from 1e-06 to 1e\\+12"),
        ({"latency_us": 1e-310}, "latency_us is 1e-310; expected a number from"),
        ({"mhz": 5e-324}, "mhz is 5e-324; expected a number from"),
        ({"cpu": 7}, "cpu is 7; expected a text on one line"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, row: dict[str, Any] | str, message: str) -> None:
    bad = row if isinstance(row, str) else {**ROW, **row}
    with pytest.raises(FileFormatError, match=message):
        read_points(written(tmp_path, ROW, bad))


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "is empty"), (b"\n", "has 0 points"), (b"\xff\xfe", "is not UTF-8 text")]
)
def test_a_file_without_points(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "points.jsonl").write_bytes(data)
    with pytest.raises(FileFormatError, match=message):
        read_points(tmp_path / "points.jsonl")


@pytest.mark.parametrize("text", ["", "1", "1-", "-1-2", "1-2x", "1-٣", "1-65537", "1--2", "1-2-" * 200 + "1"])
def test_texts_that_are_no_network(text: str) -> None:
    assert parse_net(text) is None
