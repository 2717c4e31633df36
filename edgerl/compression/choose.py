"""From candidates to the one that is written, by measuring as few returns as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgerl.compression.candidates import Candidate
from edgerl.compression.returns import Measurement
from edgerl.compression.search import front, ladder, lowest
from edgerl.policy.compact import CompactPolicy

Measure = Callable[[CompactPolicy], Measurement]

REFERENCE = 0
"""The index of the candidate that all others are compared with."""


@dataclass(frozen=True)
class Trial:
    """A candidate and its measured return."""

    candidate: Candidate
    measurement: Measurement

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        candidate, report = self.candidate, self.candidate.report
        return {
            "architecture": candidate.policy.architecture,
            "layers": [
                {
                    "inputs": layer.n_inputs,
                    "outputs": layer.n_outputs,
                    "connections": layer.connections,
                    "layout": "sparse" if layer.is_sparse else "dense",
                }
                for layer in candidate.policy.layers
            ],
            "precision": candidate.precision,
            "runtime": report.runtime,
            "bytes": candidate.n_bytes,
            "action_difference": asdict(candidate.difference),
            "fits": report.fits,
            **{name: {"used": v.used, "budget": v.budget, "unit": v.unit} for name, v in report.verdicts.items()},
            **asdict(self.measurement),
        }


@dataclass(frozen=True)
class Selection:
    """What was measured, and the choice."""

    reference: Trial
    trials: tuple[Trial, ...]  # all, from the fewest bytes to the most
    front: tuple[Trial, ...]  # those that no other beats in return, bytes and latency together
    chosen: Trial | None
    confirmed: Measurement | None  # of the chosen one, over other episodes than the choice's
    refuted: tuple[Trial, ...]  # smaller ones that kept the return at first, but not in those episodes
    best_in_budget: Trial | None  # without a choice: the best return within the budgets, if any
    nearest_to_budget: Trial | None  # without a choice: what keeps the return and exceeds the budgets least


def choose(candidates: Sequence[Candidate], measure: Measure, confirm: Measure) -> Selection:
    """The smallest candidate that meets its device's budgets and keeps the return of the first, the reference.

    measure: over the episodes that decide. confirm: over others, in which the chosen one must keep it again.
    """
    trials: dict[int, Trial] = {}

    def trial(index: int) -> Trial:
        if index not in trials:
            trials[index] = Trial(candidates[index], measure(candidates[index].policy))
        return trials[index]

    trial(REFERENCE)
    in_budget = [index for index, candidate in enumerate(candidates) if candidate.report.fits]
    rungs = _rungs(candidates, in_budget, lambda candidate: candidate.n_bytes)
    start = lowest(len(rungs), lambda at: trial(rungs[at]).measurement.is_kept)
    kept = (trial(index) for index in rungs[len(rungs) if start is None else start :])
    tried = _until_confirmed((each for each in kept if each.measurement.is_kept), confirm)
    chosen, confirmed = tried.pop() if tried and tried[-1][1].is_kept else (None, None)
    best = nearest = None
    if chosen is None:
        best = max((trials[i] for i in in_budget if i in trials), key=_mean_return, default=None)
        rungs = _rungs(candidates, range(len(candidates)), excess)
        position = lowest(len(rungs), lambda at: trial(rungs[at]).measurement.is_kept)
        nearest = None if position is None else trial(rungs[position])
    measured = sorted(trials.values(), key=lambda each: each.candidate.n_bytes)
    costs = [(-_mean_return(each), each.candidate.n_bytes, each.candidate.latency_us) for each in measured]
    return Selection(
        reference=trials[REFERENCE],
        trials=tuple(measured),
        front=tuple(measured[index] for index in front(costs)),
        chosen=chosen,
        confirmed=confirmed,
        refuted=tuple(each for each, _ in tried),
        best_in_budget=best,
        nearest_to_budget=nearest,
    )


def _until_confirmed(trials: Iterable[Trial], confirm: Measure) -> list[tuple[Trial, Measurement]]:
    """Trials with their second measurement, up to the first that keeps the return again."""
    confirmed: list[tuple[Trial, Measurement]] = []
    for trial in trials:
        confirmed.append((trial, confirm(trial.candidate.policy)))
        if confirmed[-1][1].is_kept:
            break
    return confirmed


def excess(candidate: Candidate) -> float:
    """The largest share that the candidate uses of any budget."""
    return max(verdict.used / verdict.budget for verdict in candidate.report.verdicts.values())


def _rungs(candidates: Sequence[Candidate], indices: Sequence[int], cost: Callable[[Candidate], float]) -> list[int]:
    """A ladder of these indices, the cheapest first."""
    differences = [candidates[index].difference.root_mean_square for index in indices]
    return [indices[at] for at in ladder([cost(candidates[index]) for index in indices], differences)]


def _mean_return(trial: Trial) -> float:
    return trial.measurement.returns.mean
