"""The files of a comparison: `compare.json` (what was to be run) and the runs' `result.json`.

`compare.json` lists the cells (method x budget), each with its runs (one per seed) and, where a
method does not fit a budget, the reason. `load_study` reads it with all finished results; a folder
without one is read as a heap of single training runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compactrec.benchmarks.checkpoint import write_atomically
from compactrec.benchmarks.result import PREDICTIONS_NAME, RESULT_NAME, Result

__all__ = [
    "COMPARE_NAME",
    "Cell",
    "CompareFile",
    "DataNote",
    "RunEntry",
    "Study",
    "StudyCell",
    "Trial",
    "load_study",
    "write_json",
]

COMPARE_NAME = "compare.json"
_PER_RUN = frozenset(
    {
        "method", "budget_bytes", "threshold", "options", "seed", "num_threads", "num_jobs",
        "num_trials",
        "table_learning_rate", "dense_learning_rate", "dense_weight_decay", "embedding_decay",
    }
)  # fmt: skip
"""What runs of one report may differ in: the method, the seed, and what tuning chooses."""


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
    path: str
    validation_auc: float | None = None
    """None when the trial failed."""


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
    trials: tuple[Trial, ...] = ()
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
    results: dict[int, Result] = field(default_factory=dict)
    """seed -> result."""
    predictions: dict[int, Path] = field(default_factory=dict)
    """seed -> test predictions, where they were kept."""


@dataclass(frozen=True)
class Study:
    """All results of one data folder, side by side."""

    data: DataNote
    full_serving_bytes: int | None
    config: dict[str, Any]
    cells: tuple[StudyCell, ...]


def load_study(folders: Sequence[Path]) -> Study:
    """Everything below `folders`: comparisons, and single runs that belong to none of them.

    Raises ValueError when there is no result, when results come from different data or were trained
    differently, or when one (method, budget, seed) has two results; what differs is named.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give the --out folder of compare or train")
    found = [p.parent for folder in folders for p in sorted(folder.rglob(COMPARE_NAME))]
    comparisons = list(dict.fromkeys(found))
    parts = [_from_compare(p) for p in comparisons] + _from_results(folders, comparisons)
    if not parts:
        where = ", ".join(str(f) for f in folders)
        raise ValueError(
            f"no results below {where}: there is neither a {COMPARE_NAME} nor a {RESULT_NAME}; "
            "run 'compactrec compare' or 'compactrec train' first"
        )
    _require_comparable(parts)
    cells = _merge(cell for _, study in parts for cell in study.cells)
    if not any(cell.results for cell in cells):
        raise ValueError(
            f"no run below {', '.join(str(f) for f in folders)} has finished yet; run 'compactrec "
            "compare' again, it goes on where it stopped"
        )
    first = parts[0][1]
    full = next((s.full_serving_bytes for _, s in parts if s.full_serving_bytes), None)
    return Study(first.data, full, first.config, tuple(cells))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that is either whole or not there."""
    write_atomically(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def _from_compare(folder: Path) -> tuple[Path, Study]:
    file = CompareFile.load(folder)
    cells = []
    for cell in file.cells:
        results, predictions, missing = {}, {}, []
        for run in cell.runs:
            path = folder / run.path
            if run.status == "done" and (path / RESULT_NAME).is_file():
                results[run.seed] = Result.load(path)
                if (path / PREDICTIONS_NAME).is_file():
                    predictions[run.seed] = path / PREDICTIONS_NAME
            else:
                missing.append(f"seed {run.seed}: {run.reason or 'not run yet'}")
        reason = cell.reason or (None if results else "; ".join(missing) or "not run yet")
        cells.append(
            StudyCell(
                method=cell.method,
                baseline=cell.baseline,
                budget=cell.budget,
                budget_bytes=cell.budget_bytes,
                reason=reason,
                missing=tuple(missing),
                trial=cell.trial,
                results=results,
                predictions=predictions,
            )
        )
    return folder, Study(file.data, file.full_serving_bytes, file.config, tuple(cells))


def _from_results(folders: Sequence[Path], comparisons: Sequence[Path]) -> list[tuple[Path, Study]]:
    from compactrec.embeddings import method_names
    from compactrec.embeddings.registry import get_method

    parts = []
    paths = (p.parent for folder in folders for p in sorted(folder.rglob(RESULT_NAME)))
    for path in dict.fromkeys(paths):
        if any(path.is_relative_to(comparison) for comparison in comparisons):
            continue
        result = Result.load(path)
        if result.test is None:
            continue
        known = result.method in method_names() and ":" not in _label(result)
        kept = path / PREDICTIONS_NAME
        cell = StudyCell(
            method=_label(result),
            baseline=known and get_method(result.method).baseline,
            budget=None,
            budget_bytes=_budget_of(result),
            results={result.seed: result},
            predictions={result.seed: kept} if kept.is_file() else {},
        )
        data = DataNote.model_validate(result.data.model_dump())
        full = result.bytes.full_serving_bytes
        parts.append((path, Study(data, full, result.config, (cell,))))
    return parts


def _label(result: Result) -> str:
    """The method with its options, as `compare` takes them."""
    options = _unseeded(result.config.get("options") or {})
    texts = (f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in options.items())
    return ":".join([result.method, *texts])


def _budget_of(result: Result) -> int | None:
    """The budget a run was given; the bytes of its plan where it got a plan file."""
    if result.budget_bytes is not None or result.method == "full":
        return result.budget_bytes
    return result.bytes.serving_bytes


def _require_comparable(parts: Sequence[tuple[Path, Study]]) -> None:
    first_path, first = parts[0]
    for path, study in parts[1:]:
        if study.data.manifest_sha256 != first.data.manifest_sha256:
            raise ValueError(
                f"{first_path} and {path} hold results of different data: "
                f"{_describe(first.data)} and {_describe(study.data)}; report them apart"
            )
        names = (first.config.keys() | study.config.keys()) - _PER_RUN
        for name in sorted(names):
            one, other = first.config.get(name), study.config.get(name)
            if one != other:
                raise ValueError(
                    f"{first_path} and {path} were trained differently: {name} is {one!r} in the "
                    f"first and {other!r} in the second; report them apart"
                )


def _require_alike(cell: StudyCell, results: Sequence[Result]) -> None:
    """Runs that are averaged may differ in their seeds (and threads) only."""
    for result in results[1:]:
        first = results[0]
        where = f"{cell.method} at {cell.budget_bytes} bytes"
        if _unseeded(result.plan) != _unseeded(first.plan):
            raise ValueError(
                f"{where}: seeds {first.seed} and {result.seed} have different plans; report them "
                "apart"
            )
        names = (first.config.keys() | result.config.keys()) - {"seed", "num_threads"}
        for name in sorted(names):
            one, other = _unseeded(first.config.get(name)), _unseeded(result.config.get(name))
            if one != other:
                raise ValueError(
                    f"{where}: seeds {first.seed} and {result.seed} were trained differently: "
                    f"{name} is {one!r} and {other!r}; report them apart"
                )


def _unseeded(value: Any) -> Any:
    """A JSON value without the seeds in it."""
    if isinstance(value, dict):
        return {key: _unseeded(item) for key, item in value.items() if key != "seed"}
    return [_unseeded(item) for item in value] if isinstance(value, list) else value


def _describe(data: DataNote) -> str:
    return f"{data.name} (protocol {data.protocol}, manifest {data.manifest_sha256[:8]})"


def _merge(cells: Iterable[StudyCell]) -> list[StudyCell]:
    """One cell per (method, budget); the same seed twice is an error."""
    merged: dict[tuple[str, int | None], StudyCell] = {}
    for cell in cells:
        key = (cell.method, cell.budget_bytes)
        old = merged.get(key)
        if old is None:
            merged[key] = cell
            continue
        for seed in old.results.keys() & cell.results.keys():
            if old.results[seed].test != cell.results[seed].test:
                raise ValueError(
                    f"{cell.method} at {cell.budget_bytes} bytes with seed {seed} has two "
                    "different results here; give one --out folder, or report them apart"
                )
        _require_alike(cell, [*old.results.values(), *cell.results.values()])
        merged[key] = StudyCell(
            cell.method, cell.baseline, old.budget or cell.budget, cell.budget_bytes,
            None if old.results or cell.results else old.reason,
            old.missing + cell.missing, old.trial or cell.trial,
            old.results | cell.results, old.predictions | cell.predictions,
        )  # fmt: skip
    return list(merged.values())
