"""FiBiNET: bilinear products of all pairs, of the vectors and of the vectors weighted by field.

Huang, Zhang, Zhang, "FiBiNET: Combining Feature Importance and Bilinear feature Interaction",
RecSys 2019, arXiv 1905.09433. ``logit = LR + MLP([bi(V); bi(SE(V))])`` with

* ``SE(V)_f = A_f v_f``, ``A = relu(W_2 relu(W_1 z))``, ``z_f`` the mean of ``v_f``;
* ``bi(V)_{ij} = (v_i W) * v_j`` for i < j, with W for all, for each i, or for each pair.

The perceptron reads ``N (N - 1) D`` numbers. LR has no constant here, as the perceptron has one.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.bilinear import BilinearPairs, SqueezeExcitation
from compactrec.models.inputs import LinearConfig, LinearTerm, Outputs, StackedFields
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, tower

__all__ = ["FiBiNET", "FiBiNETConfig"]


class FiBiNETConfig(LinearConfig, TowerConfig):
    """Hyper-parameters."""

    bilinear: Literal["all", "each", "interaction"] = "interaction"
    """One matrix W for all pairs, one for each left field, or one for each pair."""
    share_bilinear: bool = False
    """The weighted vectors go through the matrices of the plain ones."""
    reduction: int = Field(default=3, ge=1)
    """The squeeze layer is that many times narrower than the number of fields."""


class FiBiNET(nn.Module):
    """Logits ``(B,)``; the vectors need one width, and there must be two fields or more."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: FiBiNETConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or FiBiNETConfig()
        outputs = Outputs(embeddings, "fibinet", linear=True)
        self.embeddings = embeddings
        self.linear = LinearTerm(outputs.linear, num_dense, bias=False, device=device)
        self.fields = StackedFields(outputs, num_dense, device)
        num_fields, dim = self.fields.num_fields, self.fields.dim
        self.excitation = SqueezeExcitation(num_fields, config.reduction, device)
        self.pairs = BilinearPairs(num_fields, dim, config.bilinear, device)
        self.weighted_pairs = (
            self.pairs
            if config.share_bilinear
            else BilinearPairs(num_fields, dim, config.bilinear, device)
        )
        self.deep = tower(
            num_fields * (num_fields - 1) * dim, config.hidden, 1, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        pooled = self.embeddings(self.linear.extend(features))
        vectors = self.fields(dense, pooled)
        pairs = self.pairs(vectors), self.weighted_pairs(self.excitation(vectors))
        first: Tensor = self.linear(dense, pooled)
        return first + self.deep(torch.cat(pairs, dim=1).flatten(1)).squeeze(1)


register_model(
    Model(
        name="fibinet",
        config=FiBiNETConfig,
        module=FiBiNET,
        title="FiBiNET",
        paper="Huang et al., RecSys 2019, arXiv 1905.09433",
        formula="LR + MLP([bi(V); bi(SE(V))])",
        training=SMALL_START,
    )
)
