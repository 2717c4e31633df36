"""What smaller weights cost an exported policy: its return in its own environment, before and after."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgerl.compression.returns import MeanReturn, describe_returns, mean_return
from edgerl.errors import EdgerlError
from edgerl.export.c.form import ON_APPLICATION_PROCESSORS, in_precision
from edgerl.export.c.options import Target
from edgerl.export.c.source import c_actions
from edgerl.policy.compact import Array, CompactPolicy, Precision
from edgerl.training.evaluation import evaluation_seeds
from edgerl.training.subject import FileSubject, acting

EPISODES = 10


@dataclass(frozen=True)
class CReturns:
    """Of the policy as it was, and of the C that was written, in the same episodes."""

    episodes: int
    returns: tuple[MeanReturn, MeanReturn] | None
    why_not: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def describe(self) -> str:
        """For people."""
        if self.returns is None:
            return f"no return was measured: {self.why_not}"
        return describe_returns(self.returns, self.episodes)


def measure_c_returns(policy: CompactPolicy, dtype: Precision | None, target: Target) -> CReturns | None:
    """In the environment that the policy names, where it is one that a file may choose; None where `dtype` changes no
    weight."""
    written, rounds_inputs = in_precision(policy, dtype), target not in ON_APPLICATION_PROCESSORS
    if written is policy:
        return None
    if "environment" not in policy.metadata:
        return CReturns(0, None, "the policy does not name its environment; edgerl prune --env measures one")
    try:
        with closing(FileSubject("the policy", policy, None).environment()) as environment:

            def act(observation: Array) -> Array:
                action = c_actions(written, observation[None], rounds_inputs=rounds_inputs)[0]
                bounded: Array = np.clip(action, environment.action_low, environment.action_high).astype(np.float32)
                return bounded

            seeds = evaluation_seeds(0, EPISODES)
            before, after = (mean_return(environment, each, seeds) for each in (acting(policy, environment), act))
    except EdgerlError as error:
        return CReturns(0, None, str(error))
    return CReturns(EPISODES, (before, after))
