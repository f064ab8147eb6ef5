"""The tables of the findings page: verdicts by hand, and what a reader sees of made-up studies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from compactrec.benchmarks.claims import claims_table, recipe_table, sharing_tables
from compactrec.benchmarks.findings import (
    StudyResult,
    costs_tables,
    load_studies,
    orders,
    orders_table,
    ranks_table,
)
from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.pairs import Pair, pairs_of
from compactrec.benchmarks.report import write_report
from compactrec.benchmarks.study import write_json
from compactrec.benchmarks.texts import estimate_text
from compactrec.benchmarks.versus import Verdict, Versus, turned
from tests.benchmarks.fake_runs import fake_study

BIG, MIDDLE, SMALL = 4_000_000, 1_000_000, 250_000
LABELS = {BIG: "1/4", MIDDLE: "1/16", SMALL: "1/64"}
FIRST: dict[str, dict[int, float | str]] = {
    "hash": {BIG: 0.9, MIDDLE: 1.5, SMALL: 2.5},
    "compositional": {BIG: 0.6, MIDDLE: 1.0, SMALL: 1.2},
    "mixed": {BIG: 0.5, MIDDLE: 0.7, SMALL: "too small"},
}
SECOND: dict[str, dict[int, float | str]] = {
    **FIRST, "compositional": {BIG: 1.4, MIDDLE: 1.1, SMALL: 1.2}
}  # fmt: skip


def committed(
    results: Path,
    group: str,
    model: str,
    noises: dict[str, dict[int, float | str]],
    small: str = "1/64",
) -> None:
    """A study as it is committed."""
    runs = results.parent / "runs" / group / model
    fake_study(runs, noises, budgets={**LABELS, SMALL: small})
    out = results / group / model
    write_report([runs], out, num_resamples=20)
    across = [(f"compositional@{small}", "hash@1/4")]
    found = pairs_of(load_study([runs]), across, num_resamples=20)
    write_json(out / "pairs.json", {**found.model_dump(mode="json"), "model": model})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("committed") / "results"
    committed(path, "study-clicks", "dcnv2", FIRST)
    committed(path, "study-clicks", "dlrm", SECOND)
    committed(path, "quotient-remainder", "dlrm-adagrad", FIRST, small="1/60")
    return path


@pytest.fixture(scope="module")
def studies(results: Path) -> list[StudyResult]:
    return load_studies(results)


def test_costs_are_those_of_the_summaries(studies: list[StudyResult]) -> None:
    text = costs_tables(studies)
    full = [estimate_text(study.summary.full) for study in studies if study.summary.full]
    assert f"| - | `full` | {full[0]} | {full[1]} |" in text
    assert "[dcnv2](../benchmarks/results/study-clicks/dcnv2/report.md) | [dlrm]" in text
    row = next(r for r in studies[1].summary.rows if (r.method, r.budget) == ("hash", "1/64"))
    assert f"| {row.versus['full'].mean:+.4f} ± " in text
    assert "| 1/64 | `mixed` | no plan | no plan |" in text


def test_ranks_go_from_the_best_model_to_the_worst(studies: list[StudyResult]) -> None:
    text = ranks_table(studies)
    assert "| 1/4 | `mixed` | 1 of 3 |" in text
    assert "| 1/4 | `compositional` | 2 to 3 of 3 |" in text
    assert "| 1/64 | `hash` | 2 of 2 |" in text
    assert "| 1/64 | `mixed` | - |" in text


def test_orders_of_made_up_studies(studies: list[StudyResult]) -> None:
    text = orders_table(studies)
    assert "| 1/16 | `mixed` | `hash` | 2 of 2 | 2 | 0 | holds |" in text
    assert "| 1/4 | `hash` | `compositional` | 1 of 2 | 1 | 1 | contradicted |" in text


def test_a_difference_turned_round() -> None:
    found = Versus(
        mean=0.25, low=0.125, high=0.5, p_value=0.01, p_holm=0.02, rows_low=None, rows_high=0.75,
        num_seeds=5, verdict="better",
    )  # fmt: skip
    assert turned(found) == Versus(
        mean=-0.25, low=-0.5, high=-0.125, p_value=0.01, p_holm=0.02, rows_low=-0.75,
        rows_high=None, num_seeds=5, verdict="worse",
    )  # fmt: skip
    assert turned(turned(found)) == found


def pair(mean: float, verdict: Verdict) -> Pair:
    versus = Versus(
        mean=mean, low=None, high=None, p_value=0.2, p_holm=0.2, rows_low=None, rows_high=None,
        num_seeds=5, verdict=verdict,
    )  # fmt: skip
    return Pair(first="hash", first_budget="1/4", second="rare", second_budget="1/4", versus=versus)


@pytest.mark.parametrize(
    ("found", "above", "counts", "verdict"),
    [
        ([(-0.1, "worse"), (-0.1, "worse"), (-0.1, "unclear")], "rare", (3, 2, 0), "holds"),
        ([(0.1, "better"), (0.1, "unclear")], "hash", (2, 1, 0), "direction only"),
        ([(0.1, "better"), (0.1, "better"), (-0.1, "unclear")], "hash", (2, 2, 0), "open"),
        ([(0.1, "better"), (-0.1, "worse"), (-0.1, "unclear")], "rare", (2, 1, 1), "contradicted"),
        ([(0.1, "unclear"), (-0.1, "worse")], "rare", (1, 1, 0), "open"),
    ],
)
def test_verdicts(
    studies: list[StudyResult],
    found: list[tuple[float, Verdict]],
    above: str,
    counts: tuple[int, int, int],
    verdict: str,
) -> None:
    made = [
        StudyResult(s.folder, s.summary, s.pairs.model_copy(update={"pairs": (pair(*one),)}))
        for s, one in zip([studies[0]] * len(found), found, strict=True)
    ]
    (order,) = orders(made)
    assert (order.above, order.verdict) == (above, verdict)
    assert (order.num_above, order.told, order.reversed) == counts


def test_claims_have_every_study(studies: list[StudyResult]) -> None:
    lines = claims_table(studies).splitlines()
    assert len(lines) == 2 + len(studies)
    small = studies[0].pairs.pairs[-1]
    assert (small.first_budget, small.second_budget) == ("1/64", "1/4")
    assert f" {small.versus.mean:+.4f} ± " in lines[2]
    assert " ▲ | " in lines[2]
    assert " ▼ | " in lines[3]
    assert "no plan" not in lines[2] + lines[3]


def test_the_recipe_of_a_paper_beside_its_claim(results: Path) -> None:
    (study,) = load_studies(results, "quotient-remainder")
    told = study.summary.model_copy(update={"config": {"table_optimizer": "adagrad"}})
    (line,) = recipe_table([replace(study, summary=told)]).splitlines()[2:]
    assert line.startswith("| [dlrm-adagrad](../benchmarks/results/quotient-remainder/dlrm-adag")
    rows = {(r.method, r.budget): r for r in study.summary.rows}
    cells = ("full", None), ("hash", "1/4"), ("compositional", "1/4"), ("compositional", "1/60")
    selected = ", ".join(f"{rows[cell].validation_auc:.4f}" for cell in cells)
    assert f"| `adagrad` | {selected} | {estimate_text(study.summary.rows[0])} |" in line
    *_, equal, across = line.removesuffix(" |").split(" | ")
    small = study.pairs.pairs[-1]
    assert across.startswith(f"{small.versus.mean:+.4f} ± ")
    means = [fmean(rows[cell].auc_by_seed.values()) for cell in cells]
    assert equal.startswith(f"{means[2] - means[1]:+.4f} ± ")
    assert f"| {means[2] - means[0]:+.4f} ± " in line


def test_sharing_says_how_the_difference_grows(results: Path) -> None:
    text = sharing_tables(results / "study-clicks", "compositional")
    summary = load_studies(results)[0].summary
    auc = {(r.method, r.budget): r.auc_by_seed for r in summary.rows if r.budget}
    gains = [
        sum(auc["compositional", b][s] - auc["hash", b][s] for s in range(3)) / 3
        for b in ("1/4", "1/64")
    ]
    assert "**[dcnv2](../benchmarks/results/study-clicks/dcnv2/report.md)**, 3 seeds" in text
    first = next(line for line in text.splitlines() if line.startswith("| 1/4 "))
    last = next(line for line in text.splitlines() if line.startswith("| 1/64 "))
    assert f"| {gains[0]:+.4f} ± " in first
    assert first.endswith("| - |")
    assert f"| {gains[1] - gains[0]:+.4f} ± " in last


def test_without_results_the_tables_say_so(tmp_path: Path) -> None:
    for text in (
        costs_tables([]),
        ranks_table([]),
        orders_table([]),
        claims_table([]),
        recipe_table([]),
    ):
        assert text == "No such comparison is committed yet."
    assert sharing_tables(tmp_path) == "No such comparison is committed yet."
