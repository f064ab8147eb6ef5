"""Cases of single values."""

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from compactrec.embeddings import Feature
from compactrec.embeddings.sparse import SparseConfig
from tests.methods.base import Embed, MethodCases, Weights, case
from tests.reference import sparse

__all__ = ["METHOD"]

Mask = list[list[int]]


def random_mask(num_ids: int, dim: int, share: float, seed: int) -> Mask:
    """1 where a value is kept; some ids keep none, some columns nothing."""
    rng = random.Random(seed)
    empty = rng.randrange(dim)
    return [
        [int(c != empty and i % 5 != 3 and rng.random() < share) for c in range(dim)]
        for i in range(num_ids)
    ]


def stored(mask: Mask, num_ids: int) -> tuple[SparseConfig, dict[str, list[int]]]:
    """The config of a mask over the first ids and its bitmaps, bit by bit."""
    values = tuple(sum(row[c] for row in mask) for c in range(len(mask[0])))
    rows = [i for i, row in enumerate(mask) if any(row)]
    arrays = {}
    bits = [[mask[i][c] for i in rows] for c, n in enumerate(values) if n]
    arrays["mask"] = [byte for column in bits for byte in _bytes(column)]
    if rows == list(range(len(rows))):
        return SparseConfig(values=values, rows=len(rows), mask="mask"), arrays
    arrays["kept"] = _bytes([int(i in rows) for i in range(num_ids)])
    return SparseConfig(values=values, rows=len(rows), kept="kept", mask="mask"), arrays


def _bytes(bits: Sequence[int]) -> list[int]:
    return [sum(b << i for i, b in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)]


MASKS: dict[str, Mask] = {
    "sa": random_mask(40, 8, 0.4, 1),
    "sb": [[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1]],
    "sc": random_mask(90, 12, 0.15, 3),
    "se": random_mask(300, 8, 0.6, 4),
}
NUM_IDS = {"sa": 40, "sb": 3_000_000_000, "sc": 90, "se": 300}
CONFIGS: dict[str, SparseConfig] = {}
ARRAYS: dict[str, list[int]] = {}
for _name, _mask in MASKS.items():
    _config, _arrays = stored(_mask, NUM_IDS[_name])
    _names = {key: f"{_name}__{key}" for key in _arrays}
    CONFIGS[_name] = _config.model_copy(update=_names)
    ARRAYS |= {_names[key]: values for key, values in _arrays.items()}


def reference(
    config: SparseConfig,
    features: Sequence[Feature],
    arrays: Mapping[str, Tensor],
    weights: Weights,
) -> dict[str, Embed]:
    """Kept values in their places, zeros elsewhere."""
    first = features[0]
    mask = [] if config.mask is None else MASKS[config.mask.partition("__")[0]]
    table = weights.tables.get(f"t_{first.name}__values")

    def embed(x: int) -> Tensor:
        zeros = [torch.zeros((), dtype=torch.float64)] * first.dim
        return torch.stack(sparse.embed(mask, x, table, zeros) if x < len(mask) else zeros)

    return {f.name: embed for f in features}


METHOD = MethodCases(
    "sparse",
    reference,
    (
        case(
            "sparse",
            ([Feature(name="sa", num_ids=40, dim=8, max_bag=4)], CONFIGS["sa"]),
            (
                [Feature(name="sb", num_ids=NUM_IDS["sb"], dim=4, max_bag=3, pooling="mean")],
                CONFIGS["sb"],
            ),
            ([Feature(name="sc", num_ids=90, dim=12)], CONFIGS["sc"]),
            (
                [Feature(name="sd", num_ids=50, dim=8, max_bag=2)],
                SparseConfig(values=(0,) * 8, rows=0),
            ),
            (
                [
                    Feature(name="se", num_ids=300, dim=8, max_bag=3),
                    Feature(name="sf", num_ids=300, dim=8),
                ],
                CONFIGS["se"],
            ),
            arrays=ARRAYS,
            dtypes=dict.fromkeys(ARRAYS, torch.uint8),
        ),
    ),
)
