"""How a report writes a budget, an AUC and a difference, in tables and pictures alike."""

from __future__ import annotations

from compactrec.benchmarks.budgets import format_bytes
from compactrec.benchmarks.summary import Row

__all__ = ["SIGNS", "budget_text", "describe_difference", "describe_row", "estimate_text"]

SIGNS = {"better": " ▲", "worse": " ▼", "unclear": ""}


def budget_text(row: Row) -> str:
    if row.budget_bytes is None:
        return "no budget"
    size = format_bytes(row.budget_bytes)
    return size if row.budget in (None, size) else f"{row.budget} of full ({size})"


def estimate_text(row: Row) -> str:
    if row.auc is None:
        return "-"
    half = row.auc.half_width
    return f"{row.auc.mean:.4f}" + (f" ± {half:.4f}" if half is not None else "")


def describe_row(row: Row) -> str:
    if row.auc is None:
        return row.method
    size = format_bytes(row.bytes["serving_bytes"])
    return f"{row.method}: test AUC {estimate_text(row)} with {size}, {len(row.seeds)} seeds"


def describe_difference(row: Row, baseline: str) -> str:
    v = row.versus[baseline]
    parts = [f"{row.method}: {v.mean:+.4f} test AUC against {baseline}"]
    if v.low is not None and v.high is not None:
        parts.append(f"seeds {v.low:+.4f} to {v.high:+.4f}")
    if v.rows_low is not None and v.rows_high is not None:
        parts.append(f"test rows {v.rows_low:+.4f} to {v.rows_high:+.4f}")
    if v.p_holm is not None:
        parts.append(f"corrected p = {v.p_holm:.2g}")
    return "; ".join(parts)
