"""Shape and difficulty of the synthetic click data."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["KAGGLE_SIZES", "SyntheticConfig"]

KAGGLE_SIZES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992,
    5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
"""Distinct values of C1 to C26 in the Criteo Kaggle training file."""

_LEAST_INTERACTING = 10


class SyntheticConfig(BaseModel):
    """Shape and difficulty of the synthetic data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(default=0.004, gt=0, le=1)
    """Vocabulary sizes relative to Criteo Kaggle; features of up to ``min_size`` ids stay whole."""
    min_size: int = Field(default=200, ge=1)
    """A scaled vocabulary never falls below this (nor below its own size)."""
    sizes: tuple[int, ...] | None = None
    """Vocabulary sizes to use instead of the scaled Kaggle profile."""
    num_dense: int = Field(default=13, ge=0)
    """Number of dense columns."""
    zipf_exponent: float = Field(default=1.1, ge=0)
    """P(k-th most frequent id) falls like k to the minus this; 0 is uniform."""
    hidden_dim: int = Field(default=2, ge=1)
    """Width of the hidden vectors u_f."""
    id_effect_std: float = Field(default=1.0, ge=0)
    """Standard deviation over rows of the sum of the per-id effects, in logits."""
    alignment: float = Field(default=0.7, ge=0, le=1)
    """Correlation of an id's effect with the sum of its hidden vector. Above 0, learning effects
    puts part of the hidden vectors into the embeddings, so one epoch learns interactions too."""
    interaction_std: float = Field(default=0.8, ge=0)
    """The same for the sum of the pairwise interactions."""
    dense_effect_std: float = Field(default=0.5, ge=0)
    """The same for the dense columns."""
    positive_rate: float = Field(default=0.25, gt=0, lt=1)
    """Expected share of positive labels."""
    num_interacting: int = Field(default=8, ge=0)
    """Features with hidden vectors: spread evenly over the features of ten ids or more by size."""
    feature_rank: dict[str, int] | None = None
    """Instead of ``num_interacting``: rank of u_f by name, 0 to ``hidden_dim``; the rest has 0."""
    noise_features: tuple[str, ...] = ()
    """Features without any influence on the label."""
    interacting: tuple[tuple[str, ...], ...] | None = None
    """Groups of features that interact within their group alone, all groups equally strongly; None:
    all with all. A group's u_f lie in the first rank coordinates of a block of its own, so two
    features interact in exactly the smaller of their ranks, each direction alike."""
    signal_mass: float = Field(default=1.0, gt=0, le=1)
    """The most probable ids that make up this share of the rows carry all signal: the rarer ids of
    every feature have no effect and no hidden vector."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.sparse_names()
        if not names or min(self.vocabulary_sizes()) < 1:
            raise ValueError(
                f"synthetic: sizes needs at least one feature and every size at least 1 id, got "
                f"{self.sizes}"
            )
        unknown = sorted({*(self.feature_rank or {}), *self.noise_features} - set(names))
        if unknown:
            raise ValueError(
                f"synthetic: feature_rank or noise_features name {unknown}, but the features are "
                f"{names[0]} to {names[-1]}; use those names"
            )
        bad = {k: r for k, r in (self.feature_rank or {}).items() if not 0 <= r <= self.hidden_dim}
        if bad:
            raise ValueError(
                f"synthetic: feature_rank must be between 0 and hidden_dim={self.hidden_dim}, got "
                f"{bad}; lower the ranks or raise hidden_dim"
            )
        self._check_groups()
        return self

    def _check_groups(self) -> None:
        if self.interacting is None:
            return
        ranks, given = self.ranks(), [name for group in self.interacting for name in group]
        apart = sorted({name for name, rank in ranks.items() if rank} ^ set(given))
        if apart or len(given) > len(set(given)):
            raise ValueError(
                f"synthetic: interacting must name every feature with a rank once, and no other: "
                f"{apart or given}; mend the groups or feature_rank"
            )
        needed = sum(max(ranks[name] for name in group) for group in self.interacting if group)
        if needed > self.hidden_dim:
            raise ValueError(
                f"synthetic: the groups' largest ranks sum to {needed}, but hidden_dim is "
                f"{self.hidden_dim}; raise hidden_dim"
            )

    def vocabulary_sizes(self) -> tuple[int, ...]:
        """Number of latent ids of each feature."""
        if self.sizes is not None:
            return self.sizes
        return tuple(max(round(n * self.scale), min(n, self.min_size)) for n in KAGGLE_SIZES)

    def sparse_names(self) -> list[str]:
        """C1, C2, ..."""
        return [f"C{i + 1}" for i in range(len(self.vocabulary_sizes()))]

    def ranks(self) -> dict[str, int]:
        """Rank of the hidden vectors of each feature; 0 = it has none."""
        names, sizes = self.sparse_names(), self.vocabulary_sizes()
        given = self.feature_rank
        if given is None:
            able = [i for i in np.argsort(sizes, kind="stable") if sizes[i] >= _LEAST_INTERACTING]
            chosen = np.linspace(0, len(able) - 1, min(self.num_interacting, len(able))).round()
            given = {names[able[int(i)]]: self.hidden_dim for i in chosen}
        return {name: 0 if name in self.noise_features else given.get(name, 0) for name in names}

    def groups(self) -> list[list[int]]:
        """Positions of the features that interact with each other, group by group."""
        names = self.sparse_names()
        if self.interacting is None:
            return [list(range(len(names)))]
        return [[names.index(name) for name in group] for group in self.interacting]

    def dense_names(self) -> list[str]:
        """I1, I2, ..."""
        return [f"I{i + 1}" for i in range(self.num_dense)]
