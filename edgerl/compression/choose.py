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
Cost = Callable[[Candidate], float]

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
            "method": candidate.method,
            "precision": candidate.form.precision,
            "outliers": candidate.form.outliers,
            "finetuned": candidate.form.is_finetuned,
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


def choose(
    candidates: Sequence[Candidate],
    measure: Measure,
    confirm: Measure,
    finished: Callable[[Candidate], Candidate] = lambda candidate: candidate,
) -> Selection:
    """The smallest candidate that meets its device's budgets and keeps the return of the first, the reference.

    measure: over the episodes that decide. confirm: over others, in which the chosen one must keep it again. finished:
    a candidate as it is measured.
    """
    trials: dict[int, Trial] = {}

    def trial(index: int) -> Trial:
        if index not in trials:
            candidate = finished(candidates[index])
            trials[index] = Trial(candidate, measure(candidate.policy))
        return trials[index]

    def above_the_lowest(indices: Sequence[int], cost: Cost, keeps: Callable[[Trial], bool]) -> list[int]:
        """Of every family's ladder what does, or may, keep the return; the cheapest first."""
        found: list[int] = []
        for family in families(candidates, indices):
            rungs = _rungs(candidates, family, cost)
            position = lowest(len(rungs), lambda at, rungs=rungs: keeps(trial(rungs[at])))  # type: ignore[misc]
            found += rungs[len(rungs) if position is None else position :]
        return sorted(found, key=lambda index: cost(candidates[index]))

    trial(REFERENCE)
    in_budget = [index for index, candidate in enumerate(candidates) if candidate.report.fits]
    kept = map(trial, above_the_lowest(in_budget, lambda candidate: candidate.n_bytes, _fits_and_keeps))
    tried = _until_confirmed(filter(_fits_and_keeps, kept), confirm)
    chosen, confirmed = tried.pop() if tried and tried[-1][1].is_kept else (None, None)
    best = nearest = None
    if chosen is None:
        best = max((each for each in trials.values() if each.candidate.report.fits), key=_mean_return, default=None)
        rungs = above_the_lowest(range(len(candidates)), excess, lambda each: each.measurement.is_kept)
        nearest = trial(rungs[0]) if rungs else None
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


def families(candidates: Sequence[Candidate], indices: Iterable[int]) -> list[list[int]]:
    """The indices of candidates whose differences rank them. Those of students do not compare with others: a student
    has learnt in the states that its own errors lead to. Nor do those of weights that are yet to be fine-tuned."""
    found: dict[tuple[bool, bool], list[int]] = {}
    for index in indices:
        candidate = candidates[index]
        found.setdefault((candidate.is_student, candidate.form.is_finetuned), []).append(index)
    return list(found.values())


def excess(candidate: Candidate) -> float:
    """The largest share that the candidate uses of any budget."""
    return max(verdict.used / verdict.budget for verdict in candidate.report.verdicts.values())


def _rungs(candidates: Sequence[Candidate], indices: Sequence[int], cost: Cost) -> list[int]:
    """A ladder of these indices, the cheapest first."""
    differences = [candidates[index].difference.root_mean_square for index in indices]
    return [indices[at] for at in ladder([cost(candidates[index]) for index in indices], differences)]


def _fits_and_keeps(trial: Trial) -> bool:
    """Fine-tuning may turn zeros into connections, so that what seemed to fit no longer does."""
    return trial.candidate.report.fits and trial.measurement.is_kept


def _mean_return(trial: Trial) -> float:
    return trial.measurement.returns.mean
