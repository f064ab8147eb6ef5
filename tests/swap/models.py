"""Models to swap: every kind of table, ties, frozen and odd ones; and plans that fit them."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)

from compactrec.embeddings import Plan, method_names

__all__ = ["METHODS_TO_SWAP", "Mixture", "counts_of", "num_bytes", "one_vector_each"]

METHODS_TO_SWAP = [name for name in method_names() if name != "full"]


def num_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def counts_of(sizes: Iterable[tuple[str, int]]) -> dict[str, NDArray[np.int64]]:
    """Frequencies that fall with the id."""
    return {name: 1 + 10_000 // (1 + np.arange(n, dtype=np.int64)) for name, n in sizes}


def one_vector_each(plan: Plan) -> bool:
    """True where every feature has one vector, as a model that was swapped expects."""
    keys = {output.key for lowered in plan.lower() for output in lowered.outputs}
    return keys == {feature.name for feature in plan.features}


class Mixture(nn.Module):
    """Layers, tied layers, both collections, a table that is also an output layer."""

    SIZES = (("user", 1000), ("clicks", 3000), ("ebc/item", 2000), ("tag", 40), ("ec/item", 1500))

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(1000, 8, padding_idx=0)
        self.clicks = nn.EmbeddingBag(3000, 12, mode="mean", padding_idx=-1)
        self.candidate = nn.Embedding(3000, 12)
        self.candidate.weight = self.clicks.weight
        shared = ["item", "last_item"]
        self.ebc = EmbeddingBagCollection(
            [
                EmbeddingBagConfig(
                    name="t_items", embedding_dim=8, num_embeddings=2000, feature_names=shared,
                    pooling=PoolingType.MEAN,
                ),
                EmbeddingBagConfig(
                    name="t_tags", embedding_dim=6, num_embeddings=40, feature_names=["tag"]
                ),
            ]
        )  # fmt: skip
        self.ec = EmbeddingCollection(
            [
                EmbeddingConfig(
                    name="t_seq", embedding_dim=8, num_embeddings=1500, feature_names=["item"]
                )
            ]
        )
        self.output = nn.Linear(8, 25)
        self.city = nn.Embedding(25, 8)
        self.city.weight = self.output.weight

    @staticmethod
    def batch(batch: int = 5) -> tuple[Tensor, KeyedJaggedTensor]:
        """Ids of the layers ``(B, 3)``, bags of the collections: 0 to 3 ids each."""
        lengths = torch.randint(4, (3 * batch,))
        lengths[-batch:] = 1
        values = torch.randint(1, 40, (int(lengths.sum()),))
        kjt = KeyedJaggedTensor(["item", "last_item", "tag"], values, lengths=lengths)
        ids = torch.randint(0, 25, (batch, 3))
        ids[0] = torch.tensor([0, 24, 0])
        return ids, kjt

    def forward(self, ids: Tensor, kjt: KeyedJaggedTensor) -> Tensor:
        """All vectors of an example side by side, ``(B, 87)``."""
        sequence = self.ec(kjt)["item"]
        total = torch.segment_reduce(sequence.values(), "sum", lengths=sequence.lengths())
        parts = [
            self.user(ids).sum(1),
            self.clicks(ids),
            self.candidate(ids).sum(1),
            self.ebc(kjt).values(),
            total,
            self.output(self.city(ids[:, 0])),
        ]
        return torch.cat(parts, dim=1)
