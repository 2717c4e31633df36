"""Which engine a configuration means; found out without loading either."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgerl.config import Config
from edgerl.edge.engine.library import library
from edgerl.errors import MissingExtraError

Notice = Callable[[str], None]


def with_engine(config: Config, notice: Notice) -> Config:
    """The configuration with `auto` resolved: native on the CPU where it was built and can follow, else torch, which
    `notice` says."""
    if config.engine != "auto":
        return config
    if config.device == "cuda":
        return replace(config, engine="torch")
    if config.evolution.drop == "global-threshold":
        notice("training with PyTorch, which is slower: `drop` is global-threshold, which the native engine lacks")
        return replace(config, engine="torch")
    try:
        library()
    except MissingExtraError as error:
        notice(f"training with PyTorch instead, which is slower: {error}")
        return replace(config, engine="torch")
    return replace(config, engine="native")
