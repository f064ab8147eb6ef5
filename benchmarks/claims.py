"""Tables of `docs/findings.md` on what papers claim, beside the orders of `findings.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compactrec.benchmarks.cells import versus_cell
from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.findings import NOTHING, StudyResult, load_studies, row_of
from compactrec.benchmarks.stats import mean_interval
from compactrec.benchmarks.summary import Summary
from compactrec.benchmarks.texts import SIGNS, estimate_text
from compactrec.benchmarks.versus import turned

__all__ = ["claims_parts", "claims_table", "recipe_table", "sharing_tables"]


def claims_parts(results: Path) -> dict[str, str]:
    """Section of the page -> its content."""
    return {
        "claims": claims_table(load_studies(results)),
        "recipe": recipe_table(load_studies(results, "quotient-remainder")),
        "sharing": sharing_tables(results / "sharing"),
    }


CLAIMS = (
    ("compositional", "1/4", "hash", "1/4"),
    ("compositional", "1/64", "hash", "1/4"),
    ("mixed", "1/16", FULL, ""),
)


def claims_table(studies: Sequence[StudyResult]) -> str:
    """Claims of papers in every study: difference, interval, mark."""
    if not studies:
        return NOTHING
    lines = [
        "| data | model | `compositional` 1/4 minus `hash` 1/4 "
        "| `compositional` 1/64 minus `hash` 1/4 | `mixed` 1/16 minus `full` |",
        "|---|---|---:|---:|---:|",
    ]
    for study in studies:
        cells = " | ".join(_claim(study, *claim) for claim in CLAIMS)
        lines.append(f"| {study.data} | {study.link} | {cells} |")
    return "\n".join(lines)


def _claim(study: StudyResult, first: str, budget: str, second: str, other: str) -> str:
    if second == FULL:
        row = row_of(study.summary, first, budget)
        return "no plan" if row is None else versus_cell(row.versus.get(FULL)).text
    cells = {(first, budget): 1, (second, other): 0}
    for p in study.pairs.pairs:
        ends = (p.first, p.first_budget), (p.second, p.second_budget)
        if set(ends) == set(cells):
            return versus_cell(p.versus if cells[ends[0]] else turned(p.versus)).text
    return "no plan"


RECIPE = (("hash", "1/4"), ("compositional", "1/4"), ("compositional", "1/60"))


def recipe_table(studies: Sequence[StudyResult]) -> str:
    """Quotient-remainder as its paper trains it: a row for each model and optimizer."""
    if not studies:
        return NOTHING
    lines = [
        "| model | optimizer | validation AUC of `full`, `hash` 1/4, `compositional` 1/4 and 1/60 "
        "| `full` | `compositional` 1/4 minus `full` | 1/4 minus `hash` 1/4 "
        "| 1/60 minus `hash` 1/4 |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for study in studies:
        summary = study.summary
        rows = [summary.full, *(row_of(summary, *cell) for cell in RECIPE)]
        selected = ", ".join(
            "-" if row is None or row.validation_auc is None else f"{row.validation_auc:.4f}"
            for row in rows
        )
        full = "-" if summary.full is None else estimate_text(summary.full)
        claims = [
            _claim(study, "compositional", *ends)
            for ends in (("1/4", FULL, ""), ("1/4", "hash", "1/4"), ("1/60", "hash", "1/4"))
        ]
        optimizer = summary.config["table_optimizer"]
        lines.append(
            f"| {study.link} | `{optimizer}` | {selected} | {full} | {' | '.join(claims)} |"
        )
    return "\n".join(lines)


def sharing_tables(results: Path, first: str = "unified", second: str = "hash") -> str:
    """The experiment on tables that features share: one table for each set below `results`."""
    tables = []
    for path in sorted(results.glob("*/summary.json")):
        summary = Summary.model_validate_json(path.read_text())
        link = f"../benchmarks/results/{results.name}/{path.parent.name}/report.md"
        full = estimate_text(summary.full) if summary.full else "-"
        lines = [
            f"**[{path.parent.name}]({link})**, {len(summary.seeds)} seeds. Full: {full}.",
            "",
            f"| budget | `{second}` | `{first}` | difference | more than at the largest budget |",
            "|---|---:|---:|---:|---:|",
        ]
        labels = {r.budget: r.budget_bytes for r in summary.rows if r.budget}
        largest: dict[int, float] = {}
        for label in sorted(labels, key=lambda text: -(labels[text] or 0)):
            a, b = row_of(summary, first, label), row_of(summary, second, label)
            if a is None or b is None:
                continue
            gains = {s: a.auc_by_seed[s] - b.auc_by_seed[s] for s in a.seeds if s in b.seeds}
            versus = versus_cell(a.versus.get(second)).text
            more = _more(gains, largest) if largest else "-"
            largest = largest or gains
            lines.append(
                f"| {label} | {estimate_text(b)} | {estimate_text(a)} | {versus} | {more} |"
            )
        tables.append("\n".join(lines))
    return "\n\n".join(tables) or NOTHING


def _more(gains: dict[int, float], largest: dict[int, float]) -> str:
    """How the gain grew, with its interval over seeds; a mark where that excludes zero."""
    found = mean_interval([gains[s] - largest[s] for s in gains if s in largest])
    half = found.half_width
    if half is None:
        return f"{found.mean:+.4f}"
    sign = "better" if found.mean > half else "worse" if -found.mean > half else "unclear"
    return f"{found.mean:+.4f} ± {half:.4f}{SIGNS[sign]}"
