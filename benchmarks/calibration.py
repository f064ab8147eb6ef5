"""Per-cluster calibration of routed models, on the validation rows that also select the weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from compactrec.data.loader import BatchLoader
from compactrec.models.routed import RoutedModel

__all__ = ["calibrated"]

Floats = npt.NDArray[np.float32]


def calibrated(
    model: nn.Module, loader: BatchLoader, device: str, logits: Floats, labels: Floats
) -> Floats:
    """Fit one bias per cluster to the ``logits`` that the model gave for the rows of ``loader``,
    and return them with it. A model without clusters, and its logits, stay as they are."""
    if not isinstance(model, RoutedModel):
        return logits
    found = [model.clusters(batch.to(device).kjt()).cpu() for batch in loader]
    moved = model.calibrate(torch.from_numpy(logits), torch.cat(found), torch.from_numpy(labels))
    return moved.numpy()
