"""From a training config to a plan, and from a plan to its bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.result import Bytes
from compactrec.data.manifest import Manifest
from compactrec.embeddings import AnyPlan, Feature, full_plan, load_plan, make_plan, size
from compactrec.models.inputs import source_key

__all__ = ["counts_of", "method_of", "plan_bytes", "resolve_plan"]

Counts = npt.NDArray[np.int64]


def resolve_plan(config: TrainConfig, manifest: Manifest) -> AnyPlan:
    """The plan file of ``config``, checked against the data, or a plan made for its budget.

    Raises:
        ValueError: the plan is for other features, is of another method or width or larger than the
            config says, or the method does not fit the budget.
    """
    if config.plan is not None:
        plan = load_plan(config.plan)
        plan.check_features(_features(config, manifest, plan))
        _check_given(config, manifest, plan)
        _check_name(config, plan)
        return plan
    features = config.features(manifest)
    if config.method is None or config.budget_bytes is None:
        return full_plan(features)  # the config allows this for 'full' alone
    return make_plan(
        config.method,
        features,
        config.budget_bytes,
        counts=counts_of(features, manifest.counts(config.data)),
        threshold=config.threshold,
        options=config.options,
    )


def _check_name(config: TrainConfig, plan: AnyPlan) -> None:
    """A plan file may be named only by what it is."""
    methods = plan.methods | {"full"}
    if config.method is not None and config.method not in methods:
        raise ValueError(
            f"{config.plan} is a plan of {sorted(methods)}, but method is {config.method!r}; leave "
            f"method out, or give the plan of that method"
        )
    found = size(plan).serving_bytes
    if config.budget_bytes is not None and found > config.budget_bytes:
        raise ValueError(
            f"{config.plan} serves with {found:,} bytes, but budget_bytes is "
            f"{config.budget_bytes:,}; leave budget_bytes out, or give a smaller plan"
        )


def _check_given(config: TrainConfig, manifest: Manifest, plan: AnyPlan) -> None:
    """A width or a start that somebody gave must be the plan's."""
    planned = {feature.name: feature for feature in plan.features}
    for f in config.features(manifest):
        ours = planned[f.name]
        if "dim" in config.model_fields_set and ours.dim != f.dim:
            raise ValueError(
                f"{config.plan} gives {f.name!r} vectors of width {ours.dim}, but dim {config.dim} "
                f"asks for {f.dim}; leave dim (--dim) out, or make a plan of that width"
            )
        if "init_std" in config.model_fields_set and ours.init_std != f.init_std:
            raise ValueError(
                f"{config.plan} starts {f.name!r} with init_std {ours.init_std or 'method'}, but "
                f"{config.init_std} is asked for; leave init_std out, or make a plan with it"
            )


def method_of(config: TrainConfig, plan: AnyPlan) -> str:
    """The name a result goes by: the config's, else the plan's one method beside ``full``."""
    if config.method is not None:
        return config.method
    others = sorted(plan.methods - {"full"})
    return "+".join(others) or "full"


def plan_bytes(config: TrainConfig, plan: AnyPlan) -> Bytes:
    """Bytes of ``plan``, with the state of the optimizers of ``config``."""
    lazy = config.engine == "fused" and config.table_decay > 0
    report = size(
        plan, optimizer=config.table_optimizer, dense_optimizer=config.dense_optimizer,
        lazy_decay=lazy and config.decay_mode != "touched_rows",
    )  # fmt: skip
    return Bytes(
        table_bytes=report.table_bytes,
        aux_bytes=report.aux_bytes,
        dense_bytes=report.dense_bytes,
        serving_bytes=report.serving_bytes,
        optimizer_bytes=report.optimizer_bytes,
        training_bytes=report.training_bytes,
        full_serving_bytes=_full_serving_bytes(plan.features),
    )


def _full_serving_bytes(features: Sequence[Feature]) -> int | None:
    if any(feature.num_ids is None for feature in features):
        return None
    return size(full_plan(features)).serving_bytes


def counts_of(features: Sequence[Feature], counts: Mapping[str, Counts]) -> dict[str, Counts]:
    """The data's counts by the names of a plan's features, some of which read the same ids."""
    names = {f.name: f.name if f.name in counts else source_key(f.name) for f in features}
    return {name: counts[source] for name, source in names.items() if source in counts}


def _features(config: TrainConfig, manifest: Manifest, plan: AnyPlan) -> tuple[Feature, ...]:
    """What the model reads of the data, with the plan's own choice of width, pooling and start."""
    ours = {feature.name: feature for feature in plan.features}
    found = []
    for f in config.features(manifest):
        like = ours.get(f.name)
        if like is None:
            raise ValueError(
                f"the plan has no feature {f.name!r}, which the data has and model "
                f"{config.model!r} reads; make a plan for this data and this model"
            )
        own = ("dim", "pooling", "init_std")
        found.append(f.model_copy(update={name: getattr(like, name) for name in own}))
    read, known = {f.name for f in found}, {f.name for f in manifest.sparse}
    if unread := [name for name in ours if name not in read and source_key(name) in known]:
        raise ValueError(
            f"the plan has features that model {config.model!r} does not read: "
            f"{', '.join(unread)}; make a plan for this model, or train the model it was made for"
        )
    return tuple(found)
