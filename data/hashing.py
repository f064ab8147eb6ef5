"""Stable 64-bit hashes of tokens: the same in every process, on every machine, in every version."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = ["bucket", "mix", "open_id", "salt_of", "string_keys"]

_ADD = np.uint64(0x9E3779B97F4A7C15)
_MUL1 = np.uint64(0xBF58476D1CE4E5B9)
_MUL2 = np.uint64(0x94D049BB133111EB)


def mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser of `x`, uint64 in and out: a bijection."""
    with np.errstate(over="ignore"):
        x = x.astype(np.uint64) + _ADD
        x = (x ^ (x >> np.uint64(30))) * _MUL1
        x = (x ^ (x >> np.uint64(27))) * _MUL2
    return np.asarray(x ^ (x >> np.uint64(31)))


def salt_of(name: str) -> int:
    """A 64-bit salt from a feature's name, so that adding a feature moves no other one's ids."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def bucket(keys: np.ndarray, salt: int, num_buckets: int) -> np.ndarray:
    """Bucket of each uint64 key in [0, num_buckets): `(mix(key xor mix(salt)) >> 1) mod M`."""
    salted = keys.astype(np.uint64) ^ mix(np.array([salt], dtype=np.uint64))[0]
    return ((mix(salted) >> np.uint64(1)) % np.uint64(num_buckets)).astype(np.int64)


def open_id(keys: np.ndarray) -> np.ndarray:
    """A 63-bit id of each uint64 key; equal tokens of two features get equal ids."""
    return (mix(keys) >> np.uint64(1)).astype(np.int64)


def string_keys(tokens: Iterable[str]) -> np.ndarray:
    """A uint64 key per string: blake2b of its UTF-8 bytes, 8 bytes, little-endian."""
    blake2b = hashlib.blake2b
    digests = b"".join(blake2b(token.encode(), digest_size=8).digest() for token in tokens)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
