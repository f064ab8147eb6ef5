"""Bilinear products of pairs of fields, and weights for fields."""

from typing import Literal

import torch
from torch import Tensor, nn

from compactrec.models.towers import affine

__all__ = ["BilinearPairs", "SqueezeExcitation"]


class BilinearPairs(nn.Module):
    """``(v_i W) * v_j`` of all pairs i < j by rows: ``(B, N, D) -> (B, N (N - 1) / 2, D)``.

    Args:
        num_fields: N, at least 2.
        dim: D.
        kind: one matrix W for ``all`` pairs, one for ``each`` field i, or one per ``interaction``.
    """

    def __init__(
        self,
        num_fields: int,
        dim: int,
        kind: Literal["all", "each", "interaction"],
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if num_fields < 2:
            raise ValueError(f"pairs need at least 2 fields, got {num_fields}; add a feature")
        self.num_fields, self.kind = num_fields, kind
        num = {"all": 1, "each": num_fields, "interaction": num_fields * (num_fields - 1) // 2}
        self.weight = nn.Parameter(torch.empty(num[kind], dim, dim, device=device))
        for matrix in self.weight.unbind():
            nn.init.xavier_normal_(matrix)

    def forward(self, vectors: Tensor) -> Tensor:
        pairs = _pairs(vectors)
        left, right = pairs[0], pairs[1]
        if self.kind == "interaction":
            turned = torch.einsum("bpd,pde->bpe", vectors.index_select(1, left), self.weight)
        else:
            weight = self.weight.expand(self.num_fields, -1, -1)
            turned = torch.einsum("bnd,nde->bne", vectors, weight).index_select(1, left)
        return turned * vectors.index_select(1, right)


@torch.fx.wrap
def _pairs(vectors: Tensor) -> Tensor:
    """Which field is left and which right in each pair; made anew, so `meta` loses nothing."""
    n = vectors.shape[1]
    return torch.triu_indices(n, n, 1, device=vectors.device)


class SqueezeExcitation(nn.Module):
    """``v_f relu(W_2 relu(W_1 z))_f`` with ``z_f`` the mean of ``v_f``: ``(B, N, D)`` to the same.

    The inner layer has ``max(1, N // reduction)`` units; there are no biases.
    """

    def __init__(
        self, num_fields: int, reduction: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        inner = max(1, num_fields // reduction)
        self.squeeze = affine(num_fields, inner, bias=False, device=device)
        self.excite = affine(inner, num_fields, bias=False, device=device)

    def forward(self, vectors: Tensor) -> Tensor:
        weights = self.excite(self.squeeze(vectors.mean(dim=2)).relu()).relu()
        return vectors * weights.unsqueeze(2)
