"""The commands of `compactrec` that are about many runs: tune, compare, report, demo.

Everything heavy is imported inside a command, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from compactrec.options import (
    BUDGET,
    Data,
    Sampler,
    SpaceFile,
    TrainOptions,
    listed,
    only_data,
    tuning_of,
    with_train_options,
)

if TYPE_CHECKING:
    from rich.console import Console

    from compactrec.benchmarks.report import ReportFiles

__all__ = ["compare", "demo", "make_console", "report", "tune"]


@with_train_options
def tune(
    data: Data,
    budget: Annotated[list[str], Option(help=BUDGET + " Several: 1/4,1/16.")],
    methods: Annotated[
        str,
        Option(
            help="Methods or searches, comma-separated, with options; the baselines are added. "
            "[all methods]"
        ),
    ] = "",
    trials: Annotated[
        int, Option(min=2, help="Settings tried for each cell, the base config the first.")
    ] = 8,
    space: SpaceFile = None,
    sampler: Sampler = None,
    seed: Annotated[
        int | None,
        Option(min=0, help="Of settings and trials; none that is compared with later. [1000005]"),
    ] = None,
    out: Annotated[Path, Option(help="Folder of the tuning.")] = Path("runs/tune"),
    jobs: Annotated[int, Option(min=1, help="Runs at once; the cores are shared out.")] = 1,
    *,
    options: TrainOptions,
) -> None:
    """The best of as many settings for every method.

    Full tables and baselines are tuned like the methods asked for: as many trials in the same
    space, judged on validation rows; the test split stays closed. A tuning that was interrupted
    goes on. Writes tune.json, which `compare --tuned` takes.
    """
    from compactrec.benchmarks.tune import TuneRequest
    from compactrec.benchmarks.tune import tune as run
    from compactrec.benchmarks.tune_file import TUNE_NAME
    from compactrec.benchmarks.tune_table import tune_table

    request = TuneRequest(
        methods=listed([methods]), budgets=listed(budget), num_jobs=jobs,
        tuning=tuning_of(trials, space, sampler, seed),
    )  # fmt: skip
    console = make_console()
    console.print(tune_table(run(request, options.train_config(data, out), console=console)))
    console.print(f"written: {out / TUNE_NAME}", soft_wrap=True)


@with_train_options
def compare(
    data: Annotated[
        list[Path],
        Option(help="Data folder, as `prepare` makes it; with --protocol also raw files."),
    ],
    budget: Annotated[list[str] | None, Option(help=BUDGET + " Several: 1/4,1/16.")] = None,
    methods: Annotated[
        str,
        Option(
            help="Methods, searches or plan files, comma-separated, with options; the baselines "
            "are added. [all methods]"
        ),
    ] = "",
    seeds: Annotated[int | None, Option(min=1, help="Seeds per method and budget. [3]")] = None,
    out: Annotated[Path, Option(help="Folder of the comparison.")] = Path("runs/compare"),
    protocol: Annotated[
        str | None,
        Option(
            help="Published protocol, see `protocols`: it fixes data and training.", metavar="NAME"
        ),
    ] = None,
    validation_file: Annotated[
        list[Path] | None, Option(help="With --protocol: raw file with the validation rows.")
    ] = None,
    test_file: Annotated[
        list[Path] | None, Option(help="With --protocol: raw file with the test rows.")
    ] = None,
    allow_changes: Annotated[
        bool,
        Option("--allow-changes", help="With --protocol: change what it fixes, and list that."),
    ] = False,
    trials: Annotated[
        int | None,
        Option(min=1, help="Settings tried for each cell, full too, chosen on validation. [1]"),
    ] = None,
    space: SpaceFile = None,
    sampler: Sampler = None,
    tuned: Annotated[
        Path | None, Option(help="The tune.json of `tune`: train with the settings chosen there.")
    ] = None,
    jobs: Annotated[int, Option(min=1, help="Runs at once; the cores are shared out.")] = 1,
    baseline: Annotated[
        str | None, Option(help="Method that the others are tested against. [hash, if there]")
    ] = None,
    *,
    options: TrainOptions,
) -> None:
    """Methods x budgets x seeds.

    Every method gets at most the budget, and the baselines are always beside those asked for.
    Finished runs are not made again, and one that was interrupted goes on. A report is written at
    the end. With --protocol every model of it (or --model) is trained as published, and the
    published figures stand beside.
    """
    from compactrec.benchmarks.compare import CompareRequest
    from compactrec.benchmarks.compare import compare as run
    from compactrec.benchmarks.grid import require_baseline
    from compactrec.benchmarks.report import write_report
    from compactrec.benchmarks.study import CompareFile
    from compactrec.benchmarks.tune_file import TUNE_NAME, TuneFile
    from compactrec.benchmarks.tune_table import tune_table

    console = make_console()
    asked: dict[str, Any] = {"methods": listed([methods]), "budgets": listed(budget or [])}
    asked |= {"num_jobs": jobs, "num_seeds": seeds, "tuning": tuning_of(trials, space, sampler)}
    if protocol is not None:
        if tuned is not None:
            raise ValueError(
                f"--tuned {tuned} holds settings of one model and training, and --protocol has "
                f"those that were published; give --trials with --allow-changes, or one of the two"
            )
        files = {"train": data, "validation": validation_file or [], "test": test_file or []}
        asked |= {"files": {k: v for k, v in files.items() if v}, "out": out}
        folders = _run_protocol(protocol, asked, options, allow_changes, baseline, console)
    else:
        folder = only_data(data, budget, validation_file, test_file, allow_changes)
        asked["tuned"] = tuned
        request = CompareRequest.model_validate({k: v for k, v in asked.items() if v is not None})
        require_baseline(baseline, request.methods, request.budgets)
        run(request, options.train_config(folder, out), console=console)
        folders = [out]
    for folder in folders:
        if trials is not None and trials > 1:
            console.print(tune_table(TuneFile.load(folder / TUNE_NAME)))
        _show_report(write_report([folder], folder, baseline=baseline), console)
    if failed := sum(CompareFile.load(folder).num_failed for folder in folders):
        raise ValueError(f"{failed} run(s) failed, see above; the same command tries them again")


def _run_protocol(
    name: str,
    asked: dict[str, Any],
    options: TrainOptions,
    allow_changes: bool,
    baseline: str | None,
    console: Console,
) -> list[Path]:
    from compactrec.benchmarks.grid import require_baseline
    from compactrec.benchmarks.protocol_file import load_protocol
    from compactrec.benchmarks.protocol_run import ProtocolRequest, run_protocol
    from compactrec.data.progress import progress_bar

    changes = options.given()
    model = changes.pop("model", None)
    request = ProtocolRequest.model_validate(
        {
            **asked, "changes": changes, "allow_changes": allow_changes,
            "models": [] if model is None else [model],
        }
    )  # fmt: skip
    found = load_protocol(name)
    methods = request.methods or sorted({m for of in found.models for m in found.methods_of(of)})
    require_baseline(baseline, methods, request.budgets or found.budgets)
    with progress_bar() as progress:
        return run_protocol(found, request, progress=progress, console=console)


def report(
    folders: Annotated[list[Path], Argument(help="Folders of compare, or of train.")],
    out: Annotated[
        Path | None, Option(help="Where to write; the first folder if left out.")
    ] = None,
    baseline: Annotated[
        str | None, Option(help="Method that the others are tested against. [hash, if there]")
    ] = None,
    resamples: Annotated[int, Option(min=0, help="Bootstrap samples of the test rows.")] = 200,
    readme: Annotated[
        Path | None, Option(help="File whose results section to replace by the table.")
    ] = None,
) -> None:
    """Table, picture and page of finished runs.

    Writes report.png, report.html (one file, works offline), report.md and summary.json.
    """
    from compactrec.benchmarks.report import insert_fragment, write_report

    files = write_report(folders, out or folders[0], baseline=baseline, num_resamples=resamples)
    if readme is not None:
        insert_fragment(readme, files.markdown.read_text(encoding="utf-8"))
    _show_report(files, make_console())


def demo(
    data: Annotated[
        Path | None, Option(help="Raw Criteo file; made-up clicks if left out.")
    ] = None,
    out: Annotated[Path, Option(help="Folder of the demo.")] = Path("runs/demo"),
    jobs: Annotated[
        int | None, Option(min=1, help="Runs at once. [one per core, at most 4]")
    ] = None,
    max_rows: Annotated[
        int, Option(min=1000, help="Use so many rows of --data, the first ones.")
    ] = 500_000,
) -> None:
    """From data to table and picture, in minutes.

    Made-up clicks, or the first rows of a Criteo file; plans at 1/4 and 1/16 of the full tables'
    bytes; every method; a report.
    """
    from compactrec.benchmarks.demo import run_demo

    console = make_console()
    _show_report(run_demo(out, data, num_jobs=jobs, max_rows=max_rows, console=console), console)


def _show_report(files: ReportFiles, console: Console) -> None:
    from compactrec.benchmarks.show import terminal_table

    console.print(terminal_table(files.summary, console.width))
    pictures = [path for path in (files.png, files.html, files.markdown, files.json) if path]
    console.print("\n".join(["written:", *(f"  {path}" for path in pictures)]), soft_wrap=True)


def make_console() -> Console:
    """A console that does not squeeze tables when the output goes to a file."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=150)
