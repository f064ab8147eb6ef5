"""Write the derived parts of README.md and of the cards: ``make docs``. A test finds stale ones."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.cells import versus_cell
from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.claims import claims_parts
from compactrec.benchmarks.findings import findings_parts
from compactrec.benchmarks.protocol_tables import protocols_markdown
from compactrec.benchmarks.report import insert_fragment
from compactrec.benchmarks.speed_tables import (
    kernels_table,
    parts_table,
    sharded_table,
    tables_table,
    training_table,
)
from compactrec.benchmarks.speed_tables import models_table as model_speeds
from compactrec.benchmarks.summary import Row, Summary
from compactrec.benchmarks.texts import estimate_text
from compactrec.embeddings import get_method, method_names
from compactrec.models import get_model, model_names

__all__ = [
    "derived",
    "equality_table",
    "main",
    "methods_table",
    "models_table",
    "planted_table",
    "runs_of",
    "searches_tables",
    "step_times",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TOLD_APART = {"better": "yes, better", "worse": "yes, worse", "unclear": "no"}


def derived() -> Iterator[tuple[Path, str, str]]:
    """Every derived part: its file, the name of its section, its content."""
    yield ROOT / "README.md", "methods", methods_table()
    yield ROOT / "docs" / "models.md", "models", models_table()
    yield ROOT / "docs" / "protocols.md", "protocols", protocols_markdown()
    yield ROOT / "docs" / "searches.md", "searches", searches_tables()
    yield ROOT / "docs" / "searches.md", "planted", planted_table()
    for name, table in {**findings_parts(RESULTS), **claims_parts(RESULTS)}.items():
        yield ROOT / "docs" / "findings.md", name, table
    speeds = {
        "kernels": kernels_table, "tables": tables_table, "table_parts": parts_table,
        "training": training_table, "models": model_speeds, "sharded": sharded_table,
    }  # fmt: skip
    for name, table in speeds.items():
        yield ROOT / "benchmarks" / "README.md", name, table(RESULTS / f"{name}.json")
    sharded = ROOT / "docs" / "sharding.md"
    yield sharded, "equality", equality_table(RESULTS / "sharded-equality")
    folders = sorted(p.parent for p in RESULTS.glob("*/summary.json") if not _searched(p.parent))
    for name in method_names():
        content = "\n\n".join(filter(None, [runs_of(name, folders), step_times(name)]))
        yield ROOT / "docs" / "methods" / f"{name}.md", "runs", content


def methods_table() -> str:
    """One row per registered method, in the registry's order; baselines are marked."""
    rows = ["| method | what | e(x) of an id x | paper |", "|---|---|---|---|"]
    for name in method_names():
        method = get_method(name)
        title = f"{method.title} (baseline)" if method.baseline else method.title
        paper = _linked(method.paper)
        formula = method.formula.replace("|", "\\|")
        rows.append(f"| [`{name}`](docs/methods/{name}.md) | {title} | `{formula}` | {paper} |")
    return "\n".join(rows)


def models_table() -> str:
    """One row per model, in the registry's order: paper, formula, options and their defaults."""
    rows = ["| model | what | logit | options and defaults | paper |", "|---|---|---|---|---|"]
    for name in model_names():
        model = get_model(name)
        given = model.config().model_dump(mode="json")
        options = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in given.items())
        formula = model.formula.replace("|", "\\|")
        trained = ", ".join(f"`{key} = {json.dumps(v)}`" for key, v in model.training.items())
        options = f"{options}; trained with {trained}" if trained else options
        cells = [f"`{name}`", model.title, f"`{formula}`", options or "-", _linked(model.paper)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _linked(paper: str) -> str:
    return re.sub(r"arXiv (\S+)", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def runs_of(method: str, folders: Sequence[Path]) -> str:
    """What a method cost in the comparisons of `folders`: a row per data set and budget."""
    rows = []
    for folder in folders:
        summary = Summary.model_validate_json((folder / "summary.json").read_text())
        data = f"[{summary.data.name}](../../benchmarks/results/{folder.name}/report.md)"
        found = [row for row in summary.rows if row.method.partition(":")[0] == method]
        rows += [f"| {data} | {' | '.join(_cells(row))} |" for row in found]
    if not rows:
        return "**In our runs.** No committed comparison has this method."
    return "\n".join(
        [
            "**In our runs.** Mean over seeds ± half of a 95% interval; "
            "[Reading the numbers](../reading-the-numbers.md) says when two are told apart.",
            "",
            "| data | budget | serving | test AUC | minus `full` | told apart |",
            "|---|---:|---:|---:|---:|---|",
            *rows,
        ]
    )


def searches_tables() -> str:
    """What searches and their baselines reached: a table for each comparison that has any."""
    folders = sorted(path.parent for path in RESULTS.glob("*/summary.json"))
    tables = [_searches_table(folder) for folder in folders if _searched(folder)]
    return "\n\n".join(tables) or "No committed comparison has a search."


def _searches_table(folder: Path) -> str:
    summary = Summary.model_validate_json((folder / "summary.json").read_text())
    labels = {row.budget_bytes: row.budget for row in summary.rows if row.budget_bytes}
    budgets = sorted(labels, reverse=True)
    name = folder.name.removeprefix("searches-")
    report = f"[{name}](../benchmarks/results/{folder.name}/report.md)"
    full = summary.full
    head = f"**{report}**, {len(summary.seeds)} seeds."
    if full is not None:
        serving = format_bytes(full.bytes["serving_bytes"])
        head += f" Full tables: {serving}, test AUC {estimate_text(full)}."
    names = "".join(f" AUC at {labels[b]} | minus full |" for b in budgets)
    lines = [
        head,
        "",
        f"| method |{names} search |",
        "|---|" + "---:|---:|" * len(budgets) + "---:|",
    ]
    methods = dict.fromkeys(row.method for row in summary.rows if row.budget_bytes)
    first = budgets[-1]
    found = {(row.method, row.budget_bytes): row for row in summary.rows}

    def rank(method: str) -> float:
        row = found.get((method, first))
        return -(row.auc.mean if row is not None and row.auc is not None else 0.0)

    for method in sorted(methods, key=rank):
        cells, cost = "", "-"
        for budget in budgets:
            row = found.get((method, budget))
            if row is None or row.auc is None:
                cells += " no result | - |"
                continue
            versus = row.versus.get(FULL)
            cells += f" {estimate_text(row)} | {versus_cell(versus).text if versus else '-'} |"
            if row.search_time_ratio is not None and row.search_memory_ratio is not None:
                cost = f"{row.search_time_ratio:.1f}x, {row.search_memory_ratio:.2f}x"
        lines.append(f"| `{method}` |{cells} {cost} |")
    return "\n".join(lines)


def planted_table() -> str:
    """How the plans of searches compare with a planted answer, as `planted_answer.py` wrote it."""
    plans = json.loads((RESULTS / "searches-planted" / "answer.json").read_text())["plans"]
    lines = [
        "| plan | budget | rank correlation (by seed) | noise keeps | ids without signal keep |",
        "|---|---:|---:|---:|---:|",
    ]
    for plan in plans:
        name, budget = f"`{plan['method']}`", plan["budget"] or "-"
        if "reason" in plan:
            lines.append(f"| {name} | {budget} | no plan | - | - |")
            continue
        seeds = ", ".join(f"{value:.2f}" for value in plan["rank_correlation_by_seed"])
        lines.append(
            f"| {name} | {budget} | {plan['rank_correlation']:.2f} ({seeds}) "
            f"| {plan['noise_kept']:.0%} | {plan['ids_without_signal_kept']:.0%} |"
        )
    return "\n".join(lines)


def _searched(folder: Path) -> bool:
    """Whether a comparison has searches."""
    summary = Summary.model_validate_json((folder / "summary.json").read_text())
    return any(row.search_seconds for row in summary.rows)


def step_times(method: str) -> str:
    """The table step's time over that of full tables, as `bench_tables.py` measured it."""
    path = RESULTS / "tables.json"
    if method == FULL or not path.is_file():
        return ""
    measured = [
        f"{result['rows'][method]['ratio_to_full']:.2f} ({result['batch']}, {result['dim']})"
        for result in json.loads(path.read_text())["results"]
        if method in result["rows"]
    ]
    if not measured:
        return ""
    return (
        "Time of the [table step](../../benchmarks/README.md#speed) over that of `full`, at a "
        f"quarter of its bytes (batch, width): {', '.join(measured)}."
    )


def equality_table(folder: Path) -> str:
    """How far several processes were from one, as the sharding tests wrote it down."""
    lines = [
        "| processes | optimizer | bags | ways to train | went wrong | largest difference |",
        "|---:|---|---|---:|---:|---:|",
    ]
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        ((optimizer, largest),) = found["largest_differences"].items()
        bags = "weighted" if path.stem.endswith("-weighted") else "plain"
        lines.append(
            f"| {found['processes']} | {optimizer.replace('_', ' ')} | {bags} | {found['tried']} "
            f"| {len(found['wrong'])} | {largest['difference']:.1e} |"
        )
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    budget = row.budget or "-"
    options = row.method.partition(":")[2]
    if options:
        budget += f", {options}"
    if row.auc is None:
        return [budget, "-", "no result", "-", "-"]
    versus = row.versus.get(FULL)
    difference = versus_cell(versus).text.rstrip(" ▲▼")
    told = TOLD_APART[versus.verdict] if versus else "-"
    serving = format_bytes(row.bytes["serving_bytes"])
    return [budget, serving, estimate_text(row), difference, told]


def main() -> None:
    """Bring all of them up to date."""
    for path, section, content in derived():
        insert_fragment(path, content, section)


if __name__ == "__main__":
    main()
