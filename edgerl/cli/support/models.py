"""Which model a command means, with what it takes by itself said on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.cli.support.output import note
from edgerl.commands import models
from edgerl.errors import ConfigError
from edgerl.run_folder import ONNX, POLICY

if TYPE_CHECKING:
    from edgerl.environments.arguments import Arguments


def named_path(text: str) -> Path:
    """The path that an argument names; pathlib takes an empty one, as from a variable that is not set, for here."""
    if not text:
        raise ConfigError("an argument is empty; expected a path")
    return Path(text)


def find_run(run: Path | None) -> Path:
    """As edgerl.commands.models.find_run."""
    return models.find_run(run, note)


def find_model(
    model: Path | None,
    names: tuple[str, ...] = (POLICY, ONNX),
    *,
    prefers_first: bool = False,
    fix: str = "train one: edgerl train",
) -> Path:
    """As edgerl.commands.models.find_model."""
    return models.find_model(model, note, names, prefers_first=prefers_first, fix=fix)


def task_of(about: Mapping[str, Any], env: str | None, source: Path) -> tuple[str, Arguments]:
    """As edgerl.commands.models.task_of."""
    return models.task_of(about, env, source, note)
