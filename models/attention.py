"""The interacting layer of AutoInt: fields attend to fields."""

from typing import Literal

import torch
from torch import Tensor, nn

from compactrec.models.towers import affine

__all__ = ["Flavor", "Interacting"]

Flavor = Literal["paper", "official_tf", "fuxictr"]


class Interacting(nn.Module):
    """Multi-head attention over fields: ``(B, N, d) -> (B, N, heads * head_dim)``.

    ::

        s^h_mk = <Q^h x_m, K^h x_k>;  a^h_m = softmax_k(s^h_m);  o^h_m = sum_k a^h_mk V^h x_k
        out_m  = relu([o^1_m; ...; o^H_m] + R x_m)

    Args:
        num_inputs: d.
        flavor: ``paper`` is the above, with R in every layer. ``official_tf``: as the authors'
            code, Q, K, V and R have biases and end in ReLU, scores are divided by sqrt(head_dim),
            and a layer norm (eps 1e-8) follows. ``fuxictr``: R is the identity where the widths
            are equal.
        scaled: of ``fuxictr``, divide scores by sqrt(head_dim).
        normed: of ``fuxictr``, a layer norm (eps 1e-5) before the last ReLU.
        with_residual: of ``fuxictr``, whether there is R.
        dropout: of ``fuxictr``, share of the a^h_mk that are left out while training.
    """

    def __init__(
        self,
        num_inputs: int,
        heads: int,
        head_dim: int,
        flavor: Flavor,
        device: torch.device | str | None = None,
        *,
        scaled: bool = False,
        normed: bool = False,
        with_residual: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width, official = heads * head_dim, flavor == "official_tf"
        self.heads, self.head_dim = heads, head_dim
        self.scale = head_dim**-0.5 if official or scaled else 1.0
        self.query = affine(num_inputs, width, bias=official, device=device)
        self.key = affine(num_inputs, width, bias=official, device=device)
        self.value = affine(num_inputs, width, bias=official, device=device)
        self.with_residual = with_residual
        self.residual: nn.Module = nn.Identity()
        if with_residual and (flavor != "fuxictr" or num_inputs != width):
            self.residual = affine(num_inputs, width, bias=official, device=device)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.activation: nn.Module = nn.ReLU() if official else nn.Identity()
        self.inner_norm: nn.Module = nn.Identity()
        if normed:
            self.inner_norm = nn.LayerNorm(width, device=device)
        self.norm: nn.Module = nn.Identity()
        if official:
            self.norm = nn.LayerNorm(width, eps=1e-8, device=device)

    def forward(self, fields: Tensor) -> Tensor:
        value = self._split(self.activation(self.value(fields)))
        joined = torch.cat((self.dropout(self._by_head(fields)) @ value).unbind(0), dim=2)
        if self.with_residual:
            joined = joined + self.activation(self.residual(fields))
        out: Tensor = self.norm(self.inner_norm(joined).relu())
        return out

    def attention(self, fields: Tensor) -> Tensor:
        """Which field looks at which: ``(B, heads, N, N)``, every row sums to 1."""
        return self._by_head(fields).transpose(0, 1)

    def _by_head(self, fields: Tensor) -> Tensor:
        """Heads first, which CPUs multiply twice as fast as torch's fused attention does."""
        query = self._split(self.activation(self.query(fields)))
        key = self._split(self.activation(self.key(fields)))
        return (query * self.scale @ key.transpose(2, 3)).softmax(dim=3)

    def _split(self, joined: Tensor) -> Tensor:
        return torch.stack(joined.split(self.head_dim, dim=2))
