"""One batch of examples: dense values, ids of every feature, labels.

Shape letters: ``B`` examples, ``F`` sparse features, ``N`` dense columns, ``V`` ids in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

__all__ = ["Batch", "KjtBatch", "register_pipelineable"]

_TENSORS = ("dense", "values", "lengths", "labels", "weights", "offsets")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The examples of one step, feature-major: feature 0's bags of all examples, then feature 1's.

    ``lengths`` and ``offsets`` may be shared between batches of one size; treat every tensor as
    read-only. ``length_per_key`` and ``offsets`` are known to the loader for free; with them
    :meth:`kjt` needs neither a computation nor a device synchronisation.
    """

    dense: Tensor
    """(B, N) float32."""
    values: Tensor
    """(V,) int64 ids, feature-major."""
    lengths: Tensor
    """(F*B,) int32 bag lengths, feature-major."""
    labels: Tensor
    """(B,) float32."""
    keys: tuple[str, ...]
    """The F feature names, in the order of ``values``."""
    weights: Tensor | None = None
    """(V,) float32 per-id weights, or None."""
    length_per_key: tuple[int, ...] | None = None
    """Number of ids of each feature; sums to V."""
    offsets: Tensor | None = None
    """(F*B + 1,) int32: 0, then the running sum of ``lengths``."""

    def __post_init__(self) -> None:
        num_bags = len(self.keys) * self.batch_size
        if self.lengths.numel() != num_bags or self.dense.shape[0] != self.batch_size:
            raise ValueError(
                f"batch: {self.batch_size} labels and {len(self.keys)} features need {num_bags} "
                f"lengths and {self.batch_size} dense rows, got {self.lengths.numel()} and "
                f"{self.dense.shape[0]}; give one length per feature and example"
            )
        if self.length_per_key is not None and sum(self.length_per_key) != self.values.numel():
            raise ValueError(
                f"batch: length_per_key sums to {sum(self.length_per_key)} but there are "
                f"{self.values.numel()} values; leave it out to have it computed"
            )

    @property
    def batch_size(self) -> int:
        """B, the number of examples."""
        return self.labels.shape[0]

    def kjt(self) -> KeyedJaggedTensor:
        """The sparse part as a torchrec ``KeyedJaggedTensor``; no tensor is copied.

        Raises:
            ModuleNotFoundError: torchrec is not installed.
        """
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        per_key = self.length_per_key
        return KeyedJaggedTensor(
            keys=list(self.keys),
            values=self.values,
            weights=self.weights,
            lengths=self.lengths,
            offsets=self.offsets,
            stride=self.batch_size,
            length_per_key=None if per_key is None else list(per_key),
        )

    def with_kjt(self, num_rows: int | None = None) -> KjtBatch:
        """The same examples, the sparse part as an attribute, as torchrec's pipelines need it.

        ``num_rows``: of the batch that this one is a part of; its own by default.
        """
        num_rows = self.batch_size if num_rows is None else num_rows
        return KjtBatch(self.dense, self.kjt(), self.labels, num_rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on ``device``; tensors already there are shared."""
        moved = {
            name: None if t is None else t.to(device, non_blocking=non_blocking)
            for name, t in self._tensors()
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, from which ``to(..., non_blocking=True)`` is asynchronous.

        Raises:
            RuntimeError: there is no accelerator (from torch).
        """
        pinned = {name: None if t is None else t.pin_memory() for name, t in self._tensors()}
        return replace(self, **pinned)  # type: ignore[arg-type]

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that ``stream`` uses these tensors (torchrec's pipelines need it)."""
        for _, tensor in self._tensors():
            if tensor is not None:
                tensor.record_stream(stream)

    def _tensors(self) -> list[tuple[str, Tensor | None]]:
        return [(name, getattr(self, name)) for name in _TENSORS]


@dataclass(frozen=True, slots=True, eq=False)
class KjtBatch:
    """A batch whose sparse part is a KeyedJaggedTensor.

    Of the logical features, or of the physical parts where :meth:`rewritten` made it.
    """

    dense: Tensor
    """(B, N) float32."""
    features: KeyedJaggedTensor
    labels: Tensor
    """(B,) float32."""
    num_rows: int
    """Examples of the batch over all processes: B, or more where this is a part of it."""
    num_bags: int | None = None
    """Of every feature, where there are more than B: the last ones are of no example."""

    def rewritten(self, rewrite: Callable[[KeyedJaggedTensor], KeyedJaggedTensor]) -> KjtBatch:
        """The batch with the ids of physical parts, which a collection takes as they are."""
        return replace(self, features=rewrite(self.features))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> KjtBatch:
        """The batch on ``device``."""
        return KjtBatch(
            self.dense.to(device, non_blocking=non_blocking),
            self.features.to(torch.device(device), non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.num_rows,
            self.num_bags,
        )

    def pin_memory(self) -> KjtBatch:
        """A copy in page-locked memory; ``RuntimeError`` (from torch) without an accelerator."""
        return KjtBatch(
            self.dense.pin_memory(), self.features.pin_memory(), self.labels.pin_memory(),
            self.num_rows, self.num_bags,
        )  # fmt: skip

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell the allocator that ``stream`` uses these tensors."""
        for tensor in (self.dense, self.features, self.labels):
            tensor.record_stream(stream)


def register_pipelineable() -> None:
    """Let torchrec's train pipelines accept batches of both types; call once before building one.

    The pipelines check the type; batches do not inherit from torchrec so that this module imports
    without it.

    Raises:
        ModuleNotFoundError: torchrec is not installed.
    """
    from torchrec.streamable import Pipelineable

    Pipelineable.register(Batch)
    Pipelineable.register(KjtBatch)
