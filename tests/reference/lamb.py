"""LAMB on one row, in plain Python floats, as its paper and FBGEMM have it, with a guard for zeros.

    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2        b1 = 0.9, b2 = 0.999
    r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + wd w   t: steps so far, this one included
    w <- w - lr phi r,  phi = |w| / |r|, or 1 where |w| = 0 or |r| = 0

A tensor is one row of all its weights.
"""

import math

__all__ = ["lamb_step"]

Row = list[float]


def lamb_step(
    row: Row, m: Row, v: Row, g: Row, time: int, lr: float, eps: float, wd: float = 0.0
) -> None:
    """Update ``row``, ``m`` and ``v`` in place."""
    direction = []
    for j, x in enumerate(g):
        m[j] = 0.9 * m[j] + 0.1 * x
        v[j] = 0.999 * v[j] + 0.001 * x * x
        root = math.sqrt(v[j] / (1 - 0.999**time))
        direction.append(m[j] / (1 - 0.9**time) / (root + eps) + wd * row[j])
    ours, theirs = math.hypot(*row), math.hypot(*direction)
    phi = ours / theirs if ours > 0 and theirs > 0 else 1.0
    for j, r in enumerate(direction):
        row[j] -= lr * phi * r
