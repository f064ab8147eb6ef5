"""The searches of a comparison: one for every search asked for and every seed, before anything is
trained with what they find."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from compactrec.benchmarks.choices import MethodChoice, changed
from compactrec.benchmarks.config import TrainConfig
from compactrec.benchmarks.jobs import Found, Job, plain
from compactrec.benchmarks.runs import Failure, Progress, run_all
from compactrec.benchmarks.search_config import SearchConfig, search_config
from compactrec.benchmarks.search_result import SEARCH_NAME, SearchResult
from compactrec.benchmarks.study import RunEntry
from compactrec.data.manifest import Manifest

__all__ = ["Searcher", "num_searches", "run_searches"]

Searcher = Callable[[SearchConfig], SearchResult]


def num_searches(jobs: Sequence[Job]) -> int:
    """Searches for each seed: one serves all budgets."""
    return len({job.search.text for job in jobs if job.search is not None})


def run_searches(
    jobs: Sequence[Job],
    seeds: Sequence[int],
    base: TrainConfig,
    manifest: Manifest,
    searcher: Searcher,
    num_jobs: int,
    progress: Progress,
) -> None:
    """Make every search of ``jobs``; each job then knows what was found for its budget.

    A search that fails, or finds nothing for any seed of a budget, is a reason, not an error.
    """
    wanted: dict[str, tuple[list[Job], int]] = {}
    configs: dict[str, SearchConfig] = {}
    for seed in seeds:
        for choice, of_choice in _by_choice(jobs):
            title = f"search {choice.text}, seed {seed}"
            wanted[title] = (of_choice, seed)
            configs[title] = _placed(choice, of_choice, seed, base, manifest)
    for title, outcome in run_all(configs, searcher, num_jobs, progress, _searched_already):
        of_choice, seed = wanted[title]
        for job in of_choice:
            _record(job, seed, configs[title], outcome, base)
    for job in jobs:
        if job.search is not None and not job.found:
            reasons = dict.fromkeys(entry.reason for entry in job.cell.searches if entry.reason)
            job.cell = job.cell.model_copy(update={"reason": "; ".join(reasons)})
            job.config = None


def _by_choice(jobs: Sequence[Job]) -> list[tuple[MethodChoice, list[Job]]]:
    found: dict[str, tuple[MethodChoice, list[Job]]] = {}
    for job in jobs:
        if job.search is not None:
            found.setdefault(job.search.text, (job.search, []))[1].append(job)
    return list(found.values())


def _placed(
    choice: MethodChoice, jobs: Sequence[Job], seed: int, base: TrainConfig, manifest: Manifest
) -> SearchConfig:
    """The search of one seed in a folder named by what it is and a hash of all that decides it."""
    budgets = tuple(job.cell.budget_bytes for job in jobs if job.cell.budget_bytes is not None)
    job_config = jobs[0].config
    assert job_config is not None
    config = search_config(
        choice.name, choice.options, budgets, changed(job_config, seed=seed),
        given=base.model_fields_set,
    )  # fmt: skip
    decides = {"config": config.resolved(), "data": manifest.sha256()}
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
    out = base.out / "searches" / f"{plain(choice.text)}_seed{seed}_{digest}"
    return config.model_copy(update={"train": changed(config.train, out=out)})


def _searched_already(config: SearchConfig) -> SearchResult | None:
    folder = config.train.out
    return SearchResult.load(folder) if (folder / SEARCH_NAME).is_file() else None


def _record(
    job: Job, seed: int, config: SearchConfig, outcome: SearchResult | Failure, base: TrainConfig
) -> None:
    """Note in the job what its search gave for this seed."""
    folder = config.train.out
    reason = outcome.reason if isinstance(outcome, Failure) else None
    if isinstance(outcome, SearchResult):
        found = outcome.at(job.cell.budget_bytes)
        reason = found.reason
        if found.plan is not None:
            start = None if found.start is None else folder / found.start
            job.found[seed] = Found(folder / found.plan, start, found.epochs)
    entry = RunEntry(
        seed=seed,
        path=str(folder.relative_to(base.out)),
        status="failed" if reason else "done",
        reason=reason,
    )
    job.cell = job.cell.model_copy(update={"searches": (*job.cell.searches, entry)})
