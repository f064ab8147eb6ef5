"""Mini-batch k-means (Sculley, WWW 2010) with k-means++ starts, the same for the same seed.

Cost: ``batch_size * K * P`` products a step for points of P coordinates, whatever the number of
points; the points are read as they are and never copied whole.
"""

import torch
from torch import Tensor

__all__ = ["kmeans", "nearest"]


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The centroid of every point: ``(N, P), (K, P) -> (N,)``; the first of equally near ones."""
    return _distances(points, centroids).argmin(1)


def kmeans(
    points: Tensor,
    num_clusters: int,
    *,
    seed: int = 0,
    batch_size: int = 4096,
    num_steps: int = 100,
    num_starts: int = 3,
) -> Tensor:
    """Centroids ``(K', P)`` float32 of ``points (N, P)``, any real or bool type; ``K' <= K``.

    The best of ``num_starts`` by squared distance over at most 16 batches of points. Fewer than
    ``num_clusters`` come back where there are fewer different points.
    """
    if num_clusters < 1 or not len(points):
        raise ValueError(
            f"k-means needs points and at least one cluster, got {len(points)} points and "
            f"{num_clusters} clusters"
        )
    generator = torch.Generator().manual_seed(seed)
    judged = _draw(points, min(len(points), 16 * batch_size), generator)
    best, best_loss = judged[:1], float("inf")
    for _ in range(num_starts if num_clusters > 1 else 1):
        found = _plus_plus(_draw(points, batch_size, generator), num_clusters, generator)
        found = _refined(points, found, batch_size, num_steps, generator)
        loss = float(_distances(judged, found).amin(1).double().mean())
        if loss < best_loss:
            best, best_loss = found, loss
    return best


def _distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances less ``|point|^2``, which no comparison of centroids needs: ``(N, K)``."""
    return centroids.square().sum(1) - 2 * points.to(centroids.dtype) @ centroids.T


def _draw(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    index = torch.randperm(len(points), generator=generator)[:count]
    return points[index].to(torch.float32)


def _plus_plus(points: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Start points, each drawn in proportion to its squared distance from those before."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    chosen = [points[first]]
    squares = (points - chosen[0]).square().sum(1)
    while len(chosen) < num_clusters and float(squares.sum()) > 0:
        at = int(torch.multinomial(squares, 1, generator=generator))
        chosen.append(points[at])
        squares = torch.minimum(squares, (points - chosen[-1]).square().sum(1))
    return torch.stack(chosen)


def _refined(
    points: Tensor,
    centroids: Tensor,
    batch_size: int,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Every centroid becomes the running mean of the points that came to it."""
    centroids = centroids.clone()
    counts = torch.zeros(len(centroids))
    for _ in range(num_steps):
        at = torch.randint(len(points), (batch_size,), generator=generator)
        batch = points[at].to(torch.float32)
        owner = nearest(batch, centroids)
        new = torch.bincount(owner, minlength=len(centroids)).to(torch.float32)
        sums = torch.zeros_like(centroids).index_add_(0, owner, batch)
        counts += new
        came = new > 0
        rate = (new / counts.clamp(min=1))[:, None]
        means = sums / new.clamp(min=1)[:, None]
        centroids = torch.where(came[:, None], centroids + rate * (means - centroids), centroids)
    return centroids
