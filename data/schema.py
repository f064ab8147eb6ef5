"""The schema of a table of clicks: which fields a file has and what each one is used for.

A schema is a short TOML file (see `docs/data.md`); the Criteo formats are built in
(`compactrec.data.criteo`). Names may hold one range, `hash_{0..18}`, and then stand for one column
per number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.data.split import SplitRule
from compactrec.data.transforms import Transform
from compactrec.words import read_toml, validated

__all__ = [
    "Dense",
    "Join",
    "Label",
    "Layout",
    "Sparse",
    "TableSchema",
    "load_schema",
    "shipped_schemas",
]

SCHEMA_FOLDER = Path(__file__).parent / "schemas"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Layout(_Frozen):
    """How the text of a file is cut into fields."""

    delimiter: str = Field(default=",", min_length=1)
    """Text between two fields; may be longer than one character."""
    header: bool = True
    """Whether the first line of every file names the fields."""
    fields: tuple[str, ...] = ()
    """Field names in file order; needed without a header, read from it otherwise."""
    quote: Literal["", '"'] = ""
    """Quote character; quoted fields may hold delimiters but no line ends. Empty = none."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """Text encoding of the file."""
    zip_member: str | None = None
    """Name of the file inside a zip archive; None = the archive's only file."""

    @model_validator(mode="after")
    def _check_layout(self) -> Self:
        object.__setattr__(self, "fields", tuple(n for f in self.fields for n in expand(f)))
        if not self.header and not self.fields:
            raise ValueError(
                "a file without a header needs `fields`: its field names in file order"
            )
        twice = sorted({name for name in self.fields if self.fields.count(name) > 1})
        if twice:
            raise ValueError(f"`fields` must be distinct, {twice} occur more than once")
        return self


class Label(_Frozen):
    """Where the 0/1 label of a row comes from."""

    field: str = "label"
    """Field that holds it."""
    file: str | None = None
    """Row-aligned second file (beside the data file) that holds `field`; read with `layout`."""
    layout: Layout = Layout()
    """Layout of `file`."""
    threshold: float | None = None
    """Label is 1 where the value is at least this; None = the value must be 0 or 1."""
    drop: tuple[float, ...] = ()
    """Rows with one of these values are left out (counted, not an error)."""

    @model_validator(mode="after")
    def _check_label(self) -> Self:
        if self.drop and self.threshold is None:
            raise ValueError("label.drop needs label.threshold: a 0/1 label has nothing to drop")
        return self


class Dense(_Frozen):
    """A numeric input; missing values become `missing` before the transform."""

    name: str
    field: str | None = None
    """Field it is read from; None = `name`."""
    type: Literal["float", "int"] = "float"
    missing: float = 0.0
    transform: Transform | None = None
    """See `compactrec.data.transforms`; None = the protocol's."""
    shift: float | None = None
    """Of transform `log_shifted`: log(max(v + shift, 1)); None = 1."""

    @model_validator(mode="after")
    def _check_dense(self) -> Self:
        if self.shift is not None and self.transform != "log_shifted":
            raise ValueError(f"dense {self.name!r}: shift is for transform 'log_shifted'")
        return self


class Sparse(_Frozen):
    """A categorical input: one token per row, or a list of tokens."""

    name: str
    field: str | None = None
    """Field it is read from; None = `name`."""
    type: Literal["string", "int", "hex", "bucket", "hour", "weekday", "weekend"] = "string"
    """`int`: signed 64-bit; `hex`: up to 8 hexadecimal digits, kept as their value; `bucket`: a
    number v kept as floor(ln(v)^2) where v > 2 and as its integer part elsewhere; `hour`, `weekday`
    (0 is Sunday) and `weekend` (0 or 1): that part of a time YYMMDDHH."""
    missing: int | None = None
    """Types int and hex: token of an empty field. None: -1 for hex, a malformed row for int. An
    empty string is always the token '', an empty bucket field 0."""
    separator: str | None = None
    """Text between the tokens of a list; None = one token per row."""
    max_bag: int | None = Field(default=None, ge=2)
    """Longest list allowed; None = the longest one met."""
    too_long: Literal["truncate", "error"] = "truncate"
    """What to do with a longer list: keep its first `max_bag` tokens and count it, or stop."""
    mode: Literal["full", "min_count", "most_frequent", "hashed"] | None = None
    """Vocabulary mode of this column; None = the run's."""
    min_count: int | None = Field(default=None, ge=1)
    num_ids: int | None = Field(default=None, ge=2)
    """Buckets in mode `hashed`, None = the run's; ids in mode `most_frequent`, OOV included."""
    wrap: int | None = Field(default=None, ge=1)
    """Ids are taken modulo this, and so many there are."""
    bag: int | None = Field(default=None, ge=1)
    """With `wrap`: made-up bags of so many ids, see `compactrec.data.multihot`."""

    @model_validator(mode="after")
    def _check_sparse(self) -> Self:
        if self.separator is None and self.max_bag is not None:
            raise ValueError(f"sparse {self.name!r}: max_bag needs a separator (it is for lists)")
        if self.mode == "most_frequent" and self.num_ids is None:
            raise ValueError(
                f"sparse {self.name!r}: mode 'most_frequent' needs num_ids, how many ids there are "
                f"with OOV"
            )
        if self.wrap is not None and (self.mode not in (None, "full") or self.separator):
            raise ValueError(
                f"sparse {self.name!r}: wrap is for one token per row and a whole vocabulary (mode "
                f"'full')"
            )
        if self.bag is not None and self.wrap is None:
            raise ValueError(f"sparse {self.name!r}: bag needs wrap, the size of the table")
        if self.missing is not None and self.type not in ("int", "hex"):
            raise ValueError(
                f"sparse {self.name!r}: missing is for types 'int' and 'hex'; an empty string is a "
                f"token of its own, an empty bucket field 0"
            )
        return self


class Join(_Frozen):
    """A side table, held in memory, whose fields are added to each row by a key."""

    file: str
    """Path, relative to the data file's folder."""
    layout: Layout
    on: str
    """Key field: in the main table and in the side table."""
    unmatched: Literal["error", "missing"] = "error"
    """A row whose key the side table lacks: malformed, or its side fields empty (counted)."""


_Column = TypeVar("_Column", Dense, Sparse)


class TableSchema(_Frozen):
    """Everything needed to read one format of click table."""

    name: str
    format: Literal["criteo"] | None = None
    """`criteo`: tabs or commas, header or none are found out from the first line; no layout."""
    layout: Layout = Layout()
    label: Label = Label()
    dense: tuple[Dense, ...] = ()
    sparse: tuple[Sparse, ...] = ()
    join: tuple[Join, ...] = ()
    split: SplitRule | None = None
    """Split that fits this table, unless the caller names another; None = by time."""

    @model_validator(mode="after")
    def _check_table(self) -> Self:
        object.__setattr__(self, "dense", _expanded(self.dense))
        object.__setattr__(self, "sparse", _expanded(self.sparse))
        if not self.sparse:
            raise ValueError("a schema needs at least one [[sparse]] column")
        names = ["label", *(c.name for c in self.dense), *(c.name for c in self.sparse)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"column names must be distinct, {twice} occur more than once")
        unsafe = [name for name in names if not re.fullmatch(r"[A-Za-z0-9_.\-]+", name)]
        if unsafe:
            raise ValueError(f"column names may hold letters, digits, _ . -; got {unsafe}")
        return self

    def used_fields(self) -> list[str]:
        """Fields of the main table and the side tables that are read, each once."""
        wanted = [] if self.label.file else [self.label.field]
        wanted += [column.field or column.name for column in self.dense]
        wanted += [column.field or column.name for column in self.sparse]
        wanted += [join.on for join in self.join]
        return list(dict.fromkeys(wanted))


def expand(name: str) -> list[str]:
    """`"C{1..3}"` -> `["C1", "C2", "C3"]`; a name without a range stands for itself."""
    found = _RANGE.search(name)
    if found is None:
        return [name]
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise ValueError(f"the range in {name!r} must rise, got {first}..{last}")
    return [f"{name[: found.start()]}{i}{name[found.end() :]}" for i in range(first, last + 1)]


def _expanded(columns: tuple[_Column, ...]) -> tuple[_Column, ...]:
    result: list[_Column] = []
    for column in columns:
        fields = expand(column.field) if column.field else [None] * len(expand(column.name))
        names = expand(column.name)
        if len(fields) != len(names):
            raise ValueError(f"{column.name!r} and {column.field!r} stand for different numbers")
        for name, field in zip(names, fields, strict=True):
            result.append(column.model_copy(update={"name": name, "field": field}))
    return tuple(result)


def shipped_schemas() -> dict[str, Path]:
    """Name -> path of the schema files that come with the package."""
    return {path.stem: path for path in sorted(SCHEMA_FOLDER.glob("*.toml"))}


def load_schema(source: str | Path) -> TableSchema:
    """A schema from a TOML file, or from the name of a shipped one; ValueError in words."""
    shipped = shipped_schemas()
    path = shipped.get(str(source), Path(source))
    if not path.is_file():
        raise ValueError(
            f"no schema {str(source)!r}: give the path of a .toml file, 'criteo', or one of the "
            f"shipped schemas {sorted(shipped)}"
        )
    content = read_toml(path, "schema", "give a file that you may read")
    try:
        return validated(TableSchema, {"name": path.stem, **content})
    except ValueError as error:
        raise ValueError(f"{path} is not a valid schema: {error}") from error
