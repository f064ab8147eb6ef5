"""From the runs of a study to one row per method and budget: means, intervals, tests, bytes.

`summarise` gives a frozen `Summary`; its JSON (`summary.json`) holds aggregates only and is what
gets committed as the evidence behind a published row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, JsonValue

from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.protocol_note import ProtocolNote
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.stats import (
    Difference,
    FloatArray,
    Interval,
    RankedScores,
    bootstrap_auc,
    bootstrap_difference,
    holm,
    mean_interval,
    paired_difference,
)
from compactrec.benchmarks.study import DataNote, Study, StudyCell

__all__ = ["Estimate", "Row", "Summary", "Versus", "summarise"]

Verdict = Literal["better", "worse", "unclear"]
ALPHA = 0.05


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Frozen):
    """Mean over seeds with its 95% t interval; no interval with one seed."""

    mean: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half the interval's length."""
        return None if self.high is None else self.high - self.mean


class Versus(_Frozen):
    """Test AUC against another method: paired over seeds, and over the test rows."""

    mean: float
    """This method's test AUC minus the other's, averaged over the seeds that both have."""
    low: float | None
    high: float | None
    """95% t interval over seeds."""
    p_value: float | None
    p_holm: float | None
    """p-value over seeds, corrected for the number of methods tested at this budget."""
    rows_low: float | None
    rows_high: float | None
    """95% paired bootstrap interval over test rows; None where predictions were not kept."""
    num_seeds: int
    verdict: Verdict
    """`better` or `worse` if p_holm < 0.05 and the bootstrap interval lies on the same side."""


class Row(_Frozen):
    """One method at one budget."""

    method: str
    baseline: bool
    budget: str | None
    budget_bytes: int | None
    reason: str | None = None
    """Why there is no result."""
    missing: tuple[str, ...] = ()
    trial: str | None = None
    """The setting that tuning chose."""
    settings: dict[str, JsonValue] = {}
    """What it is: field of training or option of the model -> value."""
    seeds: tuple[int, ...] = ()
    bytes: dict[str, int] = {}
    """serving, training, table, auxiliary, dense and optimizer bytes."""
    compression: float | None = None
    """Serving bytes of the full tables over this method's."""
    auc: Estimate | None = None
    auc_by_seed: dict[int, float] = {}
    test: dict[str, float] = {}
    """Other test metrics, mean over seeds."""
    validation_auc: float | None = None
    samples_per_second: float | None = None
    speed_ratio: float | None = None
    """Training samples per second over those of the full tables."""
    train_seconds: float | None = None
    peak_rss_bytes: int | None = None
    search_seconds: float | None = None
    """Of finding the plan of one budget: training, validations, candidates; mean over seeds."""
    derive_seconds: float | None = None
    """The part of it after the supernet was trained."""
    search_time_ratio: float | None = None
    """The same over the seconds of one training of the full tables, validations included."""
    search_memory_ratio: float | None = None
    """Peak memory of the search's process over that of training the full tables."""
    versus: dict[str, Versus] = {}


class Summary(_Frozen):
    """Everything a report shows."""

    format: Literal["compactrec.summary"] = "compactrec.summary"
    version: Literal[1] = 1
    data: DataNote
    full_serving_bytes: int | None
    baseline: str
    seeds: tuple[int, ...]
    config: dict[str, Any]
    environment: dict[str, Any]
    num_resamples: int
    rows: tuple[Row, ...]
    protocol: ProtocolNote | None = None

    @property
    def budgets(self) -> list[int]:
        """Budgets in bytes, largest first."""
        found = {r.budget_bytes for r in self.rows if r.budget_bytes is not None}
        return sorted(found, reverse=True)

    @property
    def full(self) -> Row | None:
        """The row of the full tables, if they were trained."""
        return next((r for r in self.rows if r.method == FULL and r.auc), None)

    def at(self, budget_bytes: int) -> list[Row]:
        """Rows of one budget, best test AUC first, those without a result last."""
        rows = [r for r in self.rows if r.budget_bytes == budget_bytes]
        return sorted(rows, key=lambda r: (r.auc is None, -(r.auc.mean if r.auc else 0.0)))


def summarise(study: Study, baseline: str | None = None, num_resamples: int = 200) -> Summary:
    """Aggregate a study; every method is tested against `baseline` at its budget and against full.

    None is the hashing trick, or another baseline where that is not among the methods. Raises
    ValueError when `baseline` is no method of the study.
    """
    methods = list(dict.fromkeys(cell.method for cell in study.cells))
    if baseline is None:
        found = [cell.method for cell in study.cells if cell.baseline and cell.method != FULL]
        baseline = next((m for m in ("hash", *found) if m in methods), "hash")
    if baseline not in methods and len(methods) > 1:
        raise ValueError(
            f"baseline {baseline!r} is not among the methods of these results: "
            f"{', '.join(methods)}; choose one of them"
        )
    draws = _draws(study.cells, num_resamples)
    full = next((c for c in study.cells if c.method == FULL and c.results), None)
    rows = [_row(cell, full, study.full_serving_bytes) for cell in study.cells]
    versus: list[dict[str, Versus]] = [{} for _ in rows]
    for budget in dict.fromkeys(cell.budget_bytes for cell in study.cells):
        same = {i: c for i, c in enumerate(study.cells) if c.budget_bytes == budget and c.results}
        here = next((c for c in same.values() if c.method == baseline), None)
        for other in (here, full):
            if other is not None:
                for i, value in _against(same, other, draws).items():
                    versus[i][other.method] = value
    rows = [r.model_copy(update={"versus": v}) for r, v in zip(rows, versus, strict=True)]
    results = [r for cell in study.cells for r in cell.results.values()]
    return Summary(
        data=study.data,
        full_serving_bytes=study.full_serving_bytes,
        baseline=baseline,
        seeds=tuple(sorted({seed for cell in study.cells for seed in cell.results})),
        config=study.config,
        environment=_shared_environment(results),
        num_resamples=num_resamples if draws else 0,
        rows=tuple(rows),
        protocol=study.protocol,
    )


def _row(cell: StudyCell, full: StudyCell | None, full_bytes: int | None) -> Row:
    base = Row(
        method=cell.method, baseline=cell.baseline, budget=cell.budget, trial=cell.trial,
        settings=cell.settings, budget_bytes=cell.budget_bytes, reason=cell.reason,
        missing=cell.missing,
    )  # fmt: skip
    if not cell.results:
        return base
    runs = [cell.results[seed] for seed in sorted(cell.results)]
    by_seed = {run.seed: run.tested.auc for run in runs}
    dumps = [run.bytes.model_dump(exclude={"full_serving_bytes"}) for run in runs]
    sizes = {name: max(dump[name] for dump in dumps) for name in dumps[0]}  # searches: by seed
    speed = fmean(run.samples_per_second for run in runs)
    ratio = None
    if full is not None:
        full_speed = fmean(run.samples_per_second for run in full.results.values())
        ratio = speed / full_speed if full_speed else None  # 0: nothing was trained
    metrics = [run.tested.model_dump(exclude={"auc", "num_rows"}) for run in runs]
    return base.model_copy(
        update={
            "seeds": tuple(by_seed),
            "bytes": sizes,
            "compression": full_bytes / sizes["serving_bytes"] if full_bytes else None,
            "auc": _estimate(mean_interval(list(by_seed.values()))),
            "auc_by_seed": by_seed,
            "test": {name: fmean(m[name] for m in metrics) for name in metrics[0]},
            "validation_auc": fmean(run.validation.auc for run in runs),
            "samples_per_second": speed,
            "speed_ratio": ratio,
            "train_seconds": fmean(run.train_seconds for run in runs),
            "peak_rss_bytes": max(run.peak_rss_bytes for run in runs),
            **_search_costs(cell, full),
        }
    )


def _search_costs(cell: StudyCell, full: StudyCell | None) -> dict[str, float]:
    """What the searches behind a cell cost, beside training the full tables."""
    if not cell.searches:
        return {}
    searches = list(cell.searches.values())
    derived = [fmean(f.derive_seconds for f in s.found) for s in searches]
    supernets = [s.total_seconds - sum(f.derive_seconds for f in s.found) for s in searches]
    seconds = fmean(a + b for a, b in zip(supernets, derived, strict=True))
    found = {"search_seconds": seconds, "derive_seconds": fmean(derived)}
    if full is not None:
        runs = list(full.results.values())
        whole = [run.total_seconds for run in runs if run.total_seconds is not None]
        if whole:
            found["search_time_ratio"] = seconds / fmean(whole)
        peak = max(s.peak_rss_bytes for s in searches)
        found["search_memory_ratio"] = peak / max(run.peak_rss_bytes for run in runs)
    return found


def _estimate(interval: Interval) -> Estimate:
    return Estimate(mean=interval.mean, low=interval.low, high=interval.high)


Key = tuple[str, int | None, int]
Draws = Mapping[Key, FloatArray]


def _draws(cells: Sequence[StudyCell], num_resamples: int) -> Draws:
    """Bootstrap AUCs of every run whose test predictions were kept; keys (method, budget, seed)."""
    models: dict[Key, RankedScores] = {}
    first: npt.NDArray[np.float32] | None = None
    for cell in cells:
        for seed, path in cell.predictions.items():
            from safetensors.numpy import load_file

            tensors = load_file(str(path))
            first = tensors["labels"] if first is None else first
            if not np.array_equal(first, tensors["labels"]):
                raise ValueError(
                    f"{path} holds other test rows than the runs beside it; delete its folder and "
                    "run again"
                )
            models[cell.method, cell.budget_bytes, seed] = RankedScores(
                tensors["labels"], tensors["logits"]
            )
    if not models or num_resamples < 1:
        return {}
    return bootstrap_auc(models, num_resamples)


def _against(cells: Mapping[int, StudyCell], other: StudyCell, draws: Draws) -> dict[int, Versus]:
    """Every cell against `other`; Holm's correction runs over the cells tested here."""
    theirs = {s: r.tested.auc for s, r in other.results.items()}
    seeds: dict[int, Difference] = {}
    rows: dict[int, Difference | None] = {}
    for i, cell in cells.items():
        ours = {s: r.tested.auc for s, r in cell.results.items()}
        shared = sorted(ours.keys() & theirs.keys())
        if cell is other or not shared:
            continue
        seeds[i] = paired_difference(ours, theirs)
        a = [draws.get((cell.method, cell.budget_bytes, s)) for s in shared]
        b = [draws.get((other.method, other.budget_bytes, s)) for s in shared]
        kept = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        rows[i] = None
        if len(kept) == len(shared):
            pairs = ([x for x, _ in kept], [y for _, y in kept])
            rows[i] = bootstrap_difference(*pairs, mean=seeds[i].mean)
    tested = [i for i, d in seeds.items() if d.p_value is not None]
    adjusted = dict(zip(tested, holm([seeds[i].p_value or 0.0 for i in tested]), strict=True))
    return {i: _versus(d, adjusted.get(i), rows[i]) for i, d in seeds.items()}


def _versus(seeds: Difference, p_holm: float | None, rows: Difference | None) -> Versus:
    low, high = (rows.low, rows.high) if rows else (None, None)
    verdict: Verdict = "unclear"
    if p_holm is not None and p_holm < ALPHA:
        if seeds.mean > 0 and (low is None or low > 0):
            verdict = "better"
        elif seeds.mean < 0 and (high is None or high < 0):
            verdict = "worse"
    return Versus(
        mean=seeds.mean, low=seeds.low, high=seeds.high, p_value=seeds.p_value, p_holm=p_holm,
        rows_low=low, rows_high=high, num_seeds=seeds.num, verdict=verdict,
    )  # fmt: skip


def _shared_environment(results: Sequence[Result]) -> dict[str, Any]:
    """What all runs report; a key on which they differ becomes the list of its values."""
    found: dict[str, Any] = {}
    for result in results:
        for key, value in result.environment.items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return {key: v[0] if len(v) == 1 else v for key, v in found.items()}
