"""The commands of `compactrec`: each one reads its options, calls a function, shows the result.

Everything heavy is imported inside a command, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from compactrec import __version__
from compactrec.options import (
    BUDGET,
    ConfigFile,
    Data,
    Dim,
    ModelName,
    Sampler,
    SpaceFile,
    TrainOptions,
    listed,
    number,
    only_data,
    train_config,
    tuning_of,
    with_train_options,
)

if TYPE_CHECKING:
    from rich.console import Console

    from compactrec.benchmarks.report import ReportFiles

__all__ = ["app"]

app = typer.Typer(
    name="compactrec",
    help="Embedding tables that fit a memory budget, and what that costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"compactrec {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def methods() -> None:
    """Methods and searches: papers, formulas, options."""
    from compactrec.benchmarks.show import methods_table

    _console().print(methods_table())


@app.command()
def models() -> None:
    """Models: papers, formulas, options."""
    from compactrec.benchmarks.show import models_table

    _console().print(models_table())


@app.command()
def protocols() -> None:
    """Published protocols: data, models, figures."""
    from compactrec.benchmarks.show import protocols_table

    _console().print(protocols_table())


@app.command()
def prepare(
    schema: Annotated[
        str, Argument(help="criteo, a shipped schema, or the path of a schema file.")
    ],
    files: Annotated[list[Path], Argument(help="Raw files, in the order of their rows.")],
    out: Annotated[Path, Option(help="Data folder to make.")],
    name: Annotated[str | None, Option(help="Name of the data in results.")] = None,
    protocol: Annotated[str, Option(help="Named preprocessing.")] = "compactrec",
    split: Annotated[
        str | None, Option(help="Split rule: time, random, x4, reference, ...")
    ] = None,
    validation: Annotated[
        str | None, Option(help="Validation rows: 1/14, 0.1 or a number.")
    ] = None,
    test: Annotated[str | None, Option(help="Test rows: 1/7, 0.1 or a number.")] = None,
    validation_file: Annotated[
        list[Path] | None, Option(help="Raw file with the validation rows; may be repeated.")
    ] = None,
    test_file: Annotated[
        list[Path] | None, Option(help="Raw file with the test rows; may be repeated.")
    ] = None,
    mode: Annotated[str, Option(help="Vocabulary: full, min_count or hashed.")] = "full",
    min_count: Annotated[int | None, Option(min=1, help="For --mode min_count; 2.")] = None,
    num_ids: Annotated[int | None, Option(min=2, help="Ids per feature in --mode hashed.")] = None,
    max_ind_range: Annotated[int | None, Option(min=1, help="For protocol dlrm-kaggle.")] = None,
    unseen: Annotated[str, Option(help="Ids that training never has: oov or error.")] = "oov",
    on_bad_row: Annotated[str, Option(help="A malformed row: error or skip.")] = "error",
    overwrite: Annotated[bool, Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Raw click files -> parquet and manifest."""
    from compactrec.benchmarks.show import manifest_table
    from compactrec.data.prepare import PrepareOptions
    from compactrec.data.prepare import prepare as run
    from compactrec.data.progress import progress_bar

    rule: dict[str, Any] | None = None
    if split or validation or test:
        amounts = {"validation": validation, "test": test}
        rule = {"rule": split or "time"} | {k: number(v) for k, v in amounts.items() if v}
    options = PrepareOptions.model_validate(
        {
            "name": name, "protocol": protocol, "split": rule, "mode": mode, "unseen": unseen,
            "min_count": min_count, "num_ids": num_ids, "max_ind_range": max_ind_range,
            "on_bad_row": on_bad_row, "overwrite": overwrite,
        }
    )  # fmt: skip
    given = {"train": files, "validation": validation_file or [], "test": test_file or []}
    with progress_bar() as progress:
        apart = validation_file or test_file
        manifest = run(given if apart else files, schema, out, options, progress)
    _console().print(manifest_table(manifest, out))


@app.command()
def plan(
    data: Data,
    method: Annotated[str, Option(help="Name, with options: compositional:operation=concat.")],
    budget: Annotated[str, Option(help=BUDGET)],
    out: Annotated[Path, Option("--out", "-o", help="Plan file to write.")] = Path("plan.json"),
    dim: Dim = None,
    model: ModelName = None,
    threshold: Annotated[
        int | None, Option(min=0, help="Features so small stay full. [200]")
    ] = None,
    config: ConfigFile = None,
    picture: Annotated[
        Path | None, Option(help="PNG to draw: width and bytes by feature and frequency.")
    ] = None,
    ranks: Annotated[
        int | None, Option(min=1, help="Bytes and time of each of so many processes.")
    ] = None,
    rank_memory: Annotated[
        str | None, Option(help="Memory of each: 16GB. More is an error that says why.")
    ] = None,
) -> None:
    """What every feature gets within a budget."""
    from compactrec.benchmarks.choices import plan_for
    from compactrec.benchmarks.show import plan_table

    given = {"data": data, "out": out, "dim": dim, "model": model, "threshold": threshold}
    base = train_config(config, given)
    if rank_memory is not None and ranks is None:
        raise ValueError(
            f"--rank-memory {rank_memory} is the memory of each of --ranks processes; give --ranks "
            f"too, or leave it out"
        )
    made = plan_for(base, method, budget)
    costs = None
    if ranks is not None:  # what does not fit is not saved
        from compactrec.benchmarks.rank_table import rank_costs

        costs = rank_costs(made, base, ranks, rank_memory)
    out.parent.mkdir(parents=True, exist_ok=True)
    made.save(out)
    _console().print(plan_table(made, title=f"{out}: {method} at {budget}"))
    if picture is not None:
        from compactrec.benchmarks.plan_picture import draw_plan, plan_figures
        from compactrec.benchmarks.plans import counts_of
        from compactrec.data.manifest import Manifest

        counts = counts_of(made.features, Manifest.load(data).counts(data))
        draw_plan(plan_figures(made, counts), picture, title=f"{method} at {budget}")
    if costs is not None:
        from compactrec.benchmarks.rank_table import rank_table

        _console().print(rank_table(costs, base.batch_size))
    if made.methods == {"full"}:
        _console().print("The budget holds the full tables: nothing is compressed.")


@app.command()
@with_train_options
def train(
    data: Data,
    out: Annotated[Path, Option(help="Folder of the run.")],
    plan: Annotated[Path | None, Option(help="Plan file; or give --method and --budget.")] = None,
    method: Annotated[str | None, Option(help="Method, instead of a plan file.")] = None,
    budget: Annotated[str | None, Option(help=BUDGET)] = None,
    start: Annotated[
        Path | None, Option(help="Weights to start from, as `search` leaves them beside a plan.")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Seed of weights and row order.")] = 0,
    *,
    options: TrainOptions,
) -> None:
    """Train one model and test it once.

    Weights are selected on validation rows. `--epochs 0` scores the weights of `--start` as they
    are. A checkpoint is made every five minutes (or as checkpoint_every_seconds and
    checkpoint_every_steps say in the file of --config), and where Ctrl-C or SIGTERM ends the run;
    the same command goes on from it.
    """
    from compactrec.benchmarks.choices import train_config_for
    from compactrec.benchmarks.runs import quiet_torch
    from compactrec.benchmarks.show import result_table
    from compactrec.benchmarks.train import train as run

    base = options.train_config(data, out, seed, start)
    quiet_torch()
    result = run(train_config_for(base, plan, method, budget), stop_on_signals=True)
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes have the same result
        _console().print(result_table(result, out))


@app.command()
@with_train_options
def search(
    data: Data,
    method: Annotated[str, Option(help="Search, with options: dnis:structure=structured.")],
    budget: Annotated[
        list[str] | None,
        Option(help=BUDGET + " Several: 1/4,1/16. [the search's own size]"),
    ] = None,
    out: Annotated[Path, Option(help="Folder of the search.")] = Path("runs/search"),
    plan: Annotated[
        Path | None, Option("--plan", "-o", help="Where to put the plan too, for one budget.")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Seed of weights, row order and draws.")] = 0,
    *,
    options: TrainOptions,
) -> None:
    """Find what each feature should get: train a supernet, derive plans.

    Architecture is learned and chosen on training and validation rows; the test split stays closed.
    The plan is then trained with `train` or `compare`. A search that was interrupted goes on from
    its checkpoint.
    """
    from compactrec.benchmarks.search import search as run
    from compactrec.benchmarks.search_config import search_for
    from compactrec.benchmarks.search_report import report_search

    if options.epochs is not None:
        raise ValueError(
            "a search has epochs of its own for each phase; leave --epochs out and set them as "
            "options of the method, see 'compactrec methods'"
        )
    budgets = listed(budget or [])
    if plan is not None and len(budgets) > 1:
        raise ValueError(f"-o takes the plan of one budget, got {len(budgets)}: {budgets}")
    base = options.train_config(data, out, seed)
    result = run(search_for(base, method, budgets))
    report_search(result, data, out, plan, _console(), options.model_words())


@app.command()
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
    console = _console()
    console.print(tune_table(run(request, options.train_config(data, out), console=console)))
    console.print(f"written: {out / TUNE_NAME}", soft_wrap=True)


@app.command()
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
    from compactrec.benchmarks.report import write_report
    from compactrec.benchmarks.study import CompareFile
    from compactrec.benchmarks.tune_file import TUNE_NAME, TuneFile
    from compactrec.benchmarks.tune_table import tune_table

    console = _console()
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
        folders = _run_protocol(protocol, asked, options, allow_changes, console)
    else:
        folder = only_data(data, budget, validation_file, test_file, allow_changes)
        asked["tuned"] = tuned
        request = CompareRequest.model_validate({k: v for k, v in asked.items() if v is not None})
        run(request, options.train_config(folder, out), console=console)
        folders = [out]
    for folder in folders:
        if trials is not None and trials > 1:
            console.print(tune_table(TuneFile.load(folder / TUNE_NAME)))
        _show_report(write_report([folder], folder, baseline=baseline), console)
    if failed := sum(CompareFile.load(folder).num_failed for folder in folders):
        raise ValueError(f"{failed} run(s) failed, see above; the same command tries them again")


def _run_protocol(
    name: str, asked: dict[str, Any], options: TrainOptions, allow_changes: bool, console: Console
) -> list[Path]:
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
    with progress_bar() as progress:
        return run_protocol(load_protocol(name), request, progress=progress, console=console)


@app.command()
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
    _show_report(files, _console())


@app.command()
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

    console = _console()
    _show_report(run_demo(out, data, num_jobs=jobs, max_rows=max_rows, console=console), console)


def _show_report(files: ReportFiles, console: Console) -> None:
    from compactrec.benchmarks.show import terminal_table

    console.print(terminal_table(files.summary, console.width))
    pictures = [path for path in (files.png, files.html, files.markdown, files.json) if path]
    console.print("\n".join(["written:", *(f"  {path}" for path in pictures)]), soft_wrap=True)


def _console() -> Console:
    """A console that does not squeeze tables when the output goes to a file."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=150)
