"""What a click model sees of a batch: vectors of fields, flat or stacked, and first-order weights.

Shapes: B batch, n dense columns, F features, D their common width, ``d_f`` a width of its own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollectionInterface,
    get_embedding_names_by_table,
)
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.embeddings.feature import Feature
from compactrec.models.blocks import one_width, stack_by_key
from compactrec.models.registry import ModelConfig

__all__ = [
    "FlatFields",
    "LinearConfig",
    "LinearTerm",
    "Outputs",
    "SideBySideFields",
    "StackedFields",
    "check_dense",
    "check_num_dense",
    "flat_by_key",
    "linear_key",
    "source_key",
    "with_linear_features",
]

torch.fx.wrap("stack_by_key")  # in this module too, for input pipelines that trace the model

_SUFFIX = "_linear"


def linear_key(key: str) -> str:
    """The key of the first-order weights of ``key``'s ids."""
    return f"{key}{_SUFFIX}"


def source_key(key: str) -> str:
    """The key whose ids ``key`` reads: without the suffix of first-order weights."""
    return key.removesuffix(_SUFFIX)


class LinearConfig(ModelConfig):
    """Config of a model with a first-order weight per id, see :class:`LinearTerm`."""

    def features(self, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        return with_linear_features(features)


def with_linear_features(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """Every feature, and for each one of width 1 that reads the same ids."""
    weights = (f.model_copy(update={"name": linear_key(f.name), "dim": 1}) for f in features)
    return (*features, *weights)


class Outputs:
    """The output keys of a collection in declared order, and the width of each.

    Args:
        embeddings: any torchrec-like collection.
        model: who asks, for messages.
        linear: half of the outputs are first-order weights: ``C1_linear`` of width 1 for every
            ``C1``. They are in ``linear``, in the order of ``widths``, and not in ``widths``.

    Raises:
        ValueError: there is no output, or a first-order weight is missing or not of width 1.
    """

    def __init__(
        self, embeddings: EmbeddingBagCollectionInterface, model: str, *, linear: bool = False
    ) -> None:
        tables = embeddings.embedding_bag_configs()
        names = get_embedding_names_by_table(tables)
        self.model = model
        self.widths = {
            key: table.embedding_dim
            for table, keys in zip(tables, names, strict=True)
            for key in keys
        }
        self.linear: tuple[str, ...] = ()
        if linear:
            weights = {linear_key(key) for key in self.widths} & set(self.widths)
            vectors = [key for key in self.widths if key not in weights]
            self.linear = tuple(linear_key(key) for key in vectors)
            missing = [key for key in self.linear if self.widths.get(key) != 1]
            if missing:
                raise ValueError(
                    f"{model} needs a first-order weight for every id, but the embeddings have no "
                    f"outputs {missing} of width 1; make the plan for this model, or add a Feature "
                    f"of dim 1 with each of these names"
                )
            self.widths = {key: self.widths[key] for key in vectors}
        if not self.widths:
            raise ValueError(f"{model} was given no embedded feature; at least one is needed")

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the vectors."""
        return tuple(self.widths)

    @property
    def widest(self) -> int:
        """The largest width."""
        return max(self.widths.values())


class StackedFields(nn.Module):
    """Vectors of one width, dense columns first: ``(B, n + F, D)``.

    Dense column ``j`` is the vector ``x_j w_j`` with a learned ``w_j`` (Song et al., CIKM 2019).

    Raises:
        ValueError: the widths differ.
    """

    def __init__(
        self, outputs: Outputs, num_dense: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.keys, self.dim = outputs.keys, one_width(outputs.widths, outputs.model)
        self.num_dense = check_num_dense(num_dense)
        self.num_fields = num_dense + len(self.keys)
        self.width = self.num_fields * self.dim
        self.dense_vectors = _dense_vectors(num_dense, self.dim, device)

    def forward(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        vectors = stack_by_key(pooled, self.keys, self.dim)
        dense = check_dense(dense, self.num_dense)
        if self.dense_vectors is None:
            return vectors
        return torch.cat((dense.unsqueeze(2) * self.dense_vectors, vectors), dim=1)


class SideBySideFields(nn.Module):
    """Vectors of any widths, dense columns first: ``(B, n D + sum of d_f)``, D the widest.

    Dense column ``j`` is the vector ``x_j w_j`` with a learned ``w_j`` of width D. ``widths`` has
    the width of each. With one width these are the numbers of :class:`StackedFields`.
    """

    def __init__(
        self, outputs: Outputs, num_dense: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.keys, dim = outputs.keys, outputs.widest
        self.num_dense = check_num_dense(num_dense)
        self.widths = [*([dim] * num_dense), *outputs.widths.values()]
        self.width = sum(self.widths)
        self.dense_vectors = _dense_vectors(num_dense, dim, device)

    def forward(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        vectors = flat_by_key(pooled, self.keys)
        dense = check_dense(dense, self.num_dense)
        if self.dense_vectors is None:
            return vectors
        return torch.cat(((dense.unsqueeze(2) * self.dense_vectors).flatten(1), vectors), dim=1)


def _dense_vectors(
    num_dense: int, dim: int, device: torch.device | str | None
) -> nn.Parameter | None:
    if not num_dense:
        return None
    vectors = nn.Parameter(torch.empty(num_dense, dim, device=device))
    nn.init.normal_(vectors, std=0.01)
    return vectors


class FlatFields(nn.Module):
    """Dense values as they are, then every vector with its own width: ``(B, n + sum of d_f)``."""

    def __init__(self, outputs: Outputs, num_dense: int) -> None:
        super().__init__()
        self.keys = outputs.keys
        self.num_dense = check_num_dense(num_dense)
        self.widths = [*([1] * num_dense), *outputs.widths.values()]
        self.width = sum(self.widths)

    def forward(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        vectors = flat_by_key(pooled, self.keys)
        dense = check_dense(dense, self.num_dense)
        return torch.cat((dense, vectors), dim=1) if self.num_dense else vectors


class LinearTerm(nn.Module):
    """First-order logits: ``b + sum_f w_f[ids of f] + sum_j v_j dense_j``, ``(B,)``.

    The weights of a bag are pooled like its vectors.

    Args:
        keys: outputs of width 1 that hold the weights.
        num_dense: columns of the dense input, with a weight ``v_j`` each, 0 at the start.
        bias: whether there is ``b``, 0 at the start.
    """

    def __init__(
        self,
        keys: Sequence[str],
        num_dense: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.keys = tuple(keys)
        self.num_dense = check_num_dense(num_dense)
        self.bias = nn.Parameter(torch.zeros(1, device=device)) if bias else None
        self.dense_weights = (
            nn.Parameter(torch.zeros(num_dense, device=device)) if num_dense else None
        )

    def forward(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        logits = self.by_field(dense, pooled).sum(dim=1)
        return logits if self.bias is None else logits + self.bias

    def by_field(self, dense: Tensor, pooled: KeyedTensor) -> Tensor:
        """What each field adds to the logit: ``(B, n + F)``, dense columns first."""
        weights = flat_by_key(pooled, self.keys)
        dense = check_dense(dense, self.num_dense)
        if self.dense_weights is None:
            return weights
        return torch.cat((dense * self.dense_weights, weights), dim=1)

    def extend(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The batch with the ids of ``C1`` under the key ``C1_linear`` too, and so on."""
        return with_linear_keys(features, self.keys)


def check_num_dense(num_dense: int) -> int:
    """``num_dense``; raise where it is negative."""
    if num_dense < 0:
        raise ValueError(f"num_dense must be 0 or more, got {num_dense}")
    return num_dense


@torch.fx.wrap
def check_dense(dense: Tensor, num_dense: int) -> Tensor:
    """``dense``; raise ``ValueError`` where it is not ``(B, num_dense)``."""
    if dense.dim() != 2 or dense.shape[1] != num_dense:
        raise ValueError(
            f"dense has shape {tuple(dense.shape)}, and the model was built with num_dense = "
            f"{num_dense}; give it a tensor of (examples, {num_dense})"
        )
    return dense


@torch.fx.wrap
def flat_by_key(pooled: KeyedTensor, keys: tuple[str, ...]) -> Tensor:
    """The vectors of ``keys`` side by side, found by key and never by position."""
    if tuple(pooled.keys()) == keys:
        return pooled.values()
    by_key = pooled.to_dict()
    return torch.cat([by_key[key] for key in keys], dim=1)


@torch.fx.wrap
def with_linear_keys(features: KeyedJaggedTensor, keys: tuple[str, ...]) -> KeyedJaggedTensor:
    """Add each key that is missing, with the ids and weights of the key that it is made from."""
    present = list(features.keys())
    place = {key: i for i, key in enumerate(present)}
    added = [k for k in keys if k not in place and source_key(k) in place]
    if not added:
        return features
    sources = [place[source_key(key)] for key in added]
    both = features.permute([*range(len(present)), *sources])
    return KeyedJaggedTensor(
        keys=[*present, *added],
        values=both.values(),
        lengths=both.lengths(),
        weights=both.weights_or_none(),
        stride=features.stride(),
    )
