"""Random widths: the baseline that a search for widths must beat to have found anything.

``e(x) = E_f[x] @ P_f`` with ``E_f (n, d_f)`` and a bias-free ``P_f (d_f, D)`` of the feature's own,
none where ``d_f = D``; the layer of ``mixed``, and only the widths are chance. Linear, so bags are
pooled at width ``d_f`` and projected once. Cost: ``4 * (n * d_f + d_f * D)`` bytes a feature.

At a budget every feature draws a width uniform in 1 .. D, from the option ``seed`` and its name,
and all are scaled by one factor, as large as fits. What that leaves goes to the column that would
be next, in part: the first ``m`` ids of its feature have a table and a projection of their own,
``4 * (m + D) * (d_f + 1)`` bytes.
"""

from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from compactrec.embeddings.config import MethodConfig
from compactrec.embeddings.contract import Arrays, Lowered, require_vocabulary, table_name
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.hashing import name_salt
from compactrec.embeddings.init import Init, dlrm_init, first_init
from compactrec.embeddings.packing import Block, packed
from compactrec.embeddings.registry import Assignments, Method, SizingTask, register_method
from compactrec.embeddings.sizing import largest, largest_step

__all__ = ["RandomConfig", "RandomOptions", "lower_random"]

_STEPS = 2**20


class RandomConfig(MethodConfig):
    """A table of width ``dim`` and a projection; the same, wider by one, for the first ids."""

    method: ClassVar[str] = "random"

    dim: int = Field(ge=1)
    """Stored width d_f, at most the feature's own."""
    wider_ids: int = Field(default=0, ge=0)
    """Ids ``0 .. wider_ids - 1`` have width d_f + 1; less than num_ids."""
    init: Init | None = None
    """Initial table weights; None is U(+-sqrt(1/n))."""


def lower_random(config: RandomConfig, features: tuple[Feature, ...], arrays: Arrays) -> Lowered:
    """One table for the group, or two, and a projection for each feature where they are narrow."""
    num_ids = require_vocabulary(config.method, features, same=True)
    wider, dim = config.wider_ids, config.dim
    widest = dim + 1 if wider else dim
    if wider >= num_ids or widest > features[0].dim:
        raise ValueError(
            f"random: wider_ids must be less than num_ids = {num_ids} and no width larger than "
            f"{features[0].dim} for feature {features[0].name!r}, got {wider} ids and a width of "
            f"{widest}; lower wider_ids or dim"
        )
    init = config.init or first_init(features, dlrm_init(num_ids))
    sizes = [(wider, dim + 1), (num_ids - wider, dim)] if wider else [(num_ids, dim)]
    part = "b" if wider else "id"
    names = [f"b{i}" for i in range(2)] if wider else ["id"]
    blocks = [
        Block(table_name(features, name), n, d, init)
        for name, (n, d) in zip(names, sizes, strict=True)
    ]
    return packed(features, part, blocks)


class RandomOptions(BaseModel):
    """What a person may choose at a budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Another seed, other widths."""


def _widenings(task: SizingTask) -> list[int]:
    """Which feature is the next to be a column wider, from width 1 for all to D for all.

    A feature that drew ``u`` in (0, 1] has width ``ceil(t u D)``, at least 1 and at most D; as
    ``t`` grows from 0, widths grow one column at a time. At ``t = 1`` they are uniform in 1 .. D.
    """
    steps = []
    for i, feature in enumerate(task.features):
        salt = name_salt(feature.name, seed=task.options.seed) % 2**64
        drawn = 1 - np.random.default_rng(salt).random()
        steps += [(width / (drawn * feature.dim), i) for width in range(1, feature.dim)]
    return [i for _, i in sorted(steps)]


def _from_budget(task: SizingTask) -> Assignments:
    """The widths that were drawn, all scaled by one factor; the next wider column in part."""
    sizes = [require_vocabulary("random", (f,)) for f in task.features]
    order = _widenings(task)

    def assign(step: int, ids: int = 0) -> Assignments:
        dims = np.bincount(np.array(order[:step], np.int64), minlength=len(sizes)) + 1
        following = order[step] if ids else None
        groups = [
            ((f,), RandomConfig(dim=int(dims[i]), wider_ids=ids if i == following else 0))
            for i, f in enumerate(task.features)
        ]
        return Assignments(tuple(groups), {})

    step = largest_step(assign, 0, len(order), task.budget_bytes)
    if step == len(order):
        return assign(step)
    most = sizes[order[step]] - 1
    return largest(partial(assign, step), 0, most, task.budget_bytes)


register_method(
    Method(
        config=RandomConfig,
        lower=lower_random,
        from_budget=_from_budget,
        options=RandomOptions,
        title="Random widths",
        paper="-",
        formula="e(x) = E_f[x] P_f,  E_f (n, d_f), d_f drawn by chance",
        search_baseline=True,
    )
)
