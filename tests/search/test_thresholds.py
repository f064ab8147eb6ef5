"""OptEmbed's thresholds: their gradient, their options, and what is judged under a budget."""

import pytest
import torch
from torch import Tensor

from compactrec.embeddings.search import Trained
from compactrec.embeddings.search.optembed import OptEmbedSupernet, derive_optembed
from compactrec.embeddings.thresholded import Thresholded
from tests.reference import thresholded
from tests.search.support import DIM, SEARCHED, make_task, no_rows

BUDGET = 1_900


def supernet(**options: object) -> OptEmbedSupernet:
    torch.manual_seed(0)
    options = {"generations": 3, **options}
    return OptEmbedSupernet(make_task("optembed", **options))  # type: ignore[arg-type]


def test_a_threshold_gets_the_sum_of_its_rows_gradients() -> None:
    """Rows on all pieces of the surrogate, on both sides of the threshold."""
    gate = Thresholded(norm=1)
    with torch.no_grad():
        gate.threshold.fill_(2.0)
    torch.manual_seed(0)
    distances = torch.tensor([-1.6, -0.7, -0.3, -0.1, 0.1, 0.3, 0.7, 1.6])
    rows = torch.randn(len(distances), 5)
    rows *= ((2.0 + distances) / rows.abs().sum(1))[:, None]
    upstream = torch.randn(rows.shape)
    weights = torch.ones(len(rows), 1)
    (gate([rows, weights]) * upstream).sum().backward()
    each = [
        thresholded.threshold_gradient(row, 2.0, above)
        for row, above in zip(rows.tolist(), upstream.tolist(), strict=True)
    ]
    assert sum(gradient != 0 for gradient in each) == 6
    assert gate.threshold.grad is not None
    assert float(gate.threshold.grad) == pytest.approx(sum(each), rel=1e-5)


def test_thresholds_step_by_their_own_rate() -> None:
    net = supernet(threshold_learning_rate=0.25, alpha=0.5)
    optimizer = net.architecture_optimizer()
    assert optimizer is not None
    penalty = net.penalty()
    assert isinstance(penalty, Tensor)
    penalty.backward()
    optimizer.step()
    for threshold in net.architecture_parameters():
        assert float(threshold.detach()) == pytest.approx(0.25 * 0.5)


@pytest.mark.parametrize("norm", [1, 2])
def test_rows_are_compared_by_the_norm_that_was_asked_for(norm: int) -> None:
    """One row is the larger by the sum of its values, another by its length."""
    net = supernet(norm=norm).eval()
    flat, peaked = torch.full((DIM,), 0.25), torch.zeros(DIM)
    peaked[0] = 1.0  # norms 2.0 and 0.7, against 1 and 1
    state = net.collection.tables.state_dict()
    for threshold in net.architecture_parameters():
        with torch.no_grad():
            threshold.fill_(1.5 if norm == 1 else 0.9)
    for name in SEARCHED:
        weight = state[f"embedding_bags.t_{name}__id.weight"]
        with torch.no_grad():
            weight[0, :DIM], weight[1, :DIM] = flat, peaked
    for name, margin in net.margins().items():
        kept = [True, False] if norm == 1 else [False, True]
        assert (margin[:2] > 0).tolist() == kept
        assert (net.effective_tables()[name][:2].abs().sum(1) > 0).tolist() == kept


def test_patience_and_epochs_reach_the_phase() -> None:
    (phase,) = supernet(patience=3, epochs=7).phases
    assert (phase.patience, phase.epochs) == (3, 7)
    (phase,) = supernet().phases
    assert phase.patience is None


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_candidates_are_judged_without_the_rows_that_the_plan_drops(threshold: float) -> None:
    """Where rows must leave room for ``least_dim`` columns, widths are judged on those that do."""
    net = supernet(least_dim=6).eval()
    with torch.no_grad():
        for parameter in net.architecture_parameters():
            parameter.fill_(threshold)
    seen: list[dict[str, list[bool]]] = []

    def fitness(masks: Tensor) -> Tensor:
        tables = net.effective_tables()
        seen.append({n: (tables[n] != 0).any(1).tolist() for n in SEARCHED})
        return masks.sum((1, 2)).double()

    margins = net.margins()
    trained = Trained(net.task, net, net.raw_tables(), fitness, no_rows)  # type: ignore[arg-type]
    derived = derive_optembed(trained, BUDGET)
    cut = derived.notes["cut"]
    assert isinstance(cut, float)
    assert cut > 0
    kept = {n: (margin > cut).tolist() for n, margin in margins.items()}
    assert {n: sum(rows) for n, rows in kept.items()} == derived.notes["kept_rows"]
    assert sum(map(sum, kept.values())) < sum(int((m > 0).sum()) for m in margins.values())
    assert seen
    assert all(rows == kept for rows in seen)
