"""Tiny tables, batches with bags of every length, and models over them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.embeddings import Feature
from compactrec.models import ModelConfig, get_model

__all__ = [
    "BAGS", "DIM", "EVERY", "SEVERAL", "SIZES", "WIDTHS", "bags_of", "batch", "build",
    "build_over", "count", "features", "parsed", "tables",
]  # fmt: skip

SIZES = {"C1": 7, "C2": 11, "C3": 5, "C4": 300}
DIM = 4
BAGS = {"single": 1, "multi": 4}
WIDTHS = dict(zip(SIZES, (4, 8, 3, 12), strict=True))

SMALL: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {},
    "dlrm": {"bottom": (6,), "top": (5, 1)},
    "dlrm_dcnv2": {"bottom": (6,), "top": (7, 5), "rank": 3, "cross_layers": 2},
    "finalmlp": {"hidden": (6, 8), "hidden2": (4,), "heads": 2},
    "masknet": {"hidden": (6,), "blocks": (8, 6), "ratio": 0.5},
    "autoint": {"layers": 2, "heads": 2, "head_dim": 3},
    "autoint_plus": {"layers": 2, "heads": 2, "head_dim": 3, "hidden": (6, 5)},
    "fibinet": {"hidden": (6, 5), "reduction": 2},
    "xdeepfm": {"cin": (4, 3), "hidden": (6, 5)},
}
MORE: dict[str, list[dict[str, Any]]] = {
    "dlrm": [{"interaction": "cat"}, {"interaction_itself": True}],
    "dcn": [{"hidden": ()}],
    "dcnv2": [
        {"kind": "low_rank", "rank": 3, "structure": "stacked"},
        {"kind": "mixture", "rank": 3, "num_experts": 2, "structure": "stacked_parallel"},
        {"structure": "crossnet_only", "hidden": ()},
    ],
    "xdeepfm": [{"cin_activation": "relu", "split_half": True}],
    "autoint": [{"flavor": "official_tf"}, {"flavor": "fuxictr", "wide": True}],
    "autoint_plus": [{"flavor": "official_tf", "wide": True}],
    "fibinet": [{"bilinear": "all"}, {"bilinear": "each", "share_bilinear": True}],
    "masknet": [
        {"kind": "serial", "embedding_norm": True, "block_norm": True},
        {"embedding_norm": True, "block_norm": True},
    ],
    "finalmlp": [{"selection": True, "selection_hidden": (3,), "context": ("C2", "C4")}],
    "gdcn": [{"structure": "stacked"}],
}


def parsed(name: str, **options: Any) -> ModelConfig:
    """The config of a small model; `options` win."""
    fields = get_model(name).config.model_fields
    small = SMALL.get(name, {"hidden": (6, 5)} if "hidden" in fields else {})
    return get_model(name).parse({**small, **options})


def _every() -> list[tuple[str, dict[str, Any]]]:
    from compactrec.models import model_names

    return [(name, extra) for name in model_names() for extra in [{}, *MORE.get(name, [])]]


EVERY = _every()
"""Every model, small, and its variants."""
FLAT = {
    "lr", "fnn", "wide_deep", "dcn", "dcnv2", "dlrm_dcnv2", "masknet", "finalmlp", "gdcn",
}  # fmt: skip
SEVERAL = [
    (name, options)
    for name, options in EVERY
    if name in FLAT or (name, options.get("interaction")) == ("dlrm", "cat")
]
"""Those that take features of several widths."""


def features(widths: Mapping[str, int] | None = None, **changes: Any) -> tuple[Feature, ...]:
    """A feature for each table."""
    dims = widths or dict.fromkeys(SIZES, DIM)
    return tuple(
        Feature(name=key, num_ids=rows, dim=dims[key], max_bag=4, **changes)
        for key, rows in SIZES.items()
    )


def tables(
    of: tuple[Feature, ...], device: torch.device | str | None = None, *, weighted: bool = False
) -> EmbeddingBagCollection:
    """torchrec's own collection with a table for each feature."""
    return EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{f.name}", num_embeddings=f.num_ids or 1, embedding_dim=f.dim,
                feature_names=[f.name], pooling=PoolingType(f.pooling.upper()),
            )
            for f in of
        ],
        device=torch.device(device or "cpu"), is_weighted=weighted,
    )  # fmt: skip


def build(name: str, num_dense: int, seed: int = 0, **options: Any) -> nn.Module:
    """A small model over torchrec's tables; every parameter is random, biases too."""
    return build_over(features(), name, num_dense, seed, options)


def build_over(
    of: tuple[Feature, ...],
    name: str,
    num_dense: int,
    seed: int,
    options: Mapping[str, Any],
    *,
    weighted: bool = False,
) -> nn.Module:
    """The same over tables for these features."""
    torch.manual_seed(seed)
    config = parsed(name, **options)
    collection = tables(config.features(of), weighted=weighted)
    model = get_model(name).module(collection, num_dense, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.1, 0.4)  # most ReLUs are alive
    return model


def bags_of(batch_size: int, longest: int, seed: int = 3) -> list[list[list[int]]]:
    """Ids by feature and example; where `longest` is more than 1, some bags are empty."""
    generator = np.random.default_rng(seed)
    low = 1 if longest == 1 else 0
    return [
        [
            generator.integers(0, rows, generator.integers(low, longest + 1)).tolist()
            for _ in range(batch_size)
        ]
        for rows in SIZES.values()
    ]


def batch(
    batch_size: int, num_dense: int, longest: int = 4
) -> tuple[Tensor, KeyedJaggedTensor, list[list[list[int]]]]:
    """Dense columns, the bags as torchrec has them, and the bags as lists."""
    bags = bags_of(batch_size, longest)
    kjt = KeyedJaggedTensor(
        keys=list(SIZES),
        values=torch.tensor([i for f in bags for bag in f for i in bag], dtype=torch.int64),
        lengths=torch.tensor([len(bag) for f in bags for bag in f]),
    )
    dense = np.random.default_rng(5).normal(size=(batch_size, num_dense)).astype(np.float32)
    return torch.from_numpy(dense), kjt, bags


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
