"""How the weights of a table start."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from compactrec.embeddings.feature import Feature

__all__ = ["Init", "dlrm_init", "fill_", "first_init"]


class Init(BaseModel):
    """A named distribution; ``scale`` is its bound (uniform) or standard deviation (normal)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["uniform", "normal", "identity", "constant"] = "uniform"
    """``uniform``: U(-scale, scale). ``normal``: N(0, scale^2). ``identity``: one-hot rows.
    ``constant``: every weight is ``low``."""
    scale: float = Field(default=0.05, ge=0)
    low: float | None = None
    """Lower bound of ``uniform`` where it is not ``-scale``; the value of ``constant``."""

    @property
    def std(self) -> float:
        """Standard deviation of ``uniform`` around 0 and of ``normal``."""
        return self.scale / math.sqrt(3.0) if self.kind == "uniform" else self.scale

    def fn(self, dim: int) -> "partial[Tensor]":
        """A picklable in-place initialiser for rows of ``dim``, as torchrec's ``init_fn`` wants."""
        low = -self.scale if self.low is None else self.low
        return partial(fill_, kind=self.kind, low=low, high=self.scale, dim=dim)


def dlrm_init(num_rows: int) -> Init:
    """DLRM's U(-sqrt(1/n), sqrt(1/n)) for a table of ``num_rows`` rows."""
    return Init(kind="uniform", scale=math.sqrt(1.0 / num_rows))


def first_init(features: Sequence[Feature], default: Init) -> Init:
    """How a table that these features share starts: with their ``init_std``, or as ``default``.

    Raises ValueError where they want different starts.
    """
    stds = {f.name: f.init_std for f in features}
    if len(set(stds.values())) > 1:
        raise ValueError(f"features that share a table start alike, got init_std {stds}")
    std = features[0].init_std
    return default if std is None else Init(kind="normal", scale=std)


def fill_(
    weight: Tensor,
    generator: torch.Generator | None = None,
    *,
    kind: str,
    low: float,
    high: float,
    dim: int,
) -> Tensor:
    """Fill ``weight`` in place and return it. Sharding may hand over a flat tensor."""
    with torch.no_grad():
        if kind == "uniform":
            return weight.uniform_(low, high, generator=generator)
        if kind == "normal":
            return weight.normal_(0.0, high, generator=generator)
        if kind == "constant":
            return weight.fill_(low)
        weight.zero_()
        weight.view(-1, dim).fill_diagonal_(1.0)
        return weight
