"""The planted clicks: what is known about them is true."""

from pathlib import Path

import numpy as np
import pytest

from compactrec.data.planted import main, needed_widths, planted_config
from compactrec.data.synthetic import make_synthetic
from compactrec.data.teacher import SyntheticConfig, Teacher, zipf_probabilities

CONFIG = planted_config()
TEACHER = Teacher(CONFIG, seed=3)
NAMES = CONFIG.sparse_names()


def head(size: int) -> int:
    """Ids that carry signal: the most probable ones up to the mass."""
    mass = np.cumsum(zipf_probabilities(size, CONFIG.zipf_exponent))
    return int(np.searchsorted(mass, CONFIG.signal_mass)) + 1


def test_vectors_have_their_rank_and_effects_lie_in_their_span() -> None:
    for f, (name, rank) in enumerate(CONFIG.ranks().items()):
        vectors, effect = TEACHER.hidden(f).astype(float), TEACHER.effects(f).astype(float)
        assert np.linalg.matrix_rank(vectors, tol=1e-5 * np.linalg.norm(vectors)) == rank, name
        if rank:
            both = np.concatenate([vectors, effect[:, None]], axis=1)
            assert np.linalg.matrix_rank(both, tol=1e-5 * np.linalg.norm(both)) == rank, name


def test_groups_do_not_interact_with_each_other() -> None:
    groups = CONFIG.groups()
    assert [len(group) for group in groups] == [2, 2, 2, 2]
    for i, group in enumerate(groups):
        one, two = (TEACHER.hidden(f) for f in group)
        assert np.abs(one @ two.T).max() > 0
        for other in groups[i + 1 :]:
            for f in group:
                for g in other:
                    assert np.abs(TEACHER.hidden(f) @ TEACHER.hidden(g).T).max() < 1e-6


def test_noise_and_rare_ids_carry_no_signal() -> None:
    for f, name in enumerate(NAMES):
        vectors, effect = TEACHER.hidden(f).astype(float), TEACHER.effects(f).astype(float)
        if name in CONFIG.noise_features:
            assert not vectors.any()
            assert not effect.any()
            continue
        start = head(len(effect))
        assert start < len(effect)
        assert np.abs(effect[start:]).max() < 1e-6
        assert not vectors[start:].any()
        assert (np.abs(effect[:start]) > 1e-6).mean() > 0.99


def test_the_answer_that_is_planted() -> None:
    needed = needed_widths(CONFIG)
    assert sorted(needed.values()) == [0, 0, 1, 1, 2, 2, 4, 4, 8, 8, 16, 16]
    assert {name for name, width in needed.items() if not width} == set(CONFIG.noise_features)


def test_a_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compactrec.data.planted.NUM_ROWS", 20_000)
    assert main([str(tmp_path / "planted")]) == 0
    assert (tmp_path / "planted" / "manifest.json").is_file()
    assert main([]) == 2
    manifest = make_synthetic(tmp_path / "again", 20_000, 1, CONFIG)
    assert manifest.best_auc is not None
    assert 0.8 < manifest.best_auc < 0.95


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interacting": (("C1", "C2"),)}, "interacting must name every feature with a rank once"),
        ({"interacting": (("C1",), ("C1", "C2", "C3"))}, "name every feature with a rank once"),
        ({"interacting": (("C1", "C2"), ("C3",))}, "largest ranks sum to 4, but hidden_dim is 2"),
    ],
)
def test_groups_are_checked(fields: dict[str, object], message: str) -> None:
    ranks = {"C1": 2, "C2": 2, "C3": 2}
    with pytest.raises(ValueError, match=message):
        SyntheticConfig.model_validate(
            {"sizes": (30, 20, 10), "hidden_dim": 2, "feature_rank": ranks, **fields}
        )
