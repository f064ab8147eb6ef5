"""What a swap does, as values and as a table: before, after, bytes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compactrec.embeddings.budget import SMALL_NUM_IDS
from compactrec.embeddings.contract import Lowered
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.size import size
from compactrec.embeddings.sizing import aux_bytes, dense_bytes, table_bytes
from compactrec.embeddings.swap_build import collection_plan, distinct
from compactrec.embeddings.swap_find import FoundTable
from compactrec.embeddings.swap_plan import keeps

__all__ = ["SwapReport", "SwapRow", "make_report"]


@dataclass(frozen=True)
class SwapRow:
    """One table of the model."""

    names: tuple[str, ...]
    """Its features, as rules and plans call them."""
    paths: tuple[str, ...]
    """The modules that read it."""
    num_ids: int
    dim: int
    before_bytes: int
    after_bytes: int
    """Weights, integer state and dense parts. What a group shares counts at its first table."""
    method: str
    """Name of the method; empty where the table keeps its weights."""
    note: str
    """Why it stays, or what to know."""


@dataclass(frozen=True)
class SwapReport:
    """Every table of a model, and what becomes of it."""

    rows: tuple[SwapRow, ...]
    plan: Plan | None
    """The plan of the tables that were asked for; None where there were none."""
    num_states_dropped: int = 0
    """Parameters whose optimizer state is gone: new weights have none."""
    num_not_held: int = 0
    """Replaced tables that train, and whose weights no optimizer that was given holds."""

    @property
    def before_bytes(self) -> int:
        """Bytes of all tables now."""
        return sum(row.before_bytes for row in self.rows)

    @property
    def after_bytes(self) -> int:
        """Bytes of all tables afterwards."""
        return sum(row.after_bytes for row in self.rows)

    @property
    def num_replaced(self) -> int:
        """How many tables are replaced."""
        return sum(bool(row.method) for row in self.rows)

    def __str__(self) -> str:
        """The table, with what else there is to say below it."""
        lines = [("table", "ids x width", "before", "after", "method", "note")]
        for row in self.rows:
            shape = f"{row.num_ids:,} x {row.dim}"
            numbers = (f"{row.before_bytes:,}", f"{row.after_bytes:,}")
            lines.append((", ".join(row.names), shape, *numbers, row.method or "-", row.note))
        lines.append(("all", "", f"{self.before_bytes:,}", f"{self.after_bytes:,}", "", ""))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = [_line(line, widths) for line in lines]
        if self.num_states_dropped:
            text.append(f"optimizer state of {self.num_states_dropped} parameters was dropped")
        if small := [row.names[0] for row in self.rows if _is_small(row)]:
            text.append(
                f"made smaller, though of {SMALL_NUM_IDS} ids or fewer: {', '.join(small)}; "
                f"min_num_ids={SMALL_NUM_IDS} keeps such tables full, as make_plan does unless "
                f"told otherwise"
            )
        if self.num_not_held:
            text.append(
                f"tables whose new weights are in no optimizer: {self.num_not_held}; make it after "
                f"compress, or give the one there is as optimizers=[...]"
            )
        return "\n".join(text)


def make_report(
    tables: Sequence[FoundTable],
    asked: Sequence[FoundTable],
    plan: Plan | None,
    *,
    all_fit: bool = False,
) -> SwapReport:
    """What ``plan`` makes of ``tables``; ``asked`` are those that it could be for.

    ``all_fit`` says that the plan keeps all of them because the budget holds them as they are.
    """
    after = {} if plan is None else _planned_bytes(asked, plan)
    group_of = {} if plan is None else {n: g for g in plan.groups for n in g.features}
    chosen = {id(table) for table in asked}
    rows = []
    for table in tables:
        group = group_of.get(table.name)
        kept = group is None or keeps(group, tables)
        rows.append(
            SwapRow(
                names=tuple(feature.name for feature in table.features),
                paths=tuple(reader.path for reader in table.readers),
                num_ids=table.features[0].num_ids or 0,
                dim=table.features[0].dim,
                before_bytes=table.num_bytes,
                after_bytes=after.get(table.name, table.num_bytes),
                method="" if kept or group is None else group.config.method,
                note=_note(
                    table,
                    group,
                    kept=kept,
                    asked=id(table) in chosen,
                    all_fit=all_fit,
                    shared_with=group.features[0] if group else table.name,
                ),
            )
        )
    return SwapReport(tuple(rows), plan)


def _is_small(row: SwapRow) -> bool:
    return bool(row.method) and row.num_ids <= SMALL_NUM_IDS and row.after_bytes < row.before_bytes


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Names and words to the left, numbers to the right."""
    pairs = zip(cells, widths, strict=True)
    out = [c.rjust(w) if i in (1, 2, 3) else c.ljust(w) for i, (c, w) in enumerate(pairs)]
    return "  ".join(out).rstrip()


def _note(
    table: FoundTable,
    group: Group | None,
    *,
    kept: bool,
    asked: bool,
    all_fit: bool,
    shared_with: str,
) -> str:
    if table.reason:
        return f"stays: {table.reason}"
    if not asked:
        return "stays: not asked for"
    if all_fit:
        return "stays full: the budget holds all tables asked for as they are"
    if kept:
        return "stays full" if group is not None else "stays: not in the plan"
    notes = [f"in the tables of {shared_with}"] if shared_with != table.name else []
    if len(table.readers) > 1:
        notes.append(f"one for {', '.join(reader.path for reader in table.readers)}")
    if not table.weight.requires_grad:
        notes.append("was frozen: its new weights are untrained")
    return "; ".join(notes)


def _planned_bytes(tables: Sequence[FoundTable], plan: Plan) -> dict[str, int]:
    """Bytes of every table that is built anew, by its name."""
    found: dict[str, int] = {}
    of = {feature.name: table for table in tables for feature in table.features}
    for group in plan.groups:
        members = distinct(of[name] for name in group.features)
        if members[0].kind == "layers" and not keeps(group, tables):
            found |= _layer_bytes(group, members, plan)
    for owner in dict.fromkeys(t.owner for t in tables if t.kind != "layers"):
        own = [t for t in tables if t.kind != "layers" and t.owner == owner]
        subplan = collection_plan(own, plan)
        if subplan is not None:
            found |= _collection_bytes(own, subplan)
    return found


def _layer_bytes(group: Group, tables: Sequence[FoundTable], plan: Plan) -> dict[str, int]:
    lowered = _on_meta(plan, group)
    by_name = {feature.name: feature for feature in plan.group_features(group)}
    scale = tables[0].weight.element_size()
    found = {}
    for i, table in enumerate(tables):
        streams = tuple(s for s in lowered.streams if s.feature == table.name)
        outputs = tuple(o for o in lowered.outputs if o.feature == table.name)
        own = Lowered(streams, () if i else lowered.tables, outputs)
        weights = (table_bytes([own]) + dense_bytes([own])) // 4 * scale
        found[table.name] = weights + aux_bytes((by_name[table.name],), [own])
    return found


def _collection_bytes(tables: Sequence[FoundTable], plan: Plan) -> dict[str, int]:
    by_key = {key: table for table in tables for key in table.keys}
    report = size(plan)
    found = dict.fromkeys((table.name for table in tables), 0)
    for group, row in zip(plan.groups, report.groups, strict=True):
        table = by_key[group.features[0]]
        weights = row.table_bytes // 4 * table.weight.element_size()
        found[table.name] += weights + row.dense_bytes + row.aux_bytes
    return found


def _on_meta(plan: Plan, group: Group) -> Lowered:
    arrays = {name: array.to("meta") for name, array in plan.arrays.items()}
    with torch.device("meta"):
        return plan.lower_group(group, arrays)
