"""Who gets a gradient from which rows, and who moves when: looked at inside the search loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactrec.benchmarks import search_state
from compactrec.benchmarks.optimizers import Optimizers
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import search_config
from compactrec.benchmarks.search_loop import SearchLoop
from compactrec.benchmarks.train import train
from compactrec.data.loader import BatchLoader
from compactrec.embeddings.search import search_names
from tests.benchmarks.folder import ROWS, write_folder
from tests.benchmarks.toy_search import base_config

STEPS = -(-ROWS["train"] // 64)
BILEVEL = [
    ("toy", {}, ("warm", "gates")),
    ("toy", {"weights": "tables"}, ("warm", "gates")),
    ("dnis", {}, ("warm start", "search")),
    ("dnis", {"search_weights": "all", "second_order": True}, ("warm start", "search")),
    ("autodim", {"warm_epochs": 1}, ("warm start", "search")),
]
"""Searches whose architecture moves on validation rows, and their phases."""
each_bilevel = pytest.mark.parametrize(("name", "options", "phases"), BILEVEL, ids=str)


pytestmark = pytest.mark.usefixtures("toy")


class Watch:
    """Every gradient that a loop's backward passes leave on a parameter, as it arrives."""

    def __init__(self) -> None:
        self.phase = ""
        self.rows = "none yet"
        """The split whose loss went backward last."""
        self.seen: dict[tuple[str, str, str], int] = {}
        """Gradients by phase, split and kind of parameter: ``architecture`` or ``weight``."""
        self.opened: list[Any] = []
        """Validation batches that the loop asked for; kept, so that no other is at their place."""

    def watch(self, parameter: nn.Parameter, kind: str) -> None:
        def arrived(_: Tensor) -> None:
            key = (self.phase, self.rows, kind)
            self.seen[key] = self.seen.get(key, 0) + 1

        parameter.register_post_accumulate_grad_hook(arrived)

    def backward_of(self, rows: str) -> None:
        self.rows = rows

    def count(self, phase: str, rows: str, kind: str) -> int:
        return self.seen.get((phase, rows, kind), 0)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Listens to whatever loop is made."""
    it = Watch()
    begin, step, loss = SearchLoop.__init__, SearchLoop._step, SearchLoop._loss
    following = search_state.SearchLoaders.next_validation

    def noting_init(self: SearchLoop, *arguments: Any) -> None:
        begin(self, *arguments)
        for kind, some in (("architecture", self._architecture), ("weight", self._weights)):
            for parameter in some:
                if parameter.requires_grad:
                    it.watch(parameter, kind)

    def noting_step(self: SearchLoop, phase: Any, *arguments: Any) -> None:
        it.phase = phase.name
        step(self, phase, *arguments)

    def noting_loss(self: SearchLoop, batch: Any) -> Tensor:
        rows = "validation" if any(batch is b for b in it.opened) else "train"
        found = loss(self, batch)
        if found.requires_grad:
            found.register_hook(lambda _: it.backward_of(rows))
        return found

    def noting_next(self: search_state.SearchLoaders) -> Any:
        it.opened.append(following(self))
        return it.opened[-1]

    monkeypatch.setattr(SearchLoop, "__init__", noting_init)
    monkeypatch.setattr(SearchLoop, "_step", noting_step)
    monkeypatch.setattr(SearchLoop, "_loss", noting_loss)
    monkeypatch.setattr(search_state.SearchLoaders, "next_validation", noting_next)
    return it


@each_bilevel
def test_training_rows_are_for_weights_and_validation_rows_for_the_architecture(
    data: Path, tmp_path: Path, watch: Watch, name: str, options: Any, phases: tuple[str, str]
) -> None:
    """The architecture's gradient is taken aside, so ``backward`` leaves none on it at all."""
    search(search_config(name, options, (6_000,), base_config(data, tmp_path / "s")))
    assert {key[0] for key in watch.seen} == set(phases)
    for phase in phases:
        assert watch.count(phase, "train", "weight") >= STEPS
        assert watch.count(phase, "train", "architecture") == 0
        assert watch.count(phase, "validation", "weight") == 0
    assert len(watch.opened) >= STEPS


def test_a_phase_on_training_rows_gives_both_a_gradient(
    data: Path, tmp_path: Path, watch: Watch
) -> None:
    """So the watch does see what the test above says is not there."""
    options = {"architecture": "train", "epochs": 1}
    search(search_config("toy", options, (6_000,), base_config(data, tmp_path / "s")))
    assert watch.count("warm", "train", "architecture") == 0
    assert watch.count("gates", "train", "architecture") == STEPS
    assert watch.count("gates", "train", "weight") >= STEPS
    assert not watch.opened


@each_bilevel
def test_an_architecture_step_moves_no_weight(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: Any,
    phases: tuple[str, str],
) -> None:
    """Bit by bit, and a weight step moves no architecture."""
    by_architecture, by_weights, steps = [], [], [0, 0]
    architecture_step, weight_step = SearchLoop._architecture_step, Optimizers.step
    loops: list[SearchLoop] = []

    def copies(some: list[nn.Parameter]) -> list[Tensor]:
        return [p.detach().clone() for p in some]

    def moved(some: list[nn.Parameter], before: list[Tensor]) -> int:
        return sum(not torch.equal(p, b) for p, b in zip(some, before, strict=True))

    def noting_architecture_step(self: SearchLoop, batch: Any) -> None:
        before, own = copies(self._weights), copies(self._architecture)
        architecture_step(self, batch)
        by_architecture.append(moved(self._weights, before))
        steps[0] += moved(self._architecture, own) > 0

    def noting_weight_step(self: Optimizers) -> None:
        before, own = copies(loops[-1]._architecture), copies(loops[-1]._weights)
        weight_step(self)
        by_weights.append(moved(loops[-1]._architecture, before))
        steps[1] += moved(loops[-1]._weights, own) > 0

    run = SearchLoop.run
    monkeypatch.setattr(SearchLoop, "run", lambda self: (loops.append(self), run(self))[1])
    monkeypatch.setattr(SearchLoop, "_architecture_step", noting_architecture_step)
    monkeypatch.setattr(Optimizers, "step", noting_weight_step)
    search(search_config(name, options, (6_000,), base_config(data, tmp_path / "s")))
    assert len(by_architecture) >= STEPS
    assert not any(by_architecture)
    assert not any(by_weights)
    assert steps == [len(by_architecture), len(by_weights)], "every step does move its own"


# Test rows


class Opened:
    """The splits that were opened, each with the number of weight steps before it."""

    def __init__(self) -> None:
        self.splits: list[tuple[str, int]] = []
        self.steps = 0

    def of(self, split: str) -> list[int]:
        return [steps for name, steps in self.splits if name == split]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Listens to every loader, whoever makes or reads it."""
    it = Opened()
    make, read, step = BatchLoader.__init__, BatchLoader.__iter__, Optimizers.step

    def noting_make(
        self: BatchLoader, folder: Path, split: str, *arguments: Any, **options: Any
    ) -> None:
        it.splits.append((split, it.steps))
        make(self, folder, split, *arguments, **options)

    def noting_read(self: BatchLoader) -> Any:
        if self.split == "test":
            it.splits.append(("read test", it.steps))
        return read(self)

    def noting_step(self: Optimizers) -> None:
        it.steps += 1
        step(self)

    monkeypatch.setattr(BatchLoader, "__init__", noting_make)
    monkeypatch.setattr(BatchLoader, "__iter__", noting_read)
    monkeypatch.setattr(Optimizers, "step", noting_step)
    return it


SMALL: dict[str, dict[str, Any]] = {
    "autodim": {"epochs": 2, "patience": 1},
    "dnis": {"search_epochs": 2, "patience": 1},
    "ihas": {"cluster_rows": 500},
    "magnitude": {"epochs": 2, "patience": 1},
    "optembed": {"epochs": 2, "patience": 1, "generations": 2, "size_weight": 0.1},
    "pep": {"epochs": 2, "patience": 1},
}
"""Small searches, that stop early where they can."""


@pytest.mark.parametrize("name", search_names())
def test_no_search_and_no_early_stop_opens_the_test_split(
    tmp_path: Path, opened: Opened, name: str
) -> None:
    """Its file is not even there. The plan is then trained, and the split is opened at the end."""
    data = write_folder(tmp_path / "data")
    file = data / "test" / "00000.parquet"
    hidden = file.rename(tmp_path / "hidden.parquet")
    base = base_config(data, tmp_path / "s", evals_per_epoch=4)
    result = search(search_config(name, SMALL.get(name, {}), (7_000,), base))
    assert {split for split, _ in opened.splits} == {"train", "validation"}
    assert opened.steps >= STEPS // 4
    (found,) = result.found
    assert found.plan is not None, found.reason

    hidden.rename(file)
    opened.splits.clear()
    opened.steps = 0
    start = None if found.start is None else base.out / found.start
    again = train(base_config(
        data, tmp_path / "run", method=None, plan=base.out / found.plan, start=start, epochs=3,
        patience=1, evals_per_epoch=4, table_learning_rate=0.5,
    ))  # fmt: skip
    assert again.num_steps == opened.steps
    assert opened.of("test") == [opened.steps], "once, after the last step"
    assert opened.of("read test") == [opened.steps]
    assert len(again.history) > 1
