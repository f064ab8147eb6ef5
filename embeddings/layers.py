"""Drop-ins for ``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag``; plain torch, no torchrec."""

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor

from compactrec.embeddings.budget import make_plan
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.plan import Plan
from compactrec.embeddings.single import SingleFeature

__all__ = ["CompressedEmbedding", "CompressedEmbeddingBag"]


class CompressedEmbedding(SingleFeature):
    """Drop-in for ``nn.Embedding``: ids of any shape -> vectors, one per id.

    Args:
        num_embeddings: ids are ``0 .. num_embeddings - 1``; None where the method needs no
            vocabulary (any non-negative int64).
        embedding_dim: width of the vectors.
        config: the method; a full table by default.
        name: salts of hashing methods come from it; keep it when a model is rebuilt.
        arrays: integer arrays that the config names.
        padding_idx: this id gives zeros and no gradient.
        sparse: sparse gradients of the tables.

    Raises ``ValueError`` on ids out of range. Bytes: :func:`compactrec.embeddings.size`.
    """

    def __init__(
        self,
        num_embeddings: int | None,
        embedding_dim: int,
        config: MethodConfig | None = None,
        *,
        name: str = "ids",
        arrays: Arrays | None = None,
        padding_idx: int | None = None,
        sparse: bool = False,
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
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_budget(
        cls,
        num_embeddings: int | None,
        embedding_dim: int,
        method: str,
        budget_bytes: int,
        *,
        name: str = "ids",
        counts: Any = None,
        options: Mapping[str, Any] | None = None,
        padding_idx: int | None = None,
    ) -> Self:
        """The largest layer of ``method`` within ``budget_bytes``."""
        plan = _budget_plan(
            num_embeddings, embedding_dim, method, budget_bytes, name, counts, options
        )
        return cls(
            num_embeddings,
            embedding_dim,
            plan.groups[0].config,
            name=name,
            arrays=plan.arrays,
            padding_idx=padding_idx,
        )

    def forward(self, ids: Tensor) -> Tensor:
        """``(*) int -> (*, embedding_dim)``"""
        flat = ids.reshape(-1).long()
        if self.padding_idx is None:
            return self.per_id(flat).view(*ids.shape, self.embedding_dim)
        keep = flat != self.padding_idx
        out = self.pooled(flat[keep], keep.long(), None)
        return out.view(*ids.shape, self.embedding_dim)


class CompressedEmbeddingBag(SingleFeature):
    """Drop-in for ``nn.EmbeddingBag``: bags of ids -> one vector per bag.

    The arguments are those of :class:`CompressedEmbedding` and:

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
        mode: Literal["sum", "mean", "max"] = "mean",
        include_last_offset: bool = False,
        name: str = "ids",
        arrays: Arrays | None = None,
        padding_idx: int | None = None,
        sparse: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode must be 'sum', 'mean' or 'max', got {mode!r}")
        super().__init__(
            num_embeddings,
            embedding_dim,
            config,
            name=name,
            arrays=arrays,
            padding_idx=padding_idx,
            sparse=sparse,
            device=device,
            dtype=dtype,
        )
        self.mode = mode
        self.include_last_offset = include_last_offset

    @classmethod
    def from_budget(
        cls,
        num_embeddings: int | None,
        embedding_dim: int,
        method: str,
        budget_bytes: int,
        *,
        mode: Literal["sum", "mean", "max"] = "mean",
        name: str = "ids",
        counts: Any = None,
        options: Mapping[str, Any] | None = None,
        padding_idx: int | None = None,
    ) -> Self:
        """The largest layer of ``method`` within ``budget_bytes``."""
        plan = _budget_plan(
            num_embeddings, embedding_dim, method, budget_bytes, name, counts, options
        )
        return cls(
            num_embeddings,
            embedding_dim,
            plan.groups[0].config,
            mode=mode,
            name=name,
            arrays=plan.arrays,
            padding_idx=padding_idx,
        )

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
        if per_sample_weights is not None and self.mode == "max":
            raise ValueError("per_sample_weights are for mode 'sum' and 'mean', got mode 'max'")
        lengths = self._lengths(input, offsets)
        values = input.reshape(-1).long()
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
        ends = offsets.long()
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


def _bag_of(lengths: Tensor) -> Tensor:
    """The bag of every id."""
    bags = torch.arange(lengths.numel(), device=lengths.device)
    return torch.repeat_interleave(bags, lengths)


def _budget_plan(
    num_embeddings: int | None,
    embedding_dim: int,
    method: str,
    budget_bytes: int,
    name: str,
    counts: Any,
    options: Mapping[str, Any] | None,
) -> Plan:
    feature = Feature(name=name, num_ids=num_embeddings, dim=embedding_dim)
    return make_plan(
        method,
        (feature,),
        budget_bytes,
        threshold=0,
        options=options,
        counts=None if counts is None else {name: counts},
    )
