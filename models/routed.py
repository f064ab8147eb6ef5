"""K complete models behind a router: every example goes to exactly one of them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from compactrec.embeddings.routers import ExampleBags, FeatureBags
from compactrec.models.inputs import Outputs, flat_by_key, with_linear_keys

__all__ = ["MaskedVectors", "RoutedModel", "bags_of", "fit_bias", "select_examples"]


class MaskedVectors(EmbeddingBagCollectionInterface):
    """What one expert sees of vectors that all share: its columns, and zeros elsewhere.

    Args:
        shared: the collection; it is called by :class:`RoutedModel`, once for all experts.
        mask: bool, one for each element of all vectors, features in the order of the collection.
    """

    mask: Tensor

    def __init__(self, shared: EmbeddingBagCollectionInterface, mask: Tensor) -> None:
        super().__init__()
        self._configs = shared.embedding_bag_configs()
        self._is_weighted = shared.is_weighted()
        self._widths = Outputs(shared, "RoutedModel").widths
        self.register_buffer("mask", mask)

    def forward(self, features: KeyedTensor) -> KeyedTensor:
        """The vectors of some examples -> the same with the mask, found by key."""
        return KeyedTensor(
            keys=list(self._widths),
            length_per_key=list(self._widths.values()),
            values=flat_by_key(features, tuple(self._widths)) * self.mask,
        )

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """Those of the shared collection."""
        return self._configs

    def is_weighted(self) -> bool:
        """True where batches carry one weight per id."""
        return self._is_weighted


class RoutedModel(nn.Module):
    """Logits of the expert that the router names, in the order of the examples.

    Training it is training every expert on its own examples: there is no gradient between them and
    none into the router, and an expert without examples in a batch is not touched. In evaluation
    every cluster's logits are moved by its ``calibration``, which :meth:`calibrate` fits on
    validation rows; while training they are not.

    Args:
        router: bags of every feature -> clusters ``(B,)`` in 0 .. K - 1; frozen.
        experts: K models ``(dense, features) -> logits (B,)``.
        shared: a collection that all experts read; they then get its vectors, see
            :class:`MaskedVectors`.
    """

    calibration: Tensor

    def __init__(
        self,
        router: nn.Module,
        experts: Sequence[nn.Module],
        shared: EmbeddingBagCollectionInterface | None = None,
    ) -> None:
        super().__init__()
        self.router = router.requires_grad_(False)
        self.experts = nn.ModuleList(experts)
        self.shared = shared
        self._shared_keys = () if shared is None else Outputs(shared, "RoutedModel").keys
        where = next(router.buffers()).device
        self.register_buffer("calibration", torch.zeros(len(experts), device=where))

    def forward(self, dense: Tensor, features: KeyedJaggedTensor) -> Tensor:
        """Logits ``(B,)``; raises ``ValueError`` where the router names no expert."""
        clusters = self.clusters(features)
        vectors = None
        if self.shared is not None:
            vectors = self.shared(with_linear_keys(features, self._shared_keys))
        places, parts = [], []
        for k, expert in enumerate(self.experts):
            rows = (clusters == k).nonzero().squeeze(1)
            if rows.numel():
                chosen = (
                    select_examples(features, rows)
                    if vectors is None
                    else KeyedTensor(
                        vectors.keys(), vectors.length_per_key(), vectors.values()[rows]
                    )
                )
                places.append(rows)
                parts.append(expert(dense[rows], chosen))
        if sum(rows.numel() for rows in places) != clusters.numel():
            raise ValueError(
                f"the router names clusters {int(clusters.min())} .. {int(clusters.max())}, but "
                f"there are {len(self.experts)} experts; give one for each"
            )
        if not parts:
            return dense.new_zeros(0)
        logits = torch.cat(parts)
        logits = torch.zeros_like(logits).index_copy(0, torch.cat(places), logits)
        return logits if self.training else logits + self.calibration[clusters]

    @torch.no_grad()
    def clusters(self, features: KeyedJaggedTensor) -> Tensor:
        """The expert of every example: int64 ``(B,)``."""
        clusters: Tensor = self.router(bags_of(features))
        return clusters

    @torch.no_grad()
    def calibrate(self, logits: Tensor, clusters: Tensor, labels: Tensor) -> Tensor:
        """Fit the calibration on rows and return their logits with it, ``(N,)``.

        Args:
            logits: as evaluation gave them, with the calibration so far.
            clusters: of the same rows.
            labels: 0 or 1.
        """
        old = self.calibration.to(logits.device)[clusters]
        raw = logits - old
        for k in range(len(self.experts)):
            mine = clusters == k
            self.calibration[k] = fit_bias(raw[mine], labels[mine])
        return raw + self.calibration.to(logits.device)[clusters]


def fit_bias(logits: Tensor, labels: Tensor) -> float:
    """The ``b`` that minimises ``sum log-loss(logits + b) + b^2 / 2``.

    So the mean prediction equals the mean label, but for the prior, which weighs as little as a
    row or two: it keeps ``b`` finite where all labels are alike, and 0 where there are no rows.
    """
    scores, truth = logits.double(), labels.double()
    low, high = -50.0, 50.0
    for _ in range(60):
        b = (low + high) / 2
        slope = float((torch.sigmoid(scores + b) - truth).sum()) + b
        low, high = (low, b) if slope > 0 else (b, high)
    b = (low + high) / 2
    return 0.0 if math.isclose(b, 0.0, abs_tol=1e-12) else b


def bags_of(features: KeyedJaggedTensor) -> ExampleBags:
    """The bags of every feature, as a router reads them."""
    return {
        key: FeatureBags(bag.values(), bag.lengths(), bag.weights_or_none())
        for key, bag in features.to_dict().items()
    }


def select_examples(features: KeyedJaggedTensor, rows: Tensor) -> KeyedJaggedTensor:
    """The bags of some examples; ``rows`` ascending, each at most once."""
    num_keys, stride = len(features.keys()), features.stride()
    chosen = torch.zeros(stride, dtype=torch.bool, device=rows.device).index_fill(0, rows, True)
    lengths = features.lengths()
    kept = torch.repeat_interleave(chosen.repeat(num_keys), lengths)
    weights = features.weights_or_none()
    return KeyedJaggedTensor(
        keys=features.keys(),
        values=features.values()[kept],
        lengths=lengths.view(num_keys, stride)[:, rows].reshape(-1),
        weights=None if weights is None else weights[kept],
        stride=int(rows.numel()),
    )
