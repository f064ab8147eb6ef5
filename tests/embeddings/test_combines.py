"""Combines on their own."""

import torch

from compactrec.embeddings.combines import project_many


def test_project_many_is_a_product_with_every_matrix_differentiable_twice() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([vectors[:, i] @ weights[i] for i in range(3)], dim=1)
    torch.testing.assert_close(project_many(vectors, weights), expected)
    assert torch.autograd.gradcheck(project_many, (vectors, weights))
    assert torch.autograd.gradgradcheck(project_many, (vectors, weights))
