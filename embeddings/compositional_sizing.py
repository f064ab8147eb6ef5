"""Numbers of the compositional method: moduli for a number of rows."""

import math
from typing import Literal

__all__ = [
    "BigTable",
    "Sized",
    "coprime_moduli",
    "least_rows",
    "radix_moduli",
    "row_moduli",
]

BigTable = Literal["quotient", "remainder"]
Sized = Literal["quotient_remainder", "mixed_radix", "chinese_remainder"]


def least_rows(num_ids: int, num_factors: int) -> int:
    """The smallest useful big table: ``ceil(n^(1/k))``, in integers."""
    root = max(1, round(num_ids ** (1.0 / num_factors)))
    while root**num_factors < num_ids:
        root += 1
    while root > 1 and (root - 1) ** num_factors >= num_ids:
        root -= 1
    return root


def radix_moduli(num_ids: int, big_rows: int, num_factors: int) -> tuple[int, ...]:
    """``(big, s, ..., s)`` with ``big * s^(k-1) >= n`` and the smallest such ``s``."""
    rest = math.ceil(num_ids / big_rows)
    return (big_rows,) + (least_rows(rest, num_factors - 1),) * (num_factors - 1)


def coprime_moduli(num_ids: int, big_rows: int, num_factors: int) -> tuple[int, ...]:
    """Pairwise coprime moduli near :func:`radix_moduli` whose product reaches ``n``."""
    moduli = [big_rows]
    for _ in range(num_factors - 1):
        left = num_factors - len(moduli)
        modulus = least_rows(math.ceil(num_ids / math.prod(moduli)), left)
        while any(math.gcd(modulus, other) > 1 for other in moduli):
            modulus += 1
        moduli.append(modulus)
    return tuple(moduli)


def row_moduli(
    num_ids: int, big_rows: int, num_factors: int, family: Sized, big_table: BigTable
) -> tuple[int, ...] | None:
    """Moduli with a big table of about ``big_rows`` rows; None if that saves no rows.

    ``remainder``: the big table is indexed by ``x mod m`` (the paper), so ids that share its row
    are ``m`` apart. ``quotient``: by the last digit (the reference code), so they are neighbours.
    """
    big = max(least_rows(num_ids, num_factors), min(big_rows, num_ids))
    if family == "chinese_remainder":
        moduli = coprime_moduli(num_ids, big, num_factors)
    else:
        moduli = radix_moduli(num_ids, big, num_factors)
    if sum(moduli) >= num_ids:
        return None
    return moduli if big_table == "remainder" else moduli[::-1]
