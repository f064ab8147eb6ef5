"""`tune.json`: what was tried for each cell of a tuning, and what was chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compactrec.benchmarks.grid import Grid
from compactrec.benchmarks.jobs import Job
from compactrec.benchmarks.space import with_settings
from compactrec.benchmarks.study import Cell, DataNote, write_json
from compactrec.benchmarks.tuning import Tuning

__all__ = ["TUNE_NAME", "TuneFile", "apply_tuned", "tune_file"]

TUNE_NAME = "tune.json"
_FREE = frozenset(
    {
        "engine", "kernel", "device", "num_threads", "eval_batch_size", "collapse_after_evals",
    }
)  # fmt: skip
"""Where runs are, which may change between tuning and comparing."""


class TuneFile(BaseModel):
    """The content of tune.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["compactrec.tune"] = "compactrec.tune"
    version: Literal[1] = 1
    data: DataNote
    full_serving_bytes: int | None
    config: dict[str, Any]
    """The base config, resolved: what every trial shares but for its setting."""
    tuning: Tuning
    """Its space is the one around the base config."""
    cells: tuple[Cell, ...]
    """Each with its trials, the chosen one and its settings; `path` is relative to this file."""

    @classmethod
    def load(cls, path: Path) -> TuneFile:
        """Read a tune.json; ValueError when it is not one that can be read here."""
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(
                f"{path} cannot be read ({error.strerror}); give the {TUNE_NAME} that 'compactrec "
                f"tune' writes into its --out folder"
            ) from None
        except (UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            raise ValueError(
                f"{path} is not a tune file of version 1; was it edited? Run 'compactrec tune' "
                f"into its folder again, finished trials are kept"
            ) from error

    def save(self, folder: Path) -> None:
        """Write `folder/tune.json` in one step."""
        write_json(folder / TUNE_NAME, self.model_dump(mode="json"))


def tune_file(grid: Grid, tuning: Tuning) -> TuneFile:
    """The file of a tuning; the cells as they are now."""
    return TuneFile(
        data=grid.note, full_serving_bytes=grid.full_bytes, config=grid.shared, tuning=tuning,
        cells=tuple(job.cell.model_copy(update={"runs": ()}) for job in grid.jobs),
    )  # fmt: skip


def apply_tuned(file: TuneFile, grid: Grid, path: Path) -> None:
    """Give each cell of a comparison the setting that was chosen for it.

    Raises ValueError, naming what differs or is missing, where `file` is of other data, another
    base config, or lacks a cell.
    """
    _require_same(file, grid, path)
    there = {(cell.method, cell.budget_bytes): cell for cell in file.cells}
    wanted = [job for job in grid.jobs if job.config is not None]
    missing = [job.title for job in wanted if _key(job) not in there]
    if missing:
        raise ValueError(
            f"{path} has no {', '.join(missing)}; tune with the same --methods and --budget (what "
            f"is tuned already is kept), or leave them out here"
        )
    for job in wanted:
        cell = there[_key(job)]
        update: dict[str, Any] = {
            "trial": cell.trial, "settings": cell.settings, "edges": cell.edges,
        }  # fmt: skip
        if cell.trial is None:
            update["reason"] = cell.reason or "it was not tuned to the end"
            job.config = None
        elif job.config is not None:
            job.config = with_settings(job.config, cell.settings)
        job.cell = job.cell.model_copy(update=update)


def _key(job: Job) -> tuple[str, int | None]:
    return job.cell.method, job.cell.budget_bytes


def _require_same(file: TuneFile, grid: Grid, path: Path) -> None:
    if file.data.manifest_sha256 != grid.note.manifest_sha256:
        raise ValueError(
            f"{path} was tuned on other data: {file.data.name} (manifest "
            f"{file.data.manifest_sha256[:8]}), and this is {grid.note.name} (manifest "
            f"{grid.note.manifest_sha256[:8]}); tune on this data"
        )
    here = grid.shared
    names = sorted((file.config.keys() | here.keys()) - _FREE)
    differ = [
        f"{name} is {file.config.get(name)!r} there and {here.get(name)!r} here"
        for name in names
        if file.config.get(name) != here.get(name)
    ]
    if differ:
        raise ValueError(
            f"{path} was tuned for another training: {'; '.join(differ)}; give the same options, "
            f"or tune with these"
        )
