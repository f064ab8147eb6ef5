"""The manifest: round trip, the checks on what it says, and the words when it is not usable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compactrec.data.manifest import (
    Manifest,
    Shard,
    SparseFeature,
    Split,
)
from compactrec.file_hash import file_sha256


def make(folder: Path, **changes: object) -> Manifest:
    """A small whole folder: one shard, two features."""
    (folder / "train").mkdir(parents=True)
    (folder / "vocabulary").mkdir()
    shard = folder / "train/00000.parquet"
    pq.write_table(pa.table({"label": pa.array([1.0, 0.0, 0.0], pa.float32())}), shard)
    vocabulary = {"token": ["b", "a", "z"], "id": [2, 1, 4], "count": [1, 5, 0]}
    pq.write_table(pa.table(vocabulary), folder / "vocabulary/u.parquet")
    entry = Shard(path="train/00000.parquet", num_rows=3, sha256=file_sha256(shard))
    content = {
        "name": "small",
        "protocol": "compactrec",
        "sparse": (
            SparseFeature(name="u", num_ids=5, vocabulary="vocabulary/u.parquet", oov_count=7),
            SparseFeature(name="open", num_ids=None, mode="hashed", oov_id=None),
        ),
        "splits": {"train": Split(num_rows=3, shards=(entry,))},
        "schema": {"name": "small"},
        **changes,
    }
    manifest = Manifest.model_validate(content)
    manifest.save(folder)
    return manifest


def test_round_trip(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    again = Manifest.load(tmp_path)
    assert again == manifest
    assert again.sha256() == manifest.sha256()
    text = json.loads((tmp_path / "manifest.json").read_text())
    assert (text["format"], text["version"], text["schema"]) == (
        "compactrec.data",
        1,
        {"name": "small"},
    )


def test_a_manifest_from_before_a_field_was_kept_has_the_hash_it_had(tmp_path: Path) -> None:
    old = make(tmp_path)
    assert "max_ind_range" not in json.loads(old.to_json())
    assert Manifest.load(tmp_path).max_ind_range is None
    new = old.model_copy(update={"max_ind_range": 7})
    new.save(tmp_path)
    assert Manifest.load(tmp_path).max_ind_range == 7
    assert new.sha256() != old.sha256()


def test_counts_and_paths(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    counts = manifest.counts(tmp_path)
    assert list(counts) == ["u"]
    np.testing.assert_array_equal(counts["u"], [7, 5, 1, 0, 0])
    assert manifest.shard_paths(tmp_path, "train") == [tmp_path / "train/00000.parquet"]
    with pytest.raises(ValueError, match=r"no split 'dev'; there are \['train'\]"):
        manifest.shard_paths(tmp_path, "dev")
    with pytest.raises(ValueError, match=r"no sparse feature 'C1'; there are \['u', 'open'\]"):
        manifest.feature("C1")


def test_verify(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    manifest.verify(tmp_path)
    shard = tmp_path / "train/00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"00000.parquet has changed since it was prepared"):
        manifest.verify(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"00000.parquet is missing"):
        manifest.verify(tmp_path)


def test_load_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a data folder: it has no manifest.json"):
        Manifest.load(tmp_path)
    path = tmp_path / "manifest.json"
    for text, words in (
        ("{", "is not valid JSON"),
        ("[]", r"has format and version None"),
        ('{"format": "compactrec.data", "version": 2}', r"\('compactrec.data', 2\), this program"),
        ('{"format": "compactrec.data", "version": 1}', "is not a valid manifest"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"splits": {}}, "splits must be 'train'"),
        ({"splits": {"train": Split(num_rows=0), "dev": Split(num_rows=0)}}, "splits must be"),
        ({"dense": ("u",)}, r"\['u'\] occur more than once"),
        ({"dense": ("label",)}, r"\['label'\] occur more than once"),
        ({"protocol": "other"}, "protocol"),
        ({"extra": 1}, "Extra inputs"),
    ],
)
def test_content_is_checked(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(tmp_path, **changes)


def test_parts_are_checked() -> None:
    with pytest.raises(ValueError, match=r"oov_id must be in \[0, 3\), got 3"):
        SparseFeature(name="a", num_ids=3, oov_id=3)
    with pytest.raises(ValueError, match="only mode 'hashed' may have an open vocabulary"):
        SparseFeature(name="a", num_ids=None)
    with pytest.raises(ValueError, match="shards hold 2 rows, num_rows says 3"):
        Split(num_rows=3, shards=(Shard(path="a", num_rows=2, sha256=""),))
