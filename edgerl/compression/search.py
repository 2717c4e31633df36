"""Which candidates to measure, and which of them is the smallest that keeps its return: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SCANNED = 8
"""Rungs of a ladder that are measured before the search goes into detail."""

PATIENCE = 2
"""Consecutive scanned rungs that do not keep the return, after which smaller ones are assumed not to."""

NEAR = 4
"""The same for adjacent rungs, below one that keeps it: returns fall with the size, but not with every rung."""


def ladder(costs: Sequence[float], differences: Sequence[float]) -> list[int]:
    """The indices, cheapest first, of those that no other undercuts in cost without a larger difference."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], differences[i]))
    rungs: list[int] = []
    for index in order:
        if not rungs or differences[index] < differences[rungs[-1]]:
            rungs.append(index)
    return rungs


def scanned(n_rungs: int) -> list[int]:
    """Up to SCANNED positions of a ladder, evenly spread, the last one first."""
    count = min(SCANNED, n_rungs)
    return sorted({round(k * (n_rungs - 1) / max(count - 1, 1)) for k in range(count)}, reverse=True)


def lowest(n_rungs: int, is_kept: Callable[[int], bool]) -> int | None:
    """The lowest position of a ladder that keeps the return, assuming that those above it do, too."""
    kept: int | None = None
    failed, misses = -1, 0
    for position in scanned(n_rungs):
        if is_kept(position):
            kept, failed, misses = position, -1, 0
            continue
        failed, misses = max(failed, position), misses + 1
        if misses == PATIENCE:
            break
    if kept is None:
        return None
    while kept - failed > 1:
        middle = (kept + failed) // 2
        if is_kept(middle):
            kept = middle
        else:
            failed = middle
    return _lower(kept, is_kept)


def _lower(kept: int, is_kept: Callable[[int], bool]) -> int:
    """The lowest position that is kept, from one that is kept downwards, until NEAR in a row are not."""
    position, misses = kept, 0
    while position > 0 and misses < NEAR:
        position -= 1
        if is_kept(position):
            kept, misses = position, 0
        else:
            misses += 1
    return kept


def front(points: Sequence[tuple[float, ...]]) -> list[int]:
    """The indices of points, all costs, that no other one beats: nowhere larger, and not the same."""
    return [
        index
        for index, point in enumerate(points)
        if not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
    ]
