"""One table under weight decay, row by row and step by step, in plain Python floats.

``g`` is the sum of a row's gradients in the batch, 0 for a row that is not in it; ``wd`` the decay,
``lr`` the rate of the step.

    dense_coupled     every row:          g <- g + wd w, then the rule
    dense_decoupled   every row:          w <- w (1 - lr wd), then the rule
    touched_rows      rows of the batch:  g <- g + wd w, then the rule; other rows do nothing at all

Rules:

    sgd               w <- w - lr g
    adagrad           s <- s + g^2;        w <- w - lr g / (sqrt(s) + eps)        per weight
    rowwise_adagrad   s <- s + mean(g^2);  w <- w - lr g / (sqrt(s) + eps)        one s per row
    adam              m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
                      w <- w - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)   t: steps so far
    amsgrad           adam, where the largest v so far stands for v in the step
    lamb              lamb.py, which has wd w in its direction and not in g; touched_rows alone
"""

import math
from collections.abc import Mapping

from tests.reference.lamb import lamb_step

__all__ = ["DecayedTable"]

Row = list[float]


class DecayedTable:
    """A table and its optimizer."""

    def __init__(self, rows: list[Row], name: str, mode: str, wd: float, eps: float) -> None:
        self.rows = [list(row) for row in rows]
        self.name, self.mode, self.wd, self.eps = name, mode, wd, eps
        self.first = [[0.0] * len(row) for row in rows]
        self.second = [[0.0] * len(row) for row in rows]
        self.largest = [[0.0] * len(row) for row in rows]
        self.time = 0

    def step(self, gradients: Mapping[int, Row], lr: float) -> None:
        """``gradients`` has every row of the batch, also where its gradient is 0."""
        self.time += 1
        for r, row in enumerate(self.rows):
            g = list(gradients.get(r, [0.0] * len(row)))
            if self.mode == "touched_rows" and r not in gradients:
                continue
            if self.mode == "dense_decoupled":
                row[:] = [w * (1 - lr * self.wd) for w in row]
                if r not in gradients and self.name not in ("adam", "amsgrad"):
                    continue
            elif self.name != "lamb":
                g = [x + self.wd * w for x, w in zip(g, row, strict=True)]
            self._rule(r, g, lr)

    def _rule(self, r: int, g: Row, lr: float) -> None:
        row, m, v = self.rows[r], self.first[r], self.second[r]
        if self.name == "lamb":
            lamb_step(row, m, v, g, self.time, lr, self.eps, self.wd)
            return
        mean = sum(x * x for x in g) / len(g)
        for j, x in enumerate(g):
            if self.name == "sgd":
                row[j] -= lr * x
            elif self.name in ("adam", "amsgrad"):
                m[j] = 0.9 * m[j] + 0.1 * x
                v[j] = 0.999 * v[j] + 0.001 * x * x
                self.largest[r][j] = max(self.largest[r][j], v[j])
                second = v[j] if self.name == "adam" else self.largest[r][j]
                unbiased = m[j] / (1 - 0.9**self.time)
                root = math.sqrt(second / (1 - 0.999**self.time))
                row[j] -= lr * unbiased / (root + self.eps)
            else:
                v[j] += mean if self.name == "rowwise_adagrad" else x * x
                row[j] -= lr * x / (math.sqrt(v[j]) + self.eps)
