"""A swapped model goes on from its checkpoint, whichever optimizer of torch trains it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compactrec.embeddings import CheckpointFolder, compress, load_checkpoint, save_checkpoint
from tests.cases import SOME

Optimizer = torch.optim.Optimizer
OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda of: torch.optim.SGD(of, lr=0.1),
    "momentum": lambda of: torch.optim.SGD(of, lr=0.1, momentum=0.9),
    "Adagrad": lambda of: torch.optim.Adagrad(of, lr=0.1),
    "Adagrad that decays": lambda of: torch.optim.Adagrad(of, lr=0.1, lr_decay=0.5),
    "Adam": lambda of: torch.optim.Adam(of, lr=0.1),
    "AMSGrad": lambda of: torch.optim.Adam(of, lr=0.1, amsgrad=True),
    "RMSprop": lambda of: torch.optim.RMSprop(of, lr=0.01),
    "Adadelta": lambda of: torch.optim.Adadelta(of, lr=0.1),
}


class Clicks(nn.Module):
    """Tables of two kinds, of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(1_000, 8)
        self.clicks = nn.EmbeddingBag(400, 12, mode="sum")
        self.day = nn.Embedding(7, 4)
        self.top = nn.Linear(24, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        parts = [self.user(ids), self.clicks(ids[:, None] % 400), self.day(ids % 7)]
        logits: torch.Tensor = self.top(torch.cat(parts, dim=1))
        return logits


def swapped(kind: str, seed: int) -> tuple[Clicks, Optimizer]:
    """The optimizer is made before, so what it keeps of the new weights is made in its steps."""
    torch.manual_seed(seed)
    model = Clicks()
    optimizer = OPTIMIZERS[kind](model.parameters())
    compress(model, SOME, budget_bytes=20_000, optimizers=[optimizer], report=False)
    return model, optimizer


def train(model: Clicks, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        model((torch.arange(32) * 37 + step) % 1_000).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_swapped_model_goes_on_from_its_checkpoint(kind: str, tmp_path: Path) -> None:
    model, optimizer = swapped(kind, seed=0)
    train(model, optimizer, range(3))
    with CheckpointFolder(tmp_path / "checkpoint", {}) as folder:
        save_checkpoint(folder, model, [optimizer], step=3)
    train(model, optimizer, range(3, 6))
    other, others = swapped(kind, seed=1)
    with CheckpointFolder(tmp_path / "checkpoint", {}) as folder:
        load_checkpoint(folder, other, [others])
    train(other, others, range(3, 6))
    for name, weight in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name
