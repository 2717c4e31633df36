"""Activations and LayerNorm of a policy against PyTorch's."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 — PyTorch's own convention

from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS
from edgerl.policy.compact import LayerNorm
from tests.edge.compiled import ENGINE

X = np.concatenate([np.linspace(-12, 12, 241), [-1e4, -88.5, 88.5, 1e4, 0.0, -0.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_pytorchs(name: str, dtype: type[np.floating]) -> None:
    x = X.astype(dtype)
    y = ACTIVATIONS[name].forward(x)
    exact = x.astype(np.float64) if name == "identity" else getattr(F, name)(torch.from_numpy(X.astype(dtype)).double())
    assert y.dtype == dtype
    np.testing.assert_allclose(y, exact, rtol=4 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).eps)
    assert np.isnan(ACTIVATIONS[name].forward(np.array([np.nan], dtype))).all()


def test_layer_norm_is_pytorchs() -> None:
    rng = np.random.default_rng(0)
    x, scale, shift = rng.normal(3, 2, (7, 33)), rng.normal(size=33), rng.normal(size=33)
    norm = LayerNorm(scale.astype(np.float32), shift.astype(np.float32), 1e-3)
    parts = (torch.from_numpy(part).double() for part in (norm.scale, norm.shift))
    expected = F.layer_norm(torch.from_numpy(x), (33,), *parts, eps=1e-3)
    np.testing.assert_allclose(norm(x), expected, rtol=1e-12, atol=1e-14)
    assert norm(x.astype(np.float32)).dtype == np.float32


def test_the_engine_numbers_activations_in_this_order() -> None:
    header = (ENGINE / "edgerl.h").read_text()
    _, _, declared = header.partition("typedef enum edgerl_activation {")
    numbered = re.findall(r"EDGERL_(\w+) = (\d+)", declared[: declared.index("}")])
    assert [(name.upper(), str(number)) for number, name in enumerate((*ACTIVATIONS, *CELLS))] == numbered
    assert get_args(ActivationName) == tuple(ACTIVATIONS)
