"""PEP: values below a learned threshold go (Liu et al., ICLR 2021, arXiv 2101.07577).

    e(x) = sign(E[x]) * relu(|E[x]| - sigmoid(s))

*Train*: tables and thresholds ``s`` together on training rows (see ``soft_threshold.py``). For
every budget the mask of the values that are not zero is kept when their bytes first fall to it; at
the smallest budget training ends. *Derive*: that mask, layout ``sparse``. *Retrain* without
thresholds, what was kept from its first value (``initial``, as published: a lottery ticket).

**What moves s.** The published code starts it at -150 or -15 and gives it Adam's coupled weight
decay. At -150 a float32 sigmoid and its gradient are exactly 0: the loss cannot move ``s``, decay
alone does, and as Adam scales every gradient to the same length, by the learning rate a step.
Nothing is pruned for about ``150 / rate`` steps; with decoupled decay, or none, never. Here ``s``
is an architecture parameter with an Adam of its own, and ``start = "auto"`` begins where ``s``
would reach 0, a threshold of 1/2, after two thirds of the run if nothing held it up, or at -15.

How exactly the bytes of a budget are used is ours: ``s`` moves in steps and is looked at now and
then, so at the moment of the snapshot the values that fell last come back up to the budget. Tables
are thresholded row by row as batches look them up, and whole only for such a look, not in every
step. Bytes while training: those of the tables and ``s``, for ``id_dim`` twice the full tables;
a bit for every value and budget.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compactrec.embeddings.bitmap import pack_bits
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import Group, Plan
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
    Masks,
    masked,
    masks_at_bytes,
    num_kept,
    searched_tables,
    sparse_plan,
)
from compactrec.embeddings.search.supernet import Supernet
from compactrec.embeddings.size import size
from compactrec.embeddings.soft_threshold import Granularity, SoftThresholdConfig

__all__ = ["PepOptions", "PepSupernet", "derive_pep"]

_LOWEST = -88.0
"""Below it a float32 sigmoid has no gradient."""
_TRAVEL, _UNTIL, _LOOKS = 15.0, 2 / 3, 200


class PepOptions(SearchOptions):
    """Options of the search."""

    granularity: Granularity = "id_dim"
    """What has a threshold of its own: a value (the authors' choice), an id, a column, a table."""
    start: float | Literal["auto"] = "auto"
    """``s`` at the start; -150 and -15 as published. ``auto``: rises to 0 in two thirds of the
    run, but begins no lower than -15."""
    rate: float | Literal["auto"] = "auto"
    """Learning rate of ``s``. ``auto``: 1e-3 as published, more where a run is so short that
    ``s`` would move by less than 15."""
    decay: float = Field(default=1e-5, ge=0)
    """Coupled weight decay of ``s``; what moves it while the threshold is next to nothing."""
    epochs: int = Field(default=1, ge=1)
    """At most."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better AUC."""
    look_every_steps: int | None = Field(default=None, ge=1)
    """How often the zeros are counted; None: 200 times in the run."""
    retrain: Literal["initial", "trained"] = "initial"
    """From the first values, as published, or from the last."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rate != "auto" and self.rate <= 0:
            raise ValueError(f"rate must be above 0 or 'auto', got {self.rate}")
        if self.start != "auto" and self.start < _LOWEST and self.decay == 0:
            raise ValueError(
                f"start {self.start} has no gradient in float32 (below {_LOWEST}), and without "
                f"decay nothing moves it; raise start, or give decay"
            )
        return self

    def begin(self, num_steps: int) -> tuple[float, float]:
        """``s`` at the start and its rate, for a run of so many steps."""
        rate = max(1e-3, _TRAVEL / num_steps) if self.rate == "auto" else self.rate
        start = -min(15.0, _UNTIL * rate * num_steps) if self.start == "auto" else self.start
        return start, rate


class PepSupernet(Supernet):
    """Full tables behind soft thresholds, and a mask for every budget that was reached."""

    reached: Tensor
    num_steps: Tensor

    def __init__(self, task: SearchTask) -> None:
        self.options: PepOptions = task.options
        steps = self.options.epochs * task.steps_per_epoch
        start, self.rate = self.options.begin(steps)
        self.look_every_steps = self.options.look_every_steps or max(1, steps // _LOOKS)
        config = SoftThresholdConfig(granularity=self.options.granularity, start=start)
        groups = tuple(
            Group((f.name,), config if f.name in task.searched else FullConfig())
            for f in task.features
        )
        phase = Phase(
            "train", self.options.epochs, architecture="train", patience=self.options.patience,
            keep="last",
        )  # fmt: skip
        super().__init__(task, Plan(task.features, groups), (phase,))
        bits = sum((f.num_ids or 0) * f.dim for f in task.searched_features)
        self.register_buffer("reached", torch.zeros(len(task.budgets), dtype=torch.bool))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        for i in range(len(task.budgets)):
            self.register_buffer(f"kept_{i}", torch.zeros(-(-bits // 8), dtype=torch.uint8))

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self._weight(name, "s") for name in self.task.searched]

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            self.architecture_parameters(),
            lr=self.rate,
            weight_decay=self.options.decay,
            fused=True,
        )

    def after_step(self, phase: Phase) -> None:
        self.num_steps += 1
        if int(self.num_steps) % self.look_every_steps == 0:
            self._look()

    def finished(self) -> bool:
        return bool(self.reached.numel()) and bool(self.reached.all())

    def effective_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    @torch.no_grad()
    def raw_tables(self) -> dict[str, Tensor]:
        own = {n: self._weight(n, "id")[:, : self.task.dim].clone() for n in self.task.searched}
        names = [f.name for f in self.task.features]
        return {n: own[n] if n in own else logical_table(self.collection, n) for n in names}

    @torch.no_grad()
    def thresholds(self, feature: str) -> Tensor:
        """``s`` of a searched feature, to broadcast against its ``(num_ids, D)``."""
        stored = self._weight(feature, "s").detach()
        match self.options.granularity:
            case "id":
                rows = self._weight(feature, "id").shape[0]
                return stored.flatten()[:rows, None]
            case "feature":
                return stored[:, :1]
            case _:
                return stored[:, : self.task.dim]

    @torch.no_grad()
    def margins(self) -> dict[str, Tensor]:
        """``|E| - sigmoid(s)`` of the searched features: above 0 where a value is not zero."""
        tables = searched_tables(self.task, self.raw_tables())
        return {n: t.abs() - self.thresholds(n).cpu().sigmoid() for n, t in tables.items()}

    def mask_at(self, budget_bytes: int) -> dict[str, Tensor] | None:
        """The mask kept for a budget; None where training did not get there."""
        budgets = self.task.budgets
        if budget_bytes not in budgets or not bool(self.reached[budgets.index(budget_bytes)]):
            return None
        features = self.task.searched_features
        counts = [(f.num_ids or 0) * f.dim for f in features]
        packed: Tensor = getattr(self, f"kept_{budgets.index(budget_bytes)}").cpu()
        shifts = torch.arange(8, dtype=torch.uint8)
        bits = (packed[:, None].bitwise_right_shift(shifts) & 1).flatten()[: sum(counts)].bool()
        pieces = zip(features, bits.split(counts), strict=True)
        return {f.name: piece.view(-1, f.dim) for f, piece in pieces}

    def figures(self) -> dict[str, float]:
        margins = torch.cat([m.flatten() for m in self.margins().values()])
        s = torch.cat([self.thresholds(name).flatten() for name in self.task.searched])
        return {"mean s": float(s.mean()), "zeros": float((margins <= 0).float().mean())}

    def _look(self) -> None:
        """Keep a mask for every budget that the values which are not zero have fallen to."""
        open_ones = [i for i, reached in enumerate(self.reached.tolist()) if not reached]
        if not open_ones:
            return
        margins = self.margins()
        masks = {name: margin > 0 for name, margin in margins.items()}
        largest = max(self.task.budgets[i] for i in open_ones)
        if 4 * num_kept(masks) > largest:  # cheaper than to count everything
            return
        taken = size(sparse_plan(self.task, masks)).serving_bytes
        for i in open_ones:
            if taken <= self.task.budgets[i]:
                kept = largest_margins(self.task, margins, self.task.budgets[i])
                bits = torch.cat([mask.flatten() for mask in kept.values()])
                getattr(self, f"kept_{i}").copy_(pack_bits(bits.numpy()))
                self.reached[i] = True

    def _weight(self, feature: str, part: str) -> nn.Parameter:
        name = f"tables.embedding_bags.t_{feature}__{part}.weight"
        return self.collection.get_parameter(name)


def largest_margins(task: SearchTask, margins: Masks, budget_bytes: int) -> dict[str, Tensor]:
    """The values furthest above their thresholds (or least below), as many as the budget holds."""
    # A margin is above -1, as a threshold is below 1: so moved, its magnitude ranks it.
    return masks_at_bytes(
        task, {name: margin + 1 for name, margin in margins.items()}, budget_bytes
    )


def derive_pep(trained: Trained, budget_bytes: int | None) -> Derived:
    """The mask kept for the budget, else the largest values that are left; None: all not zero."""
    task, o, net = trained.task, trained.task.options, trained.supernet
    assert isinstance(net, PepSupernet)
    found = None if budget_bytes is None else net.mask_at(budget_bytes)
    if budget_bytes is None:
        masks, how = {n: margin > 0 for n, margin in net.margins().items()}, "not zero at the end"
    elif found is not None:
        masks, how = found, "not zero when training reached the budget"
    else:
        masks, how = (
            largest_margins(task, net.margins(), budget_bytes),
            ("training ended before the budget: the largest values left at the end"),
        )
    kept, total = num_kept(masks), sum(mask.numel() for mask in masks.values())
    source = trained.initial if o.retrain == "initial" else net.raw_tables()
    return Derived(
        plan=sparse_plan(task, masks),
        tables=masked(dict(source), masks),
        dense="initial" if o.retrain == "initial" else "trained",
        notes={
            "kept_values": kept, "dropped": 1 - kept / total, "kept": how,
            "steps": int(net.num_steps),
        },
    )  # fmt: skip


register_search(
    Search(
        name="pep",
        title="PEP: learned soft thresholds",
        paper="Liu et al., ICLR 2021, arXiv 2101.07577",
        formula="e(x) = sign(E[x]) relu(|E[x]| - sigmoid(s))",
        options=PepOptions,
        supernet=PepSupernet,
        derive=derive_pep,
        training=DENSE_ADAM,
    )
)  # fmt: skip
