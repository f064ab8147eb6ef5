"""L2 regularisation of what is looked up, the same for every method."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

__all__ = ["EmbeddingPenalty"]


class EmbeddingPenalty:
    """``strength / 2 * mean over examples of the squared norm of all their vectors``.

    Args:
        embeddings: the collection whose outputs are penalised; its forward pass is listened to.
        strength: 0 turns it off.
    """

    def __init__(self, embeddings: nn.Module, strength: float) -> None:
        self._strength = strength
        self._vectors: Tensor | None = None
        if strength:
            embeddings.register_forward_hook(self._keep)

    def take(self) -> Tensor | float:
        """The penalty of the forward pass just made."""
        vectors, self._vectors = self._vectors, None
        if vectors is None:
            return 0.0
        return self._strength / 2 * vectors.square().sum() / vectors.shape[0]

    def _keep(self, module: nn.Module, args: object, output: KeyedTensor) -> None:
        if torch.is_grad_enabled():
            self._vectors = output.values()
