"""The hidden model behind the synthetic click data: what it draws, and the true probabilities.

    logit = bias + sum_f a_f[id_f] + sum_{f<g} <u_f[id_f], u_g[id_g]> + sum_j b_j z_j

``a_f`` is an effect of every single id, ``u_f`` a hidden vector of every id, ``z_j`` the
standardised transformed dense columns. Effects do not depend on how frequent an id is, so a model
that loses the middle and the tail of a vocabulary loses signal. ``a_f`` and ``u_f`` are centred
under the id distribution: an interaction adds nothing that single ids could explain.

Where ``interacting`` names groups, ``u_f`` of different groups are orthogonal: the sum over pairs
is one over pairs of a group. ``signal_mass`` below 1 sets ``a_f``, ``u_f`` of the rarest ids to 0.

Ids are latent here: 0 is the most probable. Everything is a pure function of the configuration, the
seed and the chunk number, so rows can be drawn again in any order and memory stays bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compactrec.data.teacher_config import KAGGLE_SIZES, SyntheticConfig

__all__ = [
    "CHUNK_ROWS",
    "KAGGLE_SIZES",
    "Chunk",
    "SyntheticConfig",
    "Teacher",
    "zipf_probabilities",
]

CHUNK_ROWS = 65_536
"""Rows drawn at a time; part of the definition of the data."""

_TEACHER, _IDS, _DENSE, _LABELS, _CALIBRATION = range(5)
_CALIBRATION_CHUNKS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows as they would stand in a raw file, with their true probabilities."""

    ids: list[NDArray[np.int32]]
    """Latent ids, one array (rows,) per feature."""
    dense: NDArray[np.int32]
    """(num_dense, rows) raw integers, some negative; 0 where missing."""
    missing: NDArray[np.bool_]
    """(num_dense, rows) True where the raw field is empty."""
    probability: NDArray[np.float32]
    """(rows,) true probability of a positive label."""
    labels: NDArray[np.float32]
    """(rows,) drawn from ``probability``."""

    def transformed(self) -> NDArray[np.float32]:
        """(num_dense, rows) ``log(1 + max(x, 0))``, as prepared data holds it."""
        return _transform(self.dense)


class Teacher:
    """Draws chunks of rows; see the module's text for the model.

    Args:
        config: shape and difficulty.
        seed: fixes the hidden parameters and every row.
    """

    def __init__(self, config: SyntheticConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.sizes = config.vocabulary_sizes()
        rng = self._rng(_TEACHER, 0)
        self._draw_sparse(rng)
        self._draw_dense(rng)
        self.bias = self._calibrate()

    def chunk(self, index: int, num_rows: int = CHUNK_ROWS) -> Chunk:
        """The first ``num_rows`` rows of chunk ``index``."""
        ids = self.ids(index, num_rows)
        dense, missing = self._dense(index, num_rows)
        logit = self._logit(ids, dense) + np.float32(self.bias)
        probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
        draw = self._rng(_LABELS, index).random(CHUNK_ROWS, dtype=np.float32)[:num_rows]
        return Chunk(ids, dense, missing, probability, (draw < probability).astype(np.float32))

    def ids(self, index: int, num_rows: int = CHUNK_ROWS) -> list[NDArray[np.int32]]:
        """Only the latent ids of a chunk (cheaper than the whole chunk)."""
        rng = self._rng(_IDS, index)
        out = []
        for size in self.sizes:
            u = rng.random(CHUNK_ROWS)[:num_rows]
            out.append(_zipf(u, size, self.config.zipf_exponent))
        return out

    def effects(self, feature: int) -> NDArray[np.float32]:
        """(n,) the per-id effects a_f of a feature, by latent id."""
        table = self._tables[feature]
        return table[:, 0] + 0.5 * np.square(table[:, 1:]).sum(1)

    def hidden(self, feature: int) -> NDArray[np.float32]:
        """(n, hidden_dim) the hidden vectors u_f of a feature, by latent id."""
        return self._tables[feature][:, 1:]

    def _rng(self, stream: int, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self.seed, stream, index]))

    def _draw_sparse(self, rng: np.random.Generator) -> None:
        """Fill ``_tables``: per feature (n, 1 + K) float32 rows [a - |u|^2 / 2, u].

        Summed over the features, column 0 plus half the squared norm of the rest is the sum of
        all effects and all pairwise products.
        """
        config = self.config
        starts = _block_starts(config)
        effects, vectors = [], []
        for f, ((name, rank), size) in enumerate(
            zip(config.ranks().items(), self.sizes, strict=True)
        ):
            p = zipf_probabilities(size, config.zipf_exponent)
            head = _head(p, config.signal_mass)
            signal = name not in config.noise_features
            a = _standardise(rng.standard_normal((size, 1)), p, head) * signal
            basis = np.linalg.qr(rng.standard_normal((config.hidden_dim, config.hidden_dim)))[0]
            if config.interacting is not None:
                basis = np.eye(config.hidden_dim)[starts[f] :]
            u = _standardise(rng.standard_normal((size, rank)), p, head) @ basis[:rank]
            if rank and size > 1:
                toward = _standardise(u.sum(1, keepdims=True), p, head)
                a = config.alignment * toward + np.sqrt(1 - config.alignment**2) * a
                a = _standardise(a, p, head)
            effects.append(a[:, 0])
            vectors.append((u, (u * p[:, None]).T @ u))
        _scale(effects, vectors, config)
        self._tables = [
            np.column_stack([a - 0.5 * np.square(u).sum(1), u]).astype(np.float32)
            for a, (u, _) in zip(effects, vectors, strict=True)
        ]

    def _draw_dense(self, rng: np.random.Generator) -> None:
        num = self.config.num_dense
        self._dense_mean = rng.uniform(0.0, 3.0, num).astype(np.float32)
        self._dense_spread = rng.uniform(0.8, 1.8, num).astype(np.float32)
        self._dense_missing = rng.choice([0.0, 0.05, 0.2, 0.45], num)
        self._dense_shift = np.where(np.arange(num) % 4 == 1, 3, 0).astype(np.int32)
        weight = rng.standard_normal(num)
        self._dense_weight = (weight / max(float(np.linalg.norm(weight)), 1e-12)).astype(np.float32)
        self._dense_centre = np.zeros(num, np.float32)
        if num:
            z = _transform(self._dense(0, CHUNK_ROWS, _CALIBRATION)[0])
            self._dense_centre = z.mean(1)
            self._dense_weight *= np.float32(self.config.dense_effect_std) / z.std(1)

    def _dense(
        self, index: int, num_rows: int, stream: int = _DENSE
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        rng = self._rng(stream, index)
        dense = np.empty((self.config.num_dense, num_rows), np.int32)
        missing = np.zeros((self.config.num_dense, num_rows), np.bool_)
        for j in range(self.config.num_dense):
            z = rng.standard_normal(CHUNK_ROWS, dtype=np.float32)[:num_rows]
            x = np.exp(z * self._dense_spread[j] + self._dense_mean[j])
            dense[j] = np.minimum(x, 1e6).astype(np.int32) - self._dense_shift[j]
            if self._dense_missing[j] > 0:
                draw = rng.random(CHUNK_ROWS, dtype=np.float32)[:num_rows]
                missing[j] = draw < self._dense_missing[j]
                dense[j][missing[j]] = 0
        return dense, missing

    def _logit(self, ids: list[NDArray[np.int32]], dense: NDArray[np.int32]) -> NDArray[np.float32]:
        total = np.zeros((len(ids[0]), 1 + self.config.hidden_dim), np.float32)
        for table, column in zip(self._tables, ids, strict=True):
            total += table[column]
        logit: NDArray[np.float32] = total[:, 0] + 0.5 * np.square(total[:, 1:]).sum(1)
        if len(dense):
            logit += self._dense_weight @ (_transform(dense) - self._dense_centre[:, None])
        return logit

    def _calibrate(self) -> float:
        """The bias that gives the wanted positive rate on rows of their own."""
        logits = []
        for i in range(_CALIBRATION_CHUNKS):
            index = (1 << 40) + i
            logits.append(self._logit(self.ids(index), self._dense(index, CHUNK_ROWS)[0]))
        logit = np.concatenate(logits)
        low, high = -30.0, 30.0
        for _ in range(50):
            middle = (low + high) / 2
            rate = float(np.mean(1 / (1 + np.exp(-(logit + middle)))))
            low, high = (middle, high) if rate < self.config.positive_rate else (low, middle)
        return (low + high) / 2


def zipf_probabilities(size: int, exponent: float) -> NDArray[np.float64]:
    """(size,) probability of each latent id; id k has the mass of x**-exponent on [k+1, k+2)."""
    edges = np.arange(1, size + 2, dtype=np.float64)
    cdf = np.log(edges) if exponent == 1 else (edges ** (1 - exponent) - 1) / (1 - exponent)
    return np.diff(cdf) / cdf[-1]


def _zipf(u: NDArray[np.float64], size: int, exponent: float) -> NDArray[np.int32]:
    """Ids from uniform draws by the inverse of the distribution function."""
    if exponent == 1:
        x = np.exp(u * np.log(size + 1))
    else:
        power = 1 - exponent
        x = (1 + u * ((size + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(x.astype(np.int32) - 1, size - 1)


def _transform(dense: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.log1p(np.maximum(dense, 0).astype(np.float32))


def _head(p: NDArray[np.float64], mass: float) -> int:
    """How many of the most probable ids make up ``mass``."""
    return len(p) if mass == 1 else min(int(np.searchsorted(np.cumsum(p), mass)) + 1, len(p))


def _block_starts(config: SyntheticConfig) -> dict[int, int]:
    """First coordinate of each feature's hidden vector, by position."""
    ranks, start = list(config.ranks().values()), 0
    starts = dict.fromkeys(range(len(ranks)), 0)
    for group in config.groups():
        starts |= dict.fromkeys(group, start)
        start += max((ranks[f] for f in group), default=0)
    return starts


def _standardise(x: NDArray[np.float64], p: NDArray[np.float64], head: int) -> NDArray[np.float64]:
    """Columns of mean 0 and variance 1 under ``p``, 0 from row ``head`` on.

    All zero where only one id exists.
    """
    if head < len(p):
        p = np.where(np.arange(len(p)) < head, p, 0.0)
        x = np.where(p[:, None] > 0, x - p @ x / p.sum(), 0.0)
    else:
        x = x - p @ x
    std = np.sqrt(p @ np.square(x))
    return x / np.where(std > 1e-9, std, np.inf)


def _scale(
    effects: list[NDArray[np.float64]],
    vectors: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
    config: SyntheticConfig,
) -> None:
    """Scale in place so that both parts have the wanted standard deviation over rows.

    The variance of a group's interactions is the sum over its pairs of trace(cov_f cov_g).
    """
    weights = np.array([np.log(1 + len(a)) * bool(a.any()) for a in effects])
    weights = np.sqrt(weights / max(weights.sum(), 1e-12))
    for a, (u, _), weight in zip(effects, vectors, weights, strict=True):
        a *= config.id_effect_std * weight
        u *= weight
    covs = [cov * weight**2 for (_, cov), weight in zip(vectors, weights, strict=True)]
    groups = config.groups()
    wanted = config.interaction_std / np.sqrt(max(len(groups), 1))
    for group in groups:
        total = np.sum([covs[f] for f in group], axis=0)
        own = sum(float(np.sum(covs[f] * covs[f])) for f in group)
        variance = (float(np.sum(total * total)) - own) / 2
        factor = np.sqrt(wanted / np.sqrt(variance)) if variance > 1e-12 else 0.0
        for f in group:
            vectors[f][0][:] *= factor
