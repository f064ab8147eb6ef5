"""Named preprocessing protocols; numbers of two of them are never comparable.

A protocol fixes how ids are numbered and how rows are split. Columns and transforms of numbers are
those of Criteo files (`compactrec.data.criteo`) or of the shipped schema of the protocol's name.

* `compactrec`: ids by falling training count from 1 (ties: first appearance in training), id 0
  for every token without one; dense inputs log1p(max(v, 0)), missing 0.
* `dlrm-kaggle`: what the public DLRM reference does to the Kaggle file: an empty categorical field
  is token 0; one dictionary per column over ALL rows (test rows too), numbered by first appearance
  from 0, no id for unseen tokens; dense inputs log(max(v, 0) + 1) in float32; the `reference`
  split. The reference also permutes the training rows once with a seeded generator: that is left
  to the loader.
* `torchrec-kaggle`: what torchrec's scripts do to Criteo files: ids over all rows by first
  appearance from 2, tokens of fewer than 3 rows are 1, 0 is free; dense inputs log(v - m + 2),
  m the least of a file's 13 columns; the `torchrec` split.
* `mlperf-dlrm-dcnv2`: the same without a least count, one file per day, the last one halved; ids
  modulo the table sizes; bags made up by `compactrec.data.multihot`.
* `bars-criteo-x4-001` and `-002`: the BARS benchmark's Criteo_x4: all 39 columns categorical,
  numbers as buckets; id 0 is padding and never used, tokens by falling training count from 1 when
  seen 10 (002: 2) times, the last id for everything else. The fill value of a missing field (empty
  text, or 0 for numbers) is no token there and gets that last id too. `avazu-x4` is the same on
  Avazu, seen 2 times; `bars-criteo-x1` keeps every token.
* `unified-*`: ids by falling count over all rows; of Criteo and Avazu the most frequent ones, as
  many as the schema says, 0 for the rest; of MovieLens-1M all of them, from 0.
* `optembed-*`, `autoint-criteo`: ids by falling count over all rows, from 1; tokens with fewer
  than the schema's least count are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from compactrec.data.split import SplitRule
from compactrec.data.transforms import dense_input

__all__ = ["PROTOCOL_NAMES", "Protocol", "get_protocol"]


@dataclass(frozen=True)
class Protocol:
    """What a protocol fixes; None = the user may choose."""

    name: str
    order: Literal["frequency", "first_appearance"]
    """How tokens are numbered."""
    oov: Literal["first", "last"] | None
    """Where the id of tokens without one is; None = every token of the input has an id."""
    padding: bool = False
    """Whether id 0 is kept free."""
    first_id: int | None = None
    """Id of the first token; None = the first after padding and OOV."""
    counted: Literal["training", "all"] = "training"
    """The rows whose tokens are counted and numbered."""
    min_count: int | None = None
    dense: Literal["log1p", "log_plus_one", "above_minimum"] | None = "log1p"
    """Transform of dense inputs without one of their own; None = the protocol has none."""
    missing_is_oov: bool = False
    """Whether the token of a missing field is left out of the vocabulary."""
    empty_is_zero: bool = False
    """Whether an empty hexadecimal field is the token 0."""
    splits: tuple[str, ...] = ("time", "random", "reference", "x4", "torchrec", "tail", "files")
    """Split rules allowed; the first is the default."""
    amounts: tuple[str, str] | None = None
    """Validation and test of rule `random`, where they are fixed."""
    tables: tuple[str, ...] | None = ("criteo",)
    """Schemas it is defined on; None = any."""

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Dense values (float64) -> model inputs, float32."""
        return dense_input(values, self.dense or "none")

    def split_rule(self, given: SplitRule | None, default: SplitRule | None) -> SplitRule:
        """The rule to use; ValueError when this protocol has another one."""
        fixed = SplitRule(rule=self.splits[0])  # type: ignore[arg-type]  # the names are of rules
        if self.amounts is not None:
            fixed = SplitRule(rule="random", validation=self.amounts[0], test=self.amounts[1])
        if given is None:
            fits = default is not None and default.rule in self.splits and self.amounts is None
            return default if fits and default else fixed
        if given.rule in self.splits and (self.amounts is None or given == fixed):
            return given
        rules, got = " or ".join(map(repr, self.splits)), repr(given.rule)
        if self.amounts is not None:
            rules += f" with {self.amounts[0]} validation and {self.amounts[1]} test, seed 0"
            got += f" with {given.validation} and {given.test}, seed {given.seed}"
        raise ValueError(
            f"protocol {self.name!r} has split rule {rules}, got {got}: mixing protocols gives "
            f"numbers that compare with nothing; use protocol 'compactrec' to choose the split "
            f"yourself"
        )


_BARS: dict[str, Any] = {
    "order": "frequency", "oov": "last", "padding": True, "dense": None, "missing_is_oov": True,
}  # fmt: skip
_X4 = ("x4", "files")
_TENTHS = ("1/10", "1/10")


def _own(name: str, **fixed: Any) -> Protocol:
    """A protocol that is defined on the shipped schema of its name; counts are of all rows."""
    rules = {"order": "frequency", "oov": "first", "counted": "all", "tables": (name,)}
    return Protocol(name, **{**rules, **fixed})


_ALL = (
    Protocol("compactrec", "frequency", "first", tables=None),
    Protocol(
        "dlrm-kaggle", "first_appearance", None, dense="log_plus_one", counted="all",
        empty_is_zero=True, splits=("reference",),
    ),
    Protocol(
        "torchrec-kaggle", "first_appearance", "first", padding=True, min_count=3, counted="all",
        dense="above_minimum", empty_is_zero=True, splits=("torchrec",),
    ),
    _own(
        "mlperf-dlrm-dcnv2", order="first_appearance", oov=None, first_id=2,
        dense="above_minimum", splits=("last_file",),
    ),
    Protocol("bars-criteo-x4-001", min_count=10, splits=_X4, **_BARS),
    Protocol("bars-criteo-x4-002", min_count=2, splits=_X4, **_BARS),
    _own("bars-criteo-x1", **{**_BARS, "dense": "log1p"}, counted="training", splits=("files",)),
    _own("avazu-x4", **_BARS, min_count=2, counted="training", splits=_X4),
    _own("unified-criteo", splits=("tail",)),
    _own("unified-avazu", splits=("random",), amounts=("9/100", "1/10")),
    _own("unified-ml1m", oov=None, splits=("random",), amounts=_TENTHS),
    *(
        _own(f"optembed-{data}", splits=("random",), amounts=_TENTHS)
        for data in ("criteo", "avazu", "kdd12")
    ),
    _own("autoint-criteo", splits=("x4",)),
)  # fmt: skip
_BY_NAME = {protocol.name: protocol for protocol in _ALL}
PROTOCOL_NAMES = tuple(_BY_NAME)


def get_protocol(name: str) -> Protocol:
    """The protocol called `name`; ValueError naming those there are."""
    if name not in _BY_NAME:
        raise ValueError(f"no protocol {name!r}; there are {list(PROTOCOL_NAMES)}")
    return _BY_NAME[name]
