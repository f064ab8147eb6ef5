"""AutoInt: layers in which fields attend to fields; AutoInt+ adds a perceptron.

Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks",
CIKM 2019, arXiv 1810.11921. ``logit = w . flatten(layers(V)) + b``, AutoInt+ ``+ MLP(x0)``. What
is published differs from code to code, see :class:`compactrec.models.attention.Interacting` for
the flavors. Dense column ``j`` is a field with the vector ``x_j w_j``.
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings.feature import Feature
from compactrec.models.attention import Flavor, Interacting
from compactrec.models.inputs import LinearTerm, Outputs, StackedFields, with_linear_features
from compactrec.models.registry import SMALL_START, Model, register_model
from compactrec.models.towers import TowerConfig, Widths, affine, tower

__all__ = ["AutoInt", "AutoIntConfig", "AutoIntPlusConfig"]


class AutoIntConfig(TowerConfig):
    """Hyper-parameters."""

    hidden: Widths = ()
    """Hidden layers of the perceptron beside the attention; none leaves it out."""
    layers: int = Field(default=3, ge=1)
    heads: int = Field(default=2, ge=1)
    head_dim: int = Field(default=32, ge=1)
    flavor: Flavor = "paper"
    wide: bool = False
    """First-order weights beside it."""

    def features(self, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        return with_linear_features(features) if self.wide else features


class AutoIntPlusConfig(AutoIntConfig):
    """The same with a perceptron."""

    hidden: Widths = Field(default=(400, 400), min_length=1)


class AutoInt(nn.Module):
    """Logits ``(B,)``; the vectors need one width."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: AutoIntConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or AutoIntConfig()
        outputs = Outputs(embeddings, "autoint", linear=config.wide)
        self.embeddings = embeddings
        self.linear: LinearTerm | None = None
        if config.wide:
            self.linear = LinearTerm(outputs.linear, num_dense, bias=False, device=device)
        self.fields = StackedFields(outputs, num_dense, device)
        width = config.heads * config.head_dim
        self.layers = nn.Sequential(
            *(
                Interacting(inputs, config.heads, config.head_dim, config.flavor, device)
                for inputs in [self.fields.dim, *[width] * (config.layers - 1)]
            )
        )
        self.top = affine(self.fields.num_fields * width, 1, device=device)
        self.deep: nn.Module | None = None
        if config.hidden:
            self.deep = tower(
                self.fields.width, config.hidden, 1, dropout=config.dropout,
                batch_norm=config.batch_norm, device=device,
            )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        if self.linear is not None:
            features = self.linear.extend(features)
        pooled = self.embeddings(features)
        vectors = self.fields(dense, pooled)
        logits: Tensor = self.top(self.layers(vectors).flatten(1)).squeeze(1)
        if self.deep is not None:
            logits = logits + self.deep(vectors.flatten(1)).squeeze(1)
        if self.linear is not None:
            logits = logits + self.linear(dense, pooled)
        return logits


def _plus(
    embeddings: EmbeddingBagCollectionInterface,
    num_dense: int,
    config: AutoIntPlusConfig | None = None,
    *,
    device: torch.device | str | None = None,
) -> AutoInt:
    return AutoInt(embeddings, num_dense, config or AutoIntPlusConfig(), device=device)


register_model(
    Model(
        name="autoint",
        config=AutoIntConfig,
        module=AutoInt,
        title="AutoInt",
        paper="Song et al., CIKM 2019, arXiv 1810.11921",
        formula="w . attention(V) + b",
        training=SMALL_START,
    )
)
register_model(
    Model(
        name="autoint_plus",
        config=AutoIntPlusConfig,
        module=_plus,
        title="AutoInt+",
        paper="Song et al., CIKM 2019, arXiv 1810.11921",
        formula="w . attention(V) + MLP(x0)",
        training=SMALL_START,
    )
)
