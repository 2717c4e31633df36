"""The search against definitions tried out one by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerl.compression.search import NEAR, PATIENCE, SCANNED, front, ladder, lowest, scanned

Pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(Pairs)
def test_a_ladder_holds_what_none_undercuts(pairs: list[tuple[int, int]]) -> None:
    costs, differences = zip(*pairs, strict=True)
    rungs = ladder(costs, differences)
    chosen = [pairs[index] for index in rungs]
    assert chosen == sorted(set(chosen)), "the cheapest first, none twice"
    for cost, difference in pairs:
        is_undercut = any(c <= cost and d <= difference and (c, d) != (cost, difference) for c, d in pairs)
        assert is_undercut != ((cost, difference) in chosen)


@pytest.mark.parametrize("n_rungs", range(70))
def test_the_lowest_kept_rung_is_found_wherever_it_is_in_few_measurements(n_rungs: int) -> None:
    for boundary in range(n_rungs):
        asked: list[int] = []

        def is_kept(position: int, boundary: int = boundary, asked: list[int] = asked) -> bool:
            asked.append(position)
            return position >= boundary

        assert lowest(n_rungs, is_kept) == boundary
        assert len(set(asked)) <= SCANNED + 4 + NEAR
    asked = []
    assert lowest(n_rungs, lambda position: bool(asked.append(position))) is None
    assert len(asked) == min(PATIENCE, n_rungs)


def test_one_rung_that_fails_by_chance_does_not_end_the_search() -> None:
    for unlucky in (*scanned(40)[:3], *range(5, 12)):
        found = lowest(40, lambda position, unlucky=unlucky: position >= 5 and position != unlucky)
        assert found == (6 if unlucky == 5 else 5)


def test_scanned_positions_are_spread_from_the_last_to_the_first() -> None:
    assert scanned(1) == [0]
    assert scanned(3) == [2, 1, 0]
    assert scanned(71) == [70, 60, 50, 40, 30, 20, 10, 0]


def test_a_front_holds_what_none_beats() -> None:
    rng = random.Random(0)
    points = [tuple(rng.randrange(6) for _ in range(3)) for _ in range(200)]
    found = set(front(points))
    for index, point in enumerate(points):
        beaten = any(o != point and o[0] <= point[0] and o[1] <= point[1] and o[2] <= point[2] for o in points)
        assert beaten != (index in found)
