"""Bitmaps that know their ranks: which of many there are, and how many came before.

A plan holds a bitmap as bytes: bit ``x`` is bit ``x mod 8`` of byte ``x div 8``. What runs is its
*index*, int64: the bits in words of 64, padded to whole groups of four words, and behind them one
word per group, ``ones before the group * 2^24 + prefix_3 * 2^16 + prefix_2 * 2^8 + prefix_1`` where
``prefix_w`` counts the group's ones before its word ``w``. So a bit costs one gather, a rank two.
Cost: 40 bytes per 256 bits, that is 1.25 bits each.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["bitmap_index", "bitmap_rank", "index_words", "pack_bits", "popcount"]

_PAIRS, _NIBBLES, _BYTES = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F
_ONES = 0x0101010101010101


def pack_bits(bits: NDArray[np.bool_]) -> Tensor:
    """``(n,) or (k, n) -> (k * ceil(n / 8),)`` uint8; every row starts a byte."""
    return torch.from_numpy(np.packbits(bits, axis=-1, bitorder="little").reshape(-1))


def index_words(num_bits: int, num_rows: int = 1) -> tuple[int, int]:
    """Words of bits and words of ranks for ``num_rows`` bitmaps that each start a word."""
    groups = -(-num_rows * -(-num_bits // 64) // 4)
    return 4 * groups, groups


def bitmap_index(bitmap: Tensor, num_bits: int, num_rows: int = 1) -> Tensor:
    """The index of ``num_rows`` bitmaps, ranks running through all of them.

    Args:
        bitmap: ``(num_rows * ceil(num_bits / 8),)`` uint8. On ``meta`` so is the index.
    """
    num_words, num_ranks = index_words(num_bits, num_rows)
    if bitmap.is_meta:
        return torch.empty(num_words + num_ranks, dtype=torch.int64, device="meta")
    padded = np.zeros((num_rows, 8 * -(-num_bits // 64)), dtype=np.uint8)
    padded[:, : -(-num_bits // 8)] = bitmap.numpy().reshape(num_rows, -1)
    words = np.zeros(num_words, dtype="<i8")
    words[: padded.size // 8] = padded.reshape(-1).view("<i8")
    ones = popcount(torch.from_numpy(words.astype(np.int64)))
    in_group = ones.view(num_ranks, 4).cumsum(1)
    before = in_group[:, 3].cumsum(0) - in_group[:, 3]
    shifts = torch.tensor([0, 8, 16], device="cpu")
    ranks = (before << 24) + (in_group[:, :3] << shifts).sum(1)
    return torch.cat([torch.from_numpy(words.astype(np.int64)), ranks])


def bitmap_rank(word: Tensor, rank: Tensor, place: Tensor, bit: Tensor) -> Tensor:
    """Ones before a bit.

    Args:
        word: the word that holds it. ``rank``: the rank of the word's group.
        place: the word's number; only its last two bits count.
        bit: the bit's number; only its last six bits count.
    """
    below = popcount(word & ((torch.ones_like(bit) << (bit & 63)) - 1))
    return (rank >> 24) + (((rank << 8) >> ((place & 3) << 3)) & 255) + below


def popcount(words: Tensor) -> Tensor:
    """Ones in each int64."""
    x = words - ((words >> 1) & _PAIRS)
    x = (x & _NIBBLES) + ((x >> 2) & _NIBBLES)
    x = (x + (x >> 4)) & _BYTES
    return (x * _ONES) >> 56
