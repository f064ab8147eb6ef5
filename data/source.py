"""Input files as blocks of whole lines: plain, gzip or zip, with line numbers, bytes and a hash.

A block holds some tens of MB of text, whatever the file size. Lines end in LF or CRLF; a missing
end of line, a byte order mark and blank lines at the very end of a file are taken away.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zipfile
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from compactrec.data.schema import Layout

__all__ = ["DEFAULT_BLOCK_BYTES", "Block", "SourceFile", "count_byte"]

DEFAULT_BLOCK_BYTES = 32 << 20
_BOM = b"\xef\xbb\xbf"
_DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Block:
    """Whole lines of one file, each ended by a single LF."""

    file: str
    first_line: int
    """Line number of the first line in the file, counted from 1."""
    text: bytes
    num_lines: int


class _Hashed(io.RawIOBase):
    """A file that hashes the bytes that pass, when they are read in order."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self.digest = hashlib.sha256()
        self.position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        count = self._file.readinto(buffer) or 0
        self.digest.update(memoryview(buffer)[:count])
        self.position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class SourceFile:
    """One input file. Iterate `blocks()` once; then `sha256` and `num_rows` are known."""

    def __init__(
        self, path: str | Path, layout: Layout, block_bytes: int = DEFAULT_BLOCK_BYTES
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"no file {self.path}")
        self.layout, self.block_bytes = layout, block_bytes
        self.num_bytes = self.path.stat().st_size
        self.num_rows = 0
        self.sha256 = ""
        self._raw: _Hashed | None = None

    @property
    def bytes_read(self) -> int:
        """Bytes of the file on disk (compressed, if it is) that were read so far."""
        return 0 if self._raw is None else self._raw.position

    def fields(self) -> tuple[str, ...]:
        """Field names in file order, from the layout or the header; ValueError when empty."""
        if not self.layout.header:
            return self.layout.fields
        return tuple(self._split_header(self.first_line()))

    def first_line(self) -> str:
        """The first line of the file, without its end."""
        raw, stream = self._open()
        try:
            line = stream.readline(1 << 20)
        except _DAMAGED as error:
            raise self._damaged(0, error) from error
        finally:
            stream.close()
            raw.close()
        if not line.strip():
            raise ValueError(
                f"{self.path} is empty" if not line else f"{self.path}: line 1 is blank"
            )
        return self._text(line.removeprefix(_BOM).rstrip(b"\r\n"))

    def blocks(self) -> Generator[Block, None, None]:
        """The file's data lines (no header), in order."""
        raw, stream = self._open()
        self._raw = raw
        line = 1
        try:
            for text in self._whole_lines(stream):
                if line == 1 and self.layout.header:
                    line, text = 2, text[text.index(b"\n") + 1 :]
                num_lines = count_byte(text, b"\n")
                if num_lines:
                    yield Block(str(self.path), line, text, num_lines)
                line += num_lines
                self.num_rows += num_lines
            while raw.read(1 << 20):  # a zip's directory lies behind its last member
                pass
        except _DAMAGED as error:
            raise self._damaged(line - 1, error) from error
        finally:
            stream.close()
            self.sha256 = raw.digest.hexdigest()
            raw.close()
        if not self.num_rows:
            raise ValueError(f"{self.path} is empty: it has no data rows")

    def _whole_lines(self, stream: IO[bytes]) -> Iterator[bytes]:
        rest, first = b"", True
        while True:
            text = stream.read(self.block_bytes)
            last = not text
            text = rest + text
            if first:
                text, first = text.removeprefix(_BOM), False
            if b"\r" in text:
                text = text.replace(b"\r\n", b"\n")
            if last:
                text = text.rstrip(b"\n")
                if text:
                    yield text + b"\n"
                return
            # blank lines may be the file's last ones: hold them back until more text comes
            end = len(text.rstrip(b"\r\n"))
            end = text.rfind(b"\n", 0, end) + 1
            rest = text[end:]
            if len(rest) > 4 * self.block_bytes:
                raise ValueError(f"{self.path} has a line of over {len(rest):,} bytes: is it text?")
            if end:
                yield text[:end]

    def _open(self) -> tuple[_Hashed, IO[bytes]]:
        raw = _Hashed(self.path)
        buffered = io.BufferedReader(raw, buffer_size=1 << 20)
        magic = buffered.peek(4)[:4]
        if magic[:2] == b"\x1f\x8b":
            return raw, gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]
        if magic[:4] == b"PK\x03\x04":
            buffered.detach()  # else it closes `raw` when it goes
            return raw, self._open_member()
        return raw, buffered

    def _open_member(self) -> IO[bytes]:
        archive = zipfile.ZipFile(self.path)
        names = [
            n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX")
        ]
        wanted = self.layout.zip_member
        if wanted is None and len(names) == 1:
            wanted = names[0]
        if wanted not in names:
            raise ValueError(
                f"{self.path} holds {names}: name one of them in the schema's layout.zip_member, "
                f"got {wanted!r}"
            )
        member = archive.open(wanted)
        archive.close()  # the member keeps the file open
        return member

    def _text(self, line: bytes) -> str:
        return line.decode(self.layout.encoding, errors="replace")

    def _split_header(self, line: str) -> list[str]:
        quote = self.layout.quote
        return [name.strip().strip(quote or None) for name in line.split(self.layout.delimiter)]

    def _damaged(self, line: int, error: Exception) -> ValueError:
        return ValueError(
            f"{self.path} is truncated or damaged (after line {line}: "
            f"{error or type(error).__name__}); get the file again"
        )


def count_byte(text: bytes, byte: bytes) -> int:
    """How often one byte occurs."""
    return int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord(byte)))
