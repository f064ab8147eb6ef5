"""Finished results on disk -> one study; what must not be put side by side is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compactrec.benchmarks.choices import FULL
from compactrec.benchmarks.result import PREDICTIONS_NAME, RESULT_NAME, Result
from compactrec.benchmarks.search_result import SEARCH_NAME, SearchResult
from compactrec.benchmarks.study import COMPARE_NAME, CompareFile, DataNote, Study, StudyCell

__all__ = ["load_study"]

_PER_RUN = frozenset(
    {
        "method", "budget_bytes", "threshold", "options", "seed", "num_threads", "num_jobs",
        "num_trials", "tuning",
        "table_learning_rate", "dense_learning_rate", "dense_weight_decay", "embedding_decay",
    }
)  # fmt: skip
"""What runs of one report may differ in: the method, the seed, and what tuning chooses."""


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
        if any(path for folder in folders for path in folder.rglob(SEARCH_NAME)):
            raise ValueError(
                f"{where}: searches, and no plan of theirs was trained; the same 'compactrec "
                f"search' shows a finished search again"
            )
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
    protocol = first.protocol if len(parts) == 1 else None
    return Study(first.data, full, first.config, tuple(cells), protocol)


def _from_compare(folder: Path) -> tuple[Path, Study]:
    file = CompareFile.load(folder)
    cells = []
    for cell in file.cells:
        results, predictions, missing = {}, {}, []
        searches = {
            entry.seed: SearchResult.load(folder / entry.path)
            for entry in cell.searches
            if (folder / entry.path / SEARCH_NAME).is_file()
        }
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
                settings=cell.settings,
                results=results,
                predictions=predictions,
                searches=searches,
            )
        )
    study = Study(file.data, file.full_serving_bytes, file.config, tuple(cells), file.protocol)
    return folder, study


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
    if result.budget_bytes is not None or result.method == FULL:
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
            old.missing + cell.missing, old.trial or cell.trial, old.settings or cell.settings,
            old.results | cell.results, old.predictions | cell.predictions,
            old.searches | cell.searches,
        )  # fmt: skip
    return list(merged.values())
