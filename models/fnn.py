"""FNN: a perceptron over the vectors. ``logit = MLP([dense; v_1; ...; v_F])``.

Zhang et al., "Deep Learning over Multi-field Categorical Data", ECIR 2016. The paper starts the
vectors from a trained FM; here they start as any others. Widths may differ.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.inputs import FlatFields, Outputs
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, tower

__all__ = ["FNN", "FNNConfig"]


class FNNConfig(TowerConfig):
    """A tower's hyper-parameters."""


class FNN(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: FNNConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or FNNConfig()
        self.embeddings = embeddings
        self.fields = FlatFields(Outputs(embeddings, "fnn"), num_dense)
        self.deep = tower(
            self.fields.width, config.hidden, 1, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        logits: Tensor = self.deep(self.fields(dense, self.embeddings(features)))
        return logits.squeeze(1)


register_model(
    Model(
        name="fnn",
        config=FNNConfig,
        module=FNN,
        title="Deep neural network over embeddings (FNN)",
        paper="Zhang et al., ECIR 2016, arXiv 1601.02376",
        formula="MLP(x0)",
        training=SMALL_START,
    )
)
