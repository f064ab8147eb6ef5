"""One method against another: paired over seeds, paired over test rows, judged with Holm's rule."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from compactrec.benchmarks.stats import (
    Difference,
    FloatArray,
    RankedScores,
    bootstrap_auc,
    bootstrap_difference,
    holm,
    paired_difference,
)
from compactrec.benchmarks.study import StudyCell

__all__ = ["Draws", "Verdict", "Versus", "compared", "draws_of", "judged", "turned"]

Verdict = Literal["better", "worse", "unclear"]
ALPHA = 0.05

Draws = Mapping[tuple[str, int | None, int], FloatArray]
"""(method, budget, seed) -> AUC on every resample of the test rows."""
Compared = tuple[Difference, Difference | None]
K = TypeVar("K", bound=Hashable)


class Versus(BaseModel):
    """Test AUC against another method: paired over seeds, and over the test rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


def draws_of(cells: Sequence[StudyCell], num_resamples: int) -> Draws:
    """Bootstrap AUCs of every run whose test predictions were kept."""
    models: dict[tuple[str, int | None, int], RankedScores] = {}
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


def compared(cell: StudyCell, other: StudyCell, draws: Draws) -> Compared | None:
    """The difference over seeds, and over rows where predictions of all of them were kept; None
    where no seed is shared."""
    ours = {s: r.tested.auc for s, r in cell.results.items()}
    theirs = {s: r.tested.auc for s, r in other.results.items()}
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    seeds = paired_difference(ours, theirs)
    a = [draws.get((cell.method, cell.budget_bytes, s)) for s in shared]
    b = [draws.get((other.method, other.budget_bytes, s)) for s in shared]
    kept = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    if len(kept) < len(shared):
        return seeds, None
    pairs = ([x for x, _ in kept], [y for _, y in kept])
    return seeds, bootstrap_difference(*pairs, mean=seeds.mean)


def judged(found: Mapping[K, Compared]) -> dict[K, Versus]:
    """Verdicts on one family of comparisons: Holm's correction runs over all of them."""
    tested = [key for key, (seeds, _) in found.items() if seeds.p_value is not None]
    adjusted = dict(zip(tested, holm([found[k][0].p_value or 0.0 for k in tested]), strict=True))
    return {key: _versus(*both, adjusted.get(key)) for key, both in found.items()}


def turned(versus: Versus) -> Versus:
    """The second minus the first."""
    verdicts: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "unclear": "unclear"}
    ends = ("low", "high"), ("rows_low", "rows_high")
    found: dict[str, object] = {"mean": -versus.mean, "verdict": verdicts[versus.verdict]}
    for low, high in ends:
        a, b = getattr(versus, low), getattr(versus, high)
        found |= {low: None if b is None else -b, high: None if a is None else -a}
    return versus.model_copy(update=found)


def _versus(seeds: Difference, rows: Difference | None, p_holm: float | None) -> Versus:
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
