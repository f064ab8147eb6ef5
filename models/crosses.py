"""Cross networks: ``x0 (B, N) -> x_L (B, N)``, each layer one degree more."""

from typing import Literal

import torch
from torch import Tensor, nn
from torchrec.modules.crossnet import (
    CrossNet,
    LowRankCrossNet,
    LowRankMixtureCrossNet,
    VectorCrossNet,
)

from compactrec.models.towers import affine

__all__ = ["CrossKind", "GatedCross", "crosses"]

CrossKind = Literal["vector", "full", "low_rank", "mixture"]


def crosses(
    kind: CrossKind,
    width: int,
    num_layers: int,
    rank: int = 1,
    num_experts: int = 1,
    *,
    device: torch.device | str | None = None,
) -> nn.Module:
    """torchrec's cross network of that kind; ``rank`` and ``num_experts`` where it has them."""
    with torch.device(device or "cpu"):
        if kind == "vector":
            return VectorCrossNet(width, num_layers)
        if kind == "full":
            return CrossNet(width, num_layers)
        if kind == "low_rank":
            return LowRankCrossNet(width, num_layers, rank)
        return LowRankMixtureCrossNet(width, num_layers, num_experts, rank, torch.tanh)


class GatedCross(nn.Module):
    """``x_{l+1} = x0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l``; ``G`` has no bias."""

    def __init__(
        self, width: int, num_layers: int, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(affine(width, width, device=device) for _ in range(num_layers))
        self.gates = nn.ModuleList(
            affine(width, width, bias=False, device=device) for _ in range(num_layers)
        )

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for cross, gate in zip(self.crosses, self.gates, strict=True):
            x = x0 * cross(x) * torch.sigmoid(gate(x)) + x
        return x
