"""CompressedEmbeddingCollection: any plan behind torchrec's EmbeddingCollection interface."""

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollectionInterface
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from compactrec.embeddings.collection import CompressedEmbeddingBagCollection, Engine
from compactrec.embeddings.fused_optimizer import FusedOptimizer
from compactrec.embeddings.plan import Plan

__all__ = ["CompressedEmbeddingCollection"]


class CompressedEmbeddingCollection(EmbeddingCollectionInterface):
    """Sequences of ids in, one logical vector per id out; nothing is pooled.

    Every id is a bag of one in :attr:`bags`, a ``CompressedEmbeddingBagCollection``, so every
    method and engine works. All features get the stride of the longest one: memory is that of
    ``max ids of a feature * sum of dims`` floats.

    Args:
        plan: features and their method configs; ``pooling`` and ``max_bag`` mean nothing here.
        engine, device, optimizer, check_ids: as in ``CompressedEmbeddingBagCollection``.
        need_indices: the ids go along as the weights of the results, as in torchrec.

    Shapes: KeyedJaggedTensor -> ``{feature: JaggedTensor (ids of the feature, dim)}``, with the
    lengths of the batch. Raises what the bag collection raises. Bytes: as the bag collection.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        engine: Engine = "eager",
        device: torch.device | str | None = None,
        need_indices: bool = False,
        optimizer: FusedOptimizer | None = None,
        check_ids: bool = True,
    ) -> None:
        super().__init__()
        single = {"pooling": "sum", "max_bag": 1}
        features = tuple(feature.model_copy(update=single) for feature in plan.features)
        self.plan = Plan(features, plan.groups, plan.arrays)
        self.bags = CompressedEmbeddingBagCollection(
            self.plan, engine=engine, device=device, optimizer=optimizer, check_ids=check_ids
        )
        self._names = [feature.name for feature in features]
        self._configs = [
            EmbeddingConfig(
                name=config.name,
                embedding_dim=config.embedding_dim,
                num_embeddings=config.num_embeddings,
                feature_names=config.feature_names,
            )
            for config in self.bags.embedding_bag_configs()
        ]
        keys = [config.name for config in self._configs]
        if keys != self._names:
            raise ValueError(
                f"a sequence has one vector per id, but the plan makes {', '.join(keys)} of the "
                f"features {', '.join(self._names)}; choose another operation"
            )
        self._need_indices = need_indices

    def forward(self, features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """One vector per id; raises ``ValueError`` on missing features and ids out of range."""
        missing = sorted(set(self._names) - set(features.keys()))
        if missing:
            raise ValueError(
                f"the batch lacks the features {missing}; it has {sorted(features.keys())}"
            )
        by_name: dict[str, JaggedTensor] = features.to_dict()
        sequences = [by_name[name] for name in self._names]
        counts = [sequence.values().numel() for sequence in sequences]
        singles = _singles(self._names, [s.values() for s in sequences], counts)
        vectors = self.bags(singles).values()
        columns = vectors.split([config.embedding_dim for config in self._configs], dim=1)
        return {
            name: JaggedTensor(
                values=column[:count],
                lengths=sequence.lengths(),
                weights=sequence.values() if self._need_indices else None,
            )
            for name, sequence, column, count in zip(
                self._names, sequences, columns, counts, strict=True
            )
        }

    def embedding_configs(self) -> list[EmbeddingConfig]:
        """One config per feature, as a model sees it: name, width, vocabulary."""
        return list(self._configs)

    def embedding_dim(self) -> int:
        """The width, where all features have one; ``ValueError`` where they differ."""
        dims = {config.name: config.embedding_dim for config in self._configs}
        if len(set(dims.values())) > 1:
            raise ValueError(f"the features have no common width: {dims}; ask embedding_configs()")
        return next(iter(dims.values()))

    def need_indices(self) -> bool:
        """True where the ids go along as the weights of the results."""
        return self._need_indices

    def embedding_names_by_table(self) -> list[list[str]]:
        """The names of the results, table by logical table."""
        return [[name] for name in self._names]

    def reset_parameters(self) -> None:
        """Draw all initial weights again."""
        self.bags.reset_parameters()


def _singles(names: list[str], ids: list[Tensor], counts: list[int]) -> KeyedJaggedTensor:
    """Every id a bag of its own; features with fewer ids end with empty bags."""
    stride = max(1, *counts)
    place = torch.arange(stride, device=ids[0].device)
    lengths = [(place < count).long() for count in counts]
    return KeyedJaggedTensor(names, torch.cat(ids), lengths=torch.cat(lengths), stride=stride)
