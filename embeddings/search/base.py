"""What a search is: a supernet to train, and a pure step from what was trained to a plan.

    search:  phases of training; weights on training rows, architecture where its phase says
    derive:  trained supernet, budget in bytes -> plan (+ the values to start from)
    retrain: the plan is trained like any other

A search is one file that ends in :func:`register_search`. It never names a model, a data set or an
engine: the loop in ``benchmarks/search.py`` trains any :class:`~.supernet.Supernet` in the place of
a model's embeddings, and ``derive`` sees only :class:`Trained`.

Three splits: weights are learned on training rows, the architecture on training or validation rows,
plans are chosen on validation rows. Nothing here ever gets a test row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from compactrec.embeddings.config import first_error
from compactrec.embeddings.feature import Feature
from compactrec.embeddings.plan import AnyPlan

if TYPE_CHECKING:
    from compactrec.embeddings.search.supernet import Supernet

__all__ = [
    "DENSE_ADAM",
    "BudgetTooSmallError",
    "Derived",
    "Phase",
    "Rows",
    "Search",
    "SearchOptions",
    "SearchTask",
    "Trained",
    "get_search",
    "parse_search_options",
    "register_search",
    "search_names",
]

DENSE_ADAM: Mapping[str, JsonValue] = {
    "table_optimizer": "adam", "table_learning_rate": 0.001, "table_decay": 1e-5,
    "decay_mode": "dense_coupled",
}  # fmt: skip
"""How the supernets of the papers are trained: a decay that reaches every row in every step."""


class BudgetTooSmallError(ValueError):
    """No plan of a search is so small; the text names the smallest possible bytes. An outcome of a
    search, where any other ``ValueError`` of ``derive`` is its failure."""


class SearchOptions(BaseModel):
    """Base of every search's options: frozen, no unknown names, no NaN and nothing infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Phase:
    """A stretch of a search's training."""

    name: str
    epochs: int
    architecture: Literal["off", "train", "validation"] = "off"
    """What moves the architecture: nothing; the loss of the same training batch as the weights; or,
    after every weight step, the loss of a validation batch (bi-level)."""
    weights: Literal["all", "tables", "dense"] = "all"
    """``tables``: the rest of the model stays as it is. ``dense``: the tables do, and all else in
    the supernet that is not architecture."""
    patience: int | None = None
    """Stop after so many validations in a row without a better AUC."""
    keep: Literal["best", "last"] = "best"
    """Which weights the next phase, or ``derive``, gets: best validation AUC, or the last."""
    epoch_ends: Literal["train", "shorter"] = "train"
    """For ``validation``: an epoch is all training batches (validation rows begin again when they
    run out), or ends with the shorter of the two loaders."""


@dataclass(frozen=True)
class SearchTask:
    """What a search is to be made for."""

    features: tuple[Feature, ...]
    """Every feature that the model reads as vectors, of one width D."""
    searched: tuple[str, ...]
    """The features to be made smaller; the others stay full tables."""
    counts: Mapping[str, NDArray[np.int64]]
    """Training frequency of every id, ``(num_ids,)``, by feature name."""
    options: Any
    """The search's own options, already validated."""
    budgets: tuple[int, ...] = ()
    """Serving bytes that plans will be derived for, largest first, without those of ``beside``. A
    search that prunes while it trains must keep a state for each; most ignore them."""
    steps_per_epoch: int = 1
    """Training batches in an epoch, for schedules in steps."""
    seed: int = 0
    beside: tuple[Feature, ...] = ()
    """First-order weights that the model reads too: full tables, which no search looks at. See
    :func:`~compactrec.embeddings.search.beside.derive_with_beside`."""

    @property
    def dim(self) -> int:
        """The one width D."""
        return self.features[0].dim

    @property
    def searched_features(self) -> tuple[Feature, ...]:
        """The searched features, as objects, in the order of :attr:`features`."""
        return tuple(f for f in self.features if f.name in self.searched)


@dataclass(frozen=True)
class Rows:
    """Some rows of a split through the trained model's embeddings, no gradient."""

    vectors: Tensor
    """``(B, F, D)``: the collection's vectors before the supernet's layer."""
    labels: Tensor
    """``(B,)``"""
    ids: Mapping[str, tuple[Tensor, Tensor]]
    """Values and lengths of every feature's bags."""


@dataclass(frozen=True)
class Trained:
    """A trained search state: all that ``derive`` may look at."""

    task: SearchTask
    supernet: "Supernet"
    """In eval mode, with the weights that its last phase kept."""
    initial: Mapping[str, Tensor]
    """The logical tables ``(num_ids, D)`` of every feature before the first step."""
    fitness: Callable[[Tensor], Tensor]
    """``(C, F, D)`` masks of 0 and 1 on the vectors -> validation AUC ``(C,)``, float64. All
    candidates see the same rows, a fixed sample of validation; weights are frozen."""
    rows: Callable[[Literal["train", "validation"], int], Iterator[Rows]]
    """Batches of at most so many rows in all, drawn with the search's seed."""


@dataclass(frozen=True)
class Derived:
    """What a search ends in."""

    plan: AnyPlan
    tables: Mapping[str, Tensor] | None = None
    """Logical tables ``(num_ids, D)`` of every feature to start from; None: as initialised."""
    dense: Literal["trained", "initial", "fresh"] = "fresh"
    """Where the rest of the model starts."""
    epochs: int | None = None
    """Epochs of retraining; 0 serves the start as it is; None leaves it to the person."""
    notes: dict[str, JsonValue] = field(default_factory=dict)
    """What was found, for the record and the picture."""


@dataclass(frozen=True)
class Search:
    """A registered search."""

    name: str
    title: str
    paper: str
    formula: str
    options: type[SearchOptions]
    supernet: Callable[[SearchTask], "Supernet"]
    derive: Callable[[Trained, int | None], Derived]
    """Pure: the same state and budget give the same plan. Serving bytes are at most the budget;
    None is the search's own size. ``BudgetTooSmallError`` where there is no such plan."""
    training: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields of the training config that the supernet is trained with unless a person says
    otherwise: optimizer, rates, decay."""
    baseline: bool = False
    """True for what every table of searches shows beside them."""


_SEARCHES: dict[str, Search] = {}


def register_search(search: Search) -> Search:
    """Add a search; raise on a second one of the same name."""
    if not search.name.isidentifier() or search.name != search.name.lower():
        raise ValueError(f"search name {search.name!r} is not allowed: use a lower-case identifier")
    if search.name in _SEARCHES:
        raise ValueError(f"a search named {search.name!r} is registered already: choose another")
    _SEARCHES[search.name] = search
    return search


def search_names() -> list[str]:
    """All registered searches, in order of registration."""
    return list(_SEARCHES)


def get_search(name: str) -> Search:
    """The search of that name; raise ``ValueError`` naming what there is."""
    if name not in _SEARCHES:
        raise ValueError(f"unknown search {name!r}: there are {', '.join(_SEARCHES)}")
    return _SEARCHES[name]


def parse_search_options(search: Search, options: Mapping[str, Any]) -> SearchOptions:
    """Validate a person's options; errors name the search and the field."""
    try:
        return search.options.model_validate(dict(options))
    except ValidationError as error:
        allowed = ", ".join(search.options.model_fields) or "none"
        raise ValueError(
            f"{search.name}: option {first_error(error)}; options are: {allowed}"
        ) from None
