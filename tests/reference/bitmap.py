"""Bitmaps as bytes: bit x of a list of bits is bit x mod 8 of byte x div 8; unused bits are 0."""

from collections.abc import Sequence

__all__ = ["bitmap", "ones"]


def bitmap(bits: Sequence[int]) -> list[int]:
    """The bytes of a list of 0 and 1."""
    out = [0] * -(-len(bits) // 8)
    for x, bit in enumerate(bits):
        out[x // 8] += bit * 2 ** (x % 8)
    return out


def ones(stored: Sequence[int], num_bits: int) -> list[int]:
    """Which of so many bits are 1."""
    return [x for x in range(num_bits) if stored[x // 8] // 2 ** (x % 8) % 2]
