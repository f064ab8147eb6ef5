"""What a plan stores, and for whom: per feature and range of frequency, as figures and a picture.

The *stored width* of an id is the number of values that its vector is read from, each divided by
the number of the feature's ids that read it too: D for a full table, d for a narrow one, 0 for a
dropped id, and M D / n on average where n ids share M rows. It is counted by running the plan's own
rewrite on every id, whatever the method; nothing is allocated but a chunk of ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch

from compactrec.benchmarks.budgets import format_bytes
from compactrec.embeddings import AnyPlan, Feature, Plan, size
from compactrec.embeddings.contract import Lowered, Output
from compactrec.embeddings.rewrite import Bags, Rewrite
from compactrec.places import check_out_file

__all__ = ["FREQUENCY_CUTS", "FeatureFigures", "check_picture", "draw_plan", "plan_figures"]

FREQUENCY_CUTS = (0.0, 0.01, 0.05, 0.2, 0.5, 1.0)
"""Shares of a feature's ids, most frequent first, at which the ranges begin and end."""
_CHUNK = 65_536
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FeatureFigures:
    """What one feature gets."""

    feature: str
    method: str
    num_ids: int
    dim: int
    widths: tuple[float, ...]
    """Mean stored width in each range of :data:`FREQUENCY_CUTS`; NaN where it has no id."""
    kept_ids: int
    """Ids with a stored width above 0; of several copies, the most."""
    num_bytes: int
    """Serving bytes: tables, integers, dense parts; the group's, in equal shares."""
    full_bytes: int
    mean_width: float = 0.0
    """Mean stored width of the ids that are kept."""
    num_models: int = 1
    """Copies, where several models stand behind a router."""


def plan_figures(
    plan: AnyPlan, counts: Mapping[str, npt.NDArray[np.int64]]
) -> tuple[FeatureFigures, ...]:
    """Figures of every feature with a vocabulary, in the plan's order.

    Where there are several plans, behind a router, bytes are those of all copies, and widths are
    the mean over them.

    Args:
        counts: training frequency of every id by feature name.
    """
    found = [_figures(part, counts) for part in plan.plans]
    return tuple(_together(copies) for copies in zip(*found, strict=True))


def _together(copies: tuple[FeatureFigures, ...]) -> FeatureFigures:
    return replace(
        copies[0],
        widths=tuple(fmean(widths) for widths in zip(*(c.widths for c in copies), strict=True)),
        mean_width=fmean(c.mean_width for c in copies),
        kept_ids=max(c.kept_ids for c in copies),
        num_bytes=sum(c.num_bytes for c in copies),
        num_models=len(copies),
    )


def _figures(plan: Plan, counts: Mapping[str, npt.NDArray[np.int64]]) -> tuple[FeatureFigures, ...]:
    report = size(plan)
    found: dict[str, FeatureFigures] = {}
    for group, lowered, row in zip(plan.groups, plan.lower(), report.groups, strict=True):
        members = plan.group_features(group)
        num_bytes = (row.table_bytes + row.aux_bytes + row.dense_bytes) // len(members)
        for feature in members:
            if feature.num_ids is None:
                continue
            widths = stored_widths(feature, lowered)
            found[feature.name] = FeatureFigures(
                feature=feature.name,
                method=group.config.method,
                num_ids=feature.num_ids,
                dim=feature.dim,
                widths=_by_frequency(widths, counts[feature.name]),
                kept_ids=int((widths > 0).sum()),
                num_bytes=num_bytes,
                full_bytes=4 * feature.num_ids * feature.dim,
                mean_width=float(widths[widths > 0].mean()) if (widths > 0).any() else 0.0,
            )
    return tuple(found[f.name] for f in plan.features if f.name in found)


def stored_widths(feature: Feature, lowered: Lowered) -> Floats:
    """``(num_ids,)``: the stored width of every id."""
    assert feature.num_ids is not None
    streams = [s for s in lowered.streams if s.feature == feature.name]
    widths = np.zeros(feature.num_ids)
    if not streams:
        return widths
    values = _values_by_part([o for o in lowered.outputs if o.feature == feature.name])
    readers: dict[str, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]] = {}
    rewrite = Rewrite((feature,), streams)
    for start in range(0, feature.num_ids, _CHUNK):
        ids = torch.arange(start, min(start + _CHUNK, feature.num_ids))
        physical = rewrite(Bags(ids, torch.ones_like(ids), None))
        grid = physical.lengths.view(len(rewrite.part_keys), ids.numel())
        rows = physical.values.split(grid.sum(1).tolist())
        for part, read, lengths in zip(rewrite.part_keys, rows, grid, strict=True):
            who = ids[lengths.nonzero()[:, 0]].numpy()
            readers.setdefault(part, []).append((who, read.numpy()))
    for part, chunks in readers.items():
        who = np.concatenate([w for w, _ in chunks])
        read = np.concatenate([r for _, r in chunks])
        sharing = np.bincount(read)[read] if read.size else np.ones(0)
        np.add.at(widths, who, values.get(part, 0) / sharing)
    return widths


def _values_by_part(outputs: list[Output]) -> dict[str, float]:
    """Values that an id reads from each part."""
    found: dict[str, float] = {}
    for output in outputs:
        for slots in output.inputs:
            for slot in slots:
                for part in slot.parts:
                    # One value of each of the parts that lie side by side in a whole slot.
                    found[part] = found.get(part, 0.0) + (1.0 if slot.whole else slot.dim)
    return found


def _by_frequency(widths: Floats, counts: npt.NDArray[np.int64]) -> tuple[float, ...]:
    ranked = widths[np.argsort(-np.asarray(counts), kind="stable")]
    ends = [round(cut * len(ranked)) for cut in FREQUENCY_CUTS]
    return tuple(
        float(ranked[a:b].mean()) if b > a else float("nan") for a, b in itertools.pairwise(ends)
    )


def check_picture(path: Path) -> None:
    """Raise ``ValueError`` where no picture can be drawn at ``path``."""
    from matplotlib.backend_bases import FigureCanvasBase

    check_out_file(path, "--picture")
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise ValueError(
            f"--picture {path} ends in {path.suffix!r}, which is no kind of picture here; give a "
            f"name that ends in .png ({', '.join(sorted(kinds))} are known too)"
        )


def draw_plan(
    figures: tuple[FeatureFigures, ...],
    path: Path,
    title: str = "",
    *,
    serving_bytes: int | None = None,
) -> None:
    """A PNG: stored width by feature and frequency, and bytes beside the full tables'.

    ``serving_bytes`` are those of the whole plan; by default the sum over its features.
    """
    from matplotlib.figure import Figure

    rows = sorted(figures, key=lambda f: -f.full_bytes)
    figure = Figure(
        figsize=(11, 1.8 + 0.27 * len(rows)), dpi=120, layout="constrained", facecolor="white"
    )
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    grid = np.array([f.widths for f in rows])
    top = max(f.dim for f in rows)
    image = left.imshow(grid, aspect="auto", cmap="YlGnBu", vmin=0, vmax=top)
    left.set_yticks(
        range(len(rows)), [f"{f.feature} ({f.num_ids:,} ids)" for f in rows], fontsize=8
    )
    cuts = [f"{100 * cut:g}" for cut in FREQUENCY_CUTS]
    labels = [f"{a}-{b}%" for a, b in itertools.pairwise(cuts)]
    left.set_xticks(range(len(labels)), labels, fontsize=8)
    left.set_xlabel("ids, most frequent first", fontsize=9)
    left.set_title("mean stored width (white: no id)", loc="left", fontsize=10)
    for (y, x), width in np.ndenumerate(grid):
        if np.isfinite(width):
            color = "white" if width > 0.6 * top else "#333333"
            left.text(x, y, f"{width:.3g}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=left, fraction=0.03)
    places = np.arange(len(rows))
    right.barh(places, [f.full_bytes for f in rows], color="#e6e6e6", label="full table")
    right.barh(places, [f.num_bytes for f in rows], color="#1f77b4", label="this plan", height=0.5)
    right.set(xscale="log", ylim=(len(rows) - 0.5, -0.5))
    right.set_xlim(left=max(1, min(f.num_bytes for f in rows) / 4), right=rows[0].full_bytes * 8)
    right.set_yticks([])
    right.set_xlabel("serving bytes", fontsize=9)
    for y, f in enumerate(rows):
        text = f"{format_bytes(f.num_bytes)}, {f.kept_ids / f.num_ids:.0%} of ids"
        right.text(max(f.full_bytes, f.num_bytes) * 1.15, y, text, va="center", fontsize=7)
    for side in ("top", "right", "left"):
        right.spines[side].set_visible(False)
    right.legend(loc="lower right", fontsize=8, frameon=False)
    total = serving_bytes or sum(f.num_bytes for f in rows)
    full = sum(f.full_bytes for f in rows)
    models = f", {rows[0].num_models} models" if rows[0].num_models > 1 else ""
    figure.suptitle(
        f"{title or 'plan'}: {format_bytes(total)} of {format_bytes(full)}{models}",
        x=0.01, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    figure.savefig(path)
