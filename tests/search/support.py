"""Small tasks and models for the tests of searches."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import Feature
from compactrec.embeddings.search import SearchTask, Supernet, get_search
from compactrec.embeddings.search.base import Rows, parse_search_options

__all__ = ["FEATURES", "batch_of", "loss_of", "make_task", "no_fitness", "no_rows", "train_weights"]

DIM = 8
FEATURES = (
    Feature(name="a", num_ids=60, dim=DIM, max_bag=3),
    Feature(name="b", num_ids=7, dim=DIM),
    Feature(name="c", num_ids=31, dim=DIM),
)
SEARCHED = ("a", "c")


def make_task(
    search: str, *, features: Sequence[Feature] = FEATURES, numbered: bool = True, **options: Any
) -> SearchTask:
    """A task over three features, one of which is not searched."""
    rng = np.random.default_rng(0)
    counts = {}
    for f in features:
        ranked = 1000 // np.arange(1, (f.num_ids or 0) + 1)
        counts[f.name] = ranked if numbered else rng.permutation(ranked)
    chosen = get_search(search)
    return SearchTask(
        features=tuple(features),
        searched=tuple(f.name for f in features if (f.num_ids or 0) > 20),
        counts=counts,
        options=parse_search_options(chosen, options),
        steps_per_epoch=10,
    )


def batch_of(
    features: Sequence[Feature] = FEATURES, size: int = 32, seed: int = 0
) -> KeyedJaggedTensor:
    """Bags of 0 to max_bag ids."""
    rng = np.random.default_rng(seed)
    lengths = [rng.integers(0 if f.max_bag > 1 else 1, f.max_bag + 1, size) for f in features]
    values = [
        rng.integers(0, f.num_ids or 1, of.sum()) for f, of in zip(features, lengths, strict=True)
    ]
    return KeyedJaggedTensor(
        keys=[f.name for f in features],
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
    )


def loss_of(
    supernet: Supernet, head: nn.Module, batch: KeyedJaggedTensor, labels: Tensor
) -> Tensor:
    """Mean logistic loss of a linear head over all vectors."""
    logits = head(supernet(batch).values()).squeeze(1)
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def train_weights(supernet: Supernet, rate: float = 0.1, steps: int = 3) -> nn.Linear:
    """A few plain steps on the weights, so that nothing is at its start."""
    torch.manual_seed(5)
    head = nn.Linear(DIM * len(supernet.task.features), 1)
    architecture = {id(p) for p in supernet.architecture_parameters()}
    weights = [
        p
        for p in [*supernet.parameters(), *head.parameters()]
        if id(p) not in architecture and p.requires_grad
    ]
    for step in range(steps):
        batch = batch_of(supernet.task.features, seed=step)
        labels = torch.randint(2, (batch.stride(),)).float()
        loss = loss_of(supernet, head, batch, labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight -= rate * gradient
    return head


def no_rows(split: str, num_rows: int) -> Iterator[Rows]:
    """The rows of a search that looks at none when it derives."""
    raise AssertionError("it looks at no rows when it derives")


def no_fitness(masks: Tensor) -> Tensor:
    """The fitness of a search that judges no candidates."""
    raise AssertionError("it judges no candidates")
