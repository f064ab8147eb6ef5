"""Hashing trick: e(id) = xi(id) E[h(id)], E of shape (M, D) (Weinberger et al., ICML 2009).

kind "mod": h(id) = id mod M, what most click-model code does. kind "mix": the salted hash of
`hashing.py`. With `signed`, xi(id) is +1 or -1; without, xi = 1.
"""

from typing import Any

from tests.reference import hashing

__all__ = ["embed", "param_count", "reference_rows", "row"]


def row(index: int, num_rows: int, kind: str = "mix", seed: int = 0) -> int:
    """Physical row of an id."""
    if kind == "mod":
        return index % num_rows
    if kind == "mix":
        return hashing.hash_id(index, seed, num_rows)
    raise ValueError(f"unknown kind {kind!r}")


def embed(
    index: int, table: Any, kind: str = "mix", seed: int = 0, sign_seed: int | None = None
) -> Any:
    """Vector of one id; `sign_seed` switches the sign hash on."""
    vector = table[row(index, len(table), kind, seed)]
    return vector if sign_seed is None else hashing.sign(index, sign_seed) * vector


def param_count(num_rows: int, dim: int) -> int:
    """M D scalars."""
    return num_rows * dim


def reference_rows(num_ids: int, num_collisions: int, threshold: int) -> int:
    """Rows at c collisions: ceil(n / c) above the threshold, n at or below it."""
    return num_ids if num_ids <= threshold else -(-num_ids // num_collisions)
