"""Compositional embeddings from complementary partitions (Shi et al., KDD 2020, arXiv 1909.02107).

Partitions P_1..P_k of the ids {0..n-1}, given by maps p_j: id -> bucket, are complementary when
(p_1(x), ..., p_k(x)) is different for every id. One table W_j per partition, one row per bucket.

* quotient-remainder (sec. 3.1 of the paper): x div m and x mod m
* generalised quotient-remainder: p_j(x) = (x div (m_1 ... m_{j-1})) mod m_j, valid if prod m_j >= n
* Chinese remainder: p_j(x) = x mod m_j, valid if the m_j are pairwise coprime and prod m_j >= n
* metadata: p_j(x) = the j-th attribute of x, valid if the attribute tuples are unique

Operation-based: product, sum or concatenation of v_j = W_j[p_j(x)]; "feature" hands the v_j on
one by one. Path-based: e(x) = M_{k,p_k(x)}( ... M_{2,p_2(x)}( W_1[p_1(x)] ) ).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.reference.pooling import concat

__all__ = [
    "chinese_remainder",
    "combine",
    "distinct",
    "embed",
    "metadata",
    "mixed_radix",
    "param_count",
    "path",
    "path_param_count",
    "quotient_remainder",
    "quotient_remainder_rows",
    "thresholded_rows",
]

Digits = Callable[[int], tuple[int, ...]]


def quotient_remainder(num_ids: int, num_collisions: int, big: str = "quotient") -> Digits:
    """(bucket in the big table, bucket in the small table) for about n / c rows in the big one.

    big="quotient": big table (ceil(n/c) rows) at x div c, small (c rows) at x mod c; ids that
    share a big row are neighbours. big="remainder" (the paper): m = ceil(n/c), big table (m rows)
    at x mod m, small (ceil(n/m) rows) at x div m; ids that share a big row are m apart.
    """
    if big == "quotient":
        return lambda x: (x // num_collisions, x % num_collisions)
    if big == "remainder":
        modulus = -(-num_ids // num_collisions)
        return lambda x: (x % modulus, x // modulus)
    raise ValueError(f"unknown big table {big!r}")


def quotient_remainder_rows(
    num_ids: int, num_collisions: int, big: str = "quotient"
) -> tuple[int, int]:
    """Rows of the big and of the small table."""
    rows = -(-num_ids // num_collisions)
    return (rows, num_collisions) if big == "quotient" else (rows, -(-num_ids // rows))


def mixed_radix(radices: Sequence[int], num_ids: int) -> Digits:
    """Digits of x, least significant first."""
    if math.prod(radices) < num_ids:
        raise ValueError(f"radices {radices} cannot tell {num_ids} ids apart")

    def digits(x: int) -> tuple[int, ...]:
        return tuple((x // math.prod(radices[:j])) % m for j, m in enumerate(radices))

    return digits


def chinese_remainder(moduli: Sequence[int], num_ids: int) -> Digits:
    """Residues of x."""
    for i, a in enumerate(moduli):
        for b in moduli[i + 1 :]:
            if math.gcd(a, b) != 1:
                raise ValueError(f"{a} and {b} are not coprime")
    if math.prod(moduli) < num_ids:
        raise ValueError(f"moduli {moduli} cannot tell {num_ids} ids apart")
    return lambda x: tuple(x % m for m in moduli)


def metadata(attributes: Sequence[Sequence[int]]) -> Digits:
    """Row x of `attributes` (n, k)."""
    if len({tuple(row) for row in attributes}) != len(attributes):
        raise ValueError("two ids share all attributes")
    return lambda x: tuple(int(a) for a in attributes[x])


def distinct(digits: Digits, num_ids: int) -> bool:
    """Whether the partitions are complementary: the digit tuple is injective on 0..n-1."""
    return len({digits(x) for x in range(num_ids)}) == num_ids


def combine(vectors: Sequence[Any], operation: str) -> Any:
    """Join the vectors of one id: "product", "sum" or "concat"."""
    if operation == "concat":
        return concat(vectors)
    result = vectors[0]
    for vector in vectors[1:]:
        if operation == "product":
            result = result * vector
        elif operation == "sum":
            result = result + vector
        else:
            raise ValueError(f"unknown operation {operation!r}")
    return result


def embed(index: int, tables: Sequence[Any], digits: Digits, operation: str) -> Any:
    """Vector of one id: join W_j[p_j(id)] over the partitions."""
    rows = digits(index)
    return combine([table[r] for table, r in zip(tables, rows, strict=True)], operation)


def path(
    index: int, table: Any, layers: Sequence[Sequence[tuple[Any, ...]]], digits: Digits
) -> Any:
    """Vector of one id by path.

    `digits(id)[0]` picks the row of `table`; `layers[j][digits(id)[j + 1]]` is a function: (A,)
    for the linear map v A, or (A, a, B, b) for relu(v A + a) B + b.
    """
    first, *rest = digits(index)
    vector = table[first]
    for functions, bucket in zip(layers, rest, strict=True):
        parts = functions[bucket]
        if len(parts) == 1:
            vector = vector @ parts[0]
        else:
            inner, inner_bias, outer, outer_bias = parts
            hidden = vector @ inner + inner_bias
            vector = (hidden * (hidden > 0)) @ outer + outer_bias
    return vector


def thresholded_rows(sizes: Sequence[int], num_collisions: int, threshold: int) -> int:
    """Rows of all quotient-remainder tables; a size at or below the threshold stays full."""
    total = 0
    for n in sizes:
        total += n if n <= threshold else sum(quotient_remainder_rows(n, num_collisions))
    return total


def param_count(rows: Sequence[int], dim: int, operation: str = "product") -> int:
    """(sum of rows) D; for concat each of the k tables is D / k wide."""
    width = dim // len(rows) if operation == "concat" else dim
    return sum(rows) * width


def path_param_count(num_ids: int, num_buckets: int, dim: int, hidden: int) -> tuple[int, int]:
    """Table scalars ceil(n/c) D and function scalars c (D h + h + h D + D)."""
    functions = num_buckets * (dim * hidden + hidden + hidden * dim + dim)
    return -(-num_ids // num_buckets) * dim, functions
