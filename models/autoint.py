"""AutoInt: layers in which fields attend to fields; AutoInt+ adds a perceptron.

Song et al., "AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks",
CIKM 2019, arXiv 1810.11921. ``logit = w . flatten(layers(V)) + b``, AutoInt+ ``+ MLP(x0)``. What
is published differs from code to code, see :class:`compactrec.models.attention.Interacting` for
the flavors. Dense column ``j`` is a field with the vector ``x_j w_j``.
"""

from functools import partial
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
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
    scale: bool = False
    """Of flavor ``fuxictr``: scores are divided by sqrt(head_dim)."""
    layer_norm: bool = False
    """Of flavor ``fuxictr``: a layer norm before the ReLU of each layer."""
    residual: bool = True
    """Of flavor ``fuxictr``: whether a layer adds its input."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of flavor ``fuxictr``: share of attention weights that are left out while training."""
    later: ClassVar[frozenset[str]] = frozenset(
        {"scale", "layer_norm", "residual", "attention_dropout"}
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        options = ("scale", "layer_norm", "attention_dropout")
        given = [name for name in options if getattr(self, name)]
        given += [] if self.residual else ["residual"]
        if given and self.flavor != "fuxictr":
            raise ValueError(
                f"{', '.join(given)}: an option of flavor 'fuxictr', got flavor {self.flavor!r}; "
                f"choose that flavor or leave it out"
            )
        return self

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
        attend = partial(
            Interacting, heads=config.heads, head_dim=config.head_dim, flavor=config.flavor,
            device=device, scaled=config.scale, normed=config.layer_norm,
            with_residual=config.residual, dropout=config.attention_dropout,
        )  # fmt: skip
        inputs = [self.fields.dim, *[width] * (config.layers - 1)]
        self.layers = nn.Sequential(*(attend(num_inputs) for num_inputs in inputs))
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
