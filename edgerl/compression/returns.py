"""Returns of candidates, measured over the same episodes as the reference's, so that differences are paired."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edgerl.environments.make import Environment
from edgerl.errors import ConfigError
from edgerl.training.evaluation import evaluate, mean_interval

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MeanReturn:
    """Mean return over evaluation episodes with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def mean_return(environment: Environment, act: Callable[[Array], Array], seeds: Sequence[int]) -> MeanReturn:
    """Of one episode for each seed; act: observation [n] → action [m]."""
    return MeanReturn(*mean_interval(evaluate(environment, act, seeds)))


def describe_returns(returns: Sequence[MeanReturn], episodes: int) -> str:
    """Before and after, for people."""
    described = " → ".join(f"{each.mean:.1f} [{each.low:.1f}, {each.high:.1f}]" for each in returns)
    return f"return over {episodes} episodes, 95 % bootstrap interval: {described}"


@dataclass(frozen=True)
class Goal:
    """What a return must not fall below: the reference's less a share of it, or a fixed return."""

    max_loss: float | None  # share of the reference's mean, in (0, 1)
    min_return: float | None

    def __post_init__(self) -> None:
        if (self.max_loss is None) == (self.min_return is None):
            raise ConfigError("both a largest loss and a smallest return were given; expected one of them")
        if self.max_loss is not None and not 0 < self.max_loss < 1:
            raise ConfigError(f"the largest loss is {self.max_loss:g}; expected a share in (0, 1), such as 3%")
        if self.min_return is not None and not math.isfinite(self.min_return):
            raise ConfigError(f"the smallest return is {self.min_return}; expected a finite number")

    def least_return(self, reference: float) -> float:
        """The limit, for a reference with this mean return."""
        if self.min_return is not None:
            return self.min_return
        assert self.max_loss is not None
        return reference - self.max_loss * abs(reference)

    def is_kept(self, returns: MeanReturn, gain: MeanReturn, reference: float) -> bool:
        """Whether a return is kept with confidence: by the low end of its interval, or of its gain's for `max_loss`."""
        low = reference + gain.low if self.min_return is None else returns.low
        return low >= self.least_return(reference)


@dataclass(frozen=True)
class Measurement:
    """A policy's return, and its gain over the reference in the same episodes: a loss if negative."""

    returns: MeanReturn
    gain: MeanReturn
    reference: MeanReturn
    is_kept: bool


def compare(returns: Array, reference: Array, goal: Goal) -> Measurement:
    """The measurement from the returns [episodes] of a policy and of the reference, episode by episode."""
    own, gain, before = (MeanReturn(*mean_interval(part)) for part in (returns, returns - reference, reference))
    return Measurement(own, gain, before, goal.is_kept(own, gain, before.mean))
