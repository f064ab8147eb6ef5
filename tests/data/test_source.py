"""Blocks of lines: the same lines with the right numbers, whatever packing and block size."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path

import pytest

from compactrec.data.background import ahead
from compactrec.data.schema import Layout
from compactrec.data.source import SourceFile

LINES = [f"{i},{'x' * (i % 7)}" for i in range(1, 41)]
PLAIN = Layout(header=False, fields=("a", "b"))


def lines_of(source: SourceFile) -> list[tuple[int, str]]:
    found = []
    for block in ahead(source.blocks()):
        texts = block.text.decode().split("\n")
        assert texts.pop() == ""
        assert len(texts) == block.num_lines
        found += list(enumerate(texts, block.first_line))
    return found


def make(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"data.{kind}"
    if kind == "gz":
        half = len(content) // 2  # two members, as `cat a.gz b.gz` makes
        path.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._a.csv", "junk")
            archive.writestr("a.csv", content)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["csv", "gz", "zip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("tail", ["", "END", "ENDENDEND"])
@pytest.mark.parametrize("block_bytes", [9, 64, 1 << 20])
def test_lines_and_numbers(
    tmp_path: Path, kind: str, end: str, tail: str, block_bytes: int
) -> None:
    content = ("\ufeff" + end.join(LINES) + tail.replace("END", end)).encode()
    path = make(tmp_path, kind, content)
    source = SourceFile(path, PLAIN, block_bytes)
    assert lines_of(source) == list(enumerate(LINES, 1))
    assert source.num_rows == 40
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.bytes_read == path.stat().st_size


def test_header_is_line_one(tmp_path: Path) -> None:
    path = make(tmp_path, "csv", ("a, b\n" + "\n".join(LINES)).encode())
    source = SourceFile(path, Layout(), 30)
    assert source.fields() == ("a", "b")
    assert lines_of(source) == list(enumerate(LINES, 2))


def test_blank_line_in_the_middle_is_kept(tmp_path: Path) -> None:
    source = SourceFile(make(tmp_path, "csv", b"1,a\n\n\n2,b\n\n"), PLAIN, 4)
    assert lines_of(source) == [(1, "1,a"), (2, ""), (3, ""), (4, "2,b")]


def test_bytes_read_grows(tmp_path: Path) -> None:
    path = make(tmp_path, "csv", b"1,abc\n" * 5000)
    source = SourceFile(path, PLAIN, 1000)
    seen = [source.bytes_read for _ in source.blocks()]
    assert seen == sorted(seen)
    assert 0 < seen[0] <= seen[-1] == path.stat().st_size


def test_truncated_gzip(tmp_path: Path) -> None:
    content = gzip.compress("\n".join(f"{i},{i * i}" for i in range(5000)).encode())
    path = tmp_path / "cut.gz"
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match=r"cut.gz is truncated or damaged \(after line [1-9]\d+: "):
        list(SourceFile(path, PLAIN, 2000).blocks())
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=r"cut.gz is truncated or damaged"):
        list(SourceFile(path, PLAIN, 2000).blocks())


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n"])
def test_empty_file(tmp_path: Path, content: bytes) -> None:
    path = make(tmp_path, "csv", content)
    with pytest.raises(ValueError, match=r"data.csv is empty|data.csv: line 1 is blank"):
        list(SourceFile(path, Layout(), 8).blocks()) if content == b"a,b\n" else SourceFile(
            path, Layout()
        ).fields()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nowhere.csv"):
        SourceFile(tmp_path / "nowhere.csv", PLAIN)


def test_not_text(tmp_path: Path) -> None:
    path = make(tmp_path, "csv", b"\x01" * 10_000)
    with pytest.raises(ValueError, match=r"a line of over .* is it text"):
        list(SourceFile(path, PLAIN, 100).blocks())


def test_zip_with_two_files(tmp_path: Path) -> None:
    path = tmp_path / "two.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "1,a\n")
        archive.writestr("b.csv", "2,b\n3,c\n")
    with pytest.raises(ValueError, match=r"holds \['a.csv', 'b.csv'\]: name one.*got None"):
        list(SourceFile(path, PLAIN).blocks())
    named = Layout(header=False, fields=("a", "b"), zip_member="b.csv")
    assert lines_of(SourceFile(path, named)) == [(1, "2,b"), (2, "3,c")]
