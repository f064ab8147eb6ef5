"""IPNN: a perceptron over the vectors and their dot products.

Qu et al., "Product-based Neural Networks for User Response Prediction", ICDM 2016. ``logit =
MLP([x0; <v_i, v_j> for i < j])``, ``x0`` the vectors side by side. The pairs are in row-major
order of the upper triangle. Dense column ``j`` is a field with the vector ``x_j w_j``.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.blocks import DotInteraction
from compactrec.models.inputs import Outputs, StackedFields
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, tower

__all__ = ["IPNN", "IPNNConfig"]


class IPNNConfig(TowerConfig):
    """A tower's hyper-parameters."""


class IPNN(nn.Module):
    """Logits ``(B,)``; the vectors need one width."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: IPNNConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or IPNNConfig()
        self.embeddings = embeddings
        self.fields = StackedFields(Outputs(embeddings, "ipnn"), num_dense, device)
        self.dots = DotInteraction(self.fields.num_fields)
        self.deep = tower(
            self.fields.width + self.dots.num_pairs, config.hidden, 1, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        vectors = self.fields(dense, self.embeddings(features))
        inputs = torch.cat((vectors.flatten(1), self.dots(vectors)), dim=1)
        logits: Tensor = self.deep(inputs)
        return logits.squeeze(1)


register_model(
    Model(
        name="ipnn",
        config=IPNNConfig,
        module=IPNN,
        title="Inner-product neural network",
        paper="Qu et al., ICDM 2016, arXiv 1611.00144",
        formula="MLP([x0; <v_i, v_j>])",
        training=SMALL_START,
    )
)
