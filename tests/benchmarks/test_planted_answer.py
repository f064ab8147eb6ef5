"""Plans held against the planted answer."""

import numpy as np
import pytest

from compactrec.benchmarks.planted_answer import answer_of
from compactrec.data.planted import needed_widths, planted_config
from compactrec.embeddings import Feature, Group, Plan, full_plan
from compactrec.embeddings.pruned import pruned_assignment

CONFIG = planted_config()
NEEDED = needed_widths(CONFIG)
FEATURES = tuple(
    Feature(name=name, num_ids=size, dim=16)
    for name, size in zip(NEEDED, CONFIG.vocabulary_sizes(), strict=True)
)
COUNTS = {f.name: np.arange(f.num_ids or 0)[::-1] for f in FEATURES}


def plan_of(widths: dict[str, int], keep: float = 1.0) -> Plan:
    groups, arrays = [], {}
    for feature in FEATURES:
        rows = np.arange(feature.num_ids or 0) < keep * (feature.num_ids or 0)
        config, own = pruned_assignment(feature, rows, [range(widths[feature.name])])
        groups.append(Group((feature.name,), config))
        arrays |= own
    return Plan(FEATURES, tuple(groups), arrays)


def test_the_answer_itself_is_found() -> None:
    answer = answer_of(plan_of(NEEDED, keep=0.5), COUNTS)
    assert answer["rank_correlation"] == pytest.approx(1.0)
    assert answer["noise_kept"] == 0.0
    widths = answer["widths"]
    assert isinstance(widths, dict)
    assert widths["C7"] == pytest.approx(16.0)
    assert answer["ids_without_signal_kept"] < 0.2  # type: ignore[operator]


def test_full_tables_and_the_contrary_are_not() -> None:
    full = answer_of(full_plan(FEATURES), COUNTS)
    assert full["rank_correlation"] == 0.0
    assert full["noise_kept"] == 1.0
    assert full["ids_without_signal_kept"] == 1.0
    contrary = answer_of(plan_of({name: 16 - width for name, width in NEEDED.items()}), COUNTS)
    assert contrary["rank_correlation"] == pytest.approx(-1.0)
