"""Random widths: the draws of a seed, what they do not depend on, and a budget that is used up."""

import numpy as np
import pytest

from compactrec.embeddings import CompressedEmbedding, Feature, Plan, full_plan, make_plan, size
from compactrec.embeddings.random_widths import RandomConfig
from tests.reference import random_widths

DIM = 16
FEATURES = tuple(
    Feature(name=f"C{i}", num_ids=n, dim=DIM)
    for i, n in enumerate((1_400, 580, 90_000, 2_600, 12_000, 305, 24_000, 5_650))
)
FULL_BYTES = size(full_plan(FEATURES)).serving_bytes


def plan_of(seed: int, share: float = 2.0, features: tuple[Feature, ...] = FEATURES) -> Plan:
    budget = int(size(full_plan(features)).serving_bytes / share)
    return make_plan("random", features, budget, options={"seed": seed})


def widths(plan: Plan) -> dict[str, int]:
    found = {}
    for group in plan.groups:
        assert isinstance(group.config, RandomConfig)
        found[group.features[0]] = group.config.dim
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [1.3, 4, 13])
def test_every_seed_uses_the_same_bytes(seed: int, share: float) -> None:
    budget = int(FULL_BYTES / share)
    plan = make_plan("random", FEATURES, budget, options={"seed": seed})
    assert 0.99 * budget < size(plan).serving_bytes <= budget
    assert plan == make_plan("random", FEATURES, budget, options={"seed": seed})


def test_seeds_draw_other_widths_of_all_kinds() -> None:
    found = [widths(plan_of(seed)) for seed in range(40)]
    assert len({tuple(w.values()) for w in found}) == 40
    for feature in FEATURES:
        seen = np.array([w[feature.name] for w in found])
        assert seen.min() >= 1
        assert seen.max() <= DIM
        assert len(set(seen.tolist())) > 5, "a feature's width is not a matter of its size"
    small = np.array([[w["C1"], w["C2"]] for w in found])
    assert (small[:, 0] > small[:, 1]).any()
    assert (small[:, 0] < small[:, 1]).any()


def test_draws_depend_on_names_not_on_places() -> None:
    backwards = tuple(reversed(FEATURES))
    assert widths(plan_of(3)) == widths(plan_of(3, features=backwards))


def test_the_default_seed_is_zero() -> None:
    budget = FULL_BYTES // 2
    assert make_plan("random", FEATURES, budget) == plan_of(0)
    with pytest.raises(ValueError, match=r"random: option seed: .* options are: seed"):
        make_plan("random", FEATURES, budget, options={"seed": -1})


def test_parameters_are_counted_as_in_the_formula() -> None:
    config = RandomConfig(dim=4, wider_ids=20)
    layer = CompressedEmbedding(104, 16, config)
    rows, dims = (20, 84), (5, 4)
    assert sum(p.numel() for p in layer.parameters()) == random_widths.param_count(rows, dims, 16)


@pytest.mark.parametrize(("dim", "ids"), [(17, 0), (16, 3), (3, 40)])
def test_configs_that_do_not_fit_are_refused(dim: int, ids: int) -> None:
    message = rf"random: wider_ids must be less than num_ids = 40 and no width .* 16 .*{ids} ids"
    with pytest.raises(ValueError, match=message):
        CompressedEmbedding(40, 16, RandomConfig(dim=dim, wider_ids=ids))
