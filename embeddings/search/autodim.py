"""AutoDim: a width for every feature, chosen among a few (after Zhao et al., WWW 2021).

    e_f(x) = sum_j p_fj * BN_j(E_f[x][:d_j] @ P_fj)      d_1 < ... < d_n candidate widths
    p_f = softmax((log softmax(a_f) + g) / tau)          g Gumbel noise, one draw a batch

Candidates share one table: width ``d_j`` is the first ``d_j`` columns of it. ``P_fj (d_j, D)`` has
no bias, ``BN_j`` is batch normalisation without scale and shift over the ``B * F`` vectors of one
candidate, so that no candidate wins by its scale. The temperature falls from 1 to 0.01.

*Search*: after every step of the weights on training rows one of ``a`` on validation rows; learned
on training rows it would drift to the widest. First order by default. *Derive*: the most probable
width of every feature; within a budget the widths of largest summed log-probability that fit,
layout ``mixed``. *Retrain* fresh: neither noise, mixture nor normalisation is left, so what the
supernet scores says nothing about the plan.

We know the paper by descriptions and one public reimplementation. That has a table for each
candidate, SGD with 1e-3 for ``a`` and ``tau = max(0.01, 1 - 5e-5 t)``. Sharing columns is a variant
of the same method; the budget, Adam, and a temperature that falls within shorter runs are ours.
Bytes while searching: those of the full tables, ``4 * D * sum_j d_j`` and ``4 * n`` a feature.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, JsonValue
from torch import Tensor, nn

from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.mixed import MixedConfig
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import Group, Plan
from compactrec.embeddings.registry import Assignments
from compactrec.embeddings.search.base import (
    DENSE_ADAM,
    BudgetTooSmallError,
    Derived,
    Phase,
    Search,
    SearchOptions,
    SearchTask,
    Trained,
    register_search,
)
from compactrec.embeddings.search.choosing import best_choices
from compactrec.embeddings.search.hypergradient import hypergradient
from compactrec.embeddings.search.supernet import Losses, Supernet
from compactrec.embeddings.sizing import assignment_bytes

__all__ = ["AutoDimOptions", "AutoDimSupernet", "WidthMixture", "derive_autodim"]

_COLDEST = 0.01


class AutoDimOptions(SearchOptions):
    """Options of the search."""

    candidates: tuple[int, ...] = ()
    """Widths to choose from; by default the powers of two from 2 to D, and D."""
    warm_epochs: int = Field(default=0, ge=0)
    """Of training weights alone first."""
    epochs: int = Field(default=1, ge=1)
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many validations without a better AUC."""
    epoch_ends: Literal["train", "shorter"] = "train"
    """``shorter``: an epoch ends when validation rows run out."""
    logit_optimizer: Literal["adam", "sgd"] = "adam"
    logit_learning_rate: float = Field(default=0.01, gt=0)
    cooling: float | None = Field(default=None, gt=0)
    """What a step takes from the temperature. None: 5e-5, more where a run is so short that it
    would not get to 0.01."""
    second_order: bool = False
    """Take the gradient of ``a`` through a step of the weights."""
    xi: float = Field(default=0.01, ge=0)
    """Length of that step."""

    def widths(self, dim: int) -> tuple[int, ...]:
        """The candidates for width D, ascending."""
        powers = [2**k for k in range(1, dim.bit_length()) if 2**k <= dim]
        widths = sorted(set(self.candidates or (*powers, dim)))
        if widths[0] < 1 or widths[-1] > dim:
            raise ValueError(
                f"autodim: candidates must be widths within 1 .. {dim}, got {self.candidates}"
            )
        return tuple(widths)


class WidthMixture(nn.Module):
    """``(B, F, D) -> (B, F, D)``: searched features mixed over widths, the others as they are.

    Args:
        places: places of the searched features.
        widths: candidate widths ``d_j``, ascending.
        dim: D.
    """

    places: Tensor
    temperature: Tensor

    def __init__(self, places: Sequence[int], widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.widths, self.dim = tuple(widths), dim
        self.register_buffer("places", torch.tensor(places), persistent=False)
        self.register_buffer("temperature", torch.ones(()))
        self.logits = nn.Parameter(torch.zeros(len(places), len(widths)))
        projections = [nn.Parameter(torch.empty(len(places), d, dim)) for d in widths]
        for projection in projections:
            bound = (6 / (projection.shape[1] + dim)) ** 0.5  # Xavier, for each feature
            nn.init.uniform_(projection, -bound, bound)
        self.projections = nn.ParameterList(projections)
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim, affine=False) for _ in widths)
        self._noise: Tensor | None = None

    def forward(self, vectors: Tensor) -> Tensor:
        mixed = self.mix(vectors[:, self.places], self.weights(), list(self.projections))
        return vectors.index_copy(1, self.places, mixed)

    def mix(self, own: Tensor, weights: Tensor, projections: Sequence[Tensor]) -> Tensor:
        """``(B, S, D) -> (B, S, D)`` for weights ``(S, n)`` and projections ``(S, d_j, D)``."""
        mixed = torch.zeros_like(own)
        for j, (width, norm) in enumerate(zip(self.widths, self.norms, strict=True)):
            projected = torch.einsum("bsd,sdk->bsk", own[..., :width], projections[j])
            normed = norm(projected.reshape(-1, self.dim)).view_as(own)
            mixed = mixed + weights[:, j, None] * normed
        return mixed

    def weights(self) -> Tensor:
        """``p``: ``(S, n)``; noisy while training."""
        scores = self.logits.log_softmax(1)
        if self.training:
            scores = scores + (self._draw() if self._noise is None else self._noise)
        return (scores / self.temperature).softmax(1)

    @contextmanager
    def same_noise(self) -> Iterator[None]:
        """Within, every forward pass has the same draw: needed for differences of losses."""
        self._noise = self._draw()
        try:
            yield
        finally:
            self._noise = None

    def _draw(self) -> Tensor:
        uniform = torch.rand_like(self.logits).clamp(1e-10, 1 - 1e-7)
        return -(-uniform.log()).log()


class AutoDimSupernet(Supernet):
    """Full tables, and the mixture of their prefixes."""

    num_steps: Tensor

    def __init__(self, task: SearchTask) -> None:
        o: AutoDimOptions = task.options
        self.options = o
        self.widths = o.widths(task.dim)
        places = [i for i, f in enumerate(task.features) if f.name in task.searched]
        mixture = WidthMixture(places, self.widths, task.dim)
        phases = [
            Phase("warm start", o.warm_epochs, patience=o.patience),
            Phase(
                "search", o.epochs, architecture="validation", patience=o.patience,
                keep="last", epoch_ends=o.epoch_ends,
            ),
        ]  # fmt: skip
        phases = [phase for phase in phases if phase.epochs]
        super().__init__(task, full_plan(task.features), tuple(phases), mixture)
        self.mixture = mixture
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        steps = o.epochs * task.steps_per_epoch
        self.cooling = o.cooling or max(5e-5, (1 - _COLDEST) / steps)

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.mixture.logits]

    def architecture_optimizer(self) -> torch.optim.Optimizer:
        kind = torch.optim.Adam if self.options.logit_optimizer == "adam" else torch.optim.SGD
        return kind(self.architecture_parameters(), lr=self.options.logit_learning_rate)

    def architecture_gradient(self, losses: Losses) -> list[Tensor]:
        with self.mixture.same_noise():
            return hypergradient(
                losses.train,
                losses.validation,
                self.architecture_parameters(),
                losses.weights,
                xi=self.options.xi if self.options.second_order else 0.0,
            )

    def before_step(self, phase: Phase, done: float) -> None:
        if phase.architecture == "off":
            return
        left = 1 - self.cooling * int(self.num_steps)
        self.mixture.temperature.fill_(max(_COLDEST, left))
        self.num_steps += 1

    @torch.no_grad()
    def effective_tables(self) -> dict[str, Tensor]:
        """What one id gives in evaluation; bags of several are normalised after pooling."""
        tables = self.raw_tables()
        was_training = self.mixture.training
        self.mixture.eval()
        weights, projections = self.mixture.weights(), list(self.mixture.projections)
        for s, feature in enumerate(self.task.searched_features):
            own = [p[s : s + 1] for p in projections]
            rows = tables[feature.name][:, None]
            tables[feature.name] = self.mixture.mix(rows, weights[s : s + 1], own)[:, 0]
        self.mixture.train(was_training)
        return tables

    def raw_tables(self) -> dict[str, Tensor]:
        return {f.name: logical_table(self.collection, f.name) for f in self.task.features}

    @torch.no_grad()
    def log_probabilities(self) -> NDArray[np.float64]:
        """``(S, n)``: how much each searched feature likes each width, without noise."""
        found: NDArray[np.float64] = self.mixture.logits.double().log_softmax(1).cpu().numpy()
        return found

    def figures(self) -> dict[str, float]:
        likely = np.exp(self.log_probabilities())
        mean = float((likely @ np.array(self.widths, dtype=float)).mean())
        return {"mean width": mean, "temperature": float(self.mixture.temperature)}


def derive_autodim(trained: Trained, budget_bytes: int | None) -> Derived:
    """The most probable width of every feature, or the likeliest that fit together."""
    task, net = trained.task, trained.supernet
    assert isinstance(net, AutoDimSupernet)
    scores = net.log_probabilities()
    choices = scores.argmax(1)
    if budget_bytes is not None:
        choices = _fitting(task, net.widths, scores, budget_bytes)
    names = [f.name for f in task.searched_features]
    widths = {name: net.widths[j] for name, j in zip(names, choices.tolist(), strict=True)}
    likely = {n: np.exp(s).round(4).tolist() for n, s in zip(names, scores, strict=True)}
    notes: dict[str, JsonValue] = {
        "widths": dict(widths), "candidates": list(net.widths), "probabilities": dict(likely),
        "most_probable": {n: net.widths[j] for n, j in zip(names, scores.argmax(1), strict=True)},
        "temperature": float(net.mixture.temperature),
    }  # fmt: skip
    return Derived(_plan(task, widths), notes=notes)


def _fitting(
    task: SearchTask, widths: Sequence[int], scores: NDArray[np.float64], budget_bytes: int
) -> NDArray[np.int64]:
    """Choices whose plan takes at most the budget, exactly counted."""
    features = task.searched_features
    costs = np.array([[_bytes(f, MixedConfig(dims=(d,))) for d in widths] for f in features])
    rest = sum(_bytes(f, FullConfig()) for f in task.features if f.name not in task.searched)
    found = best_choices(scores, costs, budget_bytes - rest)
    if found is None:
        raise BudgetTooSmallError(
            f"autodim: the smallest plan takes {rest + int(costs.min(1).sum()):,} bytes and the "
            f"budget is {budget_bytes:,} bytes; raise the budget, or offer smaller candidates: "
            f"autodim:candidates=[1,2,4]"
        )
    return found


def _bytes(feature: Feature, config: MethodConfig) -> int:
    """Serving bytes of one feature; those of a plan of such configs are their sum."""
    return assignment_bytes(Assignments((((feature,), config),), {}))


def _plan(task: SearchTask, widths: dict[str, int]) -> Plan:
    groups = tuple(
        Group((f.name,), MixedConfig(dims=(widths[f.name],)) if f.name in widths else FullConfig())
        for f in task.features
    )
    return Plan(task.features, groups)


register_search(
    Search(
        name="autodim",
        title="AutoDim: a width for every feature by a noisy mixture",
        paper="Zhao et al., WWW 2021",
        formula="e(x) = sum_j p_j BN(E[x][:d_j] P_j), p on validation; then argmax",
        options=AutoDimOptions,
        supernet=AutoDimSupernet,
        derive=derive_autodim,
        training=DENSE_ADAM,
    )
)  # fmt: skip
