"""The supernet: what stands in the place of a model's embeddings while a search runs.

It holds an ``eager`` collection (dense gradients: searches need decay of every row and gradients of
gates) and, if wanted, a layer over the logical vectors of all features. Searches subclass it and
answer the questions that the training loop asks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.plan import Plan
from compactrec.embeddings.search.base import Phase, SearchTask

__all__ = ["Losses", "Supernet"]


@dataclass(frozen=True)
class Losses:
    """What an architecture step may compute. Calling one runs the model again."""

    train: Callable[[], Tensor]
    """Mean loss of the weight step's training batch, with the weights as they are now."""
    validation: Callable[[], Tensor]
    """Mean loss of a validation batch."""
    weights: list[nn.Parameter]
    """What the weight step moves."""
    learning_rate: float
    """Of the tables."""


class Supernet(EmbeddingBagCollectionInterface):
    """Logical features in, logical vectors out, with what is searched in between.

    Args:
        task: what is searched, and for what.
        plan: of the collection; its features are the task's.
        phases: the stretches of training.
        layer: ``(B, F, D) -> (B, F, D)`` over the vectors of all features in the plan's order. It
            must leave features alone that are not searched.
    """

    def __init__(
        self,
        task: SearchTask,
        plan: Plan,
        phases: tuple[Phase, ...],
        layer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        dims = {feature.dim for feature in task.features}
        if len(dims) > 1:
            raise ValueError(
                f"a search needs one width for all features, got {sorted(dims)}; give every "
                f"feature the same dim"
            )
        self.task = task
        self.phases = phases
        self.collection = CompressedEmbeddingBagCollection(plan, engine="eager")
        _freeze_one_hot_rows(self.collection)
        self.layer = layer
        self.beside: CompressedEmbeddingBagCollection | None = None
        if task.beside:
            self.beside = CompressedEmbeddingBagCollection(full_plan(task.beside), engine="eager")
        self._replayed: Tensor | None = None

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """Logical vectors with the layer applied, keys in the plan's order; then the weights that
        the task has beside them."""
        if self._replayed is not None:
            return self._keyed(self._replayed, features)
        vectors = self.collection(features)
        if self.layer is None and self.beside is None:
            return vectors
        stacked = self.stacked(vectors)
        return self._keyed(stacked if self.layer is None else self.layer(stacked), features)

    def vectors(self, features: KeyedJaggedTensor) -> Tensor:
        """``(B, F, D)``: the collection's vectors, before the layer."""
        return self.stacked(self.collection(features))

    def stacked(self, vectors: KeyedTensor) -> Tensor:
        """The vectors of all features side by side: ``(B, F, D)``."""
        return vectors.values().view(-1, len(self.task.features), self.task.dim)

    @contextmanager
    def replaying(self, vectors: Tensor) -> Iterator[None]:
        """Within, every forward pass gives these ``(C B, F, D)`` vectors whatever is asked for; the
        weights beside them are those of the ``(B,)`` examples asked for, C times."""
        self._replayed = vectors
        try:
            yield
        finally:
            self._replayed = None

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """One config per logical vector, as a model sees it."""
        configs = self.collection.embedding_bag_configs()
        return configs if self.beside is None else configs + self.beside.embedding_bag_configs()

    @property
    def collections(self) -> list[CompressedEmbeddingBagCollection]:
        """All that have tables."""
        return [self.collection] if self.beside is None else [self.collection, self.beside]

    def tables_beside(self) -> dict[str, Tensor]:
        """The table ``(num_ids, 1)`` of every feature of the task's ``beside``."""
        if self.beside is None:
            return {}
        return {f.name: logical_table(self.beside, f.name) for f in self.task.beside}

    def is_weighted(self) -> bool:
        """True where batches carry one weight per id."""
        return self.collection.is_weighted()

    # What the loop asks. The defaults are those of a search without architecture parameters.

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Parameters that the weights' optimizers must leave alone."""
        return []

    def architecture_optimizer(self) -> torch.optim.Optimizer | None:
        """A new optimizer over :meth:`architecture_parameters`."""
        return None

    def architecture_gradient(self, losses: Losses) -> list[Tensor]:
        """The gradient of a ``validation`` phase's step; first order unless a search says more."""
        return list(torch.autograd.grad(losses.validation(), self.architecture_parameters()))

    def after_architecture_step(self) -> None:
        """Clamp and the like, after every step of the architecture's optimizer."""

    def penalty(self) -> Tensor | float:
        """Added to the loss of a training batch where a phase moves the architecture on it."""
        return 0.0

    def before_step(self, phase: Phase, done: float) -> None:
        """Before every weight step; ``done`` runs from 0 to 1 over the phase (annealing)."""

    def after_step(self, phase: Phase) -> None:
        """After every weight step."""

    def finished(self) -> bool:
        """True ends the phase now; asked after every step."""
        return False

    def effective_tables(self) -> dict[str, Tensor]:
        """The logical table ``(num_ids, D)`` of every feature with all that is learned folded in,
        so that a plain lookup of it gives what this gives for an id."""
        raise NotImplementedError

    def raw_tables(self) -> dict[str, Tensor]:
        """The logical tables of every feature without what is learned about them: the weights that
        a lottery ticket starts from."""
        return self.effective_tables()

    def figures(self) -> dict[str, float]:
        """How the search stands, for the progress bar and the history."""
        return {}

    def _keyed(self, vectors: Tensor, features: KeyedJaggedTensor) -> KeyedTensor:
        configs = self.embedding_bag_configs()
        values = vectors.flatten(1)
        if self.beside is not None:
            weights = self.beside(features).values()
            values = torch.cat((values, weights.repeat(len(values) // len(weights), 1)), dim=1)
        return KeyedTensor(
            keys=[config.name for config in configs],
            length_per_key=[config.embedding_dim for config in configs],
            values=values,
        )


def _freeze_one_hot_rows(collection: CompressedEmbeddingBagCollection) -> None:
    """Fixed rows get no gradient, but decay of every row would shrink them like any other."""
    for lowered in collection.plan.lower():
        for table in lowered.tables:
            if table.init.kind == "identity":
                name = f"tables.embedding_bags.{table.name}.weight"
                collection.get_parameter(name).requires_grad_(False)
