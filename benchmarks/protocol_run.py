"""A published protocol on a user's files: each model compared, beside what was published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from compactrec.benchmarks.budgets import parse_budget
from compactrec.benchmarks.choices import parse_choice
from compactrec.benchmarks.compare import CompareRequest, compare
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.protocol_data import data_folder, marks_of
from compactrec.benchmarks.protocol_file import FigureCell, Figures, ProtocolFile
from compactrec.benchmarks.protocol_note import ProtocolNote, Published
from compactrec.benchmarks.runs import Runner
from compactrec.benchmarks.tuning import Tuning
from compactrec.data.manifest import Manifest
from compactrec.places import check_out_folder

if TYPE_CHECKING:
    from rich.console import Console

    from compactrec.data.progress import Progress

__all__ = ["ProtocolRequest", "changes_of", "note_of", "run_protocol"]

_FREE = frozenset(
    {
        "engine", "kernel", "device", "num_threads", "eval_batch_size", "collapse_after_evals",
        "method", "budget_bytes", "options", "seed", "model",
    }
)  # fmt: skip
"""Fields that no protocol fixes: where and how fast a run is, and what is compared."""


class ProtocolRequest(BaseModel):
    """What to run of a protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, tuple[Path, ...]]
    """Raw files per split, all as `train` where the protocol's rule divides them; or one data
    folder."""
    out: Path
    """`out/data` for data that is prepared here, and a comparison in `out/<model>` for each."""
    models: tuple[str, ...] = ()
    """Empty: all of the protocol's."""
    methods: tuple[str, ...] = ()
    """Empty: the protocol's, its searches with them."""
    budgets: tuple[str, ...] = ()
    """Empty: the protocol's."""
    num_seeds: int | None = Field(default=None, ge=1)
    """None: the protocol's."""
    tuning: Tuning = Tuning()
    num_jobs: int = Field(default=1, ge=1)
    changes: dict[str, Any] = {}
    """Fields of training that were asked for."""
    allow_changes: bool = False
    """Run although the protocol fixes other values; every change is listed beside the result."""


def run_protocol(
    protocol: ProtocolFile,
    request: ProtocolRequest,
    *,
    runner: Runner | None = None,
    progress: Progress | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Compare every model; returns their folders. Each of them has the note of the protocol.

    Raises ValueError for a model that is not in the protocol, for a change of what it fixes (unless
    the request allows it), for a data folder that was prepared otherwise, and as `compare` does.
    """
    check_out_folder(request.out)
    models = request.models or tuple(protocol.models)
    changes = {model: list(changes_of(protocol, model, request)) for model in models}
    if not request.allow_changes:
        _refuse(protocol, changes)
    data = data_folder(protocol, request.files, request.out, progress)
    manifest = Manifest.load(data)
    folders = []
    for model in models:
        asked = _asked(protocol, model, request)
        base = protocol.config(model, data, request.out / model, request.changes)
        note = note_of(protocol, model, changes[model], manifest, asked.num_seeds)
        compare(asked, base, runner=runner, console=console, protocol=note)
        folders.append(base.out)
    return folders


def _asked(protocol: ProtocolFile, model: str, request: ProtocolRequest) -> CompareRequest:
    methods = request.methods or protocol.methods_of(model)
    budgets = request.budgets or protocol.budgets
    if protocol.searches and not methods:
        budgets = ()  # a model that its searches are not of
    return CompareRequest(
        methods=methods,
        budgets=budgets,
        num_seeds=request.num_seeds or protocol.seeds,
        tuning=request.tuning,
        num_jobs=request.num_jobs,
    )


def changes_of(protocol: ProtocolFile, model: str, request: ProtocolRequest) -> Iterator[str]:
    """What the request has otherwise than the protocol fixes, in words."""
    here = Path(".")
    fixed = _flat(protocol.config(model, here, here))
    asked = _flat(protocol.config(model, here, here, request.changes))
    free = _FREE if protocol.budgets else {*_FREE, "threshold"}
    for name in sorted((fixed.keys() | asked.keys()) - free):
        if fixed.get(name) != asked.get(name):
            yield f"{name} {_text(asked.get(name))} instead of {_text(fixed.get(name))}"
    if request.tuning.is_on:
        num = request.tuning.num_trials
        yield f"{num} settings tried on validation rows instead of the published one"


def _flat(config: TrainConfig) -> dict[str, Any]:
    fields = config.resolved()
    options = fields.pop("model_options")
    return {**fields, **options}


def _text(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _refuse(protocol: ProtocolFile, changes: Mapping[str, list[str]]) -> None:
    found = {text: model for model, texts in changes.items() for text in texts}
    if found:
        raise ValueError(
            f"protocol {protocol.name!r} fixes what was asked for otherwise: {'; '.join(found)}. "
            f"Such a number compares with nothing published: leave the change out, or give "
            f"--allow-changes, which lists it beside the result"
        )


def note_of(
    protocol: ProtocolFile, model: str, changes: list[str], manifest: Manifest, num_seeds: int
) -> ProtocolNote:
    """What goes with the results of one model."""
    return ProtocolNote(
        name=protocol.name,
        title=protocol.title,
        model=model,
        changes=tuple(changes),
        marks=(*marks_of(protocol.data, manifest), *_seed_marks(protocol, num_seeds)),
        caveats=protocol.caveats,
        figures=tuple(_published(f, cell) for f, cell in protocol.published(model)),
    )


def _seed_marks(protocol: ProtocolFile, num_seeds: int) -> Iterator[str]:
    """Where the file says how many runs a figure is of."""
    if "seeds" in protocol.model_fields_set and num_seeds < protocol.seeds:
        yield f"{num_seeds} seed{'s'[: num_seeds > 1]} instead of {protocol.seeds}"


def _published(figures: Figures, cell: FigureCell) -> Published:
    budget = None if cell.budget is None else parse_budget(cell.budget).resolve(None)
    return Published(
        method=parse_choice(cell.method).text,
        budget_bytes=budget,
        split=cell.split,
        metrics=cell.metrics,
        source=figures.source,
        provenance=figures.provenance,
        caveat=f"{figures.caveat} {cell.note}" if cell.note else figures.caveat,
    )
