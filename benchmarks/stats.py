"""Means with intervals, paired tests over seeds, a paired bootstrap over rows, Holm's correction.

Two things make a measured AUC move: the seed (another initialisation, another order of rows) and
the test rows (another day of clicks). They are reported apart: `paired_difference` says what the
seeds say, `bootstrap_difference` what the rows say. Both compare runs that share the seed and the
rows, so what moves both methods alike cancels.

Shapes: N test rows, S seeds, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import stats as scipy_stats

__all__ = [
    "Difference",
    "FloatArray",
    "Interval",
    "RankedScores",
    "auc",
    "bootstrap_auc",
    "bootstrap_difference",
    "holm",
    "mean_interval",
    "paired_difference",
]

FloatArray = npt.NDArray[np.float64]
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean over `num` values and its confidence interval; no interval when `num` is 1."""

    mean: float
    low: float | None
    high: float | None
    num: int

    @property
    def half_width(self) -> float | None:
        """Half the interval's length, in the unit of the values."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences a - b, its interval, a two-sided p-value; None when unknown."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    num: int


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean and Student-t interval of independent values (one per seed).

    Raises ValueError when there is no value or one is not finite.
    """
    x = _finite(values, "values")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, None, None, 1)
    half = _t_quantile(confidence, x.size) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Interval(mean, mean - half, mean + half, int(x.size))


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95
) -> Difference:
    """Paired t-test of a - b over the seeds that both have: `{seed: value}` each.

    No interval and no p-value with one shared seed, nor where the differences are equal but for
    rounding: without a spread there is nothing to hold the mean against, and t is not defined.
    Raises ValueError when no seed is shared.
    """
    seeds = sorted(a.keys() & b.keys())
    if not seeds:
        raise ValueError(
            f"paired_difference: no seed in common, got {sorted(a)} and {sorted(b)}; "
            "run both methods with the same seeds"
        )
    x, y = _finite([a[s] for s in seeds], "a"), _finite([b[s] for s in seeds], "b")
    d = x - y
    mean = float(d.mean())
    rounding = 1e-14 * float(max(1.0, np.abs(x).max(), np.abs(y).max()))
    if d.size == 1 or np.ptp(d) <= rounding:
        return Difference(mean, None, None, None, int(d.size))
    error = float(d.std(ddof=1)) / math.sqrt(d.size)
    half = _t_quantile(confidence, d.size) * error
    p_value = 2.0 * float(scipy_stats.t.sf(abs(mean) / error, d.size - 1))
    return Difference(mean, mean - half, mean + half, p_value, int(d.size))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    Rejecting every hypothesis whose adjusted value is below alpha keeps the chance of even one
    false rejection among all of them below alpha, whatever their dependence.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size and not (np.all(p >= 0) and np.all(p <= 1)):
        raise ValueError(f"holm: p-values must lie in [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    factors = np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return [float(v) for v in adjusted]


class RankedScores:
    """One model's scores, sorted once, so that the AUC under any row weights costs one pass.

    AUC = sum over positives of w_i (weight of negatives below + half of those tied) / (W+ W-).
    """

    def __init__(self, labels: npt.ArrayLike, scores: npt.ArrayLike) -> None:
        y = np.asarray(labels).ravel() > 0.5
        s = np.asarray(scores).ravel()
        if y.shape != s.shape:
            raise ValueError(f"auc: {y.size} labels but {s.size} scores; give one score per label")
        if not np.all(np.isfinite(s)):
            raise ValueError("auc: scores hold NaN or infinity; the model has diverged")
        positive, negative = np.flatnonzero(y), np.flatnonzero(~y)
        if not positive.size or not negative.size:
            raise ValueError("auc: needs labels of both kinds, got only one kind")
        self.num_rows = int(y.size)
        # both classes in score order: the look-ups below then walk through memory
        positive = positive[np.argsort(s[positive], kind="stable")]
        negative = negative[np.argsort(s[negative], kind="stable")]
        self._low = _narrow(np.searchsorted(s[negative], s[positive], side="left"))
        self._high = _narrow(np.searchsorted(s[negative], s[positive], side="right"))
        self._positive, self._negative = _narrow(positive), _narrow(negative)

    def auc(self, weights: npt.NDArray[np.integer] | None = None) -> float:
        """AUC with row i counted `weights[i]` times (None: once); NaN when a class is empty."""
        if weights is None:
            total = (
                float(np.sum(self._low, dtype=np.float64) + np.sum(self._high, dtype=np.float64))
                / 2
            )
            return total / (self._positive.size * self._negative.size)
        cumulative = np.zeros(self._negative.size + 1)
        np.cumsum(weights[self._negative], dtype=np.float64, out=cumulative[1:])
        w = weights[self._positive].astype(np.float64)
        pairs = float(w.sum()) * float(cumulative[-1])
        if pairs == 0:
            return math.nan
        # a product and a sum, not a BLAS dot: its threads wait for each other on a busy machine
        doubled = np.sum(w * (cumulative[self._low] + cumulative[self._high]))
        return float(doubled) / 2 / pairs


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: chance that a positive outranks a negative, ties counting half."""
    return RankedScores(labels, scores).auc()


def bootstrap_auc(
    models: Mapping[K, RankedScores],
    num_resamples: int = 200,
    seed: int = 0,
) -> dict[K, FloatArray]:
    """AUC of every model on the same R = `num_resamples` bootstrap samples of the test rows.

    Returns one `(R,)` array per model. Resample r draws N rows with replacement from generator
    `(seed, r)`; every model sees the same draw, so differences are paired. Time: N x R x
    models. Memory: 6 bytes x N x models.
    Raises ValueError when the models were scored on different numbers of rows.
    """
    sizes = {m.num_rows for m in models.values()}
    if len(sizes) > 1:
        raise ValueError(
            f"bootstrap_auc: models were scored on different test rows ({sorted(sizes)} rows); "
            "compare runs on the same data folder only"
        )
    if not models:
        return {}
    num_rows = sizes.pop()

    table = np.empty((num_resamples, len(models)))
    for resample in range(num_resamples):
        rng = np.random.default_rng((seed, resample))
        drawn = rng.integers(num_rows, size=num_rows)
        weights = np.bincount(drawn, minlength=num_rows).astype(np.uint8)
        table[resample] = [m.auc(weights) for m in models.values()]
    return {key: table[:, i] for i, key in enumerate(models)}


def bootstrap_difference(
    a: Sequence[FloatArray], b: Sequence[FloatArray], mean: float, confidence: float = 0.95
) -> Difference:
    """Percentile interval of the AUC difference a - b over resamples, averaged over paired seeds.

    a, b: one `(R,)` array of `bootstrap_auc` per seed, same seeds in the same order; `mean`: the
    difference on the rows as they are. The p-value is twice the smaller tail, never below 2/(R+1).
    """
    if len(a) != len(b) or not a:
        raise ValueError(
            f"bootstrap_difference: needs the same seeds on both sides, got {len(a)} and {len(b)}"
        )
    d = np.mean(np.stack(a) - np.stack(b), axis=0)
    d = d[np.isfinite(d)]
    if not d.size:
        return Difference(mean, None, None, None, 0)
    tail = (1 - confidence) / 2
    low, high = (float(v) for v in np.quantile(d, [tail, 1 - tail]))
    rarer = min(np.count_nonzero(d <= 0), np.count_nonzero(d >= 0))
    p_value = min(1.0, 2.0 * (rarer + 1) / (d.size + 1))
    return Difference(mean, low, high, p_value, int(d.size))


def _narrow(index: npt.NDArray[np.intp]) -> npt.NDArray[np.integer]:
    """The same numbers in 32 bits where they fit: half the memory and a faster pass."""
    return index.astype(np.int32) if index.size < 2**31 else index


def _t_quantile(confidence: float, num: int) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    return float(scipy_stats.t.ppf((1 + confidence) / 2, num - 1))


def _finite(values: Sequence[float], name: str) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    if x.size == 0:
        raise ValueError(f"{name}: at least one value is needed, got none")
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{name}: every value must be finite, got {list(values)}")
    return x
