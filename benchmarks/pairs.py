"""Every method against every other at one budget, and across budgets where that is asked for.

    python -m compactrec.benchmarks.pairs runs/a --across compositional@1/64 hash@1/4 --out a.json

A report tests all methods against two: the baseline and full. Here are the pairs between, from the
same runs: differences over seeds and over test rows, with Holm's correction over the pairs of one
budget; pairs across budgets are a family of their own. Full tables are in no pair.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from compactrec.benchmarks.load_study import load_study
from compactrec.benchmarks.study import DataNote, Study, StudyCell, write_json
from compactrec.benchmarks.versus import Draws, Versus, compared, draws_of, judged

__all__ = ["Pair", "Pairs", "main", "pairs_of"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Pair(_Frozen):
    """Two cells, the first minus the second."""

    first: str
    first_budget: str
    second: str
    second_budget: str
    versus: Versus


class Pairs(_Frozen):
    """All pairs of one comparison."""

    format: Literal["compactrec.pairs"] = "compactrec.pairs"
    version: Literal[1] = 1
    data: DataNote
    model: str
    num_resamples: int
    pairs: tuple[Pair, ...]


def pairs_of(
    study: Study, across: Sequence[tuple[str, str]] = (), num_resamples: int = 200
) -> Pairs:
    """The pairs within every budget, then those of `across`, written `METHOD@BUDGET`.

    A pair that shares no seed, or of which one has no result, is left out. Raises ValueError where
    `across` names a cell that is not there.
    """
    cells = [cell for cell in study.cells if cell.budget and cell.results]
    draws = draws_of(cells, num_resamples)
    pairs: list[Pair] = []
    for budget in dict.fromkeys(cell.budget for cell in cells):
        same = [cell for cell in cells if cell.budget == budget]
        pairs += _family(list(combinations(same, 2)), draws)
    there = {f"{cell.method}@{cell.budget}": cell for cell in study.cells if cell.budget}
    pairs += _family([(_asked(a, there), _asked(b, there)) for a, b in across], draws)
    model = str(study.config.get("model"))
    used = num_resamples if draws else 0
    return Pairs(data=study.data, model=model, num_resamples=used, pairs=tuple(pairs))


def _family(wanted: Sequence[tuple[StudyCell, StudyCell]], draws: Draws) -> list[Pair]:
    both = {i: compared(a, b, draws) for i, (a, b) in enumerate(wanted)}
    found = judged({i: difference for i, difference in both.items() if difference is not None})
    return [
        Pair(
            first=a.method, first_budget=a.budget or "", second=b.method,
            second_budget=b.budget or "", versus=found[i],
        )
        for i, (a, b) in enumerate(wanted)
        if i in found
    ]  # fmt: skip


def _asked(name: str, there: Mapping[str, StudyCell]) -> StudyCell:
    if name not in there:
        raise ValueError(f"{name!r} was not compared here; give two of {', '.join(there)}")
    return there[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pairs of one comparison as JSON."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the comparison")
    parser.add_argument(
        "--across", nargs=2, action="append", default=[], metavar="METHOD@BUDGET",
        help="two cells of different budgets; may be repeated",
    )  # fmt: skip
    parser.add_argument("--resamples", type=int, default=200, help="bootstrap samples of test rows")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args(arguments)
    across = [(first, second) for first, second in given.across]
    found = pairs_of(load_study([given.folder]), across, given.resamples)
    write_json(given.out, found.model_dump(mode="json"))
    told = sum(pair.versus.verdict != "unclear" for pair in found.pairs)
    print(f"{given.out}: {len(found.pairs)} pairs, {told} told apart")
    return 0


if __name__ == "__main__":
    sys.exit(main())
