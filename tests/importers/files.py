"""Files of other programs, small ones, in the layouts that these programs write."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


class Actor(nn.Module):
    """A perceptron as robots' policies are: a normaliser in front, perhaps a clip, a norm, half of its outputs unused,
    tanh."""

    def __init__(
        self,
        activation: type[nn.Module],
        widths: Sequence[int] = (9, 16, 12, 4),
        *,
        norm: bool = False,
        clip: float | None = None,
        is_distribution: bool = False,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for n, m in pairwise(widths[:-1]):
            layers += [nn.Linear(n, m), *([nn.LayerNorm(m)] if norm else []), activation()]
        layers.append(nn.Linear(widths[-2], widths[-1] * (2 if is_distribution else 1)))
        self.actor = nn.Sequential(*layers)
        self.clip, self.is_distribution, self.tanh = clip, is_distribution, tanh
        self.register_buffer("mean", torch.randn(1, widths[0]))
        self.register_buffer("std", torch.rand(1, widths[0]) + 0.1)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        x = (obs - self.mean) / (self.std + 1e-2)
        x = x if self.clip is None else x.clamp(-self.clip, self.clip)
        x = self.actor(x)
        if self.is_distribution:
            x, _ = torch.chunk(x, 2, dim=-1)
        return torch.tanh(x) * 2 + 0.5 if self.tanh else x


def exported(module: nn.Module, path: Path, opset: int = 17, n: int = 9) -> Path:
    """As torch.onnx writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, n),),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=["obs"],
            output_names=["actions"],
        )
    return path


def actions(module: nn.Module, observations: Any) -> Any:
    """What PyTorch computes."""
    with torch.no_grad():
        return module(torch.from_numpy(np.asarray(observations, np.float32))).numpy()
