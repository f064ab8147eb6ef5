"""OptEmbed: rows above a learned threshold, widths by evolution (Lyu et al., CIKM 2022,
arXiv 2208.04482).

*Supernet*: every feature has a threshold ``t_f``, learned by plain SGD together with the weights;
row i counts where ``||E_i||_p > t_f``, with a surrogate gradient (see ``thresholded.py``), and
``alpha * sum_f exp(-t_f)`` pushes thresholds up. Every example draws a width for every feature,
uniform in 1 .. D, and sees so many leading columns, so that one table is good at all widths.

*Derive*: rows and weights are frozen; an evolution finds the widths ``d_f`` whose prefixes give the
best validation AUC. The result per feature is dense: kept rows by ``d_f`` columns, zeros up to D,
exactly what the masks give; layout ``pruned``. *Retrain* from the first values of the supernet
(``initial``), or ``fresh``.

Variants: ``E`` learns rows alone, ``D`` widths alone. (One version of the published code names them
the other way round.) The paper has no budget: here only widths that fit are judged, and where kept
rows leave no room for ``least_dim`` columns on average more rows go, those that are least above
their threshold. Candidates are judged on a sample of validation rows. Bytes while searching: those
of the full tables and 4 a feature.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.pruned import pruned_assignment, pruned_bytes
from compactrec.embeddings.search.base import (
    DENSE_ADAM,
    BudgetTooSmallError,
    Derived,
    Phase,
    Search,
    SearchTask,
    Trained,
    register_search,
)
from compactrec.embeddings.search.evolution import Budget, EvolutionOptions, Evolved, evolve
from compactrec.embeddings.search.prefix_mask import PrefixMask, prefix_masks
from compactrec.embeddings.search.pruning import table_bytes_of
from compactrec.embeddings.search.supernet import Supernet
from compactrec.embeddings.thresholded import Thresholded, ThresholdedConfig

__all__ = ["OptEmbedOptions", "OptEmbedSupernet", "derive_optembed"]


class OptEmbedOptions(EvolutionOptions):
    """Options of the search, with those of its evolution."""

    variant: Literal["full", "E", "D"] = "full"
    """Rows and widths; rows alone; widths alone."""
    epochs: int = Field(default=1, ge=1)
    """At most; the authors allow 30."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better AUC; the authors' code stops at the first."""
    norm: Literal[1, 2] = 1
    """p of the norm that is compared with the threshold."""
    threshold_learning_rate: float = Field(default=1e-3, gt=0)
    """The authors tune it in 1e-2 .. 1e-4."""
    alpha: float = Field(default=1e-4, ge=0)
    """Weight of ``sum exp(-t)``; the authors tune it in 1e-4 .. 1e-6."""
    size_weight: float = Field(default=0.0, ge=0)
    """Taken from the fitness for each share of the full bytes; 0 as published: AUC alone."""
    least_dim: int | None = Field(default=None, ge=1)
    """Columns on average for which rows must leave room; None is a quarter of D."""
    retrain: Literal["initial", "fresh", "none"] = "initial"
    """``initial`` (as published) starts from the supernet's first values, ``none`` serves the
    supernet's weights."""


class OptEmbedSupernet(Supernet):
    """Full tables behind thresholds, and random widths."""

    def __init__(self, task: SearchTask) -> None:
        self.options: OptEmbedOptions = task.options
        if self.options.strict_official and task.budgets:
            raise ValueError(
                "optembed: strict_official is the published code, which knows no budget; leave the "
                "budget or strict_official out"
            )
        rows = self.options.variant != "D"
        searched = torch.tensor([f.name in task.searched for f in task.features])
        groups = tuple(
            Group(
                (f.name,),
                ThresholdedConfig(norm=self.options.norm)
                if rows and f.name in task.searched
                else FullConfig(),
            )
            for f in task.features
        )
        phase = Phase(
            "supernet", self.options.epochs, architecture="train" if rows else "off",
            patience=self.options.patience,
        )  # fmt: skip
        layer = None if self.options.variant == "E" else PrefixMask(searched, task.dim)
        super().__init__(task, Plan(task.features, groups), (phase,), layer)
        self._gates = {
            name: gate
            for name in task.searched
            if rows
            for gate in [self.collection.combine.combines[f"c_{name}"]]
            if isinstance(gate, Thresholded)
        }

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [gate.threshold for gate in self._gates.values()]

    def architecture_optimizer(self) -> torch.optim.Optimizer | None:
        if not self._gates:
            return None
        rate = self.options.threshold_learning_rate
        return torch.optim.SGD(self.architecture_parameters(), lr=rate)

    def penalty(self) -> Tensor | float:
        if not self._gates:
            return 0.0
        return self.options.alpha * self._thresholds().neg().exp().sum()

    def effective_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    def raw_tables(self) -> dict[str, Tensor]:
        if not self._gates:
            return self.effective_tables()
        state = self.collection.tables.state_dict()
        plain = {f.name: f for f in self.task.features if f.name not in self._gates}
        tables = {name: logical_table(self.collection, name) for name in plain}
        for name in self._gates:
            weight = state[f"embedding_bags.t_{name}__id.weight"]
            tables[name] = weight[:, : self.task.dim].detach().clone()
        return {f.name: tables[f.name] for f in self.task.features}

    def margins(self) -> dict[str, Tensor]:
        """``||E_i|| - t_f`` for every row of the searched features; infinite without thresholds."""
        tables = self.raw_tables()
        found = {}
        for feature in self.task.searched_features:
            norms = torch.linalg.vector_norm(tables[feature.name], ord=self.options.norm, dim=1)
            gate = self._gates.get(feature.name)
            found[feature.name] = (
                torch.full_like(norms, torch.inf) if gate is None else norms - gate.threshold
            ).detach()
        return found

    @contextmanager
    def raised(self, by: float) -> Iterator[None]:
        """Within, every threshold is higher; afterwards each is what it was, to the last bit."""
        before = [gate.threshold.detach().clone() for gate in self._gates.values()]
        with torch.no_grad():
            for gate in self._gates.values():
                gate.threshold.add_(by)
        try:
            yield
        finally:
            with torch.no_grad():
                for gate, threshold in zip(self._gates.values(), before, strict=True):
                    gate.threshold.copy_(threshold)

    def _thresholds(self) -> Tensor:
        return torch.cat([gate.threshold for gate in self._gates.values()])

    def figures(self) -> dict[str, float]:
        if not self._gates:
            return {}
        thresholds = self._thresholds().detach()
        margins = torch.cat(list(self.margins().values()))
        kept = float((margins > 0).float().mean())
        return {"mean threshold": float(thresholds.mean()), "rows kept": kept}


def derive_optembed(trained: Trained, budget_bytes: int | None) -> Derived:
    """Rows by their thresholds, widths by evolution, within the budget."""
    task, o = trained.task, trained.task.options
    supernet = trained.supernet
    assert isinstance(supernet, OptEmbedSupernet)
    margins = supernet.margins()
    cut = _cut(task, margins, budget_bytes)
    keep = {name: (margin > cut).cpu().numpy() for name, margin in margins.items()}
    if o.variant == "E":
        widths = dict.fromkeys(keep, task.dim)
        evolved = None
        _check_budget(_bytes(task, keep, widths), budget_bytes)
    else:
        with supernet.raised(cut):
            evolved = _evolved(trained, keep, budget_bytes)
        widths = dict(zip(keep, evolved.best.tolist(), strict=True))
    plan = _plan(task, keep, widths)
    kept_values = sum(int(rows.sum()) * widths[name] for name, rows in keep.items())
    total = sum((f.num_ids or 0) * task.dim for f in task.searched_features)
    notes: dict[str, Any] = {
        "kept_values": kept_values, "dropped": 1 - kept_values / total, "widths": widths,
        "kept_rows": {name: int(rows.sum()) for name, rows in keep.items()}, "cut": cut,
    }  # fmt: skip
    if evolved is not None:
        notes |= {
            "fitness": evolved.fitness, "num_judged": evolved.num_judged,
            "history": list(evolved.history),
        }  # fmt: skip
    if o.retrain == "fresh":
        return Derived(plan, notes=notes)
    source = trained.initial if o.retrain == "initial" else supernet.raw_tables()
    return Derived(
        plan=plan,
        tables=_masked(source, keep, widths),
        dense="initial" if o.retrain == "initial" else "trained",
        epochs=0 if o.retrain == "none" else None,
        notes=notes,
    )


def _cut(task: SearchTask, margins: dict[str, Tensor], budget_bytes: int | None) -> float:
    """How far above its threshold a row must be: 0, or more where rows leave too little room."""
    o: OptEmbedOptions = task.options
    if budget_bytes is None or o.variant == "D":
        return 0.0
    least = task.dim if o.variant == "E" else min(o.least_dim or -(-task.dim // 4), task.dim)

    def fits(cut: float) -> bool:
        keep = {name: (margin > cut).cpu().numpy() for name, margin in margins.items()}
        return _bytes(task, keep, dict.fromkeys(keep, least)) <= budget_bytes

    if fits(0.0):
        return 0.0
    ranked = torch.cat(list(margins.values()))
    ranked = ranked[ranked > 0].sort().values
    low, high = 0, len(ranked) - 1  # cutting at ranked[i] keeps what is above it
    if high < 0:
        return 0.0  # no row is left to drop
    while low < high:
        middle = (low + high) // 2
        if fits(float(ranked[middle])):
            high = middle
        else:
            low = middle + 1
    return float(ranked[high])


def _check_budget(smallest: int, budget_bytes: int | None) -> None:
    """Rows alone were cut as far as the budget asks, to none at last."""
    if budget_bytes is not None and smallest > budget_bytes:
        raise BudgetTooSmallError(
            f"optembed: without any searched row the plan still takes {smallest:,} bytes and the "
            f"budget is {budget_bytes:,}; raise the budget, or search more features"
        )


def _evolved(
    trained: Trained, keep: dict[str, NDArray[np.bool_]], budget_bytes: int | None
) -> Evolved:
    task, o = trained.task, trained.task.options
    places = [i for i, f in enumerate(task.features) if f.name in keep]
    costs = np.array(
        [
            [_feature_bytes(len(rows), rows, width) for width in range(1, task.dim + 1)]
            for rows in keep.values()
        ]
    )
    rest = sum(table_bytes_of(f) for f in task.features if f.name not in keep)
    full = sum(table_bytes_of(f) for f in task.features)
    unlimited = Budget(costs, limit=0, rest=rest)
    budget = None if budget_bytes is None else replace(unlimited, limit=budget_bytes)

    def fitness(genes: NDArray[np.int64]) -> NDArray[np.float64]:
        widths = torch.full((len(genes), len(task.features)), task.dim)
        widths[:, places] = torch.from_numpy(genes)
        scores = trained.fitness(prefix_masks(widths, task.dim)).numpy()
        if o.size_weight:
            shares = np.array([unlimited.of(g) / full for g in genes])
            scores = scores - o.size_weight * shares
        return scores

    rng = np.random.default_rng(task.seed)
    return evolve(fitness, len(places), task.dim, o, rng, budget)


def _feature_bytes(num_ids: int, rows: NDArray[np.bool_], width: int) -> int:
    count = int(rows.sum())
    ids: Literal["order", "kept"] = "order" if bool(rows[:count].all()) else "kept"
    return pruned_bytes(num_ids, [count], [width], ids=ids)


def _bytes(task: SearchTask, keep: dict[str, NDArray[np.bool_]], widths: dict[str, int]) -> int:
    """Serving bytes of the whole plan."""
    total = sum(table_bytes_of(f) for f in task.features if f.name not in keep)
    return total + sum(_feature_bytes(len(rows), rows, widths[name]) for name, rows in keep.items())


def _plan(task: SearchTask, keep: dict[str, NDArray[np.bool_]], widths: dict[str, int]) -> Plan:
    groups, arrays = [], dict[str, Tensor]()
    for feature in task.features:
        if feature.name not in keep:
            groups.append(Group((feature.name,), FullConfig()))
            continue
        columns = [range(widths[feature.name])]
        config, own = pruned_assignment(feature, keep[feature.name], columns)
        arrays |= own
        groups.append(Group((feature.name,), config))
    return Plan(task.features, tuple(groups), arrays)


def _masked(
    tables: Mapping[str, Tensor], keep: dict[str, NDArray[np.bool_]], widths: dict[str, int]
) -> dict[str, Tensor]:
    """Dropped rows and columns at zero."""
    found = {}
    for name, table in tables.items():
        if name in keep:
            rows = torch.from_numpy(keep[name])[:, None]
            mask = rows & (torch.arange(table.shape[1]) < widths[name])
            table = table * mask.to(table.device)
        found[name] = table
    return found


register_search(
    Search(
        name="optembed",
        title="OptEmbed: learned row thresholds, widths by evolution",
        paper="Lyu et al., CIKM 2022, arXiv 2208.04482",
        formula="e(x) = S(||E[x]|| - t_f) E[x] on its first d_f columns",
        options=OptEmbedOptions,
        supernet=OptEmbedSupernet,
        derive=derive_optembed,
        training=DENSE_ADAM,
    )
)  # fmt: skip
