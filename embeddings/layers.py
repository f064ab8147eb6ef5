"""Drop-ins for ``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag``; plain torch, no torchrec."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays
from compactrec.embeddings.core import Core
from compactrec.embeddings.single import SingleFeature

__all__ = ["CompressedEmbedding", "CompressedEmbeddingBag"]

Mode = Literal["sum", "mean", "max"]


class CompressedEmbedding(SingleFeature):
    """Drop-in for ``nn.Embedding``: ids of any shape -> vectors, one per id.

    The arguments are those of :class:`~compactrec.embeddings.single.SingleFeature`. Raises
    ``ValueError`` on ids that are not int32 or int64 and on ids out of range. Bytes:
    :func:`compactrec.embeddings.size`.
    """

    @classmethod
    def from_core(cls, core: Core, *, padding_idx: int | None = None) -> Self:
        """A layer that reads ``core``, as other layers may: tied, or in one group."""
        return cls._reading(core, padding_idx)

    def forward(self, ids: Tensor) -> Tensor:
        """``(*) int -> (*, embedding_dim)``"""
        flat = _whole(ids, "ids").reshape(-1)
        if self.padding_idx is None:
            return self.per_id(flat).view(*ids.shape, self.embedding_dim)
        keep = flat != self.padding_idx
        out = self.pooled(flat[keep], keep.long(), None)
        return out.view(*ids.shape, self.embedding_dim)


class CompressedEmbeddingBag(SingleFeature):
    """Drop-in for ``nn.EmbeddingBag``: bags of ids -> one vector per bag.

    The arguments are those of :class:`~compactrec.embeddings.single.SingleFeature` and:

    Args:
        mode: ``sum``, ``mean`` (over the ids of the bag) or ``max``. Ids are combined first and
            pooled after. An empty bag gives zeros.
        include_last_offset: ``offsets`` ends with the number of ids.

    Ids equal to ``padding_idx`` are left out of the bag.
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        config: MethodConfig | None = None,
        *,
        mode: Mode = "mean",
        include_last_offset: bool = False,
        name: str = "ids",
        arrays: Arrays | None = None,
        padding_idx: int | None = None,
        sparse: bool = False,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            config,
            name=name,
            arrays=arrays,
            padding_idx=padding_idx,
            sparse=sparse,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            device=device,
            dtype=dtype,
        )
        self.mode = _checked_mode(mode)
        self.include_last_offset = include_last_offset

    @classmethod
    def from_budget(
        cls,
        num_embeddings: int | None,
        embedding_dim: int,
        method: str,
        budget_bytes: int,
        *,
        mode: Mode = "mean",
        name: str = "ids",
        counts: NDArray[np.int64] | None = None,
        options: Mapping[str, Any] | None = None,
        padding_idx: int | None = None,
    ) -> Self:
        """The largest layer of ``method`` within ``budget_bytes``."""
        made = super().from_budget(
            num_embeddings,
            embedding_dim,
            method,
            budget_bytes,
            name=name,
            counts=counts,
            options=options,
            padding_idx=padding_idx,
        )
        made.mode = _checked_mode(mode)
        return made

    @classmethod
    def from_core(
        cls,
        core: Core,
        *,
        mode: Mode = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> Self:
        """A layer that reads ``core``, as other layers may: tied, or in one group."""
        made = cls._reading(core, padding_idx)
        made.mode = _checked_mode(mode)
        made.include_last_offset = include_last_offset
        return made

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """``(B, L)``, or ``(V,)`` and ``offsets (B,)``, -> ``(B, embedding_dim)``"""
        if per_sample_weights is not None and per_sample_weights.shape != input.shape:
            raise ValueError(
                f"per_sample_weights must have the shape of input, {tuple(input.shape)}, got "
                f"{tuple(per_sample_weights.shape)}"
            )
        if per_sample_weights is not None and self.mode != "sum":
            raise NotImplementedError(
                f"per_sample_weights are for mode 'sum', got mode {self.mode!r}; make the layer "
                f"with mode='sum', and divide the weights by the length of the bag for a mean"
            )
        lengths = self._lengths(input, offsets)
        values = _whole(input, "ids").reshape(-1)
        weights = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        if self.padding_idx is not None:
            keep = values != self.padding_idx
            lengths = torch.zeros_like(lengths).index_add_(0, _bag_of(lengths), keep.long())
            values = values[keep]
            weights = None if weights is None else weights[keep]
        if self.mode == "max":
            return self._max(values, lengths)
        pooled = self._sum(values, lengths, weights)
        if self.mode == "mean":
            pooled = pooled / lengths.clamp(min=1)[:, None].to(pooled.dtype)
        return pooled

    def _lengths(self, input: Tensor, offsets: Tensor | None) -> Tensor:
        if input.dim() == 2:
            if offsets is not None:
                raise ValueError("offsets are for a 1-D input; a 2-D input has one bag per row")
            return torch.full((input.shape[0],), input.shape[1], device=input.device)
        if input.dim() != 1 or offsets is None:
            raise ValueError(
                f"input must be 2-D, or 1-D with offsets; got {input.dim()}-D and offsets {offsets}"
            )
        if self.include_last_offset and not offsets.numel():
            raise ValueError("include_last_offset needs at least one offset, the number of ids")
        ends = _whole(offsets, "offsets")
        if not self.include_last_offset:
            ends = torch.cat([ends, ends.new_tensor([input.numel()])])
        lengths = ends.diff()
        if ends.numel() and (int(ends[0]) != 0 or bool((lengths < 0).any())):
            raise ValueError("offsets must start at 0 and never fall, nor pass the end of input")
        if int(ends[-1]) != input.numel():
            raise ValueError(
                f"the last offset is {int(ends[-1])} but input has {input.numel()} ids"
            )
        return lengths

    def _sum(self, values: Tensor, lengths: Tensor, weights: Tensor | None) -> Tensor:
        if self.linear:
            return self.pooled(values, lengths, weights)
        vectors = self.per_id(values)
        if weights is not None:
            vectors = vectors * weights[:, None]
        pooled = vectors.new_zeros(lengths.numel(), self.embedding_dim)
        return pooled.index_add(0, _bag_of(lengths), vectors)

    def _max(self, values: Tensor, lengths: Tensor) -> Tensor:
        vectors = self.per_id(values)
        index = _bag_of(lengths)[:, None].expand_as(vectors)
        pooled = vectors.new_zeros(lengths.numel(), self.embedding_dim)
        return pooled.scatter_reduce(0, index, vectors, "amax", include_self=False)


def _whole(given: Tensor, what: str) -> Tensor:
    """As int64. Other types are refused: 1.5 would be cut to 1, and a mask to 0 and 1."""
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{what} must be a tensor, got {type(given).__name__}; write torch.tensor({what})"
        )
    if given.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"{what} must be int32 or int64, got {given.dtype}; convert them with .long() if they "
            f"are whole numbers"
        )
    return given.long()


def _bag_of(lengths: Tensor) -> Tensor:
    """The bag of every id."""
    bags = torch.arange(lengths.numel(), device=lengths.device)
    return torch.repeat_interleave(bags, lengths)


def _checked_mode(mode: Mode) -> Mode:
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode must be 'sum', 'mean' or 'max', got {mode!r}")
    return mode
