"""Mini-batch k-means: planted clusters, the same for a seed, fewer points than clusters."""

import pytest
import torch

from compactrec.embeddings.search.kmeans import kmeans, nearest


def planted(count: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    """Four patterns of bits, one bit in twenty flipped."""
    generator = torch.Generator().manual_seed(5)
    patterns = torch.rand(4, 24, generator=generator) > 0.5
    owner = torch.randint(4, (count,), generator=generator)
    flips = torch.rand(count, 24, generator=generator) < 0.05
    return patterns[owner] ^ flips, owner


def test_planted_clusters_are_found() -> None:
    points, owner = planted()
    centroids = kmeans(points, 4, seed=1, batch_size=512)
    found = nearest(points, centroids)
    table = torch.zeros(4, 4).index_put_((owner, found), torch.ones(len(owner)), accumulate=True)
    assert float(table.amax(1).sum()) / len(owner) > 0.99
    assert sorted(table.argmax(1).tolist()) == [0, 1, 2, 3]
    assert torch.equal(kmeans(points, 4, seed=1, batch_size=512), centroids)
    for k in range(4):
        mean = points[found == k].float().mean(0)
        torch.testing.assert_close(centroids[k], mean, rtol=0, atol=0.05)


def test_nearest_is_the_smallest_distance() -> None:
    torch.manual_seed(0)
    points, centroids = torch.randn(50, 7), torch.randn(5, 7)
    slow = [int(((p - centroids) ** 2).sum(1).argmin()) for p in points]
    assert nearest(points, centroids).tolist() == slow
    assert nearest(torch.zeros(1, 7), torch.ones(3, 7)).tolist() == [0]


def test_no_more_clusters_than_different_points() -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).repeat(10, 1)
    assert len(kmeans(points, 5)) == 2
    assert len(kmeans(points[:1], 3)) == 1
    torch.testing.assert_close(
        kmeans(points, 1, num_steps=400), torch.tensor([[0.5, 1.0]]), rtol=0, atol=0.02
    )


def test_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0 points and 3 clusters"):
        kmeans(torch.zeros(0, 4), 3)
    with pytest.raises(ValueError, match="got 2 points and 0 clusters"):
        kmeans(torch.zeros(2, 4), 0)
