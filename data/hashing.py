"""Stable 64-bit hashes of tokens: the same in every process, on every machine, in every version.

This is the NumPy half of `compactrec.embeddings.hashing` and needs no torch; that module takes its
hash of texts from here, so that prepared and served ids are equal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = ["bucket", "mix", "name_seed", "open_id", "string_keys", "tokens_as_served"]

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


def name_seed(name: str, *, seed: int = 0) -> int:
    """The seed s of a feature or chunk, 64 bits: adding a feature moves no other one's ids."""
    return int(string_keys([f"{seed}:{name}"])[0])


def bucket(keys: np.ndarray, seed: int, num_buckets: int) -> np.ndarray:
    """Bucket of each uint64 key in [0, num_buckets): `(mix(key xor mix(seed)) >> 1) mod M`."""
    salted = keys.astype(np.uint64) ^ mix(np.array([seed], dtype=np.uint64))[0]
    return ((mix(salted) >> np.uint64(1)) % np.uint64(num_buckets)).astype(np.int64)


def open_id(keys: np.ndarray, *, text: bool) -> np.ndarray:
    """A 63-bit id of each uint64 key; equal tokens of two features get equal ids.

    It is what `hash_strings` (`text`) and `hash_integers` give for the token.
    """
    return ((keys if text else mix(keys)) >> np.uint64(1)).astype(np.int64)


def tokens_as_served(keys: np.ndarray, *, text: bool) -> np.ndarray:
    """What a server hands to `salted_hash`: 63 bits of a text's key, an integer as it is."""
    return keys >> np.uint64(1) if text else keys


def string_keys(tokens: Iterable[str]) -> np.ndarray:
    """A uint64 key per string: blake2b of its UTF-8 bytes, 8 bytes, little-endian."""
    blake2b = hashlib.blake2b
    digests = b"".join(blake2b(token.encode(), digest_size=8).digest() for token in tokens)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
