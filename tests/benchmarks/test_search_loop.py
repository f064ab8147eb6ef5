"""The search loop in its steps: the penalty, the validation rows, what a phase keeps, the start."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from compactrec.benchmarks.metrics import Metrics
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.search import search
from compactrec.benchmarks.search_config import SearchConfig, search_config
from compactrec.benchmarks.search_loop import SearchLoop
from compactrec.benchmarks.search_state import SearchLoaders
from compactrec.benchmarks.start import load_start
from compactrec.data.batch import Batch
from compactrec.data.loader import BatchLoader
from compactrec.embeddings import load_plan
from compactrec.embeddings.placing import logical_table
from compactrec.embeddings.search import Phase, SearchTask
from compactrec.embeddings.search import base as search_base
from tests.benchmarks.folder import DENSE, ROWS, SIZES
from tests.benchmarks.toy_search import TOY, ToySupernet, base_config

STEPS = -(-ROWS["train"] // 64)
VALIDATION_STEPS = -(-ROWS["validation"] // 64)

State = dict[str, Tensor]
Keep = Literal["best", "last"]


pytestmark = pytest.mark.usefixtures("toy")


def state_of(loop: SearchLoop) -> State:
    return {name: tensor.clone() for name, tensor in loop._model.state_dict().items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("architecture", ["train", "validation", "off"])
def test_the_penalty_moves_the_architecture_of_a_joint_phase_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """The gates of a feature that is not searched get nothing but the penalty's gradient."""
    gates: list[Tensor] = []
    gradients: list[Tensor | None] = []
    real = ToySupernet.after_step

    def noting(self: ToySupernet, phase: Phase) -> None:
        real(self, phase)
        if phase.name == "gates":
            gate = self.gates.gate
            gates.append(gate.detach()[1].clone())
            gradients.append(None if gate.grad is None else gate.grad[1].clone())

    monkeypatch.setattr(ToySupernet, "after_step", noting)
    options = {"architecture": architecture, "epochs": 1}
    search(search_config("toy", options, (6_000,), base_config(data, tmp_path / "s")))
    assert len(gates) == STEPS
    if architecture == "train":
        torch.testing.assert_close(gates[0], torch.full((8,), 0.95))  # one step of Adam
        for gradient in gradients:
            torch.testing.assert_close(gradient, torch.full((8,), 1e-3))
    else:
        assert all(torch.equal(gate, torch.ones(8)) for gate in gates)


def rows_of(batch: Batch) -> list[tuple[float, ...]]:
    """The examples, as something to count."""
    return [tuple(row) for row in batch.dense.tolist()]


def test_validation_rows_come_in_another_order_every_time(data: Path, tmp_path: Path) -> None:
    config = base_config(data, tmp_path / "s")
    in_file = [
        row
        for batch in BatchLoader(data, "validation", 64, shuffle=False)
        for row in rows_of(batch)
    ]
    loaders = SearchLoaders(config)
    passes = []
    for _ in range(2):
        batches = [loaders.next_validation() for _ in range(VALIDATION_STEPS)]
        passes.append([row for batch in batches for row in rows_of(batch)])
    assert all(Counter(rows) == Counter(in_file) for rows in passes), "every row once a pass"
    assert passes[0] != in_file
    assert passes[1] not in (in_file, passes[0])
    again = SearchLoaders(config)
    assert rows_of(again.next_validation()) == passes[0][:64]
    other = SearchLoaders(base_config(data, tmp_path / "s", seed=7))
    assert rows_of(other.next_validation()) != passes[0][:64]


def script(monkeypatch: pytest.MonkeyPatch, aucs: list[float]) -> list[State]:
    """Validations whose AUC is as written; gives the state of the model at each."""
    states: list[State] = []
    real = SearchLoop._evaluate

    def scripted(self: SearchLoop) -> Metrics:
        states.append(state_of(self))
        return real(self).model_copy(update={"auc": aucs[len(states) - 1]})

    monkeypatch.setattr(SearchLoop, "_evaluate", scripted)
    return states


def keeping(*keeps: Keep) -> Callable[[SearchTask], ToySupernet]:
    """The toy, whose phases keep what they are told to."""

    def build(task: SearchTask) -> ToySupernet:
        supernet = ToySupernet(task)
        supernet.phases = tuple(
            replace(phase, keep=keep) for phase, keep in zip(supernet.phases, keeps, strict=True)
        )
        return supernet

    return build


@pytest.mark.parametrize(
    ("keeps", "kept"),
    [
        (("best", "last"), (1, 5)),
        (("last", "best"), (2, 4)),
        (("last", "last"), (2, 5)),
        (("best", "best"), (1, 4)),
    ],
)
def test_a_phase_keeps_its_best_or_its_last_weights(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keeps: tuple[Keep, Keep],
    kept: tuple[int, int],
) -> None:
    """The best of the second phase is below that of the first, which does not count any more."""
    states = script(monkeypatch, [0.6, 0.8, 0.7, 0.5, 0.65, 0.55])
    ended: list[State] = []
    real = SearchLoop._end_phase

    def noting(self: SearchLoop, phase: Phase) -> None:
        real(self, phase)
        ended.append(state_of(self))

    monkeypatch.setattr(SearchLoop, "_end_phase", noting)
    monkeypatch.setitem(search_base._SEARCHES, "toy", replace(TOY, supernet=keeping(*keeps)))
    base = base_config(data, tmp_path / "s", evals_per_epoch=3)
    search(search_config("toy", {"epochs": 1}, (6_000,), base))
    assert len(states) == 6
    assert not any(same(states[i], states[i + 1]) for i in range(5))
    found = [[i for i, state in enumerate(states) if same(state, end)] for end in ended]
    assert found == [[kept[0]], [kept[1]]]


@pytest.mark.parametrize(("patience", "validations"), [(None, 8), (1, 3), (2, 6)])
def test_the_patience_of_a_search_ends_its_training(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patience: int | None,
    validations: int,
) -> None:
    script(monkeypatch, [0.6, 0.7, 0.65, 0.8, 0.75, 0.8, 0.7, 0.6])
    options = {"epochs": 2, "patience": patience, "generations": 2, "retrain": "fresh"}
    result = search(search_config("optembed", options, (), base_config(data, tmp_path / "s")))
    assert [entry.phase for entry in result.history] == ["supernet"] * validations


def first_state(monkeypatch: pytest.MonkeyPatch) -> State:
    """The model's state before the first step, once a search has run; tables by feature."""
    first: State = {}
    real = SearchLoop.run

    def noting(self: SearchLoop) -> None:
        supernet = self._supernet
        first.update({k: t for k, t in state_of(self).items() if not k.startswith("embeddings.")})
        first.update({k: t.clone() for k, t in supernet.raw_tables().items()})
        real(self)
        for name, table in supernet.raw_tables().items():
            assert not torch.equal(table, first[name]), "training moved every table"

    monkeypatch.setattr(SearchLoop, "run", noting)
    return first


def num_kept(feature: str, notes: dict[str, Any]) -> int:
    """Values that the plan keeps of a table."""
    if feature == "C2":
        return SIZES[feature] * 8
    if "keep" in notes:
        return int(SIZES[feature] * notes["keep"])
    return int(notes["kept_rows"][feature] * notes["widths"][feature])


STARTS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("toy", {"retrain": "ticket", "epochs": 1}, ()),
    ("toy", {"retrain": "ticket", "epochs": 1}, (9_000, 5_000)),
    ("optembed", {"generations": 2, "train.table_learning_rate": 0.05}, (5_000,)),
]


@pytest.mark.parametrize(("name", "options", "budgets"), STARTS)
def test_a_start_from_the_beginning_is_the_untrained_supernet(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    budgets: tuple[int, ...],
) -> None:
    """To the last bit: rows and columns that the plan keeps, and the dense part."""
    first = first_state(monkeypatch)
    base = base_config(data, tmp_path / "s", seed=5)
    config: SearchConfig = search_config(name, options, budgets, base)
    out = config.train.out
    for found in search(config).found:
        start = load_file(str(out / (found.start or "")))
        dense = {k: t for k, t in start.items() if not k.startswith("embeddings.")}
        assert dense
        assert same(dense, {k: t for k, t in first.items() if k not in SIZES})
        plan = load_plan(out / (found.plan or ""))
        model, (collection,) = build_model(config.train, plan, len(DENSE))
        load_start(model, out / (found.start or ""))
        for feature in SIZES:
            table = logical_table(collection, feature)  # type: ignore[arg-type]
            kept = table != 0
            assert torch.equal(table[kept], first[feature][kept])
            assert int(kept.sum()) == num_kept(feature, found.notes)


def test_another_seed_begins_with_other_tables(data: Path, tmp_path: Path) -> None:
    starts = []
    for seed in (1, 2):
        base = base_config(data, tmp_path / str(seed), seed=seed)
        config = search_config("toy", {"retrain": "ticket", "epochs": 1}, (), base)
        (found,) = search(config).found
        starts.append(load_file(str(config.train.out / (found.start or ""))))
    assert starts[0].keys() == starts[1].keys()
    moved = [k for k in starts[0] if k.endswith("weight")]
    assert any(k.startswith("embeddings.") for k in moved)
    assert not any(torch.equal(starts[0][k], starts[1][k]) for k in moved)
