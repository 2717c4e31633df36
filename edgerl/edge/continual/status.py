"""What a learner and a session report about themselves: plain data, as JSON has it. Times are seconds."""

from __future__ import annotations

from typing import Any, TypedDict


class HistoryStatus(TypedDict):
    """Counts since the learner started, earlier sessions included."""

    steps: int
    refused_transitions: int  # with a number that is not finite
    refused_observations: int  # given to the policy, likewise
    saturations: int  # numbers that did not fit into fp16
    episodes: int
    snapshots: int
    seconds: float  # of operation
    largest_reward: float  # in magnitude
    trials: dict[str, Any]  # rule, windows, scores of champion and challenger, takeovers, divergences


class LearnerStatus(HistoryStatus):
    """A learner at one moment."""

    updates: int
    abandoned_updates: int
    deferred_updates: int  # that transitions of this process allow, and for which there was no time yet
    replaced_blocks: int  # dropped and grown
    critic_loss: float  # of the last update, both critics; likewise the value
    value: float
    value_bound: float  # a larger value, in magnitude, means that learning diverged
    is_learning: bool
    memory: dict[str, int]  # bytes by part, their total, and the replay's capacity
    replay: dict[str, Any]  # keep, precision, storage, capacity, size, seen, damaged
    champion: int  # the number of the snapshot that holds it; 0: the bundle
    disk: dict[str, Any]  # bytes_written, errors, rejected
    last_error: str  # empty where nothing went wrong


class SessionStatus(LearnerStatus):
    """A learner that drives a robot, at one moment."""

    connections: dict[str, int]  # of each network
    updates_per_second: float  # since the status before; at the end, of the whole run
    last_episode: dict[str, float] | None  # return and steps
    control: dict[str, Any]  # the fields of ControlStatistics
    resident_bytes: int | None  # of the process; None where the system does not say, likewise the peak
    peak_resident_bytes: int | None
