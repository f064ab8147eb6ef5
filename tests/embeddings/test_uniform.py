"""The smaller uniform width: cost, rank, budget."""

import pytest
import torch

pytest.importorskip("compactrec.embeddings.uniform")

from compactrec.embeddings import (
    Feature,
    Group,
    MethodConfig,
    Plan,
    full_plan,
    make_plan,
    size,
)
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


@pytest.mark.parametrize("share", [4, 7.3, 15])
def test_budget_takes_the_widest_that_fits(share: float) -> None:
    budget = int(size(full_plan(KAGGLE)).serving_bytes / share)
    plan = make_plan("uniform", KAGGLE, budget, threshold=0)
    configs = {g.features[0]: g.config for g in plan.groups}
    assert all(isinstance(c, UniformConfig) for c in configs.values())
    widths = {n: c.dim for n, c in configs.items()}  # type: ignore[attr-defined]
    narrow = min(widths.values())
    # The features at the wider width are the smallest ones, the next one is wider in part.
    ordered = sorted(KAGGLE, key=lambda f: f.num_ids or 0)
    wider = sum(width > narrow for width in widths.values())
    assert [widths[f.name] for f in ordered] == [narrow + (i < wider) for i in range(26)]
    split = {n: c.wider_ids for n, c in configs.items() if c.wider_ids}  # type: ignore[attr-defined]
    assert list(split) == [ordered[wider].name]
    # Eight ids more do not fit: rows are padded to four at both widths.
    assert size(plan).serving_bytes <= budget
    (name, ids), width = *split.items(), narrow
    more = configs | {name: UniformConfig(dim=width, wider_ids=ids + 8)}
    assert size(_plan(more)).serving_bytes > budget
    assert size(_plan(configs | {name: UniformConfig(dim=width + 1)})).serving_bytes > budget


def _plan(configs: dict[str, MethodConfig]) -> Plan:
    return Plan(KAGGLE, tuple(Group((name,), config) for name, config in configs.items()))


def test_the_first_ids_can_be_wider() -> None:
    table = CompressedEmbedding(40, 12, UniformConfig(dim=3, wider_ids=10)).materialize().double()
    ranks = [int(torch.linalg.matrix_rank(t, atol=1e-6)) for t in (table[:10], table[10:])]
    assert ranks == [4, 3]
    last = CompressedEmbedding(40, 12, UniformConfig(dim=11, wider_ids=10))
    assert sorted(tuple(p.shape) for p in last.combine.parameters()) == [(11, 12)]


@pytest.mark.parametrize(("dim", "ids"), [(3, 40), (12, 5)])
def test_wider_ids_must_leave_room(dim: int, ids: int) -> None:
    message = rf"wider_ids must be less than num_ids = 40 .* at most 12 .*, got {ids} ids of width"
    with pytest.raises(ValueError, match=message):
        CompressedEmbedding(40, 12, UniformConfig(dim=dim, wider_ids=ids))


def test_a_width_above_the_logical_one_is_refused() -> None:
    plan = Plan((Feature(name="a", num_ids=9, dim=4),), (Group(("a",), UniformConfig(dim=5)),))
    with pytest.raises(ValueError, match=r"5.*larger than the.* width 4"):
        CompressedEmbeddingBagCollection(plan)
