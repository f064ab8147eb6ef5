"""Routers: which of K models an example goes to. Part of a :class:`~.routed.RoutedPlan`, frozen.

*Linear*: ``c(x) = argmax_k b_k + sum_f mean_{i in bag f} W[h_f(i), k]`` with ``h_f(i)`` a salted
hash of the id into ``num_buckets``; ``W (num_buckets, K)``. An empty bag adds nothing; weights of
ids have no part. Cost: ``4 K (num_buckets + 1) + 8 S`` bytes for S features.

*Gates*: the tables, the gate network and the centroids of the search itself, so that an example
goes where the search put it: ``argmin_k |z*(X(x)) - m_k|^2``. Exact, and as large as the full
tables: ``4 D sum n_f`` bytes, the network, and ``4 K S D``.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from compactrec.embeddings.config import first_error
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.hashing import name_salt, salted_hash

__all__ = [
    "ExampleBags",
    "FeatureBags",
    "GateRouterConfig",
    "LinearRouter",
    "LinearRouterConfig",
    "RouterConfig",
    "RoutingBytes",
    "build_router",
    "router_from_dict",
]


class FeatureBags(NamedTuple):
    """The bags of one feature: ids one after the other, how many of each example, weights."""

    values: Tensor
    lengths: Tensor
    weights: Tensor | None = None


ExampleBags = Mapping[str, FeatureBags]
"""The bags of every feature, by name."""


class RoutingBytes(NamedTuple):
    """Bytes of what routes examples, by kind, as a size report has them."""

    table: int = 0
    aux: int = 0
    dense: int = 0


class _Router(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    num_clusters: int = Field(ge=1)
    """K"""
    searched: tuple[str, ...] = Field(min_length=1)
    """The S features that the router looks at (``gates``: whose gates are compared)."""
    beside: tuple[str, ...] = ()
    """First-order weights in the plan: a router reads none."""

    def read(self, features: Sequence[Feature]) -> list[Feature]:
        """Those of a plan's features that are not ``beside``."""
        return [feature for feature in features if feature.name not in self.beside]


class LinearRouterConfig(_Router):
    """A linear classifier over hashed ids."""

    kind: Literal["linear"] = "linear"
    num_buckets: int = Field(ge=1)
    """Rows of W, shared by all features."""

    def shapes(self, features: Sequence[Feature]) -> dict[str, tuple[int, ...]]:
        """Of every array that it needs."""
        return {"weight": (self.num_buckets, self.num_clusters), "bias": (self.num_clusters,)}

    def num_bytes(self, features: Sequence[Feature]) -> RoutingBytes:
        """What a server holds for it."""
        weights = self.num_clusters * (self.num_buckets + 1)
        return RoutingBytes(aux=8 * len(self.searched), dense=4 * weights)


class GateRouterConfig(_Router):
    """The gates and the centroids of a search."""

    kind: Literal["gates"] = "gates"
    granularity: Literal["element", "field", "hierarchical"] = "element"
    network: Literal["linear", "mlp"] = "linear"
    hidden_dim: int = Field(default=16, ge=1)
    compared: Literal["gates", "vectors"] = "gates"
    """What has centroids: the gates, or the vectors times their gates."""

    def shapes(self, features: Sequence[Feature]) -> dict[str, tuple[int, ...]]:
        """Of every array that it needs."""
        features = self.read(features)
        dim, searched = features[0].dim, len(self.searched)
        gates = {"element": dim, "field": 1, "hierarchical": 1 + dim}[self.granularity]
        inputs, rows = len(features) * dim, searched * gates
        shapes: dict[str, tuple[int, ...]] = {}
        if self.network == "mlp":
            shapes = {"gate.layers.0.weight": (self.hidden_dim, dim)}
            shapes["gate.layers.0.bias"] = (self.hidden_dim,)
            inputs, rows = self.hidden_dim, gates
        last = f"gate.layers.{0 if self.network == 'linear' else 2}"
        shapes |= {f"{last}.weight": (rows, inputs), f"{last}.bias": (rows,)}
        tables: dict[str, tuple[int, ...]] = {
            f"table.{f.name}": (f.num_ids or 0, f.dim) for f in features
        }
        return shapes | tables | {"centroids": (self.num_clusters, searched * dim)}

    def num_bytes(self, features: Sequence[Feature]) -> RoutingBytes:
        """What a server holds for it."""
        weights = {
            name: 4 * torch.Size(shape).numel() for name, shape in self.shapes(features).items()
        }
        table = sum(size for name, size in weights.items() if name.startswith("table."))
        integers = 8 * (len(self.read(features)) + len(self.searched))
        return RoutingBytes(table, integers, sum(weights.values()) - table)


RouterConfig = LinearRouterConfig | GateRouterConfig
_ADAPTER: TypeAdapter[RouterConfig] = TypeAdapter(
    Annotated[RouterConfig, Field(discriminator="kind")]
)


def router_from_dict(fields: Any) -> RouterConfig:
    """The config that ``model_dump`` wrote; errors name the field."""
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        raise ValueError(f"router: {first_error(error)}") from None


class LinearRouter(nn.Module):
    """``c(x)`` of a linear classifier over hashed ids; buffers only.

    Args:
        searched: names of the features it reads.
        weight: ``(num_buckets, K)``.
        bias: ``(K,)``.
    """

    weight: Tensor
    bias: Tensor
    salts: Tensor

    def __init__(self, searched: Sequence[str], weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.searched = tuple(searched)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("salts", torch.tensor([name_salt(name) for name in searched]))

    def forward(self, bags: ExampleBags) -> Tensor:
        """Clusters ``(B,)``, int64."""
        return self.scores(bags).argmax(1)

    def scores(self, bags: ExampleBags) -> Tensor:
        """``(B, K)``; the first of equal ones wins."""
        found = [bags[name] for name in self.searched]
        rows = self.hashed(found)
        lengths = torch.cat([bag.lengths for bag in found]).to(torch.int64)
        offsets = lengths.cumsum(0) - lengths
        pooled = nn.functional.embedding_bag(rows, self.weight, offsets, mode="mean")
        return pooled.view(len(found), -1, self.weight.shape[1]).sum(0) + self.bias

    def hashed(self, bags: Sequence[FeatureBags]) -> Tensor:
        """Bucket of every id, feature after feature."""
        num_buckets = self.weight.shape[0]
        return torch.cat(
            [salted_hash(b.values, self.salts[i], num_buckets) for i, b in enumerate(bags)]
        )


def build_router(
    config: RouterConfig, features: Sequence[Feature], arrays: Mapping[str, Tensor]
) -> nn.Module:
    """The module of a router: bags of every feature -> clusters ``(B,)``."""
    if isinstance(config, LinearRouterConfig):
        return LinearRouter(config.searched, arrays["weight"].clone(), arrays["bias"].clone())
    from compactrec.embeddings.search.gate_router import GateRouter

    return GateRouter(config, features, arrays)
