"""DCN: crosses of rank one beside a perceptron.

Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017, arXiv 1708.05123.
``x_{l+1} = x0 (w_l . x_l) + b_l + x_l``; ``logit = w . [x_L; MLP(x0)] + b``. torchrec's
``VectorCrossNet`` is the cross part. Widths may differ.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.crosses import crosses
from compactrec.models.inputs import FlatFields, Outputs
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, affine, tower

__all__ = ["DCN", "DCNConfig"]


class DCNConfig(TowerConfig):
    """Hyper-parameters; without hidden layers the cross part stands alone."""

    cross_layers: int = Field(default=3, ge=1)
    """How many crosses; the degree of the polynomial is one more."""


class DCN(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: DCNConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or DCNConfig()
        self.embeddings = embeddings
        self.fields = FlatFields(Outputs(embeddings, "dcn"), num_dense)
        width = self.fields.width
        self.cross = crosses("vector", width, config.cross_layers, device=device)
        self.deep: nn.Module | None = None
        if config.hidden:
            self.deep = tower(
                width, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm,
                device=device,
            )  # fmt: skip
            width += config.hidden[-1]
        self.top = affine(width, 1, device=device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        x0 = self.fields(dense, self.embeddings(features))
        crossed: Tensor = self.cross(x0)
        if self.deep is not None:
            crossed = torch.cat((crossed, self.deep(x0)), dim=1)
        logits: Tensor = self.top(crossed)
        return logits.squeeze(1)


register_model(
    Model(
        name="dcn",
        config=DCNConfig,
        module=DCN,
        title="Deep & Cross Network",
        paper="Wang et al., ADKDD 2017, arXiv 1708.05123",
        formula="w . [x_L; MLP(x0)] + b,  x_{l+1} = x0 (w_l . x_l) + b_l + x_l",
        training=SMALL_START,
    )
)
