"""Named preprocessing protocols; numbers of two of them are never comparable.

* `compactrec`: ids by falling training count from 1 (ties: first appearance in training), id 0
  for every token without one; dense inputs log1p(max(v, 0)), missing 0.
* `dlrm-kaggle`: what the public DLRM reference does to the Kaggle file: an empty categorical field
  is token 0; one dictionary per column over ALL rows (test rows too), numbered by first appearance
  from 0, no id for unseen tokens; dense inputs log(max(v, 0) + 1) in float32; the `reference`
  split. The reference also permutes the training rows once with a seeded generator: that is left
  to the loader.
* `bars-criteo-x4-001` and `-002`: the BARS benchmark's Criteo_x4: all 39 columns categorical,
  numbers as buckets; id 0 is padding and never used, tokens by falling training count from 1 when
  seen 10 (002: 2) times, the last id for everything else. The fill value of a missing field (empty
  text, or 0 for numbers) is no token there and gets that last id too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from compactrec.data.split import SplitRule

__all__ = ["PROTOCOL_NAMES", "Protocol", "get_protocol"]


@dataclass(frozen=True)
class Protocol:
    """What a protocol fixes; None = the user may choose."""

    name: str
    order: Literal["frequency", "first_appearance"]
    """How tokens are numbered; first appearance counts all rows."""
    oov: Literal["first", "last"] | None
    """Where the id of tokens without one is; None = every token of the input has an id."""
    padding: bool = False
    """Whether id 0 is kept free."""
    min_count: int | None = None
    dense: Literal["log1p", "log_plus_one"] | None = "log1p"
    """Transform of dense inputs; None = the protocol has no dense inputs."""
    missing_is_oov: bool = False
    """Whether the token of a missing field is left out of the vocabulary."""
    splits: tuple[str, ...] = ("time", "random", "reference", "x4", "files")
    """Split rules allowed; the first is the default."""
    criteo_only: bool = True

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Dense values (float64) -> model inputs, float32."""
        if self.dense == "log_plus_one":
            clamped = np.maximum(values, 0).astype(np.float32)
            return np.asarray(np.log(clamped + np.float32(1)))
        return np.asarray(np.log1p(np.maximum(values, 0)), dtype=np.float32)

    def split_rule(self, given: SplitRule | None, default: SplitRule | None) -> SplitRule:
        """The rule to use; ValueError when this protocol has another one."""
        if given is None:
            fits = default is not None and default.rule in self.splits
            return default if fits and default else SplitRule(rule=self.splits[0])  # type: ignore[arg-type]
        if given.rule not in self.splits:
            raise ValueError(
                f"protocol {self.name!r} has split rule {' or '.join(map(repr, self.splits))}, got "
                f"{given.rule!r}: mixing protocols gives numbers that compare with nothing; use "
                f"protocol 'compactrec' to choose the split yourself"
            )
        return given


_ALL = (
    Protocol("compactrec", "frequency", "first", criteo_only=False),
    Protocol(
        "dlrm-kaggle", "first_appearance", None, dense="log_plus_one", splits=("reference",)
    ),
    *(
        Protocol(
            f"bars-criteo-x4-{number}", "frequency", "last", padding=True, min_count=min_count,
            dense=None, missing_is_oov=True, splits=("x4", "files"),
        )
        for number, min_count in (("001", 10), ("002", 2))
    ),
)  # fmt: skip
_BY_NAME = {protocol.name: protocol for protocol in _ALL}
PROTOCOL_NAMES = tuple(_BY_NAME)


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`; ValueError naming those there are."""
    if name not in _BY_NAME:
        raise ValueError(f"no protocol {name!r}; there are {list(PROTOCOL_NAMES)}")
    return _BY_NAME[name]
