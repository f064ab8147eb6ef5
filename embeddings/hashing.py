"""The one hash family of the project: 64-bit, seedable, the same on every device and run.

``mix`` is the finaliser of SplitMix64; ``h(x; s, M) = (mix(x xor mix(s)) >> 1) mod M``. Torch has
only signed 64-bit integers, so right shifts are masked to make them logical. Texts are hashed by
``compactrec.data.hashing``, which ``compactrec prepare`` uses too: served ids equal prepared ones.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from compactrec.data.hashing import name_seed, open_id, string_keys

__all__ = ["hash_integers", "hash_strings", "mix", "mix_int", "name_salt", "salted_hash"]

_WORD = 2**64
_ADD, _MUL1, _MUL2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word


def mix_int(word: int) -> int:
    """``mix`` of one Python integer, as an unsigned 64-bit integer."""
    word = (word + _ADD) % _WORD
    word = ((word ^ (word >> 30)) * _MUL1) % _WORD
    word = ((word ^ (word >> 27)) * _MUL2) % _WORD
    return word ^ (word >> 31)


def mix(ids: Tensor) -> Tensor:
    """``mix`` of every element of an int64 tensor, as int64 bit patterns of the same shape."""
    x = ids + _signed(_ADD)
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _signed(_MUL1)
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _signed(_MUL2)
    return x ^ ((x >> 31) & (2**33 - 1))


def salted_hash(ids: Tensor, salt: Tensor | int, num_rows: Tensor | int) -> Tensor:
    """``h(x; s, M)``: rows in ``0 .. M - 1`` for int64 ``ids``.

    ``salt`` is ``mix(s)`` as int64 (see :func:`name_salt`), so that it is computed once.
    """
    return ((mix(ids ^ salt) >> 1) & (2**63 - 1)) % num_rows


def name_salt(name: str, *, seed: int = 0) -> int:
    """The salt ``mix(s)`` of a feature or chunk, as int64; ``s`` is a stable hash of its name.

    It depends on the name and the seed alone, so adding or reordering features moves no row.
    """
    return _signed(mix_int(name_seed(name, seed=seed)))


def hash_strings(tokens: Iterable[str]) -> Tensor:
    """Stable non-negative 63-bit ids of strings, for methods that need no vocabulary."""
    return torch.from_numpy(open_id(string_keys(tokens), text=True))


def hash_integers(tokens: Tensor) -> Tensor:
    """The same for int64 tokens, negative ones too: ``mix(x) >> 1``."""
    return (mix(tokens) >> 1) & (2**63 - 1)
