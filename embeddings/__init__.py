"""Embedding tables that fit a memory budget. Read ``contract.py`` first, then ``full.py``."""

import importlib
from typing import TYPE_CHECKING, Any

from compactrec.embeddings.budget import full_plan, make_plan
from compactrec.embeddings.compositional import CompositionalConfig
from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.full import FullConfig
from compactrec.embeddings.fused_optimizer import FusedOptimizer
from compactrec.embeddings.gated import GatedConfig
from compactrec.embeddings.hashed import HashConfig
from compactrec.embeddings.hashing import hash_strings
from compactrec.embeddings.layers import CompressedEmbedding, CompressedEmbeddingBag
from compactrec.embeddings.materialize import materialize
from compactrec.embeddings.mixed import MixedConfig
from compactrec.embeddings.parameters import dense_parameters
from compactrec.embeddings.plan import AnyPlan, Group, Plan, load_plan, select
from compactrec.embeddings.pruned import PrunedConfig
from compactrec.embeddings.random_widths import RandomConfig
from compactrec.embeddings.rare import RareConfig
from compactrec.embeddings.registry import (
    Method,
    all_method_names,
    get_method,
    method_names,
)
from compactrec.embeddings.routed import RoutedPlan
from compactrec.embeddings.size import SizeReport, size
from compactrec.embeddings.soft_threshold import SoftThresholdConfig
from compactrec.embeddings.sparse import SparseConfig
from compactrec.embeddings.swap import NoEffectWarning, compress, plan_swap
from compactrec.embeddings.swap_report import SwapReport
from compactrec.embeddings.thresholded import ThresholdedConfig
from compactrec.embeddings.unified import UnifiedConfig
from compactrec.embeddings.uniform import UniformConfig

if TYPE_CHECKING:
    from compactrec.embeddings.checkpoint_state import load_checkpoint as load_checkpoint
    from compactrec.embeddings.checkpoint_state import save_checkpoint as save_checkpoint
    from compactrec.embeddings.checkpointing import CheckpointError as CheckpointError
    from compactrec.embeddings.checkpointing import CheckpointFolder as CheckpointFolder
    from compactrec.embeddings.collection import (
        CompressedEmbeddingBagCollection as CompressedEmbeddingBagCollection,
    )
    from compactrec.embeddings.sequence_collection import (
        CompressedEmbeddingCollection as CompressedEmbeddingCollection,
    )

__all__ = [
    "AnyPlan",
    "CheckpointError",
    "CheckpointFolder",
    "CompositionalConfig",
    "CompressedEmbedding",
    "CompressedEmbeddingBag",
    "Feature",
    "FullConfig",
    "FusedOptimizer",
    "GatedConfig",
    "Group",
    "HashConfig",
    "Method",
    "MethodConfig",
    "MixedConfig",
    "NoEffectWarning",
    "Plan",
    "PrunedConfig",
    "RandomConfig",
    "RareConfig",
    "RoutedPlan",
    "SizeReport",
    "SoftThresholdConfig",
    "SparseConfig",
    "SwapReport",
    "ThresholdedConfig",
    "UnifiedConfig",
    "UniformConfig",
    "all_method_names",
    "compress",
    "dense_parameters",
    "full_plan",
    "get_method",
    "hash_strings",
    "load_checkpoint",
    "load_plan",
    "make_plan",
    "materialize",
    "method_names",
    "plan_swap",
    "save_checkpoint",
    "select",
    "size",
]

_NEEDS_TORCHREC = {
    "CompressedEmbeddingBagCollection": "compactrec.embeddings.collection",
    "CompressedEmbeddingCollection": "compactrec.embeddings.sequence_collection",
}
_CHECKPOINTS = {
    "CheckpointError": "compactrec.embeddings.checkpointing",
    "CheckpointFolder": "compactrec.embeddings.checkpointing",
    "load_checkpoint": "compactrec.embeddings.checkpoint_state",
    "save_checkpoint": "compactrec.embeddings.checkpoint_state",
}
"""Part of the base install; imported when asked for, as torch's checkpoints take their time."""


def __getattr__(name: str) -> Any:
    if name in _CHECKPOINTS:
        return getattr(importlib.import_module(_CHECKPOINTS[name]), name)
    if name not in _NEEDS_TORCHREC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_NEEDS_TORCHREC[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs torchrec and FBGEMM, and {error.name!r} is not installed: in the "
            f"checkout, on a GPU machine \"pip install '.[gpu]'\", on a CPU the pinned list in "
            f"requirements/cpu.txt (see README, Install)",
            name=error.name,
        ) from error
