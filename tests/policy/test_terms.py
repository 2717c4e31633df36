"""Observations made of single steps: against a queue of each term, as Unitree's robots keep one."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from edgerl.errors import UnsupportedModelError
from edgerl.policy.compact import Array
from edgerl.policy.contract import Contract
from edgerl.policy.terms import terms_of

CONTRACTS = {
    "none stacked": Contract(observation_terms_size=(2, 3)),
    "all alike": Contract(observation_terms_size=(2, 3), observation_terms_history_length=(4, 4)),
    "each its own": Contract(
        observation_terms_size=(3, 1, 2),
        observation_terms_history_length=(5, 0, 2),
        observation_terms_scale=((0.25,), (3.0,), (0.05, 7.0)),
        observation_terms_clip=((-1.0, 0.5), (-np.inf, np.inf), (-np.inf, 0.1)),
    ),
}


class Queues:
    """One queue of float32 numbers for each term; the first step fills it."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.queues: list[deque[Array]] | None = None

    def observe(self, step: Array) -> Array:
        contract = self.contract
        terms, begin = [], 0
        for index, size in enumerate(contract.observation_terms_size):
            term = step[begin : begin + size]
            if contract.observation_terms_clip:
                low, high = contract.observation_terms_clip[index]
                term = np.minimum(np.maximum(term, np.float32(low)), np.float32(high))
            if contract.observation_terms_scale:
                term = term * np.array(contract.observation_terms_scale[index], np.float32)
            terms.append(term)
            begin += size
        if self.queues is None:
            lengths = contract.observation_terms_history_length or (1,) * len(terms)
            self.queues = [
                deque([term] * max(length, 1), max(length, 1)) for term, length in zip(terms, lengths, strict=True)
            ]
        for queue, term in zip(self.queues, terms, strict=True):
            queue.append(term)
        stacked: Array = np.concatenate([np.concatenate(list(queue)) for queue in self.queues])
        return stacked


@pytest.mark.parametrize("name", CONTRACTS)
def test_steps_are_stacked_term_by_term_from_the_oldest_on(name: str) -> None:
    contract = CONTRACTS[name]
    terms, queues, stack = terms_of(contract), Queues(contract), None
    for step in np.random.default_rng(0).normal(size=(1000, terms.n_step)).astype(np.float32):
        stack = terms.stacked(terms.scaled(step), stack)
        assert stack.dtype == np.float32
        np.testing.assert_array_equal(stack, queues.observe(step))


def test_by_hand() -> None:
    terms = terms_of(
        Contract(
            observation_terms_size=(2, 1),
            observation_terms_history_length=(3, 2),
            observation_terms_scale=((1.0, 10.0), (2.0,)),
            observation_terms_clip=((-np.inf, 2.0), (0.0, np.inf)),
        )
    )
    assert terms.n_step == 3
    first = terms.stacked(terms.scaled(np.array([1, 3, -5], np.float32)), None)
    assert first.tolist() == [1, 20, 1, 20, 1, 20, 0, 0]
    second = terms.stacked(terms.scaled(np.array([-4, 0.5, 6], np.float32)), first)
    assert second.tolist() == [1, 20, 1, 20, -4, 5, 0, 12]


def test_terms_of_unknown_sizes_are_not_guessed() -> None:
    with pytest.raises(UnsupportedModelError, match="does not say how many numbers the terms of its observation have"):
        terms_of(Contract(observation_names=("a",), observation_terms_history_length=(5,)))
