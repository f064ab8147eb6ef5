"""The exact router of a search over gates: its tables, its gate network, its centroids."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from compactrec.embeddings.feature import Feature
from compactrec.embeddings.routers import ExampleBags, FeatureBags, GateRouterConfig
from compactrec.embeddings.search.gates import GateNetwork
from compactrec.embeddings.search.kmeans import nearest

__all__ = ["GateRouter", "cluster_points"]


def cluster_points(network: GateNetwork, vectors: Tensor, compared: str) -> Tensor:
    """What is clustered: ``(B, S * D)`` gates of 0 and 1, or vectors times their gates."""
    gates = network.deterministic(vectors).to(torch.float32)
    if compared == "gates":
        return gates.flatten(1)
    return (gates * vectors.index_select(1, network.searched)).flatten(1)


class GateRouter(nn.Module):
    """``argmin_k |points(x) - m_k|^2`` by the tables that the gates were trained on; frozen.

    Args:
        config: names and shapes.
        features: all of the plan, in order; those that are not ``beside`` have one width.
        arrays: by the names of ``config.shapes``.
    """

    table: Tensor
    starts: Tensor
    centroids: Tensor

    def __init__(
        self, config: GateRouterConfig, features: Sequence[Feature], arrays: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        features = config.read(features)
        self._features = tuple(features)
        self._compared = config.compared
        names = [feature.name for feature in features]
        tables = [arrays[f"table.{name}"] for name in names]
        sizes = torch.tensor([len(table) for table in tables])
        self.register_buffer("table", torch.cat(tables))
        self.register_buffer("starts", sizes.cumsum(0) - sizes)
        self.register_buffer("centroids", arrays["centroids"].clone())
        self.network = GateNetwork(
            len(names),
            features[0].dim,
            [names.index(name) for name in config.searched],
            granularity=config.granularity,
            kind=config.network,
            hidden_dim=config.hidden_dim,
        )
        gate = {k.removeprefix("gate."): v for k, v in arrays.items() if k.startswith("gate.")}
        self.network.load_state_dict(gate)
        self.network.requires_grad_(False)

    @torch.no_grad()
    def forward(self, bags: ExampleBags) -> Tensor:
        """Clusters ``(B,)``, int64."""
        vectors = [self._pooled(i, bags[f.name]) for i, f in enumerate(self._features)]
        points = cluster_points(self.network, torch.stack(vectors, 1), self._compared)
        return nearest(points, self.centroids)

    def _pooled(self, index: int, bag: FeatureBags) -> Tensor:
        """``(B, D)``: as the collection pools a bag of this feature."""
        lengths = bag.lengths.to(torch.int64)
        pooled = nn.functional.embedding_bag(
            bag.values + self.starts[index],
            self.table,
            lengths.cumsum(0) - lengths,
            mode="sum",
            per_sample_weights=bag.weights,
        )
        if self._features[index].pooling == "mean":
            pooled = pooled / lengths.clamp(min=1)[:, None]
        return pooled
