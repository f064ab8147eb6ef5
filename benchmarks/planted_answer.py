"""Do searches find what is planted? Widths of found plans against the ranks of the planted clicks.

    python -m compactrec.benchmarks.planted_answer runs/planted --out answer.json

For every plan of a comparison on :mod:`compactrec.data.planted`, per feature: the *found width*,
the mean stored width (``plan_picture.py``) of the ids that carry signal. Per plan: Spearman's rank
correlation of found widths with planted ranks over all features (effects alone count as 1, noise as
0), and the share of their values that noise features and the ids without signal keep.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy import stats

from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.plan_picture import stored_widths
from compactrec.benchmarks.result import PLAN_NAME
from compactrec.benchmarks.study import CompareFile, write_json
from compactrec.data.manifest import Manifest
from compactrec.data.planted import needed_widths, planted_config
from compactrec.data.teacher import zipf_probabilities
from compactrec.embeddings import AnyPlan, load_plan

__all__ = ["PlanAnswer", "answer_of", "main", "planted_answers"]

PlanAnswer = dict[str, float | dict[str, float]]


def answer_of(plan: AnyPlan, counts: dict[str, np.ndarray]) -> PlanAnswer:
    """How one plan, the first of several behind a router, compares with what is planted."""
    config = planted_config()
    needed = needed_widths(config)
    names = config.sparse_names()
    first = plan.plans[0]
    widths: dict[str, float] = {}
    without: list[float] = []
    noise: list[float] = []
    for group, lowered in zip(first.groups, first.lower(), strict=True):
        for feature in first.group_features(group):
            per_id = stored_widths(feature, lowered) / feature.dim
            latent = config.vocabulary_sizes()[names.index(feature.name)]
            mass = np.cumsum(zipf_probabilities(latent, config.zipf_exponent))
            head = int(np.searchsorted(mass, config.signal_mass)) + 1
            ranked = per_id[np.argsort(-counts[feature.name], kind="stable")]
            widths[feature.name] = float(ranked[:head].mean()) * feature.dim
            if feature.name in config.noise_features:
                noise.append(float(ranked.mean()))
            elif len(ranked) > head:
                without.append(float(ranked[head:].mean()))
    correlation = 0.0  # of widths that are all the same
    if len(set(widths.values())) > 1:
        planted = [needed[name] for name in widths]
        correlation = float(stats.spearmanr(planted, list(widths.values())).statistic)
    return {
        "rank_correlation": correlation,
        "noise_kept": fmean(noise),
        "ids_without_signal_kept": fmean(without),
        "widths": widths,
    }


def planted_answers(folder: Path, data: Path) -> list[dict[str, object]]:
    """One entry for every cell of a comparison: means over its seeds."""
    counts = Manifest.load(data).counts(data)
    file = CompareFile.load(folder)
    scored = {(c.method, c.budget_bytes): c for c in load_study([folder]).cells}
    entries: list[dict[str, object]] = []
    for cell in file.cells:
        done = [run for run in cell.runs if run.status == "done"]
        if not done:
            entries.append({"method": cell.method, "budget": cell.budget, "reason": cell.reason})
            continue
        answers = [answer_of(load_plan(folder / r.path / PLAN_NAME), counts) for r in done]
        results = scored[cell.method, cell.budget_bytes].results
        entry: dict[str, object] = {"method": cell.method, "budget": cell.budget}
        for key in ("rank_correlation", "noise_kept", "ids_without_signal_kept"):
            values = [float(a[key]) for a in answers]  # type: ignore[arg-type]
            entry[key] = fmean(values)
            entry[f"{key}_by_seed"] = values
        widths = [a["widths"] for a in answers]
        entry["widths"] = {n: fmean(w[n] for w in widths) for n in widths[0]}  # type: ignore[index,union-attr]
        entry["test_auc"] = fmean(result.tested.auc for result in results.values())
        entries.append(entry)
    return entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of the answers and write them as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the comparison")
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args(arguments)
    entries = planted_answers(given.folder, given.data)
    needed = needed_widths(planted_config())
    write_json(given.out, {"planted": needed, "plans": entries})
    print(json.dumps(needed))
    for entry in entries:
        if "reason" in entry:
            print(f"{entry['method']:>34} {entry['budget'] or '-':>6} {entry['reason']}")
            continue
        print(
            f"{entry['method']:>34} {entry['budget'] or '-':>6} "
            f"correlation {entry['rank_correlation']:.2f}  noise kept {entry['noise_kept']:.0%}  "
            f"ids without signal {entry['ids_without_signal_kept']:.0%}  "
            f"AUC {entry['test_auc']:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
