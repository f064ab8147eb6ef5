"""DNIS, differentiable neural input search (Cheng, Shen, Huang, arXiv 2006.04466), and AutoSrh, its
journal version (TKDE 2023).

Rows of like training frequency form ``L`` blocks; every row of a block has one *soft selection*
vector: ``e(x) = alpha_g(x) * E[x]`` with ``alpha (L, D)`` in 0 .. 1, all ones at first. What is
sought is ``min_alpha L_val(W*(alpha), alpha)`` with ``W*(alpha) = argmin_W L_train(W, alpha)``.

    warm start   alpha = 1; all weights on training rows
    search       after each step of the weights one of alpha, on validation rows:
                 G = d(L_val + l1 ||alpha||_1)/d alpha
                 alpha_l <- clip(alpha_l - rate * G_l / (mean|G_l| + 1e-8), 0, 1)
    derive       fold alpha into E; only the product means something, as the two can trade scale.
                 Keep the products of largest magnitude, until the budget is spent

The gates are ``gated`` (see ``embeddings/gated.py``); plans are ``sparse`` or ``pruned``. Search
costs ``4 L D`` bytes and a pass over a validation batch for every step.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.gated import Gate, GatedConfig
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.search.base import (
    DENSE_ADAM,
    Derived,
    Phase,
    Search,
    SearchTask,
    Trained,
    register_search,
)
from compactrec.embeddings.search.block_columns import BlockColumns
from compactrec.embeddings.search.blocks import (
    FeatureBlocks,
    blocks_of_all,
    blocks_of_each,
    quantile_cuts,
)
from compactrec.embeddings.search.dnis_options import DnisOptions
from compactrec.embeddings.search.hypergradient import hypergradient
from compactrec.embeddings.search.pruning import (
    Masks,
    masked,
    masks_at_bytes,
    masks_at_ratio,
    masks_at_threshold,
    num_kept,
    searched_tables,
    sparse_plan,
)
from compactrec.embeddings.search.supernet import Losses, Supernet

__all__ = ["DnisSupernet", "derive", "per_block"]


class DnisSupernet(Supernet):
    """Full tables behind gates.

    Where blocks are over all features there is one parameter ``alpha (L, D)``, which every
    feature's combine holds; a state dict has it under every feature's name.
    With ``per_field_quantile`` every feature has its own.
    """

    def __init__(self, task: SearchTask) -> None:
        options: DnisOptions = task.options
        cut = _blocks(task, options)
        super().__init__(task, _plan(task, cut, options), _phases(options))
        self.options = options
        self.blocks = cut
        self.shared = options.blocks != "per_field_quantile"
        gates = {o.feature: o.combine for o in self.collection.combine.outputs}
        self.gates = {n: cast(Gate, gates[n]) for n in task.searched}
        if self.shared:
            first = next(iter(self.gates.values()))
            for gate in self.gates.values():
                gate.alpha = first.alpha

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The gates, each parameter once."""
        return list(dict.fromkeys(gate.alpha for gate in self.gates.values()))

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.architecture_parameters(), lr=self.options.alpha_learning_rate)

    def architecture_gradient(self, losses: Losses) -> list[Tensor]:
        """Of the validation loss and the gates' L1 norm, normalised per block."""
        alphas = self.architecture_parameters()
        o = self.options

        def validation() -> Tensor:
            size = torch.stack([alpha.abs().sum() for alpha in alphas]).sum()
            return losses.validation() + o.l1 * size

        xi = losses.learning_rate if o.xi is None else o.xi
        step = xi if o.second_order else 0.0
        found = hypergradient(losses.train, validation, alphas, losses.weights, xi=step)
        return [per_block(gradient) for gradient in found]

    def after_architecture_step(self) -> None:
        """Back into 0 .. 1."""
        with torch.no_grad():
            for alpha in self.architecture_parameters():
                alpha.clamp_(0.0, 1.0)

    def effective_tables(self) -> dict[str, Tensor]:
        """``alpha_g(x) * E[x]`` for every id."""
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    @torch.no_grad()
    def raw_tables(self) -> dict[str, Tensor]:
        """``E[x]`` for every id."""
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
        """The mean gate, and the share of gates that are closed."""
        alphas = torch.cat([alpha.detach() for alpha in self.architecture_parameters()])
        return {
            "mean alpha": float(alphas.mean()),
            "alpha at 0": float((alphas == 0).float().mean()),
        }

    def block_of(self) -> dict[str, NDArray[np.int64]]:
        """``(num_ids,)`` block of every id, by searched feature."""
        return {name: blocks.of_ids() for name, blocks in self.blocks.items()}


def per_block(gradient: Tensor) -> Tensor:
    """``G_l / (mean |G_l| + 1e-8)`` for every row ``l``: frequent blocks, whose gradients are far
    larger, and rare ones move alike. A row of zeros stays zero."""
    return gradient / (gradient.abs().mean(1, keepdim=True) + 1e-8)


def derive(trained: Trained, budget_bytes: int | None) -> Derived:
    """The products ``alpha * E`` of largest magnitude, as many as the budget pays for."""
    task, supernet = trained.task, cast(DnisSupernet, trained.supernet)
    options = supernet.options
    tables = {name: table.cpu() for name, table in supernet.effective_tables().items()}
    if options.structure == "unstructured":
        masks = _values(task, tables, options, budget_bytes)
        plan = sparse_plan(task, masks)
    else:
        columns = BlockColumns(task, tables, supernet.block_of(), shared=supernet.shared)
        if budget_bytes is not None:
            kept = columns.at_bytes(budget_bytes)
        elif options.ratio is not None:
            kept = columns.at_ratio(options.ratio)
        else:
            kept = columns.at_threshold(options.threshold or 0.0)
        masks, plan = columns.masks(kept), columns.plan(kept)
    return Derived(
        plan=plan,
        tables=masked(tables, masks),
        dense="trained",
        epochs=None if options.retrain == "prune_then_masked_finetune" else 0,
        notes=_notes(supernet, masks),
    )


def _values(
    task: SearchTask, tables: dict[str, Tensor], options: DnisOptions, budget_bytes: int | None
) -> Masks:
    if budget_bytes is not None:
        return masks_at_bytes(task, tables, budget_bytes)
    own = searched_tables(task, tables)
    if options.ratio is not None:
        return masks_at_ratio(own, options.ratio)
    if options.threshold is not None:
        return masks_at_threshold(own, options.threshold)
    return {name: table != 0 for name, table in own.items()}


def _notes(supernet: DnisSupernet, masks: Masks) -> dict[str, JsonValue]:
    """Kept values, gates and kept values a row, by block."""
    gates: dict[str, JsonValue] = {}
    kept: dict[str, JsonValue] = {}
    for name, of_id in supernet.block_of().items():
        num_blocks = len(supernet.blocks[name].rows)
        dims = masks[name].sum(1).numpy()
        rows = np.bincount(of_id, minlength=num_blocks)
        sums = np.bincount(of_id, weights=dims, minlength=num_blocks)
        kept[name] = [float(s / n) if n else None for s, n in zip(sums, rows, strict=True)]
        gates[name] = supernet.gates[name].alpha.detach().mean(1).tolist()
    kept_values, total = num_kept(masks), sum(mask.numel() for mask in masks.values())
    return {
        "kept_values": kept_values,
        "dropped": 1 - kept_values / total,
        "kept_per_row": kept,
        "mean_alpha": gates,
    }


def _blocks(task: SearchTask, options: DnisOptions) -> dict[str, FeatureBlocks]:
    if task.budgets and (options.ratio is not None or options.threshold is not None):
        raise ValueError(
            "dnis: ratio and threshold say how much is dropped, and so does a budget; leave the "
            "budget or the option out"
        )
    for feature in task.searched_features:
        counted = len(task.counts[feature.name]) if feature.name in task.counts else None
        if feature.num_ids is None or counted != feature.num_ids:
            raise ValueError(
                f"dnis: feature {feature.name!r} has {feature.num_ids} ids and {counted} training "
                f"frequencies; a searched feature needs one for each of its ids"
            )
    counts = {f.name: task.counts[f.name] for f in task.searched_features}
    cuts = options.cuts or quantile_cuts(options.num_blocks)
    cut = blocks_of_each if options.blocks == "per_field_quantile" else blocks_of_all
    return cut(counts, cuts, split_ties=options.split_ties)


def _plan(task: SearchTask, blocks: dict[str, FeatureBlocks], options: DnisOptions) -> Plan:
    groups: list[Group] = []
    arrays: dict[str, Tensor] = {}
    for feature in task.features:
        if feature.name not in blocks:
            groups.append(Group((feature.name,), FullConfig()))
            continue
        own, remap = blocks[feature.name], None
        if own.rank is not None:
            remap = f"{feature.name}__rank"
            arrays[remap] = torch.from_numpy(own.rank)
        config = GatedConfig(rows=own.rows, remap=remap, normalize=options.normalize)
        groups.append(Group((feature.name,), config))
    return Plan(task.features, tuple(groups), arrays)


def _phases(options: DnisOptions) -> tuple[Phase, ...]:
    warm = Phase("warm start", options.warm_epochs, patience=options.patience)
    search = Phase(
        "search",
        options.search_epochs,
        architecture="validation",
        weights="tables" if options.search_weights == "embeddings_only" else "all",
        patience=options.patience,
        keep=options.keep,
        epoch_ends=options.epoch_ends,
    )
    phases = (warm, search) if options.warm_epochs else (search,)
    if options.retrain == "frozen_alpha_then_prune":
        phases = (*phases, Phase("alpha frozen", options.retrain_epochs))
    return phases


register_search(
    Search(
        name="dnis",
        title="Soft selection of dimensions by frequency block",
        paper="Cheng, Shen, Huang, arXiv 2006.04466; TKDE 2023 (AutoSrh)",
        formula="e(x) = alpha_g(x) * E[x]; keep the largest |alpha * E|",
        options=DnisOptions,
        supernet=DnisSupernet,
        derive=derive,
        training={**DENSE_ADAM, "dense_optimizer": "adam", "dense_learning_rate": 0.001},
    )
)
