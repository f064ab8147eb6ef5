"""The Criteo display advertising formats: the Kaggle `train.txt` and CSV files with a header (x4).

Both have a label, 13 numbers I1..I13 and 26 tokens C1..C26 of eight hexadecimal digits; an empty
field is a missing value. Tabs or commas, header or none, are found out from the first line.
"""

from __future__ import annotations

from pathlib import Path

from compactrec.data.protocol import Protocol
from compactrec.data.schema import Dense, Label, Layout, Sparse, TableSchema
from compactrec.data.source import SourceFile

__all__ = ["CRITEO_DENSE", "CRITEO_SPARSE", "criteo_columns", "criteo_layout", "criteo_schema"]

CRITEO_DENSE = tuple(f"I{i}" for i in range(1, 14))
CRITEO_SPARSE = tuple(f"C{i}" for i in range(1, 27))
_FIELDS = ("label", *CRITEO_DENSE, *CRITEO_SPARSE)


def criteo_layout(path: str | Path) -> Layout:
    """Delimiter and header of one Criteo file; ValueError when it is no Criteo file."""
    line = SourceFile(path, Layout(header=False, fields=("line",))).first_line()
    delimiter = "\t" if "\t" in line else ","
    found = line.split(delimiter)
    if len(found) != len(_FIELDS):
        raise ValueError(
            f"{path}, line 1: a Criteo file has {len(_FIELDS)} fields (label, I1..I13, C1..C26), "
            f"separated by tabs or commas; got {len(found)}. For another format write a schema file"
        )
    if set(found) == set(_FIELDS):
        return Layout(delimiter=delimiter, header=True)
    return Layout(delimiter=delimiter, header=False, fields=_FIELDS)


def criteo_schema(path: str | Path, protocol: Protocol) -> TableSchema:
    """The schema of one Criteo file under a protocol."""
    dense, sparse = criteo_columns(protocol)
    return TableSchema(
        name="criteo", layout=criteo_layout(path), label=Label(), dense=dense, sparse=sparse
    )


def criteo_columns(protocol: Protocol) -> tuple[tuple[Dense, ...], tuple[Sparse, ...]]:
    """The dense and the sparse columns under a protocol."""
    if protocol.dense is None:
        dense: tuple[Dense, ...] = ()
        sparse = [Sparse(name=name, type="bucket") for name in CRITEO_DENSE]
    else:
        kind = "int" if protocol.dense in ("log_plus_one", "above_minimum") else "float"
        dense = tuple(Dense(name=name, type=kind) for name in CRITEO_DENSE)  # type: ignore[arg-type]
        sparse = []
    missing = 0 if protocol.empty_is_zero else None
    sparse += [Sparse(name=name, type="hex", missing=missing) for name in CRITEO_SPARSE]
    return dense, tuple(sparse)
