"""Which optimizer the fused engine applies inside the backward pass."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FusedOptimizer"]


class FusedOptimizer(BaseModel):
    """An optimizer that touches only the rows of a batch.

    ``sgd``: ``w -= lr * g``. ``adagrad``: ``s += g^2; w -= lr * g / (sqrt(s) + eps)``, per weight.
    ``rowwise_adagrad``: one ``s`` per physical row, ``s += mean(g^2)``. ``g`` is the sum over the
    batch of a row's gradients. No weight decay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Literal["sgd", "adagrad", "rowwise_adagrad"] = "rowwise_adagrad"
    learning_rate: float = Field(default=0.05, gt=0)
    eps: float = Field(default=1e-8, ge=0)
