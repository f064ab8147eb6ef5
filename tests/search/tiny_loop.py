"""The smallest loop that trains a supernet as its phases say: plain Adam, any head, no files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.search import Losses, Phase, SearchTask, Supernet, Trained

__all__ = ["Example", "Spy", "kjt", "run", "trained"]

Example = tuple[KeyedJaggedTensor, Tensor]
"""A batch and its labels."""


@dataclass
class Spy:
    """What was done, step by step."""

    steps: dict[str, list[str]] = field(default_factory=dict)
    """By phase, ``w`` and ``a`` in the order in which the steps were made."""
    validated: list[int] = field(default_factory=list)
    """Which validation batch every architecture step saw."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest architecture value after any step."""


def kjt(ids: dict[str, Tensor]) -> KeyedJaggedTensor:
    """Bags of one id each."""
    size = len(next(iter(ids.values())))
    return KeyedJaggedTensor(
        keys=list(ids),
        values=torch.cat(list(ids.values())),
        lengths=torch.ones(len(ids) * size, dtype=torch.int32),
    )


def run(
    supernet: Supernet,
    head: nn.Module,
    train: Sequence[Example],
    validation: Sequence[Example],
    *,
    rate: float = 0.05,
    after: Callable[[str], None] = lambda phase: None,
) -> Spy:
    """Train by the phases; best-of and patience are left out. ``after`` is called every step."""
    spy = Spy()
    architecture = supernet.architecture_parameters()
    optimizer = supernet.architecture_optimizer()
    held = {id(p) for p in architecture}
    tables = [p for p in supernet.parameters() if id(p) not in held]
    for phase in supernet.phases:
        weights = [*tables, *(head.parameters() if phase.weights == "all" else [])]
        moves = torch.optim.Adam(weights, lr=rate)
        steps = spy.steps.setdefault(phase.name, [])
        for _ in range(phase.epochs):
            for batch, (number, validating) in _pairs(phase, train, validation):
                moves.zero_grad()
                _loss(supernet, head, batch).backward()
                for p in architecture:
                    p.grad = None
                moves.step()
                steps.append("w")
                if phase.architecture == "validation":
                    assert optimizer is not None
                    losses = Losses(
                        train=lambda batch=batch: _loss(supernet, head, batch),  # type: ignore[misc]
                        validation=lambda v=validating: _loss(supernet, head, v),  # type: ignore[misc]
                        weights=weights,
                        learning_rate=rate,
                    )
                    found = supernet.architecture_gradient(losses)
                    for p, gradient in zip(architecture, found, strict=True):
                        p.grad = gradient
                    optimizer.step()
                    optimizer.zero_grad()
                    supernet.after_architecture_step()
                    steps.append("a")
                    spy.validated.append(number)
                    low = min(float(p.detach().min()) for p in architecture)
                    high = max(float(p.detach().max()) for p in architecture)
                    spy.bounds = (min(spy.bounds[0], low), max(spy.bounds[1], high))
                after(phase.name)
    supernet.eval()
    return spy


def trained(task: SearchTask, supernet: Supernet) -> Trained:
    """What ``derive`` gets, where it looks at the state alone."""

    def unused(*_: object) -> Iterator[object]:
        raise AssertionError("derive asked for rows or a fitness")

    return Trained(task, supernet, {}, fitness=unused, rows=unused)  # type: ignore[arg-type]


def _pairs(
    phase: Phase, train: Sequence[Example], validation: Sequence[Example]
) -> Iterator[tuple[Example, tuple[int, Example]]]:
    numbered = list(enumerate(validation))
    if phase.epoch_ends == "shorter":
        return zip(train, numbered, strict=False)
    return zip(train, cycle(numbered), strict=False)


def _loss(supernet: Supernet, head: nn.Module, batch: Example) -> Tensor:
    features, labels = batch
    logits = head(supernet(features).values())[:, 0]
    return nn.functional.binary_cross_entropy_with_logits(logits, labels)
