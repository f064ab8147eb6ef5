"""The model of a training config: embeddings by its plan, and the click model over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollectionInterface

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.optimizers import fused_optimizer
from compactrec.benchmarks.precision import compute_in
from compactrec.embeddings import AnyPlan, CompressedEmbeddingBagCollection, RoutedPlan
from compactrec.embeddings.routers import build_router
from compactrec.models.registry import get_model
from compactrec.models.routed import MaskedVectors, RoutedModel

__all__ = ["build_model", "click_model"]


def build_model(
    config: TrainConfig, plan: AnyPlan, num_dense: int
) -> tuple[nn.Module, tuple[CompressedEmbeddingBagCollection, ...]]:
    """The model of ``config`` and, inside it, its embeddings, started from ``config.seed``.

    A plan of several clusters gives one such model for each, all started alike, behind its router.
    """
    if isinstance(plan, RoutedPlan) and config.engine == "sharded":
        raise ValueError(
            "a plan of several clusters cannot be trained with engine 'sharded': an expert without "
            "an example on one process would leave the others waiting; use engine 'fused'"
        )
    torch.manual_seed(config.seed)
    optimizer = fused_optimizer(config) if config.engine == "fused" else None
    collections = tuple(
        CompressedEmbeddingBagCollection(
            part,
            engine=config.engine,
            device=config.device,
            optimizer=optimizer,
            kernel=config.kernel if config.engine == "fused" else "auto",
        )
        for part in plan.plans
    )
    if not isinstance(plan, RoutedPlan):
        return click_model(config, collections[0], num_dense), collections
    shared = collections[0] if plan.shared else None
    inputs: Sequence[EmbeddingBagCollectionInterface] = collections
    if shared is not None:
        inputs = [MaskedVectors(shared, mask) for mask in plan.masks().to(config.device)]
    experts = [click_model(config, vectors, num_dense) for vectors in inputs]
    router = build_router(plan.router, plan.features, plan.arrays).to(config.device)
    return RoutedModel(router, experts, shared), collections


def click_model(
    config: TrainConfig, embeddings: EmbeddingBagCollectionInterface, num_dense: int
) -> nn.Module:
    """The model of ``config`` over any embeddings; its dense part depends on the seed alone."""
    torch.manual_seed(config.seed)
    chosen = get_model(config.model)
    model = chosen.module(
        embeddings, num_dense, chosen.parse(config.model_options), device=config.device
    )
    return compute_in(config.dense_dtype, model, config.device)
