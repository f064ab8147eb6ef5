"""PEP: plug-in embedding pruning by learned soft thresholds (Liu et al., ICLR 2021,
arXiv 2101.07577).

``e(x) = sign(E[x]) * relu(|E[x]| - sigmoid(s))`` with a learned ``s`` for every value, id, column
or feature, trained together with the weights. As thresholds rise values become zero; when what is
left first fits a budget its mask is kept. Then the tables are trained again from their *first*
values, masked (a lottery ticket), without thresholds. Layout ``sparse``.

What moves ``s``: in the published runs it starts at -15 or -150. Down there a float32 sigmoid is
next to nothing, below -88 exactly 0 with gradient 0, and the data cannot move it; Adam's coupled
weight decay does, by about its rate a step, since Adam rescales the tiny gradient of the decay.
Nothing prunes before ``|start| / rate`` steps, and with decoupled decay, or none, nothing ever
does. So ``s`` has an Adam of its own here, with coupled decay, and its rate is chosen (``rate =
None``) such that ``s`` gets from ``start`` to ``end`` within the phase. Thresholds are taken of the
rows that are looked up; the published code takes them of the whole table in every step.

A budget that the phase does not reach is reached by magnitude, and the notes say so. Bytes while
searching: full tables, as many again for ``id_dim``, and a bit a value for every budget.
"""

from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from compactrec.embeddings.full import FullConfig
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
from compactrec.embeddings.search.pruning import (
    masked,
    masks_at_bytes,
    num_kept,
    searched_tables,
    sparse_plan,
    sparse_plan_bytes,
)
from compactrec.embeddings.search.supernet import Supernet
from compactrec.embeddings.soft_threshold import Granularity, SoftThresholdConfig

__all__ = ["PepOptions", "PepSupernet", "derive_pep"]

_LOOKS = 50
"""How often in a phase the bytes of what is left are counted."""


class PepOptions(BaseModel):
    """Options of the search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    granularity: Granularity = "id_dim"
    """What has a threshold of its own: a value (as published), an id, a column, a feature."""
    epochs: int = Field(default=2, ge=1)
    start: float = -15.0
    """``s`` before training; -15 on MovieLens and -150 on Criteo as published."""
    end: float = -1.0
    """Where ``s`` would be at the end of the phase if decay alone moved it; sigmoid(-1) = 0.27."""
    rate: float | None = Field(default=None, gt=0)
    """Learning rate of ``s``; None is what ``start`` and ``end`` ask for. 1e-3 as published."""
    decay: float = Field(default=1e-5, ge=0)
    """Coupled weight decay of ``s``; without it thresholds this low never move."""
    retrain: Literal["initial", "trained", "none"] = "initial"
    """``initial``: from the first values (as published); ``trained``: from the pruned ones;
    ``none`` serves these."""


class PepSupernet(Supernet):
    """Full tables under soft thresholds; keeps a mask for every budget when it is first met."""

    def __init__(self, task: SearchTask) -> None:
        o: PepOptions = task.options
        groups = tuple(
            Group(
                (f.name,),
                SoftThresholdConfig(granularity=o.granularity, start=o.start)
                if f.name in task.searched
                else FullConfig(),
            )
            for f in task.features
        )
        phase = Phase("thresholds", o.epochs, architecture="train", keep="last")
        super().__init__(task, Plan(task.features, groups), (phase,))
        self.options = o
        num_steps = max(1, o.epochs * task.steps_per_epoch)
        self.rate = o.rate or abs(o.start - o.end) / num_steps
        self._look_every = max(1, num_steps // _LOOKS)
        for i, _ in enumerate(task.budgets):
            self.register_buffer(f"met_{i}", torch.zeros((), dtype=torch.bool))
            for feature in task.searched_features:
                packed = torch.zeros(-(-(feature.num_ids or 0) * task.dim // 8), dtype=torch.uint8)
                self.register_buffer(f"mask_{i}_{feature.name}", packed)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def architecture_parameters(self) -> list[nn.Parameter]:
        named = dict(self.collection.tables.named_parameters())
        return [named[f"embedding_bags.t_{name}__s.weight"] for name in self.task.searched]

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        decay = self.options.decay
        return torch.optim.Adam(self.architecture_parameters(), lr=self.rate, weight_decay=decay)

    def after_step(self, phase: Phase) -> None:
        steps = self._buffer("steps")
        steps += 1
        if int(steps) % self._look_every == 0 and not self.finished():
            self.look()

    def look(self) -> None:
        """Keep the mask of every budget that what is left now fits."""
        tables = searched_tables(self.task, self.effective_tables())
        masks = {name: table != 0 for name, table in tables.items()}
        taken = sparse_plan_bytes(self.task, masks)
        for i, budget in enumerate(self.task.budgets):
            met = self._buffer(f"met_{i}")
            if bool(met) or taken > budget:
                continue
            met.fill_(True)
            for name, mask in masks.items():
                bits = np.packbits(mask.numpy().reshape(-1), bitorder="little")
                self._buffer(f"mask_{i}_{name}").copy_(torch.from_numpy(bits))

    def finished(self) -> bool:
        budgets = range(len(self.task.budgets))
        return len(budgets) > 0 and all(bool(self._buffer(f"met_{i}")) for i in budgets)

    def masks(self, budget_bytes: int) -> dict[str, Tensor] | None:
        """What was left when it first fitted the budget; None where it never did."""
        i = self.task.budgets.index(budget_bytes)
        if not bool(self._buffer(f"met_{i}")):
            return None
        found = {}
        for f in self.task.searched_features:
            count = (f.num_ids or 0) * self.task.dim
            bytes_ = self._buffer(f"mask_{i}_{f.name}").numpy()
            bits = np.unpackbits(bytes_, count=count, bitorder="little").astype(np.bool_)
            found[f.name] = torch.from_numpy(bits.reshape(-1, self.task.dim))
        return found

    def effective_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    def raw_tables(self) -> dict[str, Tensor]:
        state = self.collection.tables.state_dict()
        found = {}
        for f in self.task.features:
            if f.name in self.task.searched:
                weight = state[f"embedding_bags.t_{f.name}__id.weight"]
                found[f.name] = weight[:, : self.task.dim].detach().clone()
            else:
                found[f.name] = logical_table(self.collection, f.name)
        return found

    def figures(self) -> dict[str, float]:
        tables = searched_tables(self.task, self.effective_tables())
        left = sum(int((t != 0).sum()) for t in tables.values())
        s = torch.cat([p.detach().flatten() for p in self.architecture_parameters()])
        total = sum(t.numel() for t in tables.values())
        return {"mean s": float(s.mean()), "values left": left / total}

    def _buffer(self, name: str) -> Tensor:
        found = self.get_buffer(name)
        assert isinstance(found, Tensor)
        return found


def derive_pep(trained: Trained, budget_bytes: int | None) -> Derived:
    """The mask that first fitted the budget; without a budget, what is left at the end."""
    task, o = trained.task, trained.task.options
    supernet = trained.supernet
    assert isinstance(supernet, PepSupernet)
    tables = supernet.effective_tables()
    own = searched_tables(task, tables)
    masks: dict[str, Tensor] | None = {name: table != 0 for name, table in own.items()}
    by_magnitude = False
    if budget_bytes is not None:
        masks = supernet.masks(budget_bytes)
        by_magnitude = masks is None
    if masks is None:
        assert budget_bytes is not None
        masks = masks_at_bytes(task, supernet.raw_tables(), budget_bytes)
    kept, total = num_kept(masks), sum(table.numel() for table in own.values())
    source: Any = {"initial": trained.initial, "trained": supernet.raw_tables(), "none": tables}
    return Derived(
        plan=sparse_plan(task, masks),
        tables=masked(dict(source[o.retrain]), masks),
        dense="initial" if o.retrain == "initial" else "trained",
        epochs=0 if o.retrain == "none" else None,
        notes={
            "kept_values": kept, "dropped": 1 - kept / total, "rate of s": supernet.rate,
            "not reached, cut by magnitude": by_magnitude,
        },
    )  # fmt: skip


register_search(
    Search(
        name="pep",
        title="PEP: learned soft thresholds on single values",
        paper="Liu et al., ICLR 2021, arXiv 2101.07577",
        formula="e(x) = sign(E[x]) relu(|E[x]| - sigmoid(s))",
        options=PepOptions,
        supernet=PepSupernet,
        derive=derive_pep,
        training={
            "table_optimizer": "adam", "table_learning_rate": 0.001, "table_decay": 1e-5,
            "decay_mode": "dense_coupled",
        },
    )
)  # fmt: skip
