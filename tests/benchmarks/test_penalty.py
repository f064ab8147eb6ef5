"""The penalty on what is looked up, against its formula."""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from compactrec.benchmarks.penalty import EmbeddingPenalty


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).view(3, 4) - 5)

    def forward(self, rows: Tensor) -> KeyedTensor:
        return KeyedTensor(keys=["a"], length_per_key=[4], values=self.weight[rows])


def test_penalty_is_half_the_mean_squared_norm_times_its_strength() -> None:
    module = Vectors()
    penalty = EmbeddingPenalty(module, 0.3)
    rows = torch.tensor([0, 2, 2])
    module(rows)
    found = penalty.take()
    expected = 0.3 * sum(module.weight[r].square().sum() for r in rows) / 2 / 3
    torch.testing.assert_close(found, expected)
    assert isinstance(found, Tensor)
    found.backward()
    assert module.weight.grad is not None
    torch.testing.assert_close(module.weight.grad[1], torch.zeros(4))
    torch.testing.assert_close(module.weight.grad[2], 0.3 * 2 / 3 * module.weight[2].detach())


def test_nothing_is_added_without_strength_without_gradients_or_twice() -> None:
    module = Vectors()
    off = EmbeddingPenalty(module, 0.0)
    module(torch.tensor([0]))
    assert off.take() == 0.0
    on = EmbeddingPenalty(module, 1.0)
    with torch.no_grad():
        module(torch.tensor([0]))
    assert on.take() == 0.0
    module(torch.tensor([0]))
    assert on.take() != 0.0
    assert on.take() == 0.0
