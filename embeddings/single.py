"""What the drop-in layers share: one feature, its rewrite, its tables and its combine."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compactrec.embeddings.budget import make_plan
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays
from compactrec.embeddings.core import Core, make_cores
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.rewrite import Bags

__all__ = ["SingleFeature"]

_CHUNK = 65_536


class SingleFeature(nn.Module):
    """What both drop-ins share: one feature, its rewrite, tables and combine.

    Args:
        num_embeddings: ids are ``0 .. num_embeddings - 1``; None where the method needs no
            vocabulary (any non-negative int64).
        embedding_dim: width of the vectors.
        config: the method; a full table by default.
        name: salts of hashing methods come from it; keep it when a model is rebuilt.
        arrays: integer arrays that the config names.
        padding_idx: this id gives zeros and no gradient.
        sparse: sparse gradients of the tables.
        max_norm, norm_type, scale_grad_by_freq: as torch has them, and refused unless they ask for
            nothing.
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
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if config is not None and not isinstance(config, MethodConfig):
            raise TypeError(
                f"config must be a method config such as FullConfig(), got {config!r}; further "
                f"arguments, such as padding_idx, go by name"
            )
        _refuse(max_norm, norm_type, scale_grad_by_freq)
        feature = Feature(name=name, num_ids=num_embeddings, dim=embedding_dim)
        padding_idx = _checked_padding(padding_idx, num_embeddings)
        cores = make_cores(
            config or FullConfig(),
            (feature,),
            arrays or {},
            sparse=sparse,
            device=device,
            dtype=dtype,
        )
        self._adopt(cores[name], padding_idx)

    def _adopt(self, core: Core, padding_idx: int | None) -> None:
        """Read ``core``, which other layers may read as well."""
        self.feature, self.config, self.padding_idx = core.feature, core.config, padding_idx
        self.tables, self.rewrite, self.combine = core.tables, core.rewrite, core.combine
        self.linear, self.sparse = core.linear, core.tables.sparse
        self._dims = list(core.dims)

    @classmethod
    def _reading(cls, core: Core, padding_idx: int | None) -> Self:
        """A layer that reads ``core``; ``from_core`` of the layers is what others call."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._adopt(core, _checked_padding(padding_idx, core.feature.num_ids))
        return made

    @classmethod
    def from_budget(
        cls,
        num_embeddings: int | None,
        embedding_dim: int,
        method: str,
        budget_bytes: int,
        *,
        name: str = "ids",
        counts: NDArray[np.int64] | None = None,
        options: Mapping[str, Any] | None = None,
        padding_idx: int | None = None,
    ) -> Self:
        """The largest layer of ``method`` within ``budget_bytes``."""
        plan = make_plan(
            method,
            (Feature(name=name, num_ids=num_embeddings, dim=embedding_dim),),
            budget_bytes,
            threshold=0,
            options=options,
            counts=None if counts is None else {name: counts},
        )
        return cls(
            num_embeddings,
            embedding_dim,
            plan.groups[0].config,
            name=name,
            arrays=plan.arrays,
            padding_idx=padding_idx,
        )

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"a compressed layer has no weight with a row for every id, and so no 'weight' "
                f"({type(self).__name__}): layer.materialize() computes that table, materialize("
                f"model) puts plain layers back, and layer.parameters() are what it trains"
            )
        return super().__getattr__(name)

    @property
    def num_embeddings(self) -> int | None:
        """Size of the vocabulary; None for an open one."""
        return self.feature.num_ids

    @property
    def embedding_dim(self) -> int:
        """Width of the output."""
        return self.feature.dim

    def reset_parameters(self) -> None:
        """Draw all initial weights again."""
        self.tables.reset_parameters()
        self.combine.reset_parameters()

    @torch.no_grad()
    def materialize(self) -> Tensor:
        """The plain table ``(num_embeddings, embedding_dim)`` that this layer stands for."""
        if self.num_embeddings is None:
            raise ValueError("an open vocabulary has no plain table to materialize")
        device = next(self.buffers()).device
        ids = torch.arange(self.num_embeddings, device=device)
        table = torch.cat([self.per_id(chunk) for chunk in ids.split(_CHUNK)])
        if self.padding_idx is not None:
            table[self.padding_idx] = 0
        return table

    def extra_repr(self) -> str:
        """What ``repr`` says of it: ids, width and config."""
        return f"{self.num_embeddings}, {self.embedding_dim}, config={self.config!r}"

    def pooled(self, values: Tensor, lengths: Tensor, weights: Tensor | None) -> Tensor:
        """Sum-pooled vectors ``(B, D)``; only where the combine is linear or bags hold one id."""
        physical = self.rewrite(Bags(values, lengths, weights))
        rows = self.tables(physical, self.rewrite.part_tables, lengths.numel())
        out: Tensor = self.combine(rows, self.rewrite.part_keys, self._dims)
        return out

    def per_id(self, ids: Tensor) -> Tensor:
        """``(V,) -> (V, D)``, every id a bag of its own."""
        return self.pooled(ids, torch.ones_like(ids), None)


def _refuse(max_norm: float | None, norm_type: float, scale_grad_by_freq: bool) -> None:
    """Raise for what torch's layers do to single rows of a plain table."""
    given = {"max_norm": max_norm, "norm_type": norm_type, "scale_grad_by_freq": scale_grad_by_freq}
    plain = {"max_norm": None, "norm_type": 2.0, "scale_grad_by_freq": False}
    asked = [f"{name}={value!r}" for name, value in given.items() if value != plain[name]]
    if asked:
        raise NotImplementedError(
            f"{', '.join(asked)}: a compressed table has no row of its own for every id, so its "
            f"rows cannot be renormed or scaled by an id's frequency; leave it out, and limit "
            f"weights or gradients in the optimizer"
        )


def _checked_padding(padding_idx: int | None, num_embeddings: int | None) -> int | None:
    if padding_idx is None or num_embeddings is None:
        return padding_idx
    if not -num_embeddings <= padding_idx < num_embeddings:
        raise ValueError(
            f"padding_idx must be within num_embeddings = {num_embeddings}, got {padding_idx}"
        )
    return padding_idx % num_embeddings
