"""The configuration of one search: frozen, checked, and documented here only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from compactrec.benchmarks.budgets import parse_budget
from compactrec.benchmarks.choices import full_serving_bytes, parse_search
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.schedule import LearningRateSchedule
from compactrec.data.manifest import Manifest
from compactrec.embeddings.search import get_search
from compactrec.embeddings.search.base import parse_search_options

__all__ = ["SearchConfig", "search_config", "search_for"]

_TRAIN = "train."
_OF_RETRAINING = ("epochs", "patience", "eval_every_steps", "score_test", "start", "plan")


class SearchConfig(BaseModel):
    """What is searched, on what, and how. The same config and seed find the same plans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: str
    """Name of a registered search."""
    options: dict[str, JsonValue] = {}
    """Options of the search."""
    budgets: tuple[int, ...] = ()
    """Serving bytes to derive plans for; empty is the search's own size."""
    train: TrainConfig
    """Data, folder, seed and model, and how the supernet's weights are trained. The search's phases
    have epochs and patience of their own; those here are for training the plan."""
    fitness_rows: int | None = Field(default=None, ge=100)
    """Validation rows on which candidates are compared; None is a sixtieth of all training rows
    seen, 1,000 at least, so that 600 candidates cost less than three trainings."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        parse_search_options(get_search(self.search), self.options)
        low = [b for b in self.budgets if b < 1]
        if low or len(set(self.budgets)) != len(self.budgets):
            raise ValueError(f"budgets must be bytes above 0, each once, got {self.budgets}")
        if self.train.engine != "eager":
            raise ValueError(
                f"a supernet is trained with engine 'eager', got {self.train.engine!r}; leave "
                f"engine out"
            )
        if self.train.device != "cpu":
            raise ValueError(
                f"a search runs on the CPU, got device {self.train.device!r}; leave device out: "
                f"the plan that is found can be trained on any device"
            )
        if self.train.embedding_decay or self.train.schedule != LearningRateSchedule():
            raise ValueError(
                "a supernet is trained without embedding_decay and schedule; leave them out: "
                f"{self.search}:train.embedding_decay=0"
            )
        if self.train.accumulate_steps > 1:
            raise ValueError(
                f"a supernet is trained with one step per batch, got accumulate_steps "
                f"{self.train.accumulate_steps}; say {self.search}:train.accumulate_steps=1, and "
                f"give it a larger train.batch_size"
            )
        if self.train.monitor != "auc":
            raise ValueError(
                f"a supernet's phases are judged by AUC, got monitor {self.train.monitor!r}; say "
                f"{self.search}:train.monitor=auc: what trains the plan keeps its own"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON, without the places of files; options with
        their defaults, so that a default that changes makes another search."""
        own = self.model_dump(mode="json", exclude={"train", "options"})
        options = parse_search_options(get_search(self.search), self.options)
        return {
            **own,
            "options": options.model_dump(mode="json"),
            "train": self.train.resolved(),
        }


def search_config(
    name: str,
    options: Mapping[str, JsonValue],
    budgets: tuple[int, ...],
    base: TrainConfig,
    *,
    given: Collection[str] = (),
) -> SearchConfig:
    """The config of a search on the data and model of ``base``.

    How the supernet is trained is the search's own (``Search.training``), but for the fields of
    ``base`` that a person has ``given`` and for options that begin with ``train.``:
    ``train.table_learning_rate=0.0003``. An option ``fitness_rows`` is this config's own.

    Raises ``ValueError`` for an unknown search, option or field.
    """
    search = get_search(name)
    fields = {k.removeprefix(_TRAIN): v for k, v in options.items() if k.startswith(_TRAIN)}
    own = {k: v for k, v in options.items() if not k.startswith(_TRAIN)}
    idle = [f"{_TRAIN}{k}" for k in _OF_RETRAINING if k in fields]
    if idle:
        raise ValueError(
            f"{name}: {', '.join(idle)} would do nothing in a search, whose phases have epochs and "
            f"patience of their own; see 'compactrec methods' for its options"
        )
    fitness_rows = own.pop("fitness_rows", None)
    shared = {
        **dict(base), "plan": None, "method": "full", "budget_bytes": None, "options": {},
        "engine": "eager", **{k: v for k, v in search.training.items() if k not in given}, **fields,
    }  # fmt: skip
    return SearchConfig.model_validate(
        {
            "search": name, "options": own, "budgets": tuple(sorted(budgets, reverse=True)),
            "train": TrainConfig.model_validate(shared), "fitness_rows": fitness_rows,
        }
    )  # fmt: skip


def search_for(base: TrainConfig, text: str, budgets: Collection[str]) -> SearchConfig:
    """The config of a search in words: `dnis:structure=structured`, `64MB` or `1/16`.

    Raises ``ValueError`` for an unknown search, option or budget.
    """
    choice = parse_search(text)
    full_bytes = full_serving_bytes(base, Manifest.load(base.data))
    sizes = {parse_budget(text).resolve(full_bytes) for text in budgets}
    given = base.model_fields_set
    return search_config(choice.name, choice.options, tuple(sizes), base, given=given)
