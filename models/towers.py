"""The deep part of a click model: linear layers with ReLU, dropout and batch norm between them."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compactrec.models.registry import ModelConfig

__all__ = ["BatchNorm", "TowerConfig", "Widths", "affine", "tower"]

Widths = tuple[Annotated[int, Field(ge=1)], ...]
"""Widths of layers, each at least 1."""


class TowerConfig(ModelConfig):
    """Config of a model with one tower."""

    hidden: Widths = (400, 400, 400)
    """Widths of the deep part's hidden layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer that is dropped in training."""
    batch_norm: bool = False
    """Batch norm before each ReLU of the deep part."""


class BatchNorm(nn.BatchNorm1d):
    """Batch norm that takes a training batch of one row too, by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


def affine(
    num_inputs: int,
    num_outputs: int,
    *,
    bias: bool = True,
    device: torch.device | str | None = None,
) -> nn.Linear:
    """A linear layer with Xavier-normal weights and a bias of 0."""
    layer = nn.Linear(num_inputs, num_outputs, bias=bias, device=device)
    nn.init.xavier_normal_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def tower(
    num_inputs: int,
    hidden: Sequence[int],
    num_outputs: int | None = None,
    *,
    dropout: float = 0.0,
    batch_norm: bool = False,
    device: torch.device | str | None = None,
) -> nn.Sequential:
    """``hidden`` layers of Linear, batch norm, ReLU, dropout; then, if asked for, a linear layer.

    ``(B, num_inputs) -> (B, num_outputs)``, or ``(B, hidden[-1])`` where ``num_outputs`` is None.
    """
    layers: list[nn.Module] = []
    width = num_inputs
    for size in hidden:
        layers.append(affine(width, size, device=device))
        if batch_norm:
            layers.append(BatchNorm(size, device=device))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    if num_outputs is not None:
        layers.append(affine(width, num_outputs, device=device))
    return nn.Sequential(*layers)
