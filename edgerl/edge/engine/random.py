"""Every random number of a run, from one counter-based generator: Philox4x32-10.

Source: Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011). The key is the run's seed,
the counter (index, purpose and network, layer, draw), where index is an update, a step or an episode. No state exists:
a resumed run draws what the uninterrupted one would have drawn, and another engine that follows this page the same.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[Any]  # uint32

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_CHUNK = 256  # indices computed at once: numpy's cost is per call


class Network(IntEnum):
    """Which network a draw is for; draws for none use ACTOR."""

    ACTOR = 0
    CRITIC_1 = 1
    CRITIC_2 = 2


class Purpose(IntEnum):
    """What a draw is for; two purposes never share a number."""

    TOPOLOGY = 0  # the initial mask
    WEIGHT = 1
    BIAS = 2
    GROWTH = 3
    REPLAY = 4  # the rows of a batch; index: update
    TARGET_NOISE = 5  # target policy smoothing; index: update
    EXPLORATION = 6  # index: step
    RANDOM_ACTION = 7  # before learning starts; index: step
    EPISODE = 8  # the environment's seed; index: episode
    EVALUATION = 9  # the environment's seed; index: episode of an evaluation
    RESERVOIR = 10  # which row a reservoir replaces; index: transition
    POLICY = 11  # the actions that SAC's actor learns from; index: update
    DROPOUT = 12  # what a critic's pass leaves out, in learning, like the two below; index: update
    TARGET_DROPOUT = 13  # in valuing what follows
    POLICY_DROPOUT = 14  # in valuing the actor's actions


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10 of counters [n, 4] under one key: words [n, 4], all uint32."""
    x0, x1, x2, x3 = counter.astype(np.uint64).T
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x2 = (product1 >> np.uint64(32)) ^ x1 ^ np.uint64(k0), (product0 >> np.uint64(32)) ^ x3 ^ np.uint64(k1)
        x1, x3 = product1 & _LOW, product0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=1).astype(np.uint32)


class Draws:
    """The draws of one run; `seed` in [0, 2^64)."""

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._chunks: dict[tuple[int, int], tuple[int, Words]] = {}
        self._normals: dict[tuple[int, int], tuple[int, npt.NDArray[np.float64]]] = {}

    def words(
        self, purpose: Purpose, index: int, count: int, *, network: Network = Network.ACTOR, layer: int = 0
    ) -> Words:
        """`count` uniform 32-bit words: those of (purpose, index, network, layer)."""
        words: Words = self._compute(purpose, np.array([index]), count, network, layer)[0]
        return words

    def stream(self, purpose: Purpose, index: int, count: int) -> Words:
        """The same words as `words`, for an index that rises by one from call to call: computed many at a time."""
        chunk, offset = divmod(index, _CHUNK)
        cached = self._chunks.get((purpose, count))
        if cached is None or cached[0] != chunk:
            indices = np.arange(chunk * _CHUNK, (chunk + 1) * _CHUNK)
            cached = chunk, self._compute(purpose, indices, count, Network.ACTOR, 0)
            self._chunks[purpose, count] = cached
        words: Words = cached[1][offset]
        return words

    def normals(self, purpose: Purpose, index: int, count: int) -> npt.NDArray[np.float64]:
        """`count` standard normal numbers from `stream`, for an index that rises by one: computed many at a time."""
        chunk, offset = divmod(index, _CHUNK)
        cached = self._normals.get((purpose, count))
        if cached is None or cached[0] != chunk:
            self.stream(purpose, index, count + count % 2)
            cached = chunk, normal(self._chunks[purpose, count + count % 2][1])[:, :count]
            self._normals[purpose, count] = cached
        numbers: npt.NDArray[np.float64] = cached[1][offset]
        return numbers

    def _compute(
        self, purpose: Purpose, indices: npt.NDArray[np.int64], count: int, network: Network, layer: int
    ) -> Words:
        blocks = -(-count // 4)
        counter = np.empty((len(indices), blocks, 4), np.uint32)
        counter[..., 0] = indices.astype(np.uint32)[:, None]
        counter[..., 1] = purpose << 8 | network
        counter[..., 2] = layer
        counter[..., 3] = np.arange(blocks, dtype=np.uint32)
        return philox4x32(counter.reshape(-1, 4), self._key).reshape(len(indices), blocks * 4)[:, :count]


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """Words → [0, 1), multiples of 2^−24: the same number in float32 and float64."""
    fraction: npt.NDArray[np.float64] = (words >> np.uint32(8)) * np.float64(2.0**-24)
    return fraction


def below(words: Words, bound: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Words → integers in [0, bound) by multiply and shift; a number's share is off by at most bound · 2^−32."""
    return ((words.astype(np.uint64) * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int64)


def normal(words: Words) -> npt.NDArray[np.float64]:
    """An even number of words → as many standard normal numbers (Box–Muller; at most 5.77 standard deviations)."""
    first, second = uniform(words[..., 0::2]), uniform(words[..., 1::2])
    radius = np.sqrt(-2.0 * np.log(first + 2.0**-24))
    angle = 2.0 * np.pi * second
    pairs: npt.NDArray[np.float64] = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(words.shape)


def sample_without_replacement(words: Words, population: int) -> npt.NDArray[np.int64]:
    """len(words) distinct integers in [0, population), ascending, every set equally likely (Floyd's algorithm F2).

    Source: Bentley, Floyd: A Sample of Brilliance (CACM 1987). One word and one look-up per number, whatever the
    population: what a small device can afford.
    """
    count = len(words)
    tops = np.arange(population - count, population)
    chosen: set[int] = set()
    for candidate, top in zip(below(words, tops + 1).tolist(), tops.tolist(), strict=True):
        chosen.add(top if candidate in chosen else candidate)
    return np.array(sorted(chosen), np.int64)
