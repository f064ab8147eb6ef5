"""What the benchmarks of tables are fed with: Criteo's sizes, Zipf ids, and torch's own tables."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.data.batch import Batch
from compactrec.data.teacher import KAGGLE_SIZES
from compactrec.embeddings import Feature

__all__ = [
    "CAP",
    "EmbeddingBags",
    "click_batches",
    "features",
    "fresh",
    "make_kjts",
    "zipf_batches",
]

CAP = 1_000_000
"""Most rows of a table, unless a benchmark is told otherwise."""


class EmbeddingBags(nn.Module):
    """One ``nn.EmbeddingBag`` per feature, with sparse gradients; ids ``(F, B)``, one per bag."""

    def __init__(self, of: Sequence[Feature]) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(f.num_ids or 1, f.dim, mode="sum", sparse=True) for f in of
        )

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of all features side by side, ``(B, F D)``."""
        offsets = torch.arange(ids.shape[1])
        return torch.cat(
            [bag(row, offsets) for bag, row in zip(self.bags, ids, strict=True)], dim=1
        )


def features(dim: int, cap: int = CAP) -> tuple[Feature, ...]:
    """The 26 features of Criteo Kaggle."""
    return tuple(
        Feature(name=f"C{i + 1}", num_ids=min(n, cap), dim=dim) for i, n in enumerate(KAGGLE_SIZES)
    )


def zipf_batches(of: Sequence[Feature], batch: int, count: int) -> list[Tensor]:
    """``count`` batches of ids ``(F, B)``, log-uniform ranks (Zipf with exponent 1)."""
    generator = torch.Generator().manual_seed(0)
    top = torch.tensor([float(f.num_ids or 1) for f in of])[:, None]
    out = []
    for _ in range(count):
        u = torch.rand(len(of), batch, generator=generator, dtype=torch.float64)
        out.append((torch.exp(u * torch.log(top + 1)).long() - 1).clamp_(min=0))
    return out


def click_batches(
    of: Sequence[Feature], batch_size: int, count: int, num_dense: int
) -> list[Batch]:
    """``count`` batches of whole models: numbers, one id per bag, labels that are 1 at 26%."""
    generator = torch.Generator().manual_seed(1)
    keys = tuple(f.name for f in of)
    num_bags = len(keys) * batch_size
    return [
        Batch(
            dense=torch.rand(batch_size, num_dense, generator=generator),
            values=ids.reshape(-1),
            lengths=torch.ones(num_bags, dtype=torch.int32),
            labels=(torch.rand(batch_size, generator=generator) < 0.26).float(),
            keys=keys,
            length_per_key=(batch_size,) * len(keys),
            offsets=torch.arange(num_bags + 1, dtype=torch.int32),
        )
        for ids in zipf_batches(of, batch_size, count)
    ]


def make_kjts(of: Sequence[Feature], batches: Sequence[Tensor]) -> list[KeyedJaggedTensor]:
    """Batches ``(F, B)`` of one id per bag as torchrec takes them."""
    return [
        KeyedJaggedTensor(
            keys=[f.name for f in of],
            values=ids.reshape(-1),
            stride=ids.shape[1],
            lengths=torch.ones(ids.numel(), dtype=torch.int32),
            length_per_key=[ids.shape[1]] * len(of),
        )
        for ids in batches
    ]


def fresh(kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """A batch as a loader hands it over: nothing cached but the lengths per key."""
    return KeyedJaggedTensor(
        keys=kjt.keys(),
        values=kjt.values(),
        lengths=kjt.lengths(),
        stride=kjt.stride(),
        length_per_key=kjt.length_per_key(),
    )
