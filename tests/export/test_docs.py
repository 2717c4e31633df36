"""docs/onnx.md says what is so: its two programs run as printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgerl.commands.export import export_policy
from edgerl.edge.acting.control import ControlStatistics


def programs() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _exported(make_policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_policy(make_policy().policy, "onnx", "policy.onnx")


def test_running_it_without_edgerl(make_policy: Any) -> None:
    names: dict[str, Any] = {}
    exec(programs()[0], names)
    expected = make_policy().policy(np.zeros(17), np.float64)
    assert np.allclose(names["action"][0], expected, rtol=0, atol=1e-4)


def test_running_it_at_a_fixed_rate(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[Any] = []
    names = {"read_observation": lambda: np.zeros(17), "send_action": sent.append}
    exec(programs()[1].replace("seconds=60", "seconds=0.05"), names)
    assert capsys.readouterr().out.startswith(ControlStatistics.__name__)
    assert len(sent[0]) == 6
