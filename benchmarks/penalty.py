"""L2 regularisation of what is looked up, the same for every method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

__all__ = ["EmbeddingPenalty"]


class EmbeddingPenalty:
    """``strength / 2 * mean over examples of the squared norm of all their vectors``.

    Args:
        embeddings: the collection whose outputs are penalised, or several that share a batch's
            examples; their forward passes are listened to.
        strength: 0 turns it off.
    """

    def __init__(self, embeddings: nn.Module | Sequence[nn.Module], strength: float) -> None:
        self._strength = strength
        self._vectors: list[Tensor] = []
        if strength:
            modules = [embeddings] if isinstance(embeddings, nn.Module) else embeddings
            for module in modules:
                module.register_forward_hook(self._keep)

    def take(self) -> Tensor | float:
        """The penalty of the forward pass just made."""
        every, self._vectors = self._vectors, []
        if not every:
            return 0.0
        total = torch.stack([vectors.square().sum() for vectors in every]).sum()
        return self._strength / 2 * total / sum(vectors.shape[0] for vectors in every)

    def _keep(self, module: nn.Module, args: object, output: KeyedTensor) -> None:
        if torch.is_grad_enabled():
            self._vectors.append(output.values())
