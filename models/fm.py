"""FM: first-order weights and all pairwise dot products of the vectors.

Rendle, "Factorization Machines", ICDM 2010. ``logit = LR + sum_{i<j} <v_i, v_j>``, the sum over the
pairs by ``((sum v)^2 - sum v^2) / 2``. Dense column ``j`` is a field with the vector ``x_j w_j``.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.blocks import pairwise_sum
from compactrec.models.inputs import LinearConfig, LinearTerm, Outputs, StackedFields
from compactrec.models.registry import SMALL_START, Model, register_model

__all__ = ["FM", "FMConfig"]


class FMConfig(LinearConfig):
    """No hyper-parameters."""


class FM(nn.Module):
    """Logits ``(B,)``; the vectors need one width."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: FMConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        outputs = Outputs(embeddings, "fm", linear=True)
        self.embeddings = embeddings
        self.linear = LinearTerm(outputs.linear, num_dense, device=device)
        self.fields = StackedFields(outputs, num_dense, device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        pooled = self.embeddings(self.linear.extend(features))
        first: Tensor = self.linear(dense, pooled)
        return first + pairwise_sum(self.fields(dense, pooled))


register_model(
    Model(
        name="fm",
        config=FMConfig,
        module=FM,
        title="Factorization machine",
        paper="Rendle, ICDM 2010",
        formula="LR + sum_{i<j} <v_i, v_j>",
        training=SMALL_START,
    )
)
