"""Synthetic data: fixed by its seed, what it says of itself is true, and raw text equals folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from compactrec.data.manifest import Manifest
from compactrec.data.prepare import prepare
from compactrec.data.synthetic import make_synthetic, raw_tokens, write_raw_criteo
from compactrec.data.teacher import (
    CHUNK_ROWS,
    KAGGLE_SIZES,
    SyntheticConfig,
    Teacher,
    zipf_probabilities,
)

SMALL = SyntheticConfig(sizes=(3, 40, 500, 2000, 60), num_dense=3, hidden_dim=4)
NUM_ROWS = 140_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "data"
    make_synthetic(path, NUM_ROWS, seed=5, config=SMALL)
    return path


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher(SMALL, 5)


def read(folder: Path, split: str) -> dict[str, np.ndarray]:
    paths = Manifest.load(folder).shard_paths(folder, split)
    tables = [pq.read_table(path) for path in paths]
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0].column_names}


def latent_rows(teacher: Teacher, num_rows: int) -> dict[str, np.ndarray]:
    """The same rows drawn again: latent ids per feature, dense, labels, probabilities."""
    chunks = [teacher.chunk(i) for i in range(-(-num_rows // CHUNK_ROWS))]
    columns = {f"C{f + 1}": np.concatenate([c.ids[f] for c in chunks]) for f in range(5)}
    columns["probability"] = np.concatenate([c.probability for c in chunks])
    columns["label"] = np.concatenate([c.labels for c in chunks])
    columns["dense"] = np.concatenate([c.transformed() for c in chunks], axis=1).T
    return {name: column[:num_rows] for name, column in columns.items()}


def test_seed_fixes_every_byte(folder: Path, tmp_path: Path) -> None:
    given = Manifest.load(folder)
    again = make_synthetic(tmp_path / "again", NUM_ROWS, seed=5, config=SMALL)
    assert again == given
    other = make_synthetic(tmp_path / "other", NUM_ROWS, seed=6, config=SMALL)
    assert other.splits["train"].shards[0].sha256 != given.splits["train"].shards[0].sha256
    given.verify(folder)


def test_first_rows_do_not_depend_on_the_number_of_rows(teacher: Teacher) -> None:
    whole, part = teacher.chunk(1), teacher.chunk(1, 100)
    assert all(np.array_equal(a[:100], b) for a, b in zip(whole.ids, part.ids, strict=True))
    assert np.array_equal(whole.dense[:, :100], part.dense)
    assert np.array_equal(whole.missing[:, :100], part.missing)
    assert np.array_equal(whole.labels[:100], part.labels)
    assert not np.array_equal(teacher.chunk(0).labels, whole.labels)


def test_splits_and_counters(folder: Path) -> None:
    manifest = Manifest.load(folder)
    sizes = {name: split.num_rows for name, split in manifest.splits.items()}
    assert sizes == {"train": 110_000, "validation": 10_000, "test": 20_000}
    for split in sizes:
        rows = read(folder, split)
        assert manifest.counters.positives[split] == rows["label"].sum()
        if split != "train":
            unseen = {f"C{i}": int((rows[f"C{i}"] == 0).sum()) for i in range(1, 6)}
            assert manifest.counters.unseen_ids[split] == unseen
    assert manifest.counters.unseen_ids["test"]["C4"] > 0
    assert manifest.protocol == "synthetic"
    assert SyntheticConfig(**manifest.table_schema["config"]) == SMALL


def test_ids_fall_in_training_count(folder: Path, teacher: Teacher) -> None:
    manifest, rows = Manifest.load(folder), latent_rows(teacher, NUM_ROWS)
    train = read(folder, "train")
    counts = manifest.counts(folder)
    for f, feature in enumerate(manifest.sparse):
        ids, latent = train[feature.name], rows[feature.name][: len(train["label"])]
        assert feature.num_ids == len(np.unique(latent)) + 1
        assert np.array_equal(np.bincount(ids, minlength=feature.num_ids), counts[feature.name])
        assert counts[feature.name][0] == 0
        assert np.all(np.diff(counts[feature.name][1:]) <= 0)
        first = np.unique(ids, return_index=True)[1]
        tied = np.diff(counts[feature.name][1:]) == 0
        assert np.all(np.diff(first)[tied] > 0)
        vocabulary = pq.read_table(folder / str(feature.vocabulary)).to_pydict()
        tokens = dict(zip(vocabulary["id"], vocabulary["token"], strict=True))
        expected = raw_tokens(f, teacher.sizes[f])[latent[:300]].tolist()
        assert [tokens[int(i)] for i in ids[:300]] == expected


def test_rows_are_the_teacher_s(folder: Path, teacher: Teacher) -> None:
    rows, test = latent_rows(teacher, NUM_ROWS), read(folder, "test")
    assert np.array_equal(test["label"], rows["label"][120_000:])
    dense = np.stack([test[f"I{j}"] for j in (1, 2, 3)], axis=1)
    assert np.array_equal(dense, rows["dense"][120_000:])
    assert dense.min() == 0


def test_raw_values_have_negatives_and_gaps(teacher: Teacher) -> None:
    chunk = Teacher(SyntheticConfig(), 0).chunk(0)
    assert chunk.dense.min() == -3
    assert 0.02 < chunk.missing.mean() < 0.4
    assert np.all(chunk.dense[chunk.missing] == 0)


def test_probabilities_are_calibrated(teacher: Teacher) -> None:
    rows = latent_rows(teacher, 4 * CHUNK_ROWS)
    assert rows["label"].mean() == pytest.approx(0.25, abs=0.005)
    order = np.argsort(rows["probability"])
    for part in np.array_split(order, 10):
        assert rows["label"][part].mean() == pytest.approx(
            rows["probability"][part].mean(), abs=4 * 0.5 / np.sqrt(len(part))
        )


def test_best_auc_is_that_of_the_true_probabilities(folder: Path, teacher: Teacher) -> None:
    manifest, rows = Manifest.load(folder), latent_rows(teacher, NUM_ROWS)
    spans = {"train": (0, 110_000), "validation": (110_000, 120_000), "test": (120_000, NUM_ROWS)}
    for split, (start, stop) in spans.items():
        expected = roc_auc_score(rows["label"][start:stop], rows["probability"][start:stop])
        assert manifest.table_schema["best_auc"][split] == pytest.approx(expected, abs=1e-5)
    assert manifest.best_auc == manifest.table_schema["best_auc"]["test"]


def test_a_model_given_the_true_effects_comes_close_from_below(
    folder: Path, teacher: Teacher
) -> None:
    """Effects without interactions lose some AUC, with them almost none; nothing beats the best."""
    rows = latent_rows(teacher, NUM_ROWS)
    latent = [rows[f"C{f + 1}"] for f in range(5)]
    effects = [teacher.effects(f)[ids] for f, ids in enumerate(latent)]
    hidden = [teacher.hidden(f)[ids] for f, ids in enumerate(latent)]
    pairs = [(hidden[g] * hidden[f]).sum(1) for f in range(5) for g in range(f)]
    best = Manifest.load(folder).best_auc
    assert best is not None
    found = []
    for columns in (effects, effects + pairs):
        x = np.column_stack([*columns, rows["dense"]])
        model = LogisticRegression().fit(x[:20_000], rows["label"][:20_000])
        scores = model.decision_function(x[120_000:])
        found.append(roc_auc_score(rows["label"][120_000:], scores))
    assert found[0] < best - 0.01
    assert best - 0.003 < found[1] < best + 0.0005


def test_id_frequencies_follow_zipf(teacher: Teacher) -> None:
    rows = latent_rows(teacher, 4 * CHUNK_ROWS)
    for f, size in enumerate(SMALL.vocabulary_sizes()):
        p = zipf_probabilities(size, SMALL.zipf_exponent)
        assert p.sum() == pytest.approx(1)
        expected = p * 4 * CHUNK_ROWS
        found = np.bincount(rows[f"C{f + 1}"], minlength=size)
        statistic = np.sum((found - expected) ** 2 / expected)
        assert abs(statistic - (size - 1)) < 5 * np.sqrt(2 * size)
    slope = np.polyfit(np.log(np.arange(50, 1000)), np.log(p_of(2000)[50:1000]), 1)[0]
    assert slope == pytest.approx(-SMALL.zipf_exponent, abs=0.02)


def p_of(size: int) -> np.ndarray:
    return zipf_probabilities(size, SMALL.zipf_exponent)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_zipf_exponents(exponent: float) -> None:
    config = SMALL.model_copy(update={"zipf_exponent": exponent})
    ids = Teacher(config, 0).ids(0)[1]
    found = np.bincount(ids, minlength=40) / CHUNK_ROWS
    assert np.abs(found - zipf_probabilities(40, exponent)).max() < 0.01
    ratio = zipf_probabilities(40, exponent)[[9, 19]]
    assert ratio[0] / ratio[1] == pytest.approx((20.5 / 10.5) ** exponent, rel=0.02)


def test_effects_do_not_fade_with_frequency(teacher: Teacher) -> None:
    """Middle and tail ids carry as much signal each as the head, and rows there are not rare."""
    effects, p = teacher.effects(3), p_of(2000)
    head, middle, tail = (effects[a:b].std() for a, b in ((0, 100), (100, 700), (700, 2000)))
    assert middle == pytest.approx(head, rel=0.25)
    assert tail == pytest.approx(head, rel=0.25)
    assert p[100:].sum() > 0.3


def test_strengths_are_as_asked(teacher: Teacher) -> None:
    rows = latent_rows(teacher, 4 * CHUNK_ROWS)
    latent = [rows[f"C{f + 1}"] for f in range(5)]
    effects = sum(teacher.effects(f)[ids] for f, ids in enumerate(latent))
    hidden = [teacher.hidden(f)[ids] for f, ids in enumerate(latent)]
    total = sum(hidden)
    pairs = 0.5 * ((total**2).sum(1) - sum((u**2).sum(1) for u in hidden))
    assert np.std(effects) == pytest.approx(SMALL.id_effect_std, rel=0.03)
    assert np.std(pairs) == pytest.approx(SMALL.interaction_std, rel=0.05)
    assert abs(np.mean(pairs)) < 0.01
    logit = np.log(rows["probability"] / (1 - rows["probability"]))
    rest = logit - effects - pairs
    assert np.std(rest) == pytest.approx(SMALL.dense_effect_std, rel=0.03)
    assert np.mean(rest) == pytest.approx(teacher.bias, abs=0.01)


@pytest.mark.parametrize("alignment", [0.0, 0.7, 1.0])
def test_alignment(alignment: float) -> None:
    """An id's effect correlates with its hidden vector as asked, over the rows."""
    aligned = Teacher(SMALL.model_copy(update={"alignment": alignment}), 1)
    p = p_of(2000)
    toward, effects = aligned.hidden(3).sum(1), aligned.effects(3)
    assert [abs(p @ toward), abs(p @ effects)] == pytest.approx([0, 0], abs=1e-5)
    found = p @ (toward * effects) / np.sqrt((p @ toward**2) * (p @ effects**2))
    assert found == pytest.approx(alignment, abs=0.1 if alignment < 1 else 1e-4)


def test_planted_rank_is_recovered() -> None:
    ranks = {"C2": 1, "C3": 2, "C4": 3, "C5": 0}
    planted = Teacher(SMALL.model_copy(update={"feature_rank": ranks}), 1)
    for name, rank in ranks.items():
        values = np.linalg.svd(planted.hidden(int(name[1:]) - 1), compute_uv=False)
        assert np.sum(values > 1e-3 * max(values[0], 1e-3)) == rank
        if rank:
            assert values[rank - 1] > 0.5 * values[0]


def test_default_interactions_spread_over_the_sizes() -> None:
    config = SyntheticConfig()
    ranks, sizes = (
        config.ranks(),
        dict(zip(config.sparse_names(), config.vocabulary_sizes(), strict=True)),
    )
    chosen = sorted(sizes[name] for name, rank in ranks.items() if rank)
    assert len(chosen) == 8
    assert (chosen[0], chosen[-1]) == (10, max(sizes.values()))
    assert {rank for rank in ranks.values() if rank} == {config.hidden_dim}
    few = SyntheticConfig(sizes=(2, 30, 40), num_interacting=8, noise_features=("C3",))
    assert few.ranks() == {"C1": 0, "C2": 2, "C3": 0}


def test_noise_features_change_nothing() -> None:
    config = SMALL.model_copy(update={"noise_features": ("C4",)})
    noisy = Teacher(config, 1)
    assert not noisy.hidden(3).any()
    assert not noisy.effects(3).any()
    assert noisy.effects(2).any()
    chunk = noisy.chunk(0)
    logit = np.log(chunk.probability / (1 - chunk.probability))
    by_id = [logit[chunk.ids[3] == i].mean() for i in range(20)]
    assert np.std(by_id) < 0.1
    by_id = [logit[chunk.ids[1] == i].mean() for i in range(20)]
    assert np.std(by_id) > 0.2


def test_preparing_the_raw_file_gives_the_folder(tmp_path: Path) -> None:
    num_rows = 5000
    config = SyntheticConfig(scale=1e-4)
    write_raw_criteo(tmp_path / "raw.tsv", num_rows, seed=2, config=config)
    prepared = prepare([tmp_path / "raw.tsv"], "criteo", tmp_path / "prepared")
    written = make_synthetic(tmp_path / "written", num_rows, seed=2, config=config)
    assert [f.num_ids for f in prepared.sparse] == [f.num_ids for f in written.sparse]
    assert prepared.counters.unseen_ids == written.counters.unseen_ids
    assert prepared.split_rule == written.split_rule
    for split in written.splits:
        ours, theirs = read(tmp_path / "written", split), read(tmp_path / "prepared", split)
        for name, column in ours.items():
            np.testing.assert_allclose(theirs[name], column, rtol=1e-6)
    counts, expected = prepared.counts(tmp_path / "prepared"), written.counts(tmp_path / "written")
    assert all(np.array_equal(counts[name], expected[name]) for name in expected)


def test_raw_file_looks_like_criteo(tmp_path: Path) -> None:
    write_raw_criteo(tmp_path / "raw.tsv.gz", 1000, seed=2)
    lines = gzip.decompress((tmp_path / "raw.tsv.gz").read_bytes()).decode().splitlines()
    fields = np.array([line.split("\t") for line in lines])
    assert fields.shape == (1000, 40)
    assert set(fields[:, 0]) == {"0", "1"}
    assert all(f == "" or int(f) >= -3 for f in fields[:, 1:14].flat)
    assert all(f == "" or (len(f) == 8 and int(f, 16) >= 0) for f in fields[:, 14:].flat)
    assert any(int(f, 16) >= 1 << 31 for f in fields[:, 14:].flat if f)
    assert any(f == "" for f in fields[:, 14:].flat)
    first = [int(x) for x in Teacher(SyntheticConfig(), 2).chunk(0, 1000).labels]
    assert [int(x) for x in fields[:, 0]] == first


def test_tokens_are_distinct() -> None:
    tokens = raw_tokens(0, 3000)
    assert len(np.unique(tokens)) == 3000
    assert np.flatnonzero(tokens < 0).tolist() == [1]
    assert tokens[1] == -1
    assert tokens.max() < 1 << 32
    assert raw_tokens(1, 3000).min() >= 0
    assert raw_tokens(0, 9).min() >= 0


def test_default_profile_is_kaggle_s() -> None:
    assert sum(KAGGLE_SIZES) == 33_762_577
    assert SyntheticConfig(scale=1.0).vocabulary_sizes() == KAGGLE_SIZES
    sizes = SyntheticConfig().vocabulary_sizes()
    assert [s for s, n in zip(sizes, KAGGLE_SIZES, strict=True) if n <= 200] == [
        24, 3, 27, 10, 4, 18, 15, 105,
    ]  # fmt: skip


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    report = lambda *call: calls.append(call)  # noqa: E731
    make_synthetic(tmp_path / "d", 70_000, config=SMALL, progress=report)
    write_raw_criteo(tmp_path / "raw.tsv", 10, config=SMALL, progress=report)
    last = {stage: (done, total) for stage, done, total in calls}
    assert set(last) == {"numbering", "writing"}
    assert all(done == total for done, total in last.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_rank": {"C99": 1}}, r"name \['C99'\], but the features are C1 to C26"),
        ({"noise_features": ("X",)}, r"name \['X'\]"),
        ({"feature_rank": {"C1": 9}}, r"between 0 and hidden_dim=2, got {'C1': 9}"),
        ({"sizes": (4, 0)}, r"every size at least 1 id, got \(4, 0\)"),
        ({"sizes": ()}, r"at least one feature"),
        ({"zipf_exponent": -1}, "greater than or equal to 0"),
    ],
)
def test_wrong_configurations(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SyntheticConfig(**options)  # type: ignore[arg-type]


def test_wrong_numbers_of_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves no rows for"):
        make_synthetic(tmp_path / "d", 6, config=SMALL)
    assert not (tmp_path / "d").exists()
    with pytest.raises(ValueError, match="num_rows must be at least 1, got 0"):
        write_raw_criteo(tmp_path / "raw.tsv", 0)
