"""Tests of another project run over our collection, and the outcome says what happened."""

from pathlib import Path

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from compactrec.benchmarks.torchrec_suite import Suite, find_files, run_suite, substitute

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
import unittest
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

def table(*features):
    return EmbeddingBagConfig(
        name="t1", embedding_dim=3, num_embeddings=10, feature_names=list(features)
    )

class CollectionTest(unittest.TestCase):
    def test_good(self):
        made = EmbeddingBagCollection(tables=[table("f1", "f2")])
        self.assertEqual(made.embedding_bags["t1"].weight.device, made.device)

    def test_of_theirs_alone(self):
        made = EmbeddingBagCollection([table("f1")])
        self.assertIs(type(made), type(original))

    def test_of_neither(self):
        self.assertEqual(len(EmbeddingBagCollection([table("f1")]).embedding_bag_configs()), 2)

    @unittest.skip("needs more")
    def test_elsewhere(self):
        EmbeddingBagCollection([table("f1")])

    def test_without(self):
        self.fail("never listed: it makes no collection")

original = EmbeddingBagCollection([table("f1")])
"""

DRAWN = """
import unittest
from hypothesis import given, settings, strategies
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

class DrawnTest(unittest.TestCase):
    @settings(deadline=None, max_examples=2, database=None)
    @given(rows=strategies.integers(5, 9))
    def test_drawn(self, rows):
        table = EmbeddingBagConfig(
            name="t1", embedding_dim=3, num_embeddings=rows, feature_names=["f1"]
        )
        made = EmbeddingBagCollection([table])
        self.assertEqual(made.embedding_bag_configs()[0].num_embeddings, rows)
"""


def configs(pooling: PoolingType) -> list[EmbeddingBagConfig]:
    return [
        EmbeddingBagConfig(
            name="a", embedding_dim=3, num_embeddings=10, feature_names=["f1", "f3"]
        ),
        EmbeddingBagConfig(
            name="b",
            embedding_dim=8,
            num_embeddings=7,
            feature_names=["f2"],
            pooling=pooling,
        ),
        EmbeddingBagConfig(name="c", embedding_dim=6, num_embeddings=5, feature_names=["f4"]),
    ]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_substitute_gives_the_numbers_of_torchrec(weighted: bool) -> None:
    batch = KeyedJaggedTensor(
        keys=["f2", "f1", "f4", "f3"],
        values=torch.tensor([0, 6, 3, 9, 1, 2, 3, 4, 0, 8]),
        lengths=torch.tensor([2, 0, 1, 3, 1, 1, 0, 2]),
        weights=torch.linspace(0.5, 1.5, 10),
    )
    pooling = PoolingType.SUM if weighted else PoolingType.MEAN  # theirs weighs no mean
    torch.manual_seed(3)
    theirs = EmbeddingBagCollection(configs(pooling), is_weighted=weighted)
    torch.manual_seed(3)
    ours = substitute(configs(pooling), is_weighted=weighted)
    expected, found = theirs(batch).to_dict(), ours(batch).to_dict()
    assert list(found) == list(expected)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key])


def test_the_outcome_of_every_test(tmp_path: Path) -> None:
    folder = tmp_path / "torchrec" / "modules" / "tests"
    folder.mkdir(parents=True)
    (folder / "test_toy.py").write_text(TESTS)
    (folder / "test_broken.py").write_text("import gone\nEmbeddingBagCollection()\n")
    (tmp_path / "version.txt").write_text("1.2.3\n")
    suite = run_suite(tmp_path)
    assert suite.checkout == "1.2.3"
    assert list(suite.missing) == ["torchrec/modules/tests/test_broken.py"]
    toy = "torchrec/modules/tests/test_toy.py"
    assert suite.skipped == {f"{toy}::CollectionTest.test_elsewhere": "needs more"}
    found = {o.test.rsplit(".", 1)[1]: (o.torchrec, o.compactrec) for o in suite.outcomes}
    assert found == {
        "test_good": ("passed", "passed"),
        "test_of_theirs_alone": ("passed", "failed"),
        "test_of_neither": ("failed", "failed"),
    }
    [error] = [o.error for o in suite.outcomes if o.test.endswith("alone")]
    assert "_Named" in error


def test_hypothesis_takes_both_runs(tmp_path: Path) -> None:
    folder = tmp_path / "torchrec" / "optim"
    folder.mkdir(parents=True)
    (folder / "test_drawn.py").write_text(DRAWN)
    [outcome] = run_suite(tmp_path).outcomes
    assert (outcome.torchrec, outcome.compactrec, outcome.error) == ("passed", "passed", "")


def test_files_that_make_a_collection_are_found(tmp_path: Path) -> None:
    made = "EmbeddingBagCollection(tables)"
    files = {
        "torchrec/modules/tests/test_a.py": made,
        "torchrec/models/deep/test_b.py": f"x = torchrec.{made}",
        "torchrec/modules/tests/test_c.py": f"Fused{made}",
        "torchrec/modules/tests/help.py": made,
        "torchrec/modules_old/test_d.py": made,
        "torchrec/quant/tests/test_e.py": made,
    }
    with pytest.raises(ValueError, match=r"has no test_.*; give the folder of a torchrec checkout"):
        find_files(tmp_path)
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    inside, outside = find_files(tmp_path)
    assert inside == ["torchrec/models/deep/test_b.py", "torchrec/modules/tests/test_a.py"]
    assert outside == ["torchrec/modules_old/test_d.py", "torchrec/quant/tests/test_e.py"]


def test_the_page_says_what_the_result_says() -> None:
    suite = Suite.model_validate_json(
        (ROOT / "benchmarks" / "results" / "torchrec-suite.json").read_text()
    )
    assert not suite.missing
    page = (ROOT / "docs" / "torchrec-suite.md").read_text()
    counted = [o for o in suite.outcomes if o.torchrec == "passed"]
    passed = [o for o in counted if o.compactrec == "passed"]
    assert f"**{len(passed)} of {len(counted)}**" in page
    assert f"all {len(counted)} pass" in page
    assert f"{len(suite.skipped)} tests" in page
    assert f"{len(suite.left_out)} files" in page
    assert suite.checkout in page
    assert suite.commit is not None
    assert suite.commit in page
    assert str(suite.versions["torchrec"]) in page
    for outcome in suite.outcomes:
        if outcome not in passed:
            assert f"`{outcome.test}`" in page
