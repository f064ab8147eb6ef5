"""The commands of `compactrec`: each one reads its options, calls a function, shows the result.

Everything heavy is imported inside a command, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from compactrec import __version__
from compactrec.options import (
    BUDGET,
    ConfigFile,
    Data,
    Dim,
    ModelName,
    Settings,
    TrainOptions,
    listed,
    number,
    train_config,
    with_train_options,
)
from compactrec.studies import compare, demo, make_console, report, tune

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

    make_console().print(methods_table())


@app.command()
def models() -> None:
    """Models: papers, formulas, options."""
    from compactrec.benchmarks.show import models_table

    make_console().print(models_table())


@app.command()
def protocols(
    name: Annotated[str | None, Argument(help="One of them, with all that it fixes.")] = None,
) -> None:
    """Published protocols: data, models, figures."""
    from compactrec.benchmarks.show import protocols_table

    if name is None:
        make_console().print(protocols_table())
        return
    from rich.markdown import Markdown

    from compactrec.benchmarks.protocol_tables import protocol_markdown

    make_console().print(Markdown(protocol_markdown(name)))


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
    make_console().print(manifest_table(manifest, out))


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
    settings: Settings = None,
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
    from compactrec.benchmarks.choices import plan_for, saves_nothing
    from compactrec.benchmarks.show import plan_table
    from compactrec.places import check_out_file

    check_out_file(out, "--out (-o)")
    if picture is not None:
        from compactrec.benchmarks.plan_picture import check_picture

        check_picture(picture)
    given = {"data": data, "out": out, "dim": dim, "model": model, "threshold": threshold}
    base = train_config(config, given, settings)
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
    make_console().print(plan_table(made, title=f"{out}: {method} at {budget}"))
    if picture is not None:
        from compactrec.benchmarks.plan_picture import draw_plan, plan_figures
        from compactrec.benchmarks.plans import counts_of
        from compactrec.data.manifest import Manifest

        counts = counts_of(made.features, Manifest.load(data).counts(data))
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw_plan(plan_figures(made, counts), picture, title=f"{method} at {budget}")
    if costs is not None:
        from compactrec.benchmarks.rank_table import rank_table

        make_console().print(rank_table(costs, base.batch_size))
    if text := saves_nothing(base, method, budget):
        make_console().print(text)


@app.command()
@with_train_options
def train(
    data: Data,
    out: Annotated[Path, Option(help="Folder of the run.")],
    plan: Annotated[Path | None, Option(help="Plan file; or give --method and --budget.")] = None,
    method: Annotated[str | None, Option(help="Method, instead of a plan file. [full]")] = None,
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
    checkpoint_every_steps say in the file of --config, which checkpoint_asynchronous writes beside
    the training), and where Ctrl-C or SIGTERM ends the run; the same command goes on from it.
    """
    from compactrec.benchmarks.choices import saves_nothing, train_config_for
    from compactrec.benchmarks.result import RESULT_NAME
    from compactrec.benchmarks.show import result_table
    from compactrec.benchmarks.train import train as run
    from compactrec.embeddings.shard_warnings import quiet_torch

    base = options.train_config(data, out, seed, start)
    quiet_torch()
    config = train_config_for(base, plan, method, budget)
    had = (out / RESULT_NAME).is_file()
    result = run(config, stop_on_signals=True)
    if os.environ.get("RANK", "0") == "0":  # torchrun's other processes have the same result
        make_console().print(result_table(result, out))
        if had:
            make_console().print(f"{out} was finished already: nothing was trained.")
        if text := saves_nothing(base, method, budget):
            make_console().print(text)


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
    from compactrec.places import check_out_file

    if plan is not None:
        check_out_file(plan, "--plan (-o)")
    if options.gives("epochs"):
        raise ValueError(
            "a search has epochs of its own for each phase; leave epochs (--epochs, --set) out and "
            "set them as options of the method, see 'compactrec methods'"
        )
    budgets = listed(budget or [])
    if plan is not None and len(budgets) > 1:
        raise ValueError(f"-o takes the plan of one budget, got {len(budgets)}: {budgets}")
    base = options.train_config(data, out, seed)
    result = run(search_for(base, method, budgets))
    report_search(result, data, out, plan, make_console(), options.model_words())


for _study in (tune, compare, report, demo):
    app.command()(_study)
