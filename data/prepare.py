"""`prepare`: raw click files -> a data folder. Two passes, bounded memory, all or nothing.

manifest = prepare(["train.txt"], "criteo", "folder", PrepareOptions())
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compactrec.data.criteo import criteo_layout, criteo_schema
from compactrec.data.folder import building
from compactrec.data.manifest import SPLITS, Counters, Manifest
from compactrec.data.progress import Progress
from compactrec.data.protocol import Protocol, get_protocol
from compactrec.data.schema import Layout, TableSchema, load_schema
from compactrec.data.source import DEFAULT_BLOCK_BYTES, SourceFile
from compactrec.data.split import SplitRule, make_row_split
from compactrec.data.spool import Spool

try:
    from compactrec.data.encode import Encoder
    from compactrec.data.ingest import Ingest
    from compactrec.data.tables import LabelFile, SideTable, beside
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'preparing data needs polars and pyarrow, and {error.name!r} is not installed: "pip '
        f"install '.[study]'\" in the checkout",
        name=error.name,
    ) from error

__all__ = ["PrepareOptions", "prepare"]

_NUMBER_OF = {"min_count": ("min_count",), "num_ids": ("hashed", "most_frequent")}
"""Number of a column -> the modes that use it."""
Paths = str | Path | Sequence[str | Path]
Files = Paths | Mapping[str, Paths]


class PrepareOptions(BaseModel):
    """Choices of one `prepare` run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    """Name of the data in results; None = the schema's."""
    protocol: str = "compactrec"
    """See `compactrec.data.protocol`."""
    split: SplitRule | None = None
    """None = the schema's, else the protocol's default."""
    mode: Literal["full", "min_count", "hashed"] = "full"
    """Vocabulary of the columns for which the schema says nothing."""
    min_count: int | None = Field(default=None, ge=1)
    """Training occurrences a token needs, in columns of mode `min_count`; None is 2."""
    num_ids: int | None = Field(default=None, ge=2)
    """Buckets per feature in mode `hashed`; None = open 63-bit ids."""
    max_ind_range: int | None = Field(default=None, ge=1)
    """Protocol dlrm-kaggle: take tokens modulo this first."""
    unseen: Literal["oov", "error"] = "oov"
    """Tokens of validation or test that training never has: the OOV id, or stop. Hashed columns
    have no vocabulary that could lack a token: nothing is unseen there."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A malformed row: stop, or count it and set it aside in rejected.tsv."""
    overwrite: bool = False
    """Replace an existing data folder."""
    block_bytes: int = Field(default=DEFAULT_BLOCK_BYTES, ge=1)
    """Text held in memory at a time."""
    shard_rows: int = Field(default=1 << 20, ge=1)
    """Most rows per parquet file."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        get_protocol(self.protocol)
        if self.protocol != "compactrec" and self.mode != "full":
            raise ValueError(
                f"protocol {self.protocol!r} fixes its vocabularies, got mode {self.mode!r} "
                f"(--mode); use protocol 'compactrec' to choose"
            )
        if self.num_ids is not None and self.mode != "hashed":
            raise ValueError(
                f"num_ids (--num-ids) is for mode 'hashed', got mode {self.mode!r}; leave it out, "
                f"or choose that mode (--mode)"
            )
        if self.max_ind_range is not None and self.protocol != "dlrm-kaggle":
            raise ValueError(
                f"max_ind_range (--max-ind-range) belongs to protocol 'dlrm-kaggle', got protocol "
                f"{self.protocol!r}; use mode 'hashed' for bounded vocabularies"
            )
        return self


def prepare(
    files: Files,
    schema: str | Path | TableSchema,
    out: str | Path,
    options: PrepareOptions | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Turn click files into a data folder and return its manifest.

    `files`: one path, paths in row order, or the same per split, `{"train": [...], "validation":
    [...], "test": [...]}`. `schema`: "criteo", the name of a shipped schema, a TOML path or a
    `TableSchema`. `out`: the folder to make; it appears only when everything went well. `progress`
    is called with (stage, bytes done, bytes in all). Needs scratch space beside `out`, of about the
    size of the unpacked input.

    Raises ValueError, naming file and line, for input that does not fit the schema.
    """
    options = options or PrepareOptions()
    protocol = get_protocol(options.protocol)
    groups = _groups(files)
    table, layouts = _resolve(schema, protocol, groups)
    _check_modes(table, options, protocol)
    rule = _rule(options, protocol, table, isinstance(files, Mapping))
    if rule.rule == "last_file":
        groups = [groups[0][:-1], groups[0][-1:], []]
    sources = [
        [SourceFile(path, layouts[path], options.block_bytes) for path in group] for group in groups
    ]
    with building(Path(out), options.overwrite) as folder:
        spool = Spool(folder / "spool.bin")
        try:
            manifest = _build(sources, table, rule, options, protocol, folder, spool, progress)
        finally:
            spool.close()
            for scratch in (folder / "spool.bin", *folder.glob("bags_*.bin")):
                scratch.unlink(missing_ok=True)
        manifest.save(folder)
    return manifest


def _build(
    sources: list[list[SourceFile]], table: TableSchema, rule: SplitRule, options: PrepareOptions,
    protocol: Protocol, folder: Path, spool: Spool, progress: Progress | None,
) -> Manifest:  # fmt: skip
    report = progress or (lambda stage, done, total: None)
    main, used = (sources[0] or sources[1])[0].path, table.used_fields()
    file = table.label.file
    labels = LabelFile(beside(main, file, table), table.label) if file else None
    sides = [SideTable(beside(main, join.file, table), join, used) for join in table.join]
    total = sum(source.num_bytes for group in sources for source in group)
    modes = _modes(table, options)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        ingest = Ingest(
            table, protocol, spool, pool, folder, options.on_bad_row == "skip",
            keep_tokens=lambda name: modes[name] != "hashed",
        )  # fmt: skip
        ingest.run(sources, labels, sides, lambda done: report("reading", done, total))
    num_rows = sum(chunk.num_rows for chunk in ingest.chunks)
    if not num_rows:
        raise ValueError(
            f"no usable rows: {ingest.num_bad:,} malformed, {ingest.num_dropped:,} dropped by label"
        )
    groups = [sum(c.num_rows for c in ingest.chunks if c.group == g) for g in range(3)]
    row_split = make_row_split(rule, num_rows, (groups[0], groups[1], groups[2]))
    encoder = Encoder(
        table, options, protocol, ingest.chunks, row_split, spool, folder, ingest.least
    )
    features, unseen = encoder.number(lambda done, of: report("numbering", done, of))
    splits, positives = encoder.write(lambda done, of: report("writing", done, of))
    return Manifest(
        name=options.name or table.name,
        protocol=protocol.name,
        dense=tuple(spec.name for spec in table.dense),
        dense_transform=_dense_transform(table, protocol),
        sparse=tuple(features),
        splits=splits,
        split_rule=rule.model_dump(mode="json", exclude_none=True),
        unseen_policy=options.unseen,
        max_ind_range=options.max_ind_range,
        counters=Counters(
            malformed_rows=ingest.num_bad, dropped_rows=ingest.num_dropped, unseen_ids=unseen,
            truncated_bags=ingest.truncated, unmatched_keys=ingest.unmatched, positives=positives,
        ),
        sources=tuple(ingest.sources),
        schema=table.model_dump(mode="json"),
    )  # fmt: skip


def _dense_transform(
    table: TableSchema, protocol: Protocol
) -> Literal["log1p", "none", "protocol"]:
    if not table.dense:
        return "none"
    own = any(spec.transform is not None for spec in table.dense)
    return "protocol" if own or protocol.dense == "above_minimum" else "log1p"


def _groups(files: Files) -> list[list[Path]]:
    """The files per split, or all of them as one group."""
    if isinstance(files, Mapping):
        unknown = sorted(set(files) - set(SPLITS))
        if unknown or not files.get("train"):
            raise ValueError(
                f"files per split need 'train' and may have 'validation' and 'test'; got "
                f"{sorted(files)}"
            )
        groups = [_paths(files.get(split, ())) for split in SPLITS]
    else:
        groups = [_in_order(_paths(files))]
    paths = [path for group in groups for path in group]
    if not paths:
        raise ValueError("no input files: give one or more paths")
    whole = [path.resolve() for path in paths]
    twice = sorted({str(path) for path in whole if whole.count(path) > 1})
    if twice:
        raise ValueError(
            f"these files are given more than once: {twice}; the same rows would be in several "
            f"places, so give every file once and let a split rule divide it"
        )
    return groups


def _paths(files: Paths) -> list[Path]:
    return [Path(files)] if isinstance(files, str | Path) else [Path(path) for path in files]


def _in_order(paths: list[Path]) -> list[Path]:
    """A shell lists day_10 before day_2; rows must come in time order."""
    natural = sorted(
        paths, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", str(p))]
    )
    if paths == sorted(paths) and paths != natural:
        warnings.warn(
            f"files taken in the order of their numbers: {[path.name for path in natural]}",
            stacklevel=4,
        )
        return natural
    return paths


def _resolve(
    schema: str | Path | TableSchema, protocol: Protocol, groups: list[list[Path]]
) -> tuple[TableSchema, dict[Path, Layout]]:
    """The schema, and the layout of each file."""
    paths = [path for group in groups for path in group]
    if schema == "criteo":
        _check_table(protocol, "criteo")
        return criteo_schema(paths[0], protocol), {path: criteo_layout(path) for path in paths}
    table = schema if isinstance(schema, TableSchema) else load_schema(schema)
    _check_table(protocol, table.name)
    if table.label.file and len(paths) != 1:
        raise ValueError(f"a schema with label.file takes one data file, got {len(paths)}")
    if table.format == "criteo":
        return table, {path: criteo_layout(path) for path in paths}
    return table, dict.fromkeys(paths, table.layout)


def _check_table(protocol: Protocol, table: str) -> None:
    if protocol.tables is not None and table not in protocol.tables:
        allowed = " or ".join(map(repr, protocol.tables))
        raise ValueError(
            f"protocol {protocol.name!r} is defined on schema {allowed} only, got schema "
            f"{table!r}; use that, or protocol 'compactrec' (--protocol)"
        )


def _modes(table: TableSchema, options: PrepareOptions) -> dict[str, str]:
    return {spec.name: spec.mode or options.mode for spec in table.sparse}


def _check_modes(table: TableSchema, options: PrepareOptions, protocol: Protocol) -> None:
    """ValueError for a number or a policy that no column would use."""
    modes = _modes(table, options)
    for spec in table.sparse:
        for key, allowed in _NUMBER_OF.items():
            if getattr(spec, key) is not None and modes[spec.name] not in allowed:
                raise ValueError(
                    f"sparse {spec.name!r}: {key} is for mode {' or '.join(map(repr, allowed))}, "
                    f"and its mode is {modes[spec.name]!r}; set mode = {allowed[0]!r} for it or "
                    f"leave {key} out"
                )
    used = set(modes.values())
    unused = protocol.min_count is not None or "min_count" not in used
    if options.min_count is not None and unused:
        raise ValueError(
            f"min_count (--min-count) is for columns of mode 'min_count', got {options.min_count} "
            f"and no such column; set mode 'min_count' (--mode) or leave it out"
        )
    if options.unseen == "error" and used == {"hashed"}:
        raise ValueError(
            "unseen 'error' (--unseen) needs a column with a vocabulary: every column is hashed, "
            "and a hash gives every token an id; leave it out"
        )


def _rule(
    options: PrepareOptions, protocol: Protocol, table: TableSchema, per_split: bool
) -> SplitRule:
    if not per_split:
        rule = protocol.split_rule(options.split, table.split)
        if rule.rule == "files":
            raise ValueError(
                f"protocol {protocol.name!r} has the split rule 'files', which needs one list of "
                "files per split: --validation-file and --test-file, in Python {'train': [...], "
                "'validation': [...], 'test': [...]}"
            )
        return rule
    given = options.split or SplitRule(rule="files")
    if given.rule != "files":
        raise ValueError(
            f"the files are given per split already, got split rule {given.rule!r} (--split) "
            f"too; leave one out"
        )
    return protocol.split_rule(given, None)
