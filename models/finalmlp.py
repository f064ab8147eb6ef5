"""FinalMLP: two perceptrons on the same vectors, joined by a bilinear product.

Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023, arXiv
2304.00902. ``u = MLP_1(s_1)``, ``v = MLP_2(s_2)``, both with ReLU at the end; ``logit = w_u . u +
b_u + w_v . v + b_v + sum_h u_h' W_h v_h`` over heads. Without selection ``s_j = x0``, the dense
values and the vectors side by side; with it ``s_j = x0 * 2 sigmoid(MLP(context_j))``. Widths may
differ.
"""

from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.models.inputs import FlatFields, Outputs, flat_by_key
from compactrec.models.registry import SMALL_START, Model, ModelConfig, register_model
from compactrec.models.towers import Widths, affine, tower

__all__ = ["FinalMLP", "FinalMLPConfig", "Fusion", "Selection"]

torch.fx.wrap("flat_by_key")  # in this module too, for input pipelines that trace the model


class FinalMLPConfig(ModelConfig):
    """Hyper-parameters of the two streams."""

    hidden: Widths = Field(default=(400, 400, 400), min_length=1)
    """Layers of the first stream."""
    hidden2: Widths = Field(default=(400,), min_length=1)
    """Layers of the second stream."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dropout2: float = Field(default=0.0, ge=0, lt=1)
    batch_norm: bool = False
    batch_norm2: bool = False
    heads: int = Field(default=20, ge=1)
    """Blocks of the bilinear product; divides the last width of both streams."""
    selection: bool = False
    """Weigh the inputs of each stream, seen from its context."""
    selection_hidden: Widths = (64,)
    context: tuple[str, ...] = ()
    """Features that the first stream's weights are made from; none: a learned vector."""
    context2: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden[-1] % self.heads or self.hidden2[-1] % self.heads:
            raise ValueError(
                f"heads = {self.heads} must divide the last width of both streams, got "
                f"{self.hidden[-1]} and {self.hidden2[-1]}"
            )
        if (self.context or self.context2) and not self.selection:
            raise ValueError("context is for selection = true, which is off; switch it on")
        return self


class FinalMLP(nn.Module):
    """Logits ``(B,)``."""

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: FinalMLPConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or FinalMLPConfig()
        outputs = Outputs(embeddings, "finalmlp")
        self.embeddings = embeddings
        self.fields = FlatFields(outputs, num_dense)
        width = self.fields.width
        self.select: Selection | None = None
        self.select2: Selection | None = None
        if config.selection:
            hidden = config.selection_hidden
            self.select = Selection(outputs, config.context, hidden, width, device)
            self.select2 = Selection(outputs, config.context2, hidden, width, device)
        self.stream = tower(
            width, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm,
            device=device,
        )  # fmt: skip
        self.stream2 = tower(
            width, config.hidden2, dropout=config.dropout2, batch_norm=config.batch_norm2,
            device=device,
        )  # fmt: skip
        self.fusion = Fusion(config.hidden[-1], config.hidden2[-1], config.heads, device)

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        pooled = self.embeddings(features)
        x0 = self.fields(dense, pooled)
        first, second = x0, x0
        if self.select is not None and self.select2 is not None:
            first, second = x0 * self.select(pooled), x0 * self.select2(pooled)
        logits: Tensor = self.fusion(self.stream(first), self.stream2(second))
        return logits


class Selection(nn.Module):
    """Weights of the inputs, ``2 sigmoid(MLP(context))``: ``(B, width)``, or ``(1, width)``."""

    def __init__(
        self,
        outputs: Outputs,
        context: Sequence[str],
        hidden: Sequence[int],
        width: int,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        missing = [key for key in context if key not in outputs.widths]
        if missing:
            raise ValueError(
                f"{outputs.model}: context names {missing}, which are no features; there are "
                f"{list(outputs.keys)}"
            )
        self.context = tuple(context)
        num_inputs = sum(outputs.widths[key] for key in context)
        self.constant: nn.Parameter | None = None
        if not context:
            num_inputs = max(outputs.widths.values())
            self.constant = nn.Parameter(torch.zeros(1, num_inputs, device=device))
        self.gate = tower(num_inputs, hidden, width, device=device)

    def forward(self, pooled: KeyedTensor) -> Tensor:
        constant = self.constant
        seen = flat_by_key(pooled, self.context) if constant is None else constant
        return 2 * torch.sigmoid(self.gate(seen))


class Fusion(nn.Module):
    """``w_u . u + b_u + w_v . v + b_v + sum_h u_h' W_h v_h``: two vectors to a logit ``(B,)``."""

    def __init__(
        self, width: int, width2: int, heads: int, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.first = affine(width, 1, device=device)
        self.second = affine(width2, 1, device=device)
        self.weight = nn.Parameter(
            torch.empty(heads, width // heads, width2 // heads, device=device)
        )
        for matrix in self.weight.unbind():
            nn.init.xavier_normal_(matrix)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        left, right = u.unflatten(1, (self.heads, -1)), v.unflatten(1, (self.heads, -1))
        turned = torch.einsum("bhi,hij->bhj", left, self.weight)
        both = (turned * right).sum(dim=(1, 2))
        return self.first(u).squeeze(1) + self.second(v).squeeze(1) + both


register_model(
    Model(
        name="finalmlp",
        config=FinalMLPConfig,
        module=FinalMLP,
        title="FinalMLP",
        paper="Mao et al., AAAI 2023, arXiv 2304.00902",
        formula="w_u . u + w_v . v + sum_h u_h' W_h v_h,  u = MLP_1(x0), v = MLP_2(x0)",
        training=SMALL_START,
    )
)
