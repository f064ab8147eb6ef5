"""What a decay does to rows that no batch holds, and that a lazy decay can be saved and gone on."""

from pathlib import Path

import pytest
import torch

from compactrec.embeddings import Feature, FullConfig, Group, Plan
from tests.benchmarks.snapshots import put_back, save
from tests.benchmarks.test_decay import KINDS, LAZY, MODES, build, run, settings, weights
from tests.contract.support import Batch

SEEN, UNSEEN = (0, 1, 2), (3, 4, 5)
FEATURES = tuple(Feature(name=n, num_ids=6, dim=d) for n, d in (("a", 4), ("b", 8), ("c", 4)))
PLAN = Plan(FEATURES, tuple(Group((f.name,), FullConfig()) for f in FEATURES))
BATCH = Batch({f.name: [[i] for i in SEEN] for f in FEATURES}, None)
START = 5e-4


class Toy:
    """Rows that all start at 5e-4, half of them in every batch and half in none."""

    def __init__(self, engine: str, optimizer: str, mode: str, rate: float, decay: float) -> None:
        config = settings(
            engine, optimizer, mode, table_learning_rate=rate, table_decay=decay, schedule={},
            table_eps=1e-8,
        )  # fmt: skip
        self.collection, self.optimizers = build(config, PLAN)
        with torch.no_grad():
            for weight in self.collection.state_dict().values():
                if weight.is_floating_point():
                    weight.fill_(START)
        self.number = 0

    def steps(self, count: int) -> torch.Tensor:
        """All values of unseen rows after so many more steps."""
        kjt = BATCH.kjt()
        for _ in range(count):
            self.number += 1
            self.optimizers.set_rates(self.number)
            self.optimizers.zero_grad()
            self.collection(kjt).values().sum().backward()
            self.optimizers.step()
        found = [w[list(UNSEEN)].flatten() for w in weights(self.collection).values()]
        return torch.cat(found).double()


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "decay", "steps"), [(3e-5, 1e-3, 10_000), (3e-4, 1e-5, 2_000)])
def test_under_dense_adam_unseen_rows_die(rate: float, decay: float, steps: int) -> None:
    """Adam scales the tiny gradient of the decay to a step of the whole rate."""
    toy = Toy("eager", "adam", "dense_coupled", rate, decay)
    assert float(toy.steps(200).abs().max()) < 1e-5
    assert float(toy.steps(steps - 200).abs().max()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "rate", "decay", "steps"),
    [
        ("sgd", 0.01, 2.0, 1_000),
        ("adagrad", 3e-4, 1e-5, 1_000),
        ("rowwise_adagrad", 3e-4, 1e-5, 10_000),
    ],
)
def test_under_fused_dense_decay_unseen_rows_die(
    optimizer: str, rate: float, decay: float, steps: int
) -> None:
    """SGD shrinks them by the decay alone; Adagrad scales its gradient up, as Adam does."""
    toy = Toy("fused", optimizer, "dense_coupled", rate, decay)
    assert float(toy.steps(steps).abs().max()) < 1e-9


LONG = [("eager", "adam"), ("fused", "rowwise_adagrad"), ("fbgemm", "sgd")]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "optimizer"), [*KINDS, *LAZY])
def test_under_touched_rows_unseen_rows_live(engine: str, optimizer: str) -> None:
    """With a decay that would kill them, see above: 10,000 steps of each engine, some of others."""
    decay = 0.2 if optimizer == "sgd" else 1e-3
    rate = 0.01 if optimizer == "sgd" else 3e-4
    toy = Toy(engine, optimizer, "touched_rows", rate, decay)
    steps = 10_000 if (engine, optimizer) in LONG else 500
    assert torch.equal(toy.steps(steps), torch.full((48,), START).float().double())


@pytest.mark.slow
def test_under_decoupled_adam_unseen_rows_shrink_by_the_decay_alone() -> None:
    toy = Toy("eager", "adam", "dense_decoupled", 1e-3, 0.1)
    expected = torch.full((48,), START * (1 - 1e-4) ** 2_000, dtype=torch.float64)
    torch.testing.assert_close(toy.steps(2_000), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("optimizer", "mode"),
    [
        ("sgd", "dense_coupled"),
        ("sgd", "dense_decoupled"),
        ("adagrad", "dense_decoupled"),
        ("rowwise_adagrad", "dense_decoupled"),
    ],
)
def test_what_fused_rows_missed_is_made_up_in_closed_form(optimizer: str, mode: str) -> None:
    toy = Toy("fused", optimizer, mode, 0.01, 0.2)
    expected = torch.full((48,), START * (1 - 0.002) ** 2_000, dtype=torch.float64)
    torch.testing.assert_close(toy.steps(2_000), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("optimizer", ["adagrad", "rowwise_adagrad"])
def test_fused_adagrad_kills_unseen_rows_like_a_dense_pass(optimizer: str) -> None:
    """No closed form: the accumulator takes the decay's square in every step."""
    rate, decay = 0.02, 0.5
    value = torch.full((), START, dtype=torch.float64)
    state = torch.zeros((), dtype=torch.float64)
    for _ in range(700):
        gradient = decay * value
        state += gradient**2
        value -= rate * gradient / (state.sqrt() + 1e-8)
    toy = Toy("fused", optimizer, "dense_coupled", rate, decay)
    torch.testing.assert_close(toy.steps(700), value.expand(48), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("engine", "optimizer", "mode"),
    [
        *((*kind, mode) for kind in KINDS for mode in MODES),
        *((*kind, "touched_rows") for kind in LAZY),
    ],
)
def test_a_run_goes_on_bit_by_bit(tmp_path: Path, engine: str, optimizer: str, mode: str) -> None:
    """Saving leaves no trace, and what rows have missed is in what is saved."""
    config = settings(engine, optimizer, mode)

    whole, optimizers = build(config)
    run(whole, optimizers, range(1, 41))
    first, optimizers = build(config)
    run(first, optimizers, range(1, 21))
    save(tmp_path / "c", first, optimizers)
    run(first, optimizers, range(21, 41))
    second, optimizers = build(config)
    put_back(tmp_path / "c", second, optimizers)
    run(second, optimizers, range(21, 41))
    for other in (first, second):
        found = weights(other)
        assert all(torch.equal(found[key], value) for key, value in weights(whole).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"engine": "fused", "table_optimizer": "adam", "kernel": "fbgemm"},
            "engine 'fused' has 'adam' with kernel 'numba' on device 'cpu' alone",
        ),
        (
            {"engine": "fused", "table_optimizer": "adam", "device": "cuda"},
            "got kernel 'auto' and device 'cuda'; use these, engine 'eager'",
        ),
        (
            {"table_optimizer": "adam", "decay_mode": "dense_coupled"},
            "'dense_coupled' 'adam' moves every row in every step, which engine 'fused' does not",
        ),
        ({"engine": "eager", "table_optimizer": "rowwise_adagrad"}, "has no 'rowwise_adagrad'"),
        ({"engine": "fused", "table_optimizer": "lamb"}, "engine 'fused' has no 'lamb': no kernel"),
        (
            {"engine": "sharded", "table_optimizer": "amsgrad"},
            "'amsgrad': .* use engine 'eager', o",
        ),
        (
            {"engine": "eager", "table_optimizer": "lamb", "decay_mode": "dense_decoupled"},
            "'dense_decoupled' 'lamb' would move a row that no batch holds .* use decay_mode 'tou",
        ),
        ({"table_learning_rate": 0.5, "table_decay": 2.0}, "must be below 1, or a step takes more"),
        ({"decay_mode": "sparse"}, "dense_coupled"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    values = {"data": Path(), "out": Path(), "method": "full", **changes}
    from compactrec.benchmarks.config import TrainConfig

    with pytest.raises(ValueError, match=message):
        TrainConfig.model_validate(values)
