"""A block of text as a table of strings; lines that do not fit are told apart, with the reason."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from compactrec.data.schema import Layout
from compactrec.data.source import Block, count_byte

__all__ = ["BadRow", "Rows", "parse_block", "shown"]

_UNIT = b"\x1f"
_SHOWN = 200


@dataclass(frozen=True)
class BadRow:
    """A line that cannot be used."""

    file: str
    line: int
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}: {shown(self.text)}"


@dataclass
class Rows:
    """The usable lines of a block as strings (empty field = null), and the other lines."""

    frame: pl.DataFrame
    """One String column per wanted field."""
    lines: np.ndarray | None
    """Index in the block of each row; None = every line is a row."""
    bad: list[BadRow] = field(default_factory=list)

    def line_index(self) -> np.ndarray:
        """Index in the block of each row."""
        return np.arange(self.frame.height) if self.lines is None else self.lines


def shown(text: str) -> str:
    """`text` as it stands in an error message: quoted, and cut when long."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def parse_block(
    block: Block, layout: Layout, file_fields: Sequence[str], wanted: Sequence[str]
) -> Rows:
    """Cut the block into fields; ValueError when the file lacks a wanted field."""
    missing = [name for name in wanted if name not in file_fields]
    if missing:
        raise ValueError(
            f"{block.file} has no column {missing}; its columns are {list(file_fields)}"
        )
    text = block.text
    if layout.encoding != "utf-8":
        text = text.decode(layout.encoding).encode()
    delimiter = layout.delimiter.encode()
    if len(delimiter) > 1:
        text, delimiter = text.replace(delimiter, _UNIT), _UNIT
    rows = _read(text, delimiter, layout.quote, file_fields, wanted)
    if rows is not None and rows.height == block.num_lines:
        return Rows(rows, None)
    return _read_what_fits(block, text, delimiter, layout, file_fields, wanted)


def _read(
    text: bytes, delimiter: bytes, quote: str, fields: Sequence[str], wanted: Sequence[str]
) -> pl.DataFrame | None:
    """The whole text in one go, or None when some line does not fit."""
    if quote and quote.encode() in text:
        lines = text.decode("utf-8", errors="replace").split("\n")[:-1]
        if any(_num_fields(line, delimiter.decode(), quote) != len(fields) for line in lines):
            return None
    elif count_byte(text, delimiter) != (len(fields) - 1) * count_byte(text, b"\n"):
        return None  # polars would fill up a short line without a word
    elif set(wanted) != set(fields) and not _all_lines_fit(text, delimiter, len(fields)):
        return None  # and pass over a long one where it does not read its end
    # an empty line counts as one field, which is right for a table of one column only
    if len(fields) == 1 and (text.startswith(b"\n") or b"\n\n" in text):
        return None
    try:
        frame = pl.read_csv(
            text,
            separator=delimiter.decode(),
            has_header=False,
            quote_char=quote or None,
            schema=dict.fromkeys(fields, pl.String),
            columns=sorted(fields.index(name) for name in wanted),
        )
    except (pl.exceptions.ComputeError, pl.exceptions.SchemaError):
        return None
    frame = frame.select(wanted)
    if quote and (quote * 2).encode() in text:  # a quoted empty field is an empty field
        frame = frame.with_columns(pl.all().replace("", None))
    return frame


def _all_lines_fit(text: bytes, delimiter: bytes, num_fields: int) -> bool:
    """Whether every line has its fields, in a text that has the right number in all."""
    letters = np.frombuffer(text, dtype=np.uint8)
    marks = letters[(letters == ord(delimiter)) | (letters == ord(b"\n"))]
    return bool((marks[num_fields - 1 :: num_fields] == ord(b"\n")).all())


def _num_fields(line: str, delimiter: str, quote: str) -> int:
    if not quote or quote not in line:
        return line.count(delimiter) + 1
    try:
        return len(next(csv.reader([line], delimiter=delimiter, quotechar=quote, strict=True)))
    except csv.Error:
        return -1


def _read_what_fits(
    block: Block, text: bytes, delimiter: bytes, layout: Layout, fields: Sequence[str],
    wanted: Sequence[str],
) -> Rows:  # fmt: skip
    good: list[bytes] = []
    index: list[int] = []
    bad: list[BadRow] = []
    for number, raw in enumerate(text.split(b"\n")[:-1]):
        line = raw.decode("utf-8", errors="replace")
        found = _num_fields(line, delimiter.decode(), layout.quote)
        reason = ""
        if found == -1:
            reason = "the quotes do not match"
        elif found != len(fields) or not raw:
            reason = f"expected {len(fields)} fields separated by {layout.delimiter!r}, got {found}"
        elif "\ufffd" in line and not _decodes(raw):
            reason = "not valid UTF-8 (set layout.encoding = 'latin-1' if that is what it is)"
        if reason:
            original = (
                line.replace(_UNIT.decode(), layout.delimiter) if delimiter == _UNIT else line
            )
            bad.append(BadRow(block.file, block.first_line + number, reason, original))
        else:
            good.append(raw)
            index.append(number)
    if not good:
        empty = pl.DataFrame(schema=dict.fromkeys(wanted, pl.String))
        return Rows(empty, np.zeros(0, dtype=np.int64), bad)
    frame = _read(b"\n".join(good) + b"\n", delimiter, layout.quote, fields, wanted)
    if frame is None or frame.height != len(good):
        last = block.first_line + block.num_lines - 1
        raise ValueError(f"{block.file}: cannot read lines {block.first_line} to {last}")
    return Rows(frame, np.asarray(index), bad)


def _decodes(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
