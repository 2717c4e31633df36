"""The generator against its authors' known answers, and the draws made from it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.edge.engine.random import (
    Draws,
    Network,
    Purpose,
    below,
    normal,
    philox4x32,
    sample_without_replacement,
    uniform,
)

# Random123's kat_vectors, philox4x32 10: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_its_authors_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = _words(key)
    assert philox4x32(np.array([_words(counter)], np.uint32), (low, high)).tolist() == [_words(expected)]


def test_a_stream_gives_the_words_that_single_calls_give() -> None:
    draws = Draws(2**63 + 5)
    for index in (0, 1, 63, 64, 1000, 7):
        for count in (1, 6, 100):
            expected = Draws(2**63 + 5).words(Purpose.REPLAY, index, count)
            assert draws.stream(Purpose.REPLAY, index, count).tolist() == expected.tolist()


def test_seed_purpose_index_network_and_layer_each_change_the_words() -> None:
    base = Draws(1).words(Purpose.GROWTH, 5, 8).tolist()
    others = [
        Draws(2).words(Purpose.GROWTH, 5, 8),
        Draws(1 + 2**32).words(Purpose.GROWTH, 5, 8),
        Draws(1).words(Purpose.WEIGHT, 5, 8),
        Draws(1).words(Purpose.GROWTH, 6, 8),
        Draws(1).words(Purpose.GROWTH, 5, 8, network=Network.CRITIC_1),
        Draws(1).words(Purpose.GROWTH, 5, 8, layer=1),
    ]
    assert all(base != other.tolist() for other in others)


def test_uniform_and_below_reach_their_ends_and_no_farther() -> None:
    extremes = np.array([0, 2**32 - 1], np.uint32)
    assert uniform(extremes).tolist() == [0.0, 1 - 2.0**-24]
    assert below(extremes, 1000).tolist() == [0, 999]


def test_normal_numbers_have_the_normal_distribution() -> None:
    numbers = normal(Draws(0).words(Purpose.TARGET_NOISE, 1, 200_000))
    n = len(numbers)
    assert abs(numbers.mean()) < 4 / np.sqrt(n)
    assert abs(numbers.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.mean(numbers**4) - 3) < 4 * np.sqrt(96 / n)
    assert abs(np.mean(np.abs(numbers) < 1) - 0.6826895) < 4 * np.sqrt(0.22 / n)
    assert np.isfinite(normal(np.array([0, 0, 2**32 - 1, 2**32 - 1], np.uint32))).all()


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 2**64 - 1))
def test_a_sample_has_distinct_members_in_order(count: int, surplus: int, seed: int) -> None:
    population = count + surplus
    sample = sample_without_replacement(Draws(seed).words(Purpose.TOPOLOGY, 0, count), population).tolist()
    assert len(sample) == count
    assert sample == sorted(set(sample))
    assert all(0 <= member < population for member in sample)


def test_every_subset_is_equally_likely() -> None:
    draws, rounds = Draws(3), 20_000
    counts: dict[tuple[int, ...], int] = {}
    for index in range(rounds):
        sample = tuple(sample_without_replacement(draws.stream(Purpose.TOPOLOGY, index, 3), 6).tolist())
        counts[sample] = counts.get(sample, 0) + 1
    assert len(counts) == 20
    chi_square = sum((count - rounds / 20) ** 2 / (rounds / 20) for count in counts.values())
    assert chi_square < 43.8  # 99.9 % quantile for 19 degrees of freedom
