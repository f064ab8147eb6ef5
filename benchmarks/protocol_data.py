"""The data of a protocol: prepared from raw files, or recognised, and marked where it is other."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compactrec.benchmarks.protocol_file import ProtocolData, ProtocolFile, SplitName
from compactrec.data.criteo import criteo_columns
from compactrec.data.manifest import MANIFEST_NAME, Manifest
from compactrec.data.protocol import get_protocol
from compactrec.data.schema import TableSchema, load_schema
from compactrec.file_hash import file_sha256

if TYPE_CHECKING:
    from compactrec.data.progress import Progress

__all__ = ["data_folder", "marks_of"]

FOLDER_NAME = "data"


def data_folder(
    protocol: ProtocolFile, files: Mapping[str, Sequence[Path]], out: Path,
    progress: Progress | None = None,
) -> Path:  # fmt: skip
    """A data folder of this protocol: the one given, or made from raw files in `out/data`.

    `files`: paths per split; without `validation` and `test` the protocol's rule divides them.

    Raises ValueError for a folder that was prepared otherwise, or from other files.
    """
    given = [path for paths in files.values() for path in paths]
    if len(given) == 1 and (given[0] / MANIFEST_NAME).is_file():
        _check(protocol, given[0])
        return given[0]
    folders = [str(path) for path in given if path.is_dir()]
    if folders:
        raise ValueError(
            f"{folders[0]} is neither a file nor a data folder; give raw files, or one folder that "
            f"'{_command(protocol.data, given)}' made"
        )
    made = out / FOLDER_NAME
    if (made / MANIFEST_NAME).is_file():
        _check(protocol, made)
        _check_sources(made, given)
        return made
    from compactrec.data.prepare import PrepareOptions, prepare

    data = protocol.data
    made.parent.mkdir(parents=True, exist_ok=True)
    apart = any(paths for split, paths in files.items() if split != "train")
    source = {split: list(paths) for split, paths in files.items()} if apart else given
    prepare(source, data.table, made, PrepareOptions(protocol=data.protocol), progress)
    return made


def _check(protocol: ProtocolFile, folder: Path) -> None:
    """ValueError when a folder was prepared otherwise."""
    data, manifest = protocol.data, Manifest.load(folder)
    command = _command(data, [Path(source.name) for source in manifest.sources])
    if manifest.protocol != data.protocol:
        raise ValueError(
            f"{folder} was prepared by the rules of {manifest.protocol!r}, and protocol "
            f"{protocol.name!r} needs those of {data.protocol!r}: its ids and columns are others. "
            f"Prepare it with '{command}'"
        )
    found = TableSchema.model_validate(manifest.table_schema)
    if data.table == "criteo":
        dense, sparse = criteo_columns(get_protocol(data.protocol))
    else:
        table = load_schema(data.table)
        dense, sparse = table.dense, table.sparse
    if (found.dense, found.sparse) != (dense, sparse):
        raise ValueError(
            f"{folder} was prepared with other columns than protocol {protocol.name!r} has (schema "
            f"{data.table!r}); prepare it with '{command}'"
        )


def _check_sources(folder: Path, given: Sequence[Path]) -> None:
    """ValueError where a file is not one that the folder was made from: reads each once, which
    takes a fraction of the time of preparing it."""
    sources = [(s.name, s.num_bytes, s.sha256) for s in Manifest.load(folder).sources]
    for path in given:
        if not path.is_file():
            raise ValueError(f"no file {path}")
        found = (path.name, path.stat().st_size)
        alike = [digest for *rest, digest in sources if tuple(rest) == found]
        if not alike or file_sha256(path) not in alike:
            raise ValueError(
                f"{folder} was prepared from other files than {path}; give another --out folder, "
                f"or remove {folder}"
            )


def _command(data: ProtocolData, files: Sequence[Path]) -> str:
    words = [shlex.quote(str(path)) for path in files] or ["FILES"]
    return (
        f"compactrec prepare {data.table} {' '.join(words)} --protocol {data.protocol} --out FOLDER"
    )


def marks_of(data: ProtocolData, manifest: Manifest) -> Iterator[str]:
    """What this data has otherwise than the protocol's, in words."""
    found = {name: split.num_rows for name, split in manifest.splits.items()}
    yield from _row_marks(data.rows, found)
    sizes = [feature.num_ids for feature in manifest.sparse]
    num_ids = sum(size or 0 for size in sizes)
    if data.num_ids is not None and num_ids != data.num_ids:
        yield f"a vocabulary of {num_ids:,} ids instead of {data.num_ids:,}"
    if data.published_split == "files" and manifest.split_rule.get("rule") != "files":
        yield "a random split of our own: the published one is in files, one for each split"
    if manifest.max_ind_range is not None:
        yield f"tokens were taken modulo {manifest.max_ind_range:,} (--max-ind-range)"
    if manifest.counters.malformed_rows:
        yield f"{manifest.counters.malformed_rows:,} malformed rows were left out"


def _row_marks(rows: Mapping[SplitName, int], found: Mapping[str, int]) -> Iterator[str]:
    if not rows:
        yield "whether these are all rows cannot be checked: their number is not known here"
        return
    wanted, total = sum(rows.values()), sum(found.values())
    if total < wanted:
        yield f"a sample: {total:,} of {wanted:,} rows"
    elif total > wanted:
        yield f"other data: {total:,} rows instead of {wanted:,}"
    else:
        others = {s: n for s, n in rows.items() if abs(found.get(s, 0) - n) > 1}  # rounded
        if others:
            texts = (f"{s} {found.get(s, 0):,} rows instead of {n:,}" for s, n in others.items())
            yield f"another split: {', '.join(texts)}"
