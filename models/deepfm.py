"""DeepFM: a factorization machine beside a perceptron on the same vectors.

Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017,
arXiv 1703.04247. ``logit = FM + MLP(x0)``. Dense column ``j`` is a field with the vector ``x_j
w_j``.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.blocks import pairwise_sum
from compactrec.models.inputs import LinearConfig, LinearTerm, Outputs, StackedFields
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, tower

__all__ = ["DeepFM", "DeepFMConfig"]


class DeepFMConfig(LinearConfig, TowerConfig):
    """A tower's hyper-parameters."""


class DeepFM(nn.Module):
    """Logits ``(B,)``; the vectors need one width."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: DeepFMConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or DeepFMConfig()
        outputs = Outputs(embeddings, "deepfm", linear=True)
        self.embeddings = embeddings
        self.linear = LinearTerm(outputs.linear, num_dense, device=device)
        self.fields = StackedFields(outputs, num_dense, device)
        self.deep = tower(
            self.fields.width, config.hidden, 1, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        pooled = self.embeddings(self.linear.extend(features))
        vectors = self.fields(dense, pooled)
        first: Tensor = self.linear(dense, pooled)
        return first + pairwise_sum(vectors) + self.deep(vectors.flatten(1)).squeeze(1)


register_model(
    Model(
        name="deepfm",
        config=DeepFMConfig,
        module=DeepFM,
        title="DeepFM",
        paper="Guo et al., IJCAI 2017, arXiv 1703.04247",
        formula="FM + MLP(x0)",
        training=SMALL_START,
    )
)
