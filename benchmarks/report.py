"""Turns the runs of a comparison into something to look at.

`write_report` writes, into one folder: `summary.json` (aggregates, to be committed as evidence),
`report.md` (the table, to go into a README), `report.png` and `report.html` (one file, works
offline). `insert_fragment` puts `report.md` between two marker lines of a README.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.cells import (
    columns_of,
    left_out,
    legend_of,
    sections_of,
    short_cells,
    title_of,
    with_tag,
)
from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.png import draw_png
from compactrec.benchmarks.published import notes_of, published_lines, published_markdown
from compactrec.benchmarks.study import write_json
from compactrec.benchmarks.summary import Summary, summarise
from compactrec.benchmarks.svg import curve_svg, difference_svg
from compactrec.benchmarks.texts import budget_text, estimate_text

__all__ = [
    "ReportFiles",
    "findings",
    "html_page",
    "insert_fragment",
    "markdown_fragment",
    "replaced",
    "write_report",
]


@dataclass(frozen=True)
class ReportFiles:
    """What `write_report` wrote."""

    summary: Summary
    json: Path
    markdown: Path
    png: Path | None
    """None when no method has a result at any budget (only the full tables were trained)."""
    html: Path


def write_report(
    folders: Sequence[Path], out: Path, *, baseline: str | None = None, num_resamples: int = 200
) -> ReportFiles:
    """Read every result below `folders` and write the four files into `out`.

    Raises ValueError when there are no results or they may not be compared (`load_study`).
    """
    summary = summarise(load_study(folders), baseline, num_resamples)
    out.mkdir(parents=True, exist_ok=True)
    png = out / "report.png"
    drawn = draw_png(summary, png)
    write_json(out / "summary.json", summary.model_dump(mode="json"))
    (out / "report.md").write_text(markdown_fragment(summary), encoding="utf-8")
    (out / "report.html").write_text(html_page(summary), encoding="utf-8")
    return ReportFiles(
        summary,
        out / "summary.json",
        out / "report.md",
        png if drawn else None,
        out / "report.html",
    )


def markdown_fragment(summary: Summary) -> str:
    """The table and its caption, for `insert_fragment` to put into a README."""
    names = columns_of(summary)
    head = ["| " + " | ".join(names) + " |", "|:---|" + "---:|" * (len(names) - 1)]
    body = []
    for _, lines in sections_of(summary):
        for line in lines:
            cells = short_cells(line, len(names))
            texts = [_plain(with_tag(c)) for c in cells]
            if line.reference:
                texts = [f"**{t}**" if t else "" for t in texts]
            body.append("| " + " | ".join(texts) + " |")
    environment = summary.environment
    caption = (
        f"{title_of(summary)}. {legend_of(summary)} Serving bytes hold tables, integer state and "
        f"dense parts. Commit {_short(environment.get('commit'))}, torch "
        f"{environment.get('torch')}, {environment.get('cpu')}, "
        f"{environment.get('num_threads')} thread(s)."
    )
    missing = [f"* {_plain(line)}" for line in left_out(summary)]
    parts = [*head, *body, "", _plain(caption), *([""] if missing else []), *missing]
    parts += published_markdown(summary)
    return "\n".join(parts) + "\n"


def insert_fragment(readme: Path, fragment: str, section: str = "results") -> bool:
    """Replace what stands between the markers of `section` in a file; True when that changed it.

    Raises ValueError when the markers are not there exactly once, in order.
    """
    text = readme.read_text(encoding="utf-8")
    new = replaced(text, section, fragment, str(readme))
    if new != text:
        readme.write_text(new, encoding="utf-8")
    return new != text


def replaced(text: str, section: str, content: str, where: str) -> str:
    """`text` with what stands between the two markers of `section` replaced by `content`.

    Raises ValueError, naming `where`, when the markers are not there exactly once, in order.
    """
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    head, _, rest = text.partition(begin)
    if text.count(begin) != 1 or text.count(end) != 1 or end not in rest:
        raise ValueError(
            f"{where} must hold the line '{begin}' once and, below it, '{end}' once; add both "
            "lines where that part shall stand"
        )
    return f"{head}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"


def html_page(summary: Summary) -> str:
    """The whole page as text: no script, style, font or picture from elsewhere."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    source = files("compactrec.benchmarks").joinpath("report_template.html.j2")
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string(source.read_text(encoding="utf-8"))
    return template.render(
        s=summary,
        cards=_cards(summary),
        findings=findings(summary) + left_out(summary),
        curve=Markup(curve_svg(summary)),
        difference=Markup(difference_svg(summary)),
        columns=columns_of(summary),
        lines=[line for _, lines in sections_of(summary) for line in lines],
        published=published_lines(summary),
        notes=list(notes_of(summary.protocol)) if summary.protocol else [],
        environment=json.dumps(summary.environment, indent=1),
        config=json.dumps(summary.config, indent=1),
    )


def findings(summary: Summary) -> list[str]:
    """One sentence per budget: the best method, and what it keeps and loses."""
    lines = []
    for budget in summary.budgets:
        rows = [r for r in summary.at(budget) if r.auc]
        if not rows or rows[0].auc is None:
            continue
        best = rows[0]
        text = f"At {budget_text(best)}: {best.method} has the highest mean test AUC, "
        text += estimate_text(best)
        others = {summary.baseline: summary.baseline, FULL: "the full tables"}
        for other, name in others.items():
            if versus := best.versus.get(other):
                told = "" if versus.verdict != "unclear" else " (not told apart)"
                text += f"; {versus.mean:+.4f} against {name}{told}"
        if FULL in best.versus and best.compression:
            text += f" at {best.compression:.3g} times fewer bytes"
        lines.append(text + ".")
    return lines


def _cards(summary: Summary) -> list[tuple[str, str]]:
    cards = []
    if summary.full_serving_bytes:
        cards.append((format_bytes(summary.full_serving_bytes), "full tables, serving"))
    if summary.full:
        cards.append((estimate_text(summary.full), "test AUC of the full tables"))
    if summary.data.best_auc is not None:
        cards.append((f"{summary.data.best_auc:.4f}", "best possible test AUC"))
    for split in ("train", "test"):
        if split in summary.data.num_rows:
            cards.append((f"{summary.data.num_rows[split]:,}", f"{split} rows"))
    if summary.data.num_features:
        cards.append((str(summary.data.num_features), "sparse features"))
    return cards


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return escape(text, quote=False).replace("|", "\\|")


def _short(commit: object) -> str:
    if isinstance(commit, list):  # runs of several commits: say so
        return " and ".join(_short(one) for one in commit)
    return str(commit)[:12] if commit else "unknown"
