"""JSON in which a name is there twice is refused by whatever reads a file."""

from __future__ import annotations

import ast
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgerl.commands.export import export_policy
from edgerl.config import make_config, to_json
from edgerl.edge.acting.onnx_policy import METADATA_KEY, OnnxPolicy, made_from
from edgerl.edge.continual.replay import Replay
from edgerl.errors import FileFormatError
from edgerl.files.strict_json import parse_json
from edgerl.files.tensors import TensorReader, write_tensors
from edgerl.policy import format as policy_file
from edgerl.profiling.latency.points import read_points
from edgerl.profiling.measuring.measurement import parse_result
from edgerl.profiling.microcontroller import record
from edgerl.report.sources import _read_fit
from edgerl.studies.study import read_record
from edgerl.training.folder import read_config
from edgerl.training.records import read_versions
from tests.policy.policies import random_policy
from tests.profiling.measurements import c_result, document

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("text", ["0", '"a"', "[1, {}]", '{"a": {"b": 1}, "b": {"a": 1.5e3}}', '{"": null, " ": true}'])
def test_other_json_is_read_as_python_reads_it(text: str) -> None:
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 1}', "it has the name 'a' twice"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "it has the name 'a' twice"),  # the same name, written in two ways
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("[" * 100_000, "it nests too deeply"),
        ("[1] 2", "Extra data"),
        ("", "Expecting value"),
        (b"\xff", "'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_json(text: str | bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)


def test_no_other_code_reads_json() -> None:
    """Nor does a checker of another kind: there is one, with one rule for names."""
    for folder in ("edgerl", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
            assert path.name == "strict_json.py" or not names & {"loads", "JSONDecoder"} - _toml(path), path


def _toml(path: Path) -> set[str]:
    return {"loads"} if path.name == "toml.py" else set()


def twice(text: str) -> str:
    """A JSON object whose first member is there once more, so that most readers would not see a difference."""
    pairs = list(json.loads(text).items())
    members = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in [pairs[0], *pairs])
    return "{" + ", ".join(members) + "}"


def policy_whose_header_names_a_tensor_twice(folder: Path) -> Callable[[], object]:
    """Both entries are the same, so that every safetensors reader accepts the file."""
    data = policy_file.to_bytes(random_policy(0))
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    text = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    path = folder / "policy.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + data[8 + length :])
    return lambda: policy_file.load(path)


def bundle_whose_header_names_a_tensor_twice(folder: Path) -> Callable[[], object]:
    path = folder / "learner.safetensors"
    write_tensors(path, "learner", 1, {}, {"a": np.zeros(3)})
    data = path.read_bytes()
    entry = b'"a":{"dtype":"F64","shape":[3],"data_offsets":[0,24]}'
    assert entry in data
    path.write_bytes(data.replace(entry + b"}" + b" " * (len(entry) + 1), entry + b"," + entry + b"}"))
    return lambda: TensorReader(path, "learner", 1)


def config_of_a_run(folder: Path) -> Callable[[], object]:
    (folder / "config.json").write_text(twice(to_json(make_config(environment="Pendulum-v1"))))
    return lambda: read_config(folder)


def record_of_a_study(folder: Path) -> Callable[[], object]:
    (folder / "study.json").write_text('{"study": "a", "study": "b"}')
    return lambda: read_record(folder)


def record_of_a_fit(folder: Path) -> Callable[[], object]:
    (folder / "fit-x.json").write_text('{"device": "a", "device": "b"}')
    return lambda: _read_fit(folder / "fit-x.json")


def header_of_a_replay(folder: Path) -> Callable[[], object]:
    path = folder / "replay.bin"
    Replay(path, 3, 1, 10).close()
    data = path.read_bytes()
    begin, end = data.index(b"{"), data.index(b"}") + 1
    text = twice(data[begin:end].decode()).encode()
    path.write_bytes(data[:begin] + text.ljust(4096 - begin, b"\0") + data[4096:])
    return lambda: Replay.open_recorded(path, 0)


def metadata_of_an_export(folder: Path) -> Callable[[], object]:
    path = _export(folder)
    model = onnx.load(path)
    model.metadata_props[0].value = twice(model.metadata_props[0].value)
    onnx.save(model, path)
    assert made_from(path.read_bytes()) is None
    return lambda: OnnxPolicy(path)


def _export(folder: Path) -> Path:
    return export_policy(random_policy(0), "onnx", folder / "policy.onnx").path


def result_of_a_benchmark(_: Path) -> Callable[[], object]:
    text = document(c_result()).decode()
    return lambda: parse_result(text.replace('"version": 1', '"version": 1, "version": 1', 1).encode(), "it")


def published_points(folder: Path) -> Callable[[], object]:
    (folder / "points.jsonl").write_text('{"net": "1-1", "net": "1-1"}\n')
    return lambda: read_points(folder / "points.jsonl")


def measurement_beside_exported_c(folder: Path) -> Callable[[], object]:
    (folder / record.NAME).write_text('{"core": "a", "core": "b"}')
    return lambda: record._content(folder / record.NAME)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (policy_whose_header_names_a_tensor_twice, "action.high"),
        (config_of_a_run, "environment"),
        (record_of_a_study, "study"),
        (record_of_a_fit, "device"),
        (header_of_a_replay, "observations"),
        (metadata_of_an_export, "about"),
        (result_of_a_benchmark, "version"),
        (published_points, "net"),
        (measurement_beside_exported_c, "core"),
    ],
)
def test_a_name_that_is_there_twice(make: Callable[[Path], Callable[[], Any]], name: str, tmp_path: Path) -> None:
    read = make(tmp_path)
    with pytest.raises(FileFormatError, match=rf"it has the name '{name}' twice") as caught:
        read()
    assert "\n" not in str(caught.value)


def test_a_header_that_is_exact_names_no_tensor_twice(tmp_path: Path) -> None:
    read = bundle_whose_header_names_a_tensor_twice(tmp_path)
    with pytest.raises(FileFormatError, match=r"it has the name 'a' twice"):
        read()


def test_versions_of_a_run_with_a_name_twice_are_none(tmp_path: Path) -> None:
    session = '{"from_step": 0, "from_step": 5, "versions": {"edgerl": "1"}}'
    (tmp_path / "versions.json").write_text('{"sessions": [' + session + "]}")
    assert read_versions(tmp_path / "versions.json") == []


def test_an_onnx_file_has_our_metadata_once(tmp_path: Path) -> None:
    """onnxruntime takes one of two without a word, onnx shows both."""
    path = _export(tmp_path)
    model = onnx.load(path)
    model.metadata_props.add(key=METADATA_KEY, value=model.metadata_props[0].value)
    onnx.save(model, path)
    with pytest.raises(FileFormatError, match=r"policy\.onnx has the metadata 'edgerl' twice; it was altered, export"):
        OnnxPolicy(path)
    assert made_from(path.read_bytes()) is None
