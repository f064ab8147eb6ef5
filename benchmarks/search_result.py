"""The result of one search, as ``search.json`` holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from compactrec.benchmarks.metrics import Metrics
from compactrec.benchmarks.result import DataInfo
from compactrec.embeddings.checkpoint_index import differences
from compactrec.embeddings.checkpoint_io import write_atomically

__all__ = ["SEARCH_NAME", "FoundPlan", "SearchEntry", "SearchResult", "finished_search"]

SEARCH_NAME = "search.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchEntry(_Frozen):
    """One validation while the supernet was trained."""

    phase: str
    step: int
    """In the phase."""
    train_loss: float
    """Mean since the entry before, penalties left out."""
    validation: Metrics
    figures: dict[str, float] = {}
    """How the search stood."""


class FoundPlan(_Frozen):
    """A plan that was derived, or why there is none."""

    budget_bytes: int | None
    plan: str | None = None
    """File, relative to search.json."""
    start: str | None = None
    """Weights to start retraining from, relative to search.json; None where it starts afresh."""
    epochs: int | None = None
    """0: the start is served as it is. None: as many as a person trains."""
    serving_bytes: int | None = None
    derive_seconds: float = 0.0
    notes: dict[str, JsonValue] = {}
    reason: str | None = None
    """Why there is no plan."""


class SearchResult(_Frozen):
    """One finished search."""

    format: Literal["compactrec.search"] = "compactrec.search"
    version: Literal[1] = 1
    search: str
    seed: int
    config: dict[str, Any]
    """The resolved config, without the places of files."""
    data: DataInfo
    history: tuple[SearchEntry, ...]
    found: tuple[FoundPlan, ...]
    train_seconds: float
    """Weight and architecture steps with their loading."""
    total_seconds: float
    """All of it: validations, candidates and writing too; over all processes, but for what a kill
    undid."""
    supernet_bytes: int
    """Weights that were trained: tables, gates, thresholds and the rest of the model."""
    peak_rss_bytes: int
    environment: dict[str, str | int | None]

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        plans = sum(found.plan is not None for found in self.found)
        return f"{plans} of {len(self.found)} plans, {self.total_seconds:.0f} s of search"

    def at(self, budget_bytes: int | None) -> FoundPlan:
        """What was found for a budget; raises ``ValueError`` for one that was not asked for."""
        for found in self.found:
            if found.budget_bytes == budget_bytes:
                return found
        raise ValueError(
            f"the search of {self.search} has no plan for {budget_bytes} bytes; it was asked for "
            f"{[found.budget_bytes for found in self.found]}"
        )

    def save(self, folder: Path) -> None:
        """Write ``folder/search.json`` in one step."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
        write_atomically(folder / SEARCH_NAME, text.encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``folder/search.json``; ValueError when it cannot be read here."""
        path = folder / SEARCH_NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ValueError(
                f"{path} is not a search result of version 1 ({error.errors()[0]['msg']}); "
                "remove its folder and search again"
            ) from error


def finished_search(folder: Path, identity: Mapping[str, Any]) -> SearchResult | None:
    """The result in ``folder``, if the search of this ``identity`` (config, data) is finished.

    Raises:
        ValueError: the folder holds the result of another search.
    """
    if not (folder / SEARCH_NAME).is_file():
        return None
    result = SearchResult.load(folder)
    theirs = {"config": result.config, "data": result.data.manifest_sha256}
    found = differences(theirs, identity)
    if found:
        raise ValueError(
            f"{folder} holds the result of another search: {'; '.join(found)}. Choose another "
            f"folder"
        )
    lost = [f.plan for f in result.found if f.plan and not (folder / f.plan).is_file()]
    lost += [f.start for f in result.found if f.start and not (folder / f.start).is_file()]
    if lost:
        raise ValueError(
            f"{folder} holds a finished search whose files {lost} are gone; restore them, or "
            f"remove {SEARCH_NAME} there to search again"
        )
    return result
