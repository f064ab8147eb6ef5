"""Pairs of methods within a budget and across budgets, against the report and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.pairs import Pairs, main, pairs_of
from compactrec.benchmarks.stats import holm
from compactrec.benchmarks.study import Study
from compactrec.benchmarks.summary import summarise
from tests.benchmarks.fake_runs import fake_study

QUARTER, SIXTEENTH = 4_000_000, 1_000_000
NOISES: dict[str, dict[int, float | str]] = {
    "hash": {QUARTER: 0.9, SIXTEENTH: 1.5},
    "mixed": {QUARTER: 0.6, SIXTEENTH: "too small"},
    "rare": {QUARTER: 0.88, SIXTEENTH: 1.1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs")
    fake_study(path, NOISES)
    return path


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return load_study([folder])


def test_every_pair_of_a_budget_is_there_once(study: Study) -> None:
    found = pairs_of(study, num_resamples=20)
    names = [(p.first_budget, p.first, p.second) for p in found.pairs]
    quarter = [("hash", "mixed"), ("hash", "rare"), ("mixed", "rare")]
    assert names == [*(("1/4", *pair) for pair in quarter), ("1/16", "hash", "rare")]
    assert all(pair.second_budget == pair.first_budget for pair in found.pairs)
    assert (found.model, found.num_resamples) == ("dlrm", 20)


def test_differences_are_those_of_the_report(study: Study) -> None:
    rows = summarise(study, "hash", num_resamples=20).rows
    versus = next(r for r in rows if (r.method, r.budget) == ("rare", "1/4")).versus["hash"]
    pairs = pairs_of(study, num_resamples=20).pairs
    pair = next(p for p in pairs if (p.first, p.second) == ("hash", "rare"))
    assert pair.versus.mean == -versus.mean
    assert pair.versus.p_value == pytest.approx(versus.p_value)
    assert versus.rows_low is not None
    assert pair.versus.rows_high == pytest.approx(-versus.rows_low)


def test_holm_runs_over_the_pairs_of_one_budget(study: Study) -> None:
    pairs = pairs_of(study, num_resamples=20).pairs
    given = [p.versus.p_value or 0.0 for p in pairs[:3]]
    assert [p.versus.p_holm for p in pairs[:3]] == pytest.approx(holm(given))
    assert pairs[3].versus.p_holm == pairs[3].versus.p_value  # the only one of its budget


def test_pairs_across_budgets_are_a_family_of_their_own(folder: Path, tmp_path: Path) -> None:
    across = ["--across", "rare@1/16", "hash@1/4", "--across", "mixed@1/4", "hash@1/16"]
    out = tmp_path / "pairs.json"
    assert main([str(folder), *across, "--resamples", "20", "--out", str(out)]) == 0
    found = Pairs.model_validate_json(out.read_text())
    first, second = found.pairs[-2:]
    assert (first.first, first.first_budget, first.second, first.second_budget) == (
        "rare", "1/16", "hash", "1/4",
    )  # fmt: skip
    assert (first.versus.verdict, second.versus.verdict) == ("worse", "better")
    p = [first.versus.p_value or 0.0, second.versus.p_value or 0.0]
    assert [first.versus.p_holm, second.versus.p_holm] == pytest.approx(holm(p))


def test_an_unknown_cell_is_named_and_one_without_a_result_left_out(study: Study) -> None:
    asked = r"'mixed@1/64' was not compared here; give two of hash@1/4, hash@1/16, mixed@1/4, "
    with pytest.raises(ValueError, match=asked):
        pairs_of(study, [("mixed@1/64", "hash@1/4")], num_resamples=0)
    found = pairs_of(
        study, [("mixed@1/16", "hash@1/4"), ("rare@1/16", "hash@1/4")], num_resamples=0
    )
    assert [(p.first, p.second) for p in found.pairs[4:]] == [("rare", "hash")]
    assert found.num_resamples == 0
