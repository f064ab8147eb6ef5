"""The Criteo Kaggle table sizes and what the reference DLRM makes of them."""

import itertools

__all__ = ["KAGGLE_SIZES", "dlrm_dense_params", "dlrm_params"]

# C1..C26 in file order; the sum is 33,762,577.
KAGGLE_SIZES = [
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
]  # fmt: skip


def dlrm_dense_params(bottom: list[int], top: list[int], num_tables: int) -> tuple[int, int]:
    """Scalars of the bottom and of the top MLP: weights and biases of every Linear.

    `bottom` starts with the number of dense inputs and ends with the table width D; `top` lists
    the layers after the dot interaction, whose width is D + (T + 1) T / 2 for T tables.
    """

    def count(widths: list[int]) -> int:
        return sum(a * b + b for a, b in itertools.pairwise(widths))

    interaction = bottom[-1] + (num_tables + 1) * num_tables // 2
    return count(bottom), count([interaction, *top])


def dlrm_params(dim: int = 16) -> int:
    """All scalars of the full Kaggle model 13-512-256-64-dim, then 512-256-1."""
    dense = sum(dlrm_dense_params([13, 512, 256, 64, dim], [512, 256, 1], len(KAGGLE_SIZES)))
    return dense + dim * sum(KAGGLE_SIZES)
