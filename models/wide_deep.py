"""Wide & Deep: first-order weights beside a perceptron. ``logit = LR + MLP([dense; v_1; ...])``.

Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016, arXiv 1606.07792. The
paper's wide part has crosses made by hand and an optimizer of its own; here it has the ids as
they are. Widths may differ.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.inputs import FlatFields, LinearConfig, LinearTerm, Outputs
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, tower

__all__ = ["WideDeep", "WideDeepConfig"]


class WideDeepConfig(LinearConfig, TowerConfig):
    """A tower's hyper-parameters."""


class WideDeep(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: WideDeepConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or WideDeepConfig()
        outputs = Outputs(embeddings, "wide_deep", linear=True)
        self.embeddings = embeddings
        self.linear = LinearTerm(outputs.linear, num_dense, device=device)
        self.fields = FlatFields(outputs, num_dense)
        self.deep = tower(
            self.fields.width, config.hidden, 1, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        pooled = self.embeddings(self.linear.extend(features))
        wide: Tensor = self.linear(dense, pooled)
        return wide + self.deep(self.fields(dense, pooled)).squeeze(1)


register_model(
    Model(
        name="wide_deep",
        config=WideDeepConfig,
        module=WideDeep,
        title="Wide & Deep",
        paper="Cheng et al., DLRS 2016, arXiv 1606.07792",
        formula="LR + MLP(x0)",
        training=SMALL_START,
    )
)
