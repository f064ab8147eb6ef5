"""DNIS: which columns a row needs, as a relaxed choice (Cheng, Shen, Huang, arXiv 2006.04466).

Rows of like training frequency share a block and its *soft selection* ``alpha_b`` in [0, 1]^D:

    e(x) = alpha_g(x) * E[x]
    min_alpha L_val(W*(alpha), alpha)   with   W*(alpha) = argmin_W L_train(W, alpha)

1. *Warm start*: alpha is 1, all weights are trained.
2. *Search*: after every weight step on training rows one step of alpha on validation rows, plain
   SGD on ``G / (mean_k |G_b,k| + 1e-8)`` for every block b, where G is the gradient of the loss and
   of ``l1 * sum alpha``; then alpha is clamped. The rescaling is there because blocks of frequent
   rows get far larger gradients. First order by default; ``second_order`` goes through one weight
   step.
3. *Derive*: the folded product ``alpha * E`` is pruned by magnitude, the one thing that the model
   sees (alpha and E can trade scale). ``unstructured``: each row keeps a set of its own, layout
   ``sparse``. ``structured``: every block of every feature keeps the columns with the largest mean
   magnitude, layout ``pruned``.
4. *Retrain*: from the pruned values, or not at all, or with alpha frozen before pruning.

The published code moves only embeddings in step 2 (``search_weights = "embeddings_only"``) where
the text suggests all weights; it ends an epoch with the shorter loader; and one of its scripts
prunes |E| while alpha still multiplies, which is not done here. Byte budgets and the structured
form are ours. Bytes while searching: those of the full tables and ``4 * L * D``.
"""

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.gated import Gate, GatedConfig
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.search.base import (
    Derived,
    Phase,
    Search,
    SearchTask,
    Trained,
    register_search,
)
from compactrec.embeddings.search.block_columns import block_columns
from compactrec.embeddings.search.blocks import (
    FeatureBlocks,
    blocks_of_all,
    blocks_of_each,
    quantile_cuts,
)
from compactrec.embeddings.search.hypergradient import hypergradient
from compactrec.embeddings.search.pruning import (
    masked,
    masks_at_bytes,
    masks_at_ratio,
    masks_at_threshold,
    num_kept,
    searched_tables,
    sparse_plan,
)
from compactrec.embeddings.search.supernet import Losses, Supernet

__all__ = ["DnisOptions", "DnisSupernet", "feature_blocks", "normalised"]


class DnisOptions(BaseModel):
    """Options of the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: Literal["quantile", "explicit", "per_field_quantile"] = "quantile"
    """Blocks of equally many rows of all features together; cuts of one's own; or blocks of each
    feature by itself. Features that are cut together share their alphas."""
    num_blocks: int = Field(default=6, ge=1)
    """For quantiles. The authors use 10 on MovieLens."""
    cuts: tuple[int | float, ...] = ()
    """For ``explicit``: ranks (whole numbers) or shares of the rows (below 1), ascending."""
    split_ties: bool = True
    """False keeps rows of one frequency in one block."""
    warm_epochs: int = Field(default=1, ge=0)
    """The authors train up to 20 with a falling rate."""
    search_epochs: int = Field(default=1, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Stop a phase after so many validations without a better AUC."""
    epoch_ends: Literal["train", "shorter"] = "train"
    """``shorter`` as published: an epoch ends when validation rows run out."""
    search_weights: Literal["all", "embeddings_only"] = "embeddings_only"
    """What moves beside alpha in the search; ``embeddings_only`` as in the published code."""
    alpha_learning_rate: float = Field(default=0.01, gt=0)
    l1: float = Field(default=1e-5, ge=0)
    """Weight of ``sum alpha``; 1e-5 in the published code."""
    normalize: bool = False
    """Use ``D * alpha_b / sum(alpha_b)``; off in the published code too."""
    second_order: bool = False
    """Take the gradient of alpha through a step of the weights."""
    xi: float = Field(default=0.01, ge=0)
    """Length of that step."""
    structure: Literal["unstructured", "structured"] = "unstructured"
    ratio: float | None = Field(default=None, ge=0, le=1)
    """Share of values to drop where no budget is given."""
    threshold: float | None = Field(default=None, ge=0)
    """Or: keep values of at least this magnitude."""
    retrain: Literal["none", "frozen_alpha_then_prune", "prune_then_masked_finetune"] = "none"
    """``none`` serves the pruned values as they are; the second trains with alpha frozen before
    they are pruned; the third trains what was kept on."""
    retrain_epochs: int = Field(default=1, ge=1)
    """Of ``frozen_alpha_then_prune``; 2 in a published notebook."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.blocks == "explicit") != bool(self.cuts):
            raise ValueError(f"cuts go with blocks='explicit', got {self.blocks!r} and {self.cuts}")
        if self.ratio is not None and self.threshold is not None:
            raise ValueError(f"give ratio or threshold, got {self.ratio} and {self.threshold}")
        return self


def feature_blocks(task: SearchTask) -> dict[str, FeatureBlocks]:
    """The blocks of every searched feature, by training frequency."""
    o: DnisOptions = task.options
    counts = {f.name: np.asarray(task.counts[f.name]) for f in task.searched_features}
    cuts = o.cuts if o.blocks == "explicit" else quantile_cuts(o.num_blocks)
    cut = blocks_of_each if o.blocks == "per_field_quantile" else blocks_of_all
    return cut(counts, cuts, split_ties=o.split_ties)


def normalised(gradient: Tensor) -> Tensor:
    """``G_b / (mean_k |G_b,k| + 1e-8)`` for every block, a row; a row of zeros stays one."""
    return gradient / (gradient.abs().mean(1, keepdim=True) + 1e-8)


class DnisSupernet(Supernet):
    """Full tables behind the gates of their blocks."""

    def __init__(self, task: SearchTask) -> None:
        self.options: DnisOptions = task.options
        self.blocks = feature_blocks(task)
        super().__init__(task, _gated_plan(task, self.blocks), _phases(self.options))
        gates = {
            name: gate
            for name in self.blocks
            for gate in [self.collection.combine.combines[f"c_{name}"]]
            if isinstance(gate, Gate)
        }
        self._gates = gates
        if self.options.blocks != "per_field_quantile":  # the rows of all features are one table's
            shared = next(iter(gates.values())).alpha
            for gate in gates.values():
                gate.alpha = shared

    def architecture_parameters(self) -> list[nn.Parameter]:
        return list({id(g.alpha): g.alpha for g in self._gates.values()}.values())

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        rate = self.options.alpha_learning_rate
        return torch.optim.SGD(self.architecture_parameters(), lr=rate)

    def architecture_gradient(self, losses: Losses) -> list[Tensor]:
        alphas = self.architecture_parameters()
        found = hypergradient(
            losses.train,
            losses.validation,
            alphas,
            losses.weights,
            xi=self.options.xi if self.options.second_order else 0.0,
        )
        # alpha is never negative, so the derivative of its L1 norm is 1 everywhere.
        return [normalised(gradient + self.options.l1) for gradient in found]

    @torch.no_grad()
    def after_architecture_step(self) -> None:
        for alpha in self.architecture_parameters():
            alpha.clamp_(0.0, 1.0)

    def effective_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    @torch.no_grad()
    def raw_tables(self) -> dict[str, Tensor]:
        alphas = self.architecture_parameters()
        kept = [alpha.clone() for alpha in alphas]
        try:
            for alpha in alphas:
                alpha.fill_(1.0)
            return self.effective_tables()
        finally:
            for alpha, value in zip(alphas, kept, strict=True):
                alpha.copy_(value)

    def figures(self) -> dict[str, float]:
        alphas = torch.cat([a.detach().flatten() for a in self.architecture_parameters()])
        return {
            "mean alpha": float(alphas.mean()),
            "alpha at 0": float((alphas == 0).float().mean()),
        }


def _phases(o: DnisOptions) -> tuple[Phase, ...]:
    weights: Literal["all", "tables"] = "all" if o.search_weights == "all" else "tables"
    phases = [
        Phase("warm start", o.warm_epochs, patience=o.patience),
        Phase(
            "search", o.search_epochs, architecture="validation", weights=weights,
            patience=o.patience, epoch_ends=o.epoch_ends,
        ),
    ]  # fmt: skip
    if o.retrain == "frozen_alpha_then_prune":
        phases.append(Phase("alpha frozen", o.retrain_epochs, patience=o.patience))
    return tuple(phase for phase in phases if phase.epochs)


def _gated_plan(task: SearchTask, blocks: Mapping[str, FeatureBlocks]) -> Plan:
    groups, arrays = [], {}
    for feature in task.features:
        mine = blocks.get(feature.name)
        if mine is None:
            groups.append(Group((feature.name,), FullConfig()))
            continue
        remap = None
        if mine.rank is not None:
            remap = f"{feature.name}__rank"
            arrays[remap] = torch.from_numpy(mine.rank)
        normalize = task.options.normalize
        config = GatedConfig(rows=mine.rows, remap=remap, normalize=normalize)
        groups.append(Group((feature.name,), config))
    return Plan(task.features, tuple(groups), arrays)


def derive_dnis(trained: Trained, budget_bytes: int | None) -> Derived:
    """Prune the folded product to the budget, or as the options say, else keep everything."""
    task, o = trained.task, trained.task.options
    tables = trained.supernet.effective_tables()
    own = searched_tables(task, tables)
    if o.structure == "structured":
        assert isinstance(trained.supernet, DnisSupernet)
        plan, kept = block_columns(
            task, own, trained.supernet.blocks,
            budget_bytes=budget_bytes, ratio=o.ratio, threshold=o.threshold,
        )  # fmt: skip
        kept_values = sum(int(mask.sum()) for mask in kept.values())
    else:
        if budget_bytes is not None:
            kept = masks_at_bytes(task, own, budget_bytes)
        elif o.threshold is not None:
            kept = masks_at_threshold(own, o.threshold)
        else:
            kept = masks_at_ratio(own, o.ratio or 0.0)
        plan, kept_values = sparse_plan(task, kept), num_kept(kept)
    total = sum(table.numel() for table in own.values())
    return Derived(
        plan=plan,
        tables=masked(tables, kept),
        dense="trained",
        epochs=None if o.retrain == "prune_then_masked_finetune" else 0,
        notes={"kept_values": kept_values, "dropped": 1 - kept_values / total},
    )


register_search(
    Search(
        name="dnis",
        title="DNIS: differentiable choice of columns by frequency block",
        paper="Cheng, Shen, Huang, 2020, arXiv 2006.04466",
        formula="e(x) = alpha_g(x) * E[x], alpha on validation; then prune alpha * E",
        options=DnisOptions,
        supernet=DnisSupernet,
        derive=derive_dnis,
        training={
            "table_optimizer": "adam", "table_learning_rate": 0.001, "table_decay": 1e-5,
            "decay_mode": "dense_coupled",
        },
    )
)  # fmt: skip
