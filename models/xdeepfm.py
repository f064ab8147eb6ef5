"""xDeepFM: first-order weights, a compressed interaction network and a perceptron.

Lian et al., "xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender
Systems", KDD 2018, arXiv 1803.05170. ``logit = LR + CIN + MLP(x0)``. Dense column ``j`` is a
field with the vector ``x_j w_j``.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.cin import CompressedInteraction
from compactrec.models.inputs import LinearConfig, LinearTerm, Outputs, StackedFields
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, Widths, tower

__all__ = ["XDeepFM", "XDeepFMConfig"]


class XDeepFMConfig(LinearConfig, TowerConfig):
    """Hyper-parameters."""

    cin: Widths = Field(default=(64, 64, 64), min_length=1)
    """Feature maps of each layer of the interaction network."""
    cin_activation: Literal["identity", "relu"] = "identity"
    split_half: bool = False
    """Half of the feature maps of a layer go to the sum, the other half to the next layer."""


class XDeepFM(nn.Module):
    """Logits ``(B,)``; the vectors need one width."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: XDeepFMConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or XDeepFMConfig()
        outputs = Outputs(embeddings, "xdeepfm", linear=True)
        self.embeddings = embeddings
        self.linear = LinearTerm(outputs.linear, num_dense, device=device)
        self.fields = StackedFields(outputs, num_dense, device)
        self.cin = CompressedInteraction(
            self.fields.num_fields, config.cin, relu=config.cin_activation == "relu",
            split_half=config.split_half, device=device,
        )  # fmt: skip
        self.deep = tower(
            self.fields.width, config.hidden, 1, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        pooled = self.embeddings(self.linear.extend(features))
        vectors = self.fields(dense, pooled)
        first: Tensor = self.linear(dense, pooled)
        return first + self.cin(vectors) + self.deep(vectors.flatten(1)).squeeze(1)


register_model(
    Model(
        name="xdeepfm",
        config=XDeepFMConfig,
        module=XDeepFM,
        title="xDeepFM",
        paper="Lian et al., KDD 2018, arXiv 1803.05170",
        formula="LR + CIN(V) + MLP(x0)",
        training=SMALL_START,
    )
)
