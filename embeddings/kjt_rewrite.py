"""The rewrite on torchrec's KeyedJaggedTensor."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.check_bags import check_bags
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.rewrite import Bags, Rewrite
from compactrec.embeddings.rewrites import Stream
from compactrec.embeddings.tracing import as_leaf

__all__ = ["KjtRewrite"]


class KjtRewrite(nn.Module):
    """The rewrite on torchrec's type: logical KeyedJaggedTensor -> physical one.

    Keys are found by name; extra keys are ignored, and a missing one raises ``ValueError``. Bags of
    the parts themselves pass as they are: a loader has rewritten them.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        streams: Sequence[Stream],
        *,
        is_weighted: bool,
        check_ids: bool,
    ) -> None:
        super().__init__()
        self.ids = Rewrite(features, streams, check_ids=check_ids)
        self._keys = [feature.name for feature in features]
        self._is_weighted = is_weighted

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """Physical bags of the same batch, one key per part."""
        leaf = as_leaf(self, features)
        if leaf is not None:
            return cast(KeyedJaggedTensor, leaf)
        if self._is_weighted and features.weights_or_none() is None:
            raise ValueError(
                "the batch has no weights but the collection was built with is_weighted=True; "
                "give one weight per id, or build it without"
            )
        if features.keys() == list(self.ids.part_keys):
            return features  # rewritten already, in a loader
        if not torch.compiler.is_compiling():
            check_bags(features, signs=self.ids.check_ids)
        if features.keys() != self._keys:
            features = self._by_name(features)
        values = features.values()
        if values.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32, got {values.dtype}")
        weights = features.weights_or_none() if self._is_weighted else None
        bags = Bags(values.long(), features.lengths(), weights)
        out = self.ids(bags, None if torch.compiler.is_compiling() else features.length_per_key())
        return KeyedJaggedTensor(
            keys=list(self.ids.part_keys),
            values=out.values,
            lengths=out.lengths,
            weights=out.weights,
            stride=features.stride(),
        )

    def _by_name(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        place = {key: i for i, key in enumerate(features.keys())}
        missing = [key for key in self._keys if key not in place]
        if missing:
            raise ValueError(f"the batch lacks the features {missing}; it has {sorted(place)}")
        return features.permute([place[key] for key in self._keys])
