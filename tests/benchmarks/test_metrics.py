"""Metrics against their literal definitions and scikit-learn."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compactrec.benchmarks.metrics import Metrics, auc, entropy, evaluate, logloss

Array = npt.NDArray[np.float64]


@st.composite
def splits(draw: st.DrawFn) -> tuple[Array, Array]:
    """Logits with many ties and large values, and labels of both classes."""
    num = draw(st.integers(2, 40))
    values = st.one_of(st.integers(-3, 3).map(float), st.floats(-700, 700, width=32))
    logits = draw(arrays(np.float64, num, elements=values))
    labels = draw(arrays(np.float64, num, elements=st.sampled_from([0.0, 1.0])))
    labels[0], labels[-1] = 1.0, 0.0
    return logits, labels


def probabilities(logits: Array) -> list[float]:
    return [1 / (1 + math.exp(-z)) if z > -700 else 0.0 for z in logits]


@given(splits())
@settings(max_examples=80, deadline=None)
def test_auc_is_the_share_of_pairs_in_the_right_order(split: tuple[Array, Array]) -> None:
    logits, labels = split
    pairs = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in logits[labels == 1]
        for negative in logits[labels == 0]
    ]
    assert auc(logits, labels) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@given(splits())
@settings(max_examples=80, deadline=None)
def test_the_rest_equals_the_definitions(split: tuple[Array, Array]) -> None:
    logits, labels = split
    result = evaluate(logits, labels)
    # -log p(label), where p is 1 / (1 + exp(-z)) for a positive and 1 / (1 + exp(z)) for a negative
    losses = [
        math.log1p(math.exp(-s)) if s > 0 else -s + math.log1p(math.exp(s))
        for s in np.where(labels == 1, logits, -logits)
    ]
    loss = math.fsum(losses) / len(losses)
    rate = labels.mean()
    base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    predicted = probabilities(logits)
    assert result.logloss == pytest.approx(loss, rel=1e-12)
    assert result.normalised_entropy == pytest.approx(loss / base, rel=1e-9)
    assert result.calibration == pytest.approx(math.fsum(predicted) / labels.sum(), rel=1e-9)
    assert result.accuracy == np.mean([(z > 0) == (y == 1) for z, y in zip(*split, strict=True)])
    assert result.num_rows == len(logits)


def test_equals_scikit_learn_on_many_rows_with_ties() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=20_000), 2).astype(np.float32)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(1 - logits))).astype(np.float32)
    result = evaluate(logits, labels)
    chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert result.auc == pytest.approx(sklearn.roc_auc_score(labels, logits), abs=1e-12)
    assert result.logloss == pytest.approx(sklearn.log_loss(labels, chance), rel=1e-12)
    assert result.accuracy == sklearn.accuracy_score(labels, chance > 0.5)


def test_known_values() -> None:
    labels = np.array([1.0, 0, 0, 0])
    constant = evaluate(np.full(4, math.log(1 / 3)), labels)  # the positive rate, 1/4
    assert constant.auc == 0.5
    assert constant.normalised_entropy == pytest.approx(1.0, abs=1e-12)
    assert constant.calibration == pytest.approx(1.0, abs=1e-12)
    assert constant.accuracy == 0.75
    assert constant.logloss == pytest.approx(0.5623351446188083, abs=1e-15)
    assert evaluate([3.0, 0, 1, 2], labels).auc == 1.0
    assert evaluate([0.0, 1, 2, 3], labels).auc == 0.0
    assert evaluate([0.0, -1, -1, -1], labels).accuracy == 0.75  # logit 0 rounds to 0


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        result = evaluate([1e4, -1e4, 1e4, 0.5], [1.0, 0, 0, 1])
    assert result.logloss == pytest.approx((1e4 + math.log1p(math.exp(-0.5))) / 4, rel=1e-15)
    assert logloss([40.0, -40.0], [1, 0]) == pytest.approx(math.exp(-40), rel=1e-6)


def test_round_trip() -> None:
    result = evaluate([0.1, 0.2, -0.3], [1, 0, 1])
    assert Metrics.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, math.nan, 2.0], [0, 1, 0], "1 of 3 logits are NaN or infinite, the first at row 1"),
        ([math.inf, 1.0], [0, 1], "logits are NaN or infinite, the first at row 0"),
        ([1.0, 2.0], [0, 0], "all 2 labels are 0: .* need both classes"),
        ([1.0, 2.0], [1, 1], "all 2 labels are 1"),
        ([1.0, 2.0, 3.0], [0, 1, 0.5], "labels must be 0 or 1, got 0.5 at row 2"),
        ([1.0, 2.0], [0, math.nan], "labels must be 0 or 1, got nan at row 1"),
        ([1.0, 2.0], [0, 1, 1], r"one shape \(N,\).* got \(2,\) and \(3,\)"),
        ([], [], "with N at least 1"),
        ([[1.0], [2.0]], [[0], [1]], r"got \(2, 1\)"),
    ],
)
def test_errors(logits: list[float], labels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(logits, labels)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_entropy_needs_an_inner_rate(rate: float) -> None:
    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        entropy(rate)
