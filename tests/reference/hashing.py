"""The one hash family of the project, with Python integers and with NumPy uint64.

mix is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), applied after adding the
golden-ratio increment:

    x += 0x9E3779B97F4A7C15
    x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9
    x ^= x >> 27;  x *= 0x94D049BB133111EB
    x ^= x >> 31                                  all modulo 2^64, logical shifts

    h(x; s, M) = (mix(x xor mix(s)) >> 1) mod M

Negative ids are read as their two's complement, the 64 bits that a signed integer tensor holds.
"""

import hashlib

import numpy as np

__all__ = ["hash_array", "hash_id", "mix", "mix_array", "name_seed", "sign"]

MASK_64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB


def mix(x: int) -> int:
    """Scramble 64 bits; Python integers, so every shift is logical and nothing overflows."""
    x = ((x & MASK_64) + GOLDEN) & MASK_64
    x = ((x ^ (x >> 30)) * FIRST) & MASK_64
    x = ((x ^ (x >> 27)) * SECOND) & MASK_64
    return x ^ (x >> 31)


def hash_id(x: int, seed: int, num_rows: int) -> int:
    """Row of id `x` among `num_rows` rows: h(x; seed, num_rows)."""
    return (mix((x & MASK_64) ^ mix(seed)) >> 1) % num_rows


def name_seed(name: str, seed: int = 0) -> int:
    """The seed s of a feature or chunk: 8 bytes, little end first, of BLAKE2b of "seed:name"."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little"
    )


def sign(x: int, seed: int) -> int:
    """xi(x) of Weinberger et al. 2009: +1 where h(x; seed, 2) is 0, else -1."""
    return 1 - 2 * hash_id(x, seed, 2)


def mix_array(x: np.ndarray) -> np.ndarray:
    """`mix` for an array of uint64 (NumPy wraps modulo 2^64 for unsigned arrays)."""
    x = np.asarray(x, dtype=np.uint64) + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return np.asarray(x ^ (x >> np.uint64(31)))


def hash_array(x: np.ndarray, seed: int, num_rows: int) -> np.ndarray:
    """`hash_id` for an array of int64 or uint64 ids."""
    mixed = mix_array(np.asarray(x).astype(np.uint64) ^ np.uint64(mix(seed)))
    return np.asarray((mixed >> np.uint64(1)) % np.uint64(num_rows)).astype(np.int64)
