"""`edgerl info`: what a file is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgerl.cli.support.output import Json, print_json, print_table


def command(
    file: Annotated[
        Path,
        typer.Argument(
            help="Policy, checkpoint, learner, snapshot, ONNX model, replay, device profile; run or state folder."
        ),
    ],
    config: Annotated[
        bool, typer.Option("--config", help="Print the options of a run folder as TOML, for `edgerl train --config`.")
    ] = False,
    json: Json = False,
) -> None:
    """Say what a file is: kind, environment, sizes, sparsity, action contract, hash, versions.

    The whole file is checked, and damage is reported.

    Example: edgerl info runs/latest/policy.safetensors
    """
    from edgerl.commands.info import info

    if config:
        from edgerl.config import to_toml
        from edgerl.training.folder import read_config

        print(to_toml(read_config(file)), end="")
        return
    description = info(file)
    if json:
        print_json(description)
        return
    layers = description.pop("layers", [])
    lines = list(_lines(description))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")
    if layers:
        print_table(
            [name.replace("_", " ") for name in layers[0]], ([_text(v) for v in row.values()] for row in layers)
        )


def _lines(description: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(name, text) of every value, those of inner objects under a dotted name."""
    for name, value in description.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{prefix}{_text(name)}.")
        elif name != "layers":
            yield f"{prefix}{_text(name)}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(f"({_text(each)})" if isinstance(each, list) else _text(each) for each in value)
    text = "–" if value is None else str(value)
    return text if text.isprintable() else repr(text)  # a file must not steer the terminal
