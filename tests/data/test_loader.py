"""BatchLoader: every row once and whole, seeded order, exact resume, damage refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest, Shard, SparseFeature, Split
from compactrec.data.window import Window
from compactrec.file_hash import file_sha256

ROW_GROUP = 64
SHARD_ROWS = (1000, 700, 400)
NUM_ROWS = sum(SHARD_ROWS)
WIDE = 1 << 40
FEATURES = {
    "small": SparseFeature(name="small", num_ids=97),
    "bag": SparseFeature(name="bag", num_ids=5000, max_bag=3),
    "open": SparseFeature(name="open", num_ids=None, mode="hashed", oov_id=None, order="hash"),
    "row": SparseFeature(name="row", num_ids=NUM_ROWS),
    "wide_bag": SparseFeature(
        name="wide_bag", num_ids=None, mode="hashed", oov_id=None, order="hash", max_bag=2
    ),
}
SINGLE_HOT = ("small", "row")


def bags(row: int) -> dict[str, list[int]]:
    """The ids of one row: what a loader must give for it, wherever the row ends up."""
    return {
        "small": [row % 97],
        "bag": [(row * k) % 5000 for k in range(1, 1 + row % 4)],
        "open": [WIDE + row],
        "row": [row],
        "wide_bag": [WIDE + row + k for k in range(row % 3)],
    }


def shard_table(start: int, stop: int, keys: tuple[str, ...]) -> pa.Table:
    rows = range(start, stop)
    columns = {
        "label": pa.array([r % 3 == 0 for r in rows]).cast(pa.int8()).cast(pa.float32()),
        "x": pa.array(rows, pa.float32()),
        "y": pa.array([-2.0 * r for r in rows], pa.float32()),
    }
    types = {"open": pa.int64(), "bag": pa.list_(pa.int32()), "wide_bag": pa.list_(pa.int64())}
    for key in keys:
        ids = [bags(r)[key] for r in rows]
        kind = types.get(key, pa.int32())
        columns[key] = pa.array(ids if pa.types.is_list(kind) else [i[0] for i in ids], kind)
    return pa.table(columns)


def write_folder(folder: Path, keys: tuple[str, ...] = tuple(FEATURES)) -> Path:
    """Three shards of training rows; the first row group again as validation rows."""
    shards, start = [], 0
    for i, num_rows in enumerate((*SHARD_ROWS, ROW_GROUP)):
        name = f"train/{i:05d}.parquet" if i < len(SHARD_ROWS) else "validation/00000.parquet"
        start = start if i < len(SHARD_ROWS) else 0
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        table = shard_table(start, start + num_rows, keys)
        pq.write_table(table, folder / name, row_group_size=ROW_GROUP)
        shards.append(Shard(path=name, num_rows=num_rows, sha256=file_sha256(folder / name)))
        start += num_rows
    Manifest(
        name="rows",
        protocol="compactrec",
        dense=("x", "y"),
        sparse=tuple(FEATURES[key] for key in keys),
        splits={
            "train": Split(num_rows=NUM_ROWS, shards=tuple(shards[:-1])),
            "validation": Split(num_rows=ROW_GROUP, shards=tuple(shards[-1:])),
        },
    ).save(folder)
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds of columns."""
    return write_folder(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Single-hot columns of four bytes only, the fast path."""
    return write_folder(tmp_path_factory.mktemp("single"), SINGLE_HOT)


def make_loader(folder: Path, **options: object) -> BatchLoader:
    settings: dict[str, object] = {"batch_size": 48, "window_rows": 5 * ROW_GROUP}
    return BatchLoader(folder, "train", **(settings | options))  # type: ignore[arg-type]


def rows_of(batch: Batch) -> list[int]:
    return [int(x) for x in batch.dense[:, 0]]


def order_of(loader: BatchLoader) -> list[int]:
    return [row for batch in loader for row in rows_of(batch)]


def assert_whole(batch: Batch) -> None:
    """Every example of the batch is its source row, column by column."""
    rows = rows_of(batch)
    assert batch.dense[:, 1].tolist() == [-2.0 * r for r in rows]
    assert batch.labels.tolist() == [float(r % 3 == 0) for r in rows]
    expected = [bags(r)[key] for key in batch.keys for r in rows]
    assert batch.lengths.tolist() == [len(ids) for ids in expected]
    assert batch.values.tolist() == [i for ids in expected for i in ids]
    sizes = [sum(len(bags(r)[key]) for r in rows) for key in batch.keys]
    assert batch.length_per_key == tuple(sizes)
    if batch.offsets is not None:
        assert batch.offsets.tolist() == [0, *np.cumsum(batch.lengths.numpy())]
    dtypes = (batch.dense, batch.values, batch.lengths, batch.labels)
    assert [t.dtype for t in dtypes] == [torch.float32, torch.int64, torch.int32, torch.float32]
    assert all(t.is_contiguous() for t in dtypes)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        for name in ("dense", "values", "lengths", "labels"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert (a.keys, a.length_per_key) == (b.keys, b.length_per_key)


@pytest.mark.parametrize("folder", ["mixed", "single"])
@pytest.mark.parametrize("batch_size", [1, 48, 500, 5000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_row_once_and_whole(
    folder: str, batch_size: int, shuffle: bool, request: pytest.FixtureRequest
) -> None:
    loader = make_loader(request.getfixturevalue(folder), batch_size=batch_size, shuffle=shuffle)
    order: list[int] = []
    sizes = []
    for batch in loader:
        if batch_size > 1 or len(sizes) < 50:
            assert_whole(batch)
        order += rows_of(batch)
        sizes.append(batch.batch_size)
    assert sorted(order) == list(range(NUM_ROWS))
    assert (order == sorted(order)) is not shuffle
    assert len(loader) == len(sizes)
    assert set(sizes[:-1]) <= {batch_size}
    assert loader.num_rows == NUM_ROWS


def test_drop_last(single: Path) -> None:
    kept, dropped = make_loader(single), make_loader(single, drop_last=True)
    assert (len(kept), len(dropped)) == (44, 43)
    sizes = [batch.batch_size for batch in dropped]
    assert sizes == [48] * 43
    assert [batch.batch_size for batch in kept] == [*sizes, NUM_ROWS - 43 * 48]
    assert len(list(make_loader(single, drop_last=True, batch_size=NUM_ROWS + 1))) == 0


def test_order_is_fixed_by_seed_and_epoch(single: Path) -> None:
    loader = make_loader(single, seed=1)
    first, second = order_of(loader), order_of(loader)
    assert loader.epoch == 2
    assert first != second
    again = make_loader(single, seed=1)
    again.set_epoch(1)
    assert order_of(again) == second
    assert order_of(make_loader(single, seed=1)) == first
    assert order_of(make_loader(single, seed=2)) != first
    assert order_of(make_loader(single, seed=1, batch_size=7)) == first


def test_rows_inside_a_window_are_permuted_anew_every_epoch(single: Path) -> None:
    loader = BatchLoader(single, "validation", 16)
    orders = [order_of(loader) for _ in range(3)]
    assert all(sorted(order) == list(range(ROW_GROUP)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_breaking_off_starts_the_epoch_again(single: Path) -> None:
    loader = make_loader(single)
    first = next(iter(loader))
    assert_same([next(iter(loader))], [first])
    loader.set_epoch(0)
    assert_same([next(iter(loader))], [first])
    loader.load_state_dict(loader.state_dict() | {"next_batch": 5})
    assert rows_of(next(iter(loader))) != rows_of(first)
    assert_same([next(iter(loader))], [first])


def neighbour_correlation(order: list[int]) -> float:
    return float(np.corrcoef(order[:-1], order[1:])[0, 1])


def test_mixing(single: Path) -> None:
    """Neighbours come from one stretch of the file no more than the documented bound says."""
    num_groups = sum(-(-rows // ROW_GROUP) for rows in SHARD_ROWS)
    for num_windows in (9, 5):
        loader = make_loader(single, window_rows=-(-NUM_ROWS // num_windows))
        orders = [order_of(loader) for _ in range(20)]
        found = np.mean([neighbour_correlation(order) for order in orders])
        bound = (num_windows - 1) / num_groups  # (1/W) (1 - W/G) with W = G / num_windows
        assert 0.5 * bound < found < 1.15 * bound
        kept = np.mean([np.mean(np.abs(np.diff(order)) == 1) for order in orders])
        assert kept < 3 * num_windows / NUM_ROWS
    full = [order_of(make_loader(single, window_rows=NUM_ROWS, seed=s)) for s in range(10)]
    assert abs(np.mean([neighbour_correlation(order) for order in full])) < 0.02
    assert abs(np.mean([order[:100] for order in full]) / NUM_ROWS - 0.5) < 0.05


@pytest.mark.parametrize("folder", ["mixed", "single"])
@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("done", [0, 1, 6, 7, 20, 43, 44])
def test_resume_is_exact(
    folder: str, prefetch: bool, done: int, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    loader = make_loader(path, prefetch=prefetch, seed=3)
    loader.set_epoch(2)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = list(batches)
    following = list(loader)
    resumed = make_loader(path, prefetch=prefetch, seed=3)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    resumed.set_epoch(2)
    assert len(rest) == 44 - done
    assert_same(list(resumed), rest)
    assert resumed.epoch == 3
    assert_same(list(resumed), following)


def test_windows_are_even_and_no_larger_than_asked(single: Path) -> None:
    for window_rows in (64, 300, 1000, NUM_ROWS - 1, 10 * NUM_ROWS):
        loader = make_loader(single, window_rows=window_rows)
        rows = [sum(g.num_rows for g in groups) for groups in loader._plan(0)]
        assert sum(rows) == NUM_ROWS
        assert len(rows) <= -(-NUM_ROWS // window_rows)
        assert max(rows) < window_rows + ROW_GROUP
        assert max(rows) - min(rows) < 2 * ROW_GROUP


def test_resume_across_kinds_of_reading(mixed: Path) -> None:
    loader = make_loader(mixed, prefetch=True)
    batches = iter(loader)
    next(batches)
    resumed = make_loader(mixed, prefetch=False)
    resumed.load_state_dict(loader.state_dict())
    assert_same(list(resumed), list(batches))


def test_prefetch_thread_ends_with_the_iterator(single: Path) -> None:
    batches = iter(make_loader(single, prefetch=True))
    next(batches)
    assert any(t.name.startswith("compactrec-loader") for t in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(t.name.startswith("compactrec-loader") for t in threading.enumerate())


def test_feature_subset_keeps_the_manifest_order(mixed: Path) -> None:
    loader = make_loader(mixed, keys=["row", "bag"])
    assert loader.keys == ("bag", "row")
    for batch in loader:
        assert batch.keys == ("bag", "row")
        assert_whole(batch)
    assert [f.name for f in loader.features(8)] == ["bag", "row"]


def test_features(mixed: Path) -> None:
    for ours, given in zip(make_loader(mixed).features(16), FEATURES.values(), strict=True):
        assert (ours.name, ours.num_ids, ours.max_bag) == (
            given.name,
            given.num_ids,
            given.max_bag,
        )
        assert (ours.dim, ours.pooling) == (16, "sum")


def test_single_hot_batches_carry_everything_a_kjt_needs(single: Path) -> None:
    first, second = list(make_loader(single))[:2]
    assert first.lengths.data_ptr() == second.lengths.data_ptr()
    kjt = first.kjt()
    assert kjt._offsets is not None
    assert kjt._length_per_key == [48, 48]
    assert kjt["row"].values().tolist() == rows_of(first)


def test_batches_own_their_memory(single: Path, mixed: Path) -> None:
    for folder in (single, mixed):
        reader = make_loader(folder)._reader
        window = reader.read(reader.row_groups[:3], None)
        first = window.batch(10, 60)
        for tensor in (first.dense, first.values, first.labels):
            tensor.fill_(7)
        assert_whole(window.batch(10, 60))


def test_one_dense_column_is_copied_too() -> None:
    window = Window(("a",), 1, torch.zeros(3, 8, dtype=torch.int32), {}, {})
    window.batch(0, 4).dense.fill_(7)
    assert not window.packed.any()


# -- damage and misuse -------------------------------------------------------------------------


def rewrite(folder: Path, changes: dict[str, pa.Array | None], shard: int = 1) -> None:
    """Replace or drop columns of one shard, leaving its number of rows."""
    path = folder / f"train/{shard:05d}.parquet"
    table = pq.read_table(path)
    for name, column in changes.items():
        position = table.column_names.index(name)
        table = (
            table.remove_column(position)
            if column is None
            else table.set_column(position, name, column)
        )
    pq.write_table(table, path, row_group_size=ROW_GROUP)


def constant(value: object, kind: pa.DataType) -> pa.Array:
    return pa.array([value] * SHARD_ROWS[1], kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": constant(NUM_ROWS, pa.int32())}, r"00001.*'row' has id 2100, allowed are 0 to 20"),
        ({"row": constant(-1, pa.int32())}, r"'row' has id -1, allowed are 0 to 2099"),
        ({"bag": constant([1, 5000], pa.list_(pa.int32()))}, r"'bag' has id 5000, allowed are 0"),
        ({"bag": constant([1] * 4, pa.list_(pa.int32()))}, r"'bag' has a bag of 4 ids, .* is 3"),
        ({"row": constant(None, pa.int32())}, r"'row' has 64 nulls in row group"),
        ({"x": constant(1.0, pa.float64())}, r"column 'x' must be float, found double"),
        ({"bag": constant(1, pa.int32())}, r"'bag' must be list<.*, found int32"),
        ({"row": constant(1, pa.int64())}, r"column 'row' must be int32, found int64"),
        ({"small": None}, r"column 'small' must be int32, found no such column"),
    ],
)
def test_shards_that_contradict_the_manifest(
    changes: dict[str, pa.Array | None], message: str, tmp_path: Path
) -> None:
    rewrite(write_folder(tmp_path), changes)
    with pytest.raises(ValueError, match=message):
        list(make_loader(tmp_path))


def test_ids_of_the_last_rows_are_checked_too(tmp_path: Path) -> None:
    ids = [0] * (SHARD_ROWS[2] - 1) + [NUM_ROWS]
    rewrite(write_folder(tmp_path, SINGLE_HOT), {"row": pa.array(ids, pa.int32())}, shard=2)
    with pytest.raises(ValueError, match="'row' has id 2100"):
        list(make_loader(tmp_path))


def damage(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position : position + 40] = bytes(40)
    path.write_bytes(content)


def test_missing_truncated_and_damaged_shards(tmp_path: Path) -> None:
    path = write_folder(tmp_path, SINGLE_HOT) / "train/00001.parquet"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=r"00001.parquet is missing; the manifest lists it"):
        make_loader(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is not a whole parquet file"):
        make_loader(tmp_path)
    path.write_bytes(whole)
    damage(path, 4)
    with pytest.raises(ValueError, match=r"row group 0 cannot be read .* is damaged"):
        list(make_loader(tmp_path))


def test_other_number_of_rows(tmp_path: Path) -> None:
    path = write_folder(tmp_path, SINGLE_HOT) / "train/00001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ValueError, match="holds 699 rows but the manifest says 700"):
        make_loader(tmp_path)


def test_verify_finds_a_changed_file(tmp_path: Path) -> None:
    path = write_folder(tmp_path, SINGLE_HOT) / "train/00002.parquet"
    make_loader(tmp_path, verify=True)
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")
    make_loader(tmp_path)
    with pytest.raises(ValueError, match=r"00002.parquet has changed since it was prepared"):
        make_loader(tmp_path, verify=True)


def test_manifest_of_another_version(tmp_path: Path) -> None:
    path = write_folder(tmp_path, SINGLE_HOT) / "manifest.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match=r"has format and version .*2\), this program reads"):
        make_loader(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"window_rows": 0}, "window_rows must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"keys": ["nobody"]}, "no sparse feature 'nobody'"),
        ({"keys": []}, "keys must name at least one feature"),
    ],
)
def test_wrong_arguments(single: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_loader(single, **options)


def test_wrong_split_and_epoch(single: Path) -> None:
    with pytest.raises(ValueError, match="no split 'test'"):
        BatchLoader(single, "test", 8)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        make_loader(single).set_epoch(-1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"batch_size": 47}, "batch_size"),
        ({"window_rows": 64}, "window_rows"),
        ({"shuffle": False}, "shuffle"),
        ({"drop_last": True}, "drop_last"),
        ({"keys": ["row"]}, "keys"),
    ],
)
def test_state_of_other_settings(single: Path, options: dict[str, object], name: str) -> None:
    state = make_loader(single, **options).state_dict()
    with pytest.raises(ValueError, match=f"loader state: {name} is .* resume with the same"):
        make_loader(single).load_state_dict(state)


def test_state_of_other_data_version_or_position(single: Path, mixed: Path) -> None:
    loader = make_loader(single)
    state = loader.state_dict()
    other = make_loader(mixed, keys=SINGLE_HOT).state_dict()
    with pytest.raises(ValueError, match="loader state: data is "):
        loader.load_state_dict(other)
    with pytest.raises(ValueError, match="loader state: version is 9"):
        loader.load_state_dict(state | {"version": 9})
    with pytest.raises(ValueError, match="next_batch must be 0 to 44, got 45"):
        loader.load_state_dict(state | {"next_batch": 45})
