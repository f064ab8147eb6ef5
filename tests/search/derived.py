"""Plans that searches derive, as cases of the contract: every contract test runs over them too."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from compactrec.embeddings import Feature, size
from compactrec.embeddings.budget import full_plan
from compactrec.embeddings.placing import place
from compactrec.embeddings.search import Derived, Supernet, Trained, get_search, search_names
from compactrec.embeddings.search.base import Rows
from compactrec.embeddings.search.dnis import DnisSupernet
from compactrec.embeddings.search.ihas import IhasSupernet
from compactrec.embeddings.search.optembed import OptEmbedSupernet
from compactrec.embeddings.search.pep import PepSupernet
from tests.methods.base import Case
from tests.search.support import batch_of, make_task

__all__ = ["derived_all", "derived_cases", "derived_from", "tiny_state"]

DIM = 8
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "dnis": (
        {"num_blocks": 3},
        {"structure": "structured", "num_blocks": 3},
        {"structure": "structured", "num_blocks": 3, "blocks": "per_field_quantile"},
    ),
    "optembed": (
        {"generations": 2},
        {"variant": "E"},
        {"variant": "D", "generations": 2},
    ),
    "ihas": (
        {"num_clusters": 2, "router_buckets": 16},
        {"num_clusters": 2, "router": "gates", "tables": "shared"},
    ),
}
"""Options by search; a search that is not named has its defaults."""
SHARES = {"ihas": None}
"""Of the full bytes, where it is not a half; None is the search's own size."""


def tiny_features(prefix: str) -> tuple[Feature, ...]:
    """Three features with names of their own, so that cases can be mixed."""
    return (
        Feature(name=f"{prefix}a", num_ids=60, dim=DIM, max_bag=3),
        Feature(name=f"{prefix}b", num_ids=7, dim=DIM, max_bag=2),
        Feature(name=f"{prefix}c", num_ids=31, dim=DIM),
    )


def tiny_state(name: str, prefix: str = "", share: float | None = 0.5, **options: Any) -> Trained:
    """A supernet with weights of order one, an architecture that has decided something, and a
    fitness that likes wide vectors of ``a`` and narrow ones of ``c``."""
    torch.manual_seed(0)
    task = make_task(name, features=tiny_features(prefix), numbered=False, **options)
    if share is not None:
        task = replace(task, budgets=(budget_of(task.features, share),))
    supernet = get_search(name).supernet(task).eval()
    with torch.no_grad():
        for table, weight in supernet.collection.tables.named_parameters():
            if table.endswith("__id.weight") or "__b" in table:
                weight.uniform_(-1, 1)
        plant(supernet)

    def fitness(masks: Tensor) -> Tensor:
        widths = masks.sum(2).double()
        return widths[:, 0] - widths[:, 2]

    def rows(split: str, num_rows: int) -> Iterator[Rows]:
        batch = batch_of(task.features, size=min(num_rows, 64))
        with torch.no_grad():
            vectors = supernet.vectors(batch)
        ids = {f.name: (batch[f.name].values(), batch[f.name].lengths()) for f in task.features}
        yield Rows(vectors, torch.zeros(len(vectors)), ids)

    return Trained(task, supernet, supernet.raw_tables(), fitness, rows)


@torch.no_grad()
def plant(supernet: Supernet) -> None:
    """What training would have decided: gates, thresholds, a budget that was reached."""
    if isinstance(supernet, DnisSupernet):
        for alpha in supernet.architecture_parameters():
            alpha.uniform_(0, 1)
    elif isinstance(supernet, OptEmbedSupernet):
        for threshold in supernet.architecture_parameters():
            threshold.fill_(4.0)  # the mean of a row's norm: about half of the rows are below
    elif isinstance(supernet, PepSupernet):
        for s in supernet.architecture_parameters():
            s.uniform_(1, 3)  # thresholds of 0.73 to 0.95
        for _ in range(supernet.look_every_steps):
            supernet.after_step(supernet.phases[0])
    elif isinstance(supernet, IhasSupernet):
        plant_gates(supernet)


def plant_gates(supernet: IhasSupernet) -> None:
    """Even and odd ids of ``c`` open other columns of ``a`` and of ``c``."""
    tables = supernet.effective_tables()
    name = supernet.task.searched[-1]
    ids = torch.arange(len(tables[name]))
    tables[name][ids, ids % 2] += 20.0
    place(supernet.collection, tables)
    layer = supernet.gates.network.layers[-1]
    assert isinstance(layer, nn.Linear)
    generator = torch.Generator().manual_seed(3)
    signs = torch.rand(layer.out_features, 2, generator=generator).sub(0.5).sign()
    layer.weight.zero_()
    layer.bias.zero_()
    layer.weight[:, 2 * DIM : 2 * DIM + 2] = signs


def budget_of(features: tuple[Feature, ...], share: float) -> int:
    """Bytes at a share of the full tables'."""
    return int(share * size(full_plan(features)).serving_bytes)


def derived_from(name: str, prefix: str = "", share: float | None = 0.5, **options: Any) -> Derived:
    """What a search makes of its tiny state within a share of the full bytes."""
    state = tiny_state(name, prefix, share, **options)
    budget = None if share is None else budget_of(state.task.features, share)
    return get_search(name).derive(state, budget)


def derived_all() -> Iterator[tuple[str, Derived]]:
    """What every search and variant makes, by the beginning of its cases' names."""
    for name in search_names():
        for i, options in enumerate(VARIANTS.get(name, ({},))):
            share = SHARES.get(name, 0.5)
            yield f"derived_{name}_{i}", derived_from(name, f"z{name}{i}", share, **options)


def derived_cases() -> tuple[Case, ...]:
    """One case for every search and variant; a routed plan gives one for each of its plans."""
    return tuple(
        Case(f"{name}_{j}", part)
        for name, found in derived_all()
        for j, part in enumerate(found.plan.plans)
    )
