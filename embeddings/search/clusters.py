"""Clusters of examples by their gates, and a cheap router that repeats them. No label is read.

Sample of training rows -> gates -> k-means -> clusters; then a linear classifier over hashed ids is
fitted to the clusters, and *its* clusters are the ones that count: examples are served by it.
Clusters of few rows are dropped, and their rows go where they fit second best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compactrec.embeddings.routers import ExampleBags, FeatureBags, LinearRouter
from compactrec.embeddings.search.base import Rows, Trained
from compactrec.embeddings.search.gate_router import cluster_points
from compactrec.embeddings.search.gates import GateLayer, GateNetwork
from compactrec.embeddings.search.kmeans import kmeans, nearest

__all__ = ["Clusters", "LinearFit", "bags_of_rows", "find_clusters", "fit_linear", "gate_means"]

_STEPS = 300
_RATE = 0.05


@dataclass(frozen=True)
class Clusters:
    """Where the sampled rows belong."""

    centroids: Tensor
    """``(K, P)``"""
    bags: tuple[ExampleBags, ...]
    """Batch after batch of the sample."""
    owners: tuple[Tensor, ...]
    """The cluster of every row of each batch, int64."""

    @property
    def num_clusters(self) -> int:
        """K, after small ones were dropped."""
        return len(self.centroids)


@dataclass(frozen=True)
class LinearFit:
    """A router fitted to clusters, and where it sends the sampled rows."""

    router: LinearRouter
    owners: tuple[Tensor, ...]
    kept: list[int]
    """The clusters that are left."""

    @property
    def num_clusters(self) -> int:
        """K, after small ones were dropped."""
        return len(self.router.bias)


def bags_of_rows(rows: Rows) -> dict[str, FeatureBags]:
    """The bags of some rows, as a router reads them."""
    return {name: FeatureBags(values, lengths) for name, (values, lengths) in rows.ids.items()}


def find_clusters(
    trained: Trained,
    network: GateNetwork,
    *,
    compared: str,
    num_rows: int,
    num_clusters: int,
    min_share: float,
) -> Clusters:
    """k-means on a sample of training rows; clusters below ``min_share`` of it are dropped."""
    points: list[Tensor] = []
    bags: list[ExampleBags] = []
    for rows in trained.rows("train", num_rows):
        point = cluster_points(network, rows.vectors, compared)
        points.append(point.to(torch.bool) if compared == "gates" else point)
        bags.append(bags_of_rows(rows))
    centroids = kmeans(torch.cat(points), num_clusters, seed=trained.task.seed)
    while True:
        owners = tuple(nearest(batch, centroids) for batch in points)
        kept = _large_enough(owners, len(centroids), min_share)
        if len(kept) == len(centroids):
            return Clusters(centroids, tuple(bags), owners)
        centroids = centroids[kept]


def fit_linear(
    clusters: Clusters, searched: Sequence[str], *, num_buckets: int, min_share: float
) -> LinearFit:
    """Multinomial logistic regression of the clusters on hashed ids; the same every time."""
    weight = nn.Parameter(torch.zeros(num_buckets, clusters.num_clusters))
    bias = nn.Parameter(torch.zeros(clusters.num_clusters))
    router = LinearRouter(searched, weight, bias)
    optimizer = torch.optim.Adam([weight, bias], lr=_RATE)
    for step in range(_STEPS):
        at = step % len(clusters.bags)
        scores = router.scores(clusters.bags[at])
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores, clusters.owners[at]).backward()
        optimizer.step()
    left = list(range(clusters.num_clusters))
    while True:
        router = LinearRouter(searched, weight.detach()[:, left].contiguous(), bias.detach()[left])
        owners = tuple(router(bags) for bags in clusters.bags)
        kept = _large_enough(owners, len(left), min_share)
        if len(kept) == len(left):
            return LinearFit(router, owners, left)
        left = [left[k] for k in kept]


def gate_means(
    trained: Trained, gates: GateLayer, owners: Sequence[Tensor], num_rows: int
) -> tuple[Tensor, Tensor]:
    """Means over the rows of each cluster, ``(K, S, D)`` float64 each: of the deterministic gates,
    and of their probabilities. The rows are those of the sample, read again."""
    num_clusters = int(torch.cat(list(owners)).max()) + 1
    shape = (2, num_clusters, gates.network.shape[0], trained.task.dim)
    sums = torch.zeros(shape, dtype=torch.float64)
    counts = torch.zeros(num_clusters, dtype=torch.float64)
    for rows, owner in zip(trained.rows("train", num_rows), owners, strict=True):
        sums[0].index_add_(0, owner, gates.network.deterministic(rows.vectors).double())
        sums[1].index_add_(0, owner, gates.probabilities(rows.vectors).double())
        counts += owner.bincount(minlength=num_clusters)
    means, chances = sums / counts.clamp(min=1)[:, None, None]
    return means, chances


def _large_enough(owners: Sequence[Tensor], num_clusters: int, min_share: float) -> list[int]:
    """All clusters but the smallest, if that is too small."""
    counts = torch.cat(list(owners)).bincount(minlength=num_clusters)
    smallest = int(counts.argmin())
    if num_clusters == 1 or int(counts[smallest]) >= max(1, min_share * int(counts.sum())):
        return list(range(num_clusters))
    return [k for k in range(num_clusters) if k != smallest]
