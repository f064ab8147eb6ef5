"""stats.py against scipy, scikit-learn and the literal formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn.metrics import roc_auc_score

from compactrec.benchmarks.stats import (
    RankedScores,
    auc,
    bootstrap_auc,
    bootstrap_difference,
    holm,
    mean_interval,
    paired_difference,
)

VALUES = st.lists(st.floats(-1e3, 1e3, allow_nan=False), min_size=2, max_size=8)


@given(VALUES, st.sampled_from([0.8, 0.95, 0.99]))
def test_mean_interval_equals_scipy(values: list[float], confidence: float) -> None:
    got = mean_interval(values, confidence)
    error = scipy_stats.sem(values)
    assert got.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert got.num == len(values)
    if error > 0:
        low, high = scipy_stats.t.interval(confidence, len(values) - 1, np.mean(values), error)
        assert (got.low, got.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9)
        assert got.half_width == pytest.approx((high - low) / 2, rel=1e-6, abs=1e-9)


def test_mean_interval_of_three_seeds_by_hand() -> None:
    got = mean_interval([0.70, 0.71, 0.72])
    half = 4.302652729911275 * 0.01 / math.sqrt(3)  # t(0.975, 2 degrees of freedom)
    assert (got.mean, got.low, got.high) == pytest.approx((0.71, 0.71 - half, 0.71 + half))


def test_one_value_has_no_interval() -> None:
    got = mean_interval([0.7])
    assert (got.mean, got.low, got.high, got.half_width, got.num) == (0.7, None, None, None, 1)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=8))
def test_paired_difference_equals_scipy(pairs: list[tuple[float, float]]) -> None:
    a = {seed: x for seed, (x, _) in enumerate(pairs)}
    b = {seed: y for seed, (_, y) in enumerate(pairs)}
    d = np.array([x - y for x, y in pairs])
    got = paired_difference(a, b)
    assert got.mean == pytest.approx(d.mean(), abs=1e-12)
    if d.std(ddof=1) > 1e-9:
        expected = scipy_stats.ttest_rel(list(a.values()), list(b.values()))
        interval = expected.confidence_interval(0.95)
        assert got.p_value == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-12)
        assert (got.low, got.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_paired_difference_pairs_by_seed_not_by_position() -> None:
    got = paired_difference({2: 0.9, 0: 0.1, 7: 0.5}, {5: 9.0, 2: 0.8, 0: 0.0})
    assert got.num == 2
    assert got.mean == pytest.approx(0.1)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.1, -0.003])
def test_differences_that_are_equal_but_for_rounding_have_no_p_value(shift: float) -> None:
    a = {0: 0.71, 1: 0.743, 2: 0.7591}
    got = paired_difference({s: v + shift for s, v in a.items()}, a)
    assert got.mean == pytest.approx(shift)
    assert (got.low, got.high, got.p_value, got.num) == (None, None, None, 3)


def test_a_spread_above_rounding_is_tested() -> None:
    a = {0: 0.71, 1: 0.743, 2: 0.7591}
    got = paired_difference({s: v + 0.1 + 1e-12 * s for s, v in a.items()}, a)
    assert got.p_value is not None
    assert got.p_value < 1e-6


def test_paired_difference_of_one_seed_has_no_interval() -> None:
    got = paired_difference({0: 0.5}, {0: 0.25})
    assert (got.mean, got.low, got.high, got.p_value, got.num) == (0.25, None, None, None, 1)


@given(st.lists(st.floats(0, 1), min_size=0, max_size=7))
def test_holm_equals_the_literal_definition(p_values: list[float]) -> None:
    """p~_(i) = max over j <= i of min(1, (m - j + 1) p_(j)) with j counted from 1."""
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    expected = [0.0] * m
    for i in range(m):
        expected[order[i]] = max(min(1.0, (m - j) * p_values[order[j]]) for j in range(i + 1))
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


LABELLED = st.lists(
    st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 4)), min_size=2, max_size=40
).filter(lambda rows: 0 < sum(y for y, _, _ in rows) < len(rows))


@given(LABELLED)
def test_auc_equals_the_count_of_pairs(rows: list[tuple[bool, int, int]]) -> None:
    """Ties are the rule here: seven distinct scores."""
    positive = [s for y, s, _ in rows if y]
    negative = [s for y, s, _ in rows if not y]
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    expected = wins / (len(positive) * len(negative))
    assert auc([y for y, _, _ in rows], [s for _, s, _ in rows]) == pytest.approx(expected)


@settings(max_examples=60)
@given(LABELLED)
def test_weighted_auc_equals_repeating_the_rows(rows: list[tuple[bool, int, int]]) -> None:
    labels = np.array([y for y, _, _ in rows], dtype=np.float32)
    scores = np.array([s for _, s, _ in rows], dtype=np.float32)
    weights = np.array([w for _, _, w in rows], dtype=np.uint8)
    got = RankedScores(labels, scores).auc(weights)
    repeated = np.repeat(labels, weights)
    if 0 < repeated.sum() < repeated.size:
        assert got == pytest.approx(roc_auc_score(repeated, np.repeat(scores, weights)))
    else:
        assert math.isnan(got)


def test_weights_do_not_overflow_their_type() -> None:
    """uint8 weights over many rows: sums must be taken in 64 bits."""
    labels = np.tile([0, 1, 1], 50_000)
    scores = np.random.default_rng(0).normal(size=labels.size).astype(np.float32) + labels
    weights = np.full(labels.size, 200, dtype=np.uint8)
    ranked = RankedScores(labels, scores)
    assert ranked.auc(weights) == pytest.approx(ranked.auc(), abs=1e-12)


def _clicks(num_rows: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=num_rows)
    labels = (rng.random(num_rows) < 1 / (1 + np.exp(-truth))).astype(np.float32)
    good = truth + 0.3 * rng.normal(size=num_rows)
    poor = truth + 2.0 * rng.normal(size=num_rows)
    return labels, good, poor


def test_bootstrap_draws_the_same_rows_for_every_model() -> None:
    labels, good, poor = _clicks()
    models = {k: RankedScores(labels, s) for k, s in {"a": good, "b": good, "c": poor}.items()}
    one = bootstrap_auc(models, num_resamples=16, seed=5)
    np.testing.assert_array_equal(one["a"], one["b"])
    assert np.std(one["a"]) > 0
    assert not np.array_equal(one["a"], one["c"])
    assert not np.array_equal(one["a"], bootstrap_auc(models, num_resamples=16, seed=6)["a"])


def test_bootstrap_equals_a_literal_resampling() -> None:
    labels, good, _ = _clicks(500)
    got = bootstrap_auc({"a": RankedScores(labels, good)}, num_resamples=5, seed=9)["a"]
    for resample in range(5):
        rows = np.random.default_rng((9, resample)).integers(500, size=500)
        assert got[resample] == pytest.approx(roc_auc_score(labels[rows], good[rows]))


def test_bootstrap_spread_is_that_of_fresh_test_rows() -> None:
    """Its standard deviation estimates how the AUC moves between independent test sets."""
    rng = np.random.default_rng(0)
    fresh = []
    for _ in range(300):
        labels = rng.random(600) < 0.3
        fresh.append(auc(labels, rng.normal(size=600) + labels))
    labels = rng.random(600) < 0.3
    ranked = RankedScores(labels, rng.normal(size=600) + labels)
    got = np.std(bootstrap_auc({"a": ranked}, num_resamples=300)["a"])
    assert got == pytest.approx(np.std(fresh), rel=0.25)


def test_bootstrap_difference_separates_good_from_poor_and_not_a_model_from_itself() -> None:
    labels, good, poor = _clicks()
    models = {k: RankedScores(labels, s) for k, s in {"good": good, "poor": poor}.items()}
    draws = bootstrap_auc(models, num_resamples=200)
    gap = models["good"].auc() - models["poor"].auc()
    apart = bootstrap_difference([draws["good"]] * 2, [draws["poor"]] * 2, gap)
    assert apart.low is not None
    assert apart.high is not None
    assert 0 < apart.low < gap < apart.high
    assert apart.p_value == pytest.approx(2 / 201)
    same = bootstrap_difference([draws["good"]], [draws["good"]], 0.0)
    assert (same.low, same.high, same.p_value) == (0.0, 0.0, 1.0)


def test_bootstrap_difference_averages_over_seeds_first() -> None:
    a = [np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])]
    b = [np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0])]
    got = bootstrap_difference(a, b, 1.0)
    assert (got.low, got.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "at least one value is needed"),
        (lambda: mean_interval([0.5, math.nan]), "every value must be finite"),
        (lambda: mean_interval([0.5, 0.6], 95), "confidence must lie between 0 and 1, got 95"),
        (lambda: paired_difference({0: 0.5}, {1: 0.5}), "no seed in common"),
        (lambda: holm([0.5, 1.5]), r"p-values must lie in \[0, 1\]"),
        (lambda: auc([0, 0], [0.1, 0.2]), "labels of both kinds"),
        (lambda: auc([0, 1], [0.1]), "2 labels but 1 scores"),
        (lambda: auc([0, 1], [0.1, math.nan]), "the model has diverged"),
        (lambda: bootstrap_difference([], [], 0.0), "needs the same seeds on both sides"),
        (
            lambda: bootstrap_auc({i: RankedScores([0, 1] * i, [0.1, 0.2] * i) for i in (1, 2)}),
            "scored on different test rows",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
