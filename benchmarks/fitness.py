"""Judging candidates of a trained supernet, and looking at rows through it.

Only training and validation rows: another split is refused. Weights do not move here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from compactrec.benchmarks.metrics import auc
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.embeddings.search import Supernet
from compactrec.embeddings.search.base import Rows

__all__ = ["Fitness", "rows_of"]

_ROWS_AT_ONCE = 16_384


class Fitness:
    """Validation AUC of many candidates, each a mask on the vectors.

    The vectors of a fixed sample of validation rows are read once a call; a candidate costs a
    forward pass of the rest of the model over them, several candidates in one batch.

    Args:
        model: holds ``supernet`` in the place of its embeddings.
        batch: the sample of validation rows.
    """

    def __init__(self, model: nn.Module, supernet: Supernet, batch: Batch) -> None:
        self._model, self._supernet, self._batch = model, supernet, batch
        self._labels = batch.labels.numpy()

    @property
    def num_rows(self) -> int:
        """Rows that every candidate is judged on."""
        return self._batch.batch_size

    def __call__(self, masks: Tensor) -> Tensor:
        """``(C, F, D)`` masks -> AUC ``(C,)``, float64."""
        found: list[float] = []
        with torch.no_grad():
            vectors = self._supernet.vectors(self._batch.kjt())
        for chunk in masks.split(max(1, _ROWS_AT_ONCE // self.num_rows)):
            found += [auc(row, self._labels) for row in self._logits(vectors, chunk).numpy()]
        return torch.tensor(found, dtype=torch.float64)

    @torch.no_grad()
    def _logits(self, of_rows: Tensor, masks: Tensor) -> Tensor:
        """``(c, B)``"""
        count = masks.shape[0]
        vectors = (of_rows * masks[:, None]).flatten(0, 1)
        dense = self._batch.dense.repeat(count, 1)
        was_training = self._model.training
        self._model.eval()
        with self._supernet.replaying(vectors):
            logits: Tensor = self._model(dense, self._batch.kjt())
        self._model.train(was_training)
        return logits.view(count, -1)


def rows_of(
    supernet: Supernet,
    data: Path,
    split: Literal["train", "validation"],
    num_rows: int,
    *,
    batch_size: int,
    seed: int,
) -> Iterator[Rows]:
    """Batches of at most ``num_rows`` rows of a split, in an order drawn by ``seed``.

    Raises ``ValueError`` for any other split: a search never sees test rows.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"a search sees 'train' and 'validation' rows only, got {split!r}")
    left = num_rows
    for batch in BatchLoader(data, split, min(batch_size, num_rows), seed=seed):
        if left <= 0:
            return
        left -= batch.batch_size
        with torch.no_grad():
            vectors = supernet.vectors(batch.kjt())
        kjt = batch.kjt()
        ids = {key: (kjt[key].values(), kjt[key].lengths()) for key in batch.keys}
        yield Rows(vectors, batch.labels, ids)
