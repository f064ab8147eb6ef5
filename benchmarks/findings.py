"""The tables of `docs/findings.md`, from committed comparisons of several models on several data.

A *study* is one comparison: one model on one data set, in `results/study-<data>/<model>/` with its
`summary.json` and the `pairs.json` of :mod:`compactrec.benchmarks.pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compactrec.benchmarks.cells import versus_cell
from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.pairs import Pair, Pairs
from compactrec.benchmarks.summary import Row, Summary
from compactrec.benchmarks.texts import estimate_text

__all__ = [
    "NOTHING",
    "Order",
    "StudyResult",
    "costs_tables",
    "findings_parts",
    "load_studies",
    "orders",
    "orders_table",
    "ranks_table",
    "row_of",
]

NOTHING = "No such comparison is committed yet."


@dataclass(frozen=True)
class StudyResult:
    """One committed comparison."""

    folder: Path
    summary: Summary
    pairs: Pairs

    @property
    def data(self) -> str:
        """The name of its data set, as its folder has it."""
        return self.folder.parent.name.removeprefix("study-")

    @property
    def link(self) -> str:
        """Its model, with a link to its report, from a page in `docs/`."""
        path = f"../benchmarks/results/{self.folder.parent.name}/{self.folder.name}/report.md"
        return f"[{self.pairs.model}]({path})"


def load_studies(results: Path, group: str = "study-*") -> list[StudyResult]:
    """All studies in the folders of that name below `results`, by data and model."""
    return [
        StudyResult(
            path.parent,
            Summary.model_validate_json((path.parent / "summary.json").read_text()),
            Pairs.model_validate_json(path.read_text()),
        )
        for path in sorted(results.glob(f"{group}/*/pairs.json"))
    ]


def findings_parts(results: Path) -> dict[str, str]:
    """Section of the page -> its content."""
    studies = load_studies(results)
    return {
        "costs": costs_tables(studies),
        "ranks": ranks_table(studies),
        "orders": orders_table(studies),
    }


def _names(studies: Sequence[StudyResult]) -> list[str]:
    return list(dict.fromkeys(study.data for study in studies))


def _budgets(studies: Sequence[StudyResult]) -> list[str]:
    """Labels, largest budget first."""
    found = {r.budget: r.budget_bytes for s in studies for r in s.summary.rows if r.budget}
    return sorted(found, key=lambda label: -(found[label] or 0))


def costs_tables(studies: Sequence[StudyResult]) -> str:
    """One table for each data set: AUC of full tables, and every method's difference to them."""
    tables = []
    for name in _names(studies):
        here = [study for study in studies if study.data == name]
        seeds = min(len(study.summary.seeds) for study in here)
        head = " | ".join(study.link for study in here)
        lines = [
            f"**{name}**, {seeds} seeds.",
            "",
            f"| budget | method | {head} |",
            "|---|---|" + "---:|" * len(here),
        ]
        full = [estimate_text(s.summary.full) if s.summary.full else "-" for s in here]
        lines.append(f"| - | `{FULL}` | {' | '.join(full)} |")
        methods = {r.method: None for s in here for r in s.summary.rows if r.budget}
        for budget in _budgets(here):
            for method in sorted(methods):
                cells = [_cost(study.summary, method, budget) for study in here]
                lines.append(f"| {budget} | `{method}` | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) or NOTHING


def row_of(summary: Summary, method: str, budget: str) -> Row | None:
    """The row of a method at a budget; None where it has no result."""
    found = (r for r in summary.rows if (r.method, r.budget) == (method, budget))
    return next((row for row in found if row.auc is not None), None)


def _cost(summary: Summary, method: str, budget: str) -> str:
    row = row_of(summary, method, budget)
    return "no plan" if row is None else versus_cell(row.versus.get(FULL)).text


def ranks_table(studies: Sequence[StudyResult]) -> str:
    """The place of every method by mean AUC, best and worst over the models of a data set."""
    names = _names(studies)
    if not names:
        return NOTHING
    lines = [f"| budget | method | {' | '.join(names)} |", "|---|---|" + "---:|" * len(names)]
    methods = sorted({r.method for s in studies for r in s.summary.rows if r.budget})
    for budget in _budgets(studies):
        for method in methods:
            cells = [_places([s for s in studies if s.data == n], method, budget) for n in names]
            lines.append(f"| {budget} | `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _places(studies: Sequence[StudyResult], method: str, budget: str) -> str:
    places, num = [], 0
    for study in studies:
        rows = [r for r in study.summary.rows if r.budget == budget and r.auc is not None]
        rows.sort(key=lambda r: -(r.auc.mean if r.auc else 0.0))
        order = [row.method for row in rows]
        if method in order:
            places.append(order.index(method) + 1)
            num = max(num, len(order))
    if not places:
        return "-"
    low, high = min(places), max(places)
    return f"{low} of {num}" if low == high else f"{low} to {high} of {num}"


@dataclass(frozen=True)
class Order:
    """Two methods at one budget over several studies; `above` is more often the better by mean."""

    budget: str
    above: str
    below: str
    num: int
    """Studies that have both."""
    num_above: int
    """In which the mean says so too."""
    told: int
    """In which they are told apart, that way."""
    reversed: int
    """In which they are told apart the other way."""

    @property
    def verdict(self) -> str:
        """`holds`: the same way in every study, and told apart in more than half of them."""
        if self.told and self.reversed:
            return "contradicted"
        if self.num_above == self.num and 2 * self.told > self.num:
            return "holds"
        return "direction only" if self.num_above == self.num else "open"


def orders(studies: Sequence[StudyResult]) -> list[Order]:
    """Every pair of methods at every budget; what holds first."""
    found: dict[tuple[str, str, str], list[Pair]] = {}
    for study in studies:
        for pair in study.pairs.pairs:
            if pair.first_budget == pair.second_budget:
                found.setdefault((pair.first_budget, pair.first, pair.second), []).append(pair)
    places = {budget: i for i, budget in enumerate(_budgets(studies))}
    made = [_order(budget, a, b, pairs) for (budget, a, b), pairs in found.items()]
    ranks = {"holds": 0, "contradicted": 1, "direction only": 2, "open": 3}
    return sorted(
        made, key=lambda o: (places[o.budget], ranks[o.verdict], -o.told, o.above, o.below)
    )


def _order(budget: str, first: str, second: str, pairs: Sequence[Pair]) -> Order:
    ups = sum(pair.versus.mean > 0 for pair in pairs)
    better = sum(pair.versus.verdict == "better" for pair in pairs)
    worse = sum(pair.versus.verdict == "worse" for pair in pairs)
    if (2 * ups, better) >= (len(pairs), worse):
        return Order(budget, first, second, len(pairs), ups, better, worse)
    return Order(budget, second, first, len(pairs), len(pairs) - ups, worse, better)


def orders_table(studies: Sequence[StudyResult]) -> str:
    """:func:`orders` in words."""
    if not studies:
        return NOTHING
    lines = [
        "| budget | above | below | by mean | told apart | the other way | verdict |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {o.budget} | `{o.above}` | `{o.below}` | {o.num_above} of {o.num} | {o.told} "
        f"| {o.reversed} | {o.verdict} |"
        for o in orders(studies)
    ]
    return "\n".join(lines)
