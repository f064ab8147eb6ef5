"""Parameter totals equal to those published, built on `meta`."""

from typing import Any

import pytest
from torch import nn

from compactrec.embeddings import CompressedEmbeddingBagCollection, Feature, full_plan, size
from compactrec.models import get_model
from tests.models.support import count

X4 = (
    44, 99, 122, 41, 220, 112, 80, 69, 92, 6, 27, 37, 72,
    1446, 554, 157339, 117822, 306, 18, 11882, 630, 5, 39530, 5131, 156656, 3176, 28, 11043,
    148913, 12, 4560, 2003, 5, 154564, 18, 17, 53031, 82, 40955,
)  # fmt: skip
"""Ids per field of Criteo_x4_001 in BARS, numbers as buckets; padding and out-of-vocabulary ids are
among them. Runs with FuxiCTR 1.0.2 have one id fewer per field."""
MLPERF = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10, 2209,
    11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip
DEEP = (1000,) * 5


def on_meta(
    name: str, sizes: tuple[int, ...], dim: int, num_dense: int = 0, **options: Any
) -> nn.Module:
    chosen = get_model(name)
    config = chosen.parse(options)
    given = tuple(Feature(name=f"f{i}", num_ids=n, dim=dim) for i, n in enumerate(sizes))
    plan = full_plan(config.features(given))
    embeddings = CompressedEmbeddingBagCollection(plan, device="meta")
    model = chosen.module(embeddings, num_dense, config, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    return model


@pytest.mark.parametrize(
    ("name", "fewer", "options", "total"),
    [
        ("fm", 1, {}, 15_482_037),
        ("dcnv2", 0, {"hidden": DEEP, "batch_norm": True, "dropout": 0.1}, 20_382_577),
        ("masknet", 0, {"hidden": DEEP, "blocks": (500, 500), "ratio": 0.1}, 20_358_077),
        (
            "finalmlp", 0, {"hidden": DEEP, "hidden2": (500,), "heads": 50},
            19_524_954,
        ),
        ("fibinet", 1, {"hidden": (2000,) * 3, "share_bilinear": True}, 71_104_747),
        ("fibinet", 1, {"hidden": (2000,) * 3}, 71_104_747 + 189_696),
        ("lr", 1, {}, 910_709),
    ],
)  # fmt: skip
def test_totals_on_criteo_x4(name: str, fewer: int, options: dict[str, Any], total: int) -> None:
    assert sum(X4) == 910_747
    model = on_meta(name, tuple(n - fewer for n in X4), 16, **options)
    packing = sum(p.numel() for p in model.embeddings.parameters()) - _in_full(model)  # type: ignore[union-attr]  # a module, as every model's
    assert count(model) - packing == total


def _in_full(model: nn.Module) -> int:
    """Weights that full tables hold: rows of width 1 are packed by four, and padded by some."""
    plan = model.embeddings.plan  # type: ignore[union-attr]  # a collection, as every model's
    return sum(f.num_ids * f.dim for f in plan.features)  # type: ignore[union-attr]  # as above


def test_first_order_weights_are_counted_in_the_bytes_of_a_plan() -> None:
    given = tuple(Feature(name=f"f{i}", num_ids=n - 1, dim=16) for i, n in enumerate(X4))
    reads = get_model("fm").config().features(given)
    extra = size(full_plan(reads)).table_bytes - size(full_plan(given)).table_bytes
    assert 4 * 910_708 <= extra <= 4 * (910_708 + 3 * len(X4))


@pytest.mark.parametrize(
    ("name", "flavor", "total"),
    [("autoint", "paper", 39_361), ("autoint", "official_tf", 40_513)],
)
def test_autoint_beyond_its_embeddings(name: str, flavor: str, total: int) -> None:
    model = on_meta(name, (5,) * 39, 16, flavor=flavor)
    assert count(model) - 39 * 5 * 16 == total


def test_mlperf() -> None:
    model = on_meta("dlrm_dcnv2", MLPERF, 128, 13, rank=512)
    assert sum(MLPERF) == 204_184_588
    assert count(model.embeddings) == 26_135_627_264  # type: ignore[arg-type]  # a module
    assert count(model.bottom) == 171_392  # type: ignore[arg-type]  # a module
    assert count(model.cross) == 10_627_200  # type: ignore[arg-type]  # a module
    assert count(model.top) == 5_245_953  # type: ignore[arg-type]  # a module


def test_cross_parts_as_their_formulas_say() -> None:
    width, layers, rank, experts = 39 * 16, 3, 32, 4
    expected = {
        "full": layers * (width**2 + width),
        "low_rank": layers * (2 * width * rank + width),
        "mixture": layers * (experts * (2 * width * rank + rank**2) + width) + experts * width,
    }
    for kind, total in expected.items():
        model = on_meta("dcnv2", (5,) * 39, 16, kind=kind, rank=rank, num_experts=experts)
        assert count(model.cross) == total, kind  # type: ignore[arg-type]  # a module
    model = on_meta("dcn", (5,) * 39, 16, cross_layers=layers)
    assert count(model.cross) == layers * 2 * width  # type: ignore[arg-type]  # a module
    model = on_meta("gdcn", (5,) * 39, 16, cross_layers=layers)
    assert count(model.cross) == layers * (2 * width**2 + width)  # type: ignore[arg-type]  # a module


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_masks_are_as_wide_inside_as_what_they_multiply_asks(kind: str) -> None:
    x0, blocks, ratio = 39 * 16, (300, 90, 200), 0.1
    model = on_meta("masknet", (5,) * 39, 16, kind=kind, blocks=blocks, ratio=ratio)
    multiplied = (x0, *blocks[:-1]) if kind == "serial" else (x0,) * 3
    for block, v, out in zip(model.blocks, multiplied, blocks, strict=True):  # type: ignore[arg-type]  # a list of modules
        inner = int(ratio * v)
        assert count(block) == (x0 * inner + inner) + (inner * v + v) + v * out
