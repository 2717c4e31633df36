"""What happened to a learner, from its beginning on: what was counted, and how its trials went."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from edgerl.edge.continual.status import HistoryStatus
from edgerl.edge.continual.transitions import Transitions
from edgerl.edge.continual.trials import Decision, TrialRule, Trials
from edgerl.errors import OutputError, quoted


@dataclass
class Counters:
    """What happened since the learner began, sessions before this one included, up to the last snapshot of each."""

    steps: int = 0  # transitions that were observed, refused ones too; those since the last snapshot are in the log
    refused_transitions: int = 0  # with a number that is not finite
    refused_observations: int = 0  # of `act`, likewise
    saturations: int = 0  # numbers that did not fit into fp16
    episodes: int = 0
    snapshots: int = 0
    seconds: float = 0.0  # of operation, counted by the session
    largest_reward: float = 0.0  # in magnitude


def read_counters(metadata: object) -> Counters:
    """The counters in a snapshot's metadata, which is not trusted. Raises ValueError."""
    known = Counters()
    if not isinstance(metadata, dict) or set(metadata) != set(vars(known)):
        raise ValueError("its counters are of another version of edgerl")
    for name, value in metadata.items():
        kinds = (int, float) if isinstance(getattr(known, name), float) else (int,)
        if type(value) not in kinds or not 0 <= value <= 2**128:
            raise ValueError(f"its {name} is {quoted(value)}, expected a count")
    return Counters(**metadata)


class History:
    """Counters and trials, which one thread adds to while others read them and decide.

    Attributes: `counters`; `trials`; `takeover_is_due`, whether the challenger has earned to be the champion; of this
    process only `disk_errors`, how often the disk refused, and `last_error`, what went wrong last.
    """

    def __init__(self, counters: Counters, trials: Trials) -> None:
        self.counters, self.trials = counters, trials
        self.takeover_is_due = False
        self.disk_errors, self.last_error = 0, ""
        self._lock = threading.Lock()

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], rule: TrialRule, seed: int) -> History:
        """As a snapshot has it, which is not trusted; under another rule than its own, the trials start over. Raises
        ValueError, KeyError, TypeError."""
        counters, state = read_counters(metadata["counters"]), metadata["trials"]
        is_other_rule = isinstance(state, dict) and state.get("rule") != vars(rule)
        return cls(counters, Trials(rule, seed) if is_other_rule else Trials.from_state(rule, seed, state))

    def step(self, reward: float | None, episode_over: bool, *, challenger_is_sound: bool) -> None:
        """Count a transition; reward: None where it was refused. A challenger that drives and is not sound loses its
        trial, even where the champion drove instead."""
        with self._lock:
            self.counters.steps += 1
            self.counters.episodes += episode_over
            has_failed = self.trials.challenger_drives and not challenger_is_sound
            if reward is None:
                self.counters.refused_transitions += 1
                self.trials.abandon()
            else:
                self.expect_rewards(abs(reward))
                decision = self.trials.step(reward, episode_over)
                self.takeover_is_due |= decision is Decision.TAKE_OVER and challenger_is_sound
            if has_failed:
                self.trials.forget_challenger()

    def expect_rewards(self, magnitude: float) -> None:
        """Rewards of this magnitude were seen, or will be."""
        self.counters.largest_reward = max(self.counters.largest_reward, magnitude)

    def take_over(self) -> None:
        """The challenger is the champion now."""
        with self._lock:
            self.trials.took_over()
            self.takeover_is_due = False

    def restart_challenger(self) -> None:
        """The challenger diverged and restarts."""
        with self._lock:
            self.trials.restart_challenger()
            self.takeover_is_due = False

    def note(self, error: OutputError) -> None:
        """The disk refused."""
        self.disk_errors += 1
        self.last_error = str(error)

    def metadata(self, transitions: Transitions, *, takes_over: bool) -> dict[str, Any]:
        """What a snapshot stores, itself counted. Where the challenger takes over with it, a restart finds the new
        champion, of which nothing is known."""
        with self._lock:
            trials = copy.copy(self.trials)
            if takes_over:
                trials.took_over()
            self.counters.saturations = transitions.saturations
            return {
                "number": transitions.number,
                "counters": vars(replace(self.counters, snapshots=self.counters.snapshots + 1)),
                "trials": trials.state(),
            }

    def status(self, transitions: Transitions) -> HistoryStatus:
        """Counters and trials."""
        with self._lock:
            counters = {**vars(self.counters), "saturations": transitions.saturations}
            return cast("HistoryStatus", {**counters, "trials": self.trials.status()})
