"""Plans that searches derive, as cases of the contract: every contract test runs over them too."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from compactrec.embeddings import Feature, size
from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.search import Derived, Trained, get_search, search_names
from compactrec.embeddings.search.base import Rows
from tests.methods.base import Case
from tests.search.support import batch_of, make_task

__all__ = ["derived_cases", "derived_from", "tiny_state"]

DIM = 8
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "dnis": ({"num_blocks": 3}, {"structure": "structured", "num_blocks": 3}),
    "optembed": ({"generations": 2},),
}
"""Options by search; a search that is not named has its defaults."""


def tiny_features(prefix: str) -> tuple[Feature, ...]:
    """Three features with names of their own, so that cases can be mixed."""
    return (
        Feature(name=f"{prefix}a", num_ids=60, dim=DIM, max_bag=3),
        Feature(name=f"{prefix}b", num_ids=7, dim=DIM, max_bag=2),
        Feature(name=f"{prefix}c", num_ids=31, dim=DIM),
    )


def tiny_state(name: str, prefix: str = "", **options: Any) -> Trained:
    """A supernet as it starts, with weights of order one and a fitness that likes all columns."""
    torch.manual_seed(0)
    task = make_task(name, features=tiny_features(prefix), numbered=False, **options)
    supernet = get_search(name).supernet(task).eval()
    with torch.no_grad():
        for table, weight in supernet.collection.tables.named_parameters():
            if table.endswith("__id.weight") or "__b" in table:
                weight.uniform_(-1, 1)

    def fitness(masks: Tensor) -> Tensor:
        return masks.sum((1, 2)).double()

    def rows(split: str, num_rows: int) -> Iterator[Rows]:
        batch = batch_of(task.features, size=min(num_rows, 64))
        with torch.no_grad():
            vectors = supernet.vectors(batch)
        ids = {f.name: (batch[f.name].values(), batch[f.name].lengths()) for f in task.features}
        yield Rows(vectors, torch.zeros(len(vectors)), ids)

    return Trained(task, supernet, supernet.raw_tables(), fitness, rows)


def derived_from(name: str, prefix: str = "", share: float = 0.5, **options: Any) -> Derived:
    """What a search makes of its tiny state within a share of the full bytes."""
    state = tiny_state(name, prefix, **options)
    budget = int(share * size(full_plan(state.task.features)).serving_bytes)
    return get_search(name).derive(state, budget)


def derived_cases() -> tuple[Case, ...]:
    """One case for every search and variant; a routed plan gives one for each of its plans."""
    cases = []
    for name in search_names():
        for i, options in enumerate(VARIANTS.get(name, ({},))):
            prefix = f"z{name}{i}"
            plan = derived_from(name, prefix, **options).plan
            for j, part in enumerate(plan.plans[:2]):
                cases.append(Case(f"derived_{name}_{i}_{j}", part))
    return tuple(cases)
