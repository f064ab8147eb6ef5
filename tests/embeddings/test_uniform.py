"""The smaller uniform width: cost, rank, budget."""

import pytest
import torch

pytest.importorskip("compactrec.embeddings.uniform")

from compactrec.embeddings import Feature, Group, Plan, full_plan, make_plan, size
from compactrec.embeddings.collection import CompressedEmbeddingBagCollection
from compactrec.embeddings.layers import CompressedEmbedding
from compactrec.embeddings.uniform import UniformConfig
from tests.reference import uniform
from tests.reference.kaggle import KAGGLE_SIZES

KAGGLE = tuple(
    Feature(name=f"C{i}", num_ids=n, dim=16) for i, n in enumerate(KAGGLE_SIZES, start=1)
)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 16])
def test_cost_is_the_formula(width: int) -> None:
    plan = Plan(KAGGLE, tuple(Group((f.name,), UniformConfig(dim=width)) for f in KAGGLE))
    report = size(plan)
    scalars = sum(uniform.param_count(n, width, 16) for n in KAGGLE_SIZES)
    padding = report.table_bytes // 4 + report.dense_bytes // 4 - scalars
    assert 0 <= padding <= 3 * width * len(KAGGLE)


def test_outputs_span_no_more_than_the_width() -> None:
    layer = CompressedEmbedding(40, 12, UniformConfig(dim=3))
    assert int(torch.linalg.matrix_rank(layer.materialize().double(), atol=1e-6)) == 3


def test_full_width_has_no_projection() -> None:
    layer = CompressedEmbedding(40, 12, UniformConfig(dim=12))
    assert [name for name, _ in layer.named_parameters()] == [
        "tables.embedding_bags.t_ids__id.weight"
    ]


def test_budget_takes_the_widest_that_fits() -> None:
    budget = size(full_plan(KAGGLE)).serving_bytes // 4
    plan = make_plan("uniform", KAGGLE, budget, threshold=0)
    widths = {g.features[0]: g.config.dim for g in plan.groups}  # type: ignore[attr-defined]
    narrow = min(widths.values())
    assert set(widths.values()) <= {narrow, narrow + 1}
    assert size(plan).serving_bytes <= budget
    # The features at the wider width are the smallest ones, and the next one does not fit.
    ordered = sorted(KAGGLE, key=lambda f: f.num_ids or 0)
    wider = sum(width > narrow for width in widths.values())
    assert [widths[f.name] for f in ordered] == [narrow + (i < wider) for i in range(26)]
    widths[ordered[wider].name] += 1
    groups = tuple(Group((n,), UniformConfig(dim=d)) for n, d in widths.items())
    assert size(Plan(KAGGLE, groups)).serving_bytes > budget


def test_a_width_above_the_logical_one_is_refused() -> None:
    plan = Plan((Feature(name="a", num_ids=9, dim=4),), (Group(("a",), UniformConfig(dim=5)),))
    with pytest.raises(ValueError, match=r"5.*larger than the.* width 4"):
        CompressedEmbeddingBagCollection(plan)
