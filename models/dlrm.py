"""DLRM: dense columns and embedded features meet in pairwise dot products.

Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems",
arXiv 1906.00091.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.models.blocks import DotInteraction, one_width, perceptron
from compactrec.models.inputs import Outputs, check_dense, check_num_dense, flat_by_key
from compactrec.models.registry import Model, ModelConfig, register_model
from compactrec.models.towers import Widths

__all__ = ["DLRM", "DLRMConfig"]

torch.fx.wrap("flat_by_key")  # in this module too, for input pipelines that trace the model
torch.fx.wrap("check_dense")


class DLRMConfig(ModelConfig):
    """Hyper-parameters."""

    bottom: Widths = (512, 256, 64)
    """Hidden widths of the bottom perceptron; a last layer of width D is added."""
    top: Widths = (512, 256, 1)
    """Widths of the top perceptron; the last must be 1."""
    interaction: Literal["dot", "cat"] = "dot"
    """``dot`` as in the formula, or ``cat``: ``top([x_0, ..., x_F])``, where widths may differ."""
    interaction_itself: bool = False
    """Include ``x_i . x_i`` in the dots."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer of the top perceptron that is dropped in training."""
    batch_norm: bool = False
    """Batch norm before the ReLU of each hidden layer of both perceptrons."""
    later: ClassVar[frozenset[str]] = frozenset({"dropout", "batch_norm"})

    @field_validator("top")
    @classmethod
    def _check_top(cls, top: tuple[int, ...]) -> tuple[int, ...]:
        if not top or top[-1] != 1:
            raise ValueError(f"top must end in 1 (one logit), got {tuple(top)}; append a 1")
        return top


class DLRM(nn.Module):
    """Click logits from dense columns and embedded sparse features.

    ::

        x_0       = bottom(dense)                    (B, D)   Linear + ReLU at every layer
        x_1..x_F  = embeddings(features)             (B, D) each, found by key
        z         = [x_i . x_j for i < j]            (B, F (F + 1) / 2)
        logits    = top([x_0, z])                    (B,)     ReLU between layers, none at the end

    The reference ends in a sigmoid and lists the pairs of ``z`` in another order
    (:func:`compactrec.models.blocks.lower_triangle_order`); otherwise the two are equal.
    A table of clicks without dense columns (``num_dense=0``) has one learned vector as ``x_0``, so
    that its dots with the embeddings are the per-id terms.

    With ``cat`` the widths may differ, and D is the widest.

    Args:
        embeddings: any torchrec-like collection; for ``dot`` its outputs all have one width D.
        num_dense: columns of the dense input; 0 is allowed.
        config: widths of the perceptrons and kind of interaction.

    Raises:
        ValueError: no embeddings, or, with ``dot``, of several widths.

    Example::

        model = DLRM(CompressedEmbeddingBagCollection(plan), num_dense=13)
        loss = binary_cross_entropy_with_logits(model(batch.dense, batch.kjt()), batch.labels)
    """

    def __init__(
        self,
        embeddings: EmbeddingBagCollectionInterface,
        num_dense: int,
        config: DLRMConfig | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = config or DLRMConfig()
        check_num_dense(num_dense)
        outputs, is_dot = Outputs(embeddings, "DLRM"), config.interaction == "dot"
        self.keys = outputs.keys
        self.dim = one_width(outputs.widths, "DLRM") if is_dot else outputs.widest
        self.num_dense = num_dense
        self.embeddings = embeddings
        self.bottom: nn.Module | None = None
        if num_dense:
            self.bottom = perceptron(
                num_dense, (*config.bottom, self.dim), relu_at_end=True,
                batch_norm=config.batch_norm, device=device,
            )  # fmt: skip
        else:
            self.constant = nn.Parameter(torch.empty(self.dim, device=device))
            nn.init.normal_(self.constant, std=self.dim**-0.5)
        self.dots = None
        self.interaction_dim = self.dim + sum(outputs.widths.values())
        if is_dot:
            self.dots = DotInteraction(len(self.keys) + 1, config.interaction_itself)
            self.interaction_dim = self.dim + self.dots.num_pairs
        self.top = perceptron(
            self.interaction_dim, config.top, relu_at_end=False, dropout=config.dropout,
            batch_norm=config.batch_norm, device=device,
        )  # fmt: skip

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        """Logits ``(B,)`` for ``dense (B, num_dense)`` and one bag per feature and example."""
        travelling = self.embeddings(features)  # between processes, while bottom computes
        dense = check_dense(dense, self.num_dense)
        bottom = None if self.bottom is None else self.bottom(dense)
        embedded = flat_by_key(travelling, self.keys)
        first = self.constant.expand(embedded.shape[0], -1) if bottom is None else bottom
        vectors = torch.cat((first, embedded), dim=1)
        if self.dots is None:
            return self.top(vectors).squeeze(1)
        pairs = self.dots(vectors.unflatten(1, (len(self.keys) + 1, self.dim)))
        return self.top(torch.cat((first, pairs), dim=1)).squeeze(1)


register_model(
    Model(
        name="dlrm",
        config=DLRMConfig,
        module=DLRM,
        title="DLRM",
        paper="Naumov et al., 2019, arXiv 1906.00091",
        formula="top([x_0; x_i . x_j]),  x_0 = bottom(dense)",
    )
)
