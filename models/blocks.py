"""The parts a click model is made of: perceptrons, pairwise dots, and lookups addressed by key.

Shapes: B batch, F embedded features, D their common width, N vectors that interact.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import get_embedding_names_by_table
from torchrec.modules.mlp import MLP
from torchrec.sparse.jagged_tensor import KeyedTensor

from compactrec.models.towers import BatchNorm

__all__ = [
    "DotInteraction",
    "common_dim",
    "lower_triangle_order",
    "one_width",
    "pairwise_sum",
    "perceptron",
    "stack_by_key",
]


class DotInteraction(nn.Module):
    """All pairwise dot products of N vectors: ``(B, N, D) -> (B, N (N - 1) / 2)``.

    The pairs are in row-major order of the upper triangle, (0,1), (0,2), ..., (1,2), ..., as in
    torchrec's ``InteractionArch``; the DLRM reference has the lower triangle, see
    :func:`lower_triangle_order`. The numbers equal ``InteractionArch``'s; this block also has the
    diagonal, and picks the pairs with one ``index_select``, which is faster on CPU than indexing
    by two tensors.

    Args:
        num_vectors: N.
        itself: keep each vector's product with itself too, giving ``N (N + 1) / 2`` numbers.
    """

    def __init__(self, num_vectors: int, itself: bool = False) -> None:
        super().__init__()
        self.num_vectors = num_vectors
        self.itself = itself

    @property
    def num_pairs(self) -> int:
        """How many numbers come out for each example."""
        return self.num_vectors * (self.num_vectors + (1 if self.itself else -1)) // 2

    def forward(self, vectors: Tensor) -> Tensor:
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        return products.index_select(1, _pair_index(vectors, self.itself))


@torch.fx.wrap
def _pair_index(vectors: Tensor, itself: bool) -> Tensor:
    # Made anew each time (some microseconds), so there is no buffer to lose on `meta`.
    n = vectors.shape[1]
    rows, columns = torch.triu_indices(n, n, 0 if itself else 1, device=vectors.device)
    return rows * n + columns


def lower_triangle_order(num_vectors: int, itself: bool = False) -> Tensor:
    """Where each pair of the DLRM reference's order stands in ours: int64 ``(num_pairs,)``.

    The reference lists the lower triangle by rows, (1,0), (2,0), (2,1), ... So
    ``reference_pairs = our_pairs[:, order]``, and a first top layer of the reference becomes ours
    by ``ours[:, D + order] = reference[:, D:]`` (the first D columns, the bottom vector, stay).
    """
    n, diagonal = num_vectors, 0 if itself else 1
    position = torch.zeros((n, n), dtype=torch.int64)
    rows, columns = torch.triu_indices(n, n, diagonal)
    position[columns, rows] = torch.arange(rows.numel())
    low_rows, low_columns = torch.tril_indices(n, n, -diagonal)
    return position[low_rows, low_columns]


def perceptron(
    num_inputs: int,
    sizes: Sequence[int],
    *,
    relu_at_end: bool,
    dropout: float = 0.0,
    batch_norm: bool = False,
    device: torch.device | str | None = None,
) -> MLP:
    """Linear layers with ReLU between them, as torchrec's ``MLP``, started as DLRM's are.

    Weights ~ N(0, 2 / (fan_in + fan_out)), biases ~ N(0, 1 / fan_out); both are variances. All
    layers but the last have batch norm before ReLU and dropout after it, if asked for.
    """
    where = torch.device(device) if device is not None else None
    places = iter(enumerate(sizes, start=1))

    def activation() -> nn.Module:  # called once for each layer that has one, in order
        place, size = next(places)
        norm = [BatchNorm(size, device=where)] if batch_norm and place < len(sizes) else []
        drop = [nn.Dropout(dropout)] if dropout and place < len(sizes) else []
        return nn.Sequential(*norm, nn.ReLU(), *drop)

    layers = MLP(
        num_inputs, list(sizes), activation=activation if dropout or batch_norm else "relu",
        activation_on_last=relu_at_end, device=where,
    )  # fmt: skip
    with torch.no_grad():
        for layer in layers.modules():
            if isinstance(layer, nn.Linear):
                fan_in, fan_out = layer.in_features, layer.out_features
                layer.weight.normal_(0.0, math.sqrt(2.0 / (fan_in + fan_out)))
                layer.bias.normal_(0.0, math.sqrt(1.0 / fan_out))
    return layers


def common_dim(configs: Sequence[EmbeddingBagConfig], model: str) -> tuple[tuple[str, ...], int]:
    """The output keys of an embedding collection, in declared order, and their one width D.

    Raises:
        ValueError: there are no outputs, or their widths differ (the text names who has which).
    """
    tables = list(configs)
    names = get_embedding_names_by_table(tables)
    widths = {
        key: config.embedding_dim
        for config, keys in zip(tables, names, strict=True)
        for key in keys
    }
    return tuple(widths), one_width(widths, model)


def one_width(widths: Mapping[str, int], model: str) -> int:
    """The one width of all outputs; ``ValueError`` where there is none, or several."""
    by_dim: dict[int, list[str]] = defaultdict(list)
    for key, dim in widths.items():
        by_dim[dim].append(key)
    if not by_dim:
        raise ValueError(f"{model} was given no embedded feature; at least one is needed")
    if len(by_dim) > 1:
        found = "; ".join(f"{dim} for {', '.join(keys)}" for dim, keys in by_dim.items())
        raise ValueError(
            f"{model} needs one width for all embedded features, got {found}; "
            "give every Feature the same dim (a method may still store narrower rows)"
        )
    return next(iter(by_dim))


def pairwise_sum(vectors: Tensor) -> Tensor:
    """The sum of all pairwise dot products, ``(B, N, D) -> (B,)``, in time linear in N."""
    total = vectors.sum(dim=1)
    return 0.5 * (total.square() - vectors.square().sum(dim=1)).sum(dim=1)


@torch.fx.wrap
def stack_by_key(pooled: KeyedTensor, keys: tuple[str, ...], dim: int) -> Tensor:
    """The vectors of ``keys``, found by key and never by position: ``(B, F, D)``.

    The key order of a sharded collection follows its sharding plan; where it is already ours,
    nothing is copied.
    """
    values = pooled.values()
    if tuple(pooled.keys()) != keys:
        by_key = pooled.to_dict()
        values = torch.cat([by_key[key] for key in keys], dim=1)
    return values.view(-1, len(keys), dim)
