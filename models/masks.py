"""The block of MaskNet."""

import torch
from torch import Tensor, nn

from compactrec.models.towers import affine

__all__ = ["MaskBlock"]


class MaskBlock(nn.Module):
    """``relu(LN(W (M(x0) * V)))`` with ``M(x0) = W_2 relu(W_1 x0 + b_1) + b_2``; W has no bias.

    Args:
        example_width: width of ``x0``, which the mask is made of.
        num_inputs: width of V.
        num_outputs: width of what comes out.
        inner: width between ``W_1`` and ``W_2``.
        dropout: share of the outputs that is dropped in training.
        norm: whether there is LN.
    """

    def __init__(
        self,
        example_width: int,
        num_inputs: int,
        num_outputs: int,
        inner: int,
        *,
        dropout: float = 0.0,
        norm: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.mask = nn.Sequential(
            affine(example_width, inner, device=device),
            nn.ReLU(),
            affine(inner, num_inputs, device=device),
        )
        layers: list[nn.Module] = [affine(num_inputs, num_outputs, bias=False, device=device)]
        if norm:
            layers.append(nn.LayerNorm(num_outputs, device=device))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        self.hidden = nn.Sequential(*layers)

    def forward(self, x0: Tensor, inputs: Tensor) -> Tensor:
        out: Tensor = self.hidden(self.mask(x0) * inputs)
        return out
