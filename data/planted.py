"""Clicks with a planted answer: which width each feature needs is known, and which rows none.

Pairs of features interact in 2, 4, 8 and 16 dimensions, all pairs equally strongly, and with
nothing else. An id's effect lies in the span of its hidden vector, so a feature of rank r needs
exactly r numbers per id; two features have effects alone and need one, two are noise and need none.
The rarest ids carry no signal.

    python -m compactrec.data.planted datasets/planted
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from compactrec.data.synthetic import make_synthetic
from compactrec.data.teacher_config import SyntheticConfig

__all__ = ["NUM_ROWS", "SEED", "main", "needed_widths", "planted_config"]

NUM_ROWS = 600_000
"""Rows of all splits that a DLRM of width 16 learns the interactions from in three epochs."""
SEED = 2026

_RANKS = {"C1": 2, "C2": 2, "C3": 4, "C4": 4, "C5": 8, "C6": 8, "C7": 16, "C8": 16}
_EFFECTS = ("C9", "C10")
_NOISE = ("C11", "C12")
_SIZES = (3000, 600, 2500, 600, 2000, 600, 1500, 600, 4000, 800, 5000, 700)


def planted_config() -> SyntheticConfig:
    """Twelve features of 600 to 5000 ids; see the module's text."""
    return SyntheticConfig(
        sizes=_SIZES,
        num_dense=2,
        zipf_exponent=1.1,
        hidden_dim=30,
        feature_rank=_RANKS,
        interacting=(("C1", "C2"), ("C3", "C4"), ("C5", "C6"), ("C7", "C8")),
        noise_features=_NOISE,
        signal_mass=0.85,
        id_effect_std=1.0,
        alignment=1.0,
        interaction_std=2.0,
        dense_effect_std=0.3,
        positive_rate=0.4,
    )


def needed_widths(config: SyntheticConfig) -> dict[str, int]:
    """The planted answer: numbers per id that a feature needs, where effects are aligned."""
    noise = config.noise_features
    return {name: 0 if name in noise else max(rank, 1) for name, rank in config.ranks().items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the data folder named on the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 1:
        print("usage: python -m compactrec.data.planted FOLDER", file=sys.stderr)
        return 2
    make_synthetic(Path(words[0]), NUM_ROWS, SEED, planted_config())
    return 0


if __name__ == "__main__":
    sys.exit(main())
