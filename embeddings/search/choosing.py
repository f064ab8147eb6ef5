"""One choice a row within a limit, by dynamic programming: which widths fit together."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["best_choices"]

_UNITS = 10_000


def best_choices(
    scores: NDArray[np.float64], costs: NDArray[np.int64], limit: int
) -> NDArray[np.int64] | None:
    """One choice a row: the largest sum of scores whose costs are at most ``limit``; None if none.

    Costs are rounded up to a 10,000th of the limit, so the sum is within the limit, and a choice
    may be missed that would leave less than a 10,000th a row; what then still fits is improved row
    by row.
    """
    if int(costs.min(1).sum()) > limit:
        return None
    unit = max(1, limit // _UNITS)
    units = -(-costs // unit)
    if int(units.min(1).sum()) > limit // unit:
        units = costs // unit  # the very smallest choices alone fit: found by what follows
    best = np.zeros(limit // unit + 1)
    taken = []
    for row_scores, row_units in zip(scores, units, strict=True):
        options = np.full((len(row_scores), len(best)), -np.inf)
        for j, (score, cost) in enumerate(zip(row_scores, row_units.tolist(), strict=True)):
            if cost < len(best):
                options[j, cost:] = best[: len(best) - cost] + score
        taken.append(options.argmax(0))
        best = options.max(0)
    left, choices = len(best) - 1, []
    for row, chosen in zip(units[::-1], taken[::-1], strict=True):
        choices.append(int(chosen[left]))
        left -= int(row[choices[-1]])
    found = np.array(choices[::-1], dtype=np.int64)
    rows = np.arange(len(found))
    if int(costs[rows, found].sum()) > limit:
        found = costs.argmin(1)
    return _improved(found, scores, costs, limit)


def _improved(
    found: NDArray[np.int64], scores: NDArray[np.float64], costs: NDArray[np.int64], limit: int
) -> NDArray[np.int64]:
    """Better choices of single rows, as long as they fit."""
    rows = np.arange(len(found))
    while True:
        spare = limit - int(costs[rows, found].sum())
        gain = scores - scores[rows, found][:, None]
        gain[costs - costs[rows, found][:, None] > spare] = -np.inf
        row, j = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[row, j] <= 0:
            return found
        found[row] = j
