"""A search small enough to know what must come out: one gate per feature and column.

Gates start at 1 and are trained as a phase says; ``derive`` keeps the columns of each feature with
the largest gates, as many as the budget holds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from compactrec.benchmarks.config import TrainConfig
from compactrec.embeddings import FullConfig, Group, Plan, full_plan, size
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.pruned import pruned_assignment
from compactrec.embeddings.search import Derived, Losses, Phase, Search, SearchTask, Trained
from compactrec.embeddings.search.base import BudgetTooSmallError
from compactrec.embeddings.search.supernet import Supernet

__all__ = ["TOY", "ToyOptions", "ToySupernet", "base_config"]


class ToyOptions(BaseModel):
    """Options of the toy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str = "validation"
    epochs: int = 2
    patience: int | None = None
    weights: str = "all"
    epoch_ends: str = "train"
    retrain: str = "finetune"


class Gates(nn.Module):
    """``(B, F, D)`` times one gate per feature and column; noise while training."""

    def __init__(self, task: SearchTask) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.ones(len(task.features), task.dim))
        self.searched = torch.tensor([f.name in task.searched for f in task.features])

    def forward(self, vectors: Tensor) -> Tensor:
        gate = self.gate * (1 + 0.01 * torch.randn_like(self.gate)) if self.training else self.gate
        return vectors * torch.where(self.searched[:, None], gate, 1.0)


class ToySupernet(Supernet):
    """Full tables under gates; notes what it is asked."""

    def __init__(self, task: SearchTask) -> None:
        o: ToyOptions = task.options
        warm = Phase("warm", 1)
        phase = Phase(
            "gates", o.epochs, architecture=o.architecture, weights=o.weights,  # type: ignore[arg-type]
            patience=o.patience, epoch_ends=o.epoch_ends,  # type: ignore[arg-type]
        )  # fmt: skip
        gates = Gates(task)
        super().__init__(task, full_plan(task.features), (warm, phase), gates)
        self.gates = gates
        self.asked: list[str] = []

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.gates.gate]

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.architecture_parameters(), lr=0.05)

    def architecture_gradient(self, losses: Losses) -> list[Tensor]:
        assert all(w.grad is not None or not w.requires_grad for w in losses.weights)
        before = [None if w.grad is None else w.grad.clone() for w in losses.weights]
        found = super().architecture_gradient(losses)
        for weight, grad in zip(losses.weights, before, strict=True):
            assert (weight.grad is None) == (grad is None)
            assert grad is None or torch.equal(weight.grad, grad)  # type: ignore[arg-type]
        return found

    def after_architecture_step(self) -> None:
        with torch.no_grad():
            self.gates.gate.clamp_(0, 1)

    def after_step(self, phase: Phase) -> None:
        self.asked.append(phase.name)

    def penalty(self) -> Tensor:
        return 1e-3 * self.gates.gate.sum()

    def effective_tables(self) -> dict[str, Tensor]:
        names = [f.name for f in self.task.features]
        return {
            n: logical_table(self.collection, n)
            * (self.gates.gate[i].detach() if n in self.task.searched else 1.0)
            for i, n in enumerate(names)
        }

    def raw_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    def figures(self) -> dict[str, float]:
        return {"mean gate": float(self.gates.gate.detach().mean())}


def toy_plan(task: SearchTask, order: Tensor, keep: int) -> Plan:
    """The ``keep`` columns with the largest gates for every searched feature."""
    groups, arrays = [], {}
    for i, feature in enumerate(task.features):
        if feature.name not in task.searched:
            groups.append(Group((feature.name,), FullConfig()))
            continue
        config, own = pruned_assignment(feature, None, [order[i, :keep].tolist()])
        groups.append(Group((feature.name,), config))
        arrays |= own
    return Plan(task.features, tuple(groups), arrays)


def derive(trained: Trained, budget: int | None) -> Derived:
    """The most columns that fit."""
    supernet = trained.supernet
    assert isinstance(supernet, ToySupernet)
    order = supernet.gates.gate.detach().argsort(dim=1, descending=True, stable=True)
    task = trained.task
    for keep in range(task.dim, -1, -1):
        plan = toy_plan(task, order, keep)
        if budget is None or size(plan).serving_bytes <= budget:
            break
    else:
        raise BudgetTooSmallError(f"toy: smallest plan takes {size(plan).serving_bytes:,} bytes")
    masks = torch.stack(
        [
            torch.ones(len(task.features), task.dim),
            torch.zeros(1, task.dim)[[0] * len(task.features)],
        ]
    )
    fitness = trained.fitness(masks)
    seen = sum(len(rows.labels) for rows in trained.rows("train", 100))
    notes = {"keep": keep, "fitness": fitness.tolist(), "rows": seen}
    if task.options.retrain == "fresh":
        return Derived(plan, notes=notes)
    if task.options.retrain == "ticket":
        return Derived(plan, dict(trained.initial), "initial", notes=notes)
    tables = supernet.effective_tables()
    assert all(isinstance(t, Tensor) and np.isfinite(t.numpy()).all() for t in tables.values())
    epochs = 0 if task.options.retrain == "none" else None
    return Derived(plan, tables, "trained", epochs, notes)


TOY = Search(
    name="toy",
    title="A toy",
    paper="-",
    formula="e(x) = g * E[x]",
    options=ToyOptions,
    supernet=ToySupernet,
    derive=derive,
    training={"table_learning_rate": 0.05, "table_optimizer": "adagrad"},
)


def base_config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """A small model on the folder of ``folder.py``: a DLRM, or what ``model`` says."""
    sizes = {"hidden": (16,)} if "model" in changes else {"bottom": (16,), "top": (16, 1)}
    values: dict[str, Any] = {
        "data": data, "out": out, "method": "full", "dim": 8, **sizes,
        "batch_size": 64, "eval_batch_size": 256, "num_threads": 1, "quiet": True, "threshold": 20,
        "dense_learning_rate": 0.005,
    }  # fmt: skip
    return TrainConfig.model_validate({**values, **changes})
