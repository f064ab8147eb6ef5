"""Random widths while a supernet trains: so one table is good at all of them.

A width is a number of leading columns. The mask is of an example and a feature, so it stands behind
the pooling of bags.
"""

import torch
from torch import Tensor, nn

__all__ = ["PrefixMask", "prefix_masks"]


class PrefixMask(nn.Module):
    """``(B, F, D)``: while training, a random number of leading columns for every example and
    searched feature; in evaluation everything.

    Args:
        searched: ``(F,)`` bool.
    """

    searched: Tensor

    def __init__(self, searched: Tensor, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("searched", searched, persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        if not self.training:
            return vectors
        return vectors * self.draw(vectors.shape[0])

    def draw(self, num_examples: int) -> Tensor:
        """``(B, F, D)`` masks of 0 and 1: widths are uniform in 1 .. D."""
        shape = num_examples, self.searched.numel()
        widths = torch.randint(1, self.dim + 1, shape, device=self.searched.device)
        widths = torch.where(self.searched, widths, self.dim)
        return prefix_masks(widths, self.dim)


def prefix_masks(widths: Tensor, dim: int) -> Tensor:
    """``(...) -> (..., D)``: ones in so many leading columns."""
    return (torch.arange(dim, device=widths.device) < widths[..., None]).float()
