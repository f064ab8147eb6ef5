"""From the runs of a study to one row per method and budget: means, intervals, tests, bytes.

`summarise` gives a frozen `Summary`; its JSON (`summary.json`) holds aggregates only and is what
gets committed as the evidence behind a published row.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.protocol_note import ProtocolNote
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.stats import Interval, mean_interval
from compactrec.benchmarks.study import DataNote, Study, StudyCell
from compactrec.benchmarks.versus import Versus, compared, draws_of, judged

__all__ = ["Estimate", "Row", "Summary", "summarise"]


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
    draws = draws_of(study.cells, num_resamples)
    full = next((c for c in study.cells if c.method == FULL and c.results), None)
    rows = [_row(cell, full, study.full_serving_bytes) for cell in study.cells]
    versus: list[dict[str, Versus]] = [{} for _ in rows]
    for budget in dict.fromkeys(cell.budget_bytes for cell in study.cells):
        same = {i: c for i, c in enumerate(study.cells) if c.budget_bytes == budget and c.results}
        here = next((c for c in same.values() if c.method == baseline), None)
        for other in (here, full):
            if other is not None:
                both = {i: compared(c, other, draws) for i, c in same.items() if c is not other}
                for i, value in judged({i: d for i, d in both.items() if d is not None}).items():
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


def _shared_environment(results: Sequence[Result]) -> dict[str, Any]:
    """What all runs report; a key on which they differ becomes the list of its values."""
    found: dict[str, Any] = {}
    for result in results:
        for key, value in result.environment.items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return {key: v[0] if len(v) == 1 else v for key, v in found.items()}
