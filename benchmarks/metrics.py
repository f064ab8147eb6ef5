"""Metrics of click predictions: AUC, log loss, normalised entropy, calibration, accuracy.

All take logits and 0/1 labels, shape (N,), and reckon in float64. N is the number of rows.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

__all__ = ["Metrics", "Monitor", "auc", "entropy", "evaluate", "logloss", "monitored"]

Monitor = Literal["auc", "auc_minus_logloss"]
Floats = npt.NDArray[np.float64]


class Metrics(BaseModel):
    """The metrics of one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auc: float
    """Chance that a positive row scores above a negative one; a tie counts one half."""
    logloss: float
    """Mean negative log likelihood in nats; lower is better."""
    normalised_entropy: float
    """``logloss`` over the entropy of THIS split's positive rate; 1 is a constant predictor's."""
    calibration: float
    """Mean predicted probability over the positive rate; 1 is right, above 1 is too high."""
    accuracy: float
    """Share of rows with ``(logit > 0) == label``, as rounding the probability gives."""
    num_rows: int


def evaluate(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Metrics:
    """All metrics of one split.

    Raises:
        ValueError: shapes differ, a logit is NaN or infinite, a label is not 0 or 1, or all
            labels are of one class (then AUC and normalised entropy do not exist).
    """
    scores, truth = _check(logits, labels)
    rate = float(truth.mean())
    loss = _logloss(scores, truth)
    return Metrics(
        auc=_auc(scores, truth),
        logloss=loss,
        normalised_entropy=loss / entropy(rate),
        calibration=float(_sigmoid(scores).mean()) / rate,
        accuracy=float(np.mean((scores > 0) == (truth == 1))),
        num_rows=len(scores),
    )


def monitored(metrics: Metrics, monitor: Monitor) -> float:
    """What a validation is judged by; higher is better."""
    return metrics.auc - (metrics.logloss if monitor == "auc_minus_logloss" else 0.0)


def auc(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Area under the ROC curve, exact, ties counted one half. Raises as :func:`evaluate`."""
    return _auc(*_check(logits, labels))


def logloss(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean of -log p(label), in nats, exact for any finite logit. Raises as :func:`evaluate`."""
    return _logloss(*_check(logits, labels))


def entropy(rate: float) -> float:
    """Entropy in nats of one draw with probability ``rate``, which must lie inside (0, 1)."""
    if not 0 < rate < 1:
        raise ValueError(f"the positive rate must lie inside (0, 1), got {rate}")
    return -float(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))


def _check(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Floats, Floats]:
    scores: npt.NDArray[Any] = np.asarray(logits, dtype=np.float64)
    truth: npt.NDArray[Any] = np.asarray(labels, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != truth.shape or not len(scores):
        raise ValueError(
            f"metrics need logits and labels of one shape (N,) with N at least 1, got "
            f"{scores.shape} and {truth.shape}"
        )
    wrong = ~np.isfinite(scores)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} of {len(scores)} logits are NaN or infinite, the first at row "
            f"{int(wrong.argmax())}; lower the learning rate and look for bad inputs"
        )
    wrong = (truth != 0) & (truth != 1)
    if wrong.any():
        raise ValueError(
            f"labels must be 0 or 1, got {truth[wrong][0]:g} at row {int(wrong.argmax())}; "
            "set a label threshold when preparing the data"
        )
    if truth.min() == truth.max():
        raise ValueError(
            f"all {len(truth)} labels are {truth[0]:g}: AUC and normalised entropy need both "
            "classes; take a larger split"
        )
    return scores, truth


def _auc(scores: Floats, truth: Floats) -> float:
    order = np.argsort(scores, kind="stable")
    ordered, positives = scores[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # last row of each tie
    above = positives[ends]
    count_positive = np.diff(above, prepend=0.0)
    count_negative = np.diff(ends + 1.0, prepend=0.0) - count_positive
    negatives_below = np.cumsum(count_negative) - count_negative
    wins = np.dot(count_positive, negatives_below + count_negative / 2)
    num_positive = above[-1]
    return float(wins / (num_positive * (len(scores) - num_positive)))


def _logloss(scores: Floats, truth: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, np.where(truth == 1, -scores, scores))))


def _sigmoid(scores: Floats) -> Floats:
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1.0, small) / (1.0 + small)
