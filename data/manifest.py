"""The manifest of a data folder: what the columns are, where the rows lie, how ids were made.

A data folder is `manifest.json`, parquet shards (`train/00000.parquet`, ...) and one
`vocabulary/<feature>.parquet` per feature that has a vocabulary. Everything that reads prepared
data starts with `Manifest.load(folder)`; what makes it ends with `manifest.save(folder)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compactrec.data.protocol import PROTOCOL_NAMES
from compactrec.file_hash import file_sha256

__all__ = [
    "MANIFEST_NAME",
    "SPLITS",
    "Counters",
    "Manifest",
    "Shard",
    "Source",
    "SparseFeature",
    "Split",
]

MANIFEST_NAME = "manifest.json"
FORMAT = "compactrec.data"
VERSION = 1
SPLITS = ("train", "validation", "test")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class SparseFeature(_Frozen):
    """One column of ids."""

    name: str
    """Logical feature name, also the column name in the shards."""
    num_ids: int | None
    """Rows a full table needs (OOV and padding included); None = open vocabulary (63-bit ids)."""
    max_bag: int = Field(default=1, ge=1)
    """Most ids in one example; 1 = a plain integer column, above 1 = a list column."""
    mode: Literal["full", "min_count", "most_frequent", "hashed"] = "full"
    """Which tokens have an id: all, those seen `min_count` times, the most frequent, or hashed."""
    min_count: int = Field(default=1, ge=1)
    """Occurrences a token needs to have an id of its own; in training, if the protocol counts no
    other rows."""
    oov_id: int | None = 0
    """Id of every token without one of its own; None = there is none (dlrm-kaggle, hashed)."""
    padding_id: int | None = None
    """Id that no row uses (BARS protocols); None = no such id."""
    order: Literal["frequency", "first_appearance", "hash"] = "frequency"
    """How ids were numbered."""
    vocabulary: str | None = None
    """Path of the vocabulary file, relative to the folder; None = no file (open vocabulary)."""
    oov_count: int = Field(default=0, ge=0)
    """Training ids that were mapped to `oov_id`."""
    num_tokens: int | None = None
    """Distinct tokens of the input, all splits, before any was dropped; None = not counted."""

    @model_validator(mode="after")
    def _check(self) -> SparseFeature:
        for label, value in (("oov_id", self.oov_id), ("padding_id", self.padding_id)):
            if value is not None and self.num_ids is not None and not 0 <= value < self.num_ids:
                raise ValueError(
                    f"feature {self.name!r}: {label} must be in [0, {self.num_ids}), got {value}"
                )
        if self.num_ids is None and self.mode != "hashed":
            raise ValueError(
                f"feature {self.name!r}: only mode 'hashed' may have an open vocabulary"
            )
        return self


class Shard(_Frozen):
    """One parquet file of a split."""

    path: str
    num_rows: int = Field(ge=0)
    sha256: str


class Split(_Frozen):
    """One split: its shards, in row order."""

    num_rows: int = Field(ge=0)
    shards: tuple[Shard, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Split:
        total = sum(shard.num_rows for shard in self.shards)
        if total != self.num_rows:
            raise ValueError(f"the shards hold {total} rows, num_rows says {self.num_rows}")
        return self


class Counters(_Frozen):
    """What was met while preparing."""

    malformed_rows: int = 0
    """Rows set aside in rejected.tsv."""
    dropped_rows: int = 0
    """Rows left out because the schema drops their label value."""
    unseen_ids: dict[str, dict[str, int]] = Field(default_factory=dict)
    """split -> feature -> ids of tokens that never occur in the training split; 0 where the feature
    is hashed, which tells nothing."""
    truncated_bags: dict[str, int] = Field(default_factory=dict)
    """feature -> bags that were longer than max_bag and were cut."""
    unmatched_keys: dict[str, int] = Field(default_factory=dict)
    """join key column -> rows whose key the side table lacks."""
    positives: dict[str, int] = Field(default_factory=dict)
    """split -> rows with label 1."""


class Source(_Frozen):
    """One input file."""

    name: str
    num_bytes: int
    num_rows: int
    sha256: str


class Manifest(_Frozen):
    """Everything known about one data folder. See `docs/data.md` for the file format."""

    format: Literal["compactrec.data"] = "compactrec.data"
    version: Literal[1] = 1
    name: str
    protocol: str
    """Of `compactrec.data.protocol`, or `synthetic`."""
    label: str = "label"
    dense: tuple[str, ...] = ()
    dense_transform: Literal["log1p", "none", "protocol"] = "log1p"
    """`protocol`: what the protocol or the columns of the schema say."""
    sparse: tuple[SparseFeature, ...] = ()
    splits: dict[str, Split]
    split_rule: dict[str, Any] = Field(default_factory=dict)
    unseen_policy: Literal["oov", "error"] = "oov"
    max_ind_range: int | None = Field(default=None, ge=1)
    """Tokens were taken modulo this first. Folders from before it was kept do not say so."""
    counters: Counters = Field(default_factory=Counters)
    sources: tuple[Source, ...] = ()
    table_schema: dict[str, Any] = Field(default_factory=dict, alias="schema")
    best_auc: float | None = None
    """AUC of the teacher's own probabilities on the test split; only generated data has one."""

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        known = (*PROTOCOL_NAMES, "synthetic")
        if self.protocol not in known:
            raise ValueError(f"unknown protocol {self.protocol!r}; there are {list(known)}")
        unknown = sorted(set(self.splits) - set(SPLITS))
        if unknown or "train" not in self.splits:
            raise ValueError(
                f"splits must be 'train' and optionally 'validation', 'test', got "
                f"{sorted(self.splits)}"
            )
        names = [self.label, *self.dense, *(feature.name for feature in self.sparse)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"column names must be distinct, {twice} occur more than once")
        return self

    # -- files ---------------------------------------------------------------------------------

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read `folder/manifest.json`; ValueError in words when it is no (whole) data folder."""
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise ValueError(
                f"{folder} is not a data folder: it has no {MANIFEST_NAME}; make one with "
                f"'compactrec prepare'"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is not valid JSON ({error}); prepare the data again"
            ) from error
        found = (
            (content.get("format"), content.get("version")) if isinstance(content, dict) else None
        )
        if found != (FORMAT, VERSION):
            raise ValueError(
                f"{path} has format and version {found}, this program reads "
                f"{(FORMAT, VERSION)}; prepare the data again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ValueError(f"{path} is not a valid manifest: {error}") from error

    def save(self, folder: str | Path) -> Path:
        """Write `folder/manifest.json` and return its path."""
        path = Path(folder) / MANIFEST_NAME
        path.write_text(self.to_json(), encoding="utf-8")
        return path

    def to_json(self) -> str:
        """The manifest as text; equal manifests give equal text.

        `max_ind_range` is in it only where there is one: text and hash of older folders stay.
        """
        idle = {"max_ind_range"} if self.max_ind_range is None else set()
        fields = self.model_dump(mode="json", by_alias=True, exclude=idle)
        return json.dumps(fields, indent=1) + "\n"

    def sha256(self) -> str:
        """Hash of the manifest's text: names the data, since it holds every shard's hash."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    # -- questions -----------------------------------------------------------------------------

    def feature(self, name: str) -> SparseFeature:
        """The sparse feature called `name`; ValueError naming those there are."""
        for feature in self.sparse:
            if feature.name == name:
                return feature
        raise ValueError(
            f"no sparse feature {name!r}; there are {[feature.name for feature in self.sparse]}"
        )

    def shard_paths(self, folder: str | Path, split: str) -> list[Path]:
        """Paths of the shards of `split`, in row order; ValueError for an unknown split."""
        if split not in self.splits:
            raise ValueError(f"no split {split!r}; there are {sorted(self.splits)}")
        return [Path(folder) / shard.path for shard in self.splits[split].shards]

    def counts(self, folder: str | Path) -> dict[str, np.ndarray]:
        """Training counts per feature, shape (num_ids,) int64; open vocabularies are left out.

        Raises ValueError, naming the file, where one is missing or damaged.
        """
        result: dict[str, np.ndarray] = {}
        for feature in self.sparse:
            if feature.num_ids is None or feature.vocabulary is None:
                continue
            ids, occurrences = _id_counts(Path(folder) / feature.vocabulary)
            counts = np.zeros(feature.num_ids, dtype=np.int64)
            np.add.at(counts, ids, occurrences)
            if feature.oov_id is not None:
                counts[feature.oov_id] += feature.oov_count
            result[feature.name] = counts
        return result

    def verify(self, folder: str | Path, splits: Collection[str] | None = None) -> None:
        """Compare every shard of these splits, or of all, with its sha256; reads every byte.

        Raises ValueError naming the first file that differs.
        """
        for name in self.splits if splits is None else splits:
            for shard in self.splits[name].shards:
                path = Path(folder) / shard.path
                if not path.is_file():
                    raise ValueError(f"{path} is missing; prepare the data again")
                if file_sha256(path) != shard.sha256:
                    raise ValueError(
                        f"{path} has changed since it was prepared (its sha256 differs from the "
                        f"manifest's); prepare the data again"
                    )


def _id_counts(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The two columns of a vocabulary file that count."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"{path} is missing; the manifest lists it, prepare the data again")
    try:
        table = pq.read_table(path, columns=["id", "count"])
        return table["id"].to_numpy(), table["count"].to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"{path} is not a whole vocabulary ({text}); prepare the data again"
        ) from error
