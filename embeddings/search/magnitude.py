"""Magnitude pruning: train full tables, keep the largest values (a baseline of every search).

``e(x)_c = E[x]_c`` where ``|E[x]_c|`` is among the largest of all searched tables together, else 0.
No search at all: one training, one ranking. Many a learned selection has to beat this first. With
dense coupled decay, which is the default here, the values of ids that are hardly ever looked up
shrink to nothing and go first. Layout ``sparse``; bytes while training are those of full tables.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.search.base import (
    DENSE_ADAM,
    Derived,
    Phase,
    Search,
    SearchOptions,
    SearchTask,
    Trained,
    register_search,
)
from compactrec.embeddings.search.pruning import (
    masked,
    masks_at_bytes,
    masks_at_ratio,
    num_kept,
    searched_tables,
    sparse_plan,
)
from compactrec.embeddings.search.supernet import Supernet

__all__ = ["MagnitudeOptions", "MagnitudeSupernet"]


class MagnitudeOptions(SearchOptions):
    """Options of magnitude pruning."""

    epochs: int = Field(default=1, ge=1)
    """Of training the full tables."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better AUC."""
    ratio: float | None = Field(default=None, ge=0, le=1)
    """Share of values to drop where no budget is given."""
    retrain: Literal["none", "finetune", "initial"] = "none"
    """``none`` serves what is left; ``finetune`` trains it on; ``initial`` trains it again from its
    first values (a lottery ticket)."""


class MagnitudeSupernet(Supernet):
    """Full tables, nothing else."""

    def __init__(self, task: SearchTask) -> None:
        o: MagnitudeOptions = task.options
        phase = Phase("train", o.epochs, patience=o.patience)
        super().__init__(task, full_plan(task.features), (phase,))

    def effective_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}


def derive_magnitude(trained: Trained, budget_bytes: int | None) -> Derived:
    """The largest values that fit, or what the ratio leaves."""
    task, o = trained.task, trained.task.options
    tables = trained.supernet.effective_tables()
    own = searched_tables(task, tables)
    if budget_bytes is not None:
        masks = masks_at_bytes(task, own, budget_bytes)
    else:
        masks = masks_at_ratio(own, o.ratio or 0.0)
    source = trained.initial if o.retrain == "initial" else tables
    kept = num_kept(masks)
    total = sum(table.numel() for table in own.values())
    return Derived(
        plan=sparse_plan(task, masks),
        tables=masked(dict(source), masks),
        dense="initial" if o.retrain == "initial" else "trained",
        epochs=0 if o.retrain == "none" else None,
        notes={"kept_values": kept, "dropped": 1 - kept / total},
    )


register_search(
    Search(
        name="magnitude",
        title="Magnitude pruning",
        paper="-",
        formula="e(x)_c = E[x]_c where |E[x]_c| is among the largest, else 0",
        options=MagnitudeOptions,
        supernet=MagnitudeSupernet,
        derive=derive_magnitude,
        training=DENSE_ADAM,
        baseline=True,
    )
)  # fmt: skip
