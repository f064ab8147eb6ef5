r"""torchrec's own tests of its EmbeddingBagCollection, run over CompressedEmbeddingBagCollection.

    git clone https://github.com/meta-pytorch/torchrec
    pip install parameterized
    python benchmarks/torchrec_suite.py torchrec --out benchmarks/results/torchrec-suite.json

:func:`find_files` finds the files. Every test runs twice: as it is, and with :func:`substitute` in
the place of the class. Listed are the tests that make such a collection; what is under test besides
is the torchrec that is installed.
"""

import argparse
import importlib.util
import json
import re
import sys
import unittest
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Literal, cast

import torch
import torchrec.distributed.test_utils
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from compactrec.benchmarks.environment import commit_of, library_versions
from compactrec.embeddings import (
    CompressedEmbeddingBagCollection,
    Feature,
    FullConfig,
    Group,
    Plan,
)

__all__ = ["FOLDERS", "Outcome", "Suite", "find_files", "main", "run_suite", "substitute"]

FOLDERS = ("torchrec/models", "torchrec/modules", "torchrec/optim")
"""Their tests run. Elsewhere they shard, plan, quantise or serialise TorchRec's own class, by its
type and its names of weights, in part in processes that a replaced class does not reach."""
CLASS = "EmbeddingBagCollection"
Verdict = Literal["passed", "failed", "skipped"]


class Outcome(BaseModel):
    """One test, with torchrec's class and with ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    test: str
    torchrec: Verdict
    compactrec: Verdict
    error: str = ""
    """The first line of what ours raised."""


class Suite(BaseModel):
    """All of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkout: str
    """``version.txt`` of the tests."""
    commit: str | None
    """The commit of the tests, where they are a git checkout."""
    versions: dict[str, str | None]
    missing: dict[str, str]
    """Files of tests that could not be loaded, and why."""
    left_out: tuple[str, ...]
    """Files of tests outside ``FOLDERS`` that make a collection."""
    skipped: dict[str, str]
    """Tests of the same files that TorchRec skips here, and why; some would make no collection."""
    outcomes: tuple[Outcome, ...]


class _Named(CompressedEmbeddingBagCollection):
    """With the tables under torchrec's names too."""

    embedding_bags: dict[str, nn.Module]


def substitute(
    tables: Sequence[EmbeddingBagConfig],
    is_weighted: bool = False,
    device: torch.device | None = None,
) -> CompressedEmbeddingBagCollection:
    """What torchrec's constructor makes of the same arguments: method ``full``, a group per table.

    It starts from the very weights that torchrec's class draws, so that a test which knows numbers
    can be passed.
    """
    theirs = EmbeddingBagCollection(list(tables), is_weighted, device)  # may refuse the tables
    features, groups = [], []
    for table in tables:
        mean = table.pooling == PoolingType.MEAN
        features += [
            Feature(
                name=name,
                num_ids=table.num_embeddings,
                dim=table.embedding_dim,
                pooling="mean" if mean else "sum",
            )
            for name in table.feature_names
        ]
        groups.append(Group(tuple(table.feature_names), FullConfig()))
    plan = Plan(tuple(features), tuple(groups))
    with torch.random.fork_rng():
        ours = _Named(plan, is_weighted=is_weighted, device=device)
    holders = cast(nn.ModuleDict, ours.tables.embedding_bags)
    ours.embedding_bags = {}
    for table, lowered in zip(tables, plan.lower(), strict=True):
        weight = cast(nn.EmbeddingBag, theirs.embedding_bags[table.name]).weight
        ours.embedding_bags[table.name] = holders[lowered.tables[0].name]
        if not weight.is_meta:  # rows lie side by side, also where several fill a physical one
            own = cast(Tensor, holders[lowered.tables[0].name].weight)
            own.detach().view(-1)[: weight.numel()].copy_(weight.detach().view(-1))
    return ours


def find_files(checkout: Path) -> tuple[list[str], list[str]]:
    """The files of tests that make a collection: in ``FOLDERS``, and elsewhere."""
    inside: list[str] = []
    outside: list[str] = []
    for path in sorted(checkout.glob("torchrec/**/test_*.py")):
        if re.search(rf"\b{CLASS}\(", path.read_text()):
            file = path.relative_to(checkout).as_posix()
            (inside if file.startswith(tuple(f + "/" for f in FOLDERS)) else outside).append(file)
    if not inside:
        raise ValueError(
            f"{checkout} has no test_*.py that makes an {CLASS} in {', '.join(FOLDERS)}; "
            "give the folder of a torchrec checkout"
        )
    return inside, outside


def run_suite(checkout: Path) -> Suite:
    """Every test in ``FOLDERS`` that makes a collection."""
    files, left_out = find_files(checkout)
    missing: dict[str, str] = {}
    skipped: dict[str, str] = {}
    outcomes: list[Outcome] = []
    for package in (torchrec, torchrec.distributed, torchrec.distributed.test_utils):
        folder = checkout / Path(*package.__name__.split("."))
        package.__path__.append(str(folder))  # helpers of tests that the wheel leaves out
    for file in files:
        try:
            module = _load(checkout / file)
        except (ImportError, OSError) as error:
            missing[file] = f"{type(error).__name__}: {error}"
            continue
        if hasattr(module, CLASS):
            outcomes += _outcomes(module, file, skipped)
    version = checkout / "version.txt"
    return Suite(
        checkout=version.read_text().strip() if version.is_file() else "unknown",
        commit=commit_of(checkout),
        versions=library_versions(),
        missing=missing,
        left_out=tuple(left_out),
        skipped=skipped,
        outcomes=tuple(outcomes),
    )


def _outcomes(module: ModuleType, file: str, skipped: dict[str, str]) -> Iterator[Outcome]:
    for case in _cases(unittest.defaultTestLoader.loadTestsFromModule(module)):
        name = case.id().split(".", 1)[1]
        made, (theirs, reason) = _with(module, EmbeddingBagCollection, case)
        if theirs == "skipped":
            skipped[f"{file}::{name}"] = reason
        if theirs == "skipped" or not made:
            continue
        _, (ours, error) = _with(module, substitute, case)
        yield Outcome(file=file, test=name, torchrec=theirs, compactrec=ours, error=error)


def _with(
    module: ModuleType, make: Callable[..., nn.Module], case: unittest.TestCase
) -> tuple[int, tuple[Verdict, str]]:
    """How many collections the test made, and how it ended, with ``make`` for the class."""
    made = 0

    def counted(
        tables: list[EmbeddingBagConfig],
        is_weighted: bool = False,
        device: torch.device | None = None,
    ) -> nn.Module:
        nonlocal made
        made += 1
        return make(tables, is_weighted, device)

    setattr(module, CLASS, counted)
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case.run(result)  # the same one: Hypothesis refuses a second instance
    setattr(module, CLASS, EmbeddingBagCollection)
    if result.skipped:
        return made, ("skipped", result.skipped[0][1])
    broken = [*result.errors, *result.failures]
    return made, (("failed", _last_line(broken[0][1])) if broken else ("passed", ""))


def _last_line(trace: str) -> str:
    """The line of a traceback that names the error."""
    lines = [line for line in trace.splitlines() if line.strip()]
    named = [line for line in lines if line[0] not in " \t" and "Error" in line.split(":")[0]]
    return (named or lines or [""])[-1 if not named else 0][:300]


def _cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from _cases(item)
        else:
            yield item


def _load(path: Path) -> ModuleType:
    """The module in a file, whose imports are of what is installed."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file; give the folder of a torchrec checkout")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Run, print and, with ``--out``, write the outcome."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of a torchrec checkout")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    suite = run_suite(args.checkout)
    for outcome in suite.outcomes:
        print(f"{outcome.torchrec:8s} {outcome.compactrec:8s} {outcome.test}  {outcome.error}")
    for file, reason in suite.missing.items():
        print(f"not loaded: {file}: {reason}")
    print(f"skipped: {len(suite.skipped)}; files elsewhere: {len(suite.left_out)}")
    both = Counter((o.torchrec, o.compactrec) for o in suite.outcomes)
    print("torchrec, compactrec:", dict(both))
    if args.out is not None:
        text = json.dumps(suite.model_dump(mode="json"), indent=1)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
