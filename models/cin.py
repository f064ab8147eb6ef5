"""The compressed interaction network of xDeepFM."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compactrec.models.towers import affine

__all__ = ["CompressedInteraction"]


class CompressedInteraction(nn.Module):
    """Products of vectors by column, compressed layer by layer: ``(B, N, D) -> (B,)``.

    ::

        X^k_h  = act(sum_ij W^k_hij X^{k-1}_i * X^0_j + b^k_h)      (B, H_k, D)
        logit  = w . [sum over columns of every X^k] + b

    A layer holds ``H_{k-1} N D`` numbers per example, 160 kB at 64 maps, 39 fields and D = 16.

    Args:
        num_fields: N.
        sizes: the number of feature maps ``H_k`` of each layer.
        relu: the activation is ReLU, else there is none.
        split_half: the first half of a layer's maps goes on, the second half to the logit; the last
            layer gives all. Sizes must be even then, but for the last.

    Raises:
        ValueError: an odd size with ``split_half``.
    """

    def __init__(
        self,
        num_fields: int,
        sizes: Sequence[int],
        *,
        relu: bool = False,
        split_half: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        odd = [size for size in sizes[:-1] if size % 2]
        if split_half and odd:
            raise ValueError(f"split_half needs even sizes but for the last, got {tuple(sizes)}")
        self.relu, self.split_half = relu, split_half
        inputs = [num_fields, *(size // 2 if split_half else size for size in sizes[:-1])]
        self.layers = nn.ModuleList(
            affine(num_inputs * num_fields, size, device=device)
            for num_inputs, size in zip(inputs, sizes, strict=True)
        )
        given = [*inputs[1:], sizes[-1]] if split_half else sizes
        self.top = affine(sum(given), 1, device=device)

    def forward(self, vectors: Tensor) -> Tensor:
        sizes = (vectors.shape[0], vectors.shape[2])
        base = vectors.transpose(1, 2).flatten(0, 1)  # (B D, N)
        maps, pooled = base, []
        for number, layer in enumerate(self.layers, start=1):
            # Outer products as torch.bmm: its backward pass is twice as fast as that of `*`.
            maps = layer(torch.bmm(maps.unsqueeze(2), base.unsqueeze(1)).flatten(1))
            if self.relu:
                maps = maps.relu()
            given = maps
            if self.split_half and number < len(self.layers):
                maps, given = maps.tensor_split(2, dim=1)
            pooled.append(given.unflatten(0, sizes).sum(dim=1))
        logits: Tensor = self.top(torch.cat(pooled, dim=1))
        return logits.squeeze(1)
