"""LR: logistic regression, one weight per id. ``logit = b + sum_f w_f[x_f] + sum_j v_j dense_j``.

Bags pool their weights. Parameters: the sum of all ids, the dense columns, and 1.
"""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.feature import Feature
from compactrec.models.inputs import LinearTerm, Outputs
from compactrec.models.registry import SMALL_START, Model, ModelConfig, register_model

__all__ = ["LR", "LRConfig"]


class LRConfig(ModelConfig):
    """No hyper-parameters; every feature is read with width 1."""

    def features(self, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        return tuple(feature.model_copy(update={"dim": 1}) for feature in features)


class LR(nn.Module):
    """Logits ``(B,)`` from embeddings of width 1, which are the weights."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: LRConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        outputs = Outputs(embeddings, "lr")
        wide = [key for key, width in outputs.widths.items() if width != 1]
        if wide:
            raise ValueError(f"lr needs weights, that is width 1, for {wide}; make their dim 1")
        self.embeddings = embeddings
        self.linear = LinearTerm(outputs.keys, num_dense, device=device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        logits: Tensor = self.linear(dense, self.embeddings(features))
        return logits


register_model(
    Model(
        name="lr",
        config=LRConfig,
        module=LR,
        title="Logistic regression",
        paper="-",
        formula="b + sum_f w_f[x_f]",
        training=SMALL_START,
    )
)
