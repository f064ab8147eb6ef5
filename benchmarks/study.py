"""The files of a comparison: `compare.json` (what was to be run) and the runs' `result.json`.

`compare.json` lists the cells (method x budget), each with its runs (one per seed) and, where a
method does not fit a budget, the reason. `load_study.py` reads it with all finished results.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from compactrec.benchmarks.protocol_note import ProtocolNote
from compactrec.benchmarks.result import Result
from compactrec.benchmarks.search_result import SearchResult
from compactrec.embeddings.checkpoint_io import write_atomically

__all__ = [
    "COMPARE_NAME",
    "Cell",
    "CompareFile",
    "DataNote",
    "RunEntry",
    "Study",
    "StudyCell",
    "Trial",
    "write_json",
]

COMPARE_NAME = "compare.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataNote(_Frozen):
    """Which data; two results may be compared only when `manifest_sha256` is the same."""

    name: str
    protocol: str
    manifest_sha256: str
    num_rows: dict[str, int] = {}
    """Rows by split."""
    num_features: int | None = None
    best_auc: float | None = None
    """Best possible test AUC; known for generated data only."""


class RunEntry(_Frozen):
    """One training run of a cell."""

    seed: int
    path: str
    """Folder of the run, relative to compare.json."""
    status: Literal["planned", "done", "failed"] = "planned"
    reason: str | None = None


class Trial(_Frozen):
    """One setting tried while tuning; judged on validation rows alone."""

    name: str
    settings: dict[str, JsonValue] = {}
    """Field of training or option of the model -> value."""
    path: str
    """Folder of its run; empty where the settings do not go together."""
    validation_auc: float | None = None
    """None when the trial failed."""
    reason: str | None = None
    """Why it failed."""


class Cell(_Frozen):
    """One method at one budget."""

    method: str
    """The name, with its options if any: `compositional:operation=concat`."""
    baseline: bool
    budget: str | None
    """As it was asked for: `1/4`, `64 MB`; None for the full tables."""
    budget_bytes: int | None
    reason: str | None = None
    """Why there is no plan at this budget; None when there is one."""
    trial: str | None = None
    """Name of the setting chosen; None when nothing was tuned."""
    settings: dict[str, JsonValue] = {}
    """The setting chosen."""
    edges: tuple[str, ...] = ()
    """What of it stands at an end of the space: a wider one may hold a better value."""
    trials: tuple[Trial, ...] = ()
    searches: tuple[RunEntry, ...] = ()
    """The searches behind the plans, one for every seed; empty for a method with a budget."""
    runs: tuple[RunEntry, ...] = ()


class CompareFile(_Frozen):
    """The content of compare.json."""

    format: Literal["compactrec.compare"] = "compactrec.compare"
    version: Literal[1] = 1
    data: DataNote
    seeds: tuple[int, ...]
    full_serving_bytes: int | None
    """Serving bytes of the full tables; None with an open vocabulary."""
    config: dict[str, Any]
    """What every run shares, resolved."""
    cells: tuple[Cell, ...]
    protocol: ProtocolNote | None = None
    """The published protocol it was made under."""

    @property
    def num_failed(self) -> int:
        """Runs that ended without a result."""
        return sum(run.status == "failed" for cell in self.cells for run in cell.runs)

    @classmethod
    def load(cls, folder: Path) -> CompareFile:
        """Read `folder/compare.json`; ValueError when it is not one that can be read here."""
        path = folder / COMPARE_NAME
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, ValidationError) as error:
            raise ValueError(
                f"{path} is not a compare file of version 1; was it edited? Run 'compactrec "
                "compare' into this folder again, finished runs are kept"
            ) from error

    def save(self, folder: Path) -> None:
        """Write `folder/compare.json` in one step."""
        write_json(folder / COMPARE_NAME, self.model_dump(mode="json"))


@dataclass(frozen=True)
class StudyCell:
    """A cell with what its runs gave."""

    method: str
    baseline: bool
    budget: str | None
    budget_bytes: int | None
    reason: str | None = None
    """Why there is no result at all; None when there is one."""
    missing: tuple[str, ...] = ()
    """Runs without a result, in words."""
    trial: str | None = None
    settings: dict[str, JsonValue] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    """seed -> result."""
    predictions: dict[int, Path] = field(default_factory=dict)
    """seed -> test predictions, where they were kept."""
    searches: dict[int, SearchResult] = field(default_factory=dict)
    """seed -> the search that found the plan."""


@dataclass(frozen=True)
class Study:
    """All results of one data folder, side by side."""

    data: DataNote
    full_serving_bytes: int | None
    config: dict[str, Any]
    cells: tuple[StudyCell, ...]
    protocol: ProtocolNote | None = None


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that is either whole or not there."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
