"""How weights are stored, as commands ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, get_args

import typer

if TYPE_CHECKING:
    from edgerl.policy.compact import Precision as Known

Dtype = Annotated[
    str, typer.Option(help="How weights are stored: fp32, fp16, int8, or int4: hidden layers in it, others in int8.")
]
Outliers = Annotated[
    float | None,
    typer.Option(
        help="Share of the weights that int8 and int4 keep exact.", show_default="0.01 with int8, 0.02 with int4"
    ),
]


def precision_of(dtype: str) -> Known:
    """Raises ConfigError."""
    from edgerl.errors import ConfigError
    from edgerl.policy.compact import Precision

    precision: Known | None = next((known for known in get_args(Precision) if known == dtype), None)
    if precision is None:
        raise ConfigError(f"--dtype is {dtype!r}; expected {', '.join(get_args(Precision))}")
    return precision
