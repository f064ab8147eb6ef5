"""Features: what is allowed, and what is said about the rest."""

import pytest

from compactrec.embeddings import Feature, FullConfig, Group, Plan, select
from compactrec.embeddings.feature import part_key


def test_a_feature_is_a_frozen_value() -> None:
    feature = Feature(name="C1", num_ids=5, dim=4)
    assert (feature.max_bag, feature.pooling) == (1, "sum")
    assert feature == Feature(name="C1", num_ids=5, dim=4, max_bag=1)
    assert part_key("C1", "q") == "C1__q"
    with pytest.raises(ValueError, match="frozen"):
        feature.dim = 8


@pytest.mark.parametrize("name", ["", "a@b", "a.b", "a__b"])
def test_names_that_mean_something_else_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not allowed: it must not be empty.*rename the feat"):
        Feature(name=name, num_ids=5, dim=4)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_ids", 0, "greater than or equal to 1"),
        ("num_ids", 2**63, "less than or equal to"),
        ("num_ids", 2.0, "valid integer"),
        ("dim", 0, "greater than or equal to 1"),
        ("max_bag", 0, "greater than or equal to 1"),
        ("pooling", "max", "Input should be 'sum' or 'mean'"),
        ("width", 4, "Extra inputs are not permitted"),
    ],
)
def test_bad_fields_are_refused(field: str, value: object, message: str) -> None:
    fields = {"name": "C1", "num_ids": 5, "dim": 4} | {field: value}
    with pytest.raises(ValueError, match=message):
        Feature(**fields)  # type: ignore[arg-type]


def test_plans_need_features_with_names_of_their_own() -> None:
    feature = Feature(name="C1", num_ids=5, dim=4)
    with pytest.raises(ValueError, match="no features were given; at least one is needed"):
        Plan((), ())
    with pytest.raises(ValueError, match="feature 'C1' was given twice; names must be unique"):
        Plan((feature, feature), (Group(("C1",), FullConfig()),))


FEATURES = tuple(
    Feature(name=name, num_ids=n, dim=4) for name, n in (("C1", 5), ("C2", 500), ("user", 900))
)
A, B, C = (FullConfig(init={"scale": s}) for s in (0.1, 0.2, 0.3))  # type: ignore[arg-type]


def _chosen(plan: Plan) -> dict[str, object]:
    return {group.features[0]: group.config for group in plan.groups}


def test_select_exact_then_pattern_then_default() -> None:
    plan = select(FEATURES, {"C.*": A, "C2": B, "_default": C})
    assert _chosen(plan) == {"C1": A, "C2": B, "user": C}


def test_select_keeps_small_features_apart() -> None:
    plan = select(FEATURES, {"_default": C}, min_num_ids=500, small=A)
    assert _chosen(plan) == {"C1": A, "C2": A, "user": C}
    plan = select(FEATURES, {"C1": B, "_default": C}, min_num_ids=500, small=A)
    assert _chosen(plan) == {"C1": B, "C2": A, "user": C}
    plan = select(FEATURES, {"C1": B, "_default": C}, min_num_ids=500)
    assert _chosen(plan) == {"C1": B, "C2": FullConfig(), "user": C}
    open_one = (Feature(name="any", dim=4),)
    assert _chosen(select(open_one, {"_default": C}, min_num_ids=500, small=A)) == {"any": C}


def test_select_says_what_matches_nothing() -> None:
    with pytest.raises(ValueError, match="no rule matches feature 'user'; add '_default'"):
        select(FEATURES, {"C.*": A})
    with pytest.raises(ValueError, match=r"'\(C' is not a regular expression \(missing \)"):
        select(FEATURES, {"_default": A, "(C": C})
    with pytest.raises(ValueError, match=r"rules that match no feature: D\.\*, nobody"):
        select(FEATURES, {"D.*": A, "nobody": B, "_default": C})
